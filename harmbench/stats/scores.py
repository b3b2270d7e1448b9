"""Anchored scores on two axes: how far a method is from the worst control to the best one.

A metric's value is placed between two controls of the same run, ``(value - zero) / (one - zero)``,
so a score never depends on which other methods are in the table. Site removal and biology kept are
never mixed before both are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from harmbench.errors import HarmbenchError
from harmbench.stats.intervals import Interval, percentile_interval

Floats = NDArray[np.float64]

LEAST_GAP = 3.0
"""Anchors nearer than so many standard errors of their difference tell nothing apart."""


class Sample(NamedTuple):
    """A value and its replicates (b,), from resamples that are common to all samples."""

    value: float
    replicates: Floats

    @property
    def interval(self) -> Interval:
        """The 95 % percentile interval."""
        return percentile_interval(self.replicates)


def constant(value: float, b: int) -> Sample:
    """Return a sample without uncertainty, such as a floor that no image has a part in."""
    return Sample(value, np.full(b, value))


def gap_in_errors(zero: Sample, one: Sample) -> float:
    """Return how many standard errors two anchors are apart; 0 where they are equal."""
    gap = abs(one.value - zero.value)
    error = float(np.nanstd(one.replicates - zero.replicates, ddof=1))
    if gap == 0:
        return 0.0
    return gap / error if error > 0 else float("inf")


def anchored(result: Sample, zero: Sample, one: Sample) -> Sample:
    """Place a result between two anchors.

    Parameters
    ----------
    result, zero, one : Sample
        Of one metric, on common resamples: the anchors' uncertainty is part of the score's.

    Returns
    -------
    Sample
        0 at `zero` and 1 at `one`; below and above these where the result is outside. A replicate
        whose anchors have changed sides is NaN.
    """
    gap = one.value - zero.value
    gaps = one.replicates - zero.replicates
    safe = np.where(gaps * gap > 0, gaps, np.nan)
    return Sample(
        (result.value - zero.value) / gap if gap else float("nan"),
        (result.replicates - zero.replicates) / safe,
    )


def axis_score(scores: Sequence[Sample]) -> Sample:
    """Return the mean of an axis's anchored scores, each first cut to [0, 1].

    Past the oracle lies no better removal of the site but loss of what the sites' people differ
    in, and no metric's deep fall may hide the others.

    Raises
    ------
    HarmbenchError
        Where there is none.
    """
    if not scores:
        raise HarmbenchError("an axis needs one scored metric or more")
    values = np.clip([score.value for score in scores], 0.0, 1.0)
    replicates = np.clip(np.stack([score.replicates for score in scores]), 0.0, 1.0)
    return Sample(float(values.mean()), replicates.mean(0))


def harmonic_mean(first: Sample, second: Sample, weights: tuple[float, float] = (1, 1)) -> Sample:
    """Return the weighted harmonic mean of two scores in [0, 1]; 0 where either is 0.

    Parameters
    ----------
    first, second : Sample
        Such as site removal and biology kept.
    weights : tuple of float
        Of the first and the second, positive.
    """
    if min(weights) <= 0:
        raise HarmbenchError(f"weights of a harmonic mean are positive, not {weights}")

    def mean(x: ArrayLike, y: ArrayLike) -> Floats:
        a, b = np.asarray(x, float), np.asarray(y, float)
        below = weights[0] * b + weights[1] * a
        # a * b / (w1 * b + w2 * a) is the mean without a division by a score of 0.
        return sum(weights) * a * b / np.where(below == 0, 1.0, below)

    return Sample(float(mean(first.value, second.value)), mean(first.replicates, second.replicates))


def pareto_front(points: ArrayLike) -> NDArray[np.bool_]:
    """Return which points no other point beats: as good on all axes and better on one.

    Parameters
    ----------
    points : array_like, shape (n, k) or (b, n, k)
        More is better on every axis; a point with a NaN is on no front and beats nobody.

    Returns
    -------
    ndarray of bool, shape (n,) or (b, n)
        Equal points are on the front together.
    """
    x = np.asarray(points, float)
    no_worse = (x[..., :, None, :] >= x[..., None, :, :]).all(-1)
    better = (x[..., :, None, :] > x[..., None, :, :]).any(-1)
    return ~(no_worse & better).any(-2) & np.isfinite(x).all(-1)


class Rank(NamedTuple):
    """A rank, 1 for the best, with the 95 % interval of the ranks in the replicates."""

    value: float
    low: float
    high: float


def rank_intervals(samples: Sequence[Sample]) -> list[Rank]:
    """Rank samples, more being better, on common resamples.

    Equal samples share the mean of their ranks. The ends of the interval are ranks that occurred
    (inverted quantiles), since there is no rank 1.3.

    Parameters
    ----------
    samples : sequence of Sample
        One a method.

    Returns
    -------
    list of Rank
        NaN for a sample whose value is NaN; replicates with a NaN are left out.
    """
    values = np.array([s.value for s in samples], float)
    known = np.isfinite(values)
    ranks = [Rank(np.nan, np.nan, np.nan)] * len(samples)
    if not known.any():
        return ranks
    stacked = np.stack([s.replicates for s, good in zip(samples, known, strict=True) if good])
    stacked = stacked[:, np.isfinite(stacked).all(0)]
    point, drawn = rankdata(-values[known]), rankdata(-stacked, axis=0)
    for i, where in enumerate(np.flatnonzero(known)):
        ends = (
            np.quantile(drawn[i], [0.025, 0.975], method="inverted_cdf")
            if drawn.shape[1]
            else (np.nan, np.nan)
        )
        ranks[where] = Rank(float(point[i]), float(ends[0]), float(ends[1]))
    return ranks
