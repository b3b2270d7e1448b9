"""What is claimed of the disentangled diffusion autoencoder, held against one run.

The paper (Ijishakin 2024, arXiv 2408.15890) claims the lowest FID and the highest correlation of
image distances among four methods, site effects removed, and age and sex predicted about as well
as from ComBat's and from unharmonized images. Its numbers are not repeated here: what they were
measured on is not published. A verdict says what holds on the data of this run, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from harmbench.stats import verdict
from harmbench.stats.scores import LEAST_GAP, anchored, gap_in_errors
from reports.claim import Claim, Desk, Measured, Source, Word, method_names
from reports.results import Results, Row

PAPER = "arXiv:2408.15890"
CLAIMANT = "ddae"
"""How the registry names of the methods begin that the claims are about."""
COMBAT, BASE, CEILING = "combat", "identity", "ceiling"
CONTENDERS = (COMBAT, "cvae", "gan")
SITE_BOUND = 0.05
PULL_BOUND = 0.2

READINGS = {
    "pooled": "against real images of all sites",
    "reference": "against real images of the reference site",
    "reconstruction": "rendered back to their own site",
}
NO_INTERVAL = "It has no interval."
BIOLOGY = {"age_mae": "Age", "sex_bacc": "Sex"}

NOTED = ("population_pull", "leakage_age")
"""Metrics whose notes change how the value is to be read."""


def judge_claims(results: Results) -> list[Claim]:
    """Judge every claim for every method whose registry name begins with ``ddae``.

    Parameters
    ----------
    results : Results
        The run.

    Returns
    -------
    list of Claim
        By row of the tables, the paper's first; empty where the run has no such method. A row is
        compared with the others' rows of the same seed, or, of those without it, of the lowest.
    """
    names = method_names(results)
    found: list[Claim] = []
    for row in results.rows:
        if names[row.label].startswith(CLAIMANT) and not row.control:
            desk = Desk(results, row)
            found += [_cautious(results, claim) for claim in (*_paper(desk), *_suite(desk))]
    return [_not_of_brief(results, claim) for claim in found]


def _not_of_brief(results: Results, claim: Claim) -> Claim:
    """Take back the verdict on a method that was trained too briefly."""
    if brief := results.too_brief(claim.row):
        reason = f"It was {brief}, which is too few to judge it."
        return replace(claim, verdict="not tested", reason=reason)
    return claim


def _cautious(results: Results, claim: Claim) -> Claim:
    """Take back what was held by a probe that has not learned: it would miss what is there."""
    note = results.score(claim.row, claim.metric).reason
    labels = {claim.row.label, *(other.label for other in claim.others)}
    notes = [results.score(r, claim.metric).reason for r in results.rows if r.label in labels]
    if claim.verdict == "held" and any("underfit" in n for n in notes):
        reason = "It would hold, but the probe is underfit and may miss what is there."
        return replace(claim, verdict="inconclusive", reason=reason)
    if claim.own is not None and note and "underfit" not in note and claim.metric in NOTED:
        return replace(claim, reason=f"{claim.reason} Note: {note}.")
    return claim


# The paper's -------------------------------------------------------------------------------------


def _paper(desk: Desk) -> Iterator[Claim]:
    kinds: list[tuple[str, Source]] = [("fid", "paper"), ("fd", "check")]
    for kind, source in kinds:
        for reading, words in READINGS.items():
            text = f"Lowest {kind.upper()}, {words}"
            yield _lowest(desk, desk.start(source, text, f"{kind}_{reading}"))
    text = "Highest correlation of image distances before and after"
    yield _highest(desk, desk.start("paper", text, "distance_pcc"))
    text = "Highest correlation of image distances with those of the truth"
    yield _highest(desk, desk.start("check", text, "distance_pcc_truth"))
    text = f"Site effects are removed: excess of at most {SITE_BOUND:g}"
    yield _site_removed(desk, desk.start("paper", text, "site_excess"))
    for metric, what in BIOLOGY.items():
        yield from _as_well(desk, metric, what)


def _rivals(desk: Desk, claim: Claim) -> tuple[list[tuple[Row, Measured]], str]:
    """Return the contenders that have a value, and what is to be said of the others."""
    rows = [row for name in CONTENDERS for row in desk.others(name)]
    found = [
        (row, None if desk.results.too_brief(row) else desk.measured(row, claim.metric))
        for row in rows
    ]
    known = [(row, value) for row, value in found if value is not None]
    lacking = [row.label for row, value in found if value is None]
    if not rows:
        return [], f"None of {', '.join(CONTENDERS)} is in this run."
    if not known:
        return [], f"No value of {', '.join(lacking)} to compare with."
    return known, f" No value of {', '.join(lacking)}." if lacking else ""


def _lowest(desk: Desk, claim: Claim) -> Claim:
    """Judge by whole intervals: those of Frechet distances come from unpaired subsamples."""
    if claim.own is None:
        return claim
    known, remark = _rivals(desk, claim)
    if not known:
        return replace(claim, reason=remark)
    own, others = claim.own, tuple(value for _, value in known)
    under = [other.label for other in others if other.high < own.low]
    best = min((own, *others), key=lambda each: each.value).label
    word: Word = "inconclusive"
    reason = f"Its interval does not lie apart from all others; {best} is lowest."
    if all(own.high < other.low for other in others):
        word, reason = "held", "Its interval lies wholly under all others."
    elif under:
        word = "not held"
        reason = f"Wholly under its interval lies that of {' and of '.join(under)}."
    return replace(claim, others=others, verdict=word, reason=reason + remark)


def _highest(desk: Desk, claim: Claim) -> Claim:
    """Judge by the differences from every contender, on common resamples; the worst decides."""
    if claim.own is None:
        return claim
    known, remark = _rivals(desk, claim)
    changes = {other: desk.difference(row, claim.metric) for row, other in known}
    judged = {
        other: (verdict((change.low, change.high), 0.0, "superior", "higher"), change)
        for other, change in changes.items()
        if change is not None
    }
    if not judged:
        return replace(claim, reason=remark or "No resamples to compare on.")
    words = [word for word, _ in judged.values()]
    word = next(w for w in ("not held", "inconclusive", "held") if w in words)
    worst = min((o for o in judged if judged[o][0] == word), key=lambda o: judged[o][1].value)
    effect = Measured(worst.label, *judged[worst][1][:3])
    reason = desk.difference_text(claim.metric, effect)
    others = tuple(judged)
    return replace(claim, others=others, effect=effect, verdict=word, reason=reason + remark)


def _site_removed(desk: Desk, claim: Claim) -> Claim:
    own = claim.own
    if own is None:
        return claim
    word: Word = "inconclusive"
    reason = f"Its interval reaches from under to above {SITE_BOUND:g}."
    if not np.isfinite([own.low, own.high]).all():
        reason = NO_INTERVAL
    elif own.high < 0:
        word = "not held"
        reason = "Its interval lies wholly under 0: biology that tells sites apart went too."
    elif own.high <= SITE_BOUND:
        word, reason = "held", f"Its whole interval is at most {SITE_BOUND:g}."
    elif own.low > SITE_BOUND:
        word, reason = "not held", f"Its whole interval is above {SITE_BOUND:g}."
    return replace(claim, verdict=word, reason=reason)


def _as_well(desk: Desk, metric: str, what: str) -> Iterator[Claim]:
    """Claim that a probe reads as well as from ComBat's and from unharmonized images."""
    declared: dict[str, Any] = desk.results.metric(metric) or {}
    margin = declared.get("margin")
    within = "" if margin is None else f", to within {margin:g} {desk.unit(metric)}".rstrip()
    for name, images in ((COMBAT, "ComBat's"), (BASE, "unharmonized")):
        text = f"{what} is predicted as well as from {images} images{within}"
        claim = desk.start("paper", text, metric)
        rows = desk.others(name)
        if not rows and claim.own is not None:
            claim = replace(claim, reason=f"{name} is not in this run.")
        if not rows:
            yield claim
        for row in rows:
            yield _non_inferior(desk, claim, row, margin)


