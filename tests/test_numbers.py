"""Columns of numbers in every notation, and which columns of a table become features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from harmbench.cli.app import app
from harmbench.data.feature_columns import select
from harmbench.data.numbers import outlying_codes, read_numbers
from harmbench.data.sheet import DataSheet, make_sheet
from harmbench.data.tables import TableDataset
from harmbench.errors import HarmbenchError

N = 72
VALUES = np.random.default_rng(0).uniform(1500, 1999, N).round(2)
SITES = np.array(["a", "b", "c"] * (N // 3))
EXPONENT = [f"{value:.6e}" for value in VALUES]


def german(value: float) -> str:
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize(
    ("cells", "how"),
    [
        ([f"{v}" for v in VALUES], ""),
        (EXPONENT, ""),
        ([f"{v}".replace(".", ",") for v in VALUES], "decimal commas"),
        ([german(v) for v in VALUES], "decimal commas, separators of thousands"),
        ([f"{v:,.2f}" for v in VALUES], "separators of thousands"),
        ([f"{v:,.2f}".replace(",", "'") for v in VALUES], "separators of thousands"),
        ([f"{v:,.2f}".replace(",", "\u202f") for v in VALUES], "separators of thousands"),
        (
            [f"{v:,.2f}".replace(",", " ").replace(".", ",") for v in VALUES],
            "decimal commas, separators of thousands",
        ),
        ([e.replace(".", ",") for e in EXPONENT], "decimal commas"),
        ([f"{v} mm" for v in VALUES], "without the unit 'mm'"),
        ([f"{v}%" for v in VALUES], "without the unit '%'"),
        ([f"{v} mm³".replace(".", ",") for v in VALUES], "without the unit 'mm³', decimal commas"),
    ],
)
def test_every_notation_in_which_a_column_agrees_is_read(cells, how):
    numbers = read_numbers(pd.Series(cells, dtype=object))
    assert not numbers.faults and numbers.numeric and numbers.how == how
    np.testing.assert_allclose(numbers.values, VALUES, rtol=1e-6)


FAULTY = {
    "#DIV/0!": "error of a spreadsheet formula",
    "#N/A": "error of a spreadsheet formula",
    "#VALUE!": "error of a spreadsheet formula",
    "#REF!": "error of a spreadsheet formula",
    "#NULL!": "error of a spreadsheet formula",
    "#NUM!": "error of a spreadsheet formula",
    "#NAME?": "error of a spreadsheet formula",
    "Err:502": "error of a spreadsheet formula",
    "inf": "infinite",
    "-Infinity": "infinite",
    "<0.01": "is a bound",
    ">5": "is a bound",
    "~3": "is a bound",
    "3.2 mm": "is among values with no unit",
    "3%": "is among values with no unit",
    "1_000": "not a number",
    "1.000.5": "not a number",
    "3,2": "another notation|not a number",
    "1,234": "decimal or a number with a thousands separator|another notation",
    "failed": "not a number",
    "0x10": "not a number",
    "2019-03-04": "not a number",
}


@pytest.mark.parametrize("cell", FAULTY)
def test_a_faulty_value_is_a_problem_and_never_drops_the_column(tmp_path, cell):
    column = pd.Series([f"{v}" for v in VALUES], dtype=object)
    column[4] = cell
    numbers = read_numbers(column)
    assert list(numbers.faults) == [4] and numbers.numeric
    assert cell in numbers.faults[4]
    assert pd.Series(numbers.faults[4]).str.contains(FAULTY[cell]).all(), numbers.faults[4]
    np.testing.assert_array_equal(numbers.values.drop(4), np.delete(VALUES, 4))
    (tmp_path / "t.csv").write_text(frame(volume=column).to_csv(index=False))
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "t.csv"), "--quiet"])
    assert shown.exit_code == 2
    text = " ".join(shown.output.split())
    assert f"t.csv, line 6, p4: feature 'volume': '{cell}'" in text


@pytest.mark.parametrize("commas", ["decimal", "thousands"])
def test_a_comma_that_may_mean_either_is_decided_by_the_other_columns(commas):
    either = pd.Series(["1,234", "2,345", "3,456"])
    assert set(read_numbers(either).faults) == {0, 1, 2} and read_numbers(either).numeric
    expected = [1.234, 2.345, 3.456] if commas == "decimal" else [1234, 2345, 3456]
    assert list(read_numbers(either, commas).values) == expected


def test_points_between_thousands_are_said():
    numbers = read_numbers(pd.Series(["1.234.567", "2.345.678"]))
    assert list(numbers.values) == [1234567, 2345678] and numbers.how == "separators of thousands"


def test_points_in_a_file_of_decimal_commas_may_separate_thousands():
    points = pd.Series(["1.234", "2.345"])
    assert list(read_numbers(points).values) == [1.234, 2.345]
    assert set(read_numbers(points, "decimal").faults) == {0, 1}
    assert list(read_numbers(pd.Series(["1.23", "2.345"]), "decimal").values) == [1.23, 2.345]


@pytest.mark.parametrize("cells", [["3T", "1.5T", "3T"], ["12A", "13B", "14C"], ["x", "y", "3"]])
def test_text_that_begins_with_digits_is_no_number(cells):
    assert not read_numbers(pd.Series(cells)).numeric


def test_the_minus_of_word_processors_is_a_minus():
    assert list(read_numbers(pd.Series(["\u22121.5", "2"])).values) == [-1.5, 2]


@pytest.mark.parametrize(
    ("last", "codes"),
    [([-99, -99], [-99]), ([999, 999], [999]), ([-99, 999, -99, 999], [-99, 999]), ([-99], []),
     ([-99, -98], []), ([-99, -99, -80], []), ([6, 6], [])],
)  # fmt: skip
def test_extreme_values_of_several_rows_are_codes(last, codes):
    values = np.r_[np.random.default_rng(0).normal(5, 1, 50), last]
    assert outlying_codes(values) == codes
    assert outlying_codes(np.r_[np.zeros(40), 9, 9]) == []


# ---- which columns are features


def frame(**more: object) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    named = {
        "participant_id": [f"p{k}" for k in range(N)],
        "site": SITES,
        "age": rng.uniform(20, 80, N).round(1),
        "sex": rng.choice(["F", "M"], N),
        "thickness": rng.normal(2.5, 0.1, N),
    }
    return pd.DataFrame(named | more)


def sheet_of(place: Path, features: str = "", sep: str = ",", **more: object) -> DataSheet:
    frame(**more).to_csv(place / "t.csv", index=False, sep=sep)
    return make_sheet(TableDataset(place / "t.csv", features=features))


def listed(sheet: DataSheet) -> set[str]:
    """Return the names of the features."""
    (line,) = [one for one in sheet.read if " features: " in one]
    return set(line.partition(": ")[2].split(", "))


BY_SITE = pd.Series(SITES)
rng = np.random.default_rng(2)
TELLING = {
    "FieldStrength": BY_SITE.map({"a": 3, "b": 3, "c": 1.5}),
    "serial": BY_SITE.map({"a": 40123, "b": 35111, "c": 20001}),
    "two serials": BY_SITE.map({"a": 10, "b": 20, "c": 30}) + rng.integers(0, 2, N),
    "row": np.arange(N),
    "run": np.arange(N) + 50002,
}


@pytest.mark.parametrize("name", TELLING)
def test_columns_that_tell_the_site_are_set_aside_with_the_reason(tmp_path, name):
    sheet = sheet_of(tmp_path, **{name: TELLING[name]})
    assert not sheet.problems and listed(sheet) == {"thickness"}
    reason = "constant within each site|each of its values occurs at one site only|numbers the rows"
    (said,) = [line for line in sheet.set_aside if line.startswith(f"column {name}: ")]
    assert pd.Series(said).str.contains(reason).all()
    # It is used where it is asked for by name.
    assert listed(sheet_of(tmp_path, f"thick*,{name}", **{name: TELLING[name]})) == {
        "thickness",
        name,
    }


def test_rounded_measures_of_sites_far_apart_are_features(tmp_path):
    shift = BY_SITE.map({"a": 0.0, "b": 10.0, "c": -10.0}).to_numpy()
    rounded = (2 * (shift + np.random.default_rng(0).normal(0, 1.2, N))).round() / 2
    assert 15 < len(set(rounded)) <= N / 2
    assert listed(sheet_of(tmp_path, volume=rounded)) == {"thickness", "volume"}


DOUBTFUL = {
    "DX_GROUP": (rng.integers(1, 3, N), "few distinct values"),
    "lesions": (rng.integers(0, 5, N), "few distinct values"),
    "educationYears": (rng.integers(6, 22, N), "do not have names of"),
    "exam_date": (rng.integers(20100101, 20191231, N), "do not have names of"),
    "RID": (rng.integers(1000, 9999, N), "do not have names of"),
    "AgeAtVisit": (rng.uniform(20, 90, N), "do not have names of"),
    "empty": (np.ones(N), "one value in all rows"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_columns_that_may_be_no_measure_of_a_brain_are_used_with_a_warning(tmp_path, name):
    values, why = DOUBTFUL[name]
    sheet = sheet_of(tmp_path, **{name: values})
    assert listed(sheet) == {"thickness", name}
    assert any(why in note and name in note for note in sheet.notes)
    plain = sheet_of(tmp_path)
    assert not any("used as features" in note for note in plain.notes)


def test_features_that_follow_age_or_each_other_are_noted(tmp_path):
    ages = frame()["age"]
    sheet = sheet_of(tmp_path, months=ages * 12 + 0.01, copied=frame()["thickness"])
    said = " ".join(sheet.notes)
    assert "follow age: months" in said and "equal to each other: thickness and copied" in said


def test_columns_that_are_mostly_text_say_how_many_numbers_they_hold(tmp_path):
    mixed = ["3.1", "failed", "failed", "2.9"] * (N // 4 - 1) + ["failed"] * 4
    sheet = sheet_of(tmp_path, ratio=mixed)
    said = "column ratio: text, such as 'failed'; 34 of 72 values are numbers"
    assert said in sheet.set_aside


def test_codes_of_missing_values_among_features_are_noted(tmp_path):
    sheet = sheet_of(tmp_path, volume=np.r_[[-99.0, -99.0], VALUES[2:]])
    assert any("as codes of missing values are: volume (-99)" in note for note in sheet.notes)


def test_all_that_is_no_feature_is_listed_with_the_reason(tmp_path):
    sheet = sheet_of(tmp_path, note=["fine", *["n/a"] * (N - 1)], nothing=np.nan, slice=3)
    assert listed(sheet) == {"thickness"}
    assert sheet.set_aside == [
        "column slice: a table of features has no slices",
        "column note: text, such as 'fine'",
        "column nothing: empty",
    ]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("", "lh_a lh_b rh_a ICV"),
        ("lh_*", "lh_a lh_b"),
        ("lh_*, rh_?", "lh_a lh_b rh_a"),
        ("!ICV", "lh_a lh_b rh_a"),
        ("*_a,!rh_*", "lh_a"),
    ],
)
def test_patterns_choose_columns(patterns, expected):
    chosen, named = select(["lh_a", "lh_b", "rh_a", "ICV"], patterns)
    assert chosen == expected.split() and named == (patterns not in ("", "!ICV"))


@pytest.mark.parametrize("patterns", ["LH_*", "!icv", "lh_*,x"])
def test_a_pattern_that_fits_nothing_is_refused(patterns):
    with pytest.raises(HarmbenchError, match="fits no column; the columns are lh_a, lh_b"):
        select(["lh_a", "lh_b"], patterns)


def test_patterns_reach_the_data_set_from_the_command_line(tmp_path):
    frame(visit=rng.integers(1, 4, N)).to_csv(tmp_path / "t.csv", index=False)
    shown = CliRunner().invoke(
        app, ["check", str(tmp_path / "t.csv"), "--features", "!visit", "--quiet"]
    )
    assert shown.exit_code == 0, shown.output
    assert "1 features: thickness" in shown.output
    assert "column visit: excluded by --features" in shown.output
    prints = {TableDataset(tmp_path / "t.csv", features=f).fingerprint for f in ("", "!visit")}
    assert len(prints) == 2


def test_text_asked_for_by_name_is_a_problem(tmp_path):
    (problem,) = sheet_of(tmp_path, "thickness,note", note="x").problems
    assert "column 'note', named by --features: text, such as 'x'" in str(problem)


def test_many_faulty_or_missing_values_are_one_problem(tmp_path):
    holes = [np.nan] * 9 + [1.5] * (N - 9)
    errors = ["#DIV/0!"] * 9 + list(map(str, rng.normal(size=N - 9)))
    sheet = sheet_of(tmp_path, VIQ=holes, PIQ=holes, ratio=errors)
    texts = [str(problem) for problem in sheet.problems]
    assert len(texts) == 2
    assert "feature 'ratio': '#DIV/0!'" in texts[0] and "8 more values" in texts[0]
    assert "'VIQ' (9 of 72), 'PIQ' (9 of 72)" in texts[1]
    assert "--features '!VIQ,!PIQ'" in texts[1]
    assert not sheet_of(tmp_path, "!VIQ,!PIQ,!ratio", VIQ=holes, PIQ=holes, ratio=errors).problems


def test_a_row_without_features_is_one_problem_and_can_be_left_out(tmp_path):
    table = frame(**{f"area{k}": rng.normal(size=N) for k in range(20)})
    table.loc[5, [c for c in table if c.startswith("area")]] = np.nan
    table.to_csv(tmp_path / "t.csv", index=False)
    (problem,) = make_sheet(TableDataset(tmp_path / "t.csv")).problems
    assert "line 7, p5: feature 'area0' is missing, 'area1' is missing" in str(problem)
    assert "17 more" in str(problem)
    dataset = TableDataset(tmp_path / "t.csv", skip_bad=True)
    cohort = dataset.load()
    assert len(cohort) == N - 1 and "p5" not in set(cohort.column("participant_id"))
    assert any("line 7, p5" in note.text for note in dataset.notes if note.kind == "set_aside")
    np.testing.assert_allclose(cohort.images.mean(0), 0, atol=1e-6)


def test_a_german_table_is_the_same_as_an_english_one(tmp_path):
    english = TableDataset(tmp_path / "t.csv")
    frame(volume=VALUES).to_csv(tmp_path / "t.csv", index=False)
    expected = english.load().images
    table = frame(volume=[german(v) for v in VALUES])
    for name in ("age", "thickness"):
        table[name] = table[name].map(lambda value: str(value).replace(".", ","))
    content = "sep=;\r\n" + table.to_csv(index=False, sep=";", lineterminator="\r\n")
    (tmp_path / "g.csv").write_bytes(content.encode("utf-16"))
    sheet = make_sheet(TableDataset(tmp_path / "g.csv"))
    assert not sheet.problems and "decimal commas in thickness" in sheet.read
    np.testing.assert_array_equal(TableDataset(tmp_path / "g.csv").load().images, expected)
