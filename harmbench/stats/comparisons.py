"""Permutation tests, paired differences and verdicts on claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmbench.errors import HarmbenchError
from harmbench.stats.intervals import percentile_interval
from harmbench.stats.weighted import ranks

Floats = NDArray[np.float64]

_CHUNK = 1 << 24  # numbers in one temporary array


def spearman_p(x: ArrayLike, y: ArrayLike, b: int, rng: np.random.Generator) -> float:
    """One-sided permutation p of a positive Spearman correlation of x (n,) and y (n,)."""
    a, c = ranks(x), ranks(y)
    a = a - a.mean()
    shuffled = rng.permuted(np.tile(c, (b, 1)), axis=1)
    return _permutation_p(float(a @ c), shuffled @ a)


def mantel_p(x: ArrayLike, y: ArrayLike, b: int, rng: np.random.Generator) -> float:
    """One-sided permutation p of a positive correlation of two symmetric matrices (n, n).

    Mantel 1967 (Cancer Res. 27, 209): rows and columns of `y` are permuted together, one row a
    subject; the diagonals are not read. Give ranks for a Spearman version.
    """
    a, c = np.array(x, float), np.asarray(y, float)
    n = len(a)
    off = ~np.eye(n, dtype=bool)
    a = np.where(off, a - a[off].mean(), 0.0)
    step = max(1, _CHUNK // max(n * n, 1))
    sums = []
    for start in range(0, b, step):
        order = rng.permuted(np.tile(np.arange(n), (min(step, b - start), 1)), axis=1)
        sums.append(np.einsum("ij,bij->b", a, c[order[:, :, None], order[:, None, :]]))
    return _permutation_p(float((a * c).sum()), np.concatenate(sums))


def _permutation_p(observed: float, permuted: Floats) -> float:
    slack = 1e-12 * max(abs(observed), 1.0)
    return float((1 + np.sum(permuted >= observed - slack)) / (len(permuted) + 1))


class Difference(NamedTuple):
    """A difference with its 95 % interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def paired_difference(
    value: float, replicates: ArrayLike, other_value: float, other_replicates: ArrayLike
) -> Difference:
    """Compare two results on common replicates: ``value - other_value``.

    Parameters
    ----------
    value, other_value : float
    replicates, other_replicates : array_like, shape (b,)
        Replicate i of both from the same resampled subjects.

    Returns
    -------
    Difference
        Interval by percentile; p is twice the smaller share of replicate differences on either
        side of 0, counting one more, so never below ``2 / (b + 1)``.
    """
    ours, theirs = np.asarray(replicates, float), np.asarray(other_replicates, float)
    if ours.shape != theirs.shape:
        raise HarmbenchError(
            f"{len(ours)} and {len(theirs)} replicates cannot be paired; use the same number"
        )
    change = ours - theirs
    finite = change[np.isfinite(change)]
    tail = 1 + min(np.sum(finite <= 0), np.sum(finite >= 0))
    low, high = percentile_interval(change)
    return Difference(value - other_value, low, high, float(min(1.0, 2 * tail / (len(finite) + 1))))


def holm(p: ArrayLike) -> Floats:
    """Holm's adjusted p values (Holm 1979), in the order given; shape (k,)."""
    raw = np.asarray(p, float)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * (len(raw) - np.arange(len(raw))))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


Verdict = Literal["held", "not held", "inconclusive"]


def verdict(
    interval: Sequence[float],
    margin: float,
    claim: Literal["superior", "non-inferior"],
    better: Literal["lower", "higher"],
) -> Verdict:
    """Judge a claim about a difference by its interval.

    Parameters
    ----------
    interval : (low, high)
        Of the method's value minus the other's.
    margin : float
        Not negative: superior means better by more than it, non-inferior worse by less than it.
    claim, better
        What is claimed, and which values are better.

    Returns
    -------
    {"held", "not held", "inconclusive"}
        Held where the whole interval is on the claim's side of the margin, not held where none of
        it is, else inconclusive.
    """
    if margin < 0:
        raise HarmbenchError(f"a margin is 0 or more, not {margin}; the claim gives its sign")
    low, high = (float(end) for end in interval)
    if better == "lower":
        low, high = -high, -low
    bar = margin if claim == "superior" else -margin
    if low > bar:
        return "held"
    return "not held" if high <= bar else "inconclusive"
