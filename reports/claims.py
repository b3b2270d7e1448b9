"""The claims about the disentangled diffusion autoencoder, tested on the data of one run.

The paper (Ijishakin 2024, arXiv 2408.15890) claims the lowest FID and the highest correlation of
image distances among four methods, removed site effects, and that age and sex are predicted about
as well as from ComBat's and from unharmonized images. Its numbers are not repeated here because
its data are not published. A verdict is valid for the data of this run only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from harmbench.stats import verdict
from harmbench.stats.scores import LEAST_GAP, anchored, gap_in_errors
from reports.claim import Claim, Evidence, Measured, Source, method_names
from reports.results import Results, Row

PAPER = "arXiv:2408.15890"
CLAIMANT = "ddae"
"""Prefix of the registry names of the methods that the claims are about."""
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
"""Metrics whose notes change the meaning of the value."""


def judge_claims(results: Results) -> list[Claim]:
    """Judge every claim for every method whose registry name begins with ``ddae``.

    Parameters
    ----------
    results : Results
        The run.

    Returns
    -------
    list of Claim
        In the order of the rows, those of the paper first; empty if the run has no such method. A
        row is compared with the other methods' rows of the same seed, else of the lowest seed.
    """
    names = method_names(results)
    found: list[Claim] = []
    for row in results.rows:
        if names[row.label].startswith(CLAIMANT) and not row.control:
            evidence = Evidence(results, row)
            found += [_cautious(results, claim) for claim in (*_paper(evidence), *_suite(evidence))]
    return found


def _cautious(results: Results, claim: Claim) -> Claim:
    """Withdraw verdicts on short trainings, and verdicts of "held" by underfit probes."""
    if brief := results.too_brief(claim.row):
        return claim.judged("not tested", f"It was {brief}, which is too few to judge it.")
    note = results.score(claim.row, claim.metric).reason
    labels = {claim.row.label, *(other.label for other in claim.others)}
    notes = [results.score(r, claim.metric).reason for r in results.rows if r.label in labels]
    if claim.verdict == "held" and any("underfit" in n for n in notes):
        reason = "It would hold, but the probe is underfit and may miss what is there."
        return claim.judged("inconclusive", reason)
    if claim.own is not None and note and "underfit" not in note and claim.metric in NOTED:
        return claim._replace(reason=f"{claim.reason} Note: {note}.")
    return claim


# -- claims of the paper --------------------------------------------------------------------------


def _paper(evidence: Evidence) -> Iterator[Claim]:
    kinds: list[tuple[str, Source]] = [("fid", "paper"), ("fd", "check")]
    for kind, source in kinds:
        for reading, words in READINGS.items():
            text = f"Lowest {kind.upper()}, {words}"
            yield _lowest(evidence, evidence.start(source, text, f"{kind}_{reading}"))
    text = "Highest correlation of image distances before and after"
    yield _highest(evidence, evidence.start("paper", text, "distance_pcc"))
    text = "Highest correlation of image distances with those of the truth"
    yield _highest(evidence, evidence.start("check", text, "distance_pcc_truth"))
    text = f"Site effects are removed: excess of at most {SITE_BOUND:g}"
    yield _site_removed(evidence.start("paper", text, "site_excess"))
    for metric, what in BIOLOGY.items():
        yield from _as_well(evidence, metric, what)


def _rivals(evidence: Evidence, claim: Claim) -> tuple[list[tuple[Row, Measured]], str]:
    """Return the contenders that have a value, and a remark on the others."""
    rows = [row for name in CONTENDERS for row in evidence.others(name)]
    known = [
        (row, value)
        for row in rows
        if not evidence.results.too_brief(row)
        and (value := evidence.measured(row, claim.metric)) is not None
    ]
    lacking = [row.label for row in rows if row.label not in [r.label for r, _ in known]]
    if not rows:
        return [], f"None of {', '.join(CONTENDERS)} is in this run."
    if not known:
        return [], f"No value of {', '.join(lacking)} to compare with."
    return known, f" No value of {', '.join(lacking)}." if lacking else ""


def _lowest(evidence: Evidence, claim: Claim) -> Claim:
    """Judge by whole intervals, because those of Frechet distances use unpaired subsamples."""
    if claim.own is None:
        return claim
    known, remark = _rivals(evidence, claim)
    if not known:
        return claim._replace(reason=remark)
    own, others = claim.own, tuple(value for _, value in known)
    claim = claim._replace(others=others)
    under = [other.label for other in others if other.high < own.low]
    if all(own.high < other.low for other in others):
        return claim.judged("held", f"Its interval lies wholly under all others.{remark}")
    if under:
        reason = f"Wholly under its interval lies that of {' and of '.join(under)}."
        return claim.judged("not held", reason + remark)
    best = min((own, *others), key=lambda each: each.value).label
    reason = f"Its interval does not lie apart from all others; {best} is lowest."
    return claim.judged("inconclusive", reason + remark)


def _highest(evidence: Evidence, claim: Claim) -> Claim:
    """Judge by the paired differences from all contenders, of which the worst decides."""
    if claim.own is None:
        return claim
    known, remark = _rivals(evidence, claim)
    judged = [
        (verdict((change.low, change.high), 0.0, "superior", "higher"), change, row, other)
        for row, other in known
        if (change := evidence.difference(row, claim.metric)) is not None
    ]
    if not judged:
        return claim._replace(reason=remark or "No resamples to compare on.")
    order = ("not held", "inconclusive", "held")
    word, change, row, _ = min(judged, key=lambda each: (order.index(each[0]), each[1].value))
    claim = claim._replace(others=tuple(other for *_, other in judged))
    claim = evidence.with_difference(claim, row, change, word)
    return claim._replace(reason=claim.reason + remark)


def _site_removed(claim: Claim) -> Claim:
    own = claim.own
    if own is None:
        return claim
    if not np.isfinite([own.low, own.high]).all():
        return claim.judged("inconclusive", NO_INTERVAL)
    if own.high < 0:
        reason = (
            "Its interval lies wholly under 0: biology that differs between sites was removed, too."
        )
        return claim.judged("not held", reason)
    if own.high <= SITE_BOUND:
        return claim.judged("held", f"Its whole interval is at most {SITE_BOUND:g}.")
    if own.low > SITE_BOUND:
        return claim.judged("not held", f"Its whole interval is above {SITE_BOUND:g}.")
    reason = f"Its interval reaches from under to above {SITE_BOUND:g}."
    return claim.judged("inconclusive", reason)


def _as_well(evidence: Evidence, metric: str, what: str) -> Iterator[Claim]:
    """Claim that a probe is as good as on ComBat's and on unharmonized images."""
    declared: dict[str, Any] = evidence.results.metric(metric) or {}
    margin = declared.get("margin")
    unit = declared.get("unit", "")
    within = "" if margin is None else f", to within {margin:g} {unit}".rstrip()
    for name, images in ((COMBAT, "ComBat's"), (BASE, "unharmonized")):
        text = f"{what} is predicted as well as from {images} images{within}"
        claim = evidence.start("paper", text, metric)
        rows = evidence.others(name)
        if not rows:
            reason = claim.reason if claim.own is None else f"{name} is not in this run."
            yield claim._replace(reason=reason)
        for row in rows:
            yield _non_inferior(evidence, claim, row, declared)


