"""Where each image lies in one plane, before and after every method: by site, and by age.

The axes are made once, from unharmonized images that the methods were fitted on, and shown test
images are only projected on them. So the dots of one panel do not depend on which other methods
stand beside it, distances can be compared between panels, and no axis was chosen to make the shown
images fall apart.

Why neither plain principal components nor t-SNE or UMAP. The first components of brain images are
the height of the slice and the size of the head; a site effect that a glance at the images betrays
may lie in the fifth, and two components would call it gone. t-SNE and UMAP show neighborhoods only:
the gaps between and the sizes of their clusters mean nothing, panels made one by one cannot be
compared, panels made together change with every method, and both draw clusters into noise. Two
directions cannot show all either; so each panel says how much of *all* its variance lies between
sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reports.drawing import (
    Drawn,
    NoFigure,
    chunks,
    columns_of,
    numbered,
    panels,
    short,
    site_legend,
    site_looks,
)
from reports.results import Results
from reports.scene import Floats, Scene, read_scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 5
PER_FIGURE = 15
OUTER = 0.5
"""Percent of the dots at each end that may lie outside of the panels."""


@dataclass(frozen=True)
class Plane:
    """Two orthogonal directions in the space of pixels.

    Attributes
    ----------
    mean : ndarray, shape (p,)
        What is subtracted from every image.
    axes : ndarray, shape (2, p)
        Of unit length.
    names : tuple of str
        What the axes are.
    """

    mean: Floats
    axes: Floats
    names: tuple[str, str]

    def project(self, pixels: Floats) -> Floats:
        """Return where images (n, p) lie, (n, 2)."""
        return (pixels - self.mean) @ self.axes.T


def site_plane(pixels: Floats, sites: NDArray[np.str_]) -> Plane:
    """Return the plane in which the mean images of the sites differ most.

    These are the principal components of the site means, each site counting once (between-class
    analysis, Doledec & Chessel 1987). Two sites differ in one direction only; the second is then
    the first principal component of what is left.

    Parameters
    ----------
    pixels : ndarray, shape (n, p)
    sites : ndarray of str, shape (n,)
    """
    names, place = np.unique(sites, return_inverse=True)
    means = np.stack([pixels[place == i].mean(0) for i in range(len(names))])
    directions = [*_directions(means - means.mean(0))[: min(2, len(names) - 1)]]
    words = ["sites differ most", "sites differ second most"][: len(directions)]
    if len(directions) < 2:
        within = pixels - means[place]
        directions.append(_directions(within - _onto(within, directions))[0])
        words.append("images of one site differ most")
    return Plane(means.mean(0), np.stack(directions), (words[0], words[1]))


def age_plane(pixels: Floats, sites: NDArray[np.str_], ages: Floats) -> Plane:
    """Return the direction in which sites differ most, and across it that of age.

    The second is the covariance of each pixel with age within sites, less its part along the
    first (the first direction of partial least squares). Within sites, since sites differ in age.

    Parameters
    ----------
    pixels : ndarray, shape (n, p)
    sites : ndarray of str, shape (n,)
    ages : ndarray, shape (n,)
        Years; rows without an age say nothing.
    """
    plane = site_plane(pixels, sites)
    known = np.isfinite(ages)
    years = _within(ages[known, None], sites[known])[:, 0]
    slope = years @ _within(pixels[known], sites[known])
    slope -= _onto(slope[None], [plane.axes[0]])[0]
    length = float(np.linalg.norm(slope))
    if not length > 0:
        raise NoFigure("the known ages do not differ within any site")
    # Older is up.
    axes = np.stack([plane.axes[0], slope / length])
    return Plane(plane.mean, axes, (plane.names[0], "follows age within sites"))


def between_share(values: Floats, sites: NDArray[np.str_]) -> float:
    """Return the share of all variance (n, p) that lies between sites: 0 none, 1 all of it."""
    centered = values - values.mean(0)
    total = float((centered**2).sum())
    return 1 - float((_within(values, sites) ** 2).sum()) / total if total else float("nan")


def _directions(rows: Floats, keep: int = 2) -> Floats:
    """Return the first right singular vectors, signed so that the same data give the same."""
    vectors = np.linalg.svd(rows, full_matrices=False)[2][:keep]
    largest = np.abs(vectors).argmax(1)
    return vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]


def _onto(rows: Floats, directions: list[Floats]) -> Floats:
    if not directions:
        return np.zeros_like(rows)
    basis = np.stack(directions)
    return rows @ basis.T @ basis


def _within(values: Floats, sites: NDArray[np.str_]) -> Floats:
    """Return what is left when each site's mean is subtracted."""
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
        f"One small dot a test image, one large dot the mean of a site, the reference site in "
        f"black; the same axes in all panels, made from {scene.words}: the two directions in "
        f"which the mean images of the sites differ most. {_shares(plane, scene)} The number in a "
        "panel is the share of all variance of its images, in all directions, that lies between "
        "sites; where the sites' people differ, it is not 0 for the truth either. Sites that "
        "overlap here may still be told apart: see the site accuracy."
    )

    def draw(panel: Axes, at: Floats, pixels: Floats) -> Any:
        _order_free(panel, at, scene.sites, looks)
        share = between_share(pixels, scene.sites)
        _say(
            panel, "all images alike" if np.isnan(share) else f"between sites: {100 * share:.1f} %"
        )

    return _figures(scene, plane, draw, ("embedding-site", "Embedding, by site"), caption, looks)


