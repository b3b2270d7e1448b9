"""Write a cohort of slices as a BIDS folder, which `harmbench.data.bids` can read."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

import harmbench
from harmbench.contracts.cohort import IDENTIFIERS, Cohort
from harmbench.data.bids import PREPROCESSED
from harmbench.data.geometry import centered
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

MASK = "desc-brain_mask.nii.gz"


class Name(NamedTuple):
    """The entities of one row, such as ``sub-01``, ``ses-1`` and ``chunk-2``, or ``""``.

    Labels consist of letters and digits, so a name cannot lead out of its folder.
    """

    subject: str
    session: str = ""
    chunk: str = ""

    @property
    def stem(self) -> str:
        """The beginning of the file's name."""
        return "_".join(filter(None, self))

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return Path(self.subject, self.session, "anat")

    def file(self, rest: str) -> Path:
        """Return the path of a file with this description and suffix."""
        return self.folder / f"{self.stem}_{rest}"


def names_of(table: pd.DataFrame) -> list[Name]:
    """Return the BIDS names of rows.

    If a participant has several scans, a scan without a session gets the session ``ses-<site>``.
    Slices of a scan after the first are chunks.

    Parameters
    ----------
    table : DataFrame
        Columns ``participant_id``, ``site``, ``session_id`` and ``slice``. It must have all rows
        of each participant, because the names depend on them.

    Raises
    ------
    HarmbenchError
        If two rows, or two participants, get the same name, or a name has no letters or digits.
    """
    subject, session = table["participant_id"].astype(str), table["session_id"].astype(str)
    site = table["site"].astype(str)
    scans = pd.DataFrame({"who": subject, "site": site, "session": session}).drop_duplicates()
    several = subject.isin(scans["who"][scans["who"].duplicated()])
    session = session.where((session != "") | ~several, site)
    if (table["slice"] < 0).any():
        raise HarmbenchError(f"slice {table['slice'].min()} is negative; number slices from 0")
    names = [
        Name(
            _label("sub-", who),
            _label("ses-", when) if when else "",
            f"chunk-{int(number)}" if number else "",
        )
        for who, when, number in zip(subject, session, table["slice"], strict=True)
    ]
    if len({name.subject for name in names}) != subject.nunique():
        raise HarmbenchError("two participants become the same BIDS label (letters and digits)")
    seen: set[Name] = set()
    for name in names:
        if name in seen:
            raise HarmbenchError(
                f"{' '.join(filter(None, name))} would be written twice; each scan needs a session "
                "of its own, and each slice a number"
            )
        seen.add(name)
    return names


def _label(prefix: str, value: str) -> str:
    clean = re.sub("[^0-9A-Za-z]", "", value.removeprefix(prefix))
    if not clean:
        raise HarmbenchError(f"'{value}' has no letter or digit for a BIDS label")
    return prefix + clean


def write_bids(cohort: Cohort, folder: str | Path, spacing_mm: float, name: str) -> None:
    """Write slices, their masks, and the participants table as a BIDS derivative.

    The images of a participant with one scan and no session are in ``sub-*/anat/``. All others
    have ``ses-*`` folders and a ``sub-*_sessions.tsv`` with the site and other columns of each
    scan; see `names_of` for scans without a session.

    dataset_description.json states that the images are final (``HarmbenchPreprocessed``), so the
    loader does not center or scale them, and returns equal values at the same size.

    Parameters
    ----------
    cohort : Cohort
        Slices, first axis to the right and second to the front.
    folder : str or Path
        Must be missing or empty; it appears only when it is complete.
    spacing_mm : float
        Side of a pixel in mm.
    name : str
        Name of the data set.

    Raises
    ------
    HarmbenchError
        If the folder is not empty, the images are not slices, or two names get the same BIDS label.
    """
    affine = centered(cohort.shape, spacing_mm)
    with new_folder(folder) as draft:
        write_derivative(cohort, draft, np.broadcast_to(affine, (len(cohort), 4, 4)), name)
        text = f"{name}\n\n{len(cohort)} slices written by harmbench {harmbench.__version__}.\n"
        (draft / "README").write_text(text, encoding="utf-8")


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give a hidden folder, which is renamed to `folder` when the block ends without an error.

    Raises
    ------
    HarmbenchError
        If `folder` exists and is not an empty folder, or cannot be written.
    """
    folder = Path(folder)
    refuse_taken(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise HarmbenchError(f"{folder} cannot be written: {error}") from error
    try:
        draft.chmod(0o755)  # mkdtemp's folders are private
        yield draft
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def refuse_taken(folder: Path) -> None:
    """Raise a HarmbenchError if a folder to be written is not missing or empty."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise HarmbenchError(f"{folder} exists and is not an empty folder; name another")


