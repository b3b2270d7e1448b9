"""The answer in short, for the hurried reader: nothing here that no table says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmbench.stats.scores import Sample
from reports.claim_tables import Section
from reports.results import Results
from reports.scores import BIOLOGY, SITE, RowScores, Scores
from reports.tables import NONE, number

DIGITS = 2


@dataclass(frozen=True)
class Value:
    """A score as text and as parts of its scale from 0 to 1; `low` and `high` NaN for none."""

    text: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """One method's place.

    Attributes
    ----------
    title : str
        Its label, with the number of seeds where there are several.
    place : int
        Its position among the methods, for its color.
    rank : str
        With the interval of the ranks.
    values : list of Value
        Site removal, biology kept, harmonic mean.
    front : str
        Whether it is on or off the Pareto front.
    """

    title: str
    place: int
    rank: str
    values: list[Value]
    front: str


@dataclass(frozen=True)
class Answer:
    """The answer in short.

    Attributes
    ----------
    standings : list of Standing
        Best first; empty where nothing is scored.
    sentences : list of (str, str)
        A word and what is said under it.
    """

    standings: list[Standing]
    sentences: list[tuple[str, str]]


def short_answer(results: Results, scores: Scores, claims: Section | None) -> Answer:
    """Gather ranks, front, claims and failures."""
    sentences = [("Pareto front", _front(scores)), *_claims(claims), _problems(results)]
    return Answer(_standings(scores), sentences)


def _standings(scores: Scores) -> list[Standing]:
    by_label: dict[str, list[RowScores]] = {}
    for each in scores.rows:
        if not each.row.control:
            by_label.setdefault(each.row.label, []).append(each)
    found = []
    for place, (label, rows) in enumerate(by_label.items()):
        rank = scores.ranks.get(label)
        if rank is None or not np.isfinite(rank.value):
            continue
        ends = f" [{rank.low:g}, {rank.high:g}]" if np.isfinite(rank.low) else ""
        samples = [[r.axes.get(SITE), r.axes.get(BIOLOGY), r.overall] for r in rows]
        title = label if len(rows) == 1 else f"{label} (mean of {len(rows)} seeds)"
        values = [_value(list(column)) for column in zip(*samples, strict=True)]
        standing = Standing(title, place, f"{rank.value:g}{ends}", values, _on(scores, rows))
        found.append((rank.value, place, standing))
    return [standing for _, _, standing in sorted(found, key=lambda each: each[:2])]


def _value(samples: Sequence[Sample | None]) -> Value:
    known = [s for s in samples if s is not None]
    if not known:
        return Value(NONE, np.nan, np.nan, np.nan)
    at = float(np.mean([s.value for s in known]))
    # Of several seeds the tables hold every interval; their mean has none of its own here.
    low, high = known[0].interval if len(known) == 1 else (np.nan, np.nan)
    text = number(at, DIGITS)
    if np.isfinite(low) and np.isfinite(high):
        text += f" [{number(low, DIGITS)}, {number(high, DIGITS)}]"
    return Value(text, at, float(low), float(high))


def _on(scores: Scores, rows: Sequence[RowScores]) -> str:
    held = [scores.pareto.get((r.row.label, r.row.seed), (False, 0.0))[0] for r in rows]
    if len(held) == 1:
        return "on" if held[0] else "off"
    return f"{sum(held)} of {len(held)} seeds on"


def _front(scores: Scores) -> str:
    if not scores.pareto:
        return "Not known: no row has both axes."
    on = [r.row for r in scores.rows if scores.pareto.get((r.row.label, r.row.seed), (False,))[0]]
    methods = ", ".join(row.title for row in on if not row.control)
    controls = ", ".join(row.title for row in on if row.control)
    text = f"On it: {methods or 'no method'}"
    return f"{text}; of the controls: {controls}." if controls else f"{text}."


def _claims(claims: Section | None) -> list[tuple[str, str]]:
    return [("Claims of the paper", " ".join(claims.summary))] if claims else []


def _problems(results: Results) -> tuple[str, str]:
    scores = [results.score(row, m["name"]) for row in results.rows for m in results.metrics]
    counts = {word: sum(s.status == word for s in scores) for word in ("failed", "skipped")}
    said = " and ".join(f"{n} {word}" for word, n in counts.items())
    return "Missing values", f"Of {len(scores)} (rows by metrics), {said}."