def by_age(results: Results) -> list[Drawn]:
    """Return the test images by what sites differ in and what follows age, colored by age."""
    scene = read_scene(results)
    if np.isfinite(scene.ages).sum() < 3 or np.isfinite(scene.base_ages).sum() < 3:
        raise NoFigure("ages are not known")
    plane = age_plane(scene.base, scene.base_sites, scene.base_ages)
    caption = (
        f"One dot a test image, colored by age; the same axes in all panels, made from "
        f"{scene.words}: across, the direction in which the mean images of the sites differ most; "
        f"up, the one that goes with age within sites. {_shares(plane, scene)} r is the "
        "correlation of age with the height, within sites: what is lost of it is lost biology, "
        "and what lies apart across and not up is what should go. Gray crosses have no known age."
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

    return _figures(scene, plane, draw, ("embedding-age", "Embedding, by age"), caption, {})


def _figures(
    scene: Scene,
    plane: Plane,
    draw: Any,
    head: tuple[str, str],
    caption: str,
    looks: Mapping[str, tuple[str, str]],
) -> list[Drawn]:
    name, title = head
    places = {panel: plane.project(pixels) for panel, pixels in scene.panels.items()}
    limits = _limits([at for panel, at in places.items() if panel not in scene.controls])
    drawn = []
    for i, part in enumerate(chunks(list(places), PER_FIGURE)):
        figure, axes = panels(len(part), COLUMNS, (1.95, 2.1))
        for k, (panel, each) in enumerate(zip(axes, part, strict=True)):
            dots = draw(panel, places[each], scene.panels[each])
            _frame(panel, places[each], limits, short(each, 20))
            across, up = (f"{name} →" for name in plane.names)
            panel.set_xlabel(across, fontsize=7)
            panel.set_ylabel("" if k % columns_of(axes) else up, fontsize=7)
        if looks:
            site_legend(figure, axes[0])
        else:
            bar = figure.colorbar(dots, ax=axes, shrink=0.7, aspect=30, pad=0.01)
            bar.set_label("age (years)")
        drawn.append(Drawn(numbered(name, i), title, caption, figure))
    return drawn


def _frame(panel: Axes, at: Floats, limits: Floats, title: str) -> None:
    """Give a panel the common limits, and say how many dots lie outside of them."""
    panel.set(xlim=limits[:, 0], ylim=limits[:, 1], xticks=[], yticks=[])
    panel.set_title(title, loc="left")
    outside = int(((at < limits[0]) | (at > limits[1])).any(1).sum())
    if outside:
        panel.text(0.98, 0.02, f"{outside} outside", transform=panel.transAxes, ha="right",
                   va="bottom", fontsize=6.5, color="0.4")  # fmt: skip


def _order_free(
    panel: Axes, at: Floats, sites: NDArray[np.str_], looks: Mapping[str, tuple[str, str]]
) -> None:
    """Draw the dots of all sites mixed, so that no site lies on top, then the site means."""
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


def _limits(places: list[Floats]) -> Floats:
    """Return the corners, (2, 2), that hold nearly all dots of all panels but the controls."""
    low, high = np.percentile(np.concatenate(places), [OUTER, 100 - OUTER], axis=0)
    room = 0.12 * (high - low) + 1e-9
    return np.stack([low - room, high + room])


def _shares(plane: Plane, scene: Scene) -> str:
    """Return how much of the unharmonized test images the two axes show."""
    before = scene.panels["before"]
    total = float(((before - before.mean(0)) ** 2).sum()) or np.nan
    across, up = plane.project(before).T
    shares = [100 * float(((v - v.mean()) ** 2).sum()) / total for v in (across, up)]
    return (
        f"They hold {shares[0]:.0f} % (across) and {shares[1]:.0f} % (up) of the variance of the "
        "unharmonized test images."
    )
