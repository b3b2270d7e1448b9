"""Values of the probes with intervals: test subjects and probe seeds resampled together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate
from harmbench.stats import (
    REPLICATES,
    over_seeds,
    percentile_interval,
    seed_weights,
    subject_counts,
)

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp], Floats], Floats]
"""``statistic(rows, weights)``: of those rows under weights (b, rows); (b, seeds)."""


class Resampled(NamedTuple):
    """A value and its replicates (b,)."""

    estimate: Estimate
    replicates: Floats


class Resampler:
    """Common resamples of a test set, drawn before any row is left out.

    Parameters
    ----------
    test : Cohort
        The whole test part; its images are not read.
    n_seeds : int
        Number of probe seeds.
    rng : numpy Generator
        Seeded without the method's name.
    """

    def __init__(self, test: Cohort, n_seeds: int, rng: np.random.Generator) -> None:
        self.subjects = test.column("participant_id").astype(str)
        self.sites = test.column("site").astype(str)
        self.rows = subject_counts(self.subjects, REPLICATES, rng, strata=self.sites)
        self.seeds = seed_weights(n_seeds, REPLICATES, rng)

    def __call__(self, statistic: Statistic, rows: NDArray[np.bool_]) -> Resampled:
        """Return the mean of a statistic over the probe seeds, on some rows."""
        chosen = np.flatnonzero(rows)
        value = float(statistic(chosen, np.ones((1, len(chosen)))).mean())
        replicates = over_seeds(statistic(chosen, self.rows[:, chosen]), self.seeds)
        low, high = percentile_interval(replicates, df=self.df(rows))
        n = len(np.unique(self.subjects[chosen]))
        return Resampled(Estimate(value, low, high, n), replicates)

    def df(self, rows: NDArray[np.bool_]) -> int:
        """Return the degrees of freedom of some rows: their subjects less their sites."""
        return len(np.unique(self.subjects[rows])) - len(np.unique(self.sites[rows]))

    def by_site(
        self,
        statistic: Statistic,
        rows: NDArray[np.bool_],
        suits: Callable[[NDArray[np.bool_]], bool] = np.any,
    ) -> dict[str, Estimate]:
        """Return the same for the rows of each site that `suits`."""
        groups = {site: rows & (self.sites == site) for site in np.unique(self.sites)}
        return {
            str(site): self(statistic, own).estimate for site, own in groups.items() if suits(own)
        }
