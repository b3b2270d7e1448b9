"""The local inverse Simpson's index (LISI) of Korsunsky 2019, 10.1038/s41592-019-0619-0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmbench.protocol.people import Floats, People, Space

MAX_NEIGHBORS = 90
"""Three times the perplexity of 30 of Korsunsky 2019."""
NEAREST = 3
"""Factor on the number of neighbors: in a part of the people, so many are searched first."""


def neighbor_probabilities(
    distances: ArrayLike, k: int, perplexity: float, same: float = 0.0
) -> Floats:
    """Return each row's weights of its k nearest neighbors, at a perplexity.

    The weights are proportional to ``exp(-beta_i d_ij)``, with the ``beta_i`` for which the entropy
    of row i is the logarithm of the perplexity. All neighbors at the distance of the k-th get a
    weight, so the result does not depend on the order of the rows.

    Parameters
    ----------
    distances : array_like, shape (n, m)
        Infinite for pairs that must not be neighbors; at least k in each row are finite.
    k : int
        Number of neighbors.
    perplexity : float
        Effective number of neighbors, less than k.
    same : float
        Distances that differ by less are equal.

    Returns
    -------
    ndarray, shape (n, m)
        Rows sum to 1.
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
    """Bisect the logarithm of beta, in units of 1 / mean distance of each row; (n, k)."""
    finite = np.isfinite(near)
    near = np.where(finite, near, 0.0)
    scale = near.sum(1, keepdims=True) / finite.sum(1, keepdims=True)
    unit = near / np.where(scale > 0, scale, 1.0)
    low, high = np.full_like(scale, -14.0), np.full_like(scale, 14.0)
    p = np.zeros_like(near)
    for _ in range(40):
        beta = np.exp((low + high) / 2)
        p = np.where(finite, np.exp(-beta * unit), 0.0)
        total = p.sum(1, keepdims=True)
        entropy = np.log(total) + beta * (p * unit).sum(1, keepdims=True) / total
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, (low + high) / 2, low), np.where(wide, high, (low + high) / 2)
    return p / p.sum(1, keepdims=True)


def inverse_simpson(weights: ArrayLike, shares: ArrayLike | None = None) -> Floats:
    """Return the local inverse Simpson's index ``1 / sum_b q_b^2`` of every row.

    Parameters
    ----------
    weights : array_like, shape (n, labels)
        Weight ``q_b`` of each label among the row's neighbors; see `neighbor_probabilities`.
    shares : array_like, shape (n, labels) or (labels,), optional
        Share of each label among the possible neighbors. The weights are divided by it and scaled
        to the sum 1, so that the index of well mixed labels of unequal size is the number of
        labels, too.

    Returns
    -------
    ndarray, shape (n,)
        From 1 to the number of labels.
    """
    q = np.asarray(weights, np.float64)
    if shares is not None:
        q = q / np.asarray(shares, np.float64)
        q /= q.sum(1, keepdims=True)
    return 1.0 / (q**2).sum(1)


class _Case(NamedTuple):
    """Entries that are kept (u,), all sites as numbers (u,), and kept entries (subjects, sites)."""

    kept: NDArray[np.bool_]
    sites: NDArray[np.intp]
    scans: Floats


class Mixing:
    """The iLISI of people in a feature space; distances are equal if they differ by `same`."""

    def __init__(self, people: People, space: Space, same: float) -> None:
        self.people, self.space, self.same = people, space, same
        # Less than the smallest site, so that a separate site can score 0.
        self.k = min(MAX_NEIGHBORS, min(map(people.size, people.names)) // 2)

    def medians(
        self, parts: NDArray[np.bool_] | None = None, labels: NDArray | None = None
    ) -> Floats:
        """Return the median index of each site, scaled to [0, 1]; (cases, sites).

        A case is a part of the people, `parts` (cases, u), or other sites, `labels` (cases, u).
        """
        everyone, sites = np.ones(len(self.people.sites), bool), self.people.sites
        cases = [(kept, sites) for kept in (everyone[None] if parts is None else parts)]
        if labels is not None:
            cases = [(everyone, other) for other in labels]
        indices = np.zeros((len(cases), len(self.people.sites)))
        _, who = np.unique(self.people.subjects, return_inverse=True)
        numbered = [_numbered(kept, sites, who) for kept, sites in cases]
        for block, distances, pairs in self.space.distances():
            reach = np.where(pairs, distances, np.inf)
            # The nearest neighbors within a part of the people are almost always among these.
            m = min(NEAREST * self.k, reach.shape[1])
            columns = np.argpartition(reach, m - 1, axis=1)[:, :m]
            for index, case in zip(indices, numbered, strict=True):
                rows = np.flatnonzero(case.kept[block])
                if len(rows):
                    index[block][rows] = self._index(reach, columns, rows, case, who[block][rows])
        return np.array(
            [
                _scaled_medians(index[kept], sites[kept])
                for index, (kept, sites) in zip(indices, cases, strict=True)
            ]
        )

    def _index(
        self,
        reach: Floats,
        columns: NDArray[np.intp],
        rows: NDArray[np.intp],
        case: _Case,
        who: NDArray,
    ) -> Floats:
        """Return the index of some rows of a block, which belong to the subjects `who`."""
        # Fewer neighbors among fewer people, so that they are as near as among all.
        k = max(2, round(self.k * case.kept.sum() / len(case.kept)))
        columns = columns[rows]
        distances = reach[rows[:, None], columns]
        near = np.where(case.kept[columns], distances, np.inf)
        far = np.partition(near, k - 1, axis=1)[:, k - 1]
        if np.any(far + self.same >= distances.max(1)):
            # Some neighbors may be farther than these, or as far as the last of them.
            columns = np.broadcast_to(np.arange(reach.shape[1]), (len(rows), reach.shape[1]))
            near = np.where(case.kept, reach[rows], np.inf)
        p, there = neighbor_probabilities(near, k, k / 3, self.same), case.sites[columns]
        weights = [np.where(there == s, p, 0.0).sum(1) for s in range(case.scans.shape[1])]
        # A subject's own scans are not among its neighbors.
        shares = case.scans.sum(0) - case.scans[who]
        return inverse_simpson(np.stack(weights, 1), shares / shares.sum(1, keepdims=True))


def _numbered(kept: NDArray[np.bool_], sites: NDArray, who: NDArray[np.intp]) -> _Case:
    names, number = np.unique(sites, return_inverse=True)
    scans = np.zeros((who.max() + 1, len(names)))
    np.add.at(scans, (who[kept], number[kept]), 1.0)
    return _Case(kept, number, scans)


def _scaled_medians(index: Floats, sites: NDArray) -> Floats:
    """Return the median of each site, scaled from [1, sites] to [0, 1]."""
    names = np.unique(sites)
    medians = np.array([np.median(index[sites == name]) for name in names])
    return (medians - 1) / (len(names) - 1)
