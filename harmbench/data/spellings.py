"""Different spellings of one thing: of sites, participants, sessions and sexes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from harmbench.data.table_files import MISSING, plain
from harmbench.errors import HarmbenchError

SEXES = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M"}
OTHER_SEXES = frozenset({"o", "other"})


def name_pattern(file: str) -> str:
    """Return the name of a BIDS file with ``*`` for participant and session."""
    return re.sub("(sub|ses)-[^_]+", r"\1-*", file)


def code_of(text: object) -> str:
    """Return a name in lower case; whole numbers become equal (1, 01 and 1.0)."""
    lower = str(text).strip().casefold()
    if not re.fullmatch(r"-?[0-9]+(\.0*)?", lower):
        return lower
    # `int` refuses more than 4,300 digits.
    digits = lower.partition(".")[0].removeprefix("-").lstrip("0")
    return ("-" if digits and lower.startswith("-") else "") + (digits or "0")


def one_spelling(names: pd.Series, kind: str, zeros: bool = True) -> tuple[pd.Series, list[str]]:
    """Give each thing one name: its most frequent spelling.

    Two names are equal if they differ only in their Unicode form, in the kind of spaces and dashes,
    in invisible characters, or as whole numbers (``1``, ``1.0`` and, with `zeros`, ``01``).

    Parameters
    ----------
    names : Series of str
        NaN if missing.
    kind : str
        What they name, such as ``"site"``.
    zeros : bool
        Whether to ignore leading zeros.

    Returns
    -------
    names : Series of str
    notes : list of str
        A sentence for each name that had several spellings.
    """
    counts = Counter(str(name) for name in names.dropna())
    groups: dict[str, list[str]] = {}
    for name, _ in sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0])):
        key = plain(name)
        if re.fullmatch(r"[0-9]+(\.0*)?", key):
            key = code_of(key) if zeros else key.partition(".")[0]
        groups.setdefault(key, []).append(name)
    kept = {name: plain(group[0]) for group in groups.values() for name in group}
    notes = [
        f"{kind}s {_listed(group)} are read as one {kind}, '{plain(group[0])}'"
        for group in groups.values()
        if len(group) > 1
    ]
    return names.map(kept, na_action="ignore").astype(object), notes


def fitted(given: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Match given names that are not wanted to the only wanted names that they fit.

    Two names fit if they differ only in leading zeros, case and punctuation, as ``sub-50772`` and
    ``sub-0050772`` or ``sub-002_S_0413`` and ``sub-002S0413``; each must fit only one other.
    """
    spare = _by_code(set(wanted) - set(given))
    unmatched = _by_code(set(given) - set(wanted))
    return {
        names[0]: spare[code][0]
        for code, names in unmatched.items()
        if len(names) == 1 and len(spare.get(code, [])) == 1
    }


def _by_code(names: Collection[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        bare = re.sub("^(sub|ses)-", "", plain(name))
        whole = code_of(bare)  # 12.0 is 12, not 120
        found.setdefault(code_of(re.sub(r"[\W_]+", "", whole)), []).append(name)
    return found


def require_names(people: pd.Series, where: str) -> None:
    """Refuse missing names, and names that a spreadsheet program has rounded (``1.23E+11``).

    Parameters
    ----------
    people : Series of str
        The index is the line of each name.
    where : str
        Word before the number of the line, such as ``"line"``.

    Raises
    ------
    HarmbenchError
        If a name is refused; it gives the first line.
    """
    if people.isna().any():
        raise HarmbenchError(f"{where} {people.isna().idxmax()} has no participant_id")
    rounded = people.astype(str).str.fullmatch(r"\d([.,]\d+)?E\+\d+")
    if rounded.any():
        line = rounded.idxmax()
        raise HarmbenchError(
            f"{where} {line}: the participant_id '{people[line]}' is a number "
            "that a spreadsheet program has rounded; format that column as text, and save it again"
        )


def identifiers(
    people: pd.Series, sessions: pd.Series, where: str
) -> tuple[pd.Series, pd.Series, list[str]]:
    """Give each participant and each session (``""`` if missing) one spelling, with notes.

    `people` and `sessions` are Series of str, NaN if missing; `where` and the errors are those of
    `require_names`.
    """
    require_names(people, where)
    people, notes = one_spelling(people, "participant", zeros=False)
    sessions, more = one_spelling(sessions, "session")
    notes += [
        f"participants {_listed(names)} differ in zeros, case, punctuation or 'sub-' only, but "
        "count as different participants"
        for names in _by_code(set(people)).values()
        if len(names) > 1
    ]
    return people, sessions.fillna(""), notes + more


def look_alikes(names: pd.Series, kind: str) -> list[str]:
    """Return a sentence for names that differ only in case, spaces or punctuation."""
    alike: dict[str, set[str]] = {}
    for name in set(names.dropna()):
        alike.setdefault(re.sub(r"[\W_]+", "", str(name).casefold()), set()).add(str(name))
    return [
        f"{kind}s {_listed(group)} differ in case, spaces or punctuation only, but count as "
        f"different {kind}s"
        for key, group in alike.items()
        if key and len(group) > 1
    ]


def _listed(names: Iterable[str]) -> str:
    """Join names in quotes; names with unusual characters are shown as escape sequences."""
    return " and ".join(
        f"'{name}'" if plain(name) == name else ascii(name) for name in sorted(names)
    )


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
