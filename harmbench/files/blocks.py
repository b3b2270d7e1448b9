"""Arrays larger than memory: worked through in blocks of rows, left on disk, let go of when read.

Whoever works in blocks says how many bytes one row costs it while at work. What fits into one block
is worked on as one, with the very bits of an array that was never cut.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

BLOCK = 2**28
"""Bytes that a block may take: 256 MiB."""


def blocks(n: int, row_bytes: float, limit: int | None = None) -> Iterator[slice]:
    """Cut n rows into runs of rows of equal length, as long as the limit allows.

    Parameters
    ----------
    n : int
        Number of rows.
    row_bytes : float
        What one row takes while it is worked on.
    limit : int or None
        Bytes of one block; None for `BLOCK`. A block holds at least one row.

    Yields
    ------
    slice
        In order; none where n is 0.
    """
    count = max(1, int((BLOCK if limit is None else limit) // max(row_bytes, 1)))
    for start in range(0, n, count):
        yield slice(start, min(start + count, n))


def image_bytes(images: NDArray) -> int:
    """Return the bytes of one image."""
    return images.dtype.itemsize * int(np.prod(images.shape[1:]))


def take(array: NDArray, rows: ArrayLike) -> NDArray:
    """Return a copy of some rows; of an array on disk no more stays in memory than that.

    Parameters
    ----------
    array : ndarray, shape (n, ...)
        In memory, or mapped from a file.
    rows : array_like of int
        Positions.

    Returns
    -------
    ndarray, shape (len(rows), ...)
    """
    index = np.asarray(rows, dtype=np.intp)
    if _mapping(array) is None:
        return array[index]
    out = np.empty((len(index), *array.shape[1:]), dtype=array.dtype)
    for part in blocks(len(index), image_bytes(out)):
        out[part] = array[index[part]]
        release(array)
    return out


def release(array: NDArray) -> None:
    """Let go of the pages of a mapped file that this process has read; they stay readable.

    What is mapped counts as this process's memory until then. An array in memory stays as it is.
    """
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(array: NDArray) -> mmap.mmap | None:
    """Return the file mapping that an array is a view of, where it can only be read."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode != "r":
            return None
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def all_finite(images: NDArray) -> NDArray[np.bool_]:
    """Return which images hold finite values only, shape (n,)."""
    found = [np.empty(0, dtype=bool)]
    axes = tuple(range(1, images.ndim))
    for rows in blocks(len(images), 2 * image_bytes(images)):
        found.append(np.isfinite(images[rows]).all(axis=axes))
        release(images)
    return np.concatenate(found)


def save_array(
    path: Path, shape: Sequence[int], dtype: DTypeLike, parts: Iterable[NDArray]
) -> None:
    """Write an ``.npy`` file part by part, as `numpy.save` would write the whole.

    Through the file, not through a mapping of it: there a full disk would kill the process.

    Parameters
    ----------
    path : Path
    shape : sequence of int
        Of the whole.
    dtype : dtype
        What parts are cast to.
    parts : iterable of ndarray, shape (rows, ...)
        In order; together they have the whole's shape.

    Raises
    ------
    ValueError
        Where they have not.
    """
    kind = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": tuple(shape)})
        written = 0
        for part in parts:
            if part.shape[1:] != tuple(shape[1:]):
                raise ValueError(f"a part of shape {part.shape} is none of an array of {shape}")
            file.write(np.ascontiguousarray(part, dtype=kind).data)
            written += len(part)
    if written != shape[0]:
        raise ValueError(f"{written} rows were made, not {shape[0]}")


def pieces(array: NDArray) -> Iterator[NDArray]:
    """Yield an array in blocks of its rows; of an array on disk one block at a time is held."""
    for rows in blocks(len(array), image_bytes(array)):
        yield array[rows]
        release(array)
