"""Join the tables of a BIDS folder; tables nearer to the scan have priority."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from harmbench.contracts.dataset import Note
from harmbench.data.bids_layout import Scan, home
from harmbench.data.bids_side_tables import Row, SideTables
from harmbench.data.covariates import Columns, no_names
from harmbench.data.problems import Problem, ScanName, full_name, some
from harmbench.data.spellings import SEXES, code_of, fitted, require_names
from harmbench.data.table_files import read_table, second_header
from harmbench.errors import HarmbenchError

MOST_NAMED = 30
"""Largest number of other columns that the data sheet lists."""


def participants_file(root: Path) -> Path:
    """Return participants.tsv (or .csv) of a folder, or of the source data set of derivatives.

    Raises
    ------
    HarmbenchError
        If there is none.
    """
    for place in (root, home(root)):
        for name in ("participants.tsv", "participants.csv"):
            if (place / name).is_file():
                return place / name
    raise HarmbenchError(f"{root} has no participants.tsv; it must name each scan's site")


def scan_rows(
    root: Path, scans: list[Scan], columns: Columns
) -> tuple[list[Scan], pd.DataFrame, list[dict[str, str]], list[Problem], list[Note]]:
    """Join participants.tsv with sessions.tsv and scans.tsv, which have priority.

    participants.tsv may have a ``session_id`` column and one row per session.

    Returns
    -------
    scans : list of Scan
        The scans that have one row each.
    table : DataFrame
        Their rows, as text.
    sources : list of dict of str to str
        For each row, the file and line of each value.
    problems : list of Problem
    notes : list of Note

    Raises
    ------
    HarmbenchError
        If participants.tsv as a whole cannot be used.
    """
    file = participants_file(root)
    people, twice, notes = _people(file, scans, columns.site)
    beside = SideTables(root, scans, columns)
    used: set[ScanName] = set()
    with_row: list[Scan] = []
    rows: list[dict[str, Any]] = []
    all_sources: list[dict[str, str]] = []
    lost: list[Problem] = []
    contradicted: list[str] = []
    for scan in scans:
        key = scan.name if scan.name in people else (scan.participant_id, "")
        if key not in people or key in twice:
            lost.append(Problem(file.name, twice.get(key) or _no_row(scan, people), scan.name))
            continue
        used.add(key)
        values = dict(people[key].values)
        sources = dict.fromkeys(values, people[key].source)
        for more in beside.rows(scan):
            known = {name: value for name, value in more.values.items() if pd.notna(value)}
            sexes = {_sex(one[columns.sex]) for one in (values, known) if columns.sex in one}
            if len(sexes - {""}) > 1:
                contradicted.append(full_name(scan.name))
            values |= known
            sources |= dict.fromkeys(known, more.source)
        identity = {"participant_id": scan.participant_id, "session_id": scan.session_id}
        rows.append(values | identity)
        with_row.append(scan)
        all_sources.append(sources)
    absent = [full_name(key) for key in people if key not in used and key not in twice]
    if absent and not used and not twice:
        folders = dict.fromkeys(scan.participant_id for scan in scans)
        sentence = (
            f"none of its rows fits an image: they name {some(absent, 3)}, the folders are "
            f"{some(folders, 3)}; write the folders' names into participant_id"
        )
        lost = [Problem(file.name, sentence)]
    table = pd.DataFrame(rows)
    used_columns = {"participant_id", "session_id", columns.site, columns.age, columns.sex}
    kept = [str(name) for name in table if name not in used_columns]
    others = f", other columns kept: {some(kept, MOST_NAMED)}" if kept else ""
    notes.append(Note(f"{file.name}: {len(used)} of {len(people)} rows{others}", "read"))
    if absent:
        notes.append(Note(f"{some(absent)}: a row in {file.name}, but no image", "set_aside"))
    other = file.with_suffix(".csv")
    if other != file and other.is_file():
        notes.append(Note(f"{other.name}: {file.name} is read instead", "set_aside"))
    notes.extend(beside.notes())
    if contradicted:
        text = f"tables contradict each other on the sex of {some(contradicted)}; the table "
        notes.append(Note(text + "nearest to the scan is used"))
    return with_row, table, all_sources, beside.problems + lost, notes


def _sex(cell: object) -> str:
    return "" if pd.isna(cell) else SEXES.get(code_of(cell), code_of(cell))


def _people(
    file: Path, scans: list[Scan], site: str
) -> tuple[dict[ScanName, Row], dict[ScanName, str], list[Note]]:
    """Return the rows by participant and session, a sentence for each repeated one, and notes.

    A name that has lost its zeros is matched to the only folder that it fits, with a note.
    """
    table = read_table(file, site)
    if "participant_id" not in table:
        raise HarmbenchError(f"{file.name}: {no_names(table)}")
    names = _prefixed(table["participant_id"], "sub-")
    fault = second_header(table)
    if fault and names.iloc[0] not in {scan.participant_id for scan in scans}:
        raise HarmbenchError(f"{file.name}, {fault}")
    require_names(table["participant_id"], f"{file.name}, line")
    visits = (
        _prefixed(table["session_id"], "ses-")
        if "session_id" in table
        else names.where(names.isna())
    )
    notes = []
    for kind, given, wanted in (
        ("participants", names, {scan.participant_id for scan in scans}),
        ("sessions", visits, {scan.session_id for scan in scans}),
    ):
        fit = fitted(set(given.dropna()), wanted - {""})
        if fit:
            pairs = some(f"'{name}' as {folder}" for name, folder in fit.items())
            notes.append(Note(f"{kind} are matched to the only name that they fit: {pairs}"))
            given.update(given.map(fit).dropna())
    people: dict[ScanName, Row] = {}
    twice: dict[ScanName, str] = {}
    for line, values in zip(table.index, table.to_dict("records"), strict=True):
        key = (names[line], visits[line] if pd.notna(visits[line]) else "")
        if key in people:
            twice[key] = (
                f"it names {full_name(key)} more than once ({people[key].source} and line {line}); "
                "write one row each, or add a session_id column that distinguishes the scans"
            )
            continue
        people[key] = Row(values, f"{file.name}, line {line}")
    return people, twice, notes


def _prefixed(names: pd.Series, prefix: str) -> pd.Series:
    return names.map(lambda name: prefix + str(name).removeprefix(prefix), na_action="ignore")


def _no_row(scan: Scan, people: dict[ScanName, Row]) -> str:
    """Return the sentence for a scan without a row, with the probable reason."""
    name = full_name(scan.name)
    bare = scan.participant_id.removeprefix("sub-").lstrip("0")
    lost = f"sub-{bare}"
    if lost != scan.participant_id and any(person == lost for person, _ in people):
        return f"it has no row for {name}, which has an image; has '{lost}' lost its leading zeros?"
    if any(person == scan.participant_id for person, _ in people):
        return f"it has no row for {name}, which has an image, only for other sessions"
    return f"it has no row for {name}, which has an image; add one with its site"
