"""All figures of a report, and the figures of the values with their intervals.

Every drawing function takes a `Results` and returns its figures, or raises `NoFigure` with the
reason. The state of pyplot is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harmbench.files.atomic import write_atomic
from reports.attempts import attempt
from reports.drawing import GRAY, STYLE, Drawn, NoFigure, colors, first_column, panels, short
from reports.results import Results, Score
from reports.tables import ARROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PAGE_DPI = 150
PRINT_DPI = 300
PRINT = "print"
FAR = 3.0
"""Controls farther than this from the methods, in widths of the range of the methods, are drawn at
the edge with their value, so that the methods stay apart."""


class Saved(NamedTuple):
    """A figure as files: ``<name>.png`` for the page, ``<name>.pdf``, ``print/<name>.png``."""

    name: str
    title: str
    caption: str
    png: Path


def write_figures(results: Results, folder: Path) -> tuple[list[Saved], list[str]]:
    """Draw all figures that the run has the inputs of, as PNG (150 and 300 dpi) and PDF.

    Parameters
    ----------
    results : Results
        The run.
    folder : Path
        The folder ``figures`` of the report; figures of an earlier report that are not drawn now
        are removed.

    Returns
    -------
    saved : list of Saved
        The figures in the order in which they are shown.
    left_out : list of str
        One sentence for each figure that could not be drawn.
    """
    saved: list[Saved] = []
    left_out: list[str] = []
    for each in drawings(results, left_out):
        if figure := attempt(each.title, partial(_save, each, folder), left_out):
            saved.append(figure)
    _remove_others(folder, {each.name for each in saved})
    return saved, left_out


def drawings(results: Results, left_out: list[str]) -> Iterator[Drawn]:
    """Yield all figures that the run has the inputs of, in the order in which they are shown.

    Parameters
    ----------
    results : Results
        The run.
    left_out : list of str
        Gets one sentence for each figure that could not be drawn.
    """
    import matplotlib

    from reports import diagnostics, embeddings, leaks, pareto, pictures, regions

    kinds: list[tuple[str, Callable[[Results], list[Drawn]]]] = [
        ("Scores", score_panels),
        ("Site removal against biology kept", pareto.pareto_figure),
        ("Images before and after", pictures.slices),
        ("What each method changed", pictures.differences),
        ("Errors to the truth", pictures.errors),
        ("Intensity histograms", pictures.histograms),
        ("Embedding by site", embeddings.by_site),
        ("Embedding by age", embeddings.by_age),
        ("Features that differ between sites", regions.region_effects),
        ("Site confusion", diagnostics.confusions),
        ("Age", diagnostics.age_scatters),
        ("Age told, age shown", leaks.told_ages),
        ("Pull towards the reference site's population", leaks.pulls),
        ("Distances between subjects", diagnostics.distance_matrices),
    ]
    with matplotlib.rc_context(STYLE):
        for title, draw in kinds:
            yield from attempt(title, partial(draw, results), left_out) or []


def _save(drawn: Drawn, folder: Path) -> Saved:
    drawn.figure.suptitle(drawn.title, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    # The layout is computed once, not for every file.
    drawn.figure.draw_without_rendering()
    drawn.figure.set_layout_engine("none")
    printed = folder / PRINT / f"{drawn.name}.png"
    write_atomic(printed, lambda path: drawn.figure.savefig(path, dpi=PRINT_DPI))
    png = folder / f"{drawn.name}.png"
    write_atomic(png, lambda path: _for_the_page(printed, path))
    # By default a PDF contains its date. Images in it have this resolution.
    still: dict[str, Any] = {"CreationDate": None}
    pdf = folder / f"{drawn.name}.pdf"
    write_atomic(pdf, lambda path: drawn.figure.savefig(path, dpi=PRINT_DPI, metadata=still))
    return Saved(drawn.name, drawn.title, drawn.caption, png)


def _for_the_page(printed: Path, path: Path) -> None:
    """Average pixels of the printed figure, which is much faster than drawing it again."""
    from PIL import Image

    with Image.open(printed) as image:
        small = image.convert("RGB").reduce(PRINT_DPI // PAGE_DPI)
    small.save(path, format="PNG", dpi=(PAGE_DPI, PAGE_DPI))


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in sorted([*folder.glob("*.p[nd][gf]"), *(folder / PRINT).glob("*.png")]):
        if path.stem not in names:
            path.unlink()


# -- scores with intervals -----------------------------------------------------------------------


def score_panels(results: Results) -> list[Drawn]:
    """Return a figure for each axis with a panel for each metric: values with intervals."""
    caption = (
        "Dots are values, whiskers 95 % intervals; controls are gray and hollow. The green line is "
        "the target (green ticks if every row has its own); dashed lines are floors: named values "
        "to compare with. An arrow marks a control that is far outside."
    )
    drawn = []
    for axis, metrics in results.axes():
        shown = [m for m in metrics if results.has_value(m)]
        if not shown:
            continue
        floors = max(len(results.floors(m["name"])) for m in shown)
        height = 1.4 + 0.24 * len(results.rows) + 0.18 * floors
        figure, axes = panels(len(shown), 3, (3.6, height))
        for panel, metric in zip(axes, shown, strict=True):
            _dots(panel, results, metric)
        name = "scores-" + "".join(c if c.isalnum() else "-" for c in axis)
        drawn.append(Drawn(name, axis.capitalize(), caption, figure))
    if not drawn:
        raise NoFigure("no metric has a value")
    return drawn


def _dots(panel: Axes, results: Results, metric: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    blue = colors(["method"])["method"][0]
    scores = results.column(metric)
    limits = _limits(results, metric, scores)
    for y, (row, score) in enumerate(zip(results.rows, scores, strict=True)):
        color = GRAY if row.control else blue
        if not score.ok:
            _note(panel, y, 0.02, score.status, color="0.55", style="italic")
        elif limits is not None and not limits[0] <= score.value <= limits[1]:
            if score.value > limits[1]:
                _note(panel, y, 0.99, f"{score.value:.3g} ▶", color=GRAY, ha="right")
            else:
                _note(panel, y, 0.01, f"◀ {score.value:.3g}", color=GRAY)
        else:
            _dot(panel, y, score, color, hollow=row.control)
    _lines(panel, results, metric, limits)
    panel.set_ylim(len(results.rows) - 0.4, -0.6)
    names = [short(row.marked, 26) if first_column(panel) else "" for row in results.rows]
    panel.set_yticks(range(len(results.rows)), names)
    panel.set_title(f"{short(metric['label'], 40)} {ARROWS[metric['direction']]}", loc="left")
    panel.set_xlabel(metric["unit"])
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.grid(axis="x", color="0.9", lw=0.6)
    panel.set_axisbelow(True)
    panel.margins(x=0.08)
    if limits is not None:
        panel.set_xlim(*limits)


def _limits(
    results: Results, metric: dict[str, Any], scores: list[Score]
) -> tuple[float, float] | None:
    """Return the ends of the axis if a control lies far outside, else None."""
    shown = [s for row, s in zip(results.rows, scores, strict=True) if s.ok and not row.control]
    ends = [v for s in shown for v in (s.value, s.low, s.high) if np.isfinite(v)]
    ends += [v for v in results.target(metric["name"]) if np.isfinite(v)]
    if len(shown) < 2 or not np.ptp(ends) > 0:
        return None
    low, high, width = min(ends), max(ends), float(np.ptp(ends))
    others = [s.value for row, s in zip(results.rows, scores, strict=True) if s.ok and row.control]
    if all(low - FAR * width <= v <= high + FAR * width for v in others):
        return None
    near = [v for v in others if low - width <= v <= high + width]
    low, high = min([low, *near]), max([high, *near])
    return low - 0.15 * (high - low), high + 0.15 * (high - low)


def _dot(panel: Axes, y: int, score: Score, color: str, *, hollow: bool) -> None:
    if np.isfinite(score.low) and np.isfinite(score.high):
        panel.plot([score.low, score.high], [y, y], color=color, lw=1.6, solid_capstyle="butt")
    panel.plot(score.value, y, "o", ms=5, mec=color, mfc="white" if hollow else color, zorder=3)


def _note(panel: Axes, y: int, x: float, text: str, **look: Any) -> None:
    place = ("axes fraction", "data")
    panel.annotate(text, (x, y), xycoords=place, va="center", fontsize=7, **look)


def _lines(
    panel: Axes, results: Results, metric: dict[str, Any], limits: tuple[float, float] | None
) -> None:
    low, high = results.target(metric["name"])
    green = colors(["", "", "target"])["target"][0]
    if np.isclose(low, high, rtol=1e-6, atol=1e-12):
        panel.axvline(low, color=green, lw=1.2, label="target")
    elif np.isfinite(low):
        # Each row has its own target, such as its error before harmonization.
        at = [(results.score(row, metric["name"]).target, y) for y, row in enumerate(results.rows)]
        panel.plot(*zip(*at, strict=True), "|", color=green, ms=11, mew=1.6, label="target")
    styles = ["--", ":", "-.", (0, (1, 3))]
    floors = results.floors(metric["name"])
    for i, (name, value) in enumerate(floors.items()):
        if limits is None or limits[0] <= value <= limits[1]:
            panel.axvline(value, color="0.35", lw=0.9, ls=styles[i % 4], label=short(name, 52))
    if panel.get_legend_handles_labels()[1]:
        from matplotlib.transforms import ScaledTranslation

        # The distance to the axis in inches does not depend on the height of the panel.
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
