"""Comparison of every method with all others and with no harmonization, on common resamples."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from harmbench.stats import holm, paired_difference, verdict
from harmbench.stats.scores import Sample
from reports.results import Results, Row
from reports.scores import SITE, sample

COLUMNS = [
    "metric", "first", "second", "seed", "difference", "low", "high", "p", "p_holm",
    "margin", "superior", "non_inferior",
]  # fmt: skip
BASE = "identity"


def comparison_table(results: Results) -> pd.DataFrame:
    """Return all ordered pairs of methods for every metric that states a margin or is scored.

    Returns
    -------
    DataFrame
        ``difference`` is the value of the first minus that of the second, with a 95 % interval;
        ``p_holm`` is corrected for all pairs of the metric. ``superior`` and ``non_inferior`` say
        whether the claim that the first is better, or worse by less than ``margin``, held, did
        not hold, or is inconclusive. For a site metric with a target, the values are the excess
        over the target, because a value below it is no better removal of the site.
    """
    rows = [r for r in results.first_seeds if not r.control]
    rows += [r for r in results.first_seeds if r.control and r.label == BASE]
    judged = [m for m in results.metrics if m.get("anchors") or m.get("margin") is not None]
    records = [record for metric in judged for record in _of_metric(results, rows, metric)]
    return pd.DataFrame(records, columns=COLUMNS)


def _of_metric(results: Results, rows: list[Row], metric: dict[str, Any]) -> list[dict[str, Any]]:
    held = [(row, value) for row in rows if (value := _values(results, row, metric)) is not None]
    records = []
    for (first, a), (second, b) in permutations(held, 2):
        if first.label == BASE:
            continue
        change = paired_difference(a.value, a.replicates, b.value, b.replicates)
        claims = _claims((change.low, change.high), metric)
        head = {"metric": metric["name"], "first": first.label, "second": second.label}
        records.append(
            {**head, "seed": first.seed, "difference": change.value, "low": change.low,
             "high": change.high, "p": change.p, **claims}
        )  # fmt: skip
    return _with_holm(records)


def _values(results: Results, row: Row, metric: dict[str, Any]) -> Sample | None:
    held = sample(results, row, metric["name"])
    if held is None or not np.isfinite(held.replicates).any():
        return None
    target = results.score(row, metric["name"]).target
    if metric["axis"] == SITE and metric["direction"] == "target" and np.isfinite(target):
        return Sample(max(held.value - target, 0.0), np.maximum(held.replicates - target, 0.0))
    return held


def _claims(interval: tuple[float, float], metric: dict[str, Any]) -> dict[str, Any]:
    better: Any = "higher" if metric["direction"] == "higher" else "lower"
    margin = metric.get("margin")
    return {
        "margin": np.nan if margin is None else margin,
        "superior": verdict(interval, 0.0, "superior", better),
        "non_inferior": "" if margin is None else verdict(interval, margin, "non-inferior", better),
    }


def _with_holm(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the p value corrected by Holm; the two orders of a pair are one test."""
    pairs = [frozenset((r["first"], r["second"])) for r in records]
    tests = dict(zip(pairs, (r["p"] for r in records), strict=True))
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [r | {"p_holm": float(adjusted[pair])} for r, pair in zip(records, pairs, strict=True)]
