"""Arrays of a NumPy archive of unknown origin: every member is judged before it is unpacked."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from harmbench.data.mapped import mapped
from harmbench.data.problems import printable
from harmbench.errors import HarmbenchError
from harmbench.files.foreign import mebibytes, most_unpacked

ENDING = ".npy"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What `numpy.savez` and `numpy.savez_compressed` write; bzip2 and LZMA pack far more into less."""


def read_npz(path: Path, large: Collection[str] = ()) -> dict[str, NDArray]:
    """Return the arrays of an archive, by name; objects are never unpickled.

    Parameters
    ----------
    path : Path
        Written by `numpy.savez` or `numpy.savez_compressed`.
    large : collection of str
        Arrays that are mapped, not read, where `harmbench.data.mapped` can.

    Raises
    ------
    HarmbenchError
        Where it is no such archive, or its headers promise more than a file of its size holds.
    """
    if not os.path.isfile(path):
        raise HarmbenchError(f"there is no file {path}")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise HarmbenchError(f"{path} is not a NumPy archive; write it with numpy.savez") from error
    with archive:
        promised = 0
        for info in archive.infolist():
            with _named(path, info):
                promised += _promised(archive, info)
        size = path.stat().st_size
        if promised > (most := most_unpacked(size)):
            raise HarmbenchError(
                f"{path}: its arrays would be {mebibytes(promised)}, and an archive of "
                f"{mebibytes(size)} holds {mebibytes(most)} at most; it is damaged, or made to "
                "exhaust the memory"
            )
        arrays = {}
        for info in archive.infolist():
            with _named(path, info):
                in_file = mapped(path, archive, info) if _name(info) in large else None
                arrays[_name(info)] = _read(archive, info) if in_file is None else in_file
    return arrays


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray:
    with archive.open(info) as member:
        return _checked(npy.read_array(member, allow_pickle=False))


def _checked(array: NDArray) -> NDArray:
    """Return an array; refuse text that is no Unicode, of which no file can be written."""
    if array.dtype.kind == "U":
        letters = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
        if ((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters <= 0xDFFF))).any():
            raise ValueError("it holds text that is no Unicode")
    return array


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(ENDING)


@contextmanager
def _named(path: Path, info: zipfile.ZipInfo) -> Iterator[None]:
    """Name the array in what goes wrong with a member."""
    try:
        yield
    # What zipfile, zlib and NumPy's parser of headers raise for bytes at random has no common base.
    except Exception as error:
        said = printable(str(error) or type(error).__name__)
        raise HarmbenchError(
            f"{path}: array '{printable(_name(info))}' cannot be read ({said}); objects are "
            "refused, so write text as numpy.array(values, dtype=str)"
        ) from error


def _promised(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return the bytes that a member's array takes; its header alone is read."""
    if info.compress_type not in METHODS:
        raise ValueError("it is packed by a method that NumPy does not write")
    with archive.open(info) as member:
        # The headers of later versions may be gigabytes; NumPy writes them for records only.
        if npy.read_magic(member) != (1, 0):
            raise ValueError("it is no array of numbers or text")
        shape, _, dtype = npy.read_array_header_1_0(member)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if any(side < 0 for side in shape):
        raise ValueError(f"it states a shape of {shape}")
    # NumPy makes texts of width 0 one letter wide.
    size = math.prod(shape) * max(np.dtype(dtype).itemsize, 1)
    if size > info.file_size:
        raise ValueError(f"it states {mebibytes(size)} and holds {mebibytes(info.file_size)}")
    return size
