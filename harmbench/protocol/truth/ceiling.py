"""The ceiling: a supervised method that is trained on the true images of the fit subjects.

Unlike the oracle it does not see the truth when it harmonizes. It shows what can be learned from
images, and the oracle shows what is possible with the truth.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.errors import HarmbenchError, unknown
from harmbench.protocol.truth.local_regression import apply_local, fit_local
from harmbench.protocol.truth.oracle import require_truth

SCAN_DRAW = 2
"""Draw of the rescans for the fit. Metrics compare with draw 0, and the oracle returns draw 1."""


class Ceiling(Harmonizer):
    """Learns the mapping of each site to the reference site from paired scans of the fit subjects.

    Every fit subject is scanned again at every site. For each site, a ridge regression of each
    pixel on its neighborhood then predicts the noise-free scan at the reference site. With a few
    hundred aligned images this is better than a convolutional network trained on the same pairs
    for a minute, and a network that corrects its result adds nothing (measured: docs/methods.md).

    Parameters
    ----------
    side : int
        Side of the neighborhood in pixels, odd.
    ridge : float
        Penalty, see `harmbench.protocol.truth.local_regression.fit_local`; positive.

    Raises
    ------
    HarmbenchError
        For an even or negative side, or a ridge that is not positive.
    """

    def __init__(self, side: int = 5, ridge: float = 0.003) -> None:
        if side < 1 or side % 2 == 0 or ridge <= 0:
            raise HarmbenchError(
                f"ceiling: side is {side!r} and ridge {ridge!r}; give an odd side and a ridge > 0"
            )
        self.side = side
        self.ridge = ridge

    @property
    def info(self) -> MethodInfo:
        """Sees the truth when it is fitted and the site when it harmonizes."""
        return MethodInfo(
            name="ceiling",
            label="Supervised ceiling",
            summary="Learns from paired scans of the fit subjects (simulated data only).",
            fit_sees=frozenset({"site", "truth"}),
            harmonize_sees=frozenset({"site"}),
            control=True,
            own_background=False,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Fit one regression per site.

        Raises
        ------
        HarmbenchError
            If the data set has no truth, or the fit has no scan of the reference site.
        """
        truth = require_truth(context, "ceiling")
        if context.reference_site not in cohort.sites:
            raise unknown("reference site", context.reference_site, cohort.sites)
        self.reference_site, self.sites = context.reference_site, cohort.sites
        answers = np.asarray(truth(self.reference_site, cohort.keys, clean=True))
        weights = []
        with context.progress.task("ceiling", len(self.sites)) as task:
            for site in self.sites:
                scans = np.asarray(truth(site, cohort.keys, clean=False, draw=SCAN_DRAW))
                weights.append(fit_local(scans, answers, self.side, self.ridge))
                task.advance()
        self.weights = np.stack(weights)
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the predicted images, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            For a scan of a site that is not in the fit, or a target other than the reference site.
        """
        if target not in (None, self.reference_site):
            what = "each scan's own site" if target == OWN_SITE else f"'{target}'"
            raise HarmbenchError(
                f"ceiling renders only to the reference site of its fit, '{self.reference_site}', "
                f"not to {what}; fit it again with another reference site"
            )
        sites = cohort.column("site").astype(str)
        unseen = sorted(set(sites) - set(self.sites))
        if unseen:
            raise HarmbenchError(
                f"ceiling was fitted on the sites {', '.join(self.sites)} and cannot harmonize "
                f"scans of: {', '.join(unseen)}; fit it on a cohort with them or leave them out"
            )
        out = np.empty_like(cohort.images)
        for site, weights in zip(self.sites, self.weights, strict=True):
            rows = sites == site
            if rows.any():
                out[rows] = apply_local(cohort.images[rows], weights)
        return out
