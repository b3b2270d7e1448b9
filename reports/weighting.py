"""Site removal against biology kept at any weights: what the slider of the page shows.

The harmonic mean of both axes weighs them 1 : 1 in the tables. Who thinks otherwise moves the
slider, and the page ranks the methods anew from the same two numbers a method.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reports.scores import BIOLOGY, SITE, Scores

STEPS = 100
"""Parts into which the slider divides the way from biology alone to site removal alone."""
WIDTH, HEIGHT = 600, 220
"""Of the drawing, in units of its own."""
TIE = 1e-12


@dataclass(frozen=True)
class Weighed:
    """One method at all weights.

    Attributes
    ----------
    title : str
        Its label.
    place : int
        Its position among the methods, for its color.
    axes : list of tuple
        Site removal and biology kept, one pair a seed.
    value, rank : float
        Harmonic mean and rank at the weights of the tables; ties share their mean rank.
    line : str
        Points of its curve in the drawing.
    """

    title: str
    place: int
    axes: list[tuple[float, float]]
    value: float
    rank: float
    line: str


@dataclass(frozen=True)
class Weighting:
    """What the slider needs.

    Attributes
    ----------
    start : float
        Weight of site removal in the tables, of 1 in all.
    methods : list of Weighed
        Best first at `start`.
    first : list of str
        Who ranks first at which weights, one sentence each.
    lacking : list of str
        Methods that lack an axis and cannot be ranked.
    """

    start: float
    methods: list[Weighed]
    first: list[str]
    lacking: list[str]

    @property
    def data(self) -> dict[str, Any]:
        """What the page computes with."""
        methods = [{"title": m.title, "place": m.place, "axes": m.axes} for m in self.methods]
        return {"start": self.start, "tie": TIE, "methods": methods}


def weighting(scores: Scores) -> Weighting | None:
    """Return the methods at all weights, None where none has both axes."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    everyone: list[str] = []
    for each in scores.rows:
        if each.row.control:
            continue
        everyone.append(each.row.label)
        if each.overall is not None and len(each.axes) == 2:
            site, biology = (float(each.axes[axis].value) for axis in (SITE, BIOLOGY))
            if np.isfinite([site, biology]).all():
                pairs.setdefault(each.row.label, []).append((site, biology))
    everyone = list(dict.fromkeys(everyone))
    if not pairs:
        return None
    start = scores.weights[0] / sum(scores.weights)
    at_start = [_mean_over_seeds(axes, [start])[0] for axes in pairs.values()]
    grid = np.arange(STEPS + 1) / STEPS
    curves = {label: _mean_over_seeds(axes, grid) for label, axes in pairs.items()}
    found = [
        Weighed(label, everyone.index(label), axes, value, rank, _points(curves[label]))
        for (label, axes), value, rank in zip(
            pairs.items(), at_start, mean_ranks(at_start), strict=True
        )
    ]
    found.sort(key=lambda m: (m.rank, m.place))
    lacking = [label for label in everyone if label not in pairs]
    return Weighting(start, found, _first_at(curves, grid), lacking)


def weighted_mean(site: ArrayLike, biology: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """Return the weighted harmonic mean of two scores in [0, 1].

    Parameters
    ----------
    site, biology : array_like
        The two scores.
    weight : array_like
        Of `site`, in [0, 1]; `biology` has the rest. At the ends one of them counts alone.

    Returns
    -------
    ndarray
        0 where both count and either is 0.
    """
    a, b, w = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (site, biology, weight)))
    below = w * b + (1 - w) * a
    mean = a * b / np.where(below == 0, 1.0, below)
    return np.where(w == 0, b, np.where(w == 1, a, mean))


def mean_ranks(values: Sequence[float]) -> list[float]:
    """Return ranks, the largest value first; values that are equal share the mean of theirs."""
    ranks = []
    for value in values:
        above = sum(other > value + TIE for other in values)
        equal = sum(abs(other - value) <= TIE for other in values)
        ranks.append(above + (equal + 1) / 2)
    return ranks


def embedded(data: Any) -> str:
    """Return JSON that may stand inside a script element, whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _mean_over_seeds(axes: list[tuple[float, float]], weights: ArrayLike) -> list[float]:
    site, biology = np.array(axes, dtype=float).T[:, :, None]
    return [float(v) for v in weighted_mean(site, biology, np.asarray(weights)).mean(axis=0)]


def _points(curve: list[float]) -> str:
    xs = np.linspace(0, WIDTH, len(curve))
    return " ".join(f"{x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in zip(xs, curve, strict=True))


def _first_at(curves: dict[str, list[float]], grid: NDArray[np.float64]) -> list[str]:
    """Say in which stretches of the weights each method is first."""
    values = np.array(list(curves.values()))
    leads = values >= values.max(axis=0) - TIE
    texts = []
    for label, lead in zip(curves, leads, strict=True):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], lead.astype(int), [0]])))
        spans = [(grid[a], grid[b - 1]) for a, b in ends.reshape(-1, 2)]
        if spans:
            where = " and ".join(f"{a:.2f}" if a == b else f"{a:.2f} to {b:.2f}" for a, b in spans)
            texts.append(f"{label} ranks first where site removal weighs {where}")
    return texts
