"""Read one image file, describe its header, and bring it onto the grid."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from nibabel.spatialimages import SpatialImage

from harmbench.contracts.dataset import Note
from harmbench.data.bids_layout import Scan
from harmbench.data.nifti import READ_ERRORS, open_image, read_values, times
from harmbench.data.preprocess import Prepared, PreprocessConfig, prepare
from harmbench.data.problems import ScanName, full_name, some
from harmbench.errors import HarmbenchError

OBLIQUE = 5.0
"""Smallest angle in degrees of a grid that is called oblique."""


class ImageFacts(NamedTuple):
    """Content of a file before preprocessing.

    Attributes
    ----------
    shape : str
        Such as ``"256 x 256 x 150"``.
    orientation : str
        Axis codes, such as ``"RAS"``, and the angle if the grid is oblique.
    spacing : str
        Voxel sides in mm.
    dtype : str
        Data type in the file.
    low, high : float
        Smallest and largest finite value.
    holes : int
        Number of values that are NaN or infinite.
    located : bool
        Whether the header states the position of the image (an sform or qform code).
    """

    shape: str
    orientation: str
    spacing: str
    dtype: str
    low: float
    high: float
    holes: int
    located: bool


def read_scan(scan: Scan, config: PreprocessConfig) -> tuple[list[Prepared], ImageFacts]:
    """Read one image and its mask; return its slices on the grid and the facts of the file.

    Raises
    ------
    HarmbenchError
        If a file cannot be read, or `prepare` raises it.
    """
    try:
        image = open_image(scan.image)
        data = read_values(image)
        facts = _describe(image, data)
        mask = None if scan.mask is None else open_image(scan.mask)
        return prepare(nib.Nifti1Image(data, image.affine), mask, config), facts
    except PermissionError as error:
        raise HarmbenchError(
            f"it cannot be read ({_text_of(error, scan)}); give yourself the permission to read it"
        ) from error
    except READ_ERRORS as error:
        its_mask = f", or its mask {scan.mask.name}," if scan.mask else ""
        raise HarmbenchError(
            f"it{its_mask} cannot be read ({_text_of(error, scan)}); it may be empty or cut short: "
            "copy it again"
        ) from error


def _text_of(error: BaseException, scan: Scan) -> str:
    """Return the text of an error on one line, without the folders of this machine."""
    text = " ".join(str(error).split()) or type(error).__name__
    for file in filter(None, (scan.image, scan.mask)):
        text = text.replace(f"{file.parent}{os.sep}", "")
    return text


def _describe(image: SpatialImage, data: np.ndarray) -> ImageFacts:
    finite = np.isfinite(data)
    affine = np.asarray(image.affine, dtype=np.float64)
    codes = "".join(code or "?" for code in nib.aff2axcodes(affine))
    angle = float(np.degrees(obliquity(affine).max()))
    header = image.header
    return ImageFacts(
        shape=times(image.shape),
        orientation=codes + (f", oblique by {angle:.0f}°" if angle >= OBLIQUE else ""),
        spacing=times(voxel_sizes(affine)[: max(2, min(data.ndim, 3))]),
        dtype=str(image.get_data_dtype()),
        low=float(np.min(data, where=finite, initial=np.inf)),
        high=float(np.max(data, where=finite, initial=-np.inf)),
        holes=int(data.size - np.count_nonzero(finite)),
        located=bool(header.get("sform_code", 1) or header.get("qform_code", 1)),
    )


def image_notes(facts: Sequence[tuple[ScanName, ImageFacts]]) -> Iterator[Note]:
    """Yield notes about the files that were used."""
    holes = [full_name(name) for name, fact in facts if fact.holes]
    if holes:
        yield Note(f"NaN around the brain is read as 0 in {some(holes)}")
    unlocated = [full_name(name) for name, fact in facts if not fact.located]
    if unlocated:
        yield Note(
            f"the headers of {some(unlocated)} do not state the directions left, right, front and "
            "back; look at the thumbnails of `harmbench check --html`"
        )
