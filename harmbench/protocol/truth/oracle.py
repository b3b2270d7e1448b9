"""Controls that see the simulated truth and therefore show the best possible result."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import (
    OWN_SITE,
    ApplyContext,
    FitContext,
    Harmonizer,
    MethodInfo,
    Truth,
)
from harmbench.errors import HarmbenchError

ORACLE_DRAW = 1
"""Metrics compare with draw 0, so that the oracle does not have the same noise."""


class Oracle(Harmonizer):
    """Returns each subject's independent noisy rescan at the target site: perfect harmonization.

    It does not use its input images. The only remaining site effect in its images is the difference
    between the populations of the sites, and its distance to the truth is that of two scans of a
    subject.
    """

    @property
    def info(self) -> MethodInfo:
        """Sees the truth, and the site as a part of the row's key; renders to any site."""
        return MethodInfo(
            name="oracle",
            label="Oracle",
            summary="Scans every subject again at the target site (simulated data only).",
            fit_sees=frozenset({"truth"}),
            harmonize_sees=frozenset({"site", "truth"}),
            targets="any",
            spaces=frozenset({"slice", "volume", "table"}),
            control=True,
            own_background=False,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Store the reference site."""
        self.reference_site = context.reference_site
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the rescans, shape (n, *shape); ``"own"`` rescans each subject at its own site.

        Raises
        ------
        HarmbenchError
            If the data set has no truth.
        """
        truth = require_truth(context, self.info.name)
        if target != OWN_SITE:
            site = target or self.reference_site
            return np.asarray(truth(site, cohort.keys, clean=False, draw=ORACLE_DRAW))
        keys, sites = cohort.keys, cohort.column("site")
        out = np.empty_like(cohort.images)
        for site in cohort.sites:
            rows = np.flatnonzero(sites == site)
            out[rows] = truth(site, [keys[row] for row in rows], clean=False, draw=ORACLE_DRAW)
        return out


class Dose(Oracle):
    """Mixes each image with the oracle's: ``alpha * image + (1 - alpha) * rescan``.

    A known share of the site effect remains. This shows whether a metric changes in one direction
    from the oracle (0) to no harmonization (1). The noise of the two images partly cancels, so a
    mixture is smoother than either.

    Parameters
    ----------
    alpha : float
        Share of the original image, from 0 to 1.

    Raises
    ------
    HarmbenchError
        For a share outside that range.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        if not 0 <= alpha <= 1:
            raise HarmbenchError(f"dose: alpha is {alpha!r}; give a share from 0 to 1")
        self.alpha = alpha

    @property
    def info(self) -> MethodInfo:
        """As the oracle's, with the share in the name."""
        return replace(
            super().info,
            name=f"dose-{self.alpha:g}",
            label=f"Dose {self.alpha:g}",
            summary=f"Keeps {100 * self.alpha:g} % of every image and takes the rest from the "
            "oracle's image (simulated data only).",
        )

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the mixtures, shape (n, *shape)."""
        rescans = super().harmonize(cohort, target, context=context)
        share = np.float32(self.alpha)
        return share * cohort.images + (1 - share) * rescans


def dose_quarter() -> Dose:
    """Return the control that keeps a quarter of every image."""
    return Dose(0.25)


def dose_half() -> Dose:
    """Return the control that keeps half of every image."""
    return Dose(0.5)


def dose_three_quarters() -> Dose:
    """Return the control that keeps three quarters of every image."""
    return Dose(0.75)


def require_truth(context: ApplyContext, method: str) -> Truth:
    """Return the simulated truth, or raise a `HarmbenchError` if the data set has none."""
    if context.truth is None:
        raise HarmbenchError(
            f"{method} needs a data set that knows each subject's scan at every site, and this "
            "one does not; leave it out or use a simulated data set such as 'phantom'"
        )
    return context.truth
