"""Find the images, masks and descriptions in a BIDS folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmbench.contracts.dataset import Note
from harmbench.data.problems import ScanName, printable, some
from harmbench.errors import HarmbenchError
from harmbench.files.foreign import parse_json

DESCRIPTION = "dataset_description.json"


@dataclass(frozen=True)
class Scan:
    """One image file with its participant, session and mask, if there is one."""

    participant_id: str
    session_id: str
    image: Path
    mask: Path | None

    @property
    def name(self) -> ScanName:
        """Participant and session."""
        return self.participant_id, self.session_id


def home(root: Path) -> Path:
    """Return the folder that contains all files of a data set.

    This is the nearest parent folder that is a DataLad or git-annex data set; else the source data
    set of derivatives, or the folder itself.
    """
    place = root.resolve()
    for above in (place, *place.parents):
        if (above / ".datalad").is_dir() or (above / ".git" / "annex").is_dir():
            return above
    return place.parent.parent if place.parent.name == "derivatives" else place


def refuse_strays(inside: Path, files: Iterable[Path], choice: str = "") -> None:
    """Refuse links, of files or of their parent folders, that lead out of a folder.

    Parameters
    ----------
    inside : Path
        The resolved folder.
    files : iterable of Path
        Files to read.
    choice : str
        Another solution, as the end of the sentence.

    Raises
    ------
    HarmbenchError
        If there are such links. It does not show their targets, because reports repeat it.
    """
    # `Path.resolve` raises for circular links; `realpath` does not.
    lost = [file.name for file in files if not Path(os.path.realpath(file)).is_relative_to(inside)]
    if lost:
        raise HarmbenchError(
            f"{some(lost)} is behind a link that leads out of {inside.name}; copy its target into "
            f"the folder{choice}"
        )


def read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; ``{}`` if the file does not exist.

    Raises
    ------
    HarmbenchError
        If the file is not a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = parse_json(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise HarmbenchError(f"{file} is not JSON: {printable(str(error))}") from error
    if not isinstance(content, dict):
        raise HarmbenchError(f"{file} must hold a JSON object")
    return content


def find_scans(root: Path, suffix: str, contains: str = "") -> tuple[list[Scan], list[Note]]:
    """Find one image per participant and session: the first run by number.

    Parameters
    ----------
    root : Path
    suffix : str
        Such as ``T1w``.
    contains : str
        Use only files whose names contain this text.

    Returns
    -------
    scans : list of Scan
        Sorted by participant and session.
    notes : list of Note
        The number of images, and other images that were set aside.

    Raises
    ------
    HarmbenchError
        If there is no such image, or a folder cannot be opened.
    """
    # The content of a closed folder would be ignored without an error.
    closed = [
        place
        for place in (root, *sorted(root.glob("sub-*")))
        if place.is_dir() and not os.access(place, os.R_OK | os.X_OK)
    ]
    if closed:
        raise HarmbenchError(
            f"{some(map(str, closed))} cannot be opened; give yourself the permission to read it"
        )
    found = _images(root, suffix, contains)
    if not found:
        raise HarmbenchError(_no_image(root, suffix, contains))
    scans: list[Scan] = []
    notes: list[Note] = []
    for (person, visit), files in sorted(found.items()):
        files.sort(key=lambda file: _natural(file.name))
        scans.append(Scan(person, visit, files[0], _mask_of(root, files[0])))
        if len(files) > 1:
            others = some(file.name for file in files[1:])
            sentence = f"{others}: {files[0].name} is used instead; --contains chooses"
            notes.append(Note(sentence, "set_aside"))
    notes += _mixed_spaces(scans)
    masks = sum(scan.mask is not None for scan in scans)
    found_masks = f"{masks} of them with a mask" if masks else "none with a mask"
    people = len({scan.participant_id for scan in scans})
    read = f"images *_{suffix}.nii[.gz]: {len(scans)} scans of {people} participants, {found_masks}"
    return scans, [Note(read, "read"), *notes]


def _mixed_spaces(scans: list[Scan]) -> list[Note]:
    """Warn if the names of the images contain different spaces."""
    spaces = [re.search(r"_space-[a-zA-Z0-9+]+(?=_)", scan.image.name) for scan in scans]
    counts = Counter(found[0][1:] if found else "no space entity" for found in spaces)
    if len(counts) < 2:
        return []
    listed = ", ".join(f"{count} with {space}" for space, count in sorted(counts.items()))
    return [
        Note(
            f"images of different spaces are mixed ({listed}), so brains of some sites may look "
            "different only for that reason; choose one by --contains space-NAME"
        )
    ]


def _images(root: Path, suffix: str, contains: str) -> dict[ScanName, list[Path]]:
    found: dict[ScanName, list[Path]] = {}
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        for file in sorted(root.glob(f"{pattern}/*_{suffix}.nii*")):
            if file.name.endswith((".nii", ".nii.gz")) and contains in file.name:
                subject, *session = file.relative_to(root).parts[:-2]
                found.setdefault((subject, "".join(session)), []).append(file)
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key with which run-2 is before run-10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split("([0-9]+)", name)]


def _no_image(root: Path, suffix: str, contains: str) -> str:
    named = f" with '{contains}' in its name" if contains else ""
    text = f"{root} holds no image{named} at sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]"
    inside = [place for place in _derivatives(root) if _images(place, suffix, contains)]
    if inside:
        text += f"; give one of its derivatives as the folder: {some(map(str, inside))}"
    elif contains and _images(root, suffix, ""):
        names = sorted(f.name for files in _images(root, suffix, "").values() for f in files)
        text += f"; there are {some(names, 3)}"
    return text


def _derivatives(root: Path) -> list[Path]:
    place = root / "derivatives"
    return sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else []


def _mask_of(root: Path, image: Path) -> Path | None:
    """Return ``..._desc-brain_mask`` with the image's entities, in its folder or in derivatives."""
    entities = [part for part in image.name.split("_")[:-1] if not part.startswith("desc-")]
    stem = "_".join([*entities, "desc-brain", "mask"])
    folder = image.parent.relative_to(root)
    for place in (image.parent, *(other / folder for other in _derivatives(root))):
        for ending in (".nii.gz", ".nii"):
            if (place / (stem + ending)).is_file():
                return place / (stem + ending)
    return None
