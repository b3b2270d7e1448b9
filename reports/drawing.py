"""What all figures share: style, colors, panels, and the answer that one cannot be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Drawn:
    """A figure with its name, title and the sentence that says how to read it."""

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
    # Methods have a palette of their own; a site is told by its marker, too.
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


def columns_of(axes: Sequence[Axes]) -> int:
    """Return how many panels stand side by side in what `panels` returned."""
    spec = axes[0].get_subplotspec()
    assert spec is not None
    return spec.get_gridspec().ncols


def site_legend(figure: Figure, panel: Axes, **look: Any) -> None:
    """Write a panel's labels below all panels, as many side by side as the figure is wide.

    The figure grows by the rows of the legend; of many sites the first ones are named.
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
    """Return the rows in nearly equal chunks of at most `size`."""
    count = math.ceil(len(rows) / size)
    if not count:
        return []
    return [list(part) for part in np.array_split(np.array(rows, dtype=object), count)]


def numbered(stem: str, index: int) -> str:
    """Return the name of the index-th figure of a kind; the first has no number."""
    return stem if index == 0 else f"{stem}-{index + 1}"


def short(text: str, length: int = 22) -> str:
    """Return a label that fits, cut in the middle: names often differ at their end alone."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]
