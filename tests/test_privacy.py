"""What may not leave does not: no id, no image of a subject, anywhere in a report."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from support import make_run_folder

import reports
from harmbench.contracts.dataset import NOTE_KINDS
from harmbench.files.atomic import read_json, write_json
from reports import figures
from reports.drawing import NoFigure
from reports.pictures import histograms, slices
from reports.privacy import keep_back, made_up_names, redactor
from reports.results import Results, read_results

SECRET = bytes(range(32))
PIXELS = ("slices", "differences", "errors")


def private_run(root: Path) -> Path:
    """Write a run whose notes, reasons and data name participants."""
    folder = make_run_folder(root, methods=("combat",), controls=("identity",), n_per_site=6,
                             failing=("combat",))  # fmt: skip
    config = read_json(folder / "config.json")
    config["notes"] = ["sub-004 moved a lot; participant 7 too"]
    config["set_aside"] = [
        "sub-099 and sub-002: a row in participants.tsv, but no image",
        "t.csv, line 7, NDAR77 ses-1: feature 'x' is missing",
        "row 3, NDAR77: the site is missing",
    ]
    config["run"]["data"]["params"] = {"path": "/data/sub-002.npz"}
    write_json(folder / "config.json", config)
    scores = pd.read_csv(folder / "scores.csv")
    failed = scores["status"] == "failed"
    scores.loc[failed, "reason"] = "sub-002_T1w.nii.gz holds NaN"
    scores.to_csv(folder / "scores.csv", index=False)
    return folder


def hidden(folder: Path) -> Results:
    return keep_back(read_results(folder), images=False, secret=SECRET)


@pytest.mark.parametrize("hash_ids", [False, True])
def test_no_id_and_no_image_of_a_subject_in_a_whole_report(
    tmp_path: Path, hash_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "PAGE_DPI", 20)
    monkeypatch.setattr(figures, "PRINT_DPI", 20)
    run, out = private_run(tmp_path / "run"), tmp_path / "out"
    reports.build(run, out, images=not hash_ids, hash_ids=hash_ids)
    drawn = {path.stem for path in out.rglob("*.png")}
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".png"]
    named = [p.name for p in files if re.search(rb"sub-\d{3}", p.read_bytes())]
    assert bool(named) != hash_ids, named
    assert bool(drawn & set(PIXELS)) != hash_ids
    assert {"histograms", "embedding-site", "age"} <= drawn
    assert not any("sub-" in str(path.relative_to(out)) for path in out.rglob("*"))
    said = "images of subjects are kept back" in (out / "report.html").read_text(encoding="utf-8")
    assert said == hash_ids
    origin = read_json(out / "merged.json")
    assert origin["images"] != hash_ids and (origin["ids"] == "made up") == hash_ids


def test_pictures_are_refused_but_what_is_pooled_is_drawn(tmp_path: Path) -> None:
    results = hidden(private_run(tmp_path))
    with pytest.raises(NoFigure, match="kept back"):
        slices(results)
    assert len(histograms(results)) == 1


def test_one_subject_has_one_name_in_every_table(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, n_per_site=6)
    known, results = read_results(folder), hidden(folder)
    row = known.rows[0]
    plain, secret = known.per_scan(row, "age_mae"), results.per_scan(row, "age_mae")
    assert plain is not None and secret is not None
    columns = ["participant_id", "age", "predicted"]
    told = plain.assign(participant_id=plain["participant_id"].map(results.ids))
    pd.testing.assert_frame_equal(
        told[columns].sort_values(columns, ignore_index=True),
        secret[columns].sort_values(columns, ignore_index=True),
    )
    everyone = results.participants["participant_id"]
    assert set(secret["participant_id"]) <= set(everyone)
    assert everyone.nunique() == known.participants["participant_id"].nunique()
    assert not everyone.str.contains("sub-").any()


def test_the_order_of_a_table_of_scans_tells_nothing(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, n_per_site=6)
    table = hidden(folder).per_scan(read_results(folder).rows[0], "age_mae")
    assert table is not None
    assert list(table["participant_id"]) == sorted(table["participant_id"])
    names = list(made_up_names([f"sub-{i:03d}" for i in range(50)], SECRET).values())
    assert names == sorted(names)


def test_names_cannot_be_made_again_without_the_secret() -> None:
    ids = ["sub-001", "sub-002"]
    first, second = (made_up_names(ids, secret) for secret in (SECRET, SECRET[::-1]))
    assert first == made_up_names(ids, SECRET)
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sub-01_T1w.nii.gz holds NaN", "A_T1w.nii.gz holds NaN"),
        ("needs 100 test scans; there are 12", "needs 100 test scans; there are 12"),
        ("participant 12 has no age", "participant B has no age"),
        ("no image of 'ab-c.d'", "no image of 'C'"),
        ("ab-c.de is another", "ab-c.de is another"),
        ("sub-011 is another", "sub-011 is another"),
        ("NDAR1234 (x)", "D (x)"),
        ("sub-NDAR1234/anat", "D/anat"),
    ],
)
def test_ids_are_found_in_sentences(text: str, expected: str) -> None:
    names = {"sub-01": "A", "12": "B", "ab-c.d": "C", "NDAR1234": "D"}
    assert redactor(names)(text) == expected


def test_texts_keep_no_id(tmp_path: Path) -> None:
    results = hidden(private_run(tmp_path))
    assert not any("sub-0" in text for kind in NOTE_KINDS for text in results.config[kind])
    assert "NDAR77" not in str(results.config["set_aside"])
    assert "t.csv, line 7: feature 'x' is missing" in results.config["set_aside"]
    assert not results.scores["reason"].str.contains("sub-0").any()
    assert "sub-002" not in str(results.config["run"]["data"])
    assert results.images_allowed is False and read_results(tmp_path).images_allowed is True
