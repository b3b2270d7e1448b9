"""Real scans from a BIDS folder: who was scanned where, which files, and their slices."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.contracts.dataset import Dataset, DatasetInfo, Note
from harmbench.data.bids_images import Read, image_notes, read_scan
from harmbench.data.bids_layout import (
    DESCRIPTION,
    Scan,
    find_scans,
    home,
    read_object,
    refuse_strays,
)
from harmbench.data.bids_side_tables import description_files, descriptions, side_tables
from harmbench.data.bids_tables import participants_file, scan_rows
from harmbench.data.covariates import Columns, clean, missing_notes
from harmbench.data.preprocess import VERSION, Prepared, PreprocessConfig
from harmbench.data.problems import Problem, refuse, shared, some
from harmbench.data.survey import Survey, accepted, too_few_sites
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

PREPROCESSED = "HarmbenchPreprocessed"
"""Key of dataset_description.json by which a folder says that its images are final."""

FOLLOW = ", or allow it by --follow-links"
UNREAD = "(no image was read yet; `harmbench check` says of tables and images at once)"


class Index(NamedTuple):
    """What a folder holds, before any image is read.

    `scans` and the rows of `table` are those that the tables say enough of; `everything` also
    those of which they do not.
    """

    everything: list[Scan]
    scans: list[Scan]
    table: pd.DataFrame
    problems: list[Problem]
    notes: list[Note]


class BIDSDataset(Dataset):
    """A folder in the Brain Imaging Data Structure (Gorgolewski 2016, 10.1038/sdata.2016.44).

    One image per participant and session becomes slices on a common grid, see
    `harmbench.data.preprocess`. Raw folders and derivatives alike: ``sub-*/[ses-*/]anat/``.

    Parameters
    ----------
    path : str or Path
        The folder that holds participants.tsv.
    size : int
        Side of the square grid in pixels.
    z : float or None
        World z in mm of the (middle) slice; None takes one anatomical height in all volumes.
    slices : int
        How many slices of each scan, odd; all of a subject's stay in one part of the split.
    slice_step : float
        Distance between them in mm.
    spacing : float or None
        Pixel side in mm; None keeps a field of view of 220 mm.
    suffix : str
        Ending of the image names, such as ``T1w``.
    site_column, age_column, sex_column : str
        Columns of participants.tsv, sessions.tsv or scans.tsv, the last of which wins; an age or
        sex column of ``""`` leaves it out.
    sex_codes : str
        What numbers in the sex column stand for, such as ``"1=M,2=F"``; ``""`` where
        participants.json says it, or where there are none.
    age_unit : {"", "years", "months", "weeks", "days"}
        Unit of the age column; ``""`` for what its name or participants.json says, or else years.
    skip_bad : bool
        Whether scans with problems are left out, with notes, instead of refused.
    contains : str
        Only images whose names contain this, such as ``space-MNI152NLin2009cAsym``.
    center : {"brain", "image"}
        ``"image"`` for images registered to one template.
    follow_links : bool
        Whether links may lead out of the folder; of derivatives, out of the data set they are of.

    Attributes
    ----------
    notes : list of Note
        What was read, what was set aside, and what is missing; filled by `load`.

    Raises
    ------
    HarmbenchError
        By `load` and `fingerprint`, naming the files and rows, all of them at once.
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
        self.path = Path(path)
        self.grid = PreprocessConfig(size, spacing, z, slices, slice_step, center=center)
        self.given_spacing = spacing
        self.suffix = suffix
        self.columns = Columns(site_column, age_column, sex_column, sex_codes, age_unit)
        self.skip_bad = skip_bad
        self.contains = contains
        self.follow_links = follow_links
        self.notes: list[Note] = []
        self._affines: dict[RowKey, NDArray[np.float64]] = {}

    @property
    def info(self) -> DatasetInfo:
        """Name and license as dataset_description.json states them."""
        said = self._description
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
        said = [VERSION, asdict(self.config), self.suffix, asdict(self.columns), self.skip_bad]
        digest = hashlib.sha256(json.dumps(said).encode())
        for file in sorted(self._files_used()):
            # Derivatives may read the participants.tsv of the data set that they are of.
            digest.update(b"\0" + os.path.relpath(file, self.path).encode() + b"\0")
            try:
                if not file.is_file():  # a device behind a link would be read without end
                    raise FileNotFoundError(file)
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError:
                digest.update(b"unreadable")  # `load` says so, or leaves it out
        return digest.hexdigest()

    @cached_property
    def config(self) -> PreprocessConfig:
        """What becomes of every image; a folder that says its images are final is obeyed."""
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
        grid = self.grid
        spacing = field_of_view / grid.size if self.given_spacing is None else self.given_spacing
        return PreprocessConfig(
            grid.size, spacing, grid.z, grid.slices, grid.step, center="image", scaled=True
        )

    def load(self, progress: Progress | None = None) -> Cohort:
        """Read all images; rows are sorted by participant, session and slice."""
        if not self.skip_bad:
            refuse(self._index.problems, UNREAD)  # before hours of reading
        survey = self.survey(progress)
        cohort, self.notes = accepted(survey, self.skip_bad)
        return cohort

    def survey(self, progress: Progress | None = None) -> Survey:
        """Read everything that can be read, and gather all that is wrong."""
        try:
            index = self._index
        except HarmbenchError as error:
            return Survey(None, [], [Problem(self.path.name, str(error))], [])
        reads, problems = self._read(index.scans, progress or Progress())
        good = np.array([read is not None for read in reads], dtype=bool)
        used = [read for read in reads if read is not None]
        names = [scan.name for scan, kept in zip(index.scans, good, strict=True) if kept]
        table = index.table[good]
        problems = index.problems + problems
        whole = any(problem.scan is None for problem in problems)
        if "site" in table and not whole:
            problems += too_few_sites(self.path.name, table, problems)
        facts = [(name, read.facts) for name, read in zip(names, used, strict=True)]
        notes = (
            index.notes
            + ([] if whole or not used else missing_notes(table))
            + [*image_notes(facts)]
        )
        usable = bool(used) and "site" in table and bool(table["site"].notna().all())
        slices = [one for read in used for one in read.slices]
        cohort = _cohort(slices, table) if usable else None
        if cohort is not None:
            affines = [one.affine for one in slices if one.affine is not None]
            self._affines = dict(zip(cohort.keys, affines, strict=True))
        return Survey(cohort, facts, problems, notes)

    def _read(
        self, scans: list[Scan], progress: Progress
    ) -> tuple[list[Read | None], list[Problem]]:
        reads: list[Read | None] = []
        problems: list[Problem] = []
        with progress.task("reading images", total=len(scans)) as task:
            for scan in scans:
                try:
                    self._refuse_strays(scan.image, *filter(None, [scan.mask]))
                    reads.append(read_scan(scan, self.config))
                except HarmbenchError as error:
                    reads.append(None)
                    place = scan.image.relative_to(self.path).as_posix()
                    problems.append(Problem(place, str(error), scan.name))
                task.advance(note=scan.participant_id)
        return reads, shared(problems, len(scans))

    def geometry(self, keys: Sequence[RowKey]) -> NDArray[np.float64]:
        """Return where the slices lie, from the files' headers; reads the images if need be."""
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
        rows = scan_rows(self.path, everything, self.columns)
        if rows.table.empty:
            return Index(everything, [], rows.table, [*rows.problems, NOTHING], notes + rows.notes)
        people = participants_file(self.path)
        described = descriptions(self.path, tables)
        table, problems, more = clean(
            rows.table, rows.sources, self.columns, list(described.values()), people.name
        )
        problems = rows.problems + problems
        for file, said in described.items():
            if absent := [name for name in said if name not in rows.table]:
                more.append(Note(f"{file}: no column is called {some(absent)}", "set_aside"))
        bad = {problem.scan for problem in problems if problem.scan is not None}
        good = np.array([scan.name not in bad for scan in rows.scans], dtype=bool)
        scans = [scan for scan in rows.scans if scan.name not in bad]
        table = table[good].reset_index(drop=True)
        if not any(p.scan is None for p in problems):
            problems += too_few_sites(people.name, table, problems)
        return Index(everything, scans, table, problems, notes + rows.notes + more)

    @cached_property
    def _description(self) -> dict[str, Any]:
        self._refuse_strays(self.path / DESCRIPTION)
        return read_object(self.path / DESCRIPTION)

    def _refuse_strays(self, *files: Path) -> None:
        if not self.follow_links:
            refuse_strays(home(self.path), files, FOLLOW)

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


NOTHING = Problem("participants.tsv", "no scan has a row of its own; nothing is left to use")


def _cohort(images: list[Prepared], table: pd.DataFrame) -> Cohort:
    count = len(images) // len(table)
    rows = table.loc[table.index.repeat(count)].reset_index(drop=True)
    rows["slice"] = np.tile(np.arange(count), len(table))
    return Cohort(
        images=np.stack([one.image for one in images]),
        participants=rows,
        mask=np.stack([one.mask for one in images]),
    )
