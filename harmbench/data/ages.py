"""Ages in years from the text of a column, in whatever unit it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmbench.data.numbers import read_numbers
from harmbench.errors import HarmbenchError

PER_YEAR = {"years": 1.0, "months": 12.0, "weeks": 365.25 / 7, "days": 365.25}
"""How many of each unit make a year."""
OLDEST = 120.0
"""Years."""
WORDS = {
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
"""The age of the NIMH Data Archive (ABCD and others), by its definition in months."""
WITH_UNIT = re.compile(r"P?(\d+(?:[.,]\d+)?)\s*([a-z]+)\.?", re.IGNORECASE)
"""``18 months``, ``018M`` (DICOM) and ``P18M`` (ISO 8601)."""


JSON = "its description in JSON"


class Unit(NamedTuple):
    """The unit of a column of ages, and what says so (``""`` where nothing does)."""

    name: str
    source: str


YEARS = Unit("years", "")


class Ages(NamedTuple):
    """Ages of a column.

    Attributes
    ----------
    values : Series of float
        Years; NaN where missing or faulty.
    faults : dict of int to str
        What is wrong with a value, by row label.
    column_fault : str
        What is wrong with the column as a whole, instead of with each value; ``""`` for nothing.
    how : str
        How the numbers were read, such as ``"read as months (its name), 1.5 to 20 years"``.
    doubt : str
        What is odd about ages that are used; mostly ``""``.
    """

    values: pd.Series
    faults: dict[int, str]
    column_fault: str = ""
    how: str = ""
    doubt: str = ""


def unit_of(column: str, described: Sequence[Mapping[str, Any]] = (), given: str = "") -> Unit:
    """Return the unit of a column: as the user gives it, or as the data say, or years.

    Parameters
    ----------
    column : str
    described : sequence
        What JSON files say of the column: ``Units`` (or else ``Description``) may name the unit.
    given : str
        By the user; ``""`` for nothing.

    Raises
    ------
    HarmbenchError
        Where `given` is no unit, or JSON files and the column's name contradict.
    """
    if given:
        if given not in PER_YEAR:
            raise HarmbenchError(f"--age-unit '{given}' must be one of {', '.join(PER_YEAR)}")
        return Unit(given, "--age-unit")
    sources = {_named(column): "its name"}
    sources |= {_stated(said): JSON for said in described}
    sources.pop("", None)
    if len(sources) > 1:
        said = " and ".join(f"{source} says {unit}" for unit, source in sources.items())
        flags = " or ".join(f"--age-unit {unit}" for unit in sources)
        raise HarmbenchError(f"the unit of column '{column}': {said}; say which by {flags}")
    return next((Unit(unit, source) for unit, source in sources.items()), YEARS)


def _stated(described: Mapping[str, Any]) -> str:
    words = re.findall("[a-z]+", str(described.get("Units", "")).casefold())
    units = {WORDS[word] for word in words if word in WORDS}
    if not units:
        text = str(described.get("Description", "")).casefold()
        units = set(re.findall(r"\bin (?:\w+ )?(years|months|weeks|days)\b", text))
    return units.pop() if len(units) == 1 else ""


def _named(column: str) -> str:
    """Return the unit in a name such as ``age_months`` or ``AgeMo``.

    Single letters may stand for anything, and a unit before a number, as in ``age_month_6``, is
    the name of a visit.
    """
    if column.casefold() == IN_MONTHS:
        return "months"
    tokens = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", column)
    units = {
        WORDS[token.casefold()]
        for token, after in zip(tokens, [*tokens, ""][1:], strict=True)
        if len(token) > 1 and token.casefold() in WORDS and not after.isdigit()
    }
    return units.pop() if len(units) == 1 else ""


def read_ages(text: pd.Series, unit: Unit = YEARS) -> Ages:
    """Return ages in years from text; ``"89+"`` is 89, ``"18 months"`` 1.5, missing is NaN."""
    raw = text.map(lambda cell: str(cell).removesuffix("+").lstrip(">≥= ").strip(), "ignore")
    own = {row: found for row, cell in raw.dropna().items() if (found := _own_unit(str(cell)))}
    bare = raw.astype(object).mask(raw.index.isin(own))
    numbers = read_numbers(bare)
    in_units = numbers.values
    years = in_units / PER_YEAR[unit.name]
    for row, found in own.items():
        years[row] = found
    bad = (text.notna() & years.isna()) | (years < 0) | (years > OLDEST)
    values = years.mask(bad)
    column_fault = _column_fault(text, in_units, unit, bad)
    if column_fault:
        return Ages(pd.Series(np.nan, text.index, dtype=float), {}, column_fault)
    faults = {row: _fault(str(text[row]), unit) for row in text.index[bad]}
    how = [f"read as {unit.name}" + (f" ({unit.source})" if unit.source else "")]
    how += [numbers.how] if numbers.how else []
    how += [f"{len(own)} with a unit of their own"] if own else []
    if values.notna().any():
        how.append(f"{values.min():.3g} to {values.max():.3g} years")
    return Ages(values, faults, how=", ".join(how), doubt=_doubt(values))


def _own_unit(cell: str) -> float | None:
    found = WITH_UNIT.fullmatch(cell)
    if found is None or found[2].casefold() not in WORDS:
        return None
    return float(found[1].replace(",", ".")) / PER_YEAR[WORDS[found[2].casefold()]]


def _doubt(ages: pd.Series) -> str:
    """Say where 0 or 99 stands apart from all other ages, as codes of missing ages do."""
    others = ages[~ages.isin([0, 99])].dropna()
    found = [
        f"{code} for {count} scans"
        for code, apart in ((0, others.min() > 5), (99, others.max() < 90))
        if apart and (count := int((ages == code).sum()))
    ]
    if not found:
        return ""
    return f"age is {' and '.join(found)}; where that stands for a missing age, write n/a"


def _fault(cell: str, unit: Unit) -> str:
    if re.fullmatch(r"\d+,\d+", cell):
        hint = "; write a decimal point"
    elif re.fullmatch(r"\d+\s*(-|\u2013|to)\s*\d+", cell):
        hint = "; of a range, write its middle"
    else:
        hint = ""
    most = OLDEST * PER_YEAR[unit.name]
    return (
        f"age '{cell}' is not a number of {unit.name} from 0 to {most:,.0f}{hint}; "
        "write n/a where it is missing"
    )


def _column_fault(text: pd.Series, in_units: pd.Series, unit: Unit, bad: pd.Series) -> str:
    """Say what a column is instead of ages, where many of its values are no ages at all."""
    given = int(text.notna().sum())
    above = in_units[in_units > OLDEST * PER_YEAR[unit.name]]
    by_name = "name the column of the ages by --age-column"
    if above.nunique() > 1 and 10 * len(above) >= given:
        span = f"{in_units.min():g} to {in_units.max():g}"
        if above.between(1900, 2100).all() and (above % 1 == 0).all():
            return f"it holds {span}, which look like years of birth; {by_name}"
        # Ages in weeks are those of infants, below 120 in most studies.
        like = [name for name in ("months", "days") if above.max() <= OLDEST * PER_YEAR[name]]
        if not like:
            return f"it holds {span}, which are no ages in any unit; {by_name}"
        return (
            f"it holds {span}, which cannot be {unit.name} but look like {like[0]} "
            f"({_span(in_units, like[0])}); say the unit by --age-unit {like[0]} (or "
            f"{', '.join(name for name in PER_YEAR if name not in (like[0], unit.name))})"
        )
    if given > 2 and 2 * bad.sum() > given:
        shown = ", ".join(f"'{cell}'" for cell in text[bad].drop_duplicates()[:3])
        ranges = text[bad].str.fullmatch(r"\d+\s*(-|\u2013|to)\s*\d+").all()
        hint = "write the middle of each range" if ranges else by_name
        return f'it holds {shown}, which are no ages; {hint}, or leave age out by --age-column ""'
    return ""


def _span(in_units: pd.Series, name: str) -> str:
    return f"{in_units.min() / PER_YEAR[name]:.2g} to {in_units.max() / PER_YEAR[name]:.2g} years"
