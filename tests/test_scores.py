"""Anchored scores: known answers on samples, and the tables of a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support import make_run_folder

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_arrays, read_json, write_arrays, write_json
from harmbench.stats import REPLICATES
from harmbench.stats.scores import (
    Sample,
    anchored,
    axis_score,
    constant,
    gap_in_errors,
    harmonic_mean,
    pareto_front,
    rank_intervals,
)
from reports.comparisons import comparison_table
from reports.pareto import pareto_figure
from reports.results import Results, read_results
from reports.score_tables import (
    anchor_table,
    metric_score_table,
    score_frame,
    score_note,
    score_table,
    write_score_tables,
)
from reports.scores import Scores, score_run

B = 500


def sample(value: float, spread: float = 0.0, seed: int = 0) -> Sample:
    return Sample(value, value + spread * np.random.default_rng(seed).standard_normal(B))


# -- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "score"), [(0.9, 0.0), (0.3, 1.0), (0.6, 0.5), (1.2, -0.5)])
def test_the_anchors_are_at_0_and_1_whichever_way_the_metric_runs(value, score):
    found = anchored(sample(value), sample(0.9), sample(0.3))
    assert found.value == pytest.approx(score)
    assert_allclose(found.replicates, score, atol=1e-12)


def test_noise_that_is_common_to_all_three_cancels():
    shift = np.random.default_rng(1).normal(size=B)
    found = anchored(*(Sample(v, v + shift) for v in (0.5, 0.0, 1.0)))
    low, high = found.interval
    assert high - low < 1e-9


def test_replicates_whose_anchors_change_sides_are_left_out():
    one = Sample(1.0, np.array([1.0, 2.0, -1.0]))
    found = anchored(Sample(0.5, np.full(3, 0.5)), constant(0.0, 3), one)
    assert_allclose(found.replicates, [0.5, 0.25, np.nan])


def test_gap_in_standard_errors():
    assert gap_in_errors(sample(0.0), sample(1.0, 0.25)) == pytest.approx(4, rel=0.1)
    assert gap_in_errors(sample(1.0), sample(1.0)) == 0
    assert gap_in_errors(sample(0.0), sample(1.0)) == float("inf")


def test_an_axis_cuts_each_score_before_it_takes_the_mean():
    found = axis_score([sample(1.6), sample(-3.0), sample(0.5)])
    assert found.value == pytest.approx((1 + 0 + 0.5) / 3)
    with pytest.raises(HarmbenchError, match="one scored metric"):
        axis_score([])


@pytest.mark.parametrize(
    ("first", "second", "weights", "mean"),
    [(0.5, 0.5, (1, 1), 0.5), (1, 0.5, (1, 1), 2 / 3), (0, 1, (1, 1), 0), (0, 0, (1, 1), 0),
     (1, 0.5, (1, 3), 4 / 7)],
)  # fmt: skip
def test_harmonic_mean(first, second, weights, mean):
    found = harmonic_mean(sample(first), sample(second), weights)
    assert found.value == pytest.approx(mean)
    assert_allclose(found.replicates, mean)


def test_weights_are_positive():
    with pytest.raises(HarmbenchError, match="positive"):
        harmonic_mean(sample(1), sample(1), (0, 1))


def test_pareto_front_of_known_points():
    points = [[1, 0], [0, 1], [0.5, 0.5], [0.4, 0.5], [0.5, 0.5], [np.nan, 2]]
    on = pareto_front(points)
    assert_array_equal(on, [True, True, True, False, True, False])
    assert_array_equal(pareto_front([points, points]), [on, on])


def test_ranks_of_clear_tied_and_missing_samples():
    high, low = sample(0.9, 0.01, 1), sample(0.1, 0.01, 2)
    missing = Sample(np.nan, np.full(B, np.nan))
    ranks = rank_intervals([low, missing, high])
    assert tuple(ranks[2]) == (1, 1, 1) and tuple(ranks[0]) == (2, 2, 2)
    assert np.isnan(ranks[1].value)
    near = rank_intervals([sample(0.50, 0.1, 3), sample(0.51, 0.1, 4)])
    assert [r.value for r in near] == [2, 1]
    assert all((r.low, r.high) == (1, 2) for r in near)
    assert [r.value for r in rank_intervals([high, high, low])] == [1.5, 1.5, 3]


# -- run folders ----------------------------------------------------------------------------------

VALUES = {
    # label: site_bacc, age_mae (its skill here: more is better)
    "identity": (0.9, 0.80),
    "shuffle": (0.3, 0.05),
    "oracle": (0.3, 0.85),
    "combat": (0.45, 0.75),
    "ddae": (0.35, 0.45),
}


def make_run(
    root: Path, *, truth: bool = True, spread: float = 0.02, **changes: tuple[float, float]
) -> Results:
    """Write a made-up run folder whose two scored metrics have these values and replicates."""
    make_run_folder(root, controls=("identity", "shuffle", "oracle"), truth=truth, images=False)
    metrics = read_json(root / "metrics.json")
    metrics["site_bacc"] |= {
        "anchors": ["identity", "oracle"],
        "real_anchors": ["identity", "floor:age and sex"],
        "margin": 0.05,
    }
    metrics["age_mae"] |= {
        "direction": "higher",
        "anchors": ["shuffle", "oracle"],
        "real_anchors": ["floor:constant", "identity"],
    }
    write_json(root / "metrics.json", metrics)
    cells = read_json(root / "cells.json")
    for cell in cells:
        for i, name in enumerate(("site_bacc", "age_mae")):
            value = (VALUES | changes)[cell["label"]][i]
            write_value(root / cell["scores"][name], value, spread)
    return read_results(root)


def write_value(stem: Path, value: float, spread: float) -> None:
    mark = stem.with_name(stem.name + ".json")
    content: dict[str, Any] = json.loads(mark.read_text())
    content["overall"] |= {"value": value, "low": value - 2 * spread, "high": value + 2 * spread}
    content["floors"] = {"age and sex": 0.4, "constant": 0.0}
    write_json(mark, content)
    arrays = stem.with_name(stem.name + ".npz")
    held = read_arrays(arrays) if arrays.is_file() else {}
    noise = np.random.default_rng(list("/".join(stem.parts[-4:]).encode())).standard_normal(
        REPLICATES
    )
    write_arrays(arrays, held | {"replicates": value + spread * noise})


@pytest.fixture
def run(tmp_path: Path) -> Results:
    return make_run(tmp_path)


def table_of(scores: Scores) -> pd.DataFrame:
    return score_table(scores).set_index("label")


def test_scores_of_a_run_are_those_of_the_values(run: Results):
    table = table_of(score_run(run))
    assert table.loc["identity", "site_removal"] == 0
    assert table.loc["oracle", "overall"] == 1
    assert table.loc["shuffle", "biology_kept"] == 0
    assert table.loc["shuffle", "overall"] == 0
    site, biology = 0.45 / 0.6, 0.70 / 0.80
    assert table.loc["combat", "site_removal"] == pytest.approx(site)
    assert table.loc["combat", "biology_kept"] == pytest.approx(biology)
    assert table.loc["combat", "overall"] == pytest.approx(2 * site * biology / (site + biology))
    low, high = table.loc["combat", ["site_removal_low", "site_removal_high"]]
    assert low < site < high


def test_a_score_does_not_depend_on_the_other_methods(tmp_path: Path):
    first = table_of(score_run(make_run(tmp_path / "a")))
    second = table_of(score_run(make_run(tmp_path / "b", ddae=(0.9, 0.1))))
    columns = ["site_removal", "site_removal_low", "biology_kept", "overall", "overall_high"]
    assert_array_equal(first.loc["combat", columns], second.loc["combat", columns])
    assert first.loc["ddae", "overall"] != second.loc["ddae", "overall"]


def test_ranks_are_of_methods_and_the_front_leaves_out_what_sees_the_truth(run: Results):
    table = table_of(score_run(run))
    assert table.loc["combat", "rank"] == 1 and table.loc["ddae", "rank"] == 2
    assert table.loc[["identity", "oracle", "shuffle"], "rank"].isna().all()
    assert table.loc["combat", "pareto"] and table.loc["combat", "pareto_share"] > 0.9
    assert table.loc["oracle", "pareto"] is None


def test_a_metric_whose_anchors_are_too_near_is_left_out_for_all(tmp_path: Path):
    scores = score_run(make_run(tmp_path, shuffle=(0.3, 0.84)))
    assert [a.metric["name"] for a in scores.scored] == ["site_bacc"]
    anchors = anchor_table(scores).set_index("metric")
    assert "standard errors apart, under 3" in anchors.loc["age_mae", "reason"]
    table = table_of(scores)
    assert table["biology_kept"].isna().all() and table["overall"].isna().all()
    assert "no metric tells its anchors apart" in score_note(scores)


def test_anchors_the_wrong_way_round_are_left_out(tmp_path: Path):
    scores = score_run(make_run(tmp_path, shuffle=(0.3, 2.0)))
    reasons = anchor_table(scores).set_index("metric")["reason"]
    assert reasons["age_mae"] == "its anchors stand the wrong way round"


def test_without_a_truth_the_anchors_are_floors_and_raw_values(tmp_path: Path):
    table = table_of(score_run(make_run(tmp_path, truth=False)))
    assert table.loc["combat", "site_removal"] == pytest.approx((0.9 - 0.45) / (0.9 - 0.4))
    assert table.loc["combat", "biology_kept"] == pytest.approx(0.75 / 0.80)
    assert table.loc["identity", "biology_kept"] == 1


def test_a_row_without_a_scored_metric_has_no_score_of_that_axis(tmp_path: Path):
    results = make_run(tmp_path)
    for cell in results.cells:
        if cell["label"] == "ddae":
            del cell["scores"]["age_mae"]
    row = table_of(score_run(results)).loc["ddae"]
    assert np.isfinite(row["site_removal"]) and np.isnan(row["overall"])
    assert row["reason"] == "lacks Age MAE"


def test_hidden_anchors_still_anchor(tmp_path: Path):
    results = make_run(tmp_path)
    hidden = results.scores[~results.scores["label"].isin(["identity", "shuffle", "oracle"])]
    hidden.to_csv(tmp_path / "scores.csv", index=False)
    table = table_of(score_run(read_results(tmp_path)))
    assert set(table.index) == {"combat", "ddae"}
    assert table.loc["combat", "site_removal"] == pytest.approx(0.75)


def test_a_method_is_compared_with_every_other_and_with_no_harmonization(run: Results):
    table = comparison_table(run).set_index(["metric", "first", "second"])
    assert len(table.loc["site_bacc"]) == 4  # two ordered pairs, and both against identity
    row = table.loc[("site_bacc", "combat", "ddae")]
    # The target is 0.3: 0.45 and 0.35 exceed it by 0.15 and 0.05.
    assert row["difference"] == pytest.approx(0.10)
    assert row["superior"] == "not held"
    assert table.loc[("site_bacc", "ddae", "combat"), "superior"] == "held"
    assert table.loc[("site_bacc", "ddae", "combat"), "non_inferior"] == "held"
    assert table.loc[("age_mae", "ddae", "combat"), "superior"] == "not held"
    assert (table["p_holm"] >= table["p"]).all()
    assert row["p_holm"] == table.loc[("site_bacc", "ddae", "combat"), "p_holm"]


def test_tables_and_figure_are_written(run: Results, tmp_path: Path):
    scores = score_run(run)
    write_score_tables(run, scores, tmp_path / "tables")
    for name in ("scores", "scores_metrics", "scores_anchors", "scores_comparisons"):
        assert len(pd.read_csv(tmp_path / "tables" / f"{name}.csv")) > 0
        assert (tmp_path / "tables" / f"{name}.md").is_file()
    assert set(metric_score_table(scores)["metric"]) == {"site_bacc", "age_mae"}
    assert score_frame(scores)["Method"].tolist()[:2] == ["combat", "ddae"]
    (drawn,) = pareto_figure(run)
    texts = {text.get_text() for text in drawn.figure.legends[0].get_texts()}
    assert {"combat", "ddae", "identity*", "oracle*†"} <= texts
