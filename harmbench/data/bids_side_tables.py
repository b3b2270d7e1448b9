"""Read sessions.tsv and scans.tsv of a BIDS folder: the row of each scan, and other rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harmbench.contracts.dataset import Note
from harmbench.data.bids_layout import Scan, home
from harmbench.data.covariates import Columns
from harmbench.data.problems import Problem, full_name, some
from harmbench.data.spellings import fitted, name_pattern
from harmbench.data.table_files import read_table
from harmbench.errors import HarmbenchError

DERIVED = "_(space|desc|res|den|label|atlas|hemi)-[^_]+"
"""Entities of derivatives that are not in the names of their source images."""


class Row(NamedTuple):
    """The values of a scan in a table, with the file and the line."""

    values: dict[str, Any]
    source: str


def _tops(root: Path) -> list[Path]:
    """Return the source data set of derivatives, and the folder."""
    return [root] if home(root) == root.resolve() else [home(root), root]


def side_tables(root: Path, scan: Scan) -> Iterator[tuple[Path, str]]:
    """Yield the tables with more columns of a scan, and their column with the name of the scan.

    Later tables have priority. For derivatives this includes the tables of the source data set.
    """
    person, session = scan.name
    for top in _tops(root):
        folder = top / person
        found = [(folder / f"{person}_scans.tsv", "filename")]
        if session:
            found.append((folder / f"{person}_sessions.tsv", "session_id"))
            found.append((folder / session / f"{person}_{session}_scans.tsv", "filename"))
        yield from ((file, column) for file, column in found if file.is_file())


def description_files(root: Path, tables: Iterable[Path]) -> set[Path]:
    """Return the JSON files that describe the columns of tables."""
    names = ("participants.json", "sessions.json", "scans.json")
    files = {top / name for top in _tops(root) for name in names}
    files |= {table.with_suffix(".json") for table in tables}
    return {file for file in files if file.is_file()}


class SideTables:
    """The side tables of all scans of a folder, each read once.

    If a table has one of `columns` (site, age, sex), a missing row of a scan is reported.
    """

    def __init__(self, root: Path, scans: Sequence[Scan], columns: Columns) -> None:
        self.root = root
        self.columns = columns
        self.problems: list[Problem] = []
        self._scans: dict[Path, tuple[str, list[Scan]]] = {}
        for scan in scans:
            for file, column in side_tables(root, scan):
                self._scans.setdefault(file, (column, []))[1].append(scan)
        self._rows: dict[tuple[Path, Scan], Row] = {}
        self._notes: dict[str, list[str]] = {}
        self._fitted: dict[str, str] = {}
        for file, (column, own) in self._scans.items():
            try:
                self._read(file, column, own)
            except HarmbenchError as error:
                place = self._place(file.parent)
                self.problems += [Problem(place, str(error), scan.name) for scan in own]

    def rows(self, scan: Scan) -> Iterator[Row]:
        """Yield the rows of a scan; later rows have priority."""
        for file, _ in side_tables(self.root, scan):
            if (file, scan) in self._rows:
                yield self._rows[file, scan]

    def notes(self) -> Iterator[Note]:
        """Yield notes: which tables were read, and which of their rows fit no scan."""
        files = {file for file, _ in self._rows}
        for name, count in sorted(Counter(name_pattern(file.name) for file in files).items()):
            yield Note(f"{name}: {count} file{'s' if count > 1 else ''}", "read")
        if self._fitted:
            pairs = some(f"'{given}' as {wanted}" for given, wanted in self._fitted.items())
            yield Note(f"sessions are matched to the only name that they fit: {pairs}")
        for reason, names in self._notes.items():
            yield Note(f"{some(names)}: {reason}", "set_aside")
        places = ("*s.tsv", "sub-*/*s.?sv", "sub-*/ses-*/*s.?sv", "phenotype/*.tsv")
        found = {file for place in places for file in self.root.glob(place)}
        others = sorted(file for file in found - set(self._scans) if file.stem != "participants")
        if others:
            shown = some(file.relative_to(self.root).as_posix() for file in others)
            yield Note(f"{shown}: not in a place for tables of scans", "set_aside")

    def _read(self, file: Path, column: str, scans: list[Scan]) -> None:
        """Find the row of each scan in one table, and report missing rows."""
        table = read_table(file, self.columns.site)
        if column not in table:
            raise HarmbenchError(f"{file.name} has no column {column}; it has {some(table, 30)}")
        names = table[column].fillna("").astype(str)
        find = self._of_sessions if column == "session_id" else _of_images
        lines = find(names, scans)
        for scan, own in lines.items():
            if len(own) > 1:
                self.problems.append(
                    Problem(
                        self._place(file.parent),
                        f"{file.name} names {full_name(scan.name)} more than once "
                        f"(lines {some(map(str, own))}); one row each",
                        scan.name,
                    )
                )
            elif own:
                values = table.loc[own[0]].to_dict()
                self._rows[file, scan] = Row(values, f"{file.name}, line {own[0]}")
        self._report_unmatched(file, table, column, lines)

    def _of_sessions(self, names: pd.Series, scans: list[Scan]) -> dict[Scan, list[int]]:
        """Return the lines of each scan's session; leading zeros may be missing."""
        labels = names.map(lambda name: "ses-" + name.removeprefix("ses-"))
        fit = fitted(set(labels), {scan.session_id for scan in scans})
        self._fitted |= fit
        labels = labels.replace(fit)
        return {scan: list(names.index[labels == scan.session_id]) for scan in scans}

    def _report_unmatched(
        self, file: Path, table: pd.DataFrame, column: str, lines: dict[Scan, list[int]]
    ) -> None:
        """Report scans without a row, and rows without a scan."""
        known = {line for own in lines.values() for line in own}
        without = [scan for scan, own in lines.items() if not own]
        held = {self.columns.site, self.columns.age, self.columns.sex} & set(table) - {column}
        shown = some((f"'{name}'" for name in table[column].dropna()), 3)
        for scan in without if held and not known else ():
            wanted = scan.session_id if column == "session_id" else scan.image.name
            self.problems.append(
                Problem(
                    self._place(file),
                    f"it has {' and '.join(sorted(held))} for {shown}, but not for {wanted}; "
                    f"correct its column {column}, or delete it",
                    scan.name,
                )
            )
        if not known:
            if not held:
                self._note("names no image that is read", file.name)
            return
        for scan in without if held else ():
            reason = f"no row in {name_pattern(file.name)}; participants.tsv is used for the scan"
            self._note(reason, full_name(scan.name))
        if column == "session_id":
            for line in table.index.difference(sorted(known)):
                self._note(
                    f"a row in {name_pattern(file.name)}, but no image",
                    f"{file.name.partition('_')[0]} {table[column][line]}",
                )

    def _place(self, file: Path) -> str:
        """Return the path of a file relative to its data set."""
        top = next(top for top in _tops(self.root) if file.is_relative_to(top))
        return file.relative_to(top).as_posix()

    def _note(self, reason: str, name: str) -> None:
        self._notes.setdefault(reason, []).append(name)


def _of_images(names: pd.Series, scans: list[Scan]) -> dict[Scan, list[int]]:
    """Return the lines of each scan's image, or of the source image of a derivative.

    Folders and endings are ignored.
    """
    stems = names.map(lambda name: _stem(re.split(r"[/\\]", name)[-1]))
    found: dict[Scan, list[int]] = {}
    for scan in scans:
        exact = list(names.index[stems == _stem(scan.image.name)])
        source = re.sub(DERIVED, "", _stem(scan.image.name))
        found[scan] = exact or list(names.index[stems == source])
    return found


def _stem(name: str) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", name)
