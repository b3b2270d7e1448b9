"""Ages, sexes and sites from the text that a table holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from harmbench.data.table_files import MISSING, number
from harmbench.errors import HarmbenchError

SEXES = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M"}
OTHER_SEXES = frozenset({"o", "other"})
OLDEST = 120.0


class Parsed(NamedTuple):
    """Clean values, and what is wrong with those that could not be read, by row label."""

    values: pd.Series
    faults: dict[int, str]


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
    ages = text.map(number).astype(float)
    bad = (text.notna() & ages.isna()) | (ages < 0) | (ages > OLDEST) | np.isinf(ages)
    faults = {}
    for row in text.index[bad]:
        hint = "; write a decimal point" if re.fullmatch(r"\d+,\d+", str(text[row])) else ""
        faults[row] = (
            f"age '{text[row]}' is not a number of years from 0 to {OLDEST:g}{hint}; "
            "write n/a where it is missing"
        )
    return Parsed(ages.mask(bad), faults)


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
