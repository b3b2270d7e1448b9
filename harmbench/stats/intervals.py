"""Intervals from replicates and from standard errors."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def percentile_interval(replicates: ArrayLike, level: float = LEVEL) -> Interval:
    """Return the percentile interval of bootstrap replicates.

    Chosen over the basic and the BCa interval by measured coverage (docs/statistics.md): it stays
    inside the range of a bounded statistic, and is invariant under transformation. Replicates that
    are not finite are left out; with fewer than half of them left the interval is NaN.
    """
    values = np.asarray(replicates, float)
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or 2 * len(finite) < len(values):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def normal_interval(
    value: float,
    se: float,
    level: float = LEVEL,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Interval:
    """Return ``value -+ z * se``, cut at the smallest and largest possible value."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    low = -np.inf if bounds[0] is None else bounds[0]
    high = np.inf if bounds[1] is None else bounds[1]
    return Interval(float(max(value - z * se, low)), float(min(value + z * se, high)))


def subsample_se(replicates: ArrayLike, fraction: float) -> float:
    """Return the standard error of a statistic from its values on subsets without replacement.

    A subset of m of n subjects varies too much by 1/m instead of 1/n and too little because it
    shares subjects with the others: together a factor ``m / (n - m)`` on the variance (delete-d
    jackknife, Shao & Wu 1989, 10.1214/aos/1176347263). Only the spread is used, never the mean,
    whose bias belongs to the smaller size.

    Parameters
    ----------
    replicates : array_like, shape (b,)
        The statistic on each subset of `subsample`.
    fraction : float
        ``m / n``, the same in every sample that the statistic compares.
    """
    values = np.asarray(replicates, float)
    return float(np.std(values, ddof=1) * np.sqrt(fraction / (1 - fraction)))


def half_sample_se(first: ArrayLike, second: ArrayLike) -> float:
    """Return the standard error of a statistic from its values on halves and their complements.

    For a statistic of pairs, such as a distance between samples, whose first order (in Hoeffding's
    decomposition) may vanish, `subsample_se` is too large by up to the square root of 3. Splitting
    into two halves separates the orders: the first cancels in the mean of the two values, whose
    variance over splits is the second order's, c; half their difference has the variance a + 2 c,
    with a the first order's; the statistic itself has a + c.

    Parameters
    ----------
    first, second : array_like, shape (b,)
        The statistic on a random half of the subjects and on the other half.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    second_order = np.var((one + other) / 2, ddof=1)
    first_order = np.var((one - other) / 2, ddof=1) - 2 * second_order
    return float(np.sqrt(max(first_order, 0.0) + second_order))
