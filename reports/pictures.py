"""Pictures of images: slices by site, changes, errors to the truth, and histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reports.drawing import (
    MARKERS,
    Drawn,
    NoFigure,
    chunks,
    first_column,
    new_figure,
    numbered,
    panels,
    short,
    site_legend,
    site_looks,
)
from reports.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SITES = 12
COLUMNS = 9
"""Most methods side by side in a grid of images; more methods make a second figure."""
BINS = 80
Stack = Mapping[int, NDArray]
"""Images by their row in the cohort."""


def slices(results: Results) -> list[Drawn]:
    """Return one subject of every site, before and after each method, and the truth."""
    found, chosen = _inputs(results)
    raw, truth = raw_images(results), true_images(results)
    high = float(np.percentile([np.percentile(plane(raw[i]), 99.5) for i in chosen.values()], 90))
    caption = (
        "One test subject of each site (of middle age), all on the same gray scale. Harmonized "
        f"images of all sites should look like those of {results.reference_site}, and still be "
        "the same brains."
    )
    head = ("slices", "Images before and after, by site", caption)
    look = {"cmap": "gray", "vmin": 0, "vmax": high}
    parts = [{"before": raw} | part | ({"truth": truth} if truth else {}) for part in _parts(found)]
    return _grids(results, head, parts, chosen, look, "intensity")


def differences(results: Results) -> list[Drawn]:
    """Return what each method added to (red) and took from (blue) the same images."""
    found, chosen = _inputs(results)
    if not found:
        raise NoFigure("there is no method but identity")
    caption = (
        "After minus before, for the same subjects. Smooth patterns are scanner effects that were "
        "removed; anatomy that is visible here was changed."
    )
    head = ("differences", "What each method changed", caption)
    return _maps(results, head, found, chosen, raw_images(results))


def errors(results: Results) -> list[Drawn]:
    """Return the differences to the truth: the same subjects scanned at the reference site."""
    found, chosen = _inputs(results)
    truth = true_images(results)
    if not truth:
        raise NoFigure("these data have no ground truth")
    caption = (
        "Image minus the truth (the same subject scanned at the reference site). Pale is right; "
        "speckle is the noise of two scans, structure is error."
    )
    head = ("errors", "Errors to the truth", caption)
    return _maps(results, head, {"before": raw_images(results)} | found, chosen, truth)


def _maps(
    results: Results,
    head: tuple[str, str, str],
    found: Mapping[str, Stack],
    chosen: dict[str, int],
    base: Stack,
) -> list[Drawn]:
    deltas = {
        name: {i: plane(stack[i]) - plane(base[i]) for i in chosen.values() if i in stack}
        for name, stack in found.items()
    }
    limit = color_limit([d for delta in deltas.values() for d in delta.values()])
    look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    return _grids(results, head, _parts(deltas), chosen, look, "difference of intensity")


def color_limit(maps: list[NDArray]) -> float:
    """Return the largest difference shown in color.

    It comes from the median over maps: a method that breaks images must not make the others look
    flawless.
    """
    sizes = [np.percentile(np.abs(each), 99) for each in maps if np.isfinite(each).all()]
    return max(float(np.median(sizes)) * 1.5, 1e-6) if sizes else 1.0


def histograms(results: Results) -> list[Drawn]:
    """Return the in-mask intensities of every site, before and after each method."""
    if not results.imaged:
        raise NoFigure("no method returned images")
    raw, mask = raw_images(results), results.folder.cohort().mask
    pooled = np.concatenate([np.asarray(raw[i])[mask[i]][::7] for i in results.tested])
    low, high = np.percentile(pooled, [0.1, 99.9])
    edges = np.linspace(float(low), float(high), BINS + 1)
    sites = results.participants["site"].to_numpy()
    styles = dict(zip(MARKERS, ["-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1))], strict=True))
    looks: dict[str, tuple[str, Any, float]] = {
        site: (color, styles[marker], 1.1) for site, (color, marker) in site_looks(results).items()
    }
    looks |= {results.reference_site: ("black", "-", 2.0)}
    caption = (
        "Intensities inside the brain mask, with one line for each site, the reference site in "
        "black. Lines that coincide mean that the sites' intensities agree, even if anatomy was "
        "changed."
    )
    drawn = []
    for k, part in enumerate(_parts(without_identity(results), 11)):
        figure, axes = panels(len(part) + 1, 4, (2.6, 1.9))
        stacks: dict[str, Stack] = {"before": raw} | part
        for panel, (name, stack) in zip(axes, stacks.items(), strict=True):
            for site, (color, style, width) in looks.items():
                mine = [i for i in results.tested if sites[i] == site and i in stack]
                density = _density(stack, mask, mine, edges)
                panel.plot((edges[1:] + edges[:-1]) / 2, density, color=color, ls=style, lw=width,
                           label=short(site))  # fmt: skip
            panel.set_title(short(name), loc="left")
            panel.set(yticks=[], xlabel="intensity")
            panel.set_ylabel("density" if first_column(panel) else "")
        # A broken method with a spike must not flatten all others.
        tops = [panel.get_ylim()[1] for panel in axes]
        for panel in axes:
            panel.set_ylim(0, min(2.0 * tops[0], max(tops)))
        site_legend(figure, axes[0])
        title = "Intensity histograms by site"
        drawn.append(Drawn(numbered("histograms", k), title, caption, figure))
    return drawn


def _density(stack: Stack, mask: NDArray[np.bool_], rows: list[int], edges: NDArray) -> NDArray:
    counts = np.zeros(BINS)
    for i in rows:
        counts += np.histogram(np.asarray(stack[i])[mask[i]], edges)[0]
    return counts / max(counts.sum(), 1) / (edges[1] - edges[0])


# -- inputs -------------------------------------------------------------------------------------


def _inputs(results: Results) -> tuple[dict[str, Stack], dict[str, int]]:
    """Return the images of each method, and one row of the cohort for every site.

    Raises
    ------
    NoFigure
        If there are no images to show.
    """
    if results.config.get("space") == "table":
        raise NoFigure("tables of features have no images")
    if not results.images_allowed:
        raise NoFigure("images of subjects are kept back")
    if not results.imaged:
        raise NoFigure("no method returned images")
    table = results.participants.iloc[results.tested]
    chosen = {}
    for site in results.sites[:MAX_SITES]:
        mine = table[table["site"] == site]
        if len(mine):
            gaps = (mine["age"] - mine["age"].median()).abs().fillna(np.inf).to_numpy()
            chosen[site] = int(mine.index[int(np.argmin(gaps))])
    return without_identity(results), chosen


def without_identity(results: Results) -> dict[str, Stack]:
    """Return the images of each method except identity, whose images are those before."""
    return {row.marked: stack for row, stack in results.imaged if row.label != "identity"}


def _parts(found: Mapping[str, Stack], most: int = COLUMNS) -> list[dict[str, Stack]]:
    """Return the methods of each figure; one part without any if there are none."""
    return [{name: found[name] for name in part} for part in chunks([*found], most) or [[]]]


def raw_images(results: Results) -> Stack:
    """Return the unharmonized test images."""
    images = results.folder.cohort().images
    return {int(i): images[i] for i in results.tested}


def true_images(results: Results) -> Stack:
    """Return the test subjects as scanned at the reference site; empty on real data."""
    return next((s for row in results.rows if (s := results.images(row, "truth.test"))), {})


def plane(image: NDArray) -> NDArray[np.float64]:
    """Return an image as two-dimensional: of a volume, the middle of its last axis."""
    flat = np.asarray(image, dtype=float)
    while flat.ndim > 2:
        flat = flat[..., flat.shape[-1] // 2]
    return flat


# -- grid ---------------------------------------------------------------------------------------


def _grids(
    results: Results,
    head: tuple[str, str, str],
    parts: list[dict[str, Stack]],
    chosen: dict[str, int],
    look: dict[str, Any],
    label: str,
) -> list[Drawn]:
    """Return a figure for each part, with a column for each stack and a row for each site."""
    name, title, caption = head
    drawn = []
    for k, stacks in enumerate(parts):
        figure = _grid(stacks, chosen, results.reference_site, look, label)
        drawn.append(Drawn(numbered(name, k), title, caption, figure))
    return drawn


def _grid(
    stacks: Mapping[str, Stack],
    chosen: dict[str, int],
    reference: str,
    look: dict[str, Any],
    label: str,
) -> Figure:
    first = plane(next(iter(next(iter(stacks.values())).values())))
    # The height of the rows follows that of the images.
    height = float(np.clip(first.shape[1] / first.shape[0], 0.4, 2.0))
    figure = new_figure(1.15 * len(stacks) + 1.0, (1.15 * height + 0.06) * len(chosen) + 0.7)
    grid = figure.subplots(len(chosen), len(stacks), squeeze=False)
    for panel, title in zip(grid[0], stacks, strict=True):
        panel.set_title(short(title, 15), fontsize=7.5, fontweight="normal")
    for panel, site in zip(grid[:, 0], chosen, strict=True):
        name = short(site, 14) + ("\n(reference)" if site == reference else "")
        panel.set_ylabel(name, fontsize=7.5)
    for column, stack in zip(grid.T, stacks.values(), strict=True):
        for panel, index in zip(column, chosen.values(), strict=True):
            picture = _show(panel, stack.get(index), look)
    bar = figure.colorbar(picture, ax=figure.axes, shrink=0.5, aspect=30, pad=0.01)
    bar.set_label(label)
    bar.ax.tick_params(labelsize=7)
    return figure


def _show(panel: Axes, image: NDArray | None, look: dict[str, Any]) -> Any:
    """Draw an image in the radiological orientation: first axis to the right, second one up."""
    flat = np.full((2, 2), np.nan) if image is None else plane(image)
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set_visible(False)
    return panel.imshow(flat.T, origin="lower", interpolation="nearest", **look)
