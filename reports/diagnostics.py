"""Figures of what the metrics kept: site confusion, predicted ages, distances between subjects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.drawing import (
    Drawn,
    NoFigure,
    chunks,
    colors,
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

LARGEST = 4.5
"""Side in inches of a confusion matrix of many sites."""
MOST_LABELS = 20
"""Sites that its axes name; of more every second, third, ... one."""

# -- site confusion -----------------------------------------------------------------------------


def confusions(results: Results) -> list[Drawn]:
    """Return the site classifier's confusion matrix of every method, rows summing to one."""
    held = [(row, results.arrays(row, "site_bacc")) for row in results.first_seeds]
    found = [
        (row, sum(a["confusion"] for a in arrays), arrays[0]["sites"])
        for row, arrays in held
        if arrays and "confusion" in arrays[0]
    ]
    if not found:
        raise NoFigure("no site classifier was trained (metric site_bacc)")
    drawn = []
    for i, part in enumerate(chunks(found)):
        size = min(max(2.0, 0.22 * len(part[0][2]) + 0.9), LARGEST)
        longest = min(max(len(str(site)) for site in part[0][2]), 12)
        # Names of rows and the bar take a fifth of the width from the squares.
        figure, axes = panels(len(part), 4, (size, 0.8 * size + 0.3 + 0.075 * longest))
        for j, (panel, (row, matrix, sites)) in enumerate(zip(axes, part, strict=True)):
            first = j % columns_of(axes) == 0
            picture = _confusion(panel, row, np.asarray(matrix, dtype=float), sites, first)
        bar = figure.colorbar(picture, ax=axes, shrink=0.6, aspect=30)
        bar.set_label("share of the true site's scans")
        caption = (
            "Rows are true sites, columns what a classifier says of harmonized images: a bright "
            "diagonal means that the site can still be read, even rows that it cannot."
        )
        drawn.append(Drawn(numbered("confusion", i), "Site confusion", caption, figure))
    return drawn


