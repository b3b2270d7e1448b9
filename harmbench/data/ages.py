"""Ages in years from the text of a column, in any unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmbench.data.numbers import read_numbers
from harmbench.errors import HarmbenchError

PER_YEAR = {"years": 1.0, "months": 12.0, "weeks": 365.25 / 7, "days": 365.25}
"""Number of units in a year."""
OLDEST = 120.0
"""Highest plausible age in years."""
UNIT_OF_WORD = {
    word: unit
    for unit, words in {
        "years": "years year yrs yr y",
        "months": "months month mos mo m",
        "weeks": "weeks week wks wk w",
        "days": "days day d",
    }.items()
    for word in words.split()
}
IN_MONTHS = "interview_age"
"""Age column of the NIMH Data Archive (ABCD and others), which is defined in months."""
WITH_UNIT = re.compile(r"P?(\d+(?:[.,]\d+)?)\s*([a-z]+)\.?", re.IGNORECASE)
"""``18 months``, ``018M`` (DICOM) and ``P18M`` (ISO 8601)."""
RANGE = r"\d+\s*(-|\u2013|to)\s*\d+"


class Ages(NamedTuple):
    """Ages of a column in years, and how they were read."""

    values: pd.Series  # NaN if missing or faulty
    faults: dict[int, str]  # description of each faulty value, by row label
    column_fault: str = ""  # description of a column whose values are not ages
    how: str = ""  # such as "read as months (its name), 1.5 to 20 years"
    doubt: str = ""  # description of suspicious ages that are used


def unit_of(
    column: str, described: Sequence[Mapping[str, Any]] = (), given: str = ""
) -> tuple[str, str]:
    """Return the unit of a column, and its source (``""`` for the default, years).

    Parameters
    ----------
    column : str
        Name of the column, such as ``age_months``.
    described : sequence of mapping
        Descriptions of the column in JSON files; ``Units`` or ``Description`` may name the unit.
    given : str
        Unit given by the user, or ``""``.

    Raises
    ------
    HarmbenchError
        If `given` is not a unit, or the JSON files and the column's name contradict each other.
    """
    if given:
        if given not in PER_YEAR:
            raise HarmbenchError(f"--age-unit '{given}' must be one of {', '.join(PER_YEAR)}")
        return given, "--age-unit"
    sources = {_unit_in_name(column): "its name"}
    sources |= {_unit_in_description(text): "its description in JSON" for text in described}
    sources.pop("", None)
    if len(sources) > 1:
        contradiction = " and ".join(f"{source} says {unit}" for unit, source in sources.items())
        flags = " or ".join(f"--age-unit {unit}" for unit in sources)
        raise HarmbenchError(f"the unit of column '{column}': {contradiction}; choose by {flags}")
    return next(iter(sources.items()), ("years", ""))


def _unit_in_description(described: Mapping[str, Any]) -> str:
    words = re.findall("[a-z]+", str(described.get("Units", "")).casefold())
    units = {UNIT_OF_WORD[word] for word in words if word in UNIT_OF_WORD}
    if not units:
        text = str(described.get("Description", "")).casefold()
        units = set(re.findall(r"\bin (?:\w+ )?(years|months|weeks|days)\b", text))
    return units.pop() if len(units) == 1 else ""


def _unit_in_name(column: str) -> str:
    """Return the unit in a name such as ``age_months`` or ``AgeMo``.

    Single letters are ambiguous, and a unit before a number, as in ``age_month_6``, is the name
    of a visit.
    """
    if column.casefold() == IN_MONTHS:
        return "months"
    tokens = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", column)
    units = {
        UNIT_OF_WORD[token.casefold()]
        for token, after in zip(tokens, [*tokens, ""][1:], strict=True)
        if len(token) > 1 and token.casefold() in UNIT_OF_WORD and not after.isdigit()
    }
    return units.pop() if len(units) == 1 else ""


def read_ages(text: pd.Series, unit: str = "years", source: str = "") -> Ages:
    """Return ages in years from text; ``"89+"`` is 89, ``"18 months"`` 1.5, missing is NaN.

    `unit` and `source` are those of `unit_of`.
    """
    raw = text.map(lambda cell: str(cell).removesuffix("+").lstrip(">≥= ").strip(), "ignore")
    with_unit: dict[Any, float] = {}
    for row, cell in raw.dropna().items():
        found = WITH_UNIT.fullmatch(str(cell))
        if found and found[2].casefold() in UNIT_OF_WORD:
            per_year = PER_YEAR[UNIT_OF_WORD[found[2].casefold()]]
            with_unit[row] = float(found[1].replace(",", ".")) / per_year
    numbers = read_numbers(raw.astype(object).mask(raw.index.isin(with_unit)))
    in_units = numbers.values
    years = in_units / PER_YEAR[unit]
    for row, age in with_unit.items():
        years[row] = age
    bad = (text.notna() & years.isna()) | (years < 0) | (years > OLDEST)
    values = years.mask(bad)
    column_fault = _column_fault(text, in_units, unit, bad)
    if column_fault:
        return Ages(pd.Series(np.nan, text.index, dtype=float), {}, column_fault)
    faults = {row: _fault(str(text[row]), unit) for row in text.index[bad]}
    how = [f"read as {unit}" + (f" ({source})" if source else "")]
    how += [numbers.how] if numbers.how else []
    how += [f"{len(with_unit)} with a unit of their own"] if with_unit else []
    if values.notna().any():
        how.append(f"{values.min():.3g} to {values.max():.3g} years")
    return Ages(values, faults, how=", ".join(how), doubt=_doubt(values))


def _doubt(ages: pd.Series) -> str:
    """Report ages of 0 or 99 far from all other ages; these are often codes of missing ages."""
    others = ages[~ages.isin([0, 99])].dropna()
    found = [
        f"{code} for {count} scans"
        for code, apart in ((0, others.min() > 5), (99, others.max() < 90))
        if apart and (count := int((ages == code).sum()))
    ]
    if not found:
        return ""
    return f"age is {' and '.join(found)}; if that means a missing age, write n/a"


def _fault(cell: str, unit: str) -> str:
    if re.fullmatch(r"\d+,\d+", cell):
        hint = "; write a decimal point"
    elif re.fullmatch(RANGE, cell):
        hint = "; write the middle of the range"
    else:
        hint = ""
    most = OLDEST * PER_YEAR[unit]
    return (
        f"age '{cell}' is not a number of {unit} from 0 to {most:,.0f}{hint}; "
        "write n/a if it is missing"
    )


def _column_fault(text: pd.Series, in_units: pd.Series, unit: str, bad: pd.Series) -> str:
    """Describe a column of which many values are not ages, and say what they may be."""
    given = int(text.notna().sum())
    above = in_units[in_units > OLDEST * PER_YEAR[unit]]
    by_name = "name the column of the ages by --age-column"
    if above.nunique() > 1 and 10 * len(above) >= given:
        low, high = in_units.min(), in_units.max()
        span = f"{low:g} to {high:g}"
        if above.between(1900, 2100).all() and (above % 1 == 0).all():
            return f"it holds {span}, which look like years of birth; {by_name}"
        # Ages in weeks are those of infants, below 120 in most studies.
        like = [name for name in ("months", "days") if above.max() <= OLDEST * PER_YEAR[name]]
        if not like:
            return f"it holds {span}, which are not ages in any unit; {by_name}"
        per_year = PER_YEAR[like[0]]
        return (
            f"it holds {span}, which cannot be {unit} but look like {like[0]} "
            f"({low / per_year:.2g} to {high / per_year:.2g} years); give the unit by "
            f"--age-unit {like[0]} (or "
            f"{', '.join(name for name in PER_YEAR if name not in (like[0], unit))})"
        )
    if given > 2 and 2 * bad.sum() > given:
        shown = ", ".join(f"'{cell}'" for cell in text[bad].drop_duplicates()[:3])
        ranges = text[bad].str.fullmatch(RANGE).all()
        hint = "write the middle of each range" if ranges else by_name
        return f'it holds {shown}, which are not ages; {hint}, or leave age out by --age-column ""'
    return ""
