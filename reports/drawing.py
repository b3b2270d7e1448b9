"""What all figures share: style, colors, panels, legends, and the error `NoFigure`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reports.results import Results

PER_FIGURE = 12
"""Most panels of methods in one figure; more make a second one."""

MARKERS = "osD^vP"
LEGEND_LINE = 0.21
"""Height in inches of a line of a legend; the first one has its place in the figure."""
MOST_NAMED = 12
"""Sites that a legend names."""
SITE_COLORS = 8
"""Sites whose colors can be told apart; further ones have the same colors with other markers."""
GRAY = "0.45"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    # Names of sites and methods may hold dollar signs, and no figure holds a formula.
    "text.parse_math": False,
    # Letters as letters, which journals ask for, not as outlines or bitmaps.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


class NoFigure(Exception):
    """Why a figure cannot be drawn from this run."""


class Drawn(NamedTuple):
    """A figure with its name, title and the caption that says how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) with a constrained layout, outside of any pyplot state."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))


def colors(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a color, safe for color-blind eyes, and a marker for each name.

    The palette has ten colors; from the eleventh name on they come back with another marker.
    """
    from matplotlib.colors import to_hex
    from seaborn import color_palette

    palette = [to_hex(color) for color in color_palette("colorblind")]
    return {
        name: (palette[i % len(palette)], MARKERS[i // len(palette) % len(MARKERS)])
        for i, name in enumerate(names)
    }


def site_looks(results: Results) -> dict[str, tuple[str, str]]:
    """Return color and marker of every site; the reference site comes first and is black."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    others = [site for site in results.sites if site != results.reference_site]
    count = min(len(others), SITE_COLORS)
    # Methods have another palette; the markers distinguish sites, too.
    palette = [to_hex(colormaps["turbo"](at)) for at in np.linspace(0.06, 0.94, max(count, 1))]
    return {results.reference_site: ("black", "o")} | {
        site: (palette[i % count], MARKERS[(i + i // count) % len(MARKERS)])
        for i, site in enumerate(others)
    }


def panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels of `size` (inches) in even rows of at most `columns`."""
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    figure = new_figure(size[0] * columns, size[1] * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def first_column(panel: Axes) -> bool:
    """Return whether a panel is the leftmost one of its row."""
    spec = panel.get_subplotspec()
    return spec is not None and spec.is_first_col()


def small_multiples(
    head: tuple[str, str, str],
    items: Sequence[Any],
    draw: Callable[..., Any],
    finish: Callable[[Figure, list[Axes], Any], None],
    *,
    size: tuple[float, float],
    columns: int = 4,
    most: int = PER_FIGURE,
) -> list[Drawn]:
    """Draw one panel for each item, in as many figures as are needed.

    Parameters
    ----------
    head : tuple of str
        Name, title and caption of the figures.
    items : sequence of tuple
        The data of the panels.
    draw : callable
        Called with a panel and the elements of an item; its result goes to `finish`.
    finish : callable
        Called with each figure, its panels, and the result for the last panel.
    size : tuple of float
        Width and height of a panel in inches.
    columns, most : int
        Most panels in a row and in a figure.
    """
    name, title, caption = head
    drawn = []
    for i, part in enumerate(chunks(items, most)):
        figure, axes = panels(len(part), columns, size)
        result = None
        for panel, item in zip(axes, part, strict=True):
            result = draw(panel, *item)
            if not first_column(panel):
                panel.set_ylabel("")
        finish(figure, axes, result)
        drawn.append(Drawn(numbered(name, i), title, caption, figure))
    return drawn


def site_legend(figure: Figure, panel: Axes, **look: Any) -> None:
    """Write the labels of a panel below all panels.

    The height of the figure grows with the legend; of many sites only the first ones are named.
    """
    from matplotlib.lines import Line2D

    handles, labels = panel.get_legend_handles_labels()
    if len(labels) > MOST_NAMED:
        more = f"and {len(labels) - MOST_NAMED} more sites"
        handles = [*handles[:MOST_NAMED], Line2D([], [], ls="")]
        labels = [*labels[:MOST_NAMED], more]
    longest = max([len(label) for label in labels] or [0])
    columns = int(figure.get_figwidth() / (0.55 + 0.075 * longest))
    columns = max(1, min(len(labels), columns))
    lines = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (lines - 1))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **look)


def chunks(rows: Sequence[Any], size: int = PER_FIGURE) -> list[list[Any]]:
    """Return the rows in chunks of nearly equal length, at most `size`."""
    count = math.ceil(len(rows) / size)
    parts = np.array_split(np.arange(len(rows)), count) if count else []
    return [[rows[i] for i in part] for part in parts]


def numbered(stem: str, index: int) -> str:
    """Return the name of a figure of several; the first one has no number."""
    return stem if index == 0 else f"{stem}-{index + 1}"


def short(text: str, length: int = 22) -> str:
    """Return a label, shortened in the middle, because names often differ only at the end."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]
