"""One claim with its verdict, and the values of a method and of the others that it needs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from harmbench.stats import Difference, paired_difference
from harmbench.stats.scores import Sample
from reports.results import Results, Row
from reports.scores import sample
from reports.tables import decimals, measured

Word = Literal["held", "not held", "inconclusive", "not tested", "reported"]
Source = Literal["paper", "check", "suite"]


class Measured(NamedTuple):
    """A method's value of a metric with its 95 % interval."""

    label: str
    value: float
    low: float
    high: float


class Claim(NamedTuple):
    """One claim about one method, with its verdict.

    Attributes
    ----------
    source : {"paper", "check", "suite"}
        Whether the paper makes the claim, or it is our variant of a claim of the paper, or it is
        the suite's own.
    text : str
        What is claimed.
    row : Row
        The method at one seed.
    metric : str
        The metric that decides.
    own : Measured or None
        The method's value, None if it has none.
    others : tuple of Measured
        The values that it is compared with.
    effect : Measured or None
        What was judged, if that is not `own`: the deciding paired difference, or the share of the
        gap; its label names the other method.
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

    def judged(self, verdict: Word, reason: str) -> Claim:
        """Return the claim with this verdict and reason."""
        return self._replace(verdict=verdict, reason=reason)


def method_names(results: Results) -> dict[str, str]:
    """Return the registry name of the method of every label."""
    return dict(zip(results.scores["label"], results.scores["method"].astype(str), strict=True))


class Evidence(NamedTuple):
    """The run and the row, a method at one seed, whose claims are judged."""

    results: Results
    row: Row

    def others(self, name: str) -> list[Row]:
        """Return the rows of a method, one for each label: at this seed, else the lowest."""
        names = method_names(self.results)
        rows = [r for r in self.results.rows if names[r.label] == name]
        rows.sort(key=lambda r: (r.seed == self.row.seed, -r.seed))
        if rows:
            return list({r.label: r for r in rows}.values())
        # Anchors are computed even if their rows are not shown.
        hidden = [c["seed"] for c in self.results.cells if c["label"] == name]
        return [Row(name, min(hidden), name, True, False)] if hidden else []

    def measured(self, row: Row, metric: str) -> Measured | None:
        """Return a row's value with the interval of the tables, None if it has none."""
        score = self.results.score(row, metric)
        if score.ok:
            return Measured(row.label, score.value, score.low, score.high)
        held = self.sample(row, metric)
        return None if held is None else Measured(row.label, held.value, *held.interval)

    def sample(self, row: Row, metric: str) -> Sample | None:
        """Return a row's value with its replicates, None if it lacks either."""
        held = sample(self.results, row, metric)
        return held if held is not None and np.isfinite(held.replicates).any() else None

    def difference(self, row: Row, metric: str) -> Difference | None:
        """Return this row's value minus another's, on common resamples, None without a value.

        If either has no interval, the difference has none.
        """
        ours, theirs = (sample(self.results, each, metric) for each in (self.row, row))
        if ours is None or theirs is None:
            return None
        return paired_difference(ours.value, ours.replicates, theirs.value, theirs.replicates)

    def start(self, source: Source, text: str, metric: str) -> Claim:
        """Return a claim without a verdict; the reason is that of a missing value."""
        score = self.results.score(self.row, metric)
        own = self.measured(self.row, metric) if score.ok else None
        reason = f"failed: {score.reason}" if score.status == "failed" else score.reason
        return Claim(source, text, self.row, metric, own, reason="" if score.ok else reason)

    def with_difference(self, claim: Claim, row: Row, change: Difference, verdict: Word) -> Claim:
        """Return a claim with the verdict on its difference from another row."""
        declared = self.results.metric(claim.metric) or {}
        scores = [self.results.score(each, claim.metric) for each in self.results.rows]
        digits = decimals([s.value for s in scores if s.ok])
        text = f"{measured(*change[:3], digits)} {declared.get('unit', '')}".rstrip()
        effect = Measured(row.label, *change[:3])
        reason = f"Difference from {row.label}: {text}."
        return claim._replace(effect=effect, verdict=verdict, reason=reason)
