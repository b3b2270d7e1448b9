"""Claims: known verdicts from made-up values, and what the pages and the table say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import make_run_folder

from harmbench.files.atomic import read_json, write_arrays, write_json
from harmbench.stats import REPLICATES
from reports import html
from reports.claim import Claim
from reports.claim_tables import (
    claim_frame,
    claim_section,
    claim_table,
    write_claim_table,
)
from reports.claims import judge_claims
from reports.html import page_content, render_html, render_markdown
from reports.results import read_results
from reports.tables import budgets

CONTENDERS = ("combat", "cvae", "gan")
METRICS: dict[str, dict[str, Any]] = {
    "fd_pooled": {"axis": "quality"},
    "distance_pcc": {"axis": "individuals", "direction": "higher"},
    "site_excess": {"axis": "site removal", "direction": "target"},
    "age_mae": {"axis": "biology kept", "margin": 0.5, "unit": "years"},
    "sex_bacc": {"axis": "biology kept", "margin": 0.03, "direction": "higher"},
    "truth_mae": {"axis": "truth"},
    "population_pull": {"axis": "leakage", "direction": "target"},
    "leakage_age": {"axis": "leakage", "direction": "target"},
}
COMMON = np.random.default_rng(0).standard_normal(REPLICATES)


def make(root: Path, **options: Any) -> Path:
    """Write a run of the four methods and three controls whose own scores are of no account."""
    options = {"methods": (*CONTENDERS, "ddae"), **options}
    controls = ("identity", "oracle", "ceiling")
    return make_run_folder(root, controls=controls, images=False, **options)


def put(
    root: Path,
    metric: str,
    values: dict[str, tuple[float, float]],
    *,
    status: str = "ok",
    reason: str = "",
    seed: int = 0,
) -> None:
    """Give methods a value and the half of its interval; the noise is common to all of them.

    A half that is negative is one of noise that runs against the others'.
    """
    declared = read_json(root / "metrics.json")
    base = {**next(iter(declared.values())), "direction": "lower", "unit": "", "goal": None}
    declared[metric] = {**base, "name": metric, "label": metric.upper(), **METRICS.get(metric, {})}
    write_json(root / "metrics.json", declared)
    scores = pd.read_csv(root / "scores.csv", keep_default_na=False, na_values=[""])
    cells = read_json(root / "cells.json")
    for label, (value, half) in values.items():
        mine = (scores["label"] == label) & (scores["metric"] == metric) & (scores["seed"] == seed)
        row = {
            "method": label, "label": label, "seed": seed, "metric": metric, "metric_version": 1,
            "group": "all", "value": value, "ci_low": value - abs(half),
            "ci_high": value + abs(half), "n": 99, "status": status, "reason": reason,
        }  # fmt: skip
        scores = pd.concat([scores[~mine], pd.DataFrame([row])], ignore_index=True)
        cell = next(c for c in cells if (c["label"], c["seed"]) == (label, seed))
        stem = f"cells/{label}-0/seed-{seed}/scores/{metric}-made"
        cell["scores"][metric] = stem
        overall = {"value": value, "low": value - abs(half), "high": value + abs(half), "n": 99}
        mark = {"status": status, "overall": overall, "floors": {}}
        (root / stem).parent.mkdir(parents=True, exist_ok=True)
        write_json(root / f"{stem}.json", mark)
        write_arrays(root / f"{stem}.npz", {"replicates": value + half / 1.96 * COMMON})
    write_json(root / "cells.json", cells)
    scores.to_csv(root / "scores.csv", index=False)


def change_name(root: Path, label: str, name: str) -> None:
    scores = pd.read_csv(root / "scores.csv", keep_default_na=False, na_values=[""])
    scores.loc[scores["label"] == label, "method"] = name
    scores.to_csv(root / "scores.csv", index=False)


def judged(root: Path, metric: str, other: str = "", method: str = "ddae") -> Claim:
    """Return the one claim of a method on a metric (and another method)."""
    found = [
        c
        for c in judge_claims(read_results(root))
        if c.metric == metric and c.row.label == method and c.row.seed == 0
        and (not other or [o.label for o in c.others] == [other])
    ]  # fmt: skip
    assert len(found) == 1, found
    return found[0]


# -- lowest FID and FD ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddae", "verdict", "words"),
    [
        ((5, 1), "held", "wholly under all others"),
        ((25, 2), "not held", "lies that of combat and of cvae."),
        ((9, 2), "inconclusive", "ddae is lowest"),
        ((11, 2), "inconclusive", "combat is lowest"),
        ((7, 1), "inconclusive", "ddae is lowest"),  # touching intervals do not lie apart
    ],
)
def test_lowest_distance_is_judged_by_whole_intervals(tmp_path, ddae, verdict, words):
    root = make(tmp_path)
    put(root, "fd_pooled", {"combat": (10, 2), "cvae": (15, 2), "gan": (30, 10), "ddae": ddae})
    found = judged(root, "fd_pooled")
    assert (found.verdict, found.source) == (verdict, "check")
    assert words in found.reason
    assert [o.label for o in found.others] == list(CONTENDERS)


def trained(root: Path, label: str, **facts: Any) -> None:
    """Say how a method was trained."""
    methods = read_json(root / "methods.json")
    methods[label]["weights"] = [{"origin": "trained", "seed": 0, **facts}]
    write_json(root / "methods.json", methods)


@pytest.mark.parametrize(
    ("facts", "brief"),
    [
        ({"images": 1_504, "full_images": 40_000}, True),
        ({"images": 9_999, "full_images": 40_000}, True),
        ({"images": 10_000, "full_images": 40_000}, False),
        ({"images": 1_504, "full_images": 40_000, "origin": "shipped"}, False),
        ({"images": 1_504, "full_images": 0}, False),
        ({"images": 1_504}, False),
    ],
)
def test_no_claim_on_a_method_that_was_trained_too_briefly(tmp_path, facts, brief):
    root = make(tmp_path)
    put(root, "fd_pooled", {"combat": (10, 2), "cvae": (15, 2), "gan": (30, 10), "ddae": (5, 1)})
    trained(root, "ddae", **facts)
    found = judged(root, "fd_pooled")
    assert found.verdict == ("not tested" if brief else "held")
    assert ("trained on 1,504 images of 40,000" in found.reason) == (
        brief and facts["images"] == 1_504
    )
    if brief:
        claims = judge_claims(read_results(root))
        assert {c.verdict for c in claims if c.row.label == "ddae"} == {"not tested"}
    said = budgets(read_results(root))
    assert ("Trained too briefly to be judged: ddae." in said) == brief


def test_no_claim_is_held_against_a_rival_that_was_trained_too_briefly(tmp_path):
    root = make(tmp_path)
    put(root, "fd_pooled", {"combat": (10, 2), "cvae": (15, 2), "gan": (3, 1), "ddae": (5, 1)})
    assert judged(root, "fd_pooled").verdict != "held"
    trained(root, "gan", images=48, full_images=24_000)
    found = judged(root, "fd_pooled")
    assert found.verdict == "held"
    assert [other.label for other in found.others] == ["combat", "cvae"]


def test_what_was_skipped_is_not_tested_for_the_rows_reason(tmp_path):
    found = judged(make(tmp_path), "fid_pooled")
    assert (found.verdict, found.source, found.own) == ("not tested", "paper", None)
    assert found.reason == "the Inception weights are not there"
    # A metric that the run has not even a row of.
    assert judged(tmp_path, "fid_reference").reason == "not computed"


def test_only_those_with_a_value_are_compared_with(tmp_path):
    root = make(tmp_path)
    put(root, "fd_pooled", {"gan": (10, 1), "ddae": (5, 1)})
    cannot = "cannot render an image back to its own site"
    put(root, "fd_pooled", {"combat": (np.nan, np.nan)}, status="skipped", reason=cannot)
    found = judged(root, "fd_pooled")
    assert found.verdict == "held" and [o.label for o in found.others] == ["gan"]
    assert found.reason.endswith("No value of combat, cvae.")


def test_without_contenders_nothing_is_tested(tmp_path):
    root = make(tmp_path, methods=("ddae", "another"))
    put(root, "fd_pooled", {"ddae": (5, 1), "another": (1, 0.1)})
    assert judged(root, "fd_pooled").verdict == "not tested"
    assert "is in this run" in judged(root, "fd_pooled").reason
    put(root, "age_mae", {"ddae": (5, 0.1), "identity": (5, 0.1)})
    found = [c for c in judge_claims(read_results(root)) if c.metric == "age_mae"]
    assert [c.verdict for c in found] == ["not tested", "held"]
    assert found[0].reason == "combat is not in this run."


# -- highest correlation --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddae", "verdict", "against"),
    [
        ((0.92, 0.1), "held", "combat"),
        ((0.92, -0.1), "inconclusive", "combat"),
        ((0.85, 0.1), "not held", "combat"),
        ((0.65, 0.1), "not held", "combat"),
    ],
)
def test_highest_correlation_is_judged_by_paired_differences(tmp_path, ddae, verdict, against):
    """Intervals that overlap widely are told apart where their noise is common."""
    root = make(tmp_path)
    others = {"combat": (0.9, 0.1), "cvae": (0.8, 0.1), "gan": (0.7, 0.1)}
    put(root, "distance_pcc", {**others, "ddae": ddae, "identity": (1.0, 0.0)})
    found = judged(root, "distance_pcc")
    assert found.verdict == verdict
    assert found.effect is not None and found.effect.label == against
    assert found.effect.value == pytest.approx(ddae[0] - 0.9)
    assert f"Difference from {against}" in found.reason


def test_a_contender_without_interval_leaves_it_open(tmp_path):
    root = make(tmp_path)
    put(root, "distance_pcc", {"combat": (0.5, 0.1), "cvae": (0.5, np.nan), "ddae": (0.9, 0.1)})
    put(root, "distance_pcc", {"gan": (0.5, 0.1)})
    assert judged(root, "distance_pcc").verdict == "inconclusive"


def test_the_truth_is_a_check_that_can_be_missing(tmp_path):
    root = make(tmp_path)
    reason = "these data have no ground truth"
    put(root, "distance_pcc_truth", {"ddae": (np.nan,) * 2}, status="skipped", reason=reason)
    found = judged(root, "distance_pcc_truth")
    assert (found.source, found.verdict, found.reason) == ("check", "not tested", reason)


# -- site and biology -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "verdict", "words"),
    [
        ((0.01, 0.03), "held", "at most 0.05"),
        ((0.025, 0.025), "held", "at most 0.05"),
        ((0.2, 0.1), "not held", "above 0.05"),
        ((-0.2, 0.1), "not held", "biology that differs between sites was removed, too"),
        ((0.04, 0.03), "inconclusive", "from under to above 0.05"),
        ((0.04, np.nan), "inconclusive", "no interval"),
    ],
)
def test_site_excess(tmp_path, value, verdict, words):
    root = make(tmp_path)
    put(root, "site_excess", {"ddae": value})
    found = judged(root, "site_excess")
    assert found.verdict == verdict and words in found.reason


def test_a_probe_that_has_not_learned_proves_no_removal(tmp_path):
    root = make(tmp_path)
    put(root, "site_excess", {"ddae": (0.0, 0.01)}, reason="underfit: the probe's site_bacc")
    assert judged(root, "site_excess").verdict == "inconclusive"
    # What even such a probe sees is there.
    put(root, "site_excess", {"ddae": (0.3, 0.01)}, reason="underfit")
    assert judged(root, "site_excess").verdict == "not held"
    put(root, "age_mae", {"combat": (5, 0.1)}, reason="underfit")
    put(root, "age_mae", {"ddae": (5, 0.1), "identity": (5, 0.1)})
    assert judged(root, "age_mae", "combat").verdict == "inconclusive"
    assert judged(root, "age_mae", "identity").verdict == "held"


@pytest.mark.parametrize(
    ("metric", "ddae", "verdict"),
    [
        ("age_mae", (6.4, 0.2), "held"),
        ("age_mae", (6.4, -0.2), "inconclusive"),
        ("age_mae", (7.0, 0.2), "not held"),
        ("sex_bacc", (5.98, 0.2), "held"),
        ("sex_bacc", (5.9, 0.2), "not held"),
        ("sex_bacc", (5.98, -0.2), "inconclusive"),
    ],
)
def test_biology_may_be_worse_by_less_than_the_margin(tmp_path, metric, ddae, verdict):
    root = make(tmp_path)
    put(root, metric, {"combat": (6.0, 0.2), "identity": (4.0, 0.2), "ddae": ddae})
    found = judged(root, metric, "combat")
    assert found.verdict == verdict
    assert found.effect is not None
    assert found.effect.value == pytest.approx(ddae[0] - 6.0)
    against = {"age_mae": "not held", "sex_bacc": "held"}[metric]
    assert judged(root, metric, "identity").verdict == against
    assert str(METRICS[metric]["margin"]) in found.text


# -- the suite's own ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddae", "verdict", "share"),
    [
        ((0.06, 0.01), "held", 50),
        ((0.09, 0.01), "not held", -25),
        ((0.078, -0.01), "inconclusive", 5),
    ],
)
def test_share_of_the_gap_between_combat_and_ceiling(tmp_path, ddae, verdict, share):
    root = make(tmp_path)
    put(root, "truth_mae", {"combat": (0.08, 0.01), "ceiling": (0.04, 0.01), "ddae": ddae})
    found = judged(root, "truth_mae")
    assert (found.source, found.verdict) == ("suite", verdict)
    assert found.effect is not None and found.effect.value == pytest.approx(share / 100)
    assert f"Closes {share} % [" in found.reason


def test_the_gap_is_left_out_without_ceiling_and_not_judged_where_there_is_none(tmp_path):
    root = make(tmp_path)
    put(root, "truth_mae", {"combat": (0.08, 0.01), "ceiling": (0.08, -0.01), "ddae": (0.07, 0.01)})
    assert judged(root, "truth_mae").verdict == "not tested"
    put(root, "truth_mae", {"ceiling": (np.nan, np.nan)}, status="failed", reason="broke")
    assert not [c for c in judge_claims(read_results(root)) if c.metric == "truth_mae"]


@pytest.mark.parametrize(
    ("value", "verdict"),
    [((0.0, 0.19), "held"), ((-0.3, 0.05), "not held"), ((0.5, 0.2), "not held"),
     ((0.15, 0.1), "inconclusive"), ((0.0, 0.5), "inconclusive")],
)  # fmt: skip
def test_population_pull(tmp_path, value, verdict):
    root = make(tmp_path)
    put(root, "population_pull", {"ddae": value}, reason="within the scatter of 5 sites")
    found = judged(root, "population_pull")
    assert found.verdict == verdict and "within the scatter of 5 sites" in found.reason


def test_leakage_is_reported_and_0_by_construction_where_age_is_not_told(tmp_path):
    root = make(tmp_path, methods=("ddae", "ddae-blind"))
    put(root, "leakage_age", {"ddae": (0.3, 0.1), "ddae-blind": (0.0, 0.0)})
    methods = read_json(root / "methods.json")
    methods["ddae-blind"]["harmonize_sees"] = ["site"]
    write_json(root / "methods.json", methods)
    told, blind = (judged(root, "leakage_age", method=m) for m in ("ddae", "ddae-blind"))
    assert told.verdict == blind.verdict == "reported"
    assert "by construction" in blind.reason and "by construction" not in told.reason


# -- whose claims, seeds --------------------------------------------------------------------------


def test_claims_are_those_of_methods_whose_registry_name_begins_with_ddae(tmp_path):
    root = make(tmp_path, methods=("combat", "ddae-blind", "mine", "ddae-like", "gan"))
    change_name(root, "mine", "ddae")
    change_name(root, "ddae-like", "other")
    methods = dict.fromkeys(c.row.label for c in judge_claims(read_results(root)))
    assert list(methods) == ["ddae-blind", "mine"]


def test_a_run_without_the_method_has_no_section(tmp_path):
    root = make(tmp_path, methods=("combat", "gan"))
    results = read_results(root)
    assert judge_claims(results) == [] and claim_section(results, []) is None
    write_claim_table(results, [], root / "tables")
    assert not (root / "tables" / "claims.csv").exists()
    assert 'id="claims"' not in render_html(page_content(results) | {"left_out": []}, [])


def test_seeds_meet_their_own_and_the_page_counts_those_that_agree(tmp_path):
    root = make(tmp_path, seeds=3)
    for seed, ddae in enumerate((0.02, 0.3, 0.02)):
        put(root, "site_excess", {"ddae": (ddae, 0.01)}, seed=seed)
        put(root, "fd_pooled", dict.fromkeys(CONTENDERS, (10 * (1 + seed), 1)), seed=seed)
        put(root, "fd_pooled", {"ddae": (15, 1)}, seed=seed)
    results = read_results(root)
    claims = judge_claims(results)
    found = {(c.metric, c.row.seed): c.verdict for c in claims}
    assert [found["site_excess", s] for s in range(3)] == ["held", "not held", "held"]
    assert [found["fd_pooled", s] for s in range(3)] == ["not held", "held", "held"]
    section = claim_section(results, claims)
    assert section is not None
    lines = {line.metric: line for block in section.blocks for line in block.lines}
    assert lines["site_excess"].reason.endswith("The same at 2 of 3 seeds.")
    assert lines["fd_pooled"].verdict == "not held"
    assert lines["fd_pooled"].reason.endswith("The same at 1 of 3 seeds.")
    assert set(claim_table(claims)["seed"]) == {0, 1, 2}


# -- table and pages ------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path) -> Path:
    root = make(tmp_path)
    put(root, "site_excess", {"ddae": (0.01, 0.0123)})
    put(root, "distance_pcc", {**dict.fromkeys(CONTENDERS, (0.9, 0.1)), "ddae": (0.8, 0.1)})
    put(root, "age_mae", {"combat": (5.0, 0.2), "identity": (4.0, 0.2), "ddae": (5.1, 0.2)})
    return root


def test_the_csv_holds_every_number(told):
    results = read_results(told)
    claims = judge_claims(results)
    write_claim_table(results, claims, told / "tables")
    table = pd.read_csv(told / "tables" / "claims.csv", float_precision="round_trip")
    assert len(table) == len(claims)
    site = table.set_index("metric").loc["site_excess"]
    assert (site["value"], site["verdict"], site["source"]) == (0.01, "held", "paper")
    assert (site["low"], site["high"]) == (0.01 - 0.0123, 0.01 + 0.0123)
    age = table[(table["metric"] == "age_mae") & (table["compared_with"] == "identity")].iloc[0]
    assert age["effect"] == 5.1 - 4.0 and age["other_values"] == "4.0"
    assert set(table["verdict"]) <= {"held", "not held", "inconclusive", "not tested", "reported"}
    assert not (table["reason"].isna() | (table["reason"] == "")).any()


def test_pages_say_each_verdict_in_words(told):
    results = read_results(told)
    content = page_content(results) | {"left_out": []}
    section = content["claims"]
    page, text = render_html(content, []), render_markdown(content, [])
    assert page.index('id="data"') < page.index('id="claims"') < page.index('id="results"')
    assert text.index("## Data") < text.index("## Claims") < text.index("## Results")
    lines = [line for block in section.blocks for line in block.lines]
    for word in ("held", "not held", "not tested"):
        count = sum(line.verdict == word for line in lines)
        assert count and page.count(f"</i> {word}</b>") == count
    assert section.summary == [
        "ddae: of 9 readings of the paper's claims, 2 held, 2 not held, 5 not tested."
    ]
    frame = claim_frame(section.blocks[0])
    assert (frame["Claim"].str.contains("a check, not the paper's")).sum() == 4
    assert "combat 5.00 [4.80, 5.20]" in page and "combat 5.00 \\[4.80, 5.20\\]" in text


def test_a_report_writes_the_table(told, monkeypatch):
    monkeypatch.setattr(html, "write_figures", lambda results, folder: ([], []))
    page = html.write_report(told).read_text(encoding="utf-8")
    assert {p.suffix for p in (told / "tables").glob("claims.*")} == {".csv", ".md", ".tex"}
    table = pd.read_csv(told / "tables" / "claims.csv")
    assert page.count('<b class="verdict') == len(table)


def test_absent_contenders_are_named(tmp_path):
    results = read_results(make(tmp_path, methods=("gan", "ddae")))
    section = claim_section(results, judge_claims(results))
    assert section is not None and "Not in this run: combat, cvae." in section.notes[0]
