"""Site, age and sex of every scan from the columns that hold them in a study's own tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmbench.contracts.dataset import Note
from harmbench.data import participants
from harmbench.data.ages import read_ages, unit_of
from harmbench.data.problems import Problem, some
from harmbench.data.spellings import look_alikes, one_spelling
from harmbench.data.table_files import number
from harmbench.errors import HarmbenchError

ALIASES = {
    "site": "site|cent(er|re)|scanner|hospital|institut(e|ion)|location",
    "age": "age|years",
    "sex": "sex|gender",
}
BOTH_SEXES = 0.2
"""Share of the participants with several scans from which scans of both sexes are no mistake."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; an age or sex column of ``""`` leaves it out.

    Attributes
    ----------
    site, age, sex : str
        Column names; ``session_id`` is one too.
    sex_codes : str
        What numbers in the sex column stand for, such as ``"1=M,2=F"``.
    age_unit : {"", "years", "months", "weeks", "days"}
        Unit of the age column; ``""`` for what the data say, or else years.
    """

    site: str = "site"
    age: str = "age"
    sex: str = "sex"
    sex_codes: str = ""
    age_unit: str = ""


class Clean(NamedTuple):
    """The table with clean ``site``, ``age`` and ``sex``, what is wrong, and how it was read."""

    table: pd.DataFrame
    problems: list[Problem]
    notes: list[Note]


def clean(
    table: pd.DataFrame,
    sources: Sequence[Mapping[str, str]],
    columns: Columns,
    described: Sequence[Mapping[str, Any]] = (),
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
    described : sequence of mapping
        JSON files, by column: ``Levels`` may say what sex codes stand for, ``Units`` the unit of
        the age.
    place : str
        Name of the participants table.
    """
    reader = _Reader(table.reset_index(drop=True), sources, columns, place)
    ages, sexes = (
        [one[name] for one in described if isinstance(one.get(name), Mapping)]
        for name in (columns.age, columns.sex)
    )
    site, age, sex = reader.sites(), reader.ages(ages), reader.sexes(sexes)
    reader.same_people(sex)
    table = reader.table.assign(site=site, age=age, sex=sex)
    return Clean(table, reader.problems, reader.notes)


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
            said = f"{kind}: column '{name}' of {self._origin(name)}"
            self.notes.append(Note(f"{said}, {how}" if how else said, "read"))
        if kind in self.table and name != kind:
            said = f"'{name}' is read instead" if name else "left out, as asked for"
            self.notes.append(Note(f"column '{kind}': {said}", "set_aside"))

    def _origin(self, column: str) -> str:
        """Return the tables that a column's values come from, and how many from each."""
        files = Counter(
            re.sub("(sub|ses)-[^_]+", r"\1-*", re.sub(r"(, )?(line|row) \d+$", "", source[column]))
            for source in self.sources
            if column in source
        )
        if len(files) < 2:
            return next(iter(files), "") or self.place
        return " and ".join(
            f"{name} ({count} scan{'s' if count > 1 else ''})"
            for name, count in sorted(files.items())
        )

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
        alike = [str(column) for column in self.table if names_kind(str(column), kind)]
        if kind != "site" and name == kind and not alike:
            return  # it is noted as missing
        flag = f"--{kind}-column"
        hint = f'; perhaps {flag} "{alike[0]}"' if alike else f"; name it by {flag}"
        leave = "" if kind == "site" else f', or leave {kind} out by {flag} ""'
        known = some((c for c in self.table if any(c in s for s in self.sources)), 30)
        columns = "" if alike else f". Columns: {known}"
        self._whole(f"it has no column '{name}'{hint}{leave}{columns}")

    def _whole(self, sentence: str) -> None:
        self.problems.append(Problem(self.place, sentence))

    def fault(self, row: int, column: str, sentence: str) -> None:
        """Add what is wrong with one scan's value."""
        person, session = (str(self.table[name][row]) for name in ("participant_id", "session_id"))
        source = self.sources[row].get(column, self.place)
        place = " ".join(filter(None, (f"{source}, {person}", session)))
        self.problems.append(Problem(place, sentence, (person, session)))

    def sites(self) -> pd.Series:
        """Return the sites, each by one name."""
        text = self.column("site")
        sites, said = one_spelling(text, "site")
        for row in sites.index[sites.isna()] if self.columns.site in self.table else ():
            self.fault(row, self.columns.site, participants.NO_SITE)
        for sentence in (*said, *look_alikes(sites, "site")):
            self.notes.append(Note(sentence))
        if "all" in set(sites):
            self._whole("a site is called 'all', which stands for all sites in tables; rename it")
        if "NA" in set(sites):
            self.notes.append(Note("site 'NA' is read as a name, not as a missing site"))
        self.say("site", f"{sites.nunique()} site{'s' if sites.nunique() != 1 else ''}")
        return sites

    def ages(self, described: Sequence[Mapping[str, Any]]) -> pd.Series:
        """Return the ages in years; nothing where the column as a whole cannot be ages."""
        name = self.columns.age
        text = self.column("age")
        try:
            unit = unit_of(name, described, self.columns.age_unit)
        except HarmbenchError as error:
            self._whole(str(error))
            return pd.Series(np.nan, text.index, dtype=float)
        ages = read_ages(text, unit)
        if ages.column_fault:
            self._whole(f"column '{name}': {ages.column_fault}")
        for row, sentence in ages.faults.items():
            self.fault(row, name, sentence)
        if ages.doubt:
            self.notes.append(Note(ages.doubt))
        self.say("age", ages.how)
        return ages.values

    def sexes(self, described: Sequence[Mapping[str, Any]]) -> pd.Series:
        """Return the sexes; numbers only where a flag or participants.json explains them."""
        name = self.columns.sex
        text = self.column("sex")
        codes, source = participants.parse_codes(self.columns.sex_codes), "--sex-codes"
        for said in described if not codes else ():
            levels = participants.codes_from_levels(said.get("Levels"))
            if levels and codes and levels != codes:
                self._whole(f"JSON files contradict each other on the codes of column '{name}'")
            codes, source = levels or codes, "Levels in JSON"
        if not codes:
            numbers = text.notna() & text.map(participants.is_code)
            if numbers.any():
                self._unexplained(name, sorted(set(text[numbers])))
                text = text.mask(numbers)
        parsed = participants.read_sexes(text, codes)
        if len(parsed.faults) > max(2, text.notna().sum() / 2):
            found = some(sorted({f"'{text[row]}'" for row in parsed.faults}))
            self._whole(
                f"column '{name}' holds {found}, which are no sexes; name it by --sex-column"
            )
        else:
            for row, sentence in parsed.faults.items():
                self.fault(row, name, sentence)
        meanings = ", ".join(f"{code} is {sex or 'missing'}" for code, sex in codes.items())
        self.say("sex", f"{meanings} ({source})" if codes else "")
        return parsed.values

    def _unexplained(self, name: str, found: list[str]) -> None:
        guess = participants.codes_from_name(name)
        suggestion = f'; its name suggests --sex-codes "{guess}"' if guess else ""
        self._whole(
            f"column '{name}' holds the numbers {some(found)}, whose meaning differs between "
            'studies; say it by --sex-codes, such as "1=M,2=F", or by the Levels of '
            f"'{name}' in participants.json{suggestion}"
        )

    def same_people(self, sex: pd.Series) -> None:
        """Say where scans of one participant differ in sex, as of ids that each site gave anew."""
        people = self.table["participant_id"].astype(str)
        sexes = sex.groupby(people).nunique()
        differ = [f"'{name}'" for name in sexes.index[sexes > 1]]
        if not differ:
            return
        several = int((people.value_counts() > 1).sum())
        if len(differ) > 2 and len(differ) >= BOTH_SEXES * several:
            self._whole(
                f"{len(differ)} of {several} participants with several scans have scans of both "
                f"sexes ({some(differ)}); where each site numbers its participants from 1, write "
                "the site into participant_id"
            )
        else:
            self.notes.append(Note(f"scans of one participant differ in sex: {some(differ)}"))


