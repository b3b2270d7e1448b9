"""Pictures of images: slices by site, what was changed, errors to the truth, and histograms."""

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
    columns_of,
    new_figure,
    numbered,
    panels,
    short,
    site_legend,
    site_looks,
)
from reports.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SITES = 12
COLUMNS = 9
"""Most methods side by side in a grid of images; more make a second figure."""
BINS = 80
Stack = Mapping[int, NDArray]
"""Images by their row in the cohort."""


def slices(results: Results) -> list[Drawn]:
    """Return one subject of every site, before and after each method, and the truth."""
    found, chosen = _inputs(results)
    raw = raw_images(results)
    truth = true_images(results)
    high = float(np.percentile([np.percentile(plane(raw[i]), 99.5) for i in chosen.values()], 90))
    caption = (
        "One test subject a site (of middle age), all on one gray scale: harmonized images of all "
        f"sites should look like those of {results.reference_site}, and still be the same brains."
    )
    drawn = []
    # What identity returns is shown as before.
    found = [pair for pair in found if pair[0].label != "identity"]
    for i, part in enumerate(chunks(found, COLUMNS) or [[]]):
        stacks = {"before": raw} | {row.marked: stack for row, stack in part}
        if truth:
            stacks["truth"] = truth
        figure, axes = _grid(stacks, chosen, results.reference_site)
        for (_, stack), column in zip(stacks.items(), axes, strict=True):
            for panel, index in zip(column, chosen.values(), strict=True):
                picture = _show(panel, stack.get(index), cmap="gray", vmin=0, vmax=high)
        _bar(figure, picture, "intensity")
        name = numbered("slices", i)
        drawn.append(Drawn(name, "Images before and after, by site", caption, figure))
    return drawn


def differences(results: Results) -> list[Drawn]:
    """Return what each method added to (red) and took from (blue) the same images."""
    found, chosen = _inputs(results)
    found = [pair for pair in found if pair[0].label != "identity"]
    if not found:
        raise NoFigure("there is no method but identity")
    caption = (
        "After minus before, for the same subjects: smooth patterns are scanner effects taken "
        "away; anatomy that shows here was changed."
    )
    return _maps(results, found, chosen, raw_images(results), caption, "differences")


def errors(results: Results) -> list[Drawn]:
    """Return what is left to the truth: the same subjects scanned at the reference site."""
    found, chosen = _inputs(results)
    truth = true_images(results)
    if not truth:
        raise NoFigure("these data have no ground truth")
    caption = (
        "Image minus the truth (the same subject scanned at the reference site): pale is right; "
        "speckle is the noise of two scans, structure is error."
    )
    before = Row("before", 0, "before", False, False)
    found = [(before, raw_images(results)), *(p for p in found if p[0].label != "identity")]
    return _maps(results, found, chosen, truth, caption, "errors")


def _maps(
    results: Results,
    found: list[tuple[Row, Stack]],
    chosen: dict[str, int],
    base: Stack,
    caption: str,
    name: str,
) -> list[Drawn]:
    titles = {"differences": "What each method changed", "errors": "Errors to the truth"}
    deltas = [
        (row, {i: plane(stack[i]) - plane(base[i]) for i in chosen.values() if i in stack})
        for row, stack in found
    ]
    sizes = [np.percentile(np.abs(d), 99) for _, delta in deltas for d in delta.values()]
    # The median of the methods: one that breaks images must not make all others look flawless.
    limit = max(float(np.median(sizes)) * 1.5, 1e-6)
    drawn = []
    for k, part in enumerate(chunks(deltas, COLUMNS)):
        stacks = {row.marked: delta for row, delta in part}
        figure, axes = _grid(stacks, chosen, results.reference_site)
        for (_, delta), column in zip(stacks.items(), axes, strict=True):
            for panel, index in zip(column, chosen.values(), strict=True):
                picture = _show(panel, delta.get(index), cmap="RdBu_r", vmin=-limit, vmax=limit)
        _bar(figure, picture, "difference of intensity")
        drawn.append(Drawn(numbered(name, k), titles[name], caption, figure))
    return drawn


def histograms(results: Results) -> list[Drawn]:
    """Return the in-mask intensities of every site, before and after each method."""
    found = [(row, stack) for row in results.first_seeds if (stack := results.images(row))]
    if not found:
        raise NoFigure("no method returned images")
    raw = raw_images(results)
    mask = results.folder.cohort().mask
    pooled = np.concatenate([np.asarray(raw[i])[mask[i]][::7] for i in results.tested])
    low, high = np.percentile(pooled, [0.1, 99.9])
    edges = np.linspace(float(low), float(high), BINS + 1)
    before = Row("before", 0, "before", False, False)
    sites = results.participants["site"].to_numpy()
    caption = (
        "Intensities inside the brain mask, one line a site, the reference site in black: lines "
        "that fall together mean that the sites' intensities agree, whatever became of anatomy."
    )
    drawn = []
    found = [pair for pair in found if pair[0].label != "identity"]
    for k, part in enumerate(chunks(found, 11) or [[]]):
        figure, axes = panels(len(part) + 1, 4, (2.6, 1.9))
        for j, (panel, (row, stack)) in enumerate(zip(axes, [(before, raw), *part], strict=True)):
            for site, color in _line_looks(results).items():
                rows = [i for i in results.tested if sites[i] == site and i in stack]
                _histogram(panel, stack, mask, rows, edges, (site, *color))
            panel.set_title(short(row.marked), loc="left")
            panel.set(
                yticks=[], xlabel="intensity", ylabel="" if j % columns_of(axes) else "density"
            )
        # One broken method with a spike must not flatten all others.
        tops = [panel.get_ylim()[1] for panel in axes]
        for panel in axes:
            panel.set_ylim(0, min(2.0 * tops[0], max(tops)))
        site_legend(figure, axes[0])
        title = "Intensity histograms by site"
        drawn.append(Drawn(numbered("histograms", k), title, caption, figure))
    return drawn


