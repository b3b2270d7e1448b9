"""A cohort of slices written as a BIDS folder, which `harmbench.data.bids` reads back."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import harmbench
from harmbench.cohort import Cohort
from harmbench.data.bids import PREPROCESSED
from harmbench.errors import HarmbenchError

ENTITIES = ("participant_id", "session_id", "slice")


def write_bids(cohort: Cohort, folder: str | Path, spacing_mm: float, name: str) -> None:
    """Write one slice per scan, its mask, and the participants table, as a BIDS derivative.

    A participant with one scan and no session stands in ``sub-*/anat/``; any other has ``ses-*``
    folders and a ``sub-*_sessions.tsv`` that carries the site and all else of each scan. A scan
    without a session, of a participant with several, is given the session ``ses-<site>``.

    dataset_description.json says that the images are final (``HarmbenchPreprocessed``), so the
    loader neither centers nor scales them, and returns equal values where its size is theirs.

    Parameters
    ----------
    cohort : Cohort
        Slices, first axis to the right and second to the front.
    folder : str or Path
        Must be missing or empty; it appears complete or not at all.
    spacing_mm : float
        Side of a pixel in mm.
    name : str
        Name of the data set.

    Raises
    ------
    HarmbenchError
        Where the folder holds something, the cohort is not of one slice per scan, or two names
        become the same BIDS label.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HarmbenchError(f"{folder} exists and is not an empty folder; name another")
    if cohort.space != "slice":
        raise HarmbenchError(f"only slices can be written as BIDS, not a cohort of {cohort.space}s")
    labels = _labels(cohort)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's folders are private
        _write_images(cohort, labels, draft, spacing_mm)
        _write_tables(cohort, labels, draft)
        _write_texts(cohort, draft, spacing_mm, name)
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _labels(cohort: Cohort) -> pd.DataFrame:
    """Return the BIDS names of every row: columns ``sub`` and ``ses`` (``""`` where none)."""
    table = cohort.participants
    subject = table["participant_id"].astype(str)
    several = subject.duplicated(keep=False)
    session = table["session_id"].astype(str)
    session = session.where((session != "") | ~several, table["site"].astype(str))
    labels = pd.DataFrame(
        {
            "sub": [_label("sub-", value) for value in subject],
            "ses": [_label("ses-", value) if value else "" for value in session],
        }
    )
    if labels["sub"].nunique() != subject.nunique():
        raise HarmbenchError("two participants become the same BIDS label (letters and digits)")
    twice = labels.duplicated()
    if twice.any():
        row = labels[twice].iloc[0]
        raise HarmbenchError(
            f"{row['sub']} {row['ses']} would be written twice; each scan needs a session of its "
            "own and only one slice"
        )
    return labels


def _label(prefix: str, value: str) -> str:
    clean = re.sub("[^0-9A-Za-z]", "", value.removeprefix(prefix))
    if not clean:
        raise HarmbenchError(f"'{value}' has no letter or digit to make a BIDS label of")
    return prefix + clean


def _write_images(cohort: Cohort, labels: pd.DataFrame, root: Path, spacing_mm: float) -> None:
    affine = _affine(cohort.shape, spacing_mm)
    for row, (subject, session) in enumerate(labels.itertuples(index=False)):
        place = root / subject / session / "anat"
        place.mkdir(parents=True)
        stem = "_".join(filter(None, (subject, session)))
        _write_nifti(place / f"{stem}_desc-preproc_T1w.nii.gz", cohort.images[row], affine)
        mask = cohort.mask[row].astype(np.uint8)
        _write_nifti(place / f"{stem}_desc-brain_mask.nii.gz", mask, affine)


def _affine(shape: tuple[int, ...], spacing_mm: float) -> NDArray[np.float64]:
    """Return axes right, anterior, superior, with the origin in the middle of the slice."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:2, 3] = -spacing_mm * (np.array(shape) - 1) / 2
    return affine


def _write_nifti(file: Path, image: NDArray, affine: NDArray[np.float64]) -> None:
    nifti = nib.Nifti1Image(image[..., np.newaxis], affine)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, file)


def _write_tables(cohort: Cohort, labels: pd.DataFrame, root: Path) -> None:
    """Write participants.tsv with what is common to a participant's scans, the rest by session."""
    table = cohort.participants.drop(columns=list(ENTITIES)).reset_index(drop=True)
    people = []
    for subject, rows in labels.groupby("sub", sort=True):
        scans = table.loc[rows.index]
        common = {c: scans[c].iloc[0] for c in scans if scans[c].nunique(dropna=False) == 1}
        people.append({"participant_id": subject} | dict.fromkeys(table, np.nan) | common)
        if rows["ses"].any():
            sessions = scans.assign(session_id=rows["ses"])[["session_id", *table.columns]]
            _write_tsv(root / str(subject) / f"{subject}_sessions.tsv", sessions)
    _write_tsv(root / "participants.tsv", pd.DataFrame(people))


def _write_tsv(file: Path, table: pd.DataFrame) -> None:
    table.to_csv(file, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def _write_texts(cohort: Cohort, root: Path, spacing_mm: float, name: str) -> None:
    program = {"Name": "harmbench", "Version": harmbench.__version__}
    _write_json(
        root / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [program],
            PREPROCESSED: {"size": list(cohort.shape), "spacing_mm": float(spacing_mm)},
        },
    )
    _write_json(
        root / "participants.json",
        {
            "site": {"Description": "Where the scan was made"},
            "age": {"Description": "Age at the scan", "Units": "year"},
            "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
        },
    )
    text = f"{name}\n\n{len(cohort)} slices written by harmbench {harmbench.__version__}.\n"
    (root / "README").write_text(text, encoding="utf-8")


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
