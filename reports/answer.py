"""The short answer at the top of the report: ranks, Pareto front, claims, missing values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harmbench.stats.scores import Sample
from reports.claim_tables import Section
from reports.results import Results
from reports.scores import RowScores, Scores
from reports.tables import NONE, SCORE_DIGITS, measured, rank_text


class Value(NamedTuple):
    """A score as text and as numbers from 0 to 1; `low` and `high` are NaN without interval."""

    text: str
    at: float = np.nan
    low: float = np.nan
    high: float = np.nan


class Standing(NamedTuple):
    """One method with its rank.

    `place` is its position among the methods, which gives its color; `values` are site removal,
    biology kept and their harmonic mean; `front` says whether it is on or off the Pareto front.
    """

    title: str
    place: int
    rank: str
    values: list[Value]
    front: str


class Answer(NamedTuple):
    """The methods, best first, and sentences with a heading each."""

    standings: list[Standing]
    sentences: list[tuple[str, str]]


def short_answer(results: Results, scores: Scores, claims: Section | None) -> Answer:
    """Return the ranking and the sentences on front, claims and missing values."""
    sentences = [("Pareto front", _front(scores))]
    if claims:
        sentences.append(("Claims of the paper", " ".join(claims.summary)))
    return Answer(_standings(scores), [*sentences, ("Missing values", _missing(results))])


def _standings(scores: Scores) -> list[Standing]:
    found = []
    for place, (label, rows) in enumerate(scores.methods.items()):
        rank = scores.ranks.get(label)
        if rank is None or not np.isfinite(rank.value):
            continue
        title = label if len(rows) == 1 else f"{label} (mean of {len(rows)} seeds)"
        columns = zip(*(each.samples.values() for each in rows), strict=True)
        values = [_value([s for s in column if s is not None]) for column in columns]
        standing = Standing(title, place, rank_text(rank), values, _on(scores, rows))
        found.append((rank.value, place, standing))
    return [standing for _, _, standing in sorted(found, key=lambda each: each[:2])]


def _value(known: Sequence[Sample]) -> Value:
    if not known:
        return Value(NONE)
    at = float(np.mean([s.value for s in known]))
    # The mean over several seeds has no interval here; the tables hold the interval of each seed.
    low, high = known[0].interval if len(known) == 1 else (np.nan, np.nan)
    return Value(measured(at, low, high, SCORE_DIGITS), at, float(low), float(high))


def _on(scores: Scores, rows: Sequence[RowScores]) -> str:
    on = sum(scores.on_front(each.row) for each in rows)
    if len(rows) == 1:
        return "on" if on else "off"
    return f"{on} of {len(rows)} seeds on"


def _front(scores: Scores) -> str:
    if not scores.pareto:
        return "Not known: no row has both axes."
    on = [each.row for each in scores.rows if scores.on_front(each.row)]
    methods = ", ".join(row.title for row in on if not row.control)
    controls = ", ".join(row.title for row in on if row.control)
    text = f"On it: {methods or 'no method'}"
    return f"{text}; of the controls: {controls}." if controls else f"{text}."


def _missing(results: Results) -> str:
    counts = Counter(s.status for s in results.all_scores)
    return (
        f"Of {counts.total()} (rows by metrics), {counts['failed']} failed and "
        f"{counts['skipped']} skipped."
    )