def _histogram(
    panel: Axes,
    stack: Stack,
    mask: NDArray[np.bool_],
    rows: list[int],
    edges: NDArray,
    look: tuple[str, str, Any, float],
) -> None:
    counts = np.zeros(BINS)
    for i in rows:
        counts += np.histogram(np.asarray(stack[i])[mask[i]], edges)[0]
    site, color, style, width = look
    density = counts / max(counts.sum(), 1) / (edges[1] - edges[0])
    middle = (edges[1:] + edges[:-1]) / 2
    panel.plot(middle, density, color=color, ls=style, lw=width, label=short(site))


def _line_looks(results: Results) -> dict[str, tuple[str, Any, float]]:
    """Return color, line style and width of every site's line."""
    styles = dict(zip(MARKERS, ["-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1))], strict=True))
    looks = {site: (c, styles[m], 1.1) for site, (c, m) in site_looks(results).items()}
    return looks | {results.reference_site: ("black", "-", 2.0)}


# -- inputs -------------------------------------------------------------------------------------


def _inputs(results: Results) -> tuple[list[tuple[Row, Stack]], dict[str, int]]:
    """Return the methods that have images, and one row of the cohort for every site.

    Raises
    ------
    NoFigure
        Where there are no images to show.
    """
    if results.config.get("space") == "table":
        raise NoFigure("tables of features are not pictures")
    if not results.images_allowed:
        raise NoFigure("images of subjects are kept back")
    found: list[tuple[Row, Stack]] = [
        (row, stack) for row in results.first_seeds if (stack := results.images(row))
    ]
    if not found:
        raise NoFigure("no method returned images")
    table = results.participants.iloc[results.tested]
    chosen = {}
    for site in results.sites[:MAX_SITES]:
        mine = table[table["site"] == site]
        if len(mine):
            gaps = (mine["age"] - mine["age"].median()).abs().fillna(np.inf).to_numpy()
            chosen[site] = int(mine.index[int(np.argmin(gaps))])
    return found, chosen


def raw_images(results: Results) -> Stack:
    """Return the unharmonized test images."""
    images = results.folder.cohort().images
    return {int(i): images[i] for i in results.tested}


def true_images(results: Results) -> Stack:
    """Return the test subjects as scanned at the reference site; empty on real data."""
    for row in results.rows:
        if stack := results.images(row, "truth.test"):
            return stack
    return {}


def plane(image: NDArray) -> NDArray[np.float64]:
    """Return an image as two-dimensional: of a volume, the middle of its last axis."""
    flat = np.asarray(image, dtype=float)
    while flat.ndim > 2:
        flat = flat[..., flat.shape[-1] // 2]
    return flat


# -- grid ---------------------------------------------------------------------------------------


def _grid(
    stacks: Mapping[str, Stack], chosen: dict[str, int], reference: str
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and its axes by column: a column a stack, a row a site."""
    first = plane(next(iter(next(iter(stacks.values())).values())))
    # Tall images make tall rows, wide ones low rows.
    height = float(np.clip(first.shape[1] / first.shape[0], 0.4, 2.0))
    figure = new_figure(1.15 * len(stacks) + 1.0, (1.15 * height + 0.06) * len(chosen) + 0.7)
    grid = figure.subplots(len(chosen), len(stacks), squeeze=False)
    for panel, title in zip(grid[0], stacks, strict=True):
        panel.set_title(short(title, 15), fontsize=7.5, fontweight="normal")
    for panel, site in zip(grid[:, 0], chosen, strict=True):
        name = short(site, 14) + ("\n(reference)" if site == reference else "")
        panel.set_ylabel(name, fontsize=7.5)
    return figure, [list(column) for column in grid.T]


def _show(panel: Axes, image: NDArray | None, **look: Any) -> Any:
    """Draw an image the way radiologists hold it: first axis to the right, second one up."""
    flat = np.full((2, 2), np.nan) if image is None else plane(image)
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set_visible(False)
    return panel.imshow(flat.T, origin="lower", interpolation="nearest", **look)


def _bar(figure: Figure, picture: Any, label: str) -> None:
    bar = figure.colorbar(picture, ax=figure.axes, shrink=0.5, aspect=30, pad=0.01)
    bar.set_label(label)
    bar.ax.tick_params(labelsize=7)
