"""The participants table of files, made clean: text first, then ages, sexes and sites."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from harmbench.errors import HarmbenchError
from harmbench.foreign import mebibytes

MISSING = frozenset(
    {"", "n/a", "na", "nan", "none", "null", "unknown", "n.a.", "-", "--", ".", "?"}
    | {sign + digits for sign in ("-999", "-9999") for digits in ("", ".0")}
)
SEXES = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M"}
OTHER_SEXES = frozenset({"o", "other"})
OLDEST = 120.0
MOST_BYTES = 2**30
MOST_COLUMNS = 2**17
"""Of any table, one of features included; each of its cells becomes a text of some 60 bytes."""


class Parsed(NamedTuple):
    """Clean values, and what is wrong with those that could not be read, by row label."""

    values: pd.Series
    faults: dict[int, str]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table as stripped text, missing values as NaN; the index is the line in the file.

    The columns are separated by tabs, commas or semicolons, whichever the first line holds; fields
    may be quoted; a byte-order mark and blank lines are passed over.

    Raises
    ------
    HarmbenchError
        Where it is no UTF-8 text, its lines differ in length, two columns have one name, or there
        are no rows.
    """
    text = _decoded(path)
    first = text.lstrip("\n").split("\n", 1)[0]
    separator = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
    (_, header), *lines = _lines(path.name, text, separator)
    names = [name or f"unnamed_{place}" for place, name in enumerate(header, 1)]
    if len(names) > MOST_COLUMNS:
        raise HarmbenchError(
            f"{path.name} has {len(names):,} columns; at most {MOST_COLUMNS:,} are read"
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise HarmbenchError(
            f"{path.name} has two columns called {', '.join(twice)}; each needs a name of its own"
        )
    if not lines:
        raise HarmbenchError(f"{path.name} has no rows below its header")
    return pd.DataFrame(
        [[np.nan if field.lower() in MISSING else field for field in row] for _, row in lines],
        index=[line for line, _ in lines],
        columns=names,
        dtype=object,
    )


def _lines(name: str, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the stripped fields of every line that is not blank, and its number in the file.

    Raises
    ------
    HarmbenchError
        For a line with more or fewer fields than the first, whose values may stand in the wrong
        columns, and for a quote that is not closed.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields):
                lines.append((reader.line_num, fields))
    except csv.Error as error:
        raise HarmbenchError(
            f"{name}, line {reader.line_num} is not a line of a table ({error}); mend its quotes"
        ) from error
    if not lines:
        raise HarmbenchError(f"{name} is empty; it must have a header and a row for each scan")
    width = len(lines[0][1])
    for line, fields in lines[1:]:
        while len(fields) > width and not fields[-1]:
            fields.pop()
        if len(fields) != width:
            raise HarmbenchError(
                f"{name}, line {line} has {len(fields)} fields, the header {width}; mend the line, "
                f"or put quotes around what holds a {_NAMES[separator]}"
            )
    return lines


_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon"}


def _decoded(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise HarmbenchError(f"{path.name} takes {mebibytes(size)}; no table is so large")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise HarmbenchError(f"{path.name} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise HarmbenchError(
            f"{path.name} is not UTF-8 text ({error}); save it again as UTF-8"
        ) from error
    if "\0" in text:
        raise HarmbenchError(f"{path.name} is not UTF-8 text (it holds zero bytes); save it again")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise HarmbenchError(f"{path.name} is empty")
    return text


def second_header(table: pd.DataFrame) -> str:
    """Say why the first row looks like a second header; ``""`` where it does not.

    It does where a cell repeats its column's name, or is text in a column of numbers.
    """
    first = table.iloc[0]
    for name, cell in first.items():
        if isinstance(cell, str) and cell.casefold() == str(name).casefold():
            return f"it repeats the column name '{cell}'"
    for name, cell in first.items():
        if isinstance(cell, str) and np.isnan(_number(cell)):
            rest = [other for other in table[name].tolist()[1:] if isinstance(other, str)]
            if rest and not any(np.isnan(_number(other)) for other in rest):
                return f"'{cell}' stands in the column of numbers '{name}'"
    return ""


def parse_ages(text: pd.Series, where: pd.Series) -> pd.Series:
    """Return ages in years from text; ``"89+"`` is 89, missing is NaN.

    Parameters
    ----------
    text, where : Series of str
        What was written, and which row that is (for the errors).

    Raises
    ------
    HarmbenchError
        For text that is no number and for ages outside 0 to 120.
    """
    return _or_raise(read_ages(text), where)


def read_ages(text: pd.Series) -> Parsed:
    """Return ages in years as `parse_ages` does, and the faults of rows instead of an error."""
    ages = text.map(_number).astype(float)
    bad = (text.notna() & ages.isna()) | (ages < 0) | (ages > OLDEST) | np.isinf(ages)
    faults = {}
    for row in text.index[bad]:
        hint = "; write a decimal point" if re.fullmatch(r"\d+,\d+", str(text[row])) else ""
        faults[row] = (
            f"age '{text[row]}' is not a number of years from 0 to {OLDEST:g}{hint}; "
            "write n/a where it is missing"
        )
    return Parsed(ages.mask(bad), faults)


def _number(text: object) -> float:
    """Return the nearest float, NaN for no number (`pandas.to_numeric` is off in the last bit)."""
    plain = str(text).removesuffix("+").removeprefix(">").strip()
    if "_" in plain:  # Python reads 3_4 as 34
        return np.nan
    try:
        return float(plain)
    except ValueError:
        return np.nan


def parse_sexes(text: pd.Series, where: pd.Series) -> pd.Series:
    """Return ``"F"``, ``"M"`` or NaN from the usual spellings; "other" counts as missing.

    Raises
    ------
    HarmbenchError
        For anything else, numbers included, whose meaning differs between data sets.
    """
    return _or_raise(read_sexes(text), where)


def read_sexes(text: pd.Series, codes: Mapping[str, str] | None = None) -> Parsed:
    """Return sexes as `parse_sexes` does, and the faults of rows instead of an error.

    Parameters
    ----------
    text : Series of str
    codes : mapping of str to str or None
        What codes such as ``"1"`` stand for: ``"F"``, ``"M"``, or ``""`` for another or none.
    """
    known = {**SEXES, **dict.fromkeys(OTHER_SEXES, ""), **(codes or {})}
    plain = text.map(_plain_code, na_action="ignore")
    sexes = plain.map(known)
    bad = text.notna() & sexes.isna()
    write = f"one of the codes {', '.join(codes)}, " if codes else ""
    faults = {
        row: f"sex '{text[row]}' is not known; write {write}F, M, or n/a where it is missing"
        for row in text.index[bad]
    }
    return Parsed(sexes.mask(sexes == "").astype(object), faults)


def _plain_code(text: object) -> str:
    """Return lower case, and whole numbers alike however they are written (1, 01, 1.0)."""
    lower = str(text).strip().casefold()
    if not re.fullmatch(r"-?[0-9]+(\.0*)?", lower):
        return lower
    # Not by way of `int`, which refuses more than 4,300 digits.
    digits = lower.partition(".")[0].removeprefix("-").lstrip("0")
    return ("-" if digits and lower.startswith("-") else "") + (digits or "0")


def is_code(text: object) -> bool:
    """Whether a sex is written as a number."""
    return re.fullmatch(r"-?[0-9]+", _plain_code(text)) is not None


def parse_codes(text: str) -> dict[str, str]:
    """Return the meaning of sex codes from ``"1=M,2=F"``; ``{}`` from ``""``.

    Raises
    ------
    HarmbenchError
        Where it is not of that form, or knows one sex only.
    """
    codes = {}
    for part in filter(None, (one.strip() for one in re.split("[,;]", text))):
        code, equals, meaning = (piece.strip() for piece in part.partition("="))
        sex = SEXES.get(meaning.casefold(), "" if meaning.casefold() in _NO_SEX else None)
        if not equals or not code or sex is None:
            raise HarmbenchError(
                f"--sex-codes '{text}': '{part}' is not CODE=M or CODE=F; write such as \"1=M,2=F\""
            )
        codes[_plain_code(code)] = sex
    if codes and {"F", "M"} - set(codes.values()):
        raise HarmbenchError(
            f"--sex-codes '{text}' must give a code for M and one for F, such as \"1=M,2=F\""
        )
    return codes


_NO_SEX = MISSING | OTHER_SEXES


def codes_from_levels(levels: object) -> dict[str, str]:
    """Return the meaning of sex codes from the ``Levels`` of a column in participants.json.

    Descriptions may be texts or objects with a ``Description``; those that name no sex, such as
    "not stated", stand for a missing one. ``{}`` where not both sexes are named.
    """
    codes: dict[str, str] = {}
    for code, said in levels.items() if isinstance(levels, dict) else ():
        words = said.get("Description", "") if isinstance(said, dict) else said
        named = {SEXES[w] for w in re.findall(r"\w+", str(words).casefold()) if w in SEXES}
        codes[_plain_code(code)] = named.pop() if len(named) == 1 else ""
    return codes if {"F", "M"} <= set(codes.values()) else {}


def codes_from_name(column: str) -> str:
    """Return ``"1=M,2=F"`` from a column called ``SEX_ID (1=m, 2=f)``, ``""`` from any other."""
    pairs = re.findall(r"(\d+)\s*[=:]\s*(\w+)", column)
    known = [f"{code}={SEXES[word.casefold()]}" for code, word in pairs if word.casefold() in SEXES]
    return ",".join(known) if len(known) == 2 else ""


def _or_raise(parsed: Parsed, where: pd.Series) -> pd.Series:
    for row, sentence in parsed.faults.items():
        raise HarmbenchError(f"{where[row]}: {sentence}")
    return parsed.values


def require_sites(sites: pd.Series, where: pd.Series) -> None:
    """Refuse missing sites and a single site.

    Raises
    ------
    HarmbenchError
        Naming the row or the site.
    """
    if sites.isna().any():
        row = sites.isna().idxmax()
        raise HarmbenchError(f"{where[row]}: {NO_SITE}")
    sentence = single_site(sites)
    if sentence:
        raise HarmbenchError(sentence)


NO_SITE = "the site is missing; every scan needs one"


def single_site(sites: pd.Series) -> str:
    """Say that there is one site only; ``""`` where there are more."""
    names = sorted(set(sites))
    if len(names) > 1:
        return ""
    return (
        f"all scans come from one site ({', '.join(names) or 'none'}); harmonization needs two or "
        "more: check the site column"
    )
