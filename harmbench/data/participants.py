"""Read sexes, and codes of sexes, from the text of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from harmbench.data.spellings import code_of
from harmbench.data.table_files import MISSING
from harmbench.errors import HarmbenchError

SEXES = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M"}
OTHER_SEXES = frozenset({"o", "other"})


def read_sexes(
    text: pd.Series, codes: Mapping[str, str] | None = None
) -> tuple[pd.Series, dict[int, str]]:
    """Read the usual spellings of the sexes; "other" counts as missing.

    Without `codes` numbers are faults, because their meaning differs between data sets.

    Parameters
    ----------
    text : Series of str
    codes : mapping of str to str or None
        Meaning of codes such as ``"1"``: ``"F"``, ``"M"``, or ``""`` for another sex or none.

    Returns
    -------
    values : Series
        ``"F"``, ``"M"`` or NaN.
    faults : dict of int to str
        Description of each value that could not be read, by row label.
    """
    known = {**SEXES, **dict.fromkeys(OTHER_SEXES, ""), **(codes or {})}
    sexes = text.map(code_of, na_action="ignore").map(known)
    bad = text.notna() & sexes.isna()
    write = f"one of the codes {', '.join(codes)}, " if codes else ""
    faults = {
        row: f"sex '{text[row]}' is not known; write {write}F, M, or n/a if it is missing"
        for row in text.index[bad]
    }
    return sexes.mask(sexes == "").astype(object), faults


def parse_codes(text: str) -> dict[str, str]:
    """Return the meaning of sex codes from ``"1=M,2=F"``; ``{}`` from ``""``.

    Raises
    ------
    HarmbenchError
        If the text does not have that form, or defines only one sex.
    """
    codes = {}
    for part in filter(None, (one.strip() for one in re.split("[,;]", text))):
        code, equals, meaning = (piece.strip() for piece in part.partition("="))
        missing = meaning.casefold() in MISSING | OTHER_SEXES
        sex = SEXES.get(meaning.casefold(), "" if missing else None)
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


def codes_from_levels(levels: object) -> dict[str, str]:
    """Return the meaning of sex codes from the ``Levels`` of a column in participants.json.

    Descriptions are texts or objects with a ``Description``. A description that names no sex, such
    as "not stated", means a missing sex. The result is ``{}`` if not both sexes are named.
    """
    codes: dict[str, str] = {}
    for code, description in levels.items() if isinstance(levels, dict) else ():
        if isinstance(description, dict):
            description = description.get("Description", "")
        words = re.findall(r"\w+", str(description).casefold())
        named = {SEXES[word] for word in words if word in SEXES}
        codes[code_of(code)] = named.pop() if len(named) == 1 else ""
    return codes if {"F", "M"} <= set(codes.values()) else {}


def codes_from_name(column: str) -> str:
    """Return ``"1=M,2=F"`` for a column called ``SEX_ID (1=m, 2=f)``, ``""`` for any other."""
    pairs = re.findall(r"(\d+)\s*[=:]\s*(\w+)", column)
    known = [f"{code}={SEXES[word.casefold()]}" for code, word in pairs if word.casefold() in SEXES]
    return ",".join(known) if len(known) == 2 else ""
