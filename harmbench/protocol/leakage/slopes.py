"""Slopes of what the age probes read, under weights, and how a probe's years are calibrated.

A regressor shrinks towards the mean: of one year more a probe reads a quarter, or nine tenths.
Whatever is said in its years is divided by its own slope on images that hold the true age.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmbench.protocol.resampled import Floats, Resampler
from harmbench.stats import over_seeds, percentile_interval

NO_AGE_READ = (
    "the age probe does not read age from the images it is calibrated on (slope {value:.2f}, 95 % "
    "interval {low:.2f} to {high:.2f}), so what it says cannot be turned into years"
)


class Replicated(NamedTuple):
    """A value averaged over the probe seeds, and its replicates.

    Attributes
    ----------
    value : ndarray, shape (...)
    replicates : ndarray, shape (b, ...)
    """

    value: Floats
    replicates: Floats


def weighted_slope(x: Floats, y: Floats, weights: Floats, groups: NDArray | None = None) -> Floats:
    """Return least-squares slopes of y on x, with an intercept for each group.

    Parameters
    ----------
    x : ndarray, shape (n,)
    y : ndarray, shape (s, n)
        One row a probe seed.
    weights : ndarray, shape (b, n)
    groups : ndarray, shape (n,), optional
        Without it there is one intercept for all.

    Returns
    -------
    ndarray, shape (b, s)
        NaN where x does not vary within groups.
    """
    labels = np.zeros(len(x)) if groups is None else groups
    member = (labels[:, None] == np.unique(labels)).astype(float)
    size = weights @ member
    size = np.where(size > 0, size, 1.0)

    def centered(values: Floats) -> Floats:
        return values - (values @ member / member.sum(0)) @ member.T  # keeps the sums below exact

    a, c = centered(x), centered(y)
    sum_a = weights @ (a[:, None] * member)
    sum_c = np.einsum("bn,sn,nk->bsk", weights, c, member, optimize=True)
    spread = weights @ a**2 - (sum_a**2 / size).sum(1)
    products = weights @ (a * c).T - np.einsum("bk,bsk->bs", sum_a / size, sum_c)
    tiny = 1e-12 * np.abs(x).max(initial=0.0) ** 2 * weights.sum(1)
    return products / np.where(spread > tiny, spread, np.nan)[:, None]


def averaged(one: Floats, many: Floats, resampler: Resampler) -> Replicated:
    """Average a statistic (1, s) and its replicates (b, s) over the probe seeds."""
    return Replicated(one.mean(1)[0], over_seeds(many, resampler.seeds))


def calibration(
    read: Floats, age: Floats, rows: NDArray[np.bool_], resampler: Resampler
) -> Replicated:
    """Return how many years a probe reads for one year more, within sites.

    Parameters
    ----------
    read : ndarray, shape (s, n)
        Years that the probe reads from images of known age.
    age : ndarray, shape (n,)
        Years; read only where `rows`.
    rows : ndarray of bool, shape (n,)
    resampler : Resampler
        Of the whole test set.
    """
    sites = resampler.sites[rows]
    everyone = np.ones((1, int(rows.sum())))
    one = weighted_slope(age[rows], read[:, rows], everyone, sites)
    many = weighted_slope(age[rows], read[:, rows], resampler.rows[:, rows], sites)
    return averaged(one, many, resampler)


def unread(slope: Replicated) -> str:
    """Return why a calibration cannot be divided by, ``""`` where it can."""
    low, high = percentile_interval(slope.replicates)
    if slope.value > 0 and low > 0:
        return ""
    return NO_AGE_READ.format(value=float(slope.value), low=low, high=high)