def _non_inferior(desk: Desk, claim: Claim, row: Row, margin: float | None) -> Claim:
    other = desk.measured(row, claim.metric)
    change = desk.difference(row, claim.metric)
    if claim.own is None:
        return claim
    if margin is None:
        return replace(claim, reason=f"The run declares no margin of {claim.metric}.")
    if other is None or change is None:
        return replace(claim, reason=f"No value of {row.label} to compare with.")
    declared: dict[str, Any] = desk.results.metric(claim.metric) or {}
    better: Any = "higher" if declared["direction"] == "higher" else "lower"
    effect = Measured(row.label, *change[:3])
    word = verdict((change.low, change.high), margin, "non-inferior", better)
    reason = desk.difference_text(claim.metric, effect)
    return replace(claim, others=(other,), effect=effect, verdict=word, reason=reason)


# The suite's own ---------------------------------------------------------------------------------


def _suite(desk: Desk) -> Iterator[Claim]:
    for combat in desk.others(COMBAT):
        for ceiling in desk.others(CEILING):
            yield from _gap_closed(desk, combat, ceiling)
    text = f"No pull to the reference site's population: at most {PULL_BOUND:g} either way"
    yield _not_pulled(desk.start("suite", text, "population_pull"))
    yield _leak(desk)


def _gap_closed(desk: Desk, combat: Row, ceiling: Row) -> Iterator[Claim]:
    """Claim part of what a supervised network gains on ComBat; nothing where one has no value."""
    claim = desk.start("suite", "Nearer to the truth than ComBat", "truth_mae")
    rows = (combat, ceiling)
    others = [desk.measured(row, claim.metric) for row in rows]
    zero, one = (desk.sample(row, claim.metric) for row in rows)
    ours = desk.sample(desk.row, claim.metric)
    if claim.own is None or ours is None or zero is None or one is None:
        return
    claim = replace(claim, others=tuple(other for other in others if other is not None))
    if not (one.value < zero.value and gap_in_errors(zero, one) >= LEAST_GAP):
        yield replace(claim, reason="The ceiling is not clearly nearer to the truth than ComBat.")
        return
    share = anchored(ours, zero, one)
    low, high = share.interval
    word = verdict((low, high), 0.0, "superior", "higher")
    shown = " to ".join(f"{100 * end:.0f}" for end in (low, high))
    reason = f"Closes {100 * share.value:.0f} % [{shown}] of the gap from ComBat to the ceiling."
    effect = Measured("share of the gap", share.value, low, high)
    yield replace(claim, effect=effect, verdict=word, reason=reason)


def _not_pulled(claim: Claim) -> Claim:
    own = claim.own
    if own is None:
        return claim
    word: Word = "inconclusive"
    reason = f"Its interval reaches from under to above {PULL_BOUND:g} from 0."
    if not np.isfinite([own.low, own.high]).all():
        reason = NO_INTERVAL
    elif own.low >= -PULL_BOUND and own.high <= PULL_BOUND:
        word, reason = "held", f"Its whole interval is within {PULL_BOUND:g} of 0."
    elif own.low > PULL_BOUND or own.high < -PULL_BOUND:
        word, reason = "not held", f"Its whole interval is more than {PULL_BOUND:g} from 0."
    return replace(claim, verdict=word, reason=reason)


def _leak(desk: Desk) -> Claim:
    """Report the leakage: how much of it may be is nowhere agreed on."""
    claim = desk.start("suite", "Years written into the image for each year told", "leakage_age")
    sees = desk.results.methods.get(desk.row.label, {}).get("harmonize_sees", ["age"])
    if "age" not in sees:
        reason = "0 by construction: it is not told the age."
        return replace(claim, verdict="reported", reason=reason)
    if claim.own is None:
        return claim
    return replace(claim, verdict="reported", reason="0 ignores what it is told, 1 obeys.")
