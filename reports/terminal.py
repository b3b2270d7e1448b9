"""The table that the terminal shows at the end of a run: at most six metrics and the rank."""

from __future__ import annotations

from collections import Counter
from textwrap import fill, wrap
from typing import Any

import numpy as np

from reports.drawing import short
from reports.results import Results, Score
from reports.scores import score_run
from reports.tables import ARROWS, NONE, budgets, decimals, number, rank_text

WIDTH = 80
COLUMNS = (
    ("site_excess", "site_bacc", "ilisi", "mmd"),
    ("age_mae", "age_skill_within"),
    ("sex_bacc", "sex_auc"),
    ("distance_pcc_truth", "distance_pcc", "identification"),
    ("truth_mae", "fd_reference", "kd_reference"),
    ("leakage_age", "leakage_sex"),
)
"""Each column shows the first of its metrics that has a value."""
LEAST_NAME, HEAD_WIDTH = 10, 8
MOST_REASONS = 3
LEGEND = "values ± half their 95 % interval; ↓ lower, ↑ higher, → nearer to the target is better"


def terminal_text(results: Results) -> str:
    """Return the main values and ranks of all methods, and what is missing.

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
        texts = [rank_text(ranks.get(row.label), "").replace(" [", "\n[") for row in results.rows]
        columns.append(["rank", *texts])
    lines = [[line for text in column for line in text.split("\n")] for column in columns]
    left = WIDTH - sum(2 + max(map(len, column)) for column in lines)
    names = ["", *(short(row.marked, max(left, LEAST_NAME)) for row in results.rows)]
    heads, *rows = zip(names, *columns, strict=True)
    blocks = [tabulate(rows, heads, tablefmt="simple", disable_numparse=True)] if metrics else []
    legend = [LEGEND] if metrics else ["no metric has a value"]
    if any(row.control for row in results.rows):
        legend.append("* control")
    if any(row.sees_truth for row in results.rows):
        legend.append("† sees the truth")
    notes = ["; ".join(legend), *_missing(results), budgets(results)]
    said = [fill(line, WIDTH, subsequent_indent="  ") for line in notes if line]
    return "\n\n".join([*blocks, "\n".join(said)])


def _columns(results: Results) -> list[dict[str, Any]]:
    """Return the metrics to show: those of `COLUMNS`, or else the first ones with values."""
    known = {m["name"]: m for m in results.metrics if results.has_value(m)}
    chosen = [name for names in COLUMNS if (name := next((n for n in names if n in known), None))]
    return [known[name] for name in (chosen or [*known])[:6]]


def _head(metric: dict[str, Any]) -> str:
    unit = f" ({metric['unit']})" if metric["unit"] else ""
    text = f"{metric['label']}{unit} {ARROWS[metric['direction']]}"
    return "\n".join(wrap(text, HEAD_WIDTH, break_long_words=False))


def _texts(results: Results, metric: dict[str, Any]) -> list[str]:
    scores = results.column(metric)
    digits = min(decimals([s.value for s in scores if s.ok]), 4)
    return [_text(score, digits) for score in scores]


def _text(score: Score, digits: int) -> str:
    if not score.ok:
        return NONE if score.status == "absent" else score.status
    half = (score.high - score.low) / 2
    return number(score.value, digits) + (f"\n±{number(half, digits)}" if np.isfinite(half) else "")


def _missing(results: Results) -> list[str]:
    """Return how many values are missing and the most frequent reasons, failures first."""
    bad = [s for s in results.all_scores if not s.ok and s.status != "absent"]
    if not bad:
        return []
    reasons = Counter(f"{s.status}: {s.reason}" for s in bad)
    often = sorted(reasons, key=lambda text: (not text.startswith("failed"), -reasons[text]))
    listed = [f"- {reasons[text]} {short(text, 130)}" for text in often[:MOST_REASONS]]
    more = len(often) - len(listed)
    tail = [f"- and {more} more reasons, see the report"] if more > 0 else []
    return [f"{len(bad)} of {len(results.all_scores)} values are missing:", *listed, *tail]
