"""One image file: opened with care, described by its header, and brought onto the grid."""

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
from harmbench.data.problems import ScanName, some
from harmbench.errors import HarmbenchError

OBLIQUE = 5.0
"""Degrees from which a grid is called oblique."""


class ImageFacts(NamedTuple):
    """What a file holds, before anything is done to it.

    Attributes
    ----------
    shape : str
        Such as ``"256 x 256 x 150"``.
    orientation : str
        Axis codes, such as ``"RAS"``, and the angle where it is oblique.
    spacing : str
        Voxel sides in mm.
    dtype : str
        As stored.
    low, high : float
        Least and largest finite value.
    holes : int
        Values that are NaN.
    located : bool
        Whether the header states where the image lies (an sform or qform code).
    """

    shape: str
    orientation: str
    spacing: str
    dtype: str
    low: float
    high: float
    holes: int
    located: bool


class Read(NamedTuple):
    """The slices of one scan, and what its file holds."""

    slices: list[Prepared]
    facts: ImageFacts


def read_scan(scan: Scan, config: PreprocessConfig) -> Read:
    """Read one image and its mask and bring its slices onto the grid.

    Raises
    ------
    HarmbenchError
        Where it cannot be read, or for the reasons of `prepare`.
    """
    try:
        image = open_image(scan.image)
        data = read_values(image)
        facts = describe(image, data)
        mask = None if scan.mask is None else open_image(scan.mask)
        return Read(prepare(nib.Nifti1Image(data, image.affine), mask, config), facts)
    except HarmbenchError:
        raise
    except PermissionError as error:
        raise HarmbenchError(
            f"it cannot be read ({_said(error, scan)}); give yourself the permission to read it"
        ) from error
    except READ_ERRORS as error:
        its_mask = f", or its mask {scan.mask.name}," if scan.mask else ""
        said = _said(error, scan)
        raise HarmbenchError(
            f"it{its_mask} cannot be read ({said}); it may be empty or cut short: copy it again"
        ) from error


def _said(error: BaseException, scan: Scan) -> str:
    """Return an error's own words on one line, without the folders of this machine."""
    said = " ".join(str(error).split()) or type(error).__name__
    for file in filter(None, (scan.image, scan.mask)):
        said = said.replace(f"{file.parent}{os.sep}", "")
    return said


def describe(image: SpatialImage, data: np.ndarray) -> ImageFacts:
    """Return what a file holds; `data` are its values as float32."""
    finite = np.isfinite(data)
    low = float(np.min(data, where=finite, initial=np.inf))
    high = float(np.max(data, where=finite, initial=-np.inf))
    affine = np.asarray(image.affine, dtype=np.float64)
    codes = "".join(code or "?" for code in nib.aff2axcodes(affine))
    angle = float(np.degrees(obliquity(affine).max()))
    header = image.header
    located = bool(header.get("sform_code", 1) or header.get("qform_code", 1))
    return ImageFacts(
        shape=times(image.shape),
        orientation=codes + (f", oblique by {angle:.0f}°" if angle >= OBLIQUE else ""),
        spacing=times(voxel_sizes(affine)[: max(2, min(data.ndim, 3))]),
        dtype=str(image.get_data_dtype()),
        low=low,
        high=high,
        holes=int(data.size - np.count_nonzero(finite)),
        located=located,
    )


def image_notes(facts: Sequence[tuple[ScanName, ImageFacts]]) -> Iterator[Note]:
    """Yield what is worth knowing of the files that were used."""
    holed = [" ".join(filter(None, name)) for name, fact in facts if fact.holes]
    if holed:
        yield Note(f"NaN around the brain is read as 0 in {some(holed)}")
    lost = [" ".join(filter(None, name)) for name, fact in facts if not fact.located]
    if lost:
        yield Note(
            f"the headers of {some(lost)} do not say where left and right, front and back are; "
            "look at the thumbnails of `harmbench check --html`"
        )
