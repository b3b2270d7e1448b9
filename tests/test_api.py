"""The public functions: the same results as the command line, and arrays of one's own."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from typer.main import get_command

import harmbench as hb
import harmbench.api
import harmbench.data.toy
from harmbench.cli.app import app
from harmbench.contracts.cohort import Cohort
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.exchange import stored

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
METRICS = ["distance_pcc", "identification"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> hb.Results:
    out = tmp_path_factory.mktemp("api") / "run"
    return hb.run(
        ["combat"], TOY, metrics=["distance_pcc", "truth_mae"], threads=1, out=out, quiet=True
    )


@pytest.mark.parametrize(
    ("name", "function"), [("run", hb.run), ("train", hb.train), ("harmonize", hb.harmonize)]
)
def test_each_option_is_an_argument(name: str, function: Any) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {p.name for p in command.params} - {"help", "debug", "dry_run"} - data_options()
    arguments = set(inspect.signature(function).parameters) - {"data_options", "command"}
    assert options == arguments


def data_options() -> set[str]:
    """Return the options that only some data sets have; a function takes them as a mapping."""
    command = get_command(app).commands["check"]  # type: ignore[attr-defined]
    own = {"data", "config", "html", "save", "preset", "quiet", "debug", "help"}
    return {p.name for p in command.params} - own


def test_the_table_holds_the_scores(results: hb.Results) -> None:
    scores = results.scores
    row = scores[(scores["label"] == "combat") & (scores["metric"] == "truth_mae")]
    row = row[row["group"] == "all"].iloc[0]
    table = results.table(["truth_mae"], intervals=True)
    assert list(table.columns) == ["truth_mae", "truth_mae_low", "truth_mae_high"]
    assert table.loc[("combat", 0)].tolist() == [row["value"], row["ci_low"], row["ci_high"]]
    assert set(results.table().columns) == {"distance_pcc", "truth_mae"}
    with pytest.raises(HarmbenchError, match="did you mean 'truth_mae'"):
        results.table(["truth_maee"])


def test_results_are_shown_and_loaded_again(results: hb.Results, tmp_path: Path) -> None:
    again = hb.load(results.folder)
    pd.testing.assert_frame_equal(again.scores, results.scores)
    assert "combat" in again._repr_html_()
    assert "http" not in again._repr_html_()
    assert results.failed == []
    names = results.figures()
    assert isinstance(results.figure(names[0]), Figure)
    with pytest.raises(HarmbenchError, match="unknown figure"):
        results.figure("nothing")
    page = results.report(tmp_path / "page.html")
    assert page.read_text().startswith("<!")
    with pytest.raises(HarmbenchError, match="html"):
        results.report(tmp_path / "page.pdf")
    with pytest.raises(HarmbenchError, match="holds no run"):
        hb.load(tmp_path)


def toy() -> tuple[Cohort, pd.DataFrame]:
    cohort = ToyDataset(120).load()
    return cohort, cohort.participants[["participant_id", "site", "age", "sex"]]


def test_own_images_score_as_the_method_that_made_them(tmp_path: Path) -> None:
    cohort, people = toy()
    blurred = hb.run(
        ["blur"], TOY, metrics=METRICS, threads=1, out=tmp_path, quiet=True, data_options={"n": 120}
    )
    made = np.load(next(tmp_path.glob("data/images.npy")))
    assert np.array_equal(made, cohort.images)
    mine = {"same": cohort.images, "flipped": cohort.images[::-1]}
    scored = hb.score(mine, cohort.images, people, metrics=METRICS, threads=1, quiet=True)
    table = scored.table(METRICS)
    ours, theirs = table.loc[("same", 0)], blurred.table(METRICS).loc[("identity", 0)]
    assert ours["distance_pcc"] == pytest.approx(1.0)
    assert theirs["distance_pcc"] == pytest.approx(1.0)
    assert table.loc[("flipped", 0), "distance_pcc"] < 0.9


def test_own_tables_are_scored(tmp_path: Path) -> None:
    _, people = toy()
    rng = np.random.default_rng(0)
    raw = pd.DataFrame(rng.normal(3.0, 0.5, (120, 6)), columns=[f"area_{i}" for i in range(6)])
    site = people["site"].astype("category").cat.codes.to_numpy()
    raw = raw.add(site, axis=0)
    mine = raw.sub(site, axis=0)
    out = tmp_path / "run"
    scored = hb.score({"mine": mine}, raw, people, metrics=METRICS, threads=1, out=out, quiet=True)
    assert (out / "scores.csv").is_file()
    table = scored.table(METRICS)
    assert table.loc[("identity", 0), "distance_pcc"] == pytest.approx(1.0)
    assert table.loc[("mine", 0), "distance_pcc"] < 1.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x[:-1], "one row for each row"),
        (lambda x: np.where(x > 0, np.nan, x), "'mine' holds NaN"),
    ],
)
def test_wrong_arrays_are_refused(change: Any, sentence: str) -> None:
    cohort, people = toy()
    with pytest.raises(HarmbenchError, match=sentence):
        hb.score({"mine": change(cohort.images)}, cohort.images, people, quiet=True)
    with pytest.raises(HarmbenchError, match="no column site"):
        hb.score({}, cohort.images, people.drop(columns="site"), quiet=True)


def test_lists_hold_everything_that_is_registered() -> None:
    assert {"combat", "ddae", "identity"} <= set(hb.methods().index)
    assert "age_mae" in hb.metrics().index
    assert "phantom" in hb.datasets().index


def test_the_examples_do_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (harmbench.api, stored):
        failed, tried = doctest.testmod(module, globs={})
        assert tried > 5
        assert failed == 0


def test_training_and_harmonizing_from_python(tmp_path: Path) -> None:
    big = {"data_options": {"n": 300}, "quiet": True}
    folders = hb.train(["combat"], TOY, out=tmp_path / "weights", **big)
    assert [(folder / "card.json").is_file() for folder in folders] == [True]
    made = hb.harmonize("combat", tmp_path / "made", TOY, weights=str(folders[0]), **big)
    again = hb.harmonize("combat", tmp_path / "again", TOY, weights="none", **big)
    np.testing.assert_array_equal(made.cohort.images, again.cohort.images)
    assert not np.array_equal(made.cohort.images, ToyDataset(300).load().images)
