"""Position of each image in one plane, before and after every method: by site, and by age.

The axes are computed once, from unharmonized images that the methods were fitted on; the test
images are only projected on them. The dots of a panel therefore do not depend on the other methods,
distances can be compared between panels, and no axis was chosen to separate the shown images.

Neither plain principal components nor t-SNE or UMAP are used. The first components of brain images
are the height of the slice and the size of the head; an obvious site effect may lie in the fifth,
and two components would not show it. t-SNE and UMAP show neighborhoods only: the sizes of their
clusters and the gaps between them mean nothing, panels computed one by one cannot be compared,
panels computed together change with every method, and both draw clusters into noise. Two directions
cannot show everything either, so each panel states which share of *all* its variance lies between
sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reports.drawing import Drawn, NoFigure, short, site_legend, site_looks, small_multiples
from reports.results import Results
from reports.scene import Floats, Scene, read_scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTER = 0.5
"""Percentage of the dots at each end that may lie outside of the panels."""
Sites = NDArray[np.str_]


class Plane(NamedTuple):
    """Two orthogonal directions in the space of pixels.

    `mean` (p,) is subtracted from every image; `axes` (2, p) have unit length; `names` say what
    the axes are.
    """

    mean: Floats
    axes: Floats
    names: tuple[str, str]

    def project(self, pixels: Floats) -> Floats:
        """Return the positions (n, 2) of images (n, p)."""
        return (pixels - self.mean) @ self.axes.T


def site_plane(pixels: Floats, sites: Sites) -> Plane:
    """Return the plane in which the mean images of the sites differ most.

    These are the principal components of the site means, each site counting once (between-class
    analysis, Doledec & Chessel 1987). Two sites differ in one direction only; the second is then
    the first principal component of the rest.

    Parameters
    ----------
    pixels : ndarray, shape (n, p)
    sites : ndarray of str, shape (n,)
    """
    names, place = np.unique(sites, return_inverse=True)
    means = np.stack([pixels[place == i].mean(0) for i in range(len(names))])
    directions = _directions(means - means.mean(0))[: min(2, len(names) - 1)]
    words = ["sites differ most", "sites differ second most"][: len(directions)]
    if len(directions) < 2:
        within = pixels - means[place]
        rest = within - within @ directions.T @ directions
        directions = np.concatenate([directions, _directions(rest)[:1]])
        words.append("images of one site differ most")
    return Plane(means.mean(0), directions, (words[0], words[1]))


def age_plane(pixels: Floats, sites: Sites, ages: Floats) -> Plane:
    """Return the direction in which sites differ most, and the direction of age across it.

    The second is the covariance of each pixel with age within sites, minus its part along the
    first (the first direction of partial least squares). It is taken within sites because the
    sites differ in age.

    Parameters
    ----------
    pixels : ndarray, shape (n, p)
    sites : ndarray of str, shape (n,)
    ages : ndarray, shape (n,)
        Years; NaN if unknown.
    """
    plane = site_plane(pixels, sites)
    first = plane.axes[0]
    known = np.isfinite(ages)
    years = _within(ages[known, None], sites[known])[:, 0]
    slope = years @ _within(pixels[known], sites[known])
    slope -= (slope @ first) * first
    length = float(np.linalg.norm(slope))
    if not length > 0:
        raise NoFigure("the known ages do not differ within any site")
    # Older is up.
    axes = np.stack([first, slope / length])
    return Plane(plane.mean, axes, (plane.names[0], "follows age within sites"))


def between_share(values: Floats, sites: Sites) -> float:
    """Return the share of all variance (n, p) that lies between sites, from 0 to 1."""
    total = float(((values - values.mean(0)) ** 2).sum())
    return 1 - float((_within(values, sites) ** 2).sum()) / total if total else float("nan")


def _directions(rows: Floats) -> Floats:
    """Return the first two right singular vectors with a reproducible sign."""
    vectors = np.linalg.svd(rows, full_matrices=False)[2][:2]
    largest = np.abs(vectors).argmax(1)
    return vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]


def _within(values: Floats, sites: Sites) -> Floats:
    """Return the values minus the mean of their site."""
    left = np.array(values, dtype=float)
    for site in np.unique(sites):
        left[sites == site] -= left[sites == site].mean(0)
    return left


# -- figures --------------------------------------------------------------------------------------


def by_site(results: Results) -> list[Drawn]:
    """Return the test images in the plane in which sites differ most, colored by site."""
    scene = read_scene(results)
    if len(np.unique(scene.base_sites)) < 2:
        raise NoFigure("there is one site only")
    plane = site_plane(scene.base, scene.base_sites)
    looks = site_looks(results)
    caption = (
        "Each small dot is a test image, each large dot the mean of a site, the reference site in "
        f"black. All panels have the same axes, computed from {scene.words}: the two directions in "
        f"which the mean images of the sites differ most. {_shares(plane, scene)} The number in a "
        "panel is the share of all variance of its images, in all directions, that lies between "
        "sites; if the sites' subjects differ, it is not 0 for the truth either. Sites that "
        "overlap here may still be distinguishable: see the site accuracy."
    )

    def draw(panel: Axes, at: Floats, pixels: Floats) -> None:
        _dots_of_sites(panel, at, scene.sites, looks)
        share = between_share(pixels, scene.sites)
        text = "all images alike" if np.isnan(share) else f"between sites: {100 * share:.1f} %"
        _say(panel, text)

    def finish(figure: Figure, axes: list[Axes], _: None) -> None:
        site_legend(figure, axes[0])

    return _figures(scene, plane, draw, finish, ("embedding-site", "Embedding, by site", caption))


def by_age(results: Results) -> list[Drawn]:
    """Return the test images by site difference and age direction, colored by age."""
    scene = read_scene(results)
    if np.isfinite(scene.ages).sum() < 3 or np.isfinite(scene.base_ages).sum() < 3:
        raise NoFigure("ages are not known")
    plane = age_plane(scene.base, scene.base_sites, scene.base_ages)
    caption = (
        "Each dot is a test image, colored by age. All panels have the same axes, computed from "
        f"{scene.words}. Across: the direction in which the mean images of the sites differ most. "
        f"Up: the direction of age within sites. {_shares(plane, scene)} r is the correlation of "
        "age with the height, within sites: a smaller r is lost biology. Differences across that "
        "are not also differences up should be removed. Gray crosses have no known age."
    )
    known = np.isfinite(scene.ages)
    limits = (float(np.nanmin(scene.ages)), float(np.nanmax(scene.ages)))

    def draw(panel: Axes, at: Floats, pixels: Floats) -> Any:
        panel.plot(*at[~known].T, "x", color="0.6", ms=3, mew=0.6)
        dots = panel.scatter(at[known, 0], at[known, 1], c=scene.ages[known], s=6, lw=0,
                             cmap="viridis", vmin=limits[0], vmax=limits[1])  # fmt: skip
        years = _within(scene.ages[known, None], scene.sites[known])[:, 0]
        height = _within(at[known, 1:], scene.sites[known])[:, 0]
        if years.std() > 0 and height.std() > 0:
            _say(panel, f"r = {np.corrcoef(years, height)[0, 1]:.2f}")
        return dots

    def finish(figure: Figure, axes: list[Axes], dots: Any) -> None:
        bar = figure.colorbar(dots, ax=axes, shrink=0.7, aspect=30, pad=0.01)
        bar.set_label("age (years)")

    return _figures(scene, plane, draw, finish, ("embedding-age", "Embedding, by age", caption))


def _figures(
    scene: Scene, plane: Plane, draw: Callable, finish: Callable, head: tuple[str, str, str]
) -> list[Drawn]:
    places = {name: plane.project(pixels) for name, pixels in scene.panels.items()}
    shown = [at for name, at in places.items() if name not in scene.controls]
    # The limits hold nearly all dots of all panels except the controls.
    low, high = np.percentile(np.concatenate(shown), [OUTER, 100 - OUTER], axis=0)
    room = 0.12 * (high - low) + 1e-9

    def panel_of(panel: Axes, name: str, at: Floats) -> Any:
        dots = draw(panel, at, scene.panels[name])
        _frame(panel, at, low - room, high + room, short(name, 20))
        across, up = (f"{word} →" for word in plane.names)
        panel.set_xlabel(across, fontsize=7)
        panel.set_ylabel(up, fontsize=7)
        return dots

    items = [*places.items()]
    return small_multiples(head, items, panel_of, finish, size=(1.95, 2.1), columns=5, most=15)


def _frame(panel: Axes, at: Floats, low: Floats, high: Floats, title: str) -> None:
    """Set the common limits, and say how many dots lie outside."""
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    panel.set_title(title, loc="left")
    outside = int(((at < low) | (at > high)).any(1).sum())
    if outside:
        panel.text(0.98, 0.02, f"{outside} outside", transform=panel.transAxes, ha="right",
                   va="bottom", fontsize=6.5, color="0.4")  # fmt: skip


def _dots_of_sites(
    panel: Axes, at: Floats, sites: Sites, looks: Mapping[str, tuple[str, str]]
) -> None:
    """Draw the dots of all sites mixed, so that no site covers the others, then the means."""
    for marker in dict.fromkeys(marker for _, marker in looks.values()):
        mine = np.flatnonzero([looks[site][1] == marker for site in sites])
        mine = mine[np.argsort(at[mine, 1])]
        tints = [looks[site][0] for site in sites[mine]]
        panel.scatter(at[mine, 0], at[mine, 1], c=tints, marker=marker, s=7, lw=0, alpha=0.45)
    for site, (color, marker) in looks.items():
        if (sites == site).any():
            panel.plot(*at[sites == site].mean(0), marker, color=color, mec="white", mew=0.7, ms=7,
                       ls="", label=short(site))  # fmt: skip


def _say(panel: Axes, text: str) -> None:
    panel.text(0.02, 0.98, text, transform=panel.transAxes, va="top", fontsize=7, color="0.2",
               bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1})  # fmt: skip


def _shares(plane: Plane, scene: Scene) -> str:
    """Return how much of the variance of the unharmonized test images the two axes show."""
    before = scene.panels["before"]
    total = float(((before - before.mean(0)) ** 2).sum()) or np.nan
    shares = 100 * plane.project(before).var(0) * len(before) / total
    return (
        f"They hold {shares[0]:.0f} % (across) and {shares[1]:.0f} % (up) of the variance of the "
        "unharmonized test images."
    )
