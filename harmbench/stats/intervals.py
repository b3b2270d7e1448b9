"""Intervals from replicates and from standard errors."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.95


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def percentile_interval(
    replicates: ArrayLike, level: float = LEVEL, df: int | None = None
) -> Interval:
    """Return the percentile interval of bootstrap replicates.

    Chosen over the basic and the BCa interval by measured coverage (docs/statistics.md): it stays
    inside the range of a bounded statistic, and is invariant under transformation. Replicates that
    are not finite are left out; with fewer than half of them left the interval is NaN.

    Parameters
    ----------
    replicates : array_like, shape (b,)
    level : float
        Nominal coverage.
    df : int or None
        Degrees of freedom: resampled subjects less their strata. The quantiles are then as far out
        as Student's are beyond the normal ones (expanded percentiles, Hesterberg 2015,
        10.1080/00031305.2015.1089789): a bootstrap does not know that its variance, too, was
        estimated, and its interval is too short in small samples. Below 1 counts as 1.
    """
    values = np.asarray(replicates, float)
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or 2 * len(finite) < len(values):
        return Interval(float("nan"), float("nan"))
    tail = (1 - level) / 2
    if df is not None:
        tail = float(special.ndtr(special.stdtrit(max(df, 1), tail)))
    low, high = np.quantile(finite, [tail, 1 - tail])
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


class Orders(NamedTuple):
    """Variance of a statistic by the orders of its Hoeffding decomposition."""

    first: float
    second: float

    @property
    def se(self) -> float:
        """Standard error of the statistic."""
        return float(np.sqrt(self.first + self.second))


def half_sample_orders(first: ArrayLike, second: ArrayLike) -> Orders:
    """Return a statistic's variance from its values on halves and their complements.

    For a statistic of pairs, such as a distance between samples, whose first order (in Hoeffding's
    decomposition) may vanish, `subsample_se` is too large by up to the square root of 3. Splitting
    into two halves separates the orders: the first cancels in the mean of the two values, whose
    variance over splits is the second order's, c; half their difference has the variance a + 2 c,
    with a the first order's; the statistic itself has a + c. Estimates of a below 0 are cut, so
    where there is no first order the error comes out a little too large.

    Parameters
    ----------
    first, second : array_like, shape (b,)
        The statistic on a random half of the subjects and on the other half.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    pairs = float(np.var((one + other) / 2, ddof=1))
    alone = float(np.var((one - other) / 2, ddof=1)) - 2 * pairs
    return Orders(max(alone, 0.0), pairs)


def squared_distance_interval(
    value: float, variance: Orders, df: int, steepness: float = 0.0, level: float = LEVEL
) -> Interval:
    """Return the interval of a squared distance between samples, estimated without bias.

    The first-order variance of such a statistic grows in proportion to the distance itself. So a
    value that came out small also comes with a small error, and a symmetric interval lies below
    the truth too often. This one holds every distance t at which the value would not surprise:
    ``(value - t)^2 <= q^2 (second + k t)``, as Wilson's does for a proportion, with Student's q.

    Parameters
    ----------
    value : float
        May be negative.
    variance : Orders
        At the estimate.
    df : int
        Degrees of freedom: subjects of the smaller sample less 1.
    steepness : float
        Least ``k``, for values too small to show it.

    Returns
    -------
    Interval
        Always holds the value.
    """
    q = float(special.stdtrit(max(df, 1), (1 + level) / 2))
    scale = max(value, variance.se)
    k = max(variance.first / scale if scale > 0 else 0.0, steepness)
    center = value + q**2 * k / 2
    half = np.sqrt(max(center**2 - value**2 + q**2 * variance.second, 0.0))
    return Interval(float(min(center - half, value)), float(max(center + half, value)))
