"""Where things stand in a BIDS folder: its images, their masks, and what its tables say of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harmbench.data import participants
from harmbench.errors import HarmbenchError


@dataclass(frozen=True)
class Scan:
    """One image file, whose it is, and its mask where there is one."""

    participant_id: str
    session_id: str
    image: Path
    mask: Path | None


def read_description(root: Path) -> dict[str, Any]:
    """Return dataset_description.json, or nothing where there is none.

    Raises
    ------
    HarmbenchError
        Where it is not a JSON object.
    """
    file = root / "dataset_description.json"
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise HarmbenchError(f"{file} is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise HarmbenchError(f"{file} must hold a JSON object")
    return said


def find_scans(root: Path, suffix: str, contains: str = "") -> tuple[list[Scan], list[str]]:
    """Find one image per participant and session, in order, and say which were passed over.

    Parameters
    ----------
    root : Path
    suffix : str
        Such as ``T1w``.
    contains : str
        Only files whose names contain this.

    Raises
    ------
    HarmbenchError
        Where there is none.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        for file in sorted(root.glob(f"{pattern}/*_{suffix}.nii*")):
            if file.name.endswith((".nii", ".nii.gz")) and contains in file.name:
                subject, *session = file.relative_to(root).parts[:-2]
                found.setdefault((subject, "".join(session)), []).append(file)
    if not found:
        named = f" with '{contains}' in its name" if contains else ""
        raise HarmbenchError(
            f"{root} holds no image{named} at sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]"
        )
    scans: list[Scan] = []
    notes: list[str] = []
    for (person, visit), files in sorted(found.items()):
        scans.append(Scan(person, visit, files[0], _mask_of(root, files[0])))
        if len(files) > 1:
            others = ", ".join(file.name for file in files[1:])
            notes.append(f"{files[0].name} is used, {others} left out; `contains` chooses")
    return scans, notes


def _mask_of(root: Path, image: Path) -> Path | None:
    """Return ``..._desc-brain_mask`` with the image's entities, beside it or in derivatives."""
    entities = [part for part in image.name.split("_")[:-1] if not part.startswith("desc-")]
    stem = "_".join([*entities, "desc-brain", "mask"])
    folder = image.parent.relative_to(root)
    for place in (image.parent, *sorted(root.glob(f"derivatives/*/{folder}"))):
        for ending in (".nii.gz", ".nii"):
            if (place / (stem + ending)).is_file():
                return place / (stem + ending)
    return None


def scan_table(root: Path, scans: list[Scan]) -> tuple[pd.DataFrame, list[str]]:
    """Return one row a scan, as text: participants.tsv, overruled by sessions.tsv where it is.

    Raises
    ------
    HarmbenchError
        Where participants.tsv is missing, names a participant twice, or lacks one with a scan.
    """
    file = root / "participants.tsv"
    if not file.is_file():
        raise HarmbenchError(f"{root} has no participants.tsv; it must name each scan's site")
    people = _by_identifier(file, "participant_id", "sub-")
    scanned = {scan.participant_id for scan in scans}
    strangers = sorted(scanned - set(people))
    if strangers:
        raise HarmbenchError(f"{file} has no row for {_some(strangers)}, which has an image")
    rows = []
    for scan in scans:
        row = people[scan.participant_id] | _session_row(root, scan)
        row |= {"participant_id": scan.participant_id, "session_id": scan.session_id, "slice": 0}
        rows.append(row)
    absent = sorted(set(people) - scanned)
    notes = [f"{_some(absent)} left out: in participants.tsv, but without an image"]
    return pd.DataFrame(rows), notes if absent else []


def _by_identifier(file: Path, column: str, prefix: str) -> dict[str, dict[str, Any]]:
    table = participants.read_table(file)
    if column not in table:
        raise HarmbenchError(f"{file} has no column {column}; it has {', '.join(table)}")
    if table[column].isna().any():
        raise HarmbenchError(
            f"{file}: row {1 + int(table[column].isna().argmax())} has no {column}"
        )
    names = prefix + table[column].str.removeprefix(prefix)
    if names.duplicated().any():
        raise HarmbenchError(
            f"{file} names {_some(sorted(set(names[names.duplicated()])))} more than once; one row "
            "each, repeated scans in sub-*/sub-*_sessions.tsv"
        )
    return dict(zip(names, table.to_dict("records"), strict=True))


def sessions_file(root: Path, scan: Scan) -> Path:
    """Return where a participant's sessions.tsv stands, if it has one."""
    return root / scan.participant_id / f"{scan.participant_id}_sessions.tsv"


def _session_row(root: Path, scan: Scan) -> dict[str, Any]:
    file = sessions_file(root, scan)
    if not scan.session_id or not file.is_file():
        return {}
    row = _by_identifier(file, "session_id", "ses-").get(scan.session_id, {})
    return {name: value for name, value in row.items() if pd.notna(value)}


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
