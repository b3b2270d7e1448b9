"""The figure of both axes: site removal across, biology kept up, and the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reports.drawing import GRAY, MARKERS, Drawn, NoFigure, colors, new_figure, short
from reports.results import Results
from reports.scores import BIOLOGY, SITE, RowScores, Scores, score_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Harmonic means whose lines are drawn."""
NEAR = 0.2
"""Points nearer than this on both axes form a crowd, which is drawn again, enlarged."""
CROWD = 3
MARKS = MARKERS + "X*p<>hd"
"""One for each control, because all controls are gray."""

CAPTION = (
    "Across: site removal; up: biology kept, both between the anchors at 0 and 1. Whiskers are "
    "95 % intervals; controls are gray and hollow. The dashed line is the Pareto front of the rows "
    "that do not see the truth; thin curves join equal harmonic means."
)
ENLARGED = " The right panel enlarges the framed part of the left one."


def pareto_figure(results: Results) -> list[Drawn]:
    """Return the figure of both axes.

    Raises
    ------
    NoFigure
        If an axis has no scored metric.
    """
    scores = score_run(results)
    rows = [each for each in scores.rows if len(each.axes) == 2]
    if not rows:
        axes = {a.axis for a in scores.scored}
        missing = [axis for axis in (SITE, BIOLOGY) if axis not in axes]
        raise NoFigure(
            f"no metric of {' and '.join(missing)} is scored" if missing else "no row has both axes"
        )
    crowd = _crowd(rows)
    figure = new_figure(8.2 if len(crowd) else 4.6, 5.0)
    views = list(figure.subplots(1, 2 if len(crowd) else 1, squeeze=False).flat)
    looks = _looks(rows)
    for view in views:
        _levels(view, scores.weights)
        _front(view, scores)
        for each in rows:
            _point(view, each, looks[each.row.title])
        view.set(xlabel="site removal (0 identity, 1 best)")
    views[0].set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")
    views[0].set_ylabel("biology kept (0 worst, 1 best)")
    if len(crowd):
        _enlarge(views[0], views[1], crowd)
    handles, labels = views[0].get_legend_handles_labels()
    columns = min(len(labels), 5 if len(crowd) else 3)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    title = "Site removal against biology kept"
    return [Drawn("pareto", title, CAPTION + (ENLARGED if len(crowd) else ""), figure)]


def _crowd(rows: list[RowScores]) -> NDArray[np.float64]:
    """Return the corners (2, 2) of the largest crowd with its whiskers; empty for none."""
    at = np.array([[r.axes[SITE].value, r.axes[BIOLOGY].value] for r in rows])
    near = (np.abs(at[:, None] - at[None]) < NEAR).all(-1)
    largest = near[int(near.sum(1).argmax())]
    if largest.sum() < CROWD:
        return np.zeros((0, 2))
    ends = [
        [(*each.axes[a].interval, each.axes[a].value) for a in (SITE, BIOLOGY)]
        for each, mine in zip(rows, largest, strict=True)
        if mine
    ]
    low, high = np.nanmin(ends, axis=(0, 2)), np.nanmax(ends, axis=(0, 2))
    room = 0.08 * np.maximum(high - low, 0.02)
    return np.stack([np.maximum(low - room, -0.05), np.minimum(high + room, 1.05)])


def _enlarge(whole: Axes, part: Axes, corners: NDArray[np.float64]) -> None:
    from matplotlib.patches import Rectangle

    part.set(xlim=corners[:, 0], ylim=corners[:, 1], box_aspect=1)
    width, height = corners[1] - corners[0]
    frame = Rectangle(tuple(corners[0]), width, height, fill=False, ec="0.3", lw=0.8, zorder=1)
    whole.add_patch(frame)
    for side in part.spines.values():
        side.set(visible=True, color="0.3")


def _looks(rows: list[RowScores]) -> dict[str, tuple[str, str]]:
    """Return color and marker of every row; all markers of methods, and of controls, differ."""
    methods = [each.row.title for each in rows if not each.row.control]
    controls = [each.row.title for each in rows if each.row.control]
    tints = colors(methods)
    looks = {t: (tints[t][0], MARKS[i % len(MARKS)]) for i, t in enumerate(methods)}
    return looks | {t: (GRAY, MARKS[i % len(MARKS)]) for i, t in enumerate(controls)}


def _levels(panel: Axes, weights: tuple[float, float]) -> None:
    site = np.linspace(0.01, 1.0, 200)
    for level in LEVELS:
        rest = sum(weights) / level - weights[0] / site
        biology = np.where(rest > 0, weights[1] / np.where(rest > 0, rest, 1.0), np.nan)
        panel.plot(site, np.where(biology <= 1, biology, np.nan), color="0.88", lw=0.8, zorder=0)
        panel.text(1.01, biology[-1], f"{level:g}", fontsize=6, color="0.6", va="center",
                   clip_on=True)  # fmt: skip


def _front(panel: Axes, scores: Scores) -> None:
    """Draw the front as steps; every point below and left of them is dominated."""
    on = [each for each in scores.rows if scores.on_front(each.row)]
    points = sorted((r.axes[SITE].value, r.axes[BIOLOGY].value) for r in on)
    if points:
        x, y = np.array([(0.0, points[0][1]), *points, (points[-1][0], 0.0)]).T
        panel.step(x, y, where="pre", color="0.55", lw=1.0, ls="--", zorder=1)


def _point(panel: Axes, each: RowScores, look: tuple[str, str]) -> None:
    color, marker = look
    x, y = each.axes[SITE], each.axes[BIOLOGY]
    for ends in ((x.interval, [y.value] * 2), ([x.value] * 2, y.interval)):
        if np.isfinite(ends).all():
            panel.plot(*ends, color=color, lw=1.0, alpha=0.6, zorder=2)
    face = "white" if each.row.control else color
    panel.plot(x.value, y.value, marker, ms=6.5, mec=color, mfc=face, zorder=3, ls="",
               label=short(each.row.marked))  # fmt: skip
