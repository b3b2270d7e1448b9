"""Anchors: controls that see the simulator's truth and so mark the best a method can do."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from harmbench.cohort import Cohort
from harmbench.errors import HarmbenchError
from harmbench.method import OWN_SITE, ApplyContext, FitContext, Harmonizer, MethodInfo, Truth
from harmbench.weights import load_model, save_model

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
        if context.truth is None:
            raise HarmbenchError(
                "oracle needs a data set that knows each subject's scan at every site, and this "
                "one does not; leave it out or use a simulated data set such as 'phantom'"
            )
        if target == OWN_SITE:
            return _rescan_at_own_site(cohort, context.truth)
        return np.asarray(
            context.truth(target or self.reference_site, cohort.keys, clean=False, draw=ORACLE_DRAW)
        )

    def save(self, folder: Path) -> None:
        """Write the name of the reference site."""
        save_model(folder, {}, {"reference_site": self.reference_site})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        method = cls()
        method.reference_site = load_model(folder)[1]["reference_site"]
        return method


def _rescan_at_own_site(cohort: Cohort, truth: Truth) -> NDArray[np.float32]:
    keys, sites = cohort.keys, cohort.column("site")
    out = np.empty_like(cohort.images)
    for site in cohort.sites:
        rows = np.flatnonzero(sites == site)
        out[rows] = truth(site, [keys[row] for row in rows], clean=False, draw=ORACLE_DRAW)
    return out
