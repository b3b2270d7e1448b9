"""Ages in every unit and notation: what is read, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import make_data_sheet

from harmbench.config import build_dataset, resolve
from harmbench.data.ages import PER_YEAR, read_ages, unit_of
from harmbench.data.sheet import DataSheet
from harmbench.errors import HarmbenchError

N = 16
YEARS = np.linspace(18, 90, N).round(2)


def test_numbers_bounds_and_missing_ages():
    text = pd.Series(
        ["34.5", "89+", "≥ 89", "0", np.nan, "34,5", "-1", "1250", "inf", "3_4", "old"]
    )
    ages = read_ages(text.iloc[:9])
    np.testing.assert_array_equal(ages.values[:5], [34.5, 89, 89, 0, np.nan])
    assert sorted(ages.faults) == [5, 6, 7, 8] and ages.values[5:].isna().all()
    assert "write a decimal point" in ages.faults[5]
    assert sorted(read_ages(text[[0, 1, 2, 3, 9, 10]]).faults) == [9, 10]


@pytest.mark.parametrize(
    ("cell", "years"),
    [
        ("18 months", 1.5),
        ("018M", 1.5),
        ("P18M", 1.5),
        ("18mo.", 1.5),
        ("034Y", 34),
        ("P34Y", 34),
        ("34 years", 34),
        ("34 yrs", 34),
        ("52.25 weeks", 52.25 * 7 / 365.25),
        ("731 days", 731 / 365.25),
        ("1,5 y", 1.5),
    ],
)
def test_a_value_may_carry_its_own_unit(cell, years):
    ages = read_ages(pd.Series([cell, "20", "30"]))
    assert ages.values[0] == pytest.approx(years) and list(ages.values[1:]) == [20, 30]
    assert "1 with a unit of their own" in ages.how


def test_decimal_commas_where_all_ages_agree():
    ages = read_ages(pd.Series(["34,5", "40", "41,25", np.nan]))
    np.testing.assert_array_equal(ages.values, [34.5, 40, 41.25, np.nan])
    assert "decimal commas" in ages.how


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("age_months", "months"),
        ("age_mo", "months"),
        ("AgeMonths", "months"),
        ("AGE_MO", "months"),
        ("age (months)", "months"),
        ("AgeInMonths", "months"),
        ("interview_age", "months"),
        ("age_days", "days"),
        ("ageDays", "days"),
        ("gestational_age_weeks", "weeks"),
        ("age_wk", "weeks"),
        ("age_yrs", "years"),
        ("age", "years"),
        ("age_m", "years"),
        ("age_month_6", "years"),
        ("age_year1", "years"),
        ("age_at_scan", "years"),
    ],
)
def test_units_in_names_of_columns(column, unit):
    assert unit_of(column)[0] == unit


@pytest.mark.parametrize(
    ("said", "unit"),
    [
        ({"Units": "months"}, "months"),
        ({"Units": "Month"}, "months"),
        ({"Units": "yr"}, "years"),
        ({"Units": "years (rounded)"}, "years"),
        ({"Units": "weeks"}, "weeks"),
        ({"Units": "d"}, "days"),
        ({"Description": "age in months at the scan"}, "months"),
        ({"Units": "n/a"}, "years"),
        ({"Description": "age on the day of the scan"}, "years"),
        ({}, "years"),
        ({"Units": "weeks", "Description": "not in years"}, "weeks"),
    ],
)
def test_units_in_descriptions(said, unit):
    assert unit_of("age", [said])[0] == unit
    assert unit_of("age", [said], "days") == ("days", "--age-unit")


def test_units_that_contradict_or_are_none_are_refused():
    with pytest.raises(HarmbenchError, match=r"name says months and .* JSON says years"):
        unit_of("age_months", [{"Units": "years"}])
    assert unit_of("age_months", [{"Units": "years"}], "months")[0] == "months"
    with pytest.raises(HarmbenchError, match="'decades' must be one of years, months, weeks, days"):
        unit_of("age", (), "decades")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            [216, 500, 1080],
            r"216 to 1080, which cannot be years but look like months \(18 to 90 years",
        ),
        ([216, 500, 1080], r"--age-unit months \(or weeks, days\)"),
        (
            [6574, 15000, 32873],
            r"look like days \(18 to 90 years\); give the unit by --age-unit days",
        ),
        ([1934, 1980, 2006], "look like years of birth"),
        ([10**6, 2 * 10**6, 3 * 10**6], "not ages in any unit"),
        (["20-25", "30-35", "60-65"], "write the middle of each range"),
        (["1980-05-01", "1990-05-01", "1970-01-31"], "'1980-05-01', .* which are not ages"),
        (["adult", "child", "child"], "'adult', 'child', which are not ages"),
        ([107, 119, 121, 133], "look like months"),
    ],
)
def test_a_column_that_is_no_ages_is_one_sentence(cells, said):
    ages = read_ages(pd.Series(list(map(str, cells))))
    assert pd.Series(ages.column_fault).str.contains(said).all(), ages.column_fault
    assert not ages.faults and ages.values.isna().all()


def test_a_single_age_that_is_too_high_is_its_own_fault():
    ages = read_ages(pd.Series([*map(str, range(20, 80)), "999"]))
    assert list(ages.faults) == [60] and not ages.column_fault


def test_young_children_are_read_as_years_and_that_is_said():
    assert read_ages(pd.Series(["0.4", "24"])).how == "read as years, 0.4 to 24 years"


@pytest.mark.parametrize(
    ("ages", "said"),
    [
        ([0, 0, 20, 30, 40], "age is 0 for 2 scans"),
        ([20, 30, 40, 99], "age is 99 for 1 scans"),
        ([0, 20, 99, 40], "age is 0 for 1 scans and 99 for 1 scans"),
        ([0, 1, 2, 3], ""),
        ([70, 92, 95, 99], ""),
        ([20, 30, 40], ""),
        ([], ""),
    ],
)
def test_ages_that_may_be_codes_of_missing_ones_are_noted(ages, said):
    doubt = read_ages(pd.Series([str(age) for age in ages], dtype=object)).doubt
    assert doubt.startswith(said) and bool(doubt) == bool(said)


# ---- every kind of data


def sheet_of(kind: str, place: Path, ages: np.ndarray, column: str, **options: str) -> DataSheet:
    """Return the data sheet of data of a kind with these ages in a column of this name."""
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(N)],
            "site": list("ab") * (N // 2),
            column: ages,
            "sex": ["F", "M", "M", "F"] * (N // 4),
        }
    )
    place.mkdir()
    return make_data_sheet(kind, place, table, age_column=column, **options)


@pytest.mark.parametrize("kind", ["bids", "csv", "npz"])
def test_months_are_refused_in_one_sentence_and_read_by_a_flag_or_a_name(tmp_path, kind):
    months = (YEARS * 12).round()
    (problem,) = sheet_of(kind, tmp_path / "x", months, "age").problems
    assert "look like months (18 to 90 years)" in problem.sentence
    assert "--age-unit months" in problem.sentence
    for column, options in (("age", {"age_unit": "months"}), ("age_months", {})):
        sheet = sheet_of(kind, tmp_path / column, months, column, **options)
        assert not sheet.problems
        assert list(sheet.sites["Range"])[-1] == "18 to 90"
        (said,) = [line for line in sheet.read if line.startswith("age:")]
        assert len(said) < 100
        assert "read as months" in said and "18 to 90 years" in said


@pytest.mark.parametrize("unit", list(PER_YEAR))
def test_the_unit_is_part_of_the_fingerprint(tmp_path, unit):
    (tmp_path / "t.csv").write_text("participant_id,site,age,x\n")
    config = resolve(data=str(tmp_path / "t.csv"), data_options={"age_unit": unit})
    plain = resolve(data=str(tmp_path / "t.csv"))
    assert build_dataset(config).fingerprint != build_dataset(plain).fingerprint
