"""Real scans from a BIDS folder: who was scanned where, which files, and their slices."""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from harmbench.cohort import Cohort, RowKey
from harmbench.data import participants
from harmbench.data.bids_layout import (
    Scan,
    find_scans,
    read_description,
    scan_table,
    sessions_file,
)
from harmbench.data.preprocess import VERSION, Prepared, PreprocessConfig, prepare
from harmbench.dataset import Dataset, DatasetInfo
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

PREPROCESSED = "HarmbenchPreprocessed"
"""Key of dataset_description.json by which a folder says that its images are final."""
READ_ERRORS = (
    OSError,
    EOFError,
    TypeError,
    ValueError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""What nibabel raises for files that are empty, cut short or no images."""


@dataclass(frozen=True)
class Index:
    """What a folder holds, before any image is read: the scans and, row by row, their table."""

    scans: list[Scan]
    table: pd.DataFrame
    notes: list[str]


class BIDSDataset(Dataset):
    """A folder in the Brain Imaging Data Structure (Gorgolewski 2016, 10.1038/sdata.2016.44).

    One image per participant and session becomes one slice on a common grid, see
    `harmbench.data.preprocess`. Raw folders and derivatives alike: ``sub-*/[ses-*/]anat/``.

    Parameters
    ----------
    path : str or Path
        The folder that holds participants.tsv.
    size : int
        Side of the square grid in pixels.
    z : float or None
        World z in mm of the slice; None takes each volume's largest cross-section.
    spacing : float or None
        Pixel side in mm; None keeps a field of view of 220 mm.
    suffix : str
        Ending of the image names, such as ``T1w``.
    site_column, age_column, sex_column : str
        Columns of participants.tsv (or of a participant's sessions.tsv, which wins).
    contains : str
        Only images whose names contain this, such as ``space-MNI152NLin2009cAsym``.
    center : {"brain", "image"}
        ``"image"`` for images registered to one template.

    Attributes
    ----------
    notes : list of str
        What was left out and what is missing; filled by `load`.

    Raises
    ------
    HarmbenchError
        By `load` and `fingerprint`, naming the file or the row.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"size": 48},
        "standard": {"size": 64},
        "paper": {"size": 128},
    }

    def __init__(
        self,
        path: str | Path,
        size: int = 64,
        z: float | None = None,
        spacing: float | None = None,
        suffix: str = "T1w",
        site_column: str = "site",
        age_column: str = "age",
        sex_column: str = "sex",
        contains: str = "",
        center: Literal["brain", "image"] = "brain",
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.z = z
        self.spacing = spacing
        self.suffix = suffix
        self.site_column = site_column
        self.age_column = age_column
        self.sex_column = sex_column
        self.contains = contains
        self.center = center
        self.notes: list[str] = []

    @property
    def info(self) -> DatasetInfo:
        """Name and license as dataset_description.json states them."""
        said = read_description(self.path)
        return DatasetInfo(
            name="bids",
            label=str(said.get("Name") or self.path.resolve().name),
            summary=f"{self.suffix} slices from a BIDS folder.",
            license=str(said.get("License", "")),
            doi=str(said.get("DatasetDOI", "")),
        )

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # a property that is computed once
        """Hash of the bytes of all files used and of what becomes of them."""
        columns = (self.site_column, self.age_column, self.sex_column)
        digest = hashlib.sha256(
            json.dumps([VERSION, asdict(self.config), self.suffix, columns]).encode()
        )
        for file in sorted(self._files_used()):
            digest.update(b"\0" + file.relative_to(self.path).as_posix().encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def config(self) -> PreprocessConfig:
        """What becomes of every image; a folder that says its images are final is obeyed."""
        final = read_description(self.path).get(PREPROCESSED)
        if final is None:
            return PreprocessConfig(self.size, self.spacing, self.z, center=self.center)
        field_of_view = max(final["size"]) * final["spacing_mm"]
        spacing = self.spacing if self.spacing is not None else field_of_view / self.size
        return PreprocessConfig(self.size, spacing, self.z, center="image", scaled=True)

    def load(self, progress: Progress | None = None) -> Cohort:
        """Read all images; rows are sorted by participant and session."""
        index = self._index
        self.notes = list(index.notes)
        prepared = []
        with (progress or Progress()).task("reading images", total=len(index.scans)) as task:
            for scan in index.scans:
                prepared.append(prepare_scan(scan, self.config))
                task.advance(note=scan.participant_id)
        return Cohort(
            images=np.stack([one.image for one in prepared]),
            participants=index.table.copy(),
            mask=np.stack([one.mask for one in prepared]),
        )

    def repeats(self) -> list[tuple[RowKey, RowKey]]:
        """Return all pairs of scans of one participant, at one site or at two."""
        by_participant: dict[str, list[RowKey]] = {}
        for row in self._index.table.itertuples():
            key = RowKey(row.participant_id, row.site, row.session_id)
            by_participant.setdefault(key.participant_id, []).append(key)
        return [
            pair for keys in by_participant.values() for pair in itertools.combinations(keys, 2)
        ]

    @cached_property
    def _index(self) -> Index:
        if not self.path.is_dir():
            raise HarmbenchError(f"there is no folder {self.path}")
        scans, notes = find_scans(self.path, self.suffix, self.contains)
        table, more = scan_table(self.path, scans)
        table, most = self._standard_columns(table)
        return Index(scans, table, notes + more + most)

    def _files_used(self) -> set[Path]:
        scans = self._index.scans
        used = {scan.image for scan in scans} | {scan.mask for scan in scans if scan.mask}
        used |= {file for scan in scans if (file := sessions_file(self.path, scan)).is_file()}
        return used | {self.path / "participants.tsv"}

    def _standard_columns(self, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        """Return the table with clean site, age and sex, and notes on what is missing."""
        where = "participants.tsv, " + table["participant_id"] + " " + table["session_id"]
        where = where.str.strip()
        if self.site_column not in table:
            raise HarmbenchError(
                f"{self.path / 'participants.tsv'} has no column '{self.site_column}'; name the "
                f"one that holds the site by site_column. Columns: {', '.join(table.columns)}"
            )
        ages, sexes = (_text(table, name) for name in (self.age_column, self.sex_column))
        columns = {
            "site": _text(table, self.site_column),
            "age": participants.parse_ages(ages, where),
            "sex": participants.parse_sexes(sexes, where),
        }
        participants.require_sites(columns["site"], where)
        notes = [
            f"{name} is missing for {int(columns[name].isna().sum())} of {len(table)} scans"
            for name in ("age", "sex")
            if columns[name].isna().any()
        ]
        return table.assign(**columns), notes


def _text(table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as text with NaN where it is missing, or where there is no such column."""
    if column not in table:
        return pd.Series(np.nan, index=table.index, dtype=object)
    return table[column].astype(object)


def prepare_scan(scan: Scan, config: PreprocessConfig) -> Prepared:
    """Read one image and its mask and bring it onto the grid.

    Raises
    ------
    HarmbenchError
        Naming the file: where it cannot be read, or for the reasons of `prepare`.
    """
    try:
        mask = None if scan.mask is None else nib.load(scan.mask)
        return prepare(nib.load(scan.image), mask, config)
    except HarmbenchError as error:
        raise HarmbenchError(f"{scan.image}: {error}") from error
    except READ_ERRORS as error:
        files = f"{scan.image}" + (f" or its mask {scan.mask}" if scan.mask else "")
        raise HarmbenchError(
            f"{files} cannot be read ({error}); it may be empty or cut short: copy it again"
        ) from error
