"""Read site, age and sex of every scan from the tables of a study."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harmbench.contracts.dataset import Note
from harmbench.data.ages import read_ages, unit_of
from harmbench.data.problems import Problem, full_name, some
from harmbench.data.spellings import (
    code_of,
    codes_from_levels,
    codes_from_name,
    look_alikes,
    name_pattern,
    one_spelling,
    parse_codes,
    read_sexes,
)
from harmbench.data.table_files import number
from harmbench.errors import HarmbenchError

ALIASES = {
    "site": "site|cent(er|re)|scanner|hospital|institut(e|ion)|location",
    "age": "age|years",
    "sex": "sex|gender",
}
BOTH_SEXES = 0.2
"""If this share of the participants with several scans has scans of both sexes, ids are not
unique."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of site, age and sex; ``""`` leaves age or sex out."""

    site: str = "site"
    age: str = "age"
    sex: str = "sex"
    sex_codes: str = ""  # meaning of numbers in the sex column, such as "1=M,2=F"
    age_unit: str = ""  # "years", "months", "weeks" or "days"; "" for that stated by the data


def clean(
    table: pd.DataFrame,
    sources: Sequence[Mapping[str, str]],
    columns: Columns,
    described: Sequence[Mapping[str, Any]] = (),
    place: str = "participants.tsv",
) -> tuple[pd.DataFrame, list[Problem], list[Note]]:
    """Read site, age and sex of every scan.

    Parameters
    ----------
    table : DataFrame
        One row per scan, with ``participant_id`` and ``session_id``, as text.
    sources : sequence of mapping
        For each row, the file and line of each value.
    columns : Columns
    described : sequence of mapping
        Contents of JSON files, by column: ``Levels`` may define sex codes, ``Units`` the unit of
        the age.
    place : str
        Name of the participants table.

    Returns
    -------
    table : DataFrame
        The table with clean ``site``, ``age`` and ``sex``.
    problems : list of Problem
    notes : list of Note
        How the columns were read.
    """
    reader = _Reader(table.reset_index(drop=True), sources, columns, place)
    ages, sexes = (
        [one[name] for one in described if isinstance(one.get(name), Mapping)]
        for name in (columns.age, columns.sex)
    )
    site, age, sex = reader.sites(), reader.ages(ages), reader.sexes(sexes)
    reader.check_sexes(sex)
    return reader.table.assign(site=site, age=age, sex=sex), reader.problems, reader.notes


