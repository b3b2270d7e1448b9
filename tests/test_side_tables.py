"""sessions.tsv, scans.tsv and the names of participants: what fits, and what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import made_up_scan, save_bids_scan

from harmbench.data.bids import BIDSDataset
from harmbench.data.sheet import DataSheet, make_sheet
from harmbench.data.spellings import fitted

SUBJECTS = [f"sub-{k:02d}" for k in range(1, 11)]
SESSIONS = ("ses-1", "ses-2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """10 participants of two sessions at two sites; without side tables."""
    root = tmp_path / "study"
    for k, name in enumerate(SUBJECTS):
        for session in SESSIONS:
            save_bids_scan(root, name, session, data=made_up_scan(k, (40, 44, 1)))
    rows = [f"{name}\t{20 + k}\tF\t{'ab'[k % 2]}" for k, name in enumerate(SUBJECTS)]
    (root / "participants.tsv").write_text("participant_id\tage\tsex\tsite\n" + "\n".join(rows))
    return root


def sheet(root: Path, **options: object) -> DataSheet:
    return make_sheet(BIDSDataset(root, size=16, **options))


def sites(root: Path) -> dict[tuple[str, str], str]:
    cohort = BIDSDataset(root, size=16).load()
    return {(key.participant_id, key.session_id): key.site for key in cohort.keys}


def write_sessions(root: Path, ids: tuple[str, ...] = SESSIONS, column: str = "site") -> None:
    """Write a sessions.tsv of each participant that puts all of these sessions at site c."""
    for name in SUBJECTS:
        lines = [f"session_id\t{column}", *(f"{one}\tc" for one in ids)]
        (root / name / f"{name}_sessions.tsv").write_text("\n".join(lines) + "\n")


def write_scans(root: Path, ids: str, column: str = "site", deep: bool = True) -> None:
    """Write a scans.tsv of each session that names its images by a template."""
    for name in SUBJECTS:
        for session in SESSIONS:
            stem = f"{name}_{session}" if deep else name
            place = root / name / (session if deep else "") / f"{stem}_scans.tsv"
            line = ids.format(name=name, session=session)
            text = place.read_text() if place.is_file() else f"filename\t{column}\n"
            place.write_text(text + f"{line}\tc\n")


# ---- tables that fit


@pytest.mark.parametrize("ids", [SESSIONS, ("1", "2"), ("01", "2.0")])
def test_sessions_are_found_with_and_without_prefix_and_zeros(folder, ids):
    (folder / "sub-01/ses-2").rename(folder / "sub-01/ses-3")
    (folder / "sub-01/ses-3/anat/sub-01_ses-2_T1w.nii.gz").rename(
        folder / "sub-01/ses-3/anat/sub-01_ses-3_T1w.nii.gz"
    )
    write_sessions(folder, ids)
    found = sites(folder)
    assert found.pop(("sub-01", "ses-3")) == "a"
    assert set(found.values()) == {"c"}
    held = sheet(folder)
    assert "sub-*_sessions.tsv: 10 files" in held.read
    assert any("site: column 'site' of participants.tsv (1 scan) and" in line for line in held.read)
    said = "sub-01 ses-3: no row in sub-*_sessions.tsv; participants.tsv is used for the scan"
    assert said in held.set_aside
    assert any("sub-01 " in one and "but no image" in one for one in held.set_aside)


@pytest.mark.parametrize("deep", [True, False], ids=["session's own", "participant's"])
@pytest.mark.parametrize(
    "ids",
    [
        "anat/{name}_{session}_T1w.nii.gz",
        "{session}/anat/{name}_{session}_T1w.nii.gz",
        "anat\\{name}_{session}_T1w.nii",
    ],
)
def test_images_are_found_by_their_names(folder, ids, deep):
    write_scans(folder, ids, deep=deep)
    with pytest.raises(Exception, match=r"one site \(c\)"):
        sites(folder)
    (folder / SUBJECTS[0] / f"{SUBJECTS[0]}_scans.tsv").unlink(missing_ok=True)
    for file in (folder / SUBJECTS[0]).glob("ses-*/*_scans.tsv"):
        file.unlink()
    found = sites(folder)
    assert {site for (name, _), site in found.items() if name != SUBJECTS[0]} == {"c"}


def test_derivatives_use_the_tables_of_their_data_set(folder):
    write_sessions(folder, ("ses-1",))
    place = folder / "derivatives/prep"
    for name in SUBJECTS:
        for session in SESSIONS:
            image = folder / name / session / "anat" / f"{name}_{session}_T1w.nii.gz"
            target = place / name / session / "anat" / f"{name}_{session}_space-MNI_T1w.nii.gz"
            target.parent.mkdir(parents=True)
            shutil.copy(image, target)
    first = BIDSDataset(place, size=16)
    assert {s for (_, session), s in sites(place).items() if session == "ses-1"} == {"c"}
    assert {s for (_, session), s in sites(place).items() if session == "ses-2"} == {"a", "b"}
    before = first.fingerprint
    write_scans(folder, "anat/{name}_{session}_T1w.nii.gz", "age")
    text = (folder / "sub-03/ses-2/sub-03_ses-2_scans.tsv").read_text().replace("\tc", "\t99")
    for file in folder.glob("sub-*/ses-*/*_scans.tsv"):
        file.write_text(text.replace("sub-03_ses-2", file.name.removesuffix("_scans.tsv")))
    again = BIDSDataset(place, size=16)
    assert set(again.load().column("age")) == {99} and again.fingerprint != before


def test_tables_that_contradict_on_the_sex_are_noted(folder):
    write_sessions(folder, SESSIONS, "sex")
    for file in folder.glob("sub-*/*_sessions.tsv"):
        file.write_text(file.read_text().replace("\tc", "\tfemale"))
    assert not any("contradict" in note for note in sheet(folder).notes)
    file = folder / "sub-03/sub-03_sessions.tsv"
    file.write_text(file.read_text().replace("female", "M"))
    said = [note for note in sheet(folder).notes if "contradict each other on the sex" in note]
    assert "of sub-03 ses-1, sub-03 ses-2;" in said[0]


@pytest.mark.parametrize("form", ["relative", "link", "absolute"])
def test_the_form_of_the_path_is_no_difference(folder, monkeypatch, form):
    write_sessions(folder, ("ses-1",))
    (folder / "sub-02/sub-02_sessions.tsv").write_text("session_id\tsite\nx\tc\n")
    monkeypatch.chdir(folder.parent)
    (folder.parent / "link").symlink_to(folder)
    path = {"relative": Path("study"), "link": folder.parent / "link", "absolute": folder}[form]
    held = sheet(path)
    assert "sub-*_sessions.tsv: 9 files" in held.read
    assert held.problems[0].place == "sub-02/sub-02_sessions.tsv"
    assert not any("not where" in one for one in held.set_aside)


def test_another_image_of_the_session_is_not_the_one_that_is_read(folder):
    for image in folder.glob("sub-*/ses-*/anat/*_T1w.nii.gz"):
        image.rename(image.with_name(image.name.replace("_T1w", "_acq-low_T1w")))
    write_scans(folder, "anat/{name}_{session}_T1w.nii.gz")
    assert "but not for sub-01_ses-1_acq-low_T1w.nii.gz" in str(sheet(folder).problems[0])


# ---- tables that do not fit


@pytest.mark.parametrize("column", ["site", "age", "sex"])
@pytest.mark.parametrize("kind", ["sessions", "scans", "participant's scans"])
def test_tables_that_name_none_of_the_scans_are_problems(folder, kind, column):
    if kind == "sessions":
        write_sessions(folder, ("baseline", "followup"), column)
    else:
        write_scans(folder, "anat/{name}_{session}_run-1_T1w.nii", column, deep=kind == "scans")
    held = sheet(folder)
    assert len({problem.scan for problem in held.problems} - {None}) == 20
    first = str(held.problems[0])
    assert f"it has {column} for " in first and "but not for" in first
    assert ("'baseline', 'followup'" in first) == (kind == "sessions")


@pytest.mark.parametrize("kind", ["sessions", "scans"])
def test_tables_of_other_things_are_set_aside_and_that_is_said(folder, kind):
    if kind == "sessions":
        write_sessions(folder, ("baseline",), "weight")
    else:
        write_scans(folder, "func/{name}_{session}_bold.nii.gz", "acq_time")
    held = sheet(folder)
    assert not held.problems
    assert any("names no image that is read" in one for one in held.set_aside)
    assert not any(f"_{kind}.tsv" in one for one in held.read)


def test_tables_at_other_places_are_listed(folder):
    for name in ("sessions.tsv", "sub-99/sub-99_sessions.tsv", "sub-01/ses-1/sub-01_sessions.tsv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("session_id\tsite\nses-1\tc\n")
    (folder / "participants.csv").write_text("participant_id,site\nsub-01,x\n")
    aside = sheet(folder).set_aside
    assert "participants.csv: participants.tsv is read instead" in aside
    (strays,) = [one for one in aside if "not in a place for tables" in one]
    assert all(name in strays for name in ("sessions.tsv", "sub-99", "sub-01/ses-1"))


def test_descriptions_of_columns_that_are_not_there_are_listed(folder):
    said = {"gender": {"Levels": {"1": "male", "2": "female"}}, "age": {"Units": "years"}}
    (folder / "participants.json").write_text(json.dumps(said))
    assert "participants.json: no column is called gender" in sheet(folder).set_aside


@pytest.mark.parametrize(
    "place", ["participants.json", "sessions.json", "sub-01/sub-01_sessions.json"]
)
def test_descriptions_beside_every_table_count(folder, place):
    write_sessions(folder, SESSIONS, "age")
    for file in folder.glob("sub-*/*_sessions.tsv"):
        file.write_text(file.read_text().replace("\tc", "\t600"))
    before = BIDSDataset(folder, size=16).fingerprint
    (folder / place).write_text(json.dumps({"age": {"Units": "months"}}))
    dataset = BIDSDataset(folder, size=16)
    assert set(dataset.load().column("age")) == {50} and dataset.fingerprint != before
    other = "participants.json" if place != "participants.json" else "scans.json"
    (folder / other).write_text(json.dumps({"age": {"Units": "years"}}))
    (problem,) = sheet(folder).problems
    assert "--age-unit" in problem.sentence


def test_codes_that_json_files_contradict_are_refused(folder):
    for name, levels in (
        ("participants", {"1": "male", "2": "female"}),
        ("sessions", {"1": "female", "2": "male"}),
    ):
        (folder / f"{name}.json").write_text(json.dumps({"sex": {"Levels": levels}}))
    table = (folder / "participants.tsv").read_text().replace("\tF\t", "\t1\t")
    (folder / "participants.tsv").write_text(table)
    assert any("contradict each other on the codes" in str(one) for one in sheet(folder).problems)


# ---- names of participants


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ("sub-50772", "sub-0050772", True),
        ("sub-50772.0", "sub-0050772", True),
        ("sub-002_S_0413", "sub-002S0413", True),
        ("sub-CC_110", "sub-cc110", True),
        ("sub-120", "sub-12", False),
        ("sub-12.0", "sub-120", False),
        ("sub-x", "sub-y", False),
    ],
)
def test_names_fit_apart_from_zeros_case_and_punctuation(given, wanted, expected):
    assert fitted({given}, {wanted, "sub-9"}) == ({given: wanted} if expected else {})


def test_names_that_fit_two_or_are_taken_fit_none():
    assert fitted({"sub-7"}, {"sub-07", "sub-007"}) == {}
    assert fitted({"sub-7", "sub-07"}, {"sub-007"}) == {}
    assert fitted({"sub-7", "sub-07"}, {"sub-07"}) == {}


@pytest.mark.parametrize("form", ["{}", "{}.0", " {}\u00a0"])
def test_participants_that_lost_their_zeros_are_read_and_that_is_said(folder, form):
    table = (folder / "participants.tsv").read_text()
    for name in SUBJECTS:
        table = table.replace(name, form.format(int(name[4:])))
    (folder / "participants.tsv").write_text(table)
    held = sheet(folder)
    assert not held.problems
    assert any("participants are matched to the only name that" in one for one in held.notes)
    assert len(sites(folder)) == 20


def test_a_table_none_of_whose_rows_fits_is_one_problem(folder):
    table = (folder / "participants.tsv").read_text().replace("sub-", "patient-")
    (folder / "participants.tsv").write_text(table)
    texts = [str(problem) for problem in sheet(folder).problems]
    assert "none of its rows fits an image: they name sub-patient-01" in texts[0]
    assert len(texts) == 2  # and that nothing is left
