"""The two-axis scores of a run, from the values and replicates that its metrics kept.

Which metrics are scored, and between which anchors, their declarations say; a metric whose anchors
these data do not tell apart is left out, for all methods alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harmbench.seeding import rng_from
from harmbench.stats import REPLICATES, over_seeds, seed_weights
from harmbench.stats.scores import (
    LEAST_GAP,
    Rank,
    Sample,
    anchored,
    axis_score,
    constant,
    gap_in_errors,
    harmonic_mean,
    pareto_front,
    rank_intervals,
)
from reports.results import Results, Row

SITE, BIOLOGY = "site removal", "biology kept"
WEIGHTS = (1.0, 1.0)
"""Of site removal and of biology kept in the harmonic mean."""

FLOOR = "floor:"
Z = 1.959964


@dataclass(frozen=True)
class Anchors:
    """A metric with its two anchors on these data.

    Attributes
    ----------
    metric : dict
        Its declaration.
    names : tuple of str
        Of the anchors at 0 and at 1.
    zero, one : Sample or None
        What the anchors scored.
    reason : str
        Why the metric is left out, empty where it is scored.
    """

    metric: dict[str, Any]
    names: tuple[str, str]
    zero: Sample | None
    one: Sample | None
    reason: str

    @property
    def axis(self) -> str:
        """The axis that the metric counts on."""
        return SITE if self.metric["axis"] == SITE else BIOLOGY

    @property
    def gap(self) -> float:
        """Standard errors between the anchors; NaN where one is missing."""
        if self.zero is None or self.one is None:
            return float("nan")
        return gap_in_errors(self.zero, self.one)


@dataclass(frozen=True)
class RowScores:
    """The scores of one row.

    Attributes
    ----------
    row : Row
        Method or control, at one seed.
    metrics : dict of str to Sample
        Anchored scores by metric, not cut to [0, 1].
    axes : dict of str to Sample
        By axis, where the row has all of the axis's metrics.
    overall : Sample or None
        The harmonic mean, where it has both axes.
    lacks : list of str
        Labels of scored metrics that it has no value of.
    """

    row: Row
    metrics: dict[str, Sample]
    axes: dict[str, Sample]
    overall: Sample | None
    lacks: list[str]


@dataclass(frozen=True)
class Scores:
    """All scores of a run.

    Attributes
    ----------
    anchors : list of Anchors
        Of every metric that declares some.
    rows : list of RowScores
        In the order of the tables.
    weights : tuple of float
        Of site removal and biology kept in `RowScores.overall`.
    """

    anchors: list[Anchors]
    rows: list[RowScores]
    weights: tuple[float, float]

    @property
    def scored(self) -> list[Anchors]:
        """The metrics that count."""
        return [a for a in self.anchors if not a.reason]

    @cached_property
    def ranks(self) -> dict[str, Rank]:
        """Rank of every method by the overall score, its seeds averaged; controls have none."""
        found: dict[str, list[Sample]] = {}
        for each in self.rows:
            if not each.row.control and each.overall is not None:
                found.setdefault(each.row.label, []).append(each.overall)
        ranks = rank_intervals([_over_method_seeds(samples) for samples in found.values()])
        return dict(zip(found, ranks, strict=True))

    @cached_property
    def pareto(self) -> dict[tuple[str, int], tuple[bool, float]]:
        """Whether a row is on the Pareto front of both axes, and in which share of replicates.

        Rows that see the truth neither stand on the front nor push others off it.
        """
        rows = [r for r in self.rows if not r.row.sees_truth and len(r.axes) == 2]
        if not rows:
            return {}
        axes = (SITE, BIOLOGY)
        on = pareto_front([[r.axes[a].value for a in axes] for r in rows])
        drawn = np.array([[r.axes[a].replicates for a in axes] for r in rows]).transpose(2, 0, 1)
        share = pareto_front(drawn[np.isfinite(drawn).all((1, 2))])
        shares = share.mean(0) if len(share) else np.full(len(rows), np.nan)
        return {
            (r.row.label, r.row.seed): (bool(o), float(s))
            for r, o, s in zip(rows, on, shares, strict=True)
        }


def score_run(results: Results, weights: tuple[float, float] = WEIGHTS) -> Scores:
    """Score every row of a run.

    Parameters
    ----------
    results : Results
        The run.
    weights : tuple of float
        Of site removal and biology kept in the harmonic mean.
    """
    anchors = [a for a in (_anchors(results, m) for m in results.metrics) if a is not None]
    used = [a for a in anchors if not a.reason]
    return Scores(anchors, [_row_scores(results, row, used, weights) for row in results.rows],
                  weights)  # fmt: skip


def sample(results: Results, row: Row, metric: str) -> Sample | None:
    """Return a metric's value and replicates, folds averaged; None where there is no value.

    Where a metric has an interval but no replicates (distances between sets of images), normal
    ones with its standard error stand in for them, independent of all others.
    """
    marks = [m for m in results.marks(row, metric) if m.get("status") == "ok"]
    if not marks or len(marks) != len(results.marks(row, metric)):
        return None
    value = float(np.mean([m["overall"]["value"] for m in marks]))
    held = [a["replicates"] for a in results.arrays(row, metric) if "replicates" in a]
    if len(held) == len(marks) and all(r.shape == (REPLICATES,) for r in held):
        return Sample(value, np.mean(held, axis=0))
    ends = [(m["overall"]["low"], m["overall"]["high"]) for m in marks]
    if any(end is None for pair in ends for end in pair):
        return Sample(value, np.full(REPLICATES, np.nan))
    error = np.sqrt(sum(((high - low) / (2 * Z)) ** 2 for low, high in ends)) / len(marks)
    rng = rng_from("score replicates", metric, row.label, row.seed)
    return Sample(value, value + error * rng.standard_normal(REPLICATES))


def _anchors(results: Results, metric: dict[str, Any]) -> Anchors | None:
    """Return the metric's anchors on these data, None for a metric that is never scored."""
    if not metric.get("anchors"):
        return None
    names = metric["anchors"]
    if not results.config["dataset"].get("has_truth"):
        # Old folders know no other anchors.
        names = metric.get("real_anchors") or names
    first, second = (str(n) for n in names)
    zero, one = (_anchor(results, n, metric["name"]) for n in (first, second))
    found = Anchors(metric, (first, second), zero, one, "")
    return Anchors(metric, (first, second), zero, one, _reason(found))


