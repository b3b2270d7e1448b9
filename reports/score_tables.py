"""Tables of the two-axis scores: the scores, what they are made of, their anchors, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harmbench.stats.scores import Rank, Sample
from reports.comparisons import comparison_table
from reports.results import Results
from reports.scores import BIOLOGY, SITE, Anchors, RowScores, Scores
from reports.tables import NONE, number, write_table

UNKNOWN = Rank(np.nan, np.nan, np.nan)
DIGITS = 2


def score_table(scores: Scores) -> pd.DataFrame:
    """Return one row a method and seed: both axes and their harmonic mean, with 95 % intervals.

    Returns
    -------
    DataFrame
        ``rank`` (methods only, by ``overall``, seeds averaged) with the interval of the ranks in
        the replicates; ``pareto`` whether no row that does not see the truth is better on one axis
        and as good on the other, ``pareto_share`` in which share of the replicates.
    """
    records = []
    for each in scores.rows:
        row = each.row
        record: dict[str, Any] = {"label": row.label, "seed": row.seed, "control": row.control}
        record["sees_truth"] = row.sees_truth
        for name, sample in _axes(each):
            record |= _numbers(name.replace(" ", "_"), sample)
        rank = scores.ranks.get(row.label, UNKNOWN)
        record |= {"rank": rank.value, "rank_low": rank.low, "rank_high": rank.high}
        front, share = scores.pareto.get((row.label, row.seed), (None, np.nan))
        record |= {"pareto": front, "pareto_share": share}
        record["reason"] = f"lacks {', '.join(each.lacks)}" if each.lacks else ""
        records.append(record)
    return pd.DataFrame(records)


def metric_score_table(scores: Scores) -> pd.DataFrame:
    """Return every row's anchored score by metric, not cut to [0, 1]; in long form."""
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
    """Return the anchors of every metric that has some, and why those left out are left out."""
    records = [
        {
            "axis": a.axis,
            "metric": a.metric["name"],
            "zero": a.names[0],
            "zero_value": _value(a.zero),
            "one": a.names[1],
            "one_value": _value(a.one),
            "standard_errors_apart": a.gap,
            "scored": not a.reason,
            "reason": a.reason,
        }
        for a in scores.anchors
    ]
    return pd.DataFrame(records)


def score_frame(scores: Scores) -> pd.DataFrame:
    """Return the scores as texts for people; empty where nothing is scored."""
    if not scores.scored:
        return pd.DataFrame()
    data: dict[str, list[str]] = {"Method": [each.row.marked for each in scores.rows]}
    for head, position in (("Site removal", 0), ("Biology kept", 1), ("Harmonic mean", 2)):
        data[head] = [_text(_axes(each)[position][1]) for each in scores.rows]
    data["Rank"] = [_rank_text(scores.ranks.get(each.row.label)) for each in scores.rows]
    found = [scores.pareto.get((e.row.label, e.row.seed)) for e in scores.rows]
    data["Pareto front"] = [_front_text(f) for f in found]
    return pd.DataFrame(data)


def score_note(scores: Scores) -> str:
    """Return the sentences that say what the scores are made of."""
    if not scores.scored:
        why = "; ".join(f"{a.metric['label']}: {a.reason}" for a in scores.anchors)
        return f"No metric is scored ({why or 'none of these metrics has anchors'})."
    parts = [_axis_text(axis, scores.scored) for axis in (SITE, BIOLOGY)]
    weights = " : ".join(f"{w:g}" for w in scores.weights)
    text = (
        f"{' '.join(parts)} A score is the mean of its metrics, each cut to 0 to 1; the harmonic "
        f"mean weighs the two axes {weights}. Ranks are of the methods, by the harmonic mean; the "
        "front leaves out what sees the truth."
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
        The run's ``tables``; each is written as CSV, Markdown and LaTeX.
    """
    frame, note = score_frame(scores), score_note(scores)
    write_table(folder, "scores", score_table(scores), [("Scores", frame)], [note])
    for name, table in (
        ("metrics", metric_score_table(scores)),
        ("anchors", anchor_table(scores)),
        ("comparisons", comparison_table(results)),
    ):
        texts = [(f"Scores: {name}", _joined(table).map(_plain))]
        write_table(folder, f"scores_{name}", table, texts, [])


def _axes(each: RowScores) -> list[tuple[str, Sample | None]]:
    axes = [(axis, each.axes.get(axis)) for axis in (SITE, BIOLOGY)]
    return [*axes, ("overall", each.overall)]


def _numbers(name: str, sample: Sample | None) -> dict[str, float]:
    if sample is None:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    low, high = sample.interval
    return {name: sample.value, f"{name}_low": low, f"{name}_high": high}


def _value(sample: Sample | None) -> float:
    return float("nan") if sample is None else sample.value


def _text(sample: Sample | None) -> str:
    if sample is None:
        return NONE
    low, high = (number(end, DIGITS) for end in sample.interval)
    text = number(sample.value, DIGITS)
    return text if low == NONE else f"{text} [{low}, {high}]"


def _rank_text(rank: Rank | None) -> str:
    if rank is None or not np.isfinite(rank.value):
        return NONE
    ends = f" [{rank.low:g}, {rank.high:g}]" if np.isfinite(rank.low) else ""
    return f"{rank.value:g}{ends}"


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


def _joined(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with each interval in one column; such as ``score_low`` and ``score_high``."""
    shown = table.copy()
    for low in [c for c in table if c.endswith("low")]:
        high = low.removesuffix("low") + "high"
        ends = zip(table[low], table[high], strict=True)
        shown[low] = [
            f"[{_plain(a)}, {_plain(b)}]" if np.isfinite([a, b]).all() else "" for a, b in ends
        ]
        shown = shown.drop(columns=high).rename(columns={low: "interval"})
    return shown


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if np.isfinite(value) else NONE
    return str(value)
