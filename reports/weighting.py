"""Site removal against biology kept at any weights, for the slider of the page.

In the tables the harmonic mean weighs both axes equally. The slider changes the weights, and the
page ranks the methods again from the same two scores of each method.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reports.scores import BIOLOGY, SITE, Scores

STEPS = 100
"""Steps of the slider from biology alone to site removal alone."""
WIDTH, HEIGHT = 600, 220
"""Size of the drawing in its own units."""
TIE = 1e-12


class Weighed(NamedTuple):
    """One method at all weights.

    `place` is its position among the methods, which gives its color; `axes` are site removal and
    biology kept of each seed; `value` and `rank` are those at the weights of the tables, where
    ties share their mean rank; `line` holds the points of its curve in the drawing.
    """

    title: str
    place: int
    axes: list[tuple[float, float]]
    value: float
    rank: float
    line: str


class Weighting(NamedTuple):
    """The data of the slider.

    `start` is the weight of site removal in the tables, out of 1; `methods` are ordered by rank;
    `first` has a sentence on who ranks first at which weights; `lacking` lists the methods that
    lack an axis.
    """

    start: float
    methods: list[Weighed]
    first: list[str]
    lacking: list[str]

    @property
    def data(self) -> dict[str, Any]:
        """The data for the script of the page."""
        methods = [{"title": m.title, "place": m.place, "axes": m.axes} for m in self.methods]
        return {"start": self.start, "tie": TIE, "methods": methods}


def weighting(scores: Scores) -> Weighting | None:
    """Return the methods at all weights, None if no method has both axes."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for label, rows in scores.methods.items():
        both = [[r.axes[a].value for a in (SITE, BIOLOGY)] for r in rows if len(r.axes) == 2]
        if known := [(float(a), float(b)) for a, b in both if np.isfinite([a, b]).all()]:
            pairs[label] = known
    if not pairs:
        return None
    start = scores.weights[0] / sum(scores.weights)
    values = [_mean_over_seeds(axes, [start])[0] for axes in pairs.values()]
    grid = np.arange(STEPS + 1) / STEPS
    curves = {label: _mean_over_seeds(axes, grid) for label, axes in pairs.items()}
    places = [*scores.methods]
    found = [
        Weighed(label, places.index(label), pairs[label], value, rank, _points(curves[label]))
        for label, value, rank in zip(pairs, values, mean_ranks(values), strict=True)
    ]
    found.sort(key=lambda m: (m.rank, m.place))
    lacking = [label for label in places if label not in pairs]
    return Weighting(start, found, _first_at(curves, grid), lacking)


def weighted_mean(site: ArrayLike, biology: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """Return the weighted harmonic mean of two scores in [0, 1].

    Parameters
    ----------
    site, biology : array_like
        The two scores.
    weight : array_like
        Weight of `site`, in [0, 1]; `biology` has the rest. At the ends only one of them counts.

    Returns
    -------
    ndarray
        0 if both count and either is 0.
    """
    a, b, w = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (site, biology, weight)))
    below = w * b + (1 - w) * a
    mean = a * b / np.where(below == 0, 1.0, below)
    return np.where(w == 0, b, np.where(w == 1, a, mean))


def mean_ranks(values: Sequence[float]) -> list[float]:
    """Return ranks, the largest value first; equal values share the mean of their ranks."""
    from scipy.stats import rankdata

    return rankdata(-np.round(values, 12)).tolist()


def embedded(data: Any) -> str:
    """Return JSON that is safe inside a script element, whatever texts it contains."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _mean_over_seeds(axes: list[tuple[float, float]], weights: ArrayLike) -> list[float]:
    site, biology = np.array(axes, dtype=float).T[:, :, None]
    return weighted_mean(site, biology, np.asarray(weights)).mean(axis=0).tolist()


def _points(curve: list[float]) -> str:
    xs = np.linspace(0, WIDTH, len(curve))
    return " ".join(f"{x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in zip(xs, curve, strict=True))


def _first_at(curves: dict[str, list[float]], grid: NDArray[np.float64]) -> list[str]:
    """Return a sentence on the weights at which each method is first."""
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
