"""One claim with its verdict, and the desk where it is judged: a method's row beside the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from harmbench.stats import Difference, paired_difference
from harmbench.stats.scores import Sample
from reports.results import Results, Row
from reports.scores import sample
from reports.tables import decimals, number

Word = Literal["held", "not held", "inconclusive", "not tested", "reported"]
Source = Literal["paper", "check", "suite"]


class Measured(NamedTuple):
    """A method's value of a metric with its 95 % interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """One claim on one method, with its verdict.

    Attributes
    ----------
    source : {"paper", "check", "suite"}
        Whose it is: the paper's; a reading of ours that stands beside one of the paper's; the
        suite's own.
    text : str
        What is claimed.
    row : Row
        The method it is claimed of, at one seed.
    metric : str
        What it is read from.
    own : Measured or None
        The method's value, None where it has none.
    others : tuple of Measured
        What it is compared with.
    effect : Measured or None
        What was judged, where that is not `own`: the deciding paired difference, or the share of
        the gap; its label says from whom.
    verdict : {"held", "not held", "inconclusive", "not tested", "reported"}
    reason : str
        One sentence.
    """

    source: Source
    text: str
    row: Row
    metric: str
    own: Measured | None = None
    others: tuple[Measured, ...] = ()
    effect: Measured | None = None
    verdict: Word = "not tested"
    reason: str = ""


def method_names(results: Results) -> dict[str, str]:
    """Return the registry name behind every label of the run."""
    return dict(zip(results.scores["label"], results.scores["method"].astype(str), strict=True))


@dataclass(frozen=True)
class Desk:
    """Where the claims on one row are judged.

    Attributes
    ----------
    results : Results
        The run.
    row : Row
        The method that the claims are about, at one seed.
    """

    results: Results
    row: Row

    def others(self, name: str) -> list[Row]:
        """Return a method's rows under all its labels: at this seed, else at their lowest."""
        names = method_names(self.results)
        rows = [r for r in self.results.rows if names[r.label] == name]
        rows.sort(key=lambda r: (r.seed == self.row.seed, -r.seed))
        if rows:
            return list({r.label: r for r in rows}.values())
        # Anchors are computed even where their rows are not shown.
        hidden = [c["seed"] for c in self.results.cells if c["label"] == name]
        return [Row(name, min(hidden), name, True, False)] if hidden else []

    def measured(self, row: Row, metric: str) -> Measured | None:
        """Return a row's value with the interval of the tables, None where it has none."""
        score = self.results.score(row, metric)
        if score.ok:
            return Measured(row.label, score.value, score.low, score.high)
        held = self.sample(row, metric)
        return None if held is None else Measured(row.label, held.value, *held.interval)

    def sample(self, row: Row, metric: str) -> Sample | None:
        """Return a row's value with its resamples, None where it has no value or no resamples."""
        held = sample(self.results, row, metric)
        return held if held is not None and np.isfinite(held.replicates).any() else None

    def difference(self, row: Row, metric: str) -> Difference | None:
        """Return this row's value minus another's, on common resamples, None without a value.

        Where either has no interval, neither has the difference.
        """
        ours, theirs = (sample(self.results, each, metric) for each in (self.row, row))
        if ours is None or theirs is None:
            return None
        return paired_difference(ours.value, ours.replicates, theirs.value, theirs.replicates)

    def start(self, source: Source, text: str, metric: str) -> Claim:
        """Open a claim; where the row has no value, it is not tested, for the row's reason."""
        score = self.results.score(self.row, metric)
        own = self.measured(self.row, metric) if score.ok else None
        reason = "" if score.ok else score.reason
        if score.status == "failed":
            reason = f"failed: {reason}"
        return Claim(source, text, self.row, metric, own, reason=reason)

    def difference_text(self, metric: str, change: Measured) -> str:
        """Return a sentence with a difference, its interval and unit."""
        scores = [self.results.score(row, metric) for row in self.results.rows]
        digits = decimals([s.value for s in scores if s.ok])
        value, low, high = (number(v, digits) for v in change[1:])
        unit = f" {self.unit(metric)}".rstrip()
        return f"Difference from {change.label}: {value} [{low}, {high}]{unit}."

    def unit(self, metric: str) -> str:
        """Return a metric's unit, empty for none."""
        return str((self.results.metric(metric) or {}).get("unit", ""))