def _non_inferior(evidence: Evidence, claim: Claim, row: Row, declared: dict[str, Any]) -> Claim:
    if claim.own is None:
        return claim
    margin = declared.get("margin")
    if margin is None:
        return claim._replace(reason=f"The run declares no margin of {claim.metric}.")
    other = evidence.measured(row, claim.metric)
    change = evidence.difference(row, claim.metric)
    if other is None or change is None:
        return claim._replace(reason=f"No value of {row.label} to compare with.")
    better: Any = "higher" if declared["direction"] == "higher" else "lower"
    word = verdict((change.low, change.high), margin, "non-inferior", better)
    return evidence.with_difference(claim._replace(others=(other,)), row, change, word)


# -- claims of the suite --------------------------------------------------------------------------


def _suite(evidence: Evidence) -> Iterator[Claim]:
    for combat in evidence.others(COMBAT):
        for ceiling in evidence.others(CEILING):
            yield from _gap_closed(evidence, combat, ceiling)
    text = f"No pull to the reference site's population: at most {PULL_BOUND:g} either way"
    yield _not_pulled(evidence.start("suite", text, "population_pull"))
    yield _leak(evidence)


def _gap_closed(evidence: Evidence, combat: Row, ceiling: Row) -> Iterator[Claim]:
    """Claim a part of the gain of a supervised network over ComBat, if all have a value."""
    claim = evidence.start("suite", "Nearer to the truth than ComBat", "truth_mae")
    rows = (combat, ceiling)
    others = [evidence.measured(row, claim.metric) for row in rows]
    zero, one = (evidence.sample(row, claim.metric) for row in rows)
    ours = evidence.sample(evidence.row, claim.metric)
    if claim.own is None or ours is None or zero is None or one is None:
        return
    claim = claim._replace(others=tuple(other for other in others if other is not None))
    if not (one.value < zero.value and gap_in_errors(zero, one) >= LEAST_GAP):
        yield claim._replace(reason="The ceiling is not clearly nearer to the truth than ComBat.")
        return
    share = anchored(ours, zero, one)
    low, high = share.interval
    word = verdict((low, high), 0.0, "superior", "higher")
    shown = " to ".join(f"{100 * end:.0f}" for end in (low, high))
    reason = f"Closes {100 * share.value:.0f} % [{shown}] of the gap from ComBat to the ceiling."
    effect = Measured("share of the gap", share.value, low, high)
    yield claim._replace(effect=effect, verdict=word, reason=reason)


def _not_pulled(claim: Claim) -> Claim:
    own = claim.own
    if own is None:
        return claim
    if not np.isfinite([own.low, own.high]).all():
        return claim.judged("inconclusive", NO_INTERVAL)
    if own.low >= -PULL_BOUND and own.high <= PULL_BOUND:
        return claim.judged("held", f"Its whole interval is within {PULL_BOUND:g} of 0.")
    if own.low > PULL_BOUND or own.high < -PULL_BOUND:
        return claim.judged("not held", f"Its whole interval is more than {PULL_BOUND:g} from 0.")
    reason = f"Its interval reaches from under to above {PULL_BOUND:g} from 0."
    return claim.judged("inconclusive", reason)


def _leak(evidence: Evidence) -> Claim:
    """Report the leakage without a verdict, because there is no accepted limit."""
    claim = evidence.start(
        "suite",
        "Years by which the age in the image follows each year of the given age",
        "leakage_age",
    )
    sees = evidence.results.methods.get(evidence.row.label, {}).get("harmonize_sees", ["age"])
    if "age" not in sees:
        return claim.judged("reported", "0 by construction: it is not given the age.")
    if claim.own is None:
        return claim
    return claim.judged("reported", "At 0 the image ignores the given age, at 1 it shows it.")