def write_derivative(
    cohort: Cohort,
    root: Path,
    affines: NDArray[np.float64],
    name: str,
    *,
    rest: str = "desc-preproc_T1w.nii.gz",
    progress: Progress | None = None,
) -> list[Name]:
    """Write images, masks, tables and the description into an existing folder.

    Parameters
    ----------
    cohort : Cohort
        Slices.
    root : Path
    affines : ndarray, shape (n, 4, 4)
        Positions of the slices, see `harmbench.data.geometry`.
    name : str
        Name of the data set.
    rest : str
        End of the images' names, after subject and session.
    progress : Progress or None

    Returns
    -------
    list of Name
        Names of the rows, see `names_of` also for errors.
    """
    if cohort.space != "slice":
        raise HarmbenchError(f"only slices can be written as BIDS, not a cohort of {cohort.space}s")
    names = names_of(cohort.participants)
    with (progress or Progress()).task("writing images", len(cohort)) as task:
        for row, one in enumerate(names):
            (root / one.folder).mkdir(parents=True, exist_ok=True)
            _write_nifti(root / one.file(rest), cohort.images[row], affines[row])
            mask = cohort.mask[row].astype(np.uint8)
            _write_nifti(root / one.file(MASK), mask, affines[row])
            task.advance(note=one.subject)
    _write_tables(cohort, names, root)
    spacing = round(float(voxel_sizes(affines[0])[0]), 9)
    description = {
        "Name": name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "harmbench", "Version": harmbench.__version__}],
        PREPROCESSED: {"size": list(cohort.shape), "spacing_mm": spacing},
    }
    columns = {
        "site": {"Description": "Where the scan was made"},
        "age": {"Description": "Age at the scan", "Units": "year"},
        "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
    }
    for file, content in (("dataset_description", description), ("participants", columns)):
        text = json.dumps(content, indent=2) + "\n"
        (root / f"{file}.json").write_text(text, encoding="utf-8")
    return names


def _write_nifti(file: Path, image: NDArray, affine: NDArray[np.float64]) -> None:
    nifti = nib.Nifti1Image(image[..., np.newaxis], affine)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, file)


def _write_tables(cohort: Cohort, names: Sequence[Name], root: Path) -> None:
    """Write what all scans of a participant share to participants.tsv, the rest by session."""
    labels = pd.DataFrame([(n.subject, n.session) for n in names], columns=["sub", "ses"])
    labels = labels.drop_duplicates()
    table = cohort.participants.drop(columns=list(IDENTIFIERS)).reset_index(drop=True)
    people = []
    for subject, rows in labels.groupby("sub", sort=True):
        scans = table.loc[rows.index]
        common = {c: scans[c].iloc[0] for c in scans if scans[c].nunique(dropna=False) == 1}
        people.append({"participant_id": subject} | dict.fromkeys(table, np.nan) | common)
        if rows["ses"].any():
            sessions = scans.assign(session_id=rows["ses"])[["session_id", *table.columns]]
            write_tsv(root / str(subject) / f"{subject}_sessions.tsv", sessions)
    write_tsv(root / "participants.tsv", pd.DataFrame(people))


def write_tsv(file: Path, table: pd.DataFrame) -> None:
    """Write a table in the format of BIDS."""
    table.to_csv(file, sep="\t", index=False, na_rep="n/a", lineterminator="\n")
