"""One image file: opened with care, described by its header, and brought onto the grid."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from harmbench.data.bids_layout import Scan
from harmbench.data.planes import usable_affine
from harmbench.data.preprocess import Prepared, PreprocessConfig, prepare
from harmbench.errors import HarmbenchError

MOST_VOXELS = 2**28
"""Voxels of the largest image that is read: 640 along each side, 1 GiB as float32."""
LATEST_START = 2**26
"""Bytes before the first voxel; a header that says more is damaged (or made to exhaust us)."""
VOXEL_SIDES = (0.05, 50.0)
"""Plausible voxel sides in mm; meters or micrometers in the header lie outside."""
OBLIQUE = 5.0
"""Degrees from which a grid is called oblique."""
GZIP_MAGIC = b"\x1f\x8b"
READ_ERRORS = (
    OSError,
    EOFError,
    TypeError,
    ValueError,
    MemoryError,
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""What nibabel raises for files that are empty, cut short or no images."""


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
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            data = np.asanyarray(image.dataobj, dtype=np.float32)
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


def open_image(file: Path) -> SpatialImage:
    """Open an image and refuse what its header promises before anything is allocated.

    Raises
    ------
    HarmbenchError
    """
    if file.is_symlink() and not file.exists():
        raise HarmbenchError(
            "it is a link to nothing; fetch its content first (git-annex and DataLad: `datalad "
            "get`)"
        )
    if not file.is_file():
        raise HarmbenchError("it is no file")
    _check_compression(file)
    image = nib.load(file)
    shape = tuple(map(int, image.shape))
    voxels = np.prod([float(side) for side in shape])
    if not 0 < voxels <= MOST_VOXELS or min(shape) < 1:
        raise HarmbenchError(
            f"its header states {_times(shape)} voxels; from 1 to {MOST_VOXELS} are read"
        )
    if image.get_data_dtype().kind not in "biuf":
        raise HarmbenchError(f"it holds {image.get_data_dtype()}, not real numbers; convert it")
    if getattr(image.dataobj, "offset", 0) > LATEST_START:
        raise HarmbenchError(
            f"its header states that data begin at byte {image.dataobj.offset}; copy it again"
        )
    sides = voxel_sizes(usable_affine(image))
    if not ((sides >= VOXEL_SIDES[0]) & (sides <= VOXEL_SIDES[1])).all():
        raise HarmbenchError(
            f"its header states voxels of {_times(sides)} mm, outside {VOXEL_SIDES[0]:g} to "
            f"{VOXEL_SIDES[1]:g} mm; mend the header"
        )
    return image


def _check_compression(file: Path) -> None:
    with file.open("rb") as stream:
        compressed = stream.read(2) == GZIP_MAGIC
    if file.name.endswith(".gz") and not compressed and file.stat().st_size > 348:
        raise HarmbenchError(
            "it cannot be read: it is not compressed although its name ends in .gz; copy it "
            "again, or take .gz from its name if it is NIfTI"
        )
    if compressed and not file.name.endswith(".gz"):
        raise HarmbenchError("it is compressed; add .gz to its name")


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
        shape=_times(image.shape),
        orientation=codes + (f", oblique by {angle:.0f}°" if angle >= OBLIQUE else ""),
        spacing=_times(voxel_sizes(affine)[: max(2, min(data.ndim, 3))]),
        dtype=str(image.get_data_dtype()),
        low=low,
        high=high,
        holes=int(data.size - np.count_nonzero(finite)),
        located=located,
    )


def _times(values: object) -> str:
    return " x ".join(f"{round(float(value), 3):g}" for value in np.atleast_1d(np.asarray(values)))
