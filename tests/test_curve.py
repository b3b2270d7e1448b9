"""Scores against the number of subjects per site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import harmbench.data.toy
from harmbench.cli.app import app
from harmbench.data.splits import thinned
from harmbench.data.toy import ToyDataset
from reports.subjects import sentence

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"


def test_smaller_numbers_are_subsets_and_all_sites_have_as_many() -> None:
    cohort = ToyDataset(90).load()
    ten, twenty = (thinned(cohort, number, 0) for number in (10, 20))
    assert set(ten.keys) < set(twenty.keys) < set(cohort.keys)
    assert ten.participants["site"].value_counts().tolist() == [10, 10, 10]
    assert set(thinned(cohort, 10, 1).keys) != set(ten.keys)
    assert thinned(cohort, 500, 0).keys == cohort.keys
    np.testing.assert_array_equal(thinned(cohort, 500, 0).images, cohort.images)


def test_a_travelling_subject_is_kept_at_all_of_its_sites() -> None:
    cohort = ToyDataset(60).load()
    table = cohort.participants.assign(
        participant_id=[f"p{i // 3}" for i in range(60)], site=["a", "b", "c"] * 20
    )
    few = thinned(type(cohort)(cohort.images, table, cohort.mask), 7, 0)
    assert (few.participants.groupby("participant_id")["site"].nunique() == 3).all()
    assert few.participants["participant_id"].nunique() == 7


def test_the_command_writes_a_table_a_figure_and_a_sentence(tmp_path: Path) -> None:
    command = ["curve", "--methods", "combat", "--data", TOY, "--subjects", "8", "12"]
    command += ["--metrics", "site_excess", "truth_mae", "--threads", "1", "-q", "--out"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "curve")])
    assert result.exit_code == 0, result.output
    assert "combat: " in result.output and "subjects" in result.output
    table = pd.read_csv(tmp_path / "curve/curve.csv")
    assert set(table["subjects"]) == {8, 12}
    assert table.query("label == 'combat' and metric == 'truth_mae'")["n"].tolist() == [16, 24]
    assert (tmp_path / "curve/curve.png").stat().st_size > 10_000
    scores = pd.read_csv(tmp_path / "curve/subjects-12/scores.csv")
    same = scores.query("label == 'combat' and metric == 'truth_mae' and group == 'all'")
    assert (
        same["value"].tolist()
        == table.query("label == 'combat' and metric == 'truth_mae' and subjects == 12")[
            "value"
        ].tolist()
    )


@pytest.mark.parametrize(
    ("lows", "expected"),
    [([0.2, -0.1, -0.1], "from 20 subjects"), ([-0.1, 0.1, 0.2], "all numbers of subjects")],
)
def test_the_sentence_says_from_where_on_no_site_is_seen(lows: list[float], expected: str) -> None:
    rows = {"label": "x", "metric": "site_excess", "subjects": [10, 20, 40], "ci_low": lows}
    assert expected in sentence(pd.DataFrame(rows))
