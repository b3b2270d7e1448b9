"""Files that are there whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from harmbench.errors import HarmbenchError
from harmbench.files.blocks import save_array

LOCK = ".lock"
"""Name of the file by which one process holds a folder; it stays there."""
UNFINISHED = ".unfinished-"
"""How the names of files and folders begin that are still being written."""


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    A killed process leaves no half-written `path`. Where two race, both succeed: what they
    write under one content-addressed name is the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(content), indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path, words: Iterable[str]) -> pd.DataFrame:
    """Return a table that the suite has written, with these columns as text.

    An empty field is a missing value; ``NA``, ``nan`` and the like may be names of sites.
    """
    return pd.read_csv(
        path,
        dtype=dict.fromkeys(words, str),
        keep_default_na=False,
        na_values=[""],
        float_precision="round_trip",
    )


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(k): _finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(v) for v in content]
    if isinstance(content, float | np.floating):
        return float(content) if np.isfinite(content) else None
    if isinstance(content, np.integer):
        return int(content)
    return content


def write_rows(
    path: Path, shape: Sequence[int], dtype: DTypeLike, parts: Iterable[NDArray]
) -> None:
    """Write an ``.npy`` part by part, each made when the one before it lies on disk."""
    write_atomic(path, lambda temporary: save_array(temporary, shape, dtype, parts))


def read_rows(path: Path) -> NDArray:
    """Return what `write_rows` wrote, mapped and not read."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write named arrays to an ``.npz`` without pickles."""

    def write(temporary: Path) -> None:
        # Not `numpy.savez`, which leaves its archive open where the disk is full.
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, _plain(name, array), allow_pickle=False)

    write_atomic(path, write)


def _plain(name: str, array: NDArray) -> NDArray:
    array = np.asarray(array)
    if array.dtype == object:
        raise TypeError(f"array '{name}' holds Python objects; use numbers or fixed-width strings")
    return array


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Read what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def sweep(paths: Iterable[Path]) -> None:
    """Delete those of these files and folders that a killed process was still writing.

    Parameters
    ----------
    paths : iterable of Path
        Whatever lies in places that nobody else writes to now.
    """
    for path in [path for path in paths if path.name.startswith(UNFINISHED)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder, which is made where it is missing, for one process.

    Parameters
    ----------
    folder : Path
        What ``--out`` names.
    work : str
        What the error calls the work of the other, such as ``"run"``.

    Raises
    ------
    HarmbenchError
        Where another process holds it, or where nothing can be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise HarmbenchError(
            f"another {work} is working in {folder}; wait for it, or give another --out"
        ) from error
    except OSError as error:
        raise HarmbenchError(f"--out {folder} cannot be written: {error}") from error
    try:
        # The file is not deleted: another process may have opened it already, and a third would
        # make and hold a new one beside it.
        yield
    finally:
        lock.release()
