"""Different spellings of one name: of sites, participants and sessions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

import pandas as pd

from harmbench.data.table_files import plain
from harmbench.errors import HarmbenchError


class Identifiers(NamedTuple):
    """Names of participants and sessions (``""`` if there is none), and sentences about them."""

    people: pd.Series
    sessions: pd.Series
    notes: list[str]


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


def identifiers(people: pd.Series, sessions: pd.Series, where: str) -> Identifiers:
    """Give each participant and each session one spelling.

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
    return Identifiers(people, sessions.fillna(""), notes + more)


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
