"""Arrays of a NumPy archive as they lie in the file: mapped, not read into memory."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEAST = 2**26
"""Bytes from which an array is worth a mapping: 64 MiB."""
_LOCAL_HEADER = 30
_LENGTHS = slice(26, 30)  # of the name and of the extra field that follow the header


def mapped(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray | None:
    """Return one array of an archive mapped from the file, where that can be and is worth it.

    Parameters
    ----------
    path : Path
        The .npz file.
    archive : ZipFile
        The same file, open.
    member : ZipInfo
        The array's.

    Returns
    -------
    ndarray or None
        Read only. None for what is compressed (``numpy.savez_compressed``), small, in Fortran's
        order, or made of Python objects: that is read as a whole.

    Raises
    ------
    BadZipFile
        Where the bytes are not those that were written.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < LEAST:
        return None
    _check_bytes(archive, member)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        lengths = np.frombuffer(file.read(_LOCAL_HEADER)[_LENGTHS], dtype="<u2")
        file.seek(int(lengths.sum()), 1)
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if fortran or dtype.hasobject:
            return None
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)


def _check_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read a member once, a piece at a time: at its end the archive compares the checksum."""
    with archive.open(member) as stream:
        while stream.read(2**20):
            pass
