"""NIfTI files of unknown origin: the header is judged before anything else is read.

Only the header's own 348 or 540 bytes are taken from a file, and its extensions never, whose stated
lengths a reader would believe. What the header promises is refused where the file cannot hold it.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from harmbench.data.planes import check_affine
from harmbench.errors import HarmbenchError
from harmbench.files.foreign import mebibytes, most_unpacked

MOST_VOXELS = 2**28
"""Voxels of the largest image that is read: 640 along each side, 1 GiB as float32."""
LATEST_START = 2**26
"""Bytes before the first voxel; a header that says more is damaged (or made to exhaust us)."""
VOXEL_SIDES = (0.05, 50.0)
"""Plausible voxel sides in mm; meters or micrometers in the header lie outside."""
GZIP_MAGIC = b"\x1f\x8b"
KINDS = {348: nib.Nifti1Image, 540: nib.Nifti2Image}
"""NIfTI 1 and 2, by the size of the header, which is its first number."""
QUIET = logging.Logger("nibabel", logging.CRITICAL + 1)
"""nibabel's own writes the header's bytes to the terminal, and not whose they are."""
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


def open_image(file: Path) -> SpatialImage:
    """Open an image and refuse what its header promises before anything is allocated.

    Raises
    ------
    HarmbenchError
        For links to nothing, headers that no image has, and more voxels than the file can hold.
    OSError, ValueError, ...
        Any of `READ_ERRORS`, where it is no NIfTI file.
    """
    if file.is_symlink() and not file.exists():
        raise HarmbenchError(
            "it is a link to nothing; fetch its content first (git-annex and DataLad: `datalad "
            "get`)"
        )
    if not file.is_file():
        raise HarmbenchError("it is no file")
    compressed = _compression(file)
    kind, header = _header(file, compressed)
    _check_promises(header, file.stat().st_size, compressed)
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    _check_sides(affine)
    return kind(ArrayProxy(file, header), affine, header)


def read_values(image: SpatialImage) -> NDArray[np.float32]:
    """Return an image's values, its scale slope applied; infinite what float32 cannot hold."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asanyarray(image.dataobj, dtype=np.float32)


def _compression(file: Path) -> bool:
    """Return whether a file is compressed; refuse one whose name says otherwise."""
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


def _check_promises(header: Any, file_size: int, compressed: bool) -> None:
    """Refuse a number of voxels, a type or a place of them that no image of this size has."""
    shape = tuple(map(int, header.get_data_shape()))
    # Not in integers of 64 bits, which wrap around.
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


def _check_sides(affine: NDArray[np.float64]) -> None:
    check_affine(affine)
    with np.errstate(over="ignore"):
        sides = voxel_sizes(affine)
    if not ((sides >= VOXEL_SIDES[0]) & (sides <= VOXEL_SIDES[1])).all():
        raise HarmbenchError(
            f"its header states voxels of {times(sides)} mm, outside {VOXEL_SIDES[0]:g} to "
            f"{VOXEL_SIDES[1]:g} mm; mend the header"
        )


def times(values: object) -> str:
    """Return numbers as a product, such as ``"256 x 256 x 150"``."""
    return " x ".join(f"{round(float(value), 3):g}" for value in np.atleast_1d(np.asarray(values)))
