"""Anchors: controls that see the simulator's truth and so mark the best a method can do."""

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
"""Metrics compare with draw 0, so that the oracle does not win by knowing the very noise."""


class Oracle(Harmonizer):
    """Returns each subject's independent noisy rescan at the target site: perfect harmonization.

    It reads no pixel of its input; what is left of the site in its images is what the sites'
    populations differ in, and its distance to the truth is that of two scans of one subject.
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
        """Remember the reference site."""
        self.reference_site = context.reference_site
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the rescans, shape (n, *shape); ``"own"`` rescans each subject where it was.

        Raises
        ------
        HarmbenchError
            Where the data set has no truth.
        """
        truth = require_truth(context, self.info.name)
        if target == OWN_SITE:
            return _rescan_at_own_site(cohort, truth)
        return np.asarray(
            truth(target or self.reference_site, cohort.keys, clean=False, draw=ORACLE_DRAW)
        )


class Dose(Oracle):
    """Mixes each image with the oracle's: ``alpha * image + (1 - alpha) * rescan``.

    A known share of the site effect is left, so a metric can be asked whether it moves one way
    from the oracle (0) to no harmonization (1). The noise of the two images partly cancels: a
    mixture is smoother than either.

    Parameters
    ----------
    alpha : float
        Share of the image as it was, from 0 to 1.

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
        """As the oracle's, under a name that says the share."""
        return replace(
            super().info,
            name=f"dose-{self.alpha:g}",
            label=f"Dose {self.alpha:g}",
            summary=f"Leaves {100 * self.alpha:g} % of every image and takes the rest from the "
            "oracle's (simulated data only).",
        )

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the mixtures, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            Where the data set has no truth.
        """
        rescans = super().harmonize(cohort, target, context=context)
        share = np.float32(self.alpha)
        return share * cohort.images + (1 - share) * rescans


def dose_quarter() -> Dose:
    """Return the control that leaves a quarter of every image."""
    return Dose(0.25)


def dose_half() -> Dose:
    """Return the control that leaves half of every image."""
    return Dose(0.5)


def dose_three_quarters() -> Dose:
    """Return the control that leaves three quarters of every image."""
    return Dose(0.75)


def require_truth(context: ApplyContext, method: str) -> Truth:
    """Return the simulator's answer.

    Raises
    ------
    HarmbenchError
        Where the data set has none.
    """
    if context.truth is None:
        raise HarmbenchError(
            f"{method} needs a data set that knows each subject's scan at every site, and this "
            "one does not; leave it out or use a simulated data set such as 'phantom'"
        )
    return context.truth


def _rescan_at_own_site(cohort: Cohort, truth: Truth) -> NDArray[np.float32]:
    keys, sites = cohort.keys, cohort.column("site")
    out = np.empty_like(cohort.images)
    for site in cohort.sites:
        rows = np.flatnonzero(sites == site)
        out[rows] = truth(site, [keys[row] for row in rows], clean=False, draw=ORACLE_DRAW)
    return out
