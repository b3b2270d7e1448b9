"""Site, age and sex of every scan from the columns that hold them in a study's own tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmbench.data import participants
from harmbench.data.problems import Problem, some
from harmbench.dataset import Note

ALIASES = {
    "site": ("site", "center", "centre", "scanner", "hospital", "institution", "location"),
    "age": ("age", "years"),
    "sex": ("sex", "gender"),
}


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; an age or sex column of ``""`` leaves it out.

    Attributes
    ----------
    site, age, sex : str
        Column names; ``session_id`` is one too.
    sex_codes : str
        What numbers in the sex column stand for, such as ``"1=M,2=F"``.
    """

    site: str = "site"
    age: str = "age"
    sex: str = "sex"
    sex_codes: str = ""


class Clean(NamedTuple):
    """The table with clean ``site``, ``age`` and ``sex``, what is wrong, and what is missing."""

    table: pd.DataFrame
    problems: list[Problem]
    notes: list[Note]


def clean(
    table: pd.DataFrame,
    sources: Sequence[Mapping[str, str]],
    columns: Columns,
    described: Mapping[str, Any],
    place: str = "participants.tsv",
) -> Clean:
    """Read site, age and sex of every scan.

    Parameters
    ----------
    table : DataFrame
        One row a scan, with ``participant_id`` and ``session_id``, as text.
    sources : sequence of mapping
        For every row, the file and line that each value comes from.
    columns : Columns
    described : mapping
        participants.json, whose ``Levels`` may say what sex codes stand for.
    place : str
        Name of the participants table.
    """
    reader = _Reader(table.reset_index(drop=True), sources, columns, place)
    site = reader.column("site")
    age = reader.rows("age", participants.read_ages(reader.column("age")))
    sex = reader.sexes(described)
    for row in site.index[site.isna()] if columns.site in table else ():
        reader.fault(row, columns.site, participants.NO_SITE)
    reader.look_alikes(site)
    reader.say("site", f"{site.nunique()} sites")
    reader.say("age", f"read as years, {age.min():g} to {age.max():g}" if age.any() else "")
    reader.say("sex", "")
    return Clean(reader.table.assign(site=site, age=age, sex=sex), reader.problems, reader.notes)


class _Reader:
    """Reads the columns one by one and gathers what is wrong."""

    def __init__(
        self,
        table: pd.DataFrame,
        sources: Sequence[Mapping[str, str]],
        columns: Columns,
        place: str,
    ) -> None:
        self.table = table
        self.sources = sources
        self.columns = columns
        self.place = place
        self.problems: list[Problem] = []
        self.notes: list[Note] = []

    def say(self, kind: str, how: str) -> None:
        """Note which column of which tables was read, and how."""
        name = getattr(self.columns, kind)
        if name in self.table:
            files = {source[name].partition(",")[0] for source in self.sources if name in source}
            where = some(sorted(files), 3) or self.place
            said = f"{kind}: column '{name}' of {where}"
            self.notes.append(Note(f"{said}, {how}" if how else said, "read"))

    def column(self, kind: str) -> pd.Series:
        """Return a column as text; NaN where it is missing or there is no such column."""
        name = getattr(self.columns, kind)
        if name in self.table:
            text = self.table[name].astype(object)
            return text.mask(text == "")  # a missing session is an empty name
        if kind == "site" or name:
            self._absent(kind, name)
        return pd.Series(np.nan, index=self.table.index, dtype=object)

    def _absent(self, kind: str, name: str) -> None:
        """Refuse a missing column, but for ages and sexes that were never promised."""
        alike = [c for c in self.table if any(a in str(c).casefold() for a in ALIASES[kind])]
        if kind != "site" and name == kind and not alike:
            return  # it is noted as missing
        flag = f"--{kind}-column"
        hint = f'; perhaps {flag} "{alike[0]}"' if alike else f"; name it by {flag}"
        leave = "" if kind == "site" else f', or leave {kind} out by {flag} ""'
        known = ", ".join(map(str, self.table))
        self.problems.append(
            Problem(self.place, f"it has no column '{name}'{hint}{leave}. Columns: {known}")
        )

    def rows(self, kind: str, parsed: participants.Parsed) -> pd.Series:
        """Return the values, and gather the faults of the rows."""
        for row, sentence in parsed.faults.items():
            self.fault(row, getattr(self.columns, kind), sentence)
        return parsed.values

    def fault(self, row: int, column: str, sentence: str) -> None:
        """Add what is wrong with one scan's value."""
        person, session = (str(self.table[name][row]) for name in ("participant_id", "session_id"))
        source = self.sources[row].get(column, self.place)
        place = " ".join(filter(None, (f"{source}, {person}", session)))
        self.problems.append(Problem(place, sentence, (person, session)))

    def sexes(self, described: Mapping[str, Any]) -> pd.Series:
        """Return the sexes; numbers only where a flag or participants.json explains them."""
        name = self.columns.sex
        text = self.column("sex")
        codes = participants.parse_codes(self.columns.sex_codes)
        said = described.get(name)
        if not codes and isinstance(said, dict):
            codes = participants.codes_from_levels(said.get("Levels"))
        if not codes:
            numbers = text.notna() & text.map(participants.is_code)
            if numbers.any():
                self._unexplained(name, sorted(set(text[numbers])))
                text = text.mask(numbers)
        return self.rows("sex", participants.read_sexes(text, codes))

    def _unexplained(self, name: str, found: list[str]) -> None:
        guess = participants.codes_from_name(name)
        suggestion = f'; its name suggests --sex-codes "{guess}"' if guess else ""
        self.problems.append(
            Problem(
                self.place,
                f"column '{name}' holds the numbers {some(found)}, whose meaning differs between "
                'studies; say it by --sex-codes, such as "1=M,2=F", or by the Levels of '
                f"'{name}' in participants.json{suggestion}",
            )
        )

    def look_alikes(self, site: pd.Series) -> None:
        """Note sites whose names differ in case or spaces only."""
        spelled: dict[str, set[str]] = {}
        for name in set(site.dropna()):
            spelled.setdefault("".join(str(name).casefold().split()), set()).add(str(name))
        for names in spelled.values():
            if len(names) > 1:
                listed = " and ".join(f"'{name}'" for name in sorted(names))
                said = f"sites {listed} differ in case or spaces only, but count as different sites"
                self.notes.append(Note(said))


def missing_notes(table: pd.DataFrame) -> list[Note]:
    """Say for how many scans age or sex is missing."""
    counts = {name: int(table[name].isna().sum()) for name in ("age", "sex")}
    return [
        Note(f"{name} is missing for {missing} of {len(table)} scans")
        for name, missing in counts.items()
        if missing
    ]
