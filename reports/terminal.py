"""The end of a run in the terminal: the ranking, and one table of at most seven columns."""

from __future__ import annotations

from textwrap import fill, wrap
from typing import Any

import numpy as np

from reports.drawing import short
from reports.results import Results, Score
from reports.scores import score_run
from reports.tables import ARROWS, NONE, budgets, decimals, number

WIDTH = 80
COLUMNS = (
    ("site_excess", "site_bacc", "ilisi", "mmd"),
    ("age_mae", "age_skill_within"),
    ("sex_bacc", "sex_auc"),
    ("distance_pcc_truth", "distance_pcc", "identification"),
    ("truth_mae", "fd_reference", "kd_reference"),
    ("leakage_age", "leakage_sex"),
)
"""Metrics of each column, the first of them that has a value; the rank is the seventh column."""
LEAST_NAME, HEAD_WIDTH = 10, 8
MOST_REASONS = 3
LEGEND = "values ± half their 95 % interval; ↓ lower, ↑ higher, → nearer to the target is better"


def terminal_text(results: Results) -> str:
    """Return the main values of every method, the ranks, and how much was left out.

    Parameters
    ----------
    results : Results
        The run.

    Returns
    -------
    str
        Lines of at most `WIDTH` characters.
    """
    from tabulate import tabulate

    metrics = _columns(results)
    ranks = score_run(results).ranks
    columns = [[_head(metric), *_texts(results, metric)] for metric in metrics]
    if ranks:
        columns.append(["rank", *(_rank(ranks.get(row.label)) for row in results.rows)])
    left = WIDTH - sum(2 + _width(column) for column in columns)
    names = ["", *(short(row.marked, max(left, LEAST_NAME)) for row in results.rows)]
    heads, *rows = zip(names, *columns, strict=True)
    blocks = [tabulate(rows, heads, tablefmt="simple", disable_numparse=True)] if metrics else []
    legend = [LEGEND] if metrics else ["no metric has a value"]
    if any(row.control for row in results.rows):
        legend.append("* control")
    if any(row.sees_truth for row in results.rows):
        legend.append("† sees the truth")
    notes = ["; ".join(legend), *_missing(results), budgets(results)]
    lines = [fill(line, WIDTH, subsequent_indent="  ") for line in notes if line]
    return "\n\n".join([*blocks, "\n".join(lines)])


def _columns(results: Results) -> list[dict[str, Any]]:
    """Return the metrics to show: those of `COLUMNS`, else the first that have values."""
    known = {m["name"]: m for m in results.metrics if _has_value(results, m)}
    chosen = [next((n for n in names if n in known), None) for names in COLUMNS]
    names = [name for name in chosen if name] + [name for name in known if name not in chosen]
    return [known[name] for name in (names if not any(chosen) else filter(None, chosen))][:6]


def _has_value(results: Results, metric: dict[str, Any]) -> bool:
    return any(results.score(row, metric["name"]).ok for row in results.rows)


def _width(column: list[str]) -> int:
    return max(len(line) for text in column for line in text.split("\n"))


def _head(metric: dict[str, Any]) -> str:
    unit = f" ({metric['unit']})" if metric["unit"] else ""
    text = f"{metric['label']}{unit} {ARROWS[metric['direction']]}"
    return "\n".join(wrap(text, HEAD_WIDTH, break_long_words=False))


def _texts(results: Results, metric: dict[str, Any]) -> list[str]:
    scores = [results.score(row, metric["name"]) for row in results.rows]
    digits = min(decimals([s.value for s in scores if s.ok]), 4)
    return [_text(score, digits) for score in scores]


def _text(score: Score, digits: int) -> str:
    if score.status == "absent":
        return NONE
    if not score.ok:
        return score.status
    half = (score.high - score.low) / 2
    return number(score.value, digits) + (f"\n±{number(half, digits)}" if np.isfinite(half) else "")


def _rank(rank: Any) -> str:
    if rank is None or not np.isfinite(rank.value):
        return ""
    return f"{rank.value:g}" + (f"\n[{rank.low:g}, {rank.high:g}]" if np.isfinite(rank.low) else "")


def _missing(results: Results) -> list[str]:
    """Say how many values are missing and why, the most frequent reasons first."""
    reasons: dict[str, int] = {}
    total = 0
    for row, metric in ((r, m) for r in results.rows for m in results.metrics):
        score = results.score(row, metric["name"])
        total += 1
        if not score.ok and score.status != "absent":
            said = f"{score.status}: {score.reason}"
            reasons[said] = reasons.get(said, 0) + 1
    if not reasons:
        return []
    often = sorted(reasons, key=lambda said: (not said.startswith("failed"), -reasons[said]))
    listed = [f"- {reasons[text]} {short(text, 130)}" for text in often[:MOST_REASONS]]
    more = len(often) - len(listed)
    tail = [f"- and {more} more reasons, see the report"] if more > 0 else []
    return [f"{sum(reasons.values())} of {total} values are missing:", *listed, *tail]
