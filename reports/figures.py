"""All figures of a report, and those of the scores with their intervals.

Every drawing function takes a `Results` and returns its figures, or raises `NoFigure` with the
reason. Nothing here keeps any state of pyplot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmbench.store import write_atomic
from reports.drawing import GRAY, STYLE, Drawn, NoFigure, colors, panels, short
from reports.results import Results
from reports.tables import ARROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Saved:
    """A figure as files: ``figures/<name>.png`` and ``.pdf``."""

    name: str
    title: str
    caption: str
    png: Path


Draw = Callable[[Results], list[Drawn]]


def write_figures(results: Results, folder: Path) -> tuple[list[Saved], list[str]]:
    """Draw all figures that the run has the inputs of, as PNG (150 dpi) and PDF.

    Parameters
    ----------
    results : Results
        The run.
    folder : Path
        The run's ``figures``; figures of an earlier report that are not drawn now are removed.

    Returns
    -------
    saved : list of Saved
        In the order in which they are shown.
    left_out : list of str
        One sentence for each figure that could not be drawn.
    """
    import matplotlib

    from reports import diagnostics, pareto, pictures

    kinds: list[tuple[str, Draw]] = [
        ("Scores", score_panels),
        ("Site removal against biology kept", pareto.pareto_figure),
        ("Images before and after", pictures.slices),
        ("What each method changed", pictures.differences),
        ("Errors to the truth", pictures.errors),
        ("Intensity histograms", pictures.histograms),
        ("Site confusion", diagnostics.confusions),
        ("Age", diagnostics.age_scatters),
        ("Distances between subjects", diagnostics.distance_matrices),
    ]
    saved, left_out = [], []
    with matplotlib.rc_context(STYLE):
        for title, draw in kinds:
            try:
                drawn = draw(results)
            except NoFigure as reason:
                left_out.append(f"{title}: {reason}.")
                continue
            saved += [_save(each, folder) for each in drawn]
    _remove_others(folder, {each.name for each in saved})
    return saved, left_out


def _save(drawn: Drawn, folder: Path) -> Saved:
    drawn.figure.suptitle(drawn.title, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    # The layout is solved once, not once for every file.
    drawn.figure.draw_without_rendering()
    drawn.figure.set_layout_engine("none")
    png = folder / f"{drawn.name}.png"
    write_atomic(png, lambda path: drawn.figure.savefig(path, dpi=150))
    # A PDF names the moment it was made unless told not to.
    still: dict[str, Any] = {"CreationDate": None}
    pdf = folder / f"{drawn.name}.pdf"
    write_atomic(pdf, lambda path: drawn.figure.savefig(path, dpi=150, metadata=still))
    return Saved(drawn.name, drawn.title, drawn.caption, png)


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in sorted(folder.glob("*.p[nd][gf]")):
        if path.stem not in names:
            path.unlink()


# -- scores with intervals -----------------------------------------------------------------------


def score_panels(results: Results) -> list[Drawn]:
    """Return one figure an axis: a panel a metric, methods down, values with intervals across."""
    drawn = []
    for axis, metrics in results.axes():
        shown = [
            m for m in metrics if any(results.score(row, m["name"]).ok for row in results.rows)
        ]
        if not shown:
            continue
        floors = max(len(results.floors(m["name"])) for m in shown)
        height = 1.4 + 0.24 * len(results.rows) + 0.18 * floors
        figure, axes = panels(len(shown), 3, (3.6, height))
        for i, (panel, metric) in enumerate(zip(axes, shown, strict=True)):
            _dots(panel, results, metric, names=i % 3 == 0)
        caption = (
            "Dots are values, whiskers 95 % intervals, controls in gray and hollow; the green line "
            "is the target, dashed lines are floors: named values to hold the others against."
        )
        name = "scores-" + "".join(c if c.isalnum() else "-" for c in axis)
        drawn.append(Drawn(name, axis.capitalize(), caption, figure))
    if not drawn:
        raise NoFigure("no metric has a value")
    return drawn


def _dots(panel: Axes, results: Results, metric: dict[str, Any], *, names: bool) -> None:
    blue = colors(["method"])["method"][0]
    for y, row in enumerate(results.rows):
        score = results.score(row, metric["name"])
        color = GRAY if row.control else blue
        if not score.ok:
            panel.annotate(
                score.status,
                (0.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=7,
                color="0.55",
                style="italic",
            )
            continue
        if np.isfinite(score.low) and np.isfinite(score.high):
            panel.plot([score.low, score.high], [y, y], color=color, lw=1.6, solid_capstyle="butt")
        face = "white" if row.control else color
        panel.plot(score.value, y, "o", ms=5, mec=color, mfc=face, zorder=3)
    _lines(panel, results, metric)
    panel.set_ylim(len(results.rows) - 0.4, -0.6)
    labels = [short(row.marked, 26) for row in results.rows] if names else []
    panel.set_yticks(range(len(results.rows)), labels or [""] * len(results.rows))
    panel.set_title(f"{short(metric['label'], 30)} {ARROWS[metric['direction']]}", loc="left")
    panel.set_xlabel(metric["unit"])
    panel.grid(axis="x", color="0.9", lw=0.6)
    panel.set_axisbelow(True)
    panel.margins(x=0.08)


def _lines(panel: Axes, results: Results, metric: dict[str, Any]) -> None:
    low, high = results.target(metric["name"])
    if np.isfinite(low):
        green = colors(["", "", "target"])["target"][0]
        panel.axvspan(low, high, color=green, alpha=0.25, lw=0)
        panel.axvline((low + high) / 2, color=green, lw=1.2, label="target")
    styles = ["--", ":", "-.", (0, (1, 3))]
    for i, (name, value) in enumerate(results.floors(metric["name"]).items()):
        panel.axvline(value, color="0.35", lw=0.9, ls=styles[i % 4], label=short(name, 30))
    if panel.get_legend_handles_labels()[1]:
        from matplotlib.transforms import ScaledTranslation

        # Below the axis by the same inches, however many rows make the panel tall.
        figure = panel.get_figure()
        assert figure is not None
        below = panel.transAxes + ScaledTranslation(0, -0.4, figure.dpi_scale_trans)
        panel.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=below,
            handlelength=1.8,
            fontsize=7,
        )
