"""Controls: methods whose right scores are known beforehand, so that a metric can be checked."""

from __future__ import annotations

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
EVERY_SPACE: frozenset[Space] = frozenset({"slice", "volume", "table"})


class Identity(Harmonizer):
    """Returns every image as it is: the zero of site removal, the best of individual distances."""

    @property
    def info(self) -> MethodInfo:
        """Sees nothing; its answer is the same for every target."""
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
    """Moves every site's voxelwise mean to the target site's: ``x - mean(site) + mean(target)``.

    Removes what a linear probe can see of the site's mean, and with it the difference of the
    sites' populations; keeps all distances within a site.
    """

    @property
    def info(self) -> MethodInfo:
        """Sees the site; renders to any site of its fit."""
        return MethodInfo(
            name="site-shift",
            label="Site mean shift",
            summary="Moves the mean image of every site to that of the target site.",
            targets="any",
            spaces=EVERY_SPACE,
            control=True,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn the mean image of every site (in float64)."""
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


class HistogramMatching(Harmonizer):
    """Gives every image the intensity histogram of the reference site, pooled over its scans.

    Within each image's own mask a voxel of rank r among n goes to the pooled quantile
    (r - 0.5) / n; equal voxels stay equal (average ranks) and the order of voxels is kept.
    Outside the mask nothing changes. Removes what sits in the histogram: site and biology.

    Parameters
    ----------
    levels : int
        Number of equally spaced quantiles that describe the reference histogram; linear between.
    """

    def __init__(self, levels: int = 1001) -> None:
        self.levels = levels

    @property
    def info(self) -> MethodInfo:
        """Sees the site at its fit and nothing afterwards; reference site only."""
        return MethodInfo(
            name="histogram",
            label="Histogram matching",
            summary="Matches every image's histogram to that of the reference site.",
            harmonize_sees=NOTHING,
            spaces=frozenset({"slice", "volume"}),
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
        # Hazen's positions are the (r - 0.5) / n of `harmonize`: the pool itself stays as it is.
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
    """Returns the reference site's mean image for every scan: no site left, and no person."""

    @property
    def info(self) -> MethodInfo:
        """Sees the site at its fit and nothing afterwards; reference site only."""
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


class Blur(Harmonizer):
    """Blurs every image with a Gaussian: hides what is sharp, site and anatomy alike.

    Parameters
    ----------
    sigma : float
        Standard deviation as a share of the smallest side of the image (1/32: two pixels at 64).
    """

    def __init__(self, sigma: float = 1 / 32) -> None:
        self.sigma = sigma

    @property
    def info(self) -> MethodInfo:
        """Sees nothing; its answer is the same for every target."""
        return MethodInfo(
            name="blur",
            label="Blur",
            summary="Blurs every image with a Gaussian.",
            fit_sees=NOTHING,
            harmonize_sees=NOTHING,
            targets="any",
            spaces=frozenset({"slice", "volume"}),
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
    """Returns another subject's real image of the reference site: no site and nothing of oneself.

    Which one follows from a hash of the row's key and the seed alone, so it depends neither on
    the order nor on the other rows. Images come from the fit part; of the same slice where it has
    some.
    """

    @property
    def info(self) -> MethodInfo:
        """Sees the site, which is part of a row's key; reference site only."""
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
        rows = reference_rows(cohort, context.reference_site)
        keys = cohort.keys
        rows = np.array(sorted(rows, key=lambda row: keys[row]))
        self.reference_site = context.reference_site
        self.donors = [keys[row] for row in rows]
        self.images = cohort.images[rows]
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the drawn images, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            Where the reference site has no scan of another subject.
        """
        require_reference(target, self.reference_site, "shuffle")
        picks = [self._pick(key, context.seed) for key in cohort.keys]
        return self.images[np.array(picks, dtype=np.intp)]

    def _pick(self, key: RowKey, seed: int) -> int:
        others = [i for i, d in enumerate(self.donors) if d.participant_id != key.participant_id]
        if not others:
            raise HarmbenchError(
                f"shuffle has no scan of a subject other than '{key.participant_id}' at reference "
                f"site '{self.reference_site}'; choose a reference site with more subjects"
            )
        level = [i for i in others if self.donors[i].slice == key.slice] or others
        return level[seed_from("shuffle", seed, *key) % len(level)]

    def save(self, folder: Path) -> None:
        """Write the reference site's images and their keys."""
        config = {"donors": [list(d) for d in self.donors], "reference_site": self.reference_site}
        save_model(folder, {"images": self.images}, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        arrays, config = load_model(folder)
        method = cls()
        method.reference_site, method.images = config["reference_site"], arrays["images"]
        method.donors = [RowKey(*donor) for donor in config["donors"]]
        return method
