"""Merged runs say what one run of all methods would say, and two experiments are never mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import make_run_folder
from typer.testing import CliRunner

import harmbench.data.toy
import reports
import reports.html
from harmbench.config import resolve
from harmbench.engine.run import run
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_json, write_arrays, write_json
from reports.claim_tables import write_claim_table
from reports.claims import judge_claims
from reports.merge import folder_names, merge, read_merged
from reports.pictures import slices
from reports.results import Results, read_results
from reports.score_tables import write_score_tables
from reports.scores import score_run
from reports.tables import results_table, write_tables

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
CONTROLS = ("identity", "shuffle", "oracle")
VALUES = {
    "site_bacc": {"identity": 0.9, "shuffle": 0.3, "oracle": 0.3, "combat": 0.45, "ddae": 0.4},
    "age_mae": {"identity": 7.0, "shuffle": 15.0, "oracle": 6.0, "combat": 8.0, "ddae": 7.5},
}
ANCHORS = {"site_bacc": ["identity", "oracle"], "age_mae": ["shuffle", "oracle"]}


def write_everything(results: Results, folder: Path) -> dict[str, bytes]:
    """Write all tables; return their bytes."""
    write_tables(results, folder)
    write_score_tables(results, score_run(results), folder)
    write_claim_table(results, judge_claims(results), folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    write_json(path, change(read_json(path)))


def part_of(whole: Path, place: Path, methods: tuple[str, ...]) -> Path:
    """Return what a job would have left that ran these methods only, and all controls."""
    shutil.copytree(whole, place)
    keep = {*methods, *CONTROLS}
    edit(place / "cells.json", lambda cells: [c for c in cells if c["label"] in keep])
    edit(place / "methods.json", lambda held: {k: v for k, v in held.items() if k in keep})
    config = read_json(place / "config.json")
    config["run"]["methods"] = [m for m in config["run"]["methods"] if m["name"] in keep]
    write_json(place / "config.json", config)
    for name in ("scores", "timing"):
        table = pd.read_csv(place / f"{name}.csv", float_precision="round_trip")
        table[table["label"].isin(keep)].to_csv(place / f"{name}.csv", index=False)
    return place


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two methods whose two main metrics have anchors and replicates."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    make_run_folder(folder, controls=CONTROLS, n_per_site=6)
    scores = pd.read_csv(folder / "scores.csv", float_precision="round_trip")
    rng = np.random.default_rng(3)
    for cell in read_json(folder / "cells.json"):
        for metric, values in VALUES.items():
            value = values[cell["label"]]
            mine = (scores["label"] == cell["label"]) & (scores["metric"] == metric)
            scores.loc[mine & (scores["group"] == "all"), "value"] = value
            stem = folder / cell["scores"][metric]
            held = {"replicates": value + 0.1 * rng.standard_normal(1000)}
            write_arrays(stem.with_name(stem.name + ".npz"), held)
            known = {"overall": {"value": value, "low": value - 0.2, "high": value + 0.2, "n": 6}}
            edit(stem.with_name(stem.name + ".json"), lambda mark, known=known: mark | known)
    scores.to_csv(folder / "scores.csv", index=False)

    def anchored(metrics: dict[str, Any]) -> dict[str, Any]:
        return {k: m | {"anchors": ANCHORS.get(k, []), "margin": None} for k, m in metrics.items()}

    edit(folder / "metrics.json", anchored)
    return folder


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    return [part_of(whole, tmp_path / name, (name,)) for name in ("combat", "ddae")]


def test_two_jobs_merged_have_the_tables_of_one_run(
    whole: Path, parts: list[Path], tmp_path: Path
) -> None:
    one = write_everything(read_results(whole), tmp_path / "one")
    two = write_everything(read_merged(parts), tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    scores = pd.read_csv(tmp_path / "two" / "scores.csv").set_index("label")
    assert set(scores["rank"].dropna()) == {1.0, 2.0}
    assert scores.loc["ddae", "site_removal"] == pytest.approx(0.5 / 0.6)
    assert len(pd.read_csv(tmp_path / "two" / "scores_comparisons.csv")) > 0
    assert len(pd.read_csv(tmp_path / "two" / "claims.csv")) > 0


def test_two_real_runs_merged_have_the_tables_of_one_run(tmp_path: Path) -> None:
    settings = {"data": TOY, "metrics": ["distance_pcc", "truth_mae"], "threads": 1}
    folders = []
    for methods in (["blur"], ["site-shift"], ["blur", "site-shift"]):
        folder = tmp_path / "-".join(methods)
        run(resolve(**{**settings, "methods": methods}), folder)
        folders.append(folder)
    merged = read_merged(folders[:2])
    one = write_everything(read_results(folders[2]), tmp_path / "one")
    two = write_everything(merged, tmp_path / "two")
    assert [name for name in one if one[name] != two[name]] == []
    # The toy cohort is cross-fitted: both halves of both methods are found again.
    assert all(len(merged.images(row)) == len(merged.tested) for row in merged.first_seeds)


def test_rows_stand_in_the_order_of_the_folders(parts: list[Path]) -> None:
    rows = [row.label for row in read_merged(parts[::-1]).rows]
    assert rows == ["ddae", "combat", *CONTROLS]


def test_images_are_read_where_they_lie(parts: list[Path], whole: Path) -> None:
    merged, single = read_merged(parts), read_results(whole)
    for row in single.first_seeds:
        theirs = single.images(row)
        ours = merged.images(row)
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(np.stack([*ours.values()]), np.stack([*theirs.values()]))
    assert len(slices(merged)) == 1


def test_a_metric_that_one_folder_lacks_is_said_to_be_absent_there(parts: list[Path]) -> None:
    without(parts[1], "age_mae")
    merged = read_merged(parts)
    found = {row.label: merged.score(row, "age_mae") for row in merged.rows}
    assert found["ddae"].status == "absent" and found["ddae"].reason == "not computed in ddae"
    # The controls stand in both folders, so theirs are known.
    assert all(found[label].ok for label in ("combat", *CONTROLS))
    assert "not computed in ddae" in results_table(merged).footnotes


def test_anchors_are_taken_from_the_folder_that_has_them(parts: list[Path]) -> None:
    without(parts[0], "age_mae")
    scored = {a.metric["name"] for a in score_run(read_merged(parts)).scored}
    assert scored == {"site_bacc", "age_mae"}


def without(folder: Path, metric: str) -> None:
    table = pd.read_csv(folder / "scores.csv", float_precision="round_trip")
    table[table["metric"] != metric].to_csv(folder / "scores.csv", index=False)
    cells = read_json(folder / "cells.json")
    for cell in cells:
        del cell["scores"][metric]
    write_json(folder / "cells.json", cells)


@pytest.mark.parametrize(
    ("key", "value"),
    [("fingerprint", "other"), ("reference_site", "site-b"), ("preset", "paper"),
     ("protocol_version", 2), ("data_seed", 5)],
)  # fmt: skip
def test_another_experiment_is_refused_by_name(parts: list[Path], key: str, value: object) -> None:
    edit(parts[1] / "config.json", lambda c: c | {"identity": c["identity"] | {key: value}})
    with pytest.raises(HarmbenchError, match=rf"ddae cannot be merged with combat: {key} is .*"):
        read_merged(parts)


def test_another_split_is_refused(parts: list[Path]) -> None:
    path = parts[1] / "data" / "split.csv"
    table = pd.read_csv(path)
    table.assign(part=table["part"].to_numpy()[::-1]).to_csv(path, index=False)
    with pytest.raises(HarmbenchError, match="the split into parts is another one"):
        read_merged(parts)


def test_another_version_of_a_metric_is_refused(parts: list[Path]) -> None:
    edit(parts[1] / "metrics.json", lambda m: m | {"age_mae": m["age_mae"] | {"version": 9}})
    with pytest.raises(HarmbenchError, match="version of metric age_mae is 1 there and 9 here"):
        read_merged(parts)


def test_one_label_with_two_settings_is_refused(parts: list[Path]) -> None:
    edit(parts[1] / "methods.json", lambda m: m | {"oracle": m["oracle"] | {"params": {"a": 1}}})
    with pytest.raises(HarmbenchError, match=r"'oracle' has params \{'a': 1\} in ddae and \{\} in"):
        read_merged(parts)


def test_one_row_with_two_values_is_refused(parts: list[Path]) -> None:
    path = parts[1] / "scores.csv"
    table = pd.read_csv(path, float_precision="round_trip")
    mine = (table["label"] == "shuffle") & (table["metric"] == "site_bacc")
    table.loc[mine, "value"] += 1e-6
    table.to_csv(path, index=False)
    with pytest.raises(HarmbenchError, match=r"'shuffle' \(seed 0\) scores other values of site_b"):
        read_merged(parts)


def test_a_value_stands_before_a_failure(parts: list[Path]) -> None:
    path = parts[0] / "scores.csv"
    table = pd.read_csv(path, float_precision="round_trip")
    mine = (table["label"] == "identity") & (table["metric"] == "age_mae")
    table.loc[mine, ["value", "status", "reason"]] = [np.nan, "failed", "no memory"]
    table.to_csv(path, index=False)
    merged = read_merged(parts)
    row = next(r for r in merged.rows if r.label == "identity")
    assert merged.score(row, "age_mae").value == VALUES["age_mae"]["identity"]


def test_what_may_differ_is_noted(parts: list[Path]) -> None:
    edit(parts[1] / "config.json", lambda c: c | {"run": c["run"] | {"threads": 4}})
    notes = read_merged(parts).config["notes"]
    assert "Merged from the runs combat, ddae." in notes
    assert "The runs differ in threads: 1 in combat, 4 in ddae." in notes


def test_what_was_read_is_merged_once(parts: list[Path]) -> None:
    edit(parts[1] / "config.json", lambda c: c | {"read": [*c["read"], "2 more"]})
    config = read_merged(parts).config
    assert config["read"] == ["1 table of <made-up> numbers", "2 more"]
    assert config["set_aside"] == ["column 'weight': not wanted"]


def test_names_tell_folders_apart() -> None:
    assert folder_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert folder_names([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert folder_names([Path("/a/x/run"), Path("/b/x/run")]) == ["run (1)", "run (2)"]


def test_a_merged_report_is_written_where_asked_and_names_no_place(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.html, "write_figures", lambda results, folder: ([], []))
    out = tmp_path / "all"
    before = {path: path.read_bytes() for part in parts for path in part.rglob("*.*")}
    page = reports.build(parts, out)
    assert page == out / "report.html" and page.is_file()
    origin = json.loads((out / "merged.json").read_text())
    assert origin["sources"] == ["combat", "ddae"]
    assert origin["identity"] == read_json(parts[0] / "config.json")["identity"]
    texts = [p for p in out.rglob("*") if p.suffix in (".html", ".md", ".json", ".csv", ".tex")]
    assert texts and not any(str(tmp_path) in path.read_text(encoding="utf-8") for path in texts)
    assert not list(out.rglob("*.np[yz]")), "images were copied"
    assert before == {path: path.read_bytes() for part in parts for path in part.rglob("*.*")}
    # Its own report is replaced; anything else is left alone.
    assert reports.build(parts, out) == page


def test_places_that_would_lose_something_are_refused(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "figure.png").touch()
    for out, message in (
        (None, "several runs need a folder"),
        (parts[0], "holds a run"),
        (tmp_path / "thesis", "files that are not a report's"),
    ):
        with pytest.raises(HarmbenchError, match=message):
            reports.build(parts, out)
    with pytest.raises(HarmbenchError, match="given twice"):
        reports.build([parts[0], parts[0]], tmp_path / "out")


def test_the_command_takes_several_folders(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harmbench.cli.app import app

    asked: list[Any] = []
    monkeypatch.setattr(reports, "build", lambda *a, **k: asked.append((a, k)) or tmp_path)
    names = [str(part) for part in parts]
    done = CliRunner().invoke(app, ["report", *names, "--out", str(tmp_path / "o"), "--hash-ids"])
    assert done.exit_code == 0, done.output
    assert asked == [((parts, tmp_path / "o"), {"images": True, "hash_ids": True})]


def test_merging_is_a_function_of_results(parts: list[Path]) -> None:
    merged = merge([read_results(part) for part in parts])
    assert merged.sources == ("combat", "ddae")
    assert len(merged.scores) == len(merged.scores.drop_duplicates(["label", "metric", "group"]))
