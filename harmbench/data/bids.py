"""Real scans from a BIDS folder: its tables, its files, and their slices."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.contracts.dataset import DatasetInfo, Note
from harmbench.data.bids_layout import (
    DESCRIPTION,
    Scan,
    find_scans,
    home,
    read_object,
    refuse_strays,
)
from harmbench.data.bids_side_tables import description_files, side_tables
from harmbench.data.bids_tables import participants_file, scan_rows
from harmbench.data.covariates import clean, missing_notes
from harmbench.data.nifti import ImageFacts, image_notes, read_scan
from harmbench.data.preprocess import VERSION, Prepared, PreprocessConfig
from harmbench.data.problems import Problem, ScanName, refuse, shared, some
from harmbench.data.survey import FileDataset, Survey, too_few_sites
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

PREPROCESSED = "HarmbenchPreprocessed"
"""Key of dataset_description.json which states that the images of the folder are final."""


class Index(NamedTuple):
    """The scans of a folder and their tables, before any image is read.

    `scans` and the rows of `table` are the scans with usable rows; `everything` are all scans.
    """

    everything: list[Scan]
    scans: list[Scan]
    table: pd.DataFrame
    problems: list[Problem]
    notes: list[Note]


class BIDSDataset(FileDataset):
    """A folder in the Brain Imaging Data Structure (Gorgolewski 2016, 10.1038/sdata.2016.44).

    One image per participant and session becomes slices on a common grid, see
    `harmbench.data.preprocess`. It reads raw folders and derivatives: ``sub-*/[ses-*/]anat/``.

    Parameters
    ----------
    path : str or Path
        The folder that holds participants.tsv.
    size : int
        Side of the square grid in pixels.
    z : float or None
        World z in mm of the (middle) slice; None takes one anatomical height in all volumes.
    slices : int
        Number of slices per scan, odd; all slices of a subject are in the same part of the split.
    slice_step : float
        Distance between the slices in mm.
    spacing : float or None
        Pixel side in mm; None keeps a field of view of 220 mm.
    suffix : str
        Ending of the image names, such as ``T1w``.
    site_column, age_column, sex_column, sex_codes, age_unit, skip_bad
        See `FileDataset`; the columns are those of participants.tsv, sessions.tsv or scans.tsv,
        of which the last has priority. participants.json may define codes and the unit.
    contains : str
        Use only images whose names contain this text, such as ``space-MNI152NLin2009cAsym``.
    center : {"brain", "image"}
        ``"image"`` for images registered to one template.
    follow_links : bool
        Whether links may lead out of the folder (for derivatives, out of their data set).

    Raises
    ------
    HarmbenchError
        By `load` and `fingerprint`; it lists all problems with their files and rows.
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
        slices: int = 1,
        slice_step: float = 5.0,
        spacing: float | None = None,
        suffix: str = "T1w",
        site_column: str = "site",
        age_column: str = "age",
        sex_column: str = "sex",
        sex_codes: str = "",
        age_unit: str = "",
        skip_bad: bool = False,
        contains: str = "",
        center: Literal["brain", "image"] = "brain",
        follow_links: bool = False,
    ) -> None:
        super().__init__(path, site_column, age_column, sex_column, sex_codes, age_unit, skip_bad)
        self.grid = PreprocessConfig(size, spacing, z, slices, slice_step, center=center)
        self.suffix = suffix
        self.contains = contains
        self.follow_links = follow_links
        self._affines: dict[RowKey, NDArray[np.float64]] = {}

    @property
    def info(self) -> DatasetInfo:
        """Name and license from dataset_description.json."""
        description = self._description
        return DatasetInfo(
            name="bids",
            label=str(description.get("Name") or self.path.resolve().name),
            summary=f"{self.suffix} slices from a BIDS folder.",
            license=str(description.get("License", "")),
            doi=str(description.get("DatasetDOI", "")),
        )

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # a property that is computed once
        """Hash of the bytes of all files used, and of everything that determines their use."""
        columns = asdict(self.columns)
        settings = [VERSION, asdict(self.config), self.suffix, columns, self.skip_bad]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for file in sorted(self._files_used()):
            # Derivatives may use the participants.tsv of their source data set.
            digest.update(b"\0" + os.path.relpath(file, self.path).encode() + b"\0")
            try:
                if not file.is_file():  # reading a device behind a link would never end
                    raise FileNotFoundError(file)
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError:
                digest.update(b"unreadable")  # `load` reports it, or leaves it out
        return digest.hexdigest()

    @cached_property
    def config(self) -> PreprocessConfig:
        """Preprocessing of every image; the folder may state that its images are final."""
        final = self._description.get(PREPROCESSED)
        if final is None:
            return self.grid
        try:
            field_of_view = float(max(final["size"]) * final["spacing_mm"])
        except (KeyError, TypeError, ValueError) as error:
            raise HarmbenchError(
                f"{self.path / 'dataset_description.json'}: {PREPROCESSED} must be such as "
                '{"size": [64, 64], "spacing_mm": 3.4}'
            ) from error
        spacing = self.grid.spacing
        spacing = field_of_view / self.grid.size if spacing is None else spacing
        return replace(self.grid, spacing=spacing, center="image", scaled=True)

    def load(self, progress: Progress | None = None) -> Cohort:
        """Read all images; rows are sorted by participant, session and slice."""
        if not self.skip_bad:  # refuse before hours of reading
            unread = "(no image was read yet; `harmbench check` reports tables and images at once)"
            refuse(self._index.problems, unread)
        return super().load(progress)

    def survey(self, progress: Progress | None = None) -> Survey:
        """Read everything that can be read, and collect all problems."""
        try:
            index = self._index
        except HarmbenchError as error:
            return Survey(None, [], [Problem(self.path.name, str(error))], [])
        read, problems = self._read(index.scans, progress or Progress())
        table = index.table[np.array([scan.name in read for scan in index.scans], dtype=bool)]
        problems = index.problems + problems
        whole = any(problem.scan is None for problem in problems)
        if "site" in table and not whole:
            problems += too_few_sites(self.path.name, table, problems)
        facts = [(name, facts) for name, (_, facts) in read.items()]
        missing = [] if whole or not read else missing_notes(table)
        notes = [*index.notes, *missing, *image_notes(facts)]
        usable = bool(read) and "site" in table and bool(table["site"].notna().all())
        slices = [one for slices, _ in read.values() for one in slices]
        cohort = _cohort(slices, table) if usable else None
        if cohort is not None:
            affines = [one.affine for one in slices]
            self._affines = dict(zip(cohort.keys, affines, strict=True))
        return Survey(cohort, facts, problems, notes)

    def _read(
        self, scans: list[Scan], progress: Progress
    ) -> tuple[dict[ScanName, tuple[list[Prepared], ImageFacts]], list[Problem]]:
        read = {}
        problems: list[Problem] = []
        with progress.task("reading images", total=len(scans)) as task:
            for scan in scans:
                try:
                    self._refuse_strays(scan.image, *filter(None, [scan.mask]))
                    read[scan.name] = read_scan(scan, self.config)
                except HarmbenchError as error:
                    place = scan.image.relative_to(self.path).as_posix()
                    problems.append(Problem(place, str(error), scan.name))
                task.advance(note=scan.participant_id)
        return read, shared(problems, len(scans))

    def geometry(self, keys: Sequence[RowKey]) -> NDArray[np.float64]:
        """Return the positions of the slices from the headers; reads the images if necessary."""
        if not self._affines:
            self.load()
        return np.stack([self._affines[key] for key in keys])

    @cached_property
    def _index(self) -> Index:
        if not os.path.isdir(self.path):
            raise HarmbenchError(f"there is no folder {self.path}")
        everything, notes = find_scans(self.path, self.suffix, self.contains)
        tables = self._tables(everything)
        self._refuse_strays(*tables, *description_files(self.path, tables))
        scans, table, sources, problems, more = scan_rows(self.path, everything, self.columns)
        notes += more
        if table.empty:
            nothing = "no scan has a row of its own; nothing is left to use"
            problems.append(Problem("participants.tsv", nothing))
            return Index(everything, [], table, problems, notes)
        people = participants_file(self.path)
        described = {
            file.name: read_object(file) for file in sorted(description_files(self.path, tables))
        }
        absent = {file: [n for n in names if n not in table] for file, names in described.items()}
        table, faults, more = clean(
            table, sources, self.columns, list(described.values()), people.name
        )
        problems += faults
        notes += more
        for file, names in absent.items():
            if names:
                notes.append(Note(f"{file}: no column is called {some(names)}", "set_aside"))
        bad = {problem.scan for problem in problems if problem.scan is not None}
        good = np.array([scan.name not in bad for scan in scans], dtype=bool)
        scans = [scan for scan in scans if scan.name not in bad]
        table = table[good].reset_index(drop=True)
        if not any(p.scan is None for p in problems):
            problems += too_few_sites(people.name, table, problems)
        return Index(everything, scans, table, problems, notes)

    @cached_property
    def _description(self) -> dict[str, Any]:
        self._refuse_strays(self.path / DESCRIPTION)
        return read_object(self.path / DESCRIPTION)

    def _refuse_strays(self, *files: Path) -> None:
        if not self.follow_links:
            refuse_strays(home(self.path), files, ", or allow it by --follow-links")

    def _tables(self, scans: list[Scan]) -> set[Path]:
        people = participants_file(self.path)
        beside = {file for scan in scans for file, _ in side_tables(self.path, scan)}
        return {people, *beside}

    def _files_used(self) -> set[Path]:
        scans = self._index.everything
        images = {scan.image for scan in scans} | {scan.mask for scan in scans if scan.mask}
        tables = self._tables(scans)
        here = {file for file in images if file.is_file() or file.is_symlink()}
        return here | tables | description_files(self.path, tables)


def _cohort(images: list[Prepared], table: pd.DataFrame) -> Cohort:
    count = len(images) // len(table)
    rows = table.loc[table.index.repeat(count)].reset_index(drop=True)
    rows["slice"] = np.tile(np.arange(count), len(table))
    return Cohort(
        images=np.stack([one.image for one in images]),
        participants=rows,
        mask=np.stack([one.mask for one in images]),
    )
