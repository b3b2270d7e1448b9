"""All figures of a report, and those of the scores with their intervals.

Every drawing function takes a `Results` and returns its figures, or raises `NoFigure` with the
reason. Nothing here keeps any state of pyplot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmbench.files.atomic import write_atomic
from reports.attempts import attempt
from reports.drawing import GRAY, STYLE, Drawn, NoFigure, colors, columns_of, panels, short
from reports.results import Results, Score
from reports.tables import ARROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PAGE_DPI = 150
PRINT_DPI = 300
PRINT = "print"
FAR = 3.0
"""Controls that lie farther than this from the methods, in widths of what the methods span, are
drawn at the edge with their value: they must not press all methods into one point."""


@dataclass(frozen=True)
class Saved:
    """A figure as files: ``<name>.png`` for the page, ``<name>.pdf``, ``print/<name>.png``."""

    name: str
    title: str
    caption: str
    png: Path


Draw = Callable[[Results], list[Drawn]]


def write_figures(results: Results, folder: Path) -> tuple[list[Saved], list[str]]:
    """Draw all figures that the run has the inputs of, as PNG (150 and 300 dpi) and PDF.

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

    from reports import diagnostics, embeddings, leaks, pareto, pictures

    kinds: list[tuple[str, Draw]] = [
        ("Scores", score_panels),
        ("Site removal against biology kept", pareto.pareto_figure),
        ("Images before and after", pictures.slices),
        ("What each method changed", pictures.differences),
        ("Errors to the truth", pictures.errors),
        ("Intensity histograms", pictures.histograms),
        ("Embedding by site", embeddings.by_site),
        ("Embedding by age", embeddings.by_age),
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
    # The layout is solved once, not once for every file.
    drawn.figure.draw_without_rendering()
    drawn.figure.set_layout_engine("none")
    printed = folder / PRINT / f"{drawn.name}.png"
    write_atomic(printed, lambda path: drawn.figure.savefig(path, dpi=PRINT_DPI))
    png = folder / f"{drawn.name}.png"
    write_atomic(png, lambda path: _for_the_page(printed, path))
    # A PDF names the moment it was made unless told not to. What is an image in it has this dpi.
    still: dict[str, Any] = {"CreationDate": None}
    pdf = folder / f"{drawn.name}.pdf"
    write_atomic(pdf, lambda path: drawn.figure.savefig(path, dpi=PRINT_DPI, metadata=still))
    return Saved(drawn.name, drawn.title, drawn.caption, png)


def _for_the_page(printed: Path, path: Path) -> None:
    """Average pixels of the printed figure, which is much cheaper than to draw it once more."""
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
            _dots(panel, results, metric, names=i % columns_of(axes) == 0)
        caption = (
            "Dots are values, whiskers 95 % intervals, controls in gray and hollow; the green line "
            "is the target, a green tick where each row has its own; dashed lines are floors: "
            "named values to hold the others against. An arrow marks a control far outside."
        )
        name = "scores-" + "".join(c if c.isalnum() else "-" for c in axis)
        drawn.append(Drawn(name, axis.capitalize(), caption, figure))
    if not drawn:
        raise NoFigure("no metric has a value")
    return drawn


def _dots(panel: Axes, results: Results, metric: dict[str, Any], *, names: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    blue = colors(["method"])["method"][0]
    scores = [results.score(row, metric["name"]) for row in results.rows]
    limits = _limits(results, metric, scores)
    for y, (row, score) in enumerate(zip(results.rows, scores, strict=True)):
        color = GRAY if row.control else blue
        if not score.ok:
            _status(panel, y, score.status)
        elif limits is not None and not limits[0] <= score.value <= limits[1]:
            _outside(panel, y, score.value, right=score.value > limits[1])
        else:
            _dot(panel, y, score, color, hollow=row.control)
    _lines(panel, results, metric, limits)
    panel.set_ylim(len(results.rows) - 0.4, -0.6)
    labels = [short(row.marked, 26) for row in results.rows] if names else []
    panel.set_yticks(range(len(results.rows)), labels or [""] * len(results.rows))
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
    """Return the ends of the axis where a control lies far outside, else None."""
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


def _status(panel: Axes, y: int, status: str) -> None:
    panel.annotate(status, (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7,
                   color="0.55", style="italic")  # fmt: skip


def _outside(panel: Axes, y: int, value: float, *, right: bool) -> None:
    text = f"{value:.3g} ▶" if right else f"◀ {value:.3g}"
    at, side = (0.99, "right") if right else (0.01, "left")
    panel.annotate(text, (at, y), xycoords=("axes fraction", "data"), va="center", ha=side,
                   fontsize=7, color=GRAY)  # fmt: skip


def _lines(
    panel: Axes, results: Results, metric: dict[str, Any], limits: tuple[float, float] | None
) -> None:
    low, high = results.target(metric["name"])
    green = colors(["", "", "target"])["target"][0]
    if np.isclose(low, high, rtol=1e-6, atol=1e-12):
        panel.axvline(low, color=green, lw=1.2, label="target")
    elif np.isfinite(low):
        # Each row has a target of its own, such as its own error before.
        at = [(results.score(row, metric["name"]).target, y) for y, row in enumerate(results.rows)]
        panel.plot(*zip(*at, strict=True), "|", color=green, ms=11, mew=1.6, label="target")
    styles = ["--", ":", "-.", (0, (1, 3))]
    floors = results.floors(metric["name"])
    for i, (name, value) in enumerate(floors.items()):
        if limits is None or limits[0] <= value <= limits[1]:
            panel.axvline(value, color="0.35", lw=0.9, ls=styles[i % 4], label=short(name, 52))
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
