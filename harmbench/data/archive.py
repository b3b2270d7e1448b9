"""Read NumPy archives of unknown origin: each member is checked before it is unpacked."""

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

from harmbench.data.problems import printable
from harmbench.errors import HarmbenchError
from harmbench.files.foreign import mebibytes, most_unpacked

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods of `numpy.savez` and `numpy.savez_compressed`; the ratios of bzip2 and LZMA
are far higher."""
LEAST_MAPPED = 2**26
"""Smallest array, in bytes, that is mapped instead of read: 64 MiB."""


def read_npz(path: Path, large: Collection[str] = ()) -> dict[str, NDArray]:
    """Return the arrays of an archive by name. Objects are never unpickled.

    Parameters
    ----------
    path : Path
        File written by `numpy.savez` or `numpy.savez_compressed`.
    large : collection of str
        Arrays to map from the file, read only, instead of reading them. An array is read anyway
        if it is compressed, small, or in Fortran order.

    Raises
    ------
    HarmbenchError
        If it is not such an archive, or its headers state more data than a file of its size holds.
    """
    if not os.path.isfile(path):
        raise HarmbenchError(f"there is no file {path}")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise HarmbenchError(f"{path} is not a NumPy archive; write it with numpy.savez") from error
    with archive:
        stated = 0
        for info in archive.infolist():
            with _named(path, info):
                stated += _stated_bytes(archive, info)
        size = path.stat().st_size
        if stated > (most := most_unpacked(size)):
            raise HarmbenchError(
                f"{path}: its arrays would be {mebibytes(stated)}, and an archive of "
                f"{mebibytes(size)} holds {mebibytes(most)} at most; it is damaged, or made to "
                "exhaust the memory"
            )
        arrays = {}
        for info in archive.infolist():
            with _named(path, info):
                mapped = _mapped(path, archive, info) if _name(info) in large else None
                arrays[_name(info)] = _read(archive, info) if mapped is None else mapped
    return arrays


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray:
    with archive.open(info) as member:
        array = npy.read_array(member, allow_pickle=False)
    if array.dtype.kind == "U":
        letters = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
        # Such text cannot be written to any file.
        if ((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters <= 0xDFFF))).any():
            raise ValueError("it holds text that is not Unicode")
    return array


def _mapped(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray | None:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < LEAST_MAPPED:
        return None
    with archive.open(info) as member:  # zipfile compares the checksum at the end of the member
        while member.read(2**20):
            pass
    with path.open("rb") as file:
        file.seek(info.header_offset)
        # The last 4 of the 30 bytes are the lengths of the name and the extra field after them.
        lengths = np.frombuffer(file.read(30)[26:], dtype="<u2")
        file.seek(int(lengths.sum()), 1)
        npy.read_magic(file)
        shape, fortran, dtype = npy.read_array_header_1_0(file)
        if fortran:
            return None
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


@contextmanager
def _named(path: Path, info: zipfile.ZipInfo) -> Iterator[None]:
    """Add the name of the array to any error of a member."""
    try:
        yield
    # The errors of zipfile, zlib and NumPy's header parser for random bytes have no common base.
    except Exception as error:
        reason = printable(str(error) or type(error).__name__)
        raise HarmbenchError(
            f"{path}: array '{printable(_name(info))}' cannot be read ({reason}); objects are "
            "refused, so write text as numpy.array(values, dtype=str)"
        ) from error


def _stated_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return the size of a member's array in bytes; only its header is read."""
    if info.compress_type not in METHODS:
        raise ValueError("it is packed by a method that NumPy does not write")
    with archive.open(info) as member:
        # Headers of later versions may be gigabytes; NumPy writes them only for records.
        if npy.read_magic(member) != (1, 0):
            raise ValueError("it is not an array of numbers or text")
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
