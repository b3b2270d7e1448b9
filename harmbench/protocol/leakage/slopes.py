"""Slopes of the ages that probes predict, and the calibration of a probe.

A regression shrinks towards the mean: for one more year of age a probe may predict only a quarter
of a year. Therefore differences of its predictions are divided by the slope of its predictions on
images of known age.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harmbench.protocol.resampled import Floats, Resampler
from harmbench.stats import over_seeds, percentile_interval


def weighted_slope(x: Floats, y: Floats, weights: Floats, groups: NDArray | None = None) -> Floats:
    """Return the least-squares slopes of y on x, with an intercept for each group; (b, s).

    Parameters
    ----------
    x, y, weights : ndarray, shapes (n,), (s, n), (b, n)
        One row of `y` per probe seed. The slope is NaN if `x` does not vary within groups.
    groups : ndarray, shape (n,), optional
        Without groups there is one intercept.
    """
    labels = np.zeros(len(x)) if groups is None else groups
    member = (labels[:, None] == np.unique(labels)).astype(float)
    size = weights @ member
    size = np.where(size > 0, size, 1.0)

    def centered(values: Floats) -> Floats:
        # Without the group means the sums below lose no digits.
        return values - (values @ member / member.sum(0)) @ member.T

    a, c = centered(x), centered(y)
    sum_a = weights @ (a[:, None] * member)
    sum_c = np.einsum("bn,sn,nk->bsk", weights, c, member, optimize=True)
    spread = weights @ a**2 - (sum_a**2 / size).sum(1)
    products = weights @ (a * c).T - np.einsum("bk,bsk->bs", sum_a / size, sum_c)
    tiny = 1e-12 * np.abs(x).max(initial=0.0) ** 2 * weights.sum(1)
    return products / np.where(spread > tiny, spread, np.nan)[:, None]


def replicated_slope(
    x: Floats, y: Floats, weights: Floats, seeds: Floats, groups: NDArray | None = None
) -> tuple[float, Floats]:
    """Return a slope averaged over the probe seeds, and its replicates (b,).

    `seeds` are the weights of the probe seeds (b, s); see `weighted_slope` for the others.
    """
    one = weighted_slope(x, y, np.ones((1, len(x))), groups)
    many = weighted_slope(x, y, weights, groups)
    return float(one.mean(1)[0]), over_seeds(many, seeds)


def calibration(
    predicted: Floats, age: Floats, rows: NDArray[np.bool_], resampler: Resampler
) -> tuple[float, Floats, str]:
    """Return the slope of predicted ages (s, n) on true ages (n,), within sites, in some rows (n,).

    Returns
    -------
    slope, replicates : float, ndarray of shape (b,)
    reason : str
        Why nothing can be divided by the slope, ``""`` if it can.
    """
    weights, sites = resampler.rows[:, rows], resampler.sites[rows]
    slope, replicates = replicated_slope(
        age[rows], predicted[:, rows], weights, resampler.seeds, sites
    )
    low, high = percentile_interval(replicates)
    reason = (
        "the age probe does not read age from the images it is calibrated on (slope "
        f"{slope:.2f}, 95 % interval {low:.2f} to {high:.2f}), so its predictions cannot be "
        "converted to years"
    )
    return slope, replicates, "" if slope > 0 and low > 0 else reason
