"""Tables of the two-axis scores: the scores, their metrics, their anchors, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harmbench.stats.scores import Rank, Sample
from reports.comparisons import comparison_table
from reports.results import Results
from reports.scores import BIOLOGY, SITE, Anchors, Scores
from reports.tables import (
    NONE,
    SCORE_DIGITS,
    joined,
    measured,
    rank_text,
    three_digits,
    write_table,
)

UNKNOWN = Rank(np.nan, np.nan, np.nan)


def score_table(scores: Scores) -> pd.DataFrame:
    """Return both axes and their harmonic mean, with 95 % intervals, by method and seed.

    Returns
    -------
    DataFrame
        ``rank`` (methods only, by ``overall``, averaged over seeds) has the interval of the ranks
        in the replicates. ``pareto`` says whether no row without access to the truth is better on
        one axis and at least as good on the other, and ``pareto_share`` in which share of the
        replicates.
    """
    records = []
    for each in scores.rows:
        record = each.row.record
        for name, sample in each.samples.items():
            record |= _numbers(name.replace(" ", "_"), sample)
        rank = scores.ranks.get(each.row.label, UNKNOWN)
        record |= {"rank": rank.value, "rank_low": rank.low, "rank_high": rank.high}
        front, share = scores.pareto.get((each.row.label, each.row.seed), (None, np.nan))
        record |= {"pareto": front, "pareto_share": share}
        record["reason"] = f"lacks {', '.join(each.lacks)}" if each.lacks else ""
        records.append(record)
    return pd.DataFrame(records)


def metric_score_table(scores: Scores) -> pd.DataFrame:
    """Return the anchored score of every row and metric, not clipped to [0, 1], in long form."""
    axes = {a.metric["name"]: a.axis for a in scores.scored}
    records = [
        {"label": each.row.label, "seed": each.row.seed, "axis": axes[name], "metric": name}
        | _numbers("score", sample)
        for each in scores.rows
        for name, sample in each.metrics.items()
    ]
    columns = ["label", "seed", "axis", "metric", "score", "score_low", "score_high"]
    return pd.DataFrame(records, columns=columns)


def anchor_table(scores: Scores) -> pd.DataFrame:
    """Return the anchors of every metric that declares some, and why metrics are left out."""
    records = [
        {
            "axis": a.axis,
            "metric": a.metric["name"],
            "zero": a.names[0],
            "zero_value": np.nan if a.zero is None else a.zero.value,
            "one": a.names[1],
            "one_value": np.nan if a.one is None else a.one.value,
            "standard_errors_apart": a.gap,
            "scored": not a.reason,
            "reason": a.reason,
        }
        for a in scores.anchors
    ]
    return pd.DataFrame(records)


def score_frame(scores: Scores) -> pd.DataFrame:
    """Return the scores as texts; empty if no metric is scored."""
    if not scores.scored:
        return pd.DataFrame()
    records = []
    for each in scores.rows:
        values = [
            NONE if s is None else measured(s.value, *s.interval, SCORE_DIGITS)
            for s in each.samples.values()
        ]
        found = scores.pareto.get((each.row.label, each.row.seed))
        records.append([each.row.marked, *values, rank_text(scores.ranks.get(each.row.label)),
                        _front_text(found)])  # fmt: skip
    heads = ["Method", "Site removal", "Biology kept", "Harmonic mean", "Rank", "Pareto front"]
    return pd.DataFrame(records, columns=heads)


def score_note(scores: Scores) -> str:
    """Return the sentences that say how the scores are computed."""
    if not scores.scored:
        why = "; ".join(f"{a.metric['label']}: {a.reason}" for a in scores.anchors)
        return f"No metric is scored ({why or 'none of these metrics has anchors'})."
    parts = [_axis_text(axis, scores.scored) for axis in (SITE, BIOLOGY)]
    weights = " : ".join(f"{w:g}" for w in scores.weights)
    text = (
        f"{' '.join(parts)} A score is the mean of its metrics, each clipped to 0 to 1; the "
        f"harmonic mean weighs the two axes {weights}. Only methods are ranked, by the harmonic "
        "mean; the Pareto front leaves out rows that see the truth."
    )
    left_out = [f"{a.metric['label']} ({a.reason})" for a in scores.anchors if a.reason]
    return f"{text} Left out: {'; '.join(left_out)}." if left_out else text


def write_score_tables(results: Results, scores: Scores, folder: Path) -> None:
    """Write ``scores``, ``scores_metrics``, ``scores_anchors`` and ``scores_comparisons``.

    Parameters
    ----------
    results : Results
        The run.
    scores : Scores
        Its scores.
    folder : Path
        The folder ``tables`` of the report; each table is written as CSV, Markdown and LaTeX.
    """
    frame, note = score_frame(scores), score_note(scores)
    write_table(folder, "scores", score_table(scores), [("Scores", frame)], [note])
    for name, table in (
        ("metrics", metric_score_table(scores)),
        ("anchors", anchor_table(scores)),
        ("comparisons", comparison_table(results)),
    ):
        texts = [(f"Scores: {name}", joined(table).map(three_digits))]
        write_table(folder, f"scores_{name}", table, texts, [])


def _numbers(name: str, sample: Sample | None) -> dict[str, float]:
    low, high = (np.nan, np.nan) if sample is None else sample.interval
    value = np.nan if sample is None else sample.value
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _front_text(found: tuple[bool, float] | None) -> str:
    if found is None:
        return NONE
    on, share = found
    return f"{'on it' if on else 'off it'} ({100 * share:.0f} % of resamples)"


def _axis_text(axis: str, scored: Sequence[Anchors]) -> str:
    mine = [a for a in scored if a.axis == axis]
    if not mine:
        return f"{axis.capitalize()}: no metric tells its anchors apart here."
    made_of = ", ".join(
        f"{a.metric['label']} (0 {_anchor_text(a.names[0])}, 1 {_anchor_text(a.names[1])})"
        for a in mine
    )
    return f"{axis.capitalize()}: {made_of}."


def _anchor_text(name: str) -> str:
    return f"floor '{name.partition(':')[2]}'" if ":" in name else name
