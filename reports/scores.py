"""The two-axis scores of a run, from the values and replicates that its metrics stored.

The declarations of the metrics say which are scored, and between which anchors. A metric whose
anchors these data do not tell apart is left out for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
"""Weights of site removal and of biology kept in the harmonic mean."""

FLOOR = "floor:"
Z = 1.959964


@dataclass(frozen=True)
class Anchors:
    """The declaration of a metric with names and values of its anchors at 0 and at 1.

    `reason` says why the metric is left out; it is empty if the metric is scored.
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
        """Standard errors between the anchors; NaN if one is missing."""
        if self.zero is None or self.one is None:
            return float("nan")
        return gap_in_errors(self.zero, self.one)


@dataclass(frozen=True)
class RowScores:
    """The scores of one row.

    Attributes
    ----------
    row : Row
        Method or control at one seed.
    metrics : dict of str to Sample
        Anchored scores by metric, not clipped to [0, 1].
    axes : dict of str to Sample
        Scores by axis, in [0, 1], for axes of which the row has all metrics.
    overall : Sample or None
        The harmonic mean, if the row has both axes.
    lacks : list of str
        Labels of scored metrics for which the row has no value.
    """

    row: Row
    metrics: dict[str, Sample]
    axes: dict[str, Sample]
    overall: Sample | None
    lacks: list[str]

    @property
    def samples(self) -> dict[str, Sample | None]:
        """Site removal, biology kept and ``"overall"``; None for what the row lacks."""
        return {axis: self.axes.get(axis) for axis in (SITE, BIOLOGY)} | {"overall": self.overall}


@dataclass(frozen=True)
class Scores:
    """All scores of a run: anchors by metric, rows in the order of the tables.

    `weights` are those of site removal and biology kept in the harmonic mean.
    """

    anchors: list[Anchors]
    rows: list[RowScores]
    weights: tuple[float, float]

    @property
    def scored(self) -> list[Anchors]:
        """The metrics that count."""
        return [a for a in self.anchors if not a.reason]

    @cached_property
    def methods(self) -> dict[str, list[RowScores]]:
        """The rows of each method, one for each seed, by label; without the controls."""
        labels = dict.fromkeys(r.row.label for r in self.rows if not r.row.control)
        return {label: [r for r in self.rows if r.row.label == label] for label in labels}

    @cached_property
    def ranks(self) -> dict[str, Rank]:
        """Rank of every method by the overall score, averaged over seeds."""
        known = {
            label: [r.overall for r in rows if r.overall is not None]
            for label, rows in self.methods.items()
        }
        known = {label: samples for label, samples in known.items() if samples}
        ranks = rank_intervals([_over_method_seeds(samples) for samples in known.values()])
        return dict(zip(known, ranks, strict=True))

    def on_front(self, row: Row) -> bool:
        """Return whether a row is on the Pareto front."""
        return self.pareto.get((row.label, row.seed), (False, 0.0))[0]

    @cached_property
    def pareto(self) -> dict[tuple[str, int], tuple[bool, float]]:
        """Whether a row is on the Pareto front of both axes, and in which share of replicates.

        Rows that see the truth are not on the front and do not exclude others from it.
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


def score_run(results: Results) -> Scores:
    """Score every row of a run."""
    anchors = [a for a in (_anchors(results, m) for m in results.metrics) if a is not None]
    used = [a for a in anchors if not a.reason]
    return Scores(anchors, [_row_scores(results, row, used) for row in results.rows], WEIGHTS)


def sample(results: Results, row: Row, metric: str) -> Sample | None:
    """Return a metric's value and replicates, averaged over folds; None if there is no value.

    For a metric with an interval but without replicates (distances between sets of images),
    normal replicates with its standard error are drawn, independent of all others.
    """
    marks = results.marks(row, metric)
    if not marks or any(mark.get("status") != "ok" for mark in marks):
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
    """Return the metric's anchors on these data, None for a metric that declares none."""
    if not metric.get("anchors"):
        return None
    names = metric["anchors"]
    if not results.config["dataset"].get("has_truth"):
        # Old folders declare no other anchors.
        names = metric.get("real_anchors") or names
    first, second = (str(n) for n in names)
    zero, one = (_anchor(results, n, metric["name"]) for n in (first, second))
    found = Anchors(metric, (first, second), zero, one, "")
    return replace(found, reason=_reason(found))


def _anchor(results: Results, name: str, metric: str) -> Sample | None:
    """Return the value of a control, shown or not, or of a floor, which has no uncertainty."""
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


def _row_scores(results: Results, row: Row, used: list[Anchors]) -> RowScores:
    metrics, lacks = {}, []
    for each in used:
        assert each.zero is not None and each.one is not None
        held = sample(results, row, each.metric["name"])
        if held is None:
            lacks.append(each)
        else:
            metrics[each.metric["name"]] = anchored(held, each.zero, each.one)
    # An axis with a missing metric has no score: a mean over fewer metrics is not comparable.
    whole = {each.axis for each in used} - {each.axis for each in lacks}
    axes = {
        axis: axis_score([metrics[a.metric["name"]] for a in used if a.axis == axis])
        for axis in (SITE, BIOLOGY)
        if axis in whole
    }
    both = harmonic_mean(axes[SITE], axes[BIOLOGY], WEIGHTS) if len(axes) == 2 else None
    return RowScores(row, metrics, axes, both, [str(each.metric["label"]) for each in lacks])


def _over_method_seeds(samples: list[Sample]) -> Sample:
    """Average a method over its seeds, which are resampled together with the subjects."""
    weights = seed_weights(len(samples), REPLICATES, rng_from("method seeds", len(samples)))
    replicates = np.stack([s.replicates for s in samples], axis=1)
    return Sample(float(np.mean([s.value for s in samples])), over_seeds(replicates, weights))
