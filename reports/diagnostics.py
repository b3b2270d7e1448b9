"""Figures of site confusion, predicted ages, and distances between subjects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.drawing import (
    Drawn,
    NoFigure,
    chunks,
    colors,
    first_column,
    new_figure,
    numbered,
    short,
    site_legend,
    site_looks,
    small_multiples,
)
from reports.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 4.5
"""Side in inches of a confusion matrix of many sites."""
MOST_LABELS = 20
"""Most sites named on its axes; with more sites, only every second, third, ... one is named."""


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
    caption = (
        "Rows are true sites, columns the sites that a classifier predicts from harmonized "
        "images. A bright diagonal means that the site can still be read, even rows that it cannot."
    )
    names = [str(site) for site in found[0][2]]
    size = min(max(2.0, 0.22 * len(names) + 0.9), LARGEST)
    # The names of the rows and the color bar take a fifth of the width.
    height = 0.8 * size + 0.3 + 0.075 * min(max(map(len, names)), 12)

    def finish(figure: Figure, axes: list[Axes], picture: Any) -> None:
        for panel in axes:
            if not first_column(panel):
                panel.set_yticklabels([""] * len(panel.get_yticks()))
        bar = figure.colorbar(picture, ax=axes, shrink=0.6, aspect=30)
        bar.set_label("share of the true site's scans")

    head = ("confusion", "Site confusion", caption)
    return small_multiples(head, found, _confusion, finish, size=(size, height))


def _confusion(panel: Axes, row: Row, counts: NDArray, sites: NDArray) -> Any:
    matrix = np.asarray(counts, dtype=float)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12)
    picture = panel.imshow(shares, vmin=0, vmax=1, cmap="cividis")
    every = slice(None, None, -(-len(sites) // MOST_LABELS))
    labels = [short(str(site), 12) for site in sites][every]
    panel.set_xticks(range(len(sites))[every], labels, rotation=90)
    panel.set_yticks(range(len(sites))[every], labels)
    panel.set_title(short(row.marked), loc="left")
    panel.set_ylabel("true site")
    if len(sites) <= 8:
        for (y, x), share in np.ndenumerate(shares):
            tint = "white" if share < 0.55 else "black"
            panel.text(x, y, f"{share:.2f}"[-3:] if share < 0.995 else "1", ha="center",
                       va="center", fontsize=6, color=tint)  # fmt: skip
    return picture


def age_scatters(results: Results) -> list[Drawn]:
    """Return predicted against true age of every method's test scans, colored by site."""
    held = [(row, results.per_scan(row, "age_mae")) for row in results.first_seeds]
    found = [(row, table) for row, table in held if table is not None and "predicted" in table]
    if not found:
        raise NoFigure("no age probe was trained (metric age_mae)")
    ages = pd.concat([table[["age", "predicted"]] for _, table in found]).to_numpy(dtype=float)
    limits = (float(np.nanmin(ages)) - 3, float(np.nanmax(ages)) + 3)
    looks = site_looks(results)

    def draw(panel: Axes, row: Row, table: pd.DataFrame) -> None:
        panel.plot(limits, limits, color="0.7", lw=0.8, zorder=0)
        for site, (color, marker) in looks.items():
            # Sorted by age, so that a file of vector graphics does not keep the cohort's order.
            mine = table[table["site"] == site].sort_values("age")
            panel.plot(mine["age"], mine["predicted"], marker, ms=2.6, mew=0, alpha=0.7,
                       color=color, label=short(site))  # fmt: skip
        panel.set(xlim=limits, ylim=limits, aspect="equal", xlabel="true age (years)")
        panel.set_title(short(row.marked), loc="left")
        panel.set_ylabel("predicted age (years)")

    caption = (
        "Each dot is a test scan. On the diagonal the age is read without error; a flat cloud "
        "means that age can no longer be read from the image."
    )
    head = ("age", "Predicted against true age", caption)
    return small_multiples(head, found, draw, _age_legend, size=(2.4, 2.5))


def _age_legend(figure: Figure, axes: list[Axes], _: Any) -> None:
    site_legend(figure, axes[0], markerscale=2)


# -- distances ----------------------------------------------------------------------------------


def distance_matrices(results: Results) -> list[Drawn]:
    """Return the distances between subjects of one site, before and after."""
    held = [(row, results.arrays(row, "distance_pcc")[:1]) for row in results.first_seeds]
    found = [(row, arrays[0]) for row, arrays in held if arrays]
    names = [n.removeprefix("after.") for _, arrays in found for n in arrays if "after." in n]
    sites = [site for site in dict.fromkeys(names) if site != results.reference_site] or names
    if not sites:
        raise NoFigure("no distances between subjects were kept (metric distance_pcc)")
    sizes = {s: max(a[f"after.{s}"].size for _, a in found if f"after.{s}" in a) for s in sites}
    site = max(sorted(sizes), key=lambda name: sizes[name])
    found = [(row, arrays) for row, arrays in found if f"after.{site}" in arrays]
    title = f"Distances between subjects of {site}"
    caption = (
        "Pairwise distances between the images of this site, before and after. Dots on a straight "
        "line mean that subjects are as similar to each other as before; a low line means that "
        "all became alike. All matrices have the same order of subjects, the most typical ones "
        "before harmonization first."
    )
    return [
        Drawn(numbered("distances", i), title, caption, _distance_figure(part, site))
        for i, part in enumerate(chunks(found, 5))
    ]


def _distance_figure(part: list[tuple[Row, dict[str, NDArray]]], site: str) -> Figure:
    before = part[0][1][f"before.{site}"]
    top = max(float(a[f"{side}.{site}"].max()) for _, a in part for side in ("before", "after"))
    figure = new_figure(2.0 * (len(part) + 1), 4.0)
    axes = figure.subplots(2, len(part) + 1, squeeze=False)
    # This order shows more than the order of the cohort, and does not reveal it.
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
    from scipy.spatial.distance import squareform

    return squareform(condensed.astype(float), checks=False)