def _anchor(results: Results, name: str, metric: str) -> Sample | None:
    """Return what a control, shown or not, scored, or a floor, which has no uncertainty here."""
    floor = name.startswith(FLOOR)
    label = "identity" if floor else name
    seeds = [c["seed"] for c in results.cells if c["label"] == label and metric in c["scores"]]
    if not seeds:
        return None
    row = Row(label, min(seeds), label, control=True, sees_truth=False)
    if not floor:
        return sample(results, row, metric)
    floors = [m.get("floors", {}).get(name.removeprefix(FLOOR)) for m in results.marks(row, metric)]
    if not floors or None in floors:
        return None
    return constant(float(np.mean(floors)), REPLICATES)


def _reason(anchors: Anchors) -> str:
    for name, held in zip(anchors.names, (anchors.zero, anchors.one), strict=True):
        if held is None:
            return f"its anchor {name} has no value"
    if not anchors.gap >= LEAST_GAP:
        return f"its anchors are {anchors.gap:.1f} standard errors apart, under {LEAST_GAP:g}"
    assert anchors.zero is not None and anchors.one is not None
    up = anchors.one.value > anchors.zero.value
    if anchors.metric["direction"] == ("lower" if up else "higher"):
        return "its anchors stand the wrong way round"
    return ""


def _row_scores(
    results: Results, row: Row, used: list[Anchors], weights: tuple[float, float]
) -> RowScores:
    metrics, lacks = {}, []
    by_axis: dict[str, list[Sample | None]] = {}
    for each in used:
        assert each.zero is not None and each.one is not None
        held = sample(results, row, each.metric["name"])
        score = None if held is None else anchored(held, each.zero, each.one)
        by_axis.setdefault(each.axis, []).append(score)
        if score is None:
            lacks.append(str(each.metric["label"]))
        else:
            metrics[each.metric["name"]] = score
    axes = _axes(by_axis)
    both = harmonic_mean(axes[SITE], axes[BIOLOGY], weights) if len(axes) == 2 else None
    return RowScores(row, metrics, axes, both, lacks)


def _axes(by_axis: Mapping[str, list[Sample | None]]) -> dict[str, Sample]:
    """Return the axes of which no score is missing: a mean over fewer is no fair mean."""
    whole = {axis: [s for s in scores if s is not None] for axis, scores in by_axis.items()}
    return {a: axis_score(s) for a, s in whole.items() if len(s) == len(by_axis[a])}


def _over_method_seeds(samples: list[Sample]) -> Sample:
    """Average a method over its seeds, which are resampled with the subjects."""
    weights = seed_weights(len(samples), REPLICATES, rng_from("method seeds", len(samples)))
    replicates = np.stack([s.replicates for s in samples], axis=1)
    return Sample(float(np.mean([s.value for s in samples])), over_seeds(replicates, weights))
