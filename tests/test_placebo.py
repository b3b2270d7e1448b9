"""Placebos: what the draws keep and change, and that who hears no lie does not work twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import harmbench.data.toy
from harmbench.config import resolve
from harmbench.contracts.cohort import Cohort
from harmbench.engine.run import run
from harmbench.protocol.leakage import placebo

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
WRITER = """
import numpy as np

from harmbench import Harmonizer, MethodInfo


class Writer(Harmonizer):
    "Writes the age it is told into every voxel."

    @property
    def info(self):
        sees = frozenset({"age"})
        return MethodInfo("writer", "Writer", "writes", fit_sees=sees, harmonize_sees=sees)

    def fit(self, cohort, context):
        return self

    def harmonize(self, cohort, target=None, *, context):
        assert not any("placebo" in name for name in cohort.participants)
        age = cohort.column("age").reshape(-1, 1, 1)
        return (cohort.images + 0.05 * age).astype(np.float32)
"""


def cohort() -> Cohort:
    rng = np.random.default_rng(0)
    n = 90
    table = pd.DataFrame(
        {
            "participant_id": [f"s{i:02d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": np.array(["ash", "birch", "cedar"])[np.arange(n) % 3],
            "age": (rng.uniform(20, 80, n) + 10 * (np.arange(n) % 3)).round(1),
            "sex": rng.choice(["F", "M"], n),
        }
    )
    images = np.zeros((n, 7, 8), np.float32)
    return Cohort(images, table, images == 0)


def draw(data: Cohort, name: str = "placebo.test.0", data_id: str = "a") -> pd.Series:
    told = placebo.with_placebo(data, name, data_id)
    return told.participants["placebo_age"]


def test_ages_are_permuted_within_sites_and_the_truth_stays() -> None:
    data = cohort()
    told = placebo.with_placebo(data, "placebo.test.3", "a")
    table = told.participants
    pd.testing.assert_series_equal(table["age"], data.participants["age"])
    for _, own in table.groupby("site"):
        assert sorted(own["placebo_age"]) == sorted(own["age"])
    assert (table["placebo_age"] != table["age"]).mean() > 0.8


def test_a_draw_depends_on_data_and_number_and_on_nothing_else() -> None:
    data = cohort()
    pd.testing.assert_series_equal(draw(data), draw(data))
    assert not draw(data).equals(draw(data, "placebo.test.1"))
    assert not draw(data).equals(draw(data, data_id="b"))
    order = np.random.default_rng(1).permutation(len(data))
    np.testing.assert_array_equal(draw(data.subset(order)), draw(data).to_numpy()[order])


def test_missing_ages_stay_missing_and_go_to_nobody() -> None:
    data = cohort()
    age = data.column("age").copy()
    age[::4] = np.nan
    holes = data.with_covariates(age=age)
    told = draw(holes)
    np.testing.assert_array_equal(told.isna(), np.isnan(age))
    assert sorted(told.dropna()) == sorted(age[~np.isnan(age)])
    nobody = data.with_covariates(age=np.full(len(data), np.nan))
    assert draw(nobody).isna().all()


def test_rows_of_a_subject_move_together_and_keep_their_years() -> None:
    one = cohort().participants
    later = one.assign(session_id="2", age=one["age"] + 3.5)
    table = pd.concat([one, later], ignore_index=True)
    images = np.zeros((len(table), 7, 8), np.float32)
    told = draw(Cohort(images, table, images == 0)).to_numpy()
    np.testing.assert_allclose(told[len(one) :] - told[: len(one)], 3.5)


def test_sex_is_flipped_and_shown_in_place_of_the_truth() -> None:
    data = cohort()
    sex = data.column("sex").astype(object)
    sex[0] = None
    flipped = placebo.with_placebo(data.with_covariates(sex=sex), placebo.BOTH, "a")
    shown = placebo.replace_covariates(flipped, placebo.BOTH).participants["sex"]
    assert shown.isna().tolist() == [True] + [False] * (len(data) - 1)
    assert (shown[1:] != sex[1:]).all() and set(shown[1:]) == {"F", "M"}
    for _, own in flipped.participants.groupby(["site", "sex"]):
        assert sorted(own["placebo_age"]) == sorted(own["age"])
    moved = flipped.participants["placebo_age"] != flipped.participants["age"]
    assert moved.mean() > 0.8
    ages = placebo.replace_covariates(
        placebo.with_placebo(data, "placebo.test.0", "a"), "placebo.test.0"
    )
    pd.testing.assert_series_equal(ages.participants["age"], draw(data), check_names=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A run of the writer and of controls that are told nothing."""
    folder = tmp_path_factory.mktemp("placebo")
    (folder / "writer.py").write_text(WRITER)
    config = resolve(
        data=TOY, methods=[f"{folder / 'writer.py'}:Writer"], metrics=["false_effects"], threads=1
    )
    scores = run(config, folder / "out").scores
    return folder / "out", scores[scores["group"] == "all"].set_index("label")


def test_only_a_method_that_hears_the_lie_harmonizes_again(done: tuple[Path, pd.DataFrame]) -> None:
    found = [p.relative_to(done[0] / "cells") for p in done[0].rglob("placebo.test.*.npy")]
    assert {p.parts[0].split("-")[0] for p in found} == {"Writer"}
    assert len(found) == placebo.DRAWS * 6  # of five fits, and all of them together


def test_a_writer_makes_false_effects_and_controls_none(done: tuple[Path, pd.DataFrame]) -> None:
    scores = done[1]
    assert set(scores["status"]) == {"ok"}
    assert scores.loc["Writer", "value"] > 0.5
    assert scores.loc["identity", "value"] < 0.12
