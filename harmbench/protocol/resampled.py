"""Values of metrics with intervals; test subjects and probe seeds are resampled together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult
from harmbench.stats import (
    REPLICATES,
    normal_interval,
    over_seeds,
    percentile_interval,
    seed_weights,
    subject_counts,
    subsample_se,
    weighted_balanced_accuracy,
    weighted_mean,
)

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp], Floats], Floats]
"""``statistic(rows, weights)``: value of these rows under weights (b, rows); shape (b, seeds)."""

KEEP = 0.8
"""Share of the subjects in each subset of delete-d subsampling."""


def mean_of(values: NDArray) -> Statistic:
    """Return the statistic that averages values of shape (seeds, n)."""
    return lambda rows, weights: weighted_mean(values[:, rows], weights)


def balanced_accuracy_of(truth: NDArray, predicted: NDArray) -> Statistic:
    """Return the balanced accuracy of predictions (seeds, n) of the classes (n,)."""
    return lambda rows, weights: weighted_balanced_accuracy(
        truth[rows], predicted[:, rows], weights
    )


def unweighted(statistic: Statistic, rows: NDArray[np.bool_]) -> float:
    """Return a statistic of the selected rows without weights, averaged over the probe seeds."""
    chosen = np.flatnonzero(rows)
    return float(statistic(chosen, np.ones((1, len(chosen)))).mean())


def subsample_estimate(value: float, subsets: Floats, n: int, low: float = 0.0) -> Estimate:
    """Return a value in [low, 1] with the normal interval of its values on delete-d subsets."""
    se = subsample_se(subsets, KEEP)
    return Estimate(float(value), *normal_interval(float(value), se, bounds=(low, 1.0)), n)


def subsample_replicates(value: float, subsets: Floats) -> Floats:
    """Return replicates (b,) around a value; their spread is the error of `subsample_estimate`."""
    return value + (subsets - subsets.mean()) * np.sqrt(KEEP / (1 - KEEP))


def half_sample_replicates(value: float, first: Floats, second: Floats, se: float) -> Floats:
    """Return replicates (b,) around a value with a given standard error.

    They follow the statistic on halves of the subjects (b,) and on the other halves (b,), so that
    the differences between methods are paired.
    """
    change = (first - second) / 2
    change -= change.mean()
    return value + change * (se / (change.std(ddof=1) or 1.0))


def cross_validated_spread(inputs: MetricInputs) -> float:
    """Return the factor on a standard error for the training of cross-validated probes.

    It is ``sqrt(1 + n_test / n_training)`` of one fold (Nadeau & Bengio 2003,
    10.1023/A:1024068626366, without the part that averages over repeats); 1 without
    cross-fitting.
    """
    if inputs.folds is None or inputs.probe_folds is None:
        return 1.0
    return float(np.sqrt(1 + len(inputs.folds) / len(inputs.probe_folds)))


class Resampler:
    """Resamples of a test set that all metrics share, drawn before any row is left out.

    Parameters
    ----------
    test : Cohort
        The whole test part; its images are not read.
    n_seeds : int
        Number of probe seeds.
    rng : numpy Generator
        Seeded without the method's name.
    spread : float
        Factor by which replicates are moved away from the value. The subjects of a resample are
        predicted by the same probes; if probes are cross-validated, this factor accounts for the
        variance of their training (see `cross_validated_spread`).
    """

    def __init__(
        self, test: Cohort, n_seeds: int, rng: np.random.Generator, spread: float = 1.0
    ) -> None:
        self.spread = spread
        self.subjects = test.column("participant_id").astype(str)
        self.sites = test.column("site").astype(str)
        self.rows = subject_counts(self.subjects, REPLICATES, rng, strata=self.sites)
        self.seeds = seed_weights(n_seeds, REPLICATES, rng)

    def result(
        self,
        statistic: Statistic,
        rows: NDArray[np.bool_],
        groups: Callable[[NDArray[np.bool_]], bool] | None = np.any,
        **fields: Any,
    ) -> MetricResult:
        """Return the result of a metric on the selected rows: its mean over the probe seeds.

        Parameters
        ----------
        statistic : callable
            See `Statistic`.
        rows : ndarray of bool, shape (n,)
        groups : callable or None
            ``groups(rows)`` is whether the statistic is defined on the rows of one site. None if
            the metric has no values by site.
        **fields
            Further fields of `MetricResult`.
        """
        overall, replicates = self._resampled(statistic, rows)
        by_site = {}
        for site in np.unique(self.sites):
            own = rows & (self.sites == site)
            if groups is not None and groups(own):
                by_site[str(site)] = self._resampled(statistic, own)[0]
        return MetricResult(overall, groups=by_site, replicates=replicates, **fields)

    def _resampled(self, statistic: Statistic, rows: NDArray[np.bool_]) -> tuple[Estimate, Floats]:
        chosen = np.flatnonzero(rows)
        replicates = over_seeds(statistic(chosen, self.rows[:, chosen]), self.seeds)
        value = unweighted(statistic, rows)
        replicates = value + self.spread * (replicates - value)
        return self.estimate(value, replicates, rows), replicates

    def estimate(self, value: float, replicates: Floats, rows: NDArray[np.bool_]) -> Estimate:
        """Return a value of the selected rows with the percentile interval of its replicates (b,).

        The degrees of freedom are the number of subjects minus the number of sites.
        """
        n = len(np.unique(self.subjects[rows]))
        df = n - len(np.unique(self.sites[rows]))
        return Estimate(float(value), *percentile_interval(replicates, df=df), n)
