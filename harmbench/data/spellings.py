"""Names that are written in several ways and mean one thing: of sites, participants, sessions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

import pandas as pd

from harmbench.data.table_files import plain
from harmbench.errors import HarmbenchError


class Identifiers(NamedTuple):
    """Names of participants and sessions (``""`` for none), and what is to be said of them."""

    people: pd.Series
    sessions: pd.Series
    said: list[str]


def code_of(text: object) -> str:
    """Return a name in lower case, and whole numbers alike however written (1, 01, 1.0)."""
    lower = str(text).strip().casefold()
    if not re.fullmatch(r"-?[0-9]+(\.0*)?", lower):
        return lower
    # Not by way of `int`, which refuses more than 4,300 digits.
    digits = lower.partition(".")[0].removeprefix("-").lstrip("0")
    return ("-" if digits and lower.startswith("-") else "") + (digits or "0")


def one_spelling(names: pd.Series, kind: str, zeros: bool = True) -> tuple[pd.Series, list[str]]:
    """Return the names, each thing by one name, and a sentence for each that had several.

    Names are one where they differ in Unicode form, in the kind of spaces and dashes, in invisible
    signs, or as whole numbers (``1``, ``1.0`` and, with `zeros`, ``01``). The most frequent
    spelling is kept.

    Parameters
    ----------
    names : Series of str
        NaN where missing.
    kind : str
        What they name, such as ``"site"``.
    zeros : bool
        Whether leading zeros are no difference.
    """
    counts = Counter(str(name) for name in names.dropna())
    groups: dict[str, list[str]] = {}
    for name, _ in sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0])):
        groups.setdefault(_key(plain(name), zeros), []).append(name)
    kept = {name: plain(group[0]) for group in groups.values() for name in group}
    said = [
        f"{kind}s {_listed(group)} are read as one {kind}, '{plain(group[0])}'"
        for group in groups.values()
        if len(group) > 1
    ]
    return names.map(kept, na_action="ignore").astype(object), said


def fitted(given: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Return for given names that are not wanted the only wanted ones that they fit.

    Names fit where they differ in leading zeros, case and punctuation only, as ``sub-50772`` and
    ``sub-0050772`` or ``sub-002_S_0413`` and ``sub-002S0413``; each must fit one other only.
    """
    spare = _by_code(set(wanted) - set(given))
    loose = _by_code(set(given) - set(wanted))
    return {
        names[0]: spare[code][0]
        for code, names in loose.items()
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
    """Refuse missing names, and those that a spreadsheet program has rounded (``1.23E+11``).

    Parameters
    ----------
    people : Series of str
        The index says which line it is.
    where : str
        What comes before its number, such as ``"line"``.

    Raises
    ------
    HarmbenchError
        Naming the first line.
    """
    if people.isna().any():
        raise HarmbenchError(f"{where} {people.isna().idxmax()} has no participant_id")
    lost = people.astype(str).str.fullmatch(r"\d([.,]\d+)?E\+\d+")
    if lost.any():
        raise HarmbenchError(
            f"{where} {lost.idxmax()}: the participant_id '{people[lost.idxmax()]}' is a number "
            "that a spreadsheet program has rounded; format that column as text, and save it again"
        )


def identifiers(people: pd.Series, sessions: pd.Series, where: str) -> Identifiers:
    """Return the names of participants and sessions, each by one spelling.

    Parameters
    ----------
    people, sessions : Series of str
        NaN where missing.
    where : str
        As of `require_names`.

    Raises
    ------
    HarmbenchError
        By `require_names`.
    """
    require_names(people, where)
    people, said = one_spelling(people, "participant", zeros=False)
    sessions, more = one_spelling(sessions, "session")
    alike = [names for names in _by_code(set(people)).values() if len(names) > 1]
    said += [
        f"participants {_listed(names)} differ in zeros, case, punctuation or 'sub-' only, but "
        "count as different participants"
        for names in alike
    ]
    return Identifiers(people, sessions.fillna(""), said + more)


def _key(name: str, zeros: bool) -> str:
    if not re.fullmatch(r"[0-9]+(\.0*)?", name):
        return name
    return code_of(name) if zeros else name.partition(".")[0]


def _shown(name: str) -> str:
    """Return a name in quotes; signs that cannot be told apart by eye as their numbers."""
    return f"'{name}'" if plain(name) == name else ascii(name)


def look_alikes(names: pd.Series, kind: str) -> list[str]:
    """Return a sentence for names that differ in case, spaces or punctuation only."""
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
    return " and ".join(map(_shown, sorted(names)))
