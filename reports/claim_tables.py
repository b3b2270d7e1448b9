"""The claims as tables: one CSV, and the texts of both pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.claim import Claim, Measured, method_names
from reports.claims import CONTENDERS, PAPER
from reports.results import Results
from reports.tables import NONE, decimals, measured, write_table

TITLES = {"Claims of the paper": ("paper", "check"), "Claims of the suite": ("suite",)}
SETTLED = ("held", "not held", "inconclusive")
SIGNS = {"held": "✓", "not held": "✗", "inconclusive": "?", "not tested": "–", "reported": "i"}
LEGEND = (
    "Held: the whole 95 % interval agrees with the claim; not held: the whole interval contradicts "
    "it; inconclusive: neither. FID and FD are compared by whole intervals, which are not paired, "
    "all other metrics by paired differences on common resamples."
)
CHECK = "a check, not the paper's"
LONG = 90
"""Length from which on a repeated reason becomes a footnote."""


class Line(NamedTuple):
    """One claim as texts: `own` and `others` are values with intervals, `label` is the metric's.

    `remark` says whether the claim is a check of ours, and `sign` is a symbol of the verdict.
    """

    method: str
    text: str
    remark: str
    metric: str
    label: str
    own: str
    others: list[str]
    verdict: str
    sign: str
    reason: str


class Block(NamedTuple):
    """The claims of one origin: lines by method."""

    title: str
    methods: dict[str, list[Line]]

    @property
    def lines(self) -> list[Line]:
        """All lines."""
        return [line for lines in self.methods.values() for line in lines]


class Section(NamedTuple):
    """What the pages say about the claims: the paper, sentences, then a block for each origin.

    `footnotes` are the long reasons that several lines share.
    """

    doi: str
    summary: list[str]
    notes: list[str]
    blocks: list[Block]
    footnotes: list[str]

    def note(self, line: Line) -> int:
        """Return the number of the footnote with a line's reason, 0 if there is none."""
        return self.footnotes.index(line.reason) + 1 if line.reason in self.footnotes else 0


def claim_section(results: Results, claims: Sequence[Claim]) -> Section | None:
    """Return the claims as texts, of several seeds the lowest; None if there is no claim."""
    if not claims:
        return None
    seeds: dict[str, set[int]] = {}
    for claim in claims:
        seeds.setdefault(claim.row.label, set()).add(claim.row.seed)
    shown = [claim for claim in claims if claim.row.seed == min(seeds[claim.row.label])]
    blocks = []
    for title, sources in TITLES.items():
        lines: dict[str, list[Line]] = {}
        for claim in shown:
            if claim.source in sources:
                line = _line(results, claim, _agreement(claim, claims))
                lines.setdefault(claim.row.label, []).append(line)
        blocks.append(Block(title, lines))
    return Section(PAPER, _summary(shown), _notes(results, seeds), blocks, _long_reasons(blocks))


def claim_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """Return a row for each claim, method and seed, with all numbers in full precision.

    Returns
    -------
    DataFrame
        ``value`` is the method's own value. ``effect`` was judged if the value itself was not: the
        difference from the method in ``effect_of``, or the share of the gap.
    """
    none = Measured("", np.nan, np.nan, np.nan)
    records = []
    for claim in claims:
        own, effect = claim.own or none, claim.effect or none
        records.append(
            {
                "source": claim.source,
                "claim": claim.text,
                "label": claim.row.label,
                "seed": claim.row.seed,
                "metric": claim.metric,
                "compared_with": "; ".join(other.label for other in claim.others),
                "value": own.value,
                "low": own.low,
                "high": own.high,
                "other_values": "; ".join(f"{other.value!r}" for other in claim.others),
                "effect_of": effect.label,
                "effect": effect.value,
                "effect_low": effect.low,
                "effect_high": effect.high,
                "verdict": claim.verdict,
                "reason": claim.reason,
            }
        )
    return pd.DataFrame(records)


def claim_frame(block: Block) -> pd.DataFrame:
    """Return a block as a table of texts."""
    rows = [
        (f"{x.text} ({x.remark})" if x.remark else x.text, x.method, x.label, x.own,
         "; ".join(x.others) or NONE, x.verdict, x.reason)
        for x in block.lines
    ]  # fmt: skip
    heads = ["Claim", "Method", "Metric", "Value", "Compared with", "Verdict", "Reason"]
    return pd.DataFrame(rows, columns=heads)


def write_claim_table(results: Results, claims: Sequence[Claim], folder: Path) -> None:
    """Write ``claims`` as CSV, Markdown and LaTeX, if there are any."""
    section = claim_section(results, claims)
    if section is None:
        return
    parts = [(block.title, claim_frame(block)) for block in section.blocks]
    notes = [*section.summary, LEGEND, *section.notes]
    write_table(folder, "claims", claim_table(claims), parts, notes)


def _line(results: Results, claim: Claim, agreement: str) -> Line:
    every = [claim.own, *claim.others] if claim.own else [*claim.others]
    digits = decimals([size for each in every for size in (each.value, each.high - each.value)])
    declared = results.metric(claim.metric)
    return Line(
        method=claim.row.label,
        text=claim.text,
        remark=CHECK if claim.source == "check" else "",
        metric=claim.metric if declared else "",
        label=str((declared or {}).get("label", claim.metric)),
        own=measured(*claim.own[1:], digits) if claim.own else NONE,
        others=[f"{other.label} {measured(*other[1:], digits)}" for other in claim.others],
        verdict=claim.verdict,
        sign=SIGNS[claim.verdict],
        reason=" ".join(filter(None, (_sentence(claim.reason), agreement))),
    )


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text[0].upper()}{text[1:]}."


def _agreement(claim: Claim, claims: Sequence[Claim]) -> str:
    """Return a sentence on how many of a method's seeds have the same verdict."""

    def key(each: Claim) -> tuple[object, ...]:
        return each.row.label, each.text, each.metric, {other.label for other in each.others}

    n = len({c.row.seed for c in claims if c.row.label == claim.row.label})
    if n == 1 or claim.verdict not in SETTLED:
        return ""
    same = sum(c.verdict == claim.verdict for c in claims if key(c) == key(claim))
    return f"The same at {same} of {n} seeds."


def _summary(claims: Sequence[Claim]) -> list[str]:
    """Return a sentence for each method that counts the verdicts on the paper's claims."""
    found: dict[str, Counter[str]] = {}
    for claim in claims:
        if claim.source == "paper":
            found.setdefault(claim.row.label, Counter())[claim.verdict] += 1
    texts = []
    for label, counts in found.items():
        words = ", ".join(f"{counts[w]} {w}" for w in (*SETTLED, "not tested") if counts[w])
        texts.append(f"{label}: of {counts.total()} readings of the paper's claims, {words}.")
    return texts


def _long_reasons(blocks: Sequence[Block]) -> list[str]:
    counts = Counter(line.reason for block in blocks for line in block.lines)
    return [reason for reason, n in counts.items() if n > 1 and len(reason) > LONG]


def _notes(results: Results, seeds: dict[str, set[int]]) -> list[str]:
    there = set(method_names(results).values())
    lacking = [name for name in CONTENDERS if name not in there]
    notes = []
    if lacking:
        rest = [name for name in CONTENDERS if name in there]
        notes.append(
            f"Not in this run: {', '.join(lacking)}. Lowest and highest refer to "
            f"{', '.join(rest) or 'no other contender'} and the method itself."
        )
    if any(len(each) > 1 for each in seeds.values()):
        notes.append(
            "The lowest seed of each method is shown; tables/claims.csv contains all seeds."
        )
    return notes
