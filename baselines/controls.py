"""Controls: methods whose correct scores are known, so that metrics can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from baselines.sites import reference_rows, require_known, require_reference
from harmbench.contracts.cohort import Cohort, RowKey, Space
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.errors import HarmbenchError, unknown
from harmbench.files.models import load_model, save_model
from harmbench.seeding import seed_from

NOTHING: frozenset[str] = frozenset()
IMAGES: frozenset[Space] = frozenset({"slice", "volume"})
EVERY_SPACE: frozenset[Space] = frozenset({"slice", "volume", "table"})


class Identity(Harmonizer):
    """Returns every image unchanged: no site removal, perfect individual distances."""

    @property
    def info(self) -> MethodInfo:
        """The method uses images only, and its result does not depend on the target."""
        return MethodInfo(
            name="identity",
            label="Unharmonized",
            summary="Leaves every image as it is.",
            fit_sees=NOTHING,
            harmonize_sees=NOTHING,
            targets="any",
            spaces=EVERY_SPACE,
            control=True,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn nothing."""
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return a copy of the images, shape (n, *shape)."""
        return cohort.images.copy()


class SiteShift(Harmonizer):
    """Shifts the mean of every site to that of the target: ``x - mean(site) + mean(target)``.

    This removes the mean of the site in every voxel, including the differences between the
    populations of sites, and keeps all distances within a site.
    """

    @property
    def info(self) -> MethodInfo:
        """The method uses the site and renders at any site of its fit."""
        return MethodInfo(
            name="site-shift",
            label="Site mean shift",
            summary="Moves the mean image of every site to that of the target site.",
            targets="any",
            spaces=EVERY_SPACE,
            control=True,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn the mean image of every site in float64."""
        reference_rows(cohort, context.reference_site)
        sites = cohort.column("site")
        self.reference_site = context.reference_site
        self.means = {
            name: cohort.images[sites == name].mean(axis=0, dtype=np.float64)
            for name in cohort.sites
        }
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the shifted images, shape (n, *shape); ``"own"`` changes nothing.

        Raises
        ------
        HarmbenchError
            For a scan or a target of a site that the fit has not seen.
        """
        sites = cohort.column("site")
        require_known(sites, self.means, "site-shift")
        target = target or self.reference_site
        if target != OWN_SITE and target not in self.means:
            raise unknown("target site", target, self.means)
        out = cohort.images.copy()
        for name in np.unique(sites.astype(str)):
            shift = self.means[name if target == OWN_SITE else target] - self.means[name]
            out[sites == name] += shift.astype(np.float32)
        return out


@dataclass(eq=False)
class HistogramMatching(Harmonizer):
    """Gives every image the intensity histogram of the reference site, pooled over its scans.

    In each image's own mask, a voxel of rank r among n gets the quantile (r - 0.5) / n of the
    pooled histogram. Equal voxels stay equal (average ranks), and the order of voxels is kept.
    Outside the mask nothing changes. This removes all site effects and biology in the histogram.

    Parameters
    ----------
    levels : int
        Number of equally spaced quantiles of the reference histogram, with linear interpolation.
    """

    levels: int = 1001

    @property
    def info(self) -> MethodInfo:
        """The method uses the site in its fit only and renders at the reference site only."""
        return MethodInfo(
            name="histogram",
            label="Histogram matching",
            summary="Matches every image's histogram to that of the reference site.",
            harmonize_sees=NOTHING,
            spaces=IMAGES,
            control=True,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn the quantiles of all masked voxels of the reference site."""
        rows = reference_rows(cohort, context.reference_site)
        values = cohort.images[rows][cohort.mask[rows]]
        if values.size == 0:
            raise HarmbenchError(
                f"the masks of reference site '{context.reference_site}' are empty; "
                "histogram needs masks that hold some foreground"
            )
        self.reference_site = context.reference_site
        # Hazen's positions are the (r - 0.5) / n of `harmonize`, which keeps the pool unchanged.
        grid = np.linspace(0, 1, self.levels)
        self.quantiles = np.quantile(values.astype(np.float64), grid, method="hazen")
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the matched images, shape (n, *shape), in the range of the reference site."""
        require_reference(target, self.reference_site, "histogram")
        grid = np.linspace(0, 1, self.levels)
        out = cohort.images.copy()
        for image, mask in zip(out, cohort.mask, strict=True):
            if mask.any():
                ranks = rankdata(image[mask])
                image[mask] = np.interp((ranks - 0.5) / ranks.size, grid, self.quantiles)
        return out


class MeanImage(Harmonizer):
    """Returns the mean image of the reference site for every scan: no site and no person left."""

    @property
    def info(self) -> MethodInfo:
        """The method uses the site in its fit only and renders at the reference site only."""
        return MethodInfo(
            name="mean-image",
            label="Mean image",
            summary="Replaces every image by the mean image of the reference site.",
            harmonize_sees=NOTHING,
            spaces=EVERY_SPACE,
            control=True,
            own_background=False,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn the mean image of the reference site."""
        rows = reference_rows(cohort, context.reference_site)
        self.reference_site = context.reference_site
        self.mean = cohort.images[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the mean image n times, shape (n, *shape)."""
        require_reference(target, self.reference_site, "mean-image")
        return np.repeat(self.mean[None], len(cohort), axis=0)


@dataclass(eq=False)
class Blur(Harmonizer):
    """Blurs every image with a Gaussian, which removes fine details of site and anatomy.

    Parameters
    ----------
    sigma : float
        Standard deviation as a share of the smallest side of the image (1/32: two pixels of 64).
    """

    sigma: float = 1 / 32

    @property
    def info(self) -> MethodInfo:
        """The method uses images only, and its result does not depend on the target."""
        return MethodInfo(
            name="blur",
            label="Blur",
            summary="Blurs every image with a Gaussian.",
            fit_sees=NOTHING,
            harmonize_sees=NOTHING,
            targets="any",
            spaces=IMAGES,
            control=True,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn nothing."""
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the blurred images, shape (n, *shape)."""
        width = self.sigma * min(cohort.shape)
        return gaussian_filter(cohort.images, (0.0, *(width for _ in cohort.shape)))


class Shuffle(Harmonizer):
    """Returns an image of another subject at the reference site: no site and no person left.

    The image is from the fit part, of the same slice if there is one. It is chosen by a hash of the
    row's key and the seed, so that it does not depend on the other rows or on their order.
    """

    @property
    def info(self) -> MethodInfo:
        """The method uses the site as a part of the key and renders at the reference site only."""
        return MethodInfo(
            name="shuffle",
            label="Shuffle",
            summary="Replaces every image by a real reference-site image of another subject.",
            spaces=EVERY_SPACE,
            stochastic=True,
            control=True,
            own_background=False,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Keep the images of the reference site, ordered by key."""
        keys = cohort.keys
        rows = reference_rows(cohort, context.reference_site)
        rows = np.array(sorted(rows, key=lambda row: keys[row]))
        self.reference_site = context.reference_site
        self.donors = [keys[row] for row in rows]
        self.images = cohort.images[rows]
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the chosen images, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            If the reference site has no scan of another subject.
        """
        require_reference(target, self.reference_site, "shuffle")
        donors = [self._donor(key, context.seed) for key in cohort.keys]
        return self.images[np.array(donors, dtype=np.intp)]

    def _donor(self, key: RowKey, seed: int) -> int:
        others = [i for i, d in enumerate(self.donors) if d.participant_id != key.participant_id]
        if not others:
            raise HarmbenchError(
                f"shuffle has no scan of a subject other than '{key.participant_id}' at reference "
                f"site '{self.reference_site}'; choose a reference site with more subjects"
            )
        same_slice = [i for i in others if self.donors[i].slice == key.slice] or others
        return same_slice[seed_from("shuffle", seed, *key) % len(same_slice)]

    def save(self, folder: Path) -> None:
        """Write the images of the reference site and their keys."""
        config = {"donors": [list(d) for d in self.donors], "reference_site": self.reference_site}
        save_model(folder, {"images": self.images}, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the method that `save` wrote."""
        arrays, config = load_model(folder)
        method = cls()
        method.reference_site, method.images = config["reference_site"], arrays["images"]
        method.donors = [RowKey(*donor) for donor in config["donors"]]
        return method
