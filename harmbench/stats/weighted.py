"""Statistics under weights, one value a replicate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmbench.errors import HarmbenchError

Floats = NDArray[np.float64]

_R_MAX = 1.0 - 1e-7


def _per_seed(
    function: Callable[[NDArray], Floats], values: ArrayLike, weights: ArrayLike
) -> Floats:
    """Apply a statistic of one row of values to each row; (b,) or, for (s, n) values, (b, s)."""
    array = np.asarray(values)
    if array.shape[-1] != np.shape(weights)[-1]:
        raise HarmbenchError(f"values {array.shape} and weights {np.shape(weights)} disagree on n")
    if array.ndim == 1:
        return function(array)
    return np.stack([function(row) for row in array], axis=1)


def weighted_mean(values: ArrayLike, weights: ArrayLike) -> Floats:
    """Weighted mean of values (n,) or (s, n) under weights (b, n); NaN where all weights are 0."""
    w = np.asarray(weights, float)
    with np.errstate(invalid="ignore"):
        return _per_seed(lambda x: (w @ x.astype(float)) / w.sum(1), values, w)


def weighted_balanced_accuracy(
    truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike
) -> Floats:
    """Mean over the classes of `truth` of the weighted share that is predicted rightly.

    Parameters
    ----------
    truth : array_like, shape (n,)
    predicted : array_like, shape (n,) or (s, n)
    weights : array_like, shape (b, n)

    Returns
    -------
    ndarray, shape (b,) or (b, s)
        A class without weight in a replicate is left out of that replicate's mean.
    """
    labels, w = np.asarray(truth), np.asarray(weights, float)
    member = (labels[:, None] == np.unique(labels)).astype(float)
    size = w @ member

    def one(row: NDArray) -> Floats:
        hits = w @ (member * (row == labels)[:, None])
        with np.errstate(invalid="ignore"):
            return np.nanmean(hits / size, axis=1)

    return _per_seed(one, predicted, w)


def weighted_auc(truth: ArrayLike, score: ArrayLike, weights: ArrayLike) -> Floats:
    """Weighted area under the ROC curve; ties count half.

    Parameters
    ----------
    truth : array_like of bool, shape (n,)
    score : array_like, shape (n,) or (s, n)
    weights : array_like, shape (b, n)

    Returns
    -------
    ndarray, shape (b,) or (b, s)
        NaN where a class has no weight.
    """
    positive, w = np.asarray(truth, bool), np.asarray(weights, float)

    def one(row: NDArray) -> Floats:
        order = np.argsort(row, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(row[order]) != 0])
        up = np.add.reduceat((w * positive)[:, order], starts, axis=1)
        down = np.add.reduceat((w * ~positive)[:, order], starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        with np.errstate(invalid="ignore"):
            return (up * below).sum(1) / (up.sum(1) * down.sum(1))

    return _per_seed(one, score, w)


def weighted_correlation(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike, groups: ArrayLike | None = None
) -> Floats:
    """Weighted Pearson correlation of `x` and `y`, within groups where they are given.

    Within groups both are centred on the group's mean in the replicate, and the products pooled.

    Parameters
    ----------
    x : array_like, shape (n,)
    y : array_like, shape (n,) or (s, n)
    weights : array_like, shape (b, n)
    groups : array_like, shape (n,), optional

    Returns
    -------
    ndarray, shape (b,) or (b, s)
        0 where either is constant.
    """
    w = np.asarray(weights, float)
    labels = np.zeros(w.shape[1]) if groups is None else np.asarray(groups)
    member = (labels[:, None] == np.unique(labels)).astype(float)

    def centre(values: NDArray) -> Floats:
        return values - member @ (values @ member / member.sum(0))  # keeps the sums below exact

    size = w @ member
    size = np.where(size > 0, size, 1.0)
    a = centre(np.asarray(x, float))
    sum_a, scale_a = w @ (a[:, None] * member), np.abs(x).max(initial=0.0)

    def one(row: NDArray) -> Floats:
        c = centre(row.astype(float))
        sum_c = w @ (c[:, None] * member)
        cov = w @ (a * c) - (sum_a * sum_c / size).sum(1)
        var_a = w @ a**2 - (sum_a**2 / size).sum(1)
        var_c = w @ c**2 - (sum_c**2 / size).sum(1)
        return _ratio(cov, var_a, var_c, w.sum(1), scale_a, np.abs(row).max(initial=0.0))

    return _per_seed(one, y, w)


def _ratio(
    cov: Floats, var_x: Floats, var_y: Floats, total: Floats, scale_x: float, scale_y: float
) -> Floats:
    """Correlation from weighted sums; 0 where a variance is rounding noise of its scale."""
    tiny = np.finfo(float).eps ** 2 * 1e4
    flat = (var_x <= tiny * total * scale_x**2) | (var_y <= tiny * total * scale_y**2)
    safe = np.sqrt(np.where(flat, 1.0, var_x) * np.where(flat, 1.0, var_y))
    return np.where(flat, 0.0, np.clip(cov / safe, -1.0, 1.0))


def weighted_pair_correlation(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike, subjects: ArrayLike | None = None
) -> Floats:
    """Correlation of two symmetric matrices over pairs i < j, each weighing ``w_i * w_j``.

    A subject drawn twice would make pairs with itself, at distance 0 in both matrices, which
    raise the correlation; weights leave the diagonal out instead, and so also all pairs of rows of
    one subject.

    Parameters
    ----------
    x, y : array_like, shape (n, n)
        Symmetric, such as distances or their ranks.
    weights : array_like, shape (b, n)
        As of `subject_counts`; ones for the point value.
    subjects : array_like, shape (n,), optional
        The subject of each row; without it every row is one of its own.

    Returns
    -------
    ndarray, shape (b,)
        0 where either matrix is constant over the pairs.
    """
    w = np.asarray(weights, float)
    names = np.arange(w.shape[1]) if subjects is None else np.asarray(subjects)
    pairs = names[:, None] != names

    def centre(matrix: ArrayLike) -> Floats:
        values = np.asarray(matrix, float)
        return np.where(pairs, values - (values[pairs].mean() if pairs.any() else 0.0), 0.0)

    def total(matrix: NDArray) -> Floats:
        return np.einsum("bn,bn->b", w @ matrix, w)

    a, c = centre(x), centre(y)
    size = total(pairs.astype(float))
    safe = np.where(size > 0, size, 1.0)
    sum_a, sum_c = total(a), total(c)
    return _ratio(
        total(a * c) - sum_a * sum_c / safe,
        total(a * a) - sum_a**2 / safe,
        total(c * c) - sum_c**2 / safe,
        safe,
        float(np.abs(x).max(initial=0.0)),
        float(np.abs(y).max(initial=0.0)),
    )


def fisher_pool(r: ArrayLike, weights: ArrayLike) -> Floats:
    """Average correlations by Fisher's z over the last axis; r is clipped at 1 - 1e-7.

    Parameters
    ----------
    r : array_like, shape (..., k)
    weights : array_like, shape (k,) or (..., k)
        Such as numbers of subjects.

    Returns
    -------
    ndarray, shape (...)
    """
    z = np.arctanh(np.clip(np.asarray(r, float), -_R_MAX, _R_MAX))
    share = np.broadcast_to(np.asarray(weights, float), z.shape)
    return np.tanh((z * share).sum(-1) / share.sum(-1))


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, ties sharing their mean; same shape as `values`."""
    array = np.asarray(values)
    _, inverse, count = np.unique(array, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2.0)[inverse.reshape(array.shape)]
