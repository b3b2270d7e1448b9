"""Sexes and sites from the text that a table holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from harmbench.data.spellings import code_of
from harmbench.data.table_files import MISSING
from harmbench.errors import HarmbenchError

SEXES = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M"}
OTHER_SEXES = frozenset({"o", "other"})


class Parsed(NamedTuple):
    """Clean values, and what is wrong with those that could not be read, by row label."""

    values: pd.Series
    faults: dict[int, str]


def read_sexes(text: pd.Series, codes: Mapping[str, str] | None = None) -> Parsed:
    """Return ``"F"``, ``"M"`` or NaN from the usual spellings; "other" counts as missing.

    Numbers are faults without `codes`, since their meaning differs between data sets.

    Parameters
    ----------
    text : Series of str
    codes : mapping of str to str or None
        What codes such as ``"1"`` stand for: ``"F"``, ``"M"``, or ``""`` for another or none.
    """
    known = {**SEXES, **dict.fromkeys(OTHER_SEXES, ""), **(codes or {})}
    plain = text.map(code_of, na_action="ignore")
    sexes = plain.map(known)
    bad = text.notna() & sexes.isna()
    write = f"one of the codes {', '.join(codes)}, " if codes else ""
    faults = {
        row: f"sex '{text[row]}' is not known; write {write}F, M, or n/a where it is missing"
        for row in text.index[bad]
    }
    return Parsed(sexes.mask(sexes == "").astype(object), faults)


def is_code(text: object) -> bool:
    """Whether a sex is written as a number."""
    return re.fullmatch(r"-?[0-9]+", code_of(text)) is not None


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
        codes[code_of(code)] = sex
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
        codes[code_of(code)] = named.pop() if len(named) == 1 else ""
    return codes if {"F", "M"} <= set(codes.values()) else {}


def codes_from_name(column: str) -> str:
    """Return ``"1=M,2=F"`` from a column called ``SEX_ID (1=m, 2=f)``, ``""`` from any other."""
    pairs = re.findall(r"(\d+)\s*[=:]\s*(\w+)", column)
    known = [f"{code}={SEXES[word.casefold()]}" for code, word in pairs if word.casefold() in SEXES]
    return ",".join(known) if len(known) == 2 else ""


NO_SITE = (
    "the site is missing; every scan needs one (NA is a site's name only in a table where n/a, not "
    "NA, stands for what is missing)"
)


def single_site(sites: pd.Series) -> str:
    """Say that there is one site only; ``""`` where there are more."""
    names = sorted(set(sites))
    if len(names) > 1:
        return ""
    return (
        f"all scans come from one site ({', '.join(names) or 'none'}); harmonization needs two or "
        "more: check the site column"
    )
