"""The figure of both axes: site removal across, biology kept upwards, and the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reports.drawing import GRAY, Drawn, NoFigure, colors, new_figure, short
from reports.results import Results
from reports.scores import BIOLOGY, SITE, RowScores, Scores, score_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Harmonic means whose lines are drawn."""

CAPTION = (
    "Right is less of the site left, up is more of the biology kept, both between the anchors at 0 "
    "and 1; whiskers are 95 % intervals, controls gray and hollow. The line is the Pareto front of "
    "what does not see the truth; thin curves join equal harmonic means."
)


def pareto_figure(results: Results) -> list[Drawn]:
    """Return the figure of both axes.

    Raises
    ------
    NoFigure
        Where an axis has no scored metric.
    """
    scores = score_run(results)
    rows = [each for each in scores.rows if len(each.axes) == 2]
    if not rows:
        axes = {a.axis for a in scores.scored}
        missing = [axis for axis in (SITE, BIOLOGY) if axis not in axes]
        raise NoFigure(
            f"no metric of {' and '.join(missing)} is scored" if missing else "no row has both axes"
        )
    figure = new_figure(5.2, 4.8)
    panel = figure.subplots()
    _levels(panel, scores.weights)
    _front(panel, scores)
    methods = [each.row.title for each in rows if not each.row.control]
    looks = colors(methods)
    for each in rows:
        _point(panel, each, looks.get(each.row.title, (GRAY, "o")))
    _label(panel, rows)
    panel.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")
    panel.set(xlabel="site removal (0 identity, 1 best)", ylabel="biology kept (0 worst, 1 best)")
    return [Drawn("pareto", "Site removal against biology kept", CAPTION, figure)]


def _levels(panel: Axes, weights: tuple[float, float]) -> None:
    site = np.linspace(0.01, 1.0, 200)
    for level in LEVELS:
        rest = sum(weights) / level - weights[0] / site
        biology = np.where(rest > 0, weights[1] / np.where(rest > 0, rest, 1.0), np.nan)
        panel.plot(site, np.where(biology <= 1, biology, np.nan), color="0.88", lw=0.8, zorder=0)
        panel.text(1.01, biology[-1], f"{level:g}", fontsize=6, color="0.6", va="center")


def _front(panel: Axes, scores: Scores) -> None:
    """Draw the front as stairs: below and left of them everything is beaten."""
    on = [r for r in scores.rows if scores.pareto.get((r.row.label, r.row.seed), (False, 0))[0]]
    points = sorted((r.axes[SITE].value, r.axes[BIOLOGY].value) for r in on)
    if points:
        x, y = np.array([(0.0, points[0][1]), *points, (points[-1][0], 0.0)]).T
        panel.step(x, y, where="pre", color="0.55", lw=1.0, ls="--", zorder=1)


def _point(panel: Axes, each: RowScores, look: tuple[str, str]) -> None:
    color, marker = look
    x, y = each.axes[SITE], each.axes[BIOLOGY]
    for (low, high), along in ((x.interval, True), (y.interval, False)):
        if np.isfinite(low) and np.isfinite(high):
            ends = ([low, high], [y.value] * 2) if along else ([x.value] * 2, [low, high])
            panel.plot(*ends, color=color, lw=1.0, alpha=0.6, zorder=2)
    face = "white" if each.row.control else color
    panel.plot(x.value, y.value, marker, ms=6, mec=color, mfc=face, zorder=3)


def _label(panel: Axes, rows: list[RowScores]) -> None:
    """Write the names beside the points, those of points that nearly coincide below each other."""
    at = np.array([[r.axes[SITE].value, r.axes[BIOLOGY].value] for r in rows])
    above: NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        above[i] = int((np.abs(at[:i] - at[i]).max(axis=1) < 0.04).sum())
    for each, (x, y), order in zip(rows, at, above, strict=True):
        right = x > 0.75
        panel.annotate(
            short(each.row.marked),
            (x, y),
            xytext=(-6 if right else 6, 4 - 9 * int(order)),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=7.5,
            color=GRAY if each.row.control else "black",
        )