@dataclass
class _Reader:
    """Reads the columns one by one and collects problems and notes."""

    table: pd.DataFrame
    sources: Sequence[Mapping[str, str]]
    columns: Columns
    place: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add_note(self, kind: str, how: str) -> None:
        """Note which column of which tables was read, and how."""
        name = getattr(self.columns, kind)
        if name in self.table:
            text = f"{kind}: column '{name}' of {self._origin(name)}"
            self.notes.append(Note(f"{text}, {how}" if how else text, "read"))
        if kind in self.table and name != kind:
            reason = f"'{name}' is read instead" if name else "left out, as asked for"
            self.notes.append(Note(f"column '{kind}': {reason}", "set_aside"))

    def _origin(self, column: str) -> str:
        """Return the tables that contain a column's values, with the number of scans of each."""
        files = Counter(
            name_pattern(re.sub(r"(, )?(line|row) \d+$", "", source[column]))
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
        """Return a column as text; NaN if a value is missing or there is no such column."""
        name = getattr(self.columns, kind)
        if name in self.table:
            text = self.table[name].astype(object)
            return text.mask(text == "")  # a missing session is an empty name
        alike = [str(column) for column in self.table if names_kind(str(column), kind)]
        # Age and sex are optional: a note says that they are missing.
        if kind == "site" or (name and (name != kind or alike)):
            flag = f"--{kind}-column"
            hint = f'; perhaps {flag} "{alike[0]}"' if alike else f"; name it by {flag}"
            leave = "" if kind == "site" else f', or leave {kind} out by {flag} ""'
            known = some((c for c in self.table if any(c in s for s in self.sources)), 30)
            columns = "" if alike else f". Columns: {known}"
            self.add_problem(f"it has no column '{name}'{hint}{leave}{columns}")
        return pd.Series(np.nan, index=self.table.index, dtype=object)

    def add_problem(self, sentence: str) -> None:
        """Add a problem of the data as a whole."""
        self.problems.append(Problem(self.place, sentence))

    def add_fault(self, row: int, column: str, sentence: str) -> None:
        """Add a problem of one scan's value."""
        scan = str(self.table["participant_id"][row]), str(self.table["session_id"][row])
        source = self.sources[row].get(column, self.place)
        self.problems.append(Problem(f"{source}, {full_name(scan)}", sentence, scan))

    def sites(self) -> pd.Series:
        """Return the sites, each with one spelling."""
        sites, spellings = one_spelling(self.column("site"), "site")
        for row in sites.index[sites.isna()] if self.columns.site in self.table else ():
            self.add_fault(
                row,
                self.columns.site,
                "the site is missing; every scan needs one (NA is a site's name only in a table "
                "in which missing values are written n/a, not NA)",
            )
        self.notes += map(Note, (*spellings, *look_alikes(sites, "site")))
        if "all" in set(sites):
            self.add_problem(
                "a site is called 'all', which stands for all sites in tables; rename it"
            )
        if "NA" in set(sites):
            self.notes.append(Note("site 'NA' is read as a name, not as a missing site"))
        self.add_note("site", f"{sites.nunique()} site{'s' if sites.nunique() != 1 else ''}")
        return sites

    def ages(self, described: Sequence[Mapping[str, Any]]) -> pd.Series:
        """Return the ages in years; all NaN if the values of the column are not ages."""
        name = self.columns.age
        text = self.column("age")
        try:
            unit = unit_of(name, described, self.columns.age_unit)
        except HarmbenchError as error:
            self.add_problem(str(error))
            return pd.Series(np.nan, text.index, dtype=float)
        ages = read_ages(text, *unit)
        if ages.column_fault:
            self.add_problem(f"column '{name}': {ages.column_fault}")
        for row, sentence in ages.faults.items():
            self.add_fault(row, name, sentence)
        if ages.doubt:
            self.notes.append(Note(ages.doubt))
        self.add_note("age", ages.how)
        return ages.values

    def sexes(self, described: Sequence[Mapping[str, Any]]) -> pd.Series:
        """Return the sexes; numbers only if an option or participants.json defines them."""
        name = self.columns.sex
        text = self.column("sex")
        codes, source = parse_codes(self.columns.sex_codes), "--sex-codes"
        for description in described if not codes else ():
            levels = codes_from_levels(description.get("Levels"))
            if levels and codes and levels != codes:
                self.add_problem(
                    f"JSON files contradict each other on the codes of column '{name}'"
                )
            codes, source = levels or codes, "Levels in JSON"
        if not codes:
            is_number = text.map(lambda cell: bool(re.fullmatch("-?[0-9]+", code_of(cell))))
            numbers = text.notna() & is_number
            if numbers.any():
                guess = codes_from_name(name)
                suggestion = f'; its name suggests --sex-codes "{guess}"' if guess else ""
                self.add_problem(
                    f"column '{name}' holds the numbers {some(sorted(set(text[numbers])))}, whose "
                    "meaning differs between studies; define it by --sex-codes, such as "
                    f"\"1=M,2=F\", or by the Levels of '{name}' in participants.json{suggestion}"
                )
                text = text.mask(numbers)
        sexes, faults = read_sexes(text, codes)
        if len(faults) > max(2, text.notna().sum() / 2):
            found = some(sorted({f"'{text[row]}'" for row in faults}))
            self.add_problem(
                f"column '{name}' holds {found}, which are not sexes; name it by --sex-column"
            )
        else:
            for row, sentence in faults.items():
                self.add_fault(row, name, sentence)
        meanings = ", ".join(f"{code} is {sex or 'missing'}" for code, sex in codes.items())
        self.add_note("sex", f"{meanings} ({source})" if codes else "")
        return sexes

    def check_sexes(self, sex: pd.Series) -> None:
        """Report participants with scans of both sexes, as when several sites use the same ids."""
        people = self.table["participant_id"].astype(str)
        sexes = sex.groupby(people).nunique()
        differ = [f"'{name}'" for name in sexes.index[sexes > 1]]
        if not differ:
            return
        several = int((people.value_counts() > 1).sum())
        if len(differ) > 2 and len(differ) >= BOTH_SEXES * several:
            self.add_problem(
                f"{len(differ)} of {several} participants with several scans have scans of both "
                f"sexes ({some(differ)}); if each site numbers its participants from 1, add the "
                "site to participant_id"
            )
        else:
            self.notes.append(Note(f"scans of one participant differ in sex: {some(differ)}"))


def names_kind(column: str, kind: str) -> bool:
    """Whether the name of a column says that it holds a ``"site"``, an ``"age"`` or a ``"sex"``.

    The word must be a word of the name, as in ``AGE_AT_SCAN``, or part of an abbreviation, as in
    ``PTGENDER`` and ``siteID``; ``average`` and ``image`` are not ages.
    """
    pattern = rf"(pt|scan|subj(ect)?)?({ALIASES[kind]})s?(id|name|code|no)?"
    return any(re.fullmatch(pattern, word) for word in (*words_of(column), column.casefold()))


def words_of(column: str) -> list[str]:
    """Return the words in the name of a column, in lower case."""
    return [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column)]


def no_names(table: pd.DataFrame) -> str:
    """Return the sentence for a table without ``participant_id``; it suggests another column."""
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
    """Return notes with the number of scans without age or sex."""
    counts = {name: int(table[name].isna().sum()) for name in ("age", "sex")}
    return [
        Note(f"{name} is missing for {missing} of {len(table)} scans")
        for name, missing in counts.items()
        if missing
    ]