def _confusion(panel: Axes, row: Row, matrix: NDArray, sites: NDArray, names: bool) -> Any:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12)
    picture = panel.imshow(shares, vmin=0, vmax=1, cmap="cividis")
    labels = [short(str(site), 12) for site in sites]
    every = slice(None, None, -(-len(sites) // MOST_LABELS))
    at, labels = range(len(sites))[every], labels[every]
    panel.set_xticks(at, labels, rotation=90)
    panel.set_yticks(at, labels if names else [""] * len(labels))
    panel.set_title(short(row.marked), loc="left")
    if names:
        panel.set_ylabel("true site")
    if len(sites) <= 8:
        for (y, x), share in np.ndenumerate(shares):
            tint = "white" if share < 0.55 else "black"
            panel.text(x, y, f"{share:.2f}"[-3:] if share < 0.995 else "1", ha="center",
                       va="center", fontsize=6, color=tint)  # fmt: skip
    return picture


# -- age ----------------------------------------------------------------------------------------


def age_scatters(results: Results) -> list[Drawn]:
    """Return predicted against true age of every method's test scans, colored by site."""
    held = [(row, results.per_scan(row, "age_mae")) for row in results.first_seeds]
    found = [(row, table) for row, table in held if table is not None and "predicted" in table]
    if not found:
        raise NoFigure("no age probe was trained (metric age_mae)")
    ages = pd.concat([table[["age", "predicted"]] for _, table in found]).to_numpy(dtype=float)
    limits = (float(np.nanmin(ages)) - 3, float(np.nanmax(ages)) + 3)
    drawn = []
    for i, part in enumerate(chunks(found)):
        figure, axes = panels(len(part), 4, (2.4, 2.5))
        for j, (panel, (row, table)) in enumerate(zip(axes, part, strict=True)):
            _age_panel(panel, row, table, site_looks(results), limits)
            panel.set_ylabel("" if j % columns_of(axes) else "predicted age (years)")
        site_legend(figure, axes[0], markerscale=2)
        caption = (
            "One dot a test scan: on the diagonal the age is read without error; flat clouds mean "
            "that age can no longer be read from the image."
        )
        drawn.append(Drawn(numbered("age", i), "Predicted against true age", caption, figure))
    return drawn


def _age_panel(
    panel: Axes,
    row: Row,
    table: pd.DataFrame,
    looks: dict[str, tuple[str, str]],
    limits: tuple[float, float],
) -> None:
    panel.plot(limits, limits, color="0.7", lw=0.8, zorder=0)
    for site, (color, marker) in looks.items():
        # By age, so that a file of vector graphics does not keep the order of the cohort.
        mine = table[table["site"] == site].sort_values("age")
        panel.plot(mine["age"], mine["predicted"], marker, ms=2.6, mew=0, alpha=0.7, color=color,
                   label=short(site))  # fmt: skip
    panel.set(xlim=limits, ylim=limits, aspect="equal", xlabel="true age (years)")
    panel.set_title(short(row.marked), loc="left")


# -- distances ----------------------------------------------------------------------------------


def distance_matrices(results: Results) -> list[Drawn]:
    """Return one site's distances between subjects, before and after, as matrices and dots."""
    held = [(row, _first(results.arrays(row, "distance_pcc"))) for row in results.first_seeds]
    found = [(row, arrays) for row, arrays in held if arrays]
    names = [n.removeprefix("after.") for _, arrays in found for n in arrays if "after." in n]
    sites = [site for site in dict.fromkeys(names) if site != results.reference_site] or names
    if not sites:
        raise NoFigure("no distances between subjects were kept (metric distance_pcc)")
    site = max(sorted(set(sites)), key=lambda s: max(_size(a, s) for _, a in found))
    found = [(row, arrays) for row, arrays in found if _size(arrays, site)]
    caption = (
        "Pairwise distances between the images of this site, before and after; dots on a "
        "straight line mean that who resembles whom is kept, a low line that all became alike. "
        "Subjects stand in one order everywhere, the most usual ones before harmonization first."
    )
    drawn = []
    for i, part in enumerate(chunks(found, 5)):
        figure = _distance_figure(part, site)
        drawn.append(
            Drawn(
                numbered("distances", i), f"Distances between subjects of {site}", caption, figure
            )
        )
    return drawn


def _first(folds: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    return folds[0] if folds else {}


def _size(arrays: dict[str, NDArray], site: str) -> int:
    return int(arrays[f"after.{site}"].size) if f"after.{site}" in arrays else 0


def _distance_figure(part: list[tuple[Row, dict[str, NDArray]]], site: str) -> Figure:
    before = part[0][1][f"before.{site}"]
    top = max(float(a[f"{side}.{site}"].max()) for _, a in part for side in ("before", "after"))
    figure = new_figure(2.0 * (len(part) + 1), 4.0)
    axes = figure.subplots(2, len(part) + 1, squeeze=False)
    # In an order of their own, a matrix shows more, and does not tell who is who in the cohort.
    order = np.argsort(_square(before).sum(1), kind="stable")
    picture = _matrix(axes[0, 0], before, order, "before", top)
    axes[1, 0].remove()
    for k, (row, arrays) in enumerate(part, start=1):
        after = arrays[f"after.{site}"]
        _matrix(axes[0, k], after, order, short(row.marked, 18), top)
        panel = axes[1, k]
        panel.plot([0, top], [0, top], color="0.7", lw=0.8, zorder=0)
        panel.plot(before, after, ".", ms=1.5, alpha=0.4, color=colors([""])[""][0],
                   rasterized=True)  # fmt: skip
        panel.set(xlim=(0, top), ylim=(0, top), aspect="equal", xlabel="distance before")
        panel.set_ylabel("distance after" if k == 1 else "")
    figure.colorbar(picture, ax=axes[0, :].tolist(), shrink=0.8).set_label("distance")
    return figure


def _matrix(
    panel: Axes, condensed: NDArray, order: NDArray[np.intp], title: str, top: float
) -> Any:
    panel.set_title(title, loc="left")
    panel.set(xticks=[], yticks=[])
    square = _square(condensed)[np.ix_(order, order)]
    return panel.imshow(square, vmin=0, vmax=top, cmap="cividis", rasterized=True)


def _square(condensed: NDArray) -> NDArray[np.float64]:
    n = round((1 + math.sqrt(1 + 8 * condensed.size)) / 2)
    square = np.zeros((n, n))
    square[np.triu_indices(n, 1)] = condensed
    return square + square.T
