"""Slices from one .npz file; objects in it are never unpickled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import DatasetInfo, Note
from harmbench.data.archive import read_npz
from harmbench.data.covariates import Columns, clean
from harmbench.data.preprocess import (
    VERSION,
    PreprocessConfig,
    check_values,
    foreground,
    scale,
    threshold_of,
)
from harmbench.data.problems import Problem
from harmbench.data.spellings import identifiers
from harmbench.data.survey import FileDataset, Survey, too_few_sites
from harmbench.data.table_files import without_missing
from harmbench.errors import HarmbenchError
from harmbench.files.blocks import blocks, image_bytes, pieces, release
from harmbench.progress import Progress

TABLE_VERSION = 1
"""Version of the column reader; part of the fingerprint."""
REQUIRED = ("images", "participant_id")
LARGE = ("images", "mask")
"""Arrays that may stay in the file, if it was written by `numpy.savez` without compression."""
PREPROCESSED = "preprocessed"
"""Array of one boolean: whether intensities are final although some are outside [0, 1]."""


class ArrayDataset(FileDataset):
    """Slices and their table in a NumPy archive.

    Arrays: ``images`` (n, h, w), any real type; ``participant_id``, ``site`` (n,) text; ``age``
    (n,) years, NaN if missing; ``sex`` (n,) ``"F"``, ``"M"`` or ``""``; optional ``session_id``
    (n,) text, ``slice`` (n,) integers, ``mask`` (n, h, w) booleans; any other array of n numbers
    or texts becomes a column. Text has a fixed width (``np.array([...], dtype=str)``).

    Images are used unchanged if all values are in [0, 1], or if the archive says so
    (``preprocessed``); otherwise each image is scaled by its own foreground.

    Large images and masks of an uncompressed archive stay in the file, so a cohort may be larger
    than memory: write it with ``numpy.savez``, images as float32 in their final scale.

    See `FileDataset` for the parameters; the columns are names of arrays.
    """

    @property
    def info(self) -> DatasetInfo:
        """Named after the file."""
        return DatasetInfo("arrays", label=self.path.stem, summary="Slices from a NumPy archive.")

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # a property that is computed once
        """Hash of the file's bytes, and of how its images are scaled and its columns read."""
        if not os.path.isfile(self.path):
            raise HarmbenchError(f"there is no file {self.path}")
        with self.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        columns = f"{TABLE_VERSION} {asdict(self.columns)} {self.skip_bad}"
        settings = f"{VERSION} {PreprocessConfig().percentile} {columns} {content}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def survey(self, progress: Progress | None = None) -> Survey:
        """Read everything that can be read, and collect all problems."""
        try:
            arrays = _read(self.path, self.columns)
            found = _survey(arrays, self.columns, self.path.name)
        except HarmbenchError as error:
            sentence = str(error).removeprefix(f"{self.path}: ")
            return Survey(None, [], [Problem(str(self.path), sentence)], [])
        notes = [Note(f"arrays of {self.path.name}: {', '.join(sorted(arrays))}", "read")]
        notes += found.notes
        if found.cohort:
            used = {"images", "mask", PREPROCESSED, *found.cohort.participants}
            reason = "it does not hold one number or text for each image"
            notes += [
                Note(f"array '{name}': {reason}", "set_aside")
                for name in sorted(set(arrays) - used)
            ]
        return found._replace(notes=notes)


def _survey(arrays: Mapping[str, NDArray], columns: Columns, place: str) -> Survey:
    """Make a cohort of the arrays of the archive `place`; raise for faults of whole arrays."""
    images = arrays["images"]
    if images.ndim != 3 or images.dtype.kind not in "biuf" or 0 in images.shape:
        raise HarmbenchError(
            f"images must be real numbers of shape (n, h, w), not {images.dtype} {images.shape}"
        )
    with np.errstate(over="ignore"):  # values too large for float32 become infinite: refused
        images = images.astype(np.float32, copy=False)
    table, problems, notes = _table(arrays, len(images), columns)
    scans = list(zip(table["participant_id"], table["session_id"], strict=True))
    mask = arrays.get("mask")
    if mask is not None and mask.shape != images.shape:
        raise HarmbenchError(f"mask has shape {mask.shape}, images {images.shape}")
    if mask is not None and mask.dtype.kind not in "biuf":
        raise HarmbenchError(f"mask is {mask.dtype}; write booleans")
    flag = np.asarray(arrays.get(PREPROCESSED, False))
    if flag.size != 1 or flag.dtype.kind not in "biuf":
        raise HarmbenchError(f"{PREPROCESSED} must be one boolean, not {flag.dtype} {flag.shape}")
    final = bool(flag.item()) or all(one.min() >= 0 and one.max() <= 1 for one in pieces(images))
    # Arrays that need no change are not copied: they may be larger than memory.
    ready = images if final else np.empty(images.shape, dtype=np.float32)
    given = mask if mask is not None and mask.dtype == bool else None
    front = np.empty(images.shape, dtype=bool) if given is None else given
    for rows in blocks(len(images), image_bytes(images)):
        for row in range(len(images))[rows]:
            image = images[row]
            try:
                check_values(image, final)
                if given is None:
                    front[row] = (
                        foreground(image, threshold_of(image)) if mask is None else mask[row] != 0
                    )
                if not final:
                    ready[row] = scale(image, front[row], PreprocessConfig().percentile)
            except HarmbenchError as error:
                problems.append(Problem(f"{place}, image {row}", str(error), scans[row]))
        for array in (images, front):
            release(array)
    bad = {problem.scan for problem in problems}
    good = np.array([scan not in bad for scan in scans])
    whole = [problem for problem in problems if problem.scan is None]
    if not whole and good.any():
        problems += too_few_sites(place, table[good], problems)
    if not good.any() or table["site"][good].isna().any():
        return Survey(None, [], problems or [Problem(place, "nothing is left to use")], notes)
    cohort = Cohort(images=ready, participants=table, mask=front)
    return Survey(cohort if good.all() else cohort.subset(good), [], problems, notes)