def names_kind(column: str, kind: str) -> bool:
    """Whether a column's name says that it holds a ``"site"``, an ``"age"`` or a ``"sex"``.

    The word must stand by itself, as in ``AGE_AT_SCAN``, or in an abbreviation, as in
    ``PTGENDER`` and ``siteID``: ``average`` and ``image`` are no ages.
    """
    tokens = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column)
    pattern = rf"(pt|scan|subj(ect)?)?({ALIASES[kind]})s?(id|name|code|no)?"
    return any(re.fullmatch(pattern, token.casefold()) for token in (*tokens, column))


def no_names(table: pd.DataFrame) -> str:
    """Say that a table has no column ``participant_id``, and which one it may be."""
    known = table.map(str).where(table.notna())
    unique = [name for name in table if known[name].nunique() == len(table)]
    called = [
        name
        for name in unique
        if {"id", "ptid", "eid", "subject", "participant", "subid", "subjid", "subjectid"}
        & set(re.split("[^a-z]+", str(name).casefold()))
    ]
    words = [name for name in unique if known[name].map(number).isna().all()]
    perhaps = f" (perhaps '{(called or words)[0]}')" if called or words else ""
    return (
        f"it has no column 'participant_id'; it has {some(map(str, table), 30)}: rename the one "
        f"that holds the participants' names{perhaps}"
    )


def missing_notes(table: pd.DataFrame) -> list[Note]:
    """Say for how many scans age or sex is missing."""
    counts = {name: int(table[name].isna().sum()) for name in ("age", "sex")}
    return [
        Note(f"{name} is missing for {missing} of {len(table)} scans")
        for name, missing in counts.items()
        if missing
    ]
