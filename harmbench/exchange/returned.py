"""What comes back: a folder of harmonized slices, found by name and read as they are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import COVARIATES, Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.contracts.product import ProductUnavailable
from harmbench.data.bids_layout import refuse_strays
from harmbench.data.bids_write import Name, names_of
from harmbench.data.nifti import READ_ERRORS, open_image
from harmbench.data.planes import read_values
from harmbench.data.problems import printable
from harmbench.errors import HarmbenchError
from harmbench.files.models import load_model, save_model

GRID_TOLERANCE = 0.01
"""Largest difference of an affine, in mm: headers hold float32, or quaternions."""
_FILE = re.compile(
    r"(?P<stem>sub-[0-9A-Za-z]+(_ses-[0-9A-Za-z]+)?(_chunk-[0-9]+)?)"
    r"_desc-(?P<description>harmonized|preproc)_(?P<suffix>[0-9A-Za-z]+)\.nii(\.gz)?"
)


class Files:
    """The images of a folder, by the place and the begin of their names.

    Where some are described as harmonized, the others, as they were exported, are not looked at.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    HarmbenchError
        Where it holds no image, or links that lead out of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found: dict[str, dict[str, list[Path]]] = {"harmonized": {}, "preproc": {}}
        for pattern in ("sub-*/anat/*.nii*", "sub-*/ses-*/anat/*.nii*"):
            for file in sorted(folder.glob(pattern)):
                match = _FILE.fullmatch(file.name)
                if match and match["suffix"] != "mask":
                    place = file.parent.relative_to(folder) / match["stem"]
                    by_place = found[match["description"]]
                    by_place.setdefault(place.as_posix(), []).append(file)
        self.by_place = found["harmonized"] or found["preproc"]
        if not self.by_place:
            raise HarmbenchError(
                f"{folder} holds no image at sub-*/[ses-*/]anat/*_desc-preproc_*.nii[.gz] or "
                "*_desc-harmonized_*.nii[.gz]; give the folder with the harmonized images, under "
                "the names that `harmbench export` gave them"
            )
        files = [file for mine in self.by_place.values() for file in mine]
        refuse_strays(folder.resolve(), files)

    def of(self, name: Name) -> list[Path]:
        """Return the files of one row: one, or by mistake none or several."""
        return self.by_place.get((name.folder / name.stem).as_posix(), [])

    @property
    def content(self) -> str:
        """Hash of the names and bytes of all images."""
        digest = hashlib.sha256()
        for place, files in sorted(self.by_place.items()):
            for file in files:
                digest.update(f"{place}\0{file.name}\0".encode())
                try:
                    if not file.is_file():  # a pipe would be waited for
                        raise FileNotFoundError(file)
                    with file.open("rb") as stream:
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
                except OSError:
                    digest.update(b"unreadable")  # reading it says why
        return digest.hexdigest()[:32]


def read_slice(
    file: Path, shape: tuple[int, ...], affine: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Read one harmonized slice; its scale slope is applied, nothing else.

    Parameters
    ----------
    file : Path
    shape : tuple of int
        What it must have, apart from further axes of length 1.
    affine : ndarray, shape (4, 4), or None
        Where it must lie; None for anywhere.

    Returns
    -------
    ndarray of float32, of that shape

    Raises
    ------
    HarmbenchError
        Where it cannot be read, lies on another grid, or holds values that are not finite.
    """
    try:
        image = open_image(file)
        data = read_values(image)
    except READ_ERRORS as error:
        said = " ".join(str(error).split()).replace(f"{file.parent}/", "") or type(error).__name__
        raise HarmbenchError(f"it cannot be read ({said}); write it again") from error
    if data.shape[: len(shape)] != shape or any(side != 1 for side in data.shape[len(shape) :]):
        raise HarmbenchError(
            f"it has shape {data.shape}, the exported slice {shape}; return the grid as it was"
        )
    if affine is not None and not np.allclose(image.affine, affine, atol=GRID_TOLERANCE):
        raise HarmbenchError(
            "its affine is not that of the exported slice, so its axes may be turned or shifted; "
            "write it with the exported image's affine"
        )
    data = data.reshape(shape)
    broken = int(np.count_nonzero(~np.isfinite(data)))
    if broken:
        raise HarmbenchError(f"{broken} of its values are NaN or infinite; return numbers only")
    return data


class Returned(Harmonizer):
    """Images that a program outside has harmonized: looked up, never computed.

    It can return what lies in its folder and nothing else, so whatever needs other images (other
    covariates, another target) is skipped. `harmbench evaluate` fills in the parameters.

    Parameters
    ----------
    folder : str
        Where the images lie.
    content : str
        `Files.content` of that folder; part of every key, so changed files are never mixed.
    """

    def __init__(self, folder: str = "", content: str = "") -> None:
        self.folder = folder
        self.content = content

    @property
    def info(self) -> MethodInfo:
        """It may have seen everything that is exported."""
        return MethodInfo(
            name="returned",
            label="Returned images",
            summary="Images harmonized by a program outside, scored as they came back.",
            fit_sees=frozenset(COVARIATES),
            harmonize_sees=frozenset(COVARIATES),
            images_only=True,
        )

    def skip(self, cohort: Cohort) -> str | None:
        """Say where there are no images at all."""
        if not self.folder:
            return "takes the images of a folder: see `harmbench evaluate`"
        return super().skip(cohort)

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn nothing."""
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the files' images, shape (n, *shape).

        Parameters
        ----------
        cohort : Cohort
            Of each participant all rows, of which the names are made.
        target : None
            They are at the reference site, or were refused.
        context : ApplyContext
            Its progress is shown.

        Raises
        ------
        HarmbenchError
            Where the files are not those that were evaluated, or one is missing or unusable.
        ProductUnavailable
            Where none of the rows has an image, as a program may leave out the fit part.
        """
        if target is not None:
            raise HarmbenchError(f"images that were made elsewhere are not there for '{target}'")
        files = Files(Path(self.folder))
        if files.content != self.content:
            raise HarmbenchError(
                f"the images in {self.folder} have changed since they were evaluated; evaluate "
                "them again"
            )
        found = [files.of(name) for name in names_of(cohort.participants)]
        if not any(found):
            raise ProductUnavailable(
                "these images were made elsewhere; needs the harmonized images of a part that "
                "was not returned"
            )
        images = np.empty_like(cohort.images)
        with context.progress.task("reading images", len(cohort)) as task:
            for row, (key, mine) in enumerate(zip(cohort.keys, found, strict=True)):
                if len(mine) != 1:
                    raise HarmbenchError(f"{key.participant_id} has {len(mine)} images, not one")
                images[row] = read_slice(mine[0], cohort.shape)
                task.advance(note=printable(key.participant_id))
        return images

    def save(self, folder: Path) -> None:
        """Write where the images lie."""
        save_model(folder, {}, self.params())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        return cls(**load_model(folder)[1])
