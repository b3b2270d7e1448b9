"""What the tables of a BIDS folder say of each scan: the nearer to the scan, the stronger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harmbench.data.bids_layout import Scan, home
from harmbench.data.problems import Problem, ScanName, some
from harmbench.data.table_files import read_table, second_header
from harmbench.dataset import Note
from harmbench.errors import HarmbenchError


class Rows(NamedTuple):
    """One row a scan, as text; for each row where its values stand; what is wrong; what is noted.

    Scans without a row, or with two, are not among them.
    """

    scans: list[Scan]
    table: pd.DataFrame
    sources: list[dict[str, str]]
    problems: list[Problem]
    notes: list[Note]


class _Row(NamedTuple):
    values: dict[str, Any]
    source: str


def participants_file(root: Path) -> Path:
    """Return participants.tsv (or .csv), for derivatives also that of the data set they are of.

    Raises
    ------
    HarmbenchError
        Where there is none.
    """
    for place in (root, home(root)):
        for name in ("participants.tsv", "participants.csv"):
            if (place / name).is_file():
                return place / name
    raise HarmbenchError(f"{root} has no participants.tsv; it must name each scan's site")


def side_tables(root: Path, scan: Scan) -> Iterator[tuple[Path, str]]:
    """Yield the tables that may say more of a scan, with the column that names it."""
    person, session = scan.name
    folder = root / person
    if session:
        yield folder / f"{person}_sessions.tsv", "session_id"
        yield folder / session / f"{person}_{session}_scans.tsv", "filename"
    else:
        yield folder / f"{person}_scans.tsv", "filename"


def scan_rows(root: Path, scans: list[Scan], site: str = "site") -> Rows:
    """Join participants.tsv with each scan's row of sessions.tsv and scans.tsv, which win.

    participants.tsv may itself have a ``session_id`` column and a row for each session.

    Parameters
    ----------
    root : Path
    scans : list of Scan
    site : str
        Column of the site, in which ``NA`` may be a name.

    Raises
    ------
    HarmbenchError
        Where participants.tsv as a whole cannot be used.
    """
    file = participants_file(root)
    people, twice = _people(file, {scan.participant_id for scan in scans}, site)
    rows = Rows([], pd.DataFrame(), [], [], [])
    used: set[ScanName] = set()
    found: list[dict[str, Any]] = []
    for scan in scans:
        key = scan.name if scan.name in people else (scan.participant_id, "")
        if key not in people or key in twice:
            sentence = twice.get(key) or _no_row(scan, people)
            rows.problems.append(Problem(file.name, sentence, scan.name))
            continue
        used.add(key)
        values, sources = _joined(root, scan, people[key], rows.problems, site)
        identity = {"participant_id": scan.participant_id, "session_id": scan.session_id}
        found.append(values | identity)
        rows.scans.append(scan)
        rows.sources.append(sources)
    said = f"{file.name}: {len(used)} of {len(people)} rows"
    rows.notes.append(Note(said, "read"))
    absent = [" ".join(filter(None, key)) for key in people if key not in used and key not in twice]
    if absent:
        said = f"{some(absent)}: a row in {file.name}, but no image"
        rows.notes.append(Note(said, "set_aside"))
    return rows._replace(table=pd.DataFrame(found))


def _people(
    file: Path, scanned: set[str], site: str
) -> tuple[dict[ScanName, _Row], dict[ScanName, str]]:
    """Return the rows by participant and session, and a sentence for each of those named twice."""
    table = read_table(file, site)
    if "participant_id" not in table:
        raise HarmbenchError(
            f"{file.name} has no column participant_id; it has {', '.join(table)}: rename the one "
            "that holds the names of the sub-* folders"
        )
    names = _prefixed(table["participant_id"], "sub-")
    reason = second_header(table)
    if reason and names.iloc[0] not in scanned:
        raise HarmbenchError(
            f"{file.name}, line {table.index[0]} looks like a second header ({reason}); delete "
            "it: there is one header line, and units belong into participants.json"
        )
    if names.isna().any():
        raise HarmbenchError(f"{file.name}, line {names.isna().idxmax()} has no participant_id")
    visits = (
        _prefixed(table["session_id"], "ses-")
        if "session_id" in table
        else names.where(names.isna())
    )
    people: dict[ScanName, _Row] = {}
    twice: dict[ScanName, str] = {}
    for line, values in zip(table.index, table.to_dict("records"), strict=True):
        key = (names[line], visits[line] if pd.notna(visits[line]) else "")
        if key in people:
            twice[key] = (
                f"it names {' '.join(filter(None, key))} more than once ({people[key].source} and "
                f"line {line}); one row each, or a session_id column that tells the scans apart"
            )
            continue
        people[key] = _Row(values, f"{file.name}, line {line}")
    return people, twice


def _prefixed(names: pd.Series, prefix: str) -> pd.Series:
    return names.map(lambda name: prefix + str(name).removeprefix(prefix), na_action="ignore")


def _no_row(scan: Scan, people: dict[ScanName, _Row]) -> str:
    """Say that a scan has no row; name the one that lost its leading zeros, where there is one."""
    name = " ".join(filter(None, scan.name))
    bare = scan.participant_id.removeprefix("sub-").lstrip("0")
    lost = f"sub-{bare}"
    if lost != scan.participant_id and any(person == lost for person, _ in people):
        return f"it has no row for {name}, which has an image; has '{lost}' lost its leading zeros?"
    if any(person == scan.participant_id for person, _ in people):
        return f"it has no row for {name}, which has an image, only for other sessions"
    return f"it has no row for {name}, which has an image; add one with its site"


def _joined(
    root: Path, scan: Scan, row: _Row, problems: list[Problem], site: str
) -> tuple[dict[str, Any], dict[str, str]]:
    values = dict(row.values)
    sources = dict.fromkeys(values, row.source)
    for file, column in side_tables(root, scan):
        if not file.is_file():
            continue
        try:
            more = _side_row(file, column, scan, site)
        except HarmbenchError as error:
            problems.append(
                Problem(file.parent.relative_to(root).as_posix(), str(error), scan.name)
            )
            continue
        said = {name: value for name, value in more.values.items() if pd.notna(value)}
        values |= said
        sources |= dict.fromkeys(said, more.source)
    return values, sources


def _side_row(file: Path, column: str, scan: Scan, site: str) -> _Row:
    """Return the row of sessions.tsv or scans.tsv that is the scan's, or an empty one."""
    table = read_table(file, site)
    if column not in table:
        raise HarmbenchError(f"{file.name} has no column {column}; it has {', '.join(table)}")
    if column == "session_id":
        mine = _prefixed(table[column], "ses-") == scan.session_id
    else:
        mine = table[column].map(lambda name: str(name).split("/")[-1]) == scan.image.name
    if mine.sum() > 1:
        raise HarmbenchError(
            f"{file.name} names {' '.join(filter(None, scan.name))} more than once (lines "
            f"{some(map(str, table.index[mine]))}); one row each"
        )
    for line, values in zip(table.index[mine], table[mine].to_dict("records"), strict=True):
        return _Row(values, f"{file.name}, line {line}")
    return _Row({}, "")
