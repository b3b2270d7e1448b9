"""Shades of the cells of the results table: by how many methods are clearly better.

Shades on the scale of the values say little if one extreme control stretches the scale, because
all methods then look alike. Shades by rank show differences that are due to chance. Here a cell is
paler the more methods lie wholly on the better side of its interval, so that neither an extreme
value nor noise matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.results import Row, Score


def shades(scores: Sequence[Score], rows: Sequence[Row], metric: dict[str, Any]) -> list[float]:
    """Return the shade of every cell of a column.

    Parameters
    ----------
    scores : sequence of Score
        One for each row.
    rows : sequence of Row
        The rows. If there are methods, only they are counted, because a control that sees the
        truth or returns noise would make all methods look alike.
    metric : dict
        Declaration of the metric: ``direction`` and ``goal``.

    Returns
    -------
    list of float
        The share of the methods that are *not* clearly better, from 0 to 1. One interval is
        clearly better than another if they do not touch, which is stricter than a paired test.
        NaN for cells without a value, and for a column in which no method is clearly better.
    """
    spans = np.array([_span(score, metric) for score in scores]).reshape(-1, 2)
    methods = np.array([not row.control for row in rows])
    judges = spans[methods] if methods.any() else spans
    judges = judges[np.isfinite(judges).all(axis=1)]
    # Spans are distances from the best: the worst end of the better one lies below the other.
    beaten = (judges[None, :, 1] < spans[:, None, 0]).sum(axis=1)
    known = np.isfinite(spans).all(axis=1)
    if not beaten[known].any():
        return [float("nan")] * len(scores)
    return np.where(known, 1 - beaten / len(judges), np.nan).tolist()


def merit(score: Score, metric: dict[str, Any]) -> float:
    """Return the distance of a value from the best possible, for sorting: less is better."""
    if not score.ok:
        return float("nan")
    if metric["direction"] == "target":
        return abs(score.value - _aim(score, metric))
    return score.value if metric["direction"] == "lower" else -score.value


def _span(score: Score, metric: dict[str, Any]) -> tuple[float, float]:
    """Return the interval of `merit`: its best and its worst end."""
    value = merit(score, metric)
    if not np.isfinite(score.low) or not np.isfinite(score.high):
        return value, value
    ends = (score.low, score.high)
    if metric["direction"] == "lower":
        return ends
    if metric["direction"] == "higher":
        return -score.high, -score.low
    aim = _aim(score, metric)
    gaps = sorted(abs(end - aim) for end in ends)
    return (0.0 if score.low <= aim <= score.high else gaps[0]), gaps[1]


def _aim(score: Score, metric: dict[str, Any]) -> float:
    if np.isfinite(score.target):
        return score.target
    return float("nan") if metric["goal"] is None else float(metric["goal"])
