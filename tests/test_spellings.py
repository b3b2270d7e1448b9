"""Names of sites, participants and sessions that are written in several ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import make_data_sheet

from harmbench.config import build_dataset, resolve
from harmbench.data.bids import BIDSDataset
from harmbench.data.covariates import names_kind
from harmbench.data.sheet import DataSheet, make_sheet
from harmbench.data.spellings import identifiers, look_alikes, one_spelling

N = 24


def site_sheet(kind: str, place: Path, names: list[str], **more: list[str]) -> DataSheet:
    """Return the sheet of data of a kind whose rows carry these sites in turn."""
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(N)],
            "site": [names[k % len(names)] for k in range(N)],
            "age": np.linspace(20, 80, N),
            "sex": ["F", "M", "M", "F"] * (N // 4),
        }
    )
    return make_data_sheet(kind, place, table.assign(**more))


ONE = {
    "Unicode forms": ["Zürich", "Zu\u0308rich"],
    "full width": ["site 12", "site \uff11\uff12"],
    "no-break space": ["Bad Homburg", "Bad\u00a0Homburg"],
    "zero-width space": ["Rome", "Ro\u200bme"],
    "dashes": ["UK-1", "UK\u20131", "UK\u20111"],
    "numbers": ["1", "1.0", "01"],
    "ligatures": ["Sheffield", "She\ufb00ield"],
}


@pytest.mark.parametrize("form", ONE)
@pytest.mark.parametrize("kind", ["bids", "csv", "npz"])
def test_spellings_of_one_site_are_one_site_and_that_is_said(tmp_path, kind, form):
    names = ONE[form]
    sheet = site_sheet(kind, tmp_path, [*names, "2"])
    assert not sheet.problems
    assert set(sheet.sites["Site"]) == {names[0], "2", "all"}
    assert any(note.endswith(f"are read as one site, '{names[0]}'") for note in sheet.notes)


@pytest.mark.parametrize("names", [["1", "2", "10"], ["01", "02"], ["a-b", "a b"], ["A", "a"]])
def test_other_names_stay_apart(names):
    sites, said = one_spelling(pd.Series(names), "site")
    assert list(sites) == names and not said


def test_names_in_another_case_or_punctuation_are_noted():
    (said,) = look_alikes(pd.Series(["Site A", "site_a", "SITEA", "b"]), "site")
    assert "'SITEA' and 'Site A' and 'site_a' differ in case" in said


def test_leading_zeros_tell_participants_apart():
    names = pd.Series(["12", "12.0", "012", np.nan])
    people, _ = one_spelling(names, "participant", zeros=False)
    assert list(people[:3]) == ["12", "12", "012"] and pd.isna(people[3])


@pytest.mark.parametrize("name", ["1.23E+11", "4E+05", "5,0772E+04"])
@pytest.mark.parametrize("kind", ["bids", "csv", "npz"])
def test_names_that_a_spreadsheet_has_rounded_are_refused(tmp_path, kind, name):
    (tmp_path / "plain").mkdir()
    ids = [f"sub-{k:02d}" for k in range(N)]
    table = pd.DataFrame({"participant_id": ids, "site": list("ab") * (N // 2), "age": 30.0})
    table["sex"] = "F"
    assert not make_data_sheet(kind, tmp_path / "plain", table).problems
    if kind == "bids":
        file = tmp_path / "plain/bids/participants.tsv"
        file.write_text(file.read_text().replace("sub-03", name))
        problems = make_sheet(BIDSDataset(file.parent, size=16)).problems
    else:
        table.loc[3, "participant_id"] = name
        problems = make_data_sheet(kind, tmp_path, table).problems
    assert f"the participant_id '{name}' is a number that a spreadsheet" in str(problems[0])


def test_participants_that_may_be_one_are_noted():
    people = pd.Series(["sub-01", "01", "1", "x"])
    names, sessions, notes = identifiers(
        people, pd.Series(np.nan, people.index, dtype=object), "line"
    )
    assert list(names) == list(people) and set(sessions) == {""}
    assert notes[0].startswith("participants '01' and '1' and 'sub-01' differ in zeros")


@pytest.mark.parametrize("kind", ["bids", "csv", "npz"])
def test_a_site_called_na_is_a_site_where_na_means_nothing_else(tmp_path, kind):
    sheet = site_sheet(kind, tmp_path, ["NA", "MI"])
    assert not sheet.problems and set(sheet.sites["Site"]) == {"NA", "MI", "all"}
    assert "site 'NA' is read as a name, not as a missing site" in sheet.notes


@pytest.mark.parametrize("kind", ["bids", "csv"])
def test_na_beside_other_missing_values_is_missing(tmp_path, kind):
    sexes = ["F", "M", "NA", "F"] * (N // 4)
    sheet = site_sheet(kind, tmp_path, ["NA", "MI", "RO", "RO"], sex=sexes)
    assert len(sheet.problems) == N // 4
    assert all("the site is missing" in problem.sentence for problem in sheet.problems)
    assert all("NA is a site's name only in" in problem.sentence for problem in sheet.problems)


@pytest.mark.parametrize("kind", ["bids", "csv", "npz"])
@pytest.mark.parametrize("text", ["", "n/a", "None", "unknown", "-", "."])
def test_other_signs_of_a_missing_site_are_no_names(tmp_path, kind, text):
    sheet = site_sheet(kind, tmp_path, ["a", "b", text, "a"])
    assert {problem.sentence.partition(";")[0] for problem in sheet.problems} <= {
        "the site is missing",
        sheet.problems[0].sentence.partition(";")[0],
    }
    assert "the site is missing" in str(sheet.problems[0])


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("SITE_ID", "site"), ("siteID", "site"), ("ScannerName", "site"), ("centre", "site"),
        ("AGE_AT_SCAN", "age"), ("PTAGE", "age"), ("ageMonths", "age"), ("PTGENDER", "sex"),
        ("Sex", "sex"), ("subjectGender", "sex"),
    ],
)  # fmt: skip
def test_columns_that_are_called_like_a_covariate(column, kind):
    assert [k for k in ("site", "age", "sex") if names_kind(column, k)] == [kind]


@pytest.mark.parametrize(
    "column", ["average", "lh_image_quality", "language", "opposite", "Left-X"]
)
def test_words_that_only_contain_a_covariate(column):
    assert not any(names_kind(column, kind) for kind in ("site", "age", "sex"))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("PTID", "perhaps 'PTID'"),
        ("Subject ID", "perhaps 'Subject ID'"),
        ("lh.aparc", "'lh.aparc'"),
    ],
)
def test_the_column_of_names_is_guessed_where_it_is_called_otherwise(tmp_path, column, said):
    names = [f"s{k}" for k in range(4)]
    table = pd.DataFrame({"site": list("abab"), column: names, "volume": [1.5, 2.5, 3.0, 4.5]})
    table.to_csv(tmp_path / "t.csv", index=False)
    (problem,) = make_sheet(build_dataset(resolve(data=str(tmp_path / "t.csv")))).problems
    assert "no column 'participant_id'" in str(problem) and said in problem.sentence
    assert "perhaps" in problem.sentence


def test_participants_numbered_anew_at_each_site_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"participant_id": [*range(1, 25)] * 2, "site": ["a"] * 24 + ["b"] * 24, "age": 30,
         "sex": rng.choice(["F", "M"], 48), "volume": rng.normal(size=48)}
    )  # fmt: skip
    table.to_csv(tmp_path / "t.csv", index=False)
    (problem,) = make_sheet(build_dataset(resolve(data=str(tmp_path / "t.csv")))).problems
    assert "numbers its participants from 1" in problem.sentence
    sexes = dict(zip(range(1, 25), rng.choice(["F", "M"], 24), strict=True))
    table["sex"] = table["participant_id"].map(sexes)
    table.loc[3, "sex"] = "M" if table["sex"][3] == "F" else "F"
    table.to_csv(tmp_path / "t.csv", index=False)
    sheet = make_sheet(build_dataset(resolve(data=str(tmp_path / "t.csv"))))
    assert not sheet.problems and "scans of one participant differ in sex: '4'" in sheet.notes
