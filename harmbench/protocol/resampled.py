"""Values of the probes with intervals: test subjects and probe seeds are resampled together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricResult
from harmbench.stats import (
    REPLICATES,
    over_seeds,
    percentile_interval,
    seed_weights,
    subject_counts,
    weighted_balanced_accuracy,
    weighted_mean,
)

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp], Floats], Floats]
"""``statistic(rows, weights)``: value of these rows under weights (b, rows); shape (b, seeds)."""
Suits = Callable[[NDArray[np.bool_]], bool]
"""``suits(rows)``: whether a statistic is defined on the rows of one site."""


def mean_of(values: NDArray) -> Statistic:
    """Return the statistic that averages values of shape (seeds, n)."""
    return lambda rows, weights: weighted_mean(values[:, rows], weights)


def balanced_accuracy_of(truth: NDArray, predicted: NDArray) -> Statistic:
    """Return the balanced accuracy of predictions (seeds, n) of the classes (n,)."""
    return lambda rows, weights: weighted_balanced_accuracy(
        truth[rows], predicted[:, rows], weights
    )


def unweighted(statistic: Statistic, rows: NDArray[np.bool_]) -> float:
    """Return a statistic of some rows without weights, averaged over the probe seeds."""
    chosen = np.flatnonzero(rows)
    return float(statistic(chosen, np.ones((1, len(chosen)))).mean())


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

    def result(
        self,
        statistic: Statistic,
        rows: NDArray[np.bool_],
        groups: Suits | None = np.any,
        **fields: Any,
    ) -> MetricResult:
        """Return the result of a metric: its mean over the probe seeds, on some rows.

        Parameters
        ----------
        statistic : callable
            See `Statistic`.
        rows : ndarray of bool, shape (n,)
        groups : callable or None
            Which sites get a value of their own, see `Suits`; None for no site.
        **fields
            Further fields of `MetricResult`.
        """
        overall, replicates = self._resampled(statistic, rows)
        at = {str(site): rows & (self.sites == site) for site in np.unique(self.sites)}
        by_site = {
            site: self._resampled(statistic, own)[0]
            for site, own in at.items()
            if groups is not None and groups(own)
        }
        return MetricResult(overall, groups=by_site, replicates=replicates, **fields)

    def _resampled(self, statistic: Statistic, rows: NDArray[np.bool_]) -> tuple[Estimate, Floats]:
        chosen = np.flatnonzero(rows)
        replicates = over_seeds(statistic(chosen, self.rows[:, chosen]), self.seeds)
        return self.estimate(unweighted(statistic, rows), replicates, rows), replicates

    def estimate(self, value: float, replicates: Floats, rows: NDArray[np.bool_]) -> Estimate:
        """Return a value of some rows with the percentile interval of its replicates (b,).

        The degrees of freedom are the subjects minus the sites of the rows.
        """
        n = len(np.unique(self.subjects[rows]))
        df = n - len(np.unique(self.sites[rows]))
        return Estimate(float(value), *percentile_interval(replicates, df=df), n)
