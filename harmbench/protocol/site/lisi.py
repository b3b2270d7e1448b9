"""Whose neighbors one's neighbors are: the local inverse Simpson's index of Korsunsky 2019."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def neighbor_probabilities(
    distances: ArrayLike, k: int, perplexity: float, same: float = 0.0
) -> Floats:
    """Return each row's weights of its k nearest neighbors, at a perplexity.

    ``p_ij`` is proportional to ``exp(-beta_i d_ij)`` over the neighbors, with the ``beta_i`` at
    which the entropy of row i is the logarithm of the perplexity (Korsunsky 2019,
    10.1038/s41592-019-0619-0). All neighbors at the distance of the k-th have a part, so that the
    order of the rows never matters.

    Parameters
    ----------
    distances : array_like, shape (n, m)
        Infinite for those who must not be neighbors; k or more of each row are finite.
    k : int
        Number of neighbors.
    perplexity : float
        Effective number of neighbors, under k.
    same : float
        Distances that differ by less are equal.

    Returns
    -------
    ndarray, shape (n, m)
        Rows add up to 1.
    """
    d = np.array(distances, np.float64)
    far = np.partition(d, k - 1, axis=1)[:, k - 1 : k]
    count = int((d <= far + same).sum(1).max())
    columns = np.argpartition(d, count - 1, axis=1)[:, :count]
    near = np.take_along_axis(d, columns, axis=1)
    near = np.where(near <= far + same, near, np.inf)
    near -= near.min(1, keepdims=True)
    near[near <= same] = 0.0
    p = np.zeros_like(d)
    np.put_along_axis(p, columns, _at_perplexity(near, perplexity), axis=1)
    return p


def _at_perplexity(near: Floats, perplexity: float) -> Floats:
    """Bisect the logarithm of beta, in units of one over each row's mean distance; (n, k)."""
    there = np.isfinite(near)
    near = np.where(there, near, 0.0)
    scale = near.sum(1, keepdims=True) / there.sum(1, keepdims=True)
    unit = near / np.where(scale > 0, scale, 1.0)
    low, high = np.full_like(scale, -14.0), np.full_like(scale, 14.0)
    p = np.zeros_like(near)
    for _ in range(40):
        beta = np.exp((low + high) / 2)
        p = np.where(there, np.exp(-beta * unit), 0.0)
        total = p.sum(1, keepdims=True)
        entropy = np.log(total) + beta * (p * unit).sum(1, keepdims=True) / total
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, (low + high) / 2, low), np.where(wide, high, (low + high) / 2)
    return p / p.sum(1, keepdims=True)


def lisi(probabilities: ArrayLike, labels: ArrayLike, shares: ArrayLike | None = None) -> Floats:
    """Return the local inverse Simpson's index of every row.

    ``1 / sum_b q_b^2`` with ``q_b`` the weight of label b among the row's neighbors (Korsunsky
    2019). With `shares`, ``q_b`` is first divided by the share of b and scaled to the sum 1:
    labels of unequal size then reach the number of labels too, where they mix.

    Parameters
    ----------
    probabilities : array_like, shape (n, m)
        As of `neighbor_probabilities`.
    labels : array_like, shape (m,)
        Of each column.
    shares : array_like, shape (n, labels) or (labels,), optional
        Share of each label, in sorted order, among those who could be neighbors.

    Returns
    -------
    ndarray, shape (n,)
        Between 1 and the number of labels.
    """
    names = np.asarray(labels)
    return inverse_simpson(np.asarray(probabilities, np.float64) @ member_of(names), shares)


def inverse_simpson(weights: ArrayLike, shares: ArrayLike | None = None) -> Floats:
    """Return the index of every row from the weights of its labels, (n, labels); see `lisi`."""
    q = np.asarray(weights, np.float64)
    if shares is not None:
        q = q / np.asarray(shares, np.float64)
        q /= q.sum(1, keepdims=True)
    return 1.0 / (q**2).sum(1)


def member_of(labels: NDArray) -> Floats:
    """Return which label each entry has, labels sorted; 0 or 1, shape (m, labels)."""
    return (labels[:, None] == np.unique(labels)).astype(np.float64)
