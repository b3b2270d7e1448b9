"""Read NIfTI files of unknown origin: the header is checked before anything else is read.

Only the 348 or 540 bytes of the header are read, never its extensions, whose stated lengths may be
wrong. A header that states more data than the file can hold is refused.
"""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from harmbench.contracts.dataset import Note
from harmbench.data.bids_layout import Scan
from harmbench.data.planes import check_affine, read_values
from harmbench.data.preprocess import Prepared, PreprocessConfig, prepare
from harmbench.data.problems import ScanName, full_name, some
from harmbench.errors import HarmbenchError
from harmbench.files.foreign import mebibytes, most_unpacked

MOST_VOXELS = 2**28
"""Largest number of voxels: 640 along each side, 1 GiB as float32."""
LATEST_START = 2**26
"""Largest number of bytes before the first voxel."""
OBLIQUE = 5.0
"""Smallest angle in degrees of a grid that is called oblique."""
VOXEL_SIDES = (0.05, 50.0)
"""Plausible voxel sides in mm; meters or micrometers in the header are outside."""
GZIP_MAGIC = b"\x1f\x8b"
KINDS = {348: nib.Nifti1Image, 540: nib.Nifti2Image}
"""NIfTI 1 and 2, by the size of the header, which is the first number in it."""
QUIET = logging.Logger("nibabel", logging.CRITICAL + 1)
"""nibabel's own logger writes the bytes of the header to the terminal, without the file's name."""
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
"""Errors of nibabel for files that are empty, cut short or not images."""


class ImageFacts(NamedTuple):
    """Content of a file before preprocessing."""

    shape: str  # such as "256 x 256 x 150"
    orientation: str  # axis codes, such as "RAS", and the angle if the grid is oblique
    spacing: str  # voxel sides in mm
    dtype: str
    low: float  # smallest finite value
    high: float
    holes: int  # number of values that are NaN or infinite
    located: bool  # whether the header has an sform or qform code


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


def open_image(file: Path) -> SpatialImage:
    """Open an image and check its header before any memory is allocated.

    Raises
    ------
    HarmbenchError
        If it is a broken link, or its header is implausible.
    OSError, ValueError, ...
        One of `READ_ERRORS`, if it is not a NIfTI file.
    """
    if file.is_symlink() and not file.exists():
        raise HarmbenchError(
            "it is a link to nothing; fetch its content first (git-annex and DataLad: `datalad "
            "get`)"
        )
    if not file.is_file():
        raise HarmbenchError("it is not a file")
    compressed = _compression(file)
    kind, header = _header(file, compressed)
    _check_size(header, file.stat().st_size, compressed)
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    check_affine(affine)
    with np.errstate(over="ignore"):
        sides = voxel_sizes(affine)
    low, high = VOXEL_SIDES
    if not ((sides >= low) & (sides <= high)).all():
        raise HarmbenchError(
            f"its header states voxels of {times(sides)} mm, outside {low:g} to {high:g} mm; "
            "correct the header"
        )
    return kind(ArrayProxy(file, header), affine, header)


def _compression(file: Path) -> bool:
    """Return whether a file is compressed; its name must agree."""
    with file.open("rb") as stream:
        compressed = stream.read(2) == GZIP_MAGIC
    if file.name.endswith(".gz") and not compressed and file.stat().st_size > 348:
        raise HarmbenchError(
            "it cannot be read: it is not compressed although its name ends in .gz; copy it "
            "again, or take .gz from its name if it is NIfTI"
        )
    if compressed and not file.name.endswith(".gz"):
        raise HarmbenchError("it is compressed; add .gz to its name")
    return compressed


def _header(file: Path, compressed: bool) -> tuple[type[SpatialImage], Any]:
    with gzip.open(file) if compressed else file.open("rb") as stream:
        block = stream.read(max(KINDS))
    for order in ("little", "big"):
        size = int.from_bytes(block[:4], order)  # type: ignore[arg-type]
        if size in KINDS and len(block) >= size:
            kind = KINDS[size]
            header = kind.header_class(block[:size], check=False)
            header.check_fix(QUIET, error_level=40)
            return kind, header
    raise ImageFileError("it does not begin with the header of a NIfTI file")


def _check_size(header: Any, file_size: int, compressed: bool) -> None:
    """Refuse a number, type or position of voxels that is not possible in a file of this size."""
    shape = tuple(map(int, header.get_data_shape()))
    # 64-bit integers could overflow.
    voxels = float(np.prod([float(side) for side in shape]))
    if not 0 < voxels <= MOST_VOXELS or min(shape) < 1:
        raise HarmbenchError(
            f"its header states {times(shape)} voxels; from 1 to {MOST_VOXELS} are read"
        )
    dtype, offset = header.get_data_dtype(), header.get_data_offset()
    if dtype.kind not in "biuf":
        raise HarmbenchError(f"it holds {dtype}, not real numbers; convert it")
    if not 0 <= offset <= LATEST_START:
        raise HarmbenchError(f"its header states that data begin at byte {offset}; copy it again")
    promised = offset + int(voxels) * dtype.itemsize
    most = most_unpacked(file_size) if compressed else file_size
    if promised > most:
        raise HarmbenchError(
            f"it cannot be read: its header promises {mebibytes(promised)}, and a file of "
            f"{mebibytes(file_size)} holds {mebibytes(most)} at most; it is cut short, or made to "
            "exhaust the memory: copy it again"
        )


def times(values: object) -> str:
    """Return numbers as a product, such as ``"256 x 256 x 150"``."""
    return " x ".join(f"{round(float(value), 3):g}" for value in np.atleast_1d(np.asarray(values)))