def save_npz(cohort: Cohort, path: str | Path) -> None:
    """Write a cohort of slices as an archive from which `ArrayDataset` reads equal values.

    Parameters
    ----------
    cohort : Cohort
    path : str or Path
        File with the ending ``.npz``; it is replaced only when the new one is complete.

    Raises
    ------
    HarmbenchError
        If the file has another ending, or the images are not slices.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise HarmbenchError(f"{path} must end in .npz")
    if cohort.space != "slice":
        raise HarmbenchError(f"only slices can be written, not a cohort of {cohort.space}s")
    arrays: dict[str, NDArray] = {}
    for name, column in cohort.participants.items():
        if column.dtype.kind not in "biuf":  # text of a fixed width, "" if it is missing
            column = column.astype(object).where(column.notna(), "")
            arrays[str(name)] = column.to_numpy().astype(str)
        else:
            arrays[str(name)] = column.to_numpy()
    arrays |= {"images": cohort.images, "mask": cohort.mask, PREPROCESSED: np.array(True)}
    draft = path.with_name(f".{path.stem}-{os.getpid()}.npz")
    try:
        np.savez_compressed(draft, **arrays)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path, columns: Columns) -> dict[str, NDArray]:
    arrays = read_npz(path, LARGE)
    wanted = (*REQUIRED, columns.site, columns.age, columns.sex)
    missing = [name for name in filter(None, wanted) if name not in arrays]
    if missing:
        hint = (
            "; give their names by --site-column, --age-column, --sex-column (an age or a sex of "
            '"" is left out)'
        )
        raise HarmbenchError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}"
            f"{hint if set(missing) - set(REQUIRED) else ''}"
        )
    return arrays


def _table(
    arrays: Mapping[str, NDArray], n: int, columns: Columns
) -> tuple[pd.DataFrame, list[Problem], list[Note]]:
    stated = {*REQUIRED, "session_id", "slice", columns.site, columns.age, columns.sex}
    for name in stated & set(arrays):
        if arrays[name].shape[:1] != (n,) or (name != "images" and arrays[name].ndim != 1):
            raise HarmbenchError(f"{name} has shape {arrays[name].shape}, but there are {n} images")
        if arrays[name].dtype.kind not in "biufU":
            raise HarmbenchError(f"{name} is {arrays[name].dtype}; write numbers or text")
    table = pd.DataFrame(
        {
            name: array
            for name, array in arrays.items()
            if array.shape == (n,) and array.dtype.kind in "biufU"
        }
    )
    for name in ("participant_id", "session_id"):
        table[name] = table[name].astype(str).str.strip() if name in table else ""
    names = table[["participant_id", "session_id"]].astype(object)
    names = names.mask(names == "")
    people, sessions, spellings = identifiers(names["participant_id"], names["session_id"], "row")
    table = table.assign(participant_id=people, session_id=sessions)
    number = _whole(table["slice"]) if "slice" in table else 0
    sources = [dict.fromkeys(table, f"row {row}") for row in range(n)]
    text, problems, notes = clean(_text(table, columns), sources, columns, (), "the archive")
    table = table.assign(slice=number, **text[["site", "age", "sex"]])
    twice = table.duplicated(["participant_id", "site", "session_id", "slice"])
    if twice.any():
        row = int(twice.argmax())
        raise HarmbenchError(
            f"row {row} ({table['participant_id'][row]}) names the same scan as a row before it; "
            "distinguish them by session_id or slice"
        )
    return table, problems, [*map(Note, spellings), *notes]


def _whole(numbers: pd.Series) -> pd.Series:
    if numbers.dtype.kind in "biuf" and (np.abs(numbers) < 2**31).all():
        whole = numbers.astype(int)
        if (whole == numbers).all():
            return whole
    raise HarmbenchError("slice must hold whole numbers, the number of each slice in its scan")


def _text(table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return the columns as text, missing values as NaN; numbers are exact."""
    names = list(dict.fromkeys(filter(None, (columns.site, columns.age, columns.sex))))
    # Whether pandas converts missing values to text depends on its version, so numpy does it.
    text = [np.char.strip(table[name].to_numpy().astype(str)).tolist() for name in names]
    cells = [list(row) for row in zip(*text, strict=True)]
    read = pd.DataFrame(without_missing(cells, 0), columns=names, dtype=object)
    return read.assign(**{n: table[n] for n in ("participant_id", "session_id") if n not in names})
