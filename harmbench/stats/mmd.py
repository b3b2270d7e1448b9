"""Maximum mean discrepancy of two samples, unbiased, with its variance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmbench.errors import HarmbenchError
from harmbench.files.blocks import blocks
from harmbench.stats.intervals import Orders, squared_distance_interval

Floats = NDArray[np.float64]


class MMD(NamedTuple):
    """Squared maximum mean discrepancy, its standard error and its 95 % interval."""

    value: float
    se: float
    low: float
    high: float


def mmd_u(kxx: ArrayLike, kyy: ArrayLike, kxy: ArrayLike) -> MMD:
    """Return the unbiased squared MMD of two samples with its standard error and interval.

    Gretton 2012 (JMLR 13, 723), eq. 3; the variance is that of the Hoeffding decomposition for
    unequal sizes, first and second order, so it holds also where both samples are of one
    distribution and the first order vanishes (cf. Sutherland 2019, arXiv 1906.02104, for equal
    sizes). The interval is that of `squared_distance_interval`: where the value is too small to
    show how the first order grows with the distance, it grows as it would in a direction drawn like
    the samples' own noise, ``4 tr C^2 / tr C`` over the sample's size, C being the covariance in
    the kernel's space. Units must be independent: average a kernel over a subject's rows first.

    Parameters
    ----------
    kxx, kyy, kxy : array_like, shapes (n, n), (m, m), (n, m)
        Kernel values within and between the samples; of the diagonals of the first two only the
        interval depends.

    Returns
    -------
    MMD
        `value` may be negative; all else is NaN with fewer than four units in a sample.
    """
    xx, yy, xy = (np.asarray(k, float) for k in (kxx, kyy, kxy))
    n, m = xy.shape
    if min(n, m) < 2:
        raise HarmbenchError(f"MMD needs two samples of 2 or more, not {n} and {m}")
    row_x = (xx.sum(1) - np.diagonal(xx)) / (n - 1)
    row_y = (yy.sum(1) - np.diagonal(yy)) / (m - 1)
    value = row_x.mean() + row_y.mean() - 2 * xy.mean()
    if min(n, m) < 4:
        return MMD(float(value), *[float("nan")] * 3)
    var_xx, var_yy = _degenerate_variance(xx, row_x), _degenerate_variance(yy, row_y)
    centred = xy - xy.mean(1, keepdims=True) - xy.mean(0) + xy.mean()
    var_xy = (centred**2).sum() / ((n - 1) * (m - 1))
    # A row mean carries the noise of the finite other units, which is not of first order.
    first_x = np.var(row_x - xy.mean(1), ddof=1) - var_xx / (n - 1) - var_xy / m
    first_y = np.var(row_y - xy.mean(0), ddof=1) - var_yy / (m - 1) - var_xy / n
    second = 2 * var_xx / (n * (n - 1)) + 2 * var_yy / (m * (m - 1)) + 4 * var_xy / (n * m)
    first = 4 * max(first_x, 0.0) / n + 4 * max(first_y, 0.0) / m
    variance = Orders(float(first), float(second))
    steepness = _steepness(xx, row_x, var_xx) + _steepness(yy, row_y, var_yy)
    ends = squared_distance_interval(float(value), variance, min(n, m) - 1, steepness)
    return MMD(float(value), variance.se, *ends)


def _steepness(k: Floats, rows: Floats, squared: float) -> float:
    """Growth of the first-order variance with the distance, ``4 tr C^2 / (n tr C)``."""
    trace = float(np.diagonal(k).mean() - rows.mean())
    return 4 * squared / (len(k) * trace) if trace > 0 else 0.0


def _degenerate_variance(k: Floats, rows: Floats) -> float:
    """Variance of a kernel off the diagonal beyond its row effects (two-way layout)."""
    n = len(k)
    # Row effects fitted without the diagonal: (n - 1) row mean / (n - 2), see the two-way layout.
    effect = (n - 1) / (n - 2) * (rows - rows.mean())
    total = 0.0
    for part in blocks(n, 32 * n):
        rest = k[part] - rows.mean() - effect[part, None] - effect
        np.fill_diagonal(rest[:, part], 0.0)
        total += (rest**2).sum()
    return float(total / (n * (n - 3)))
