"""Cache of data sets that take long to make, shared by all runs of a machine."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from harmbench.code import symbol_id
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import LOCK, UNFINISHED
from harmbench.progress import Progress
from harmbench.results.folder import read_cohort, write_cohort

VARIABLE = "HARMBENCH_CACHE"

log = logging.getLogger("harmbench.cache")


def cache_folder() -> Path:
    """Return the folder of the cache: the variable HARMBENCH_CACHE, else the user's cache."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else user_cache_path("harmbench")


def entries() -> list[Path]:
    """Return the folders of all data sets in the cache."""
    return sorted(p for p in (cache_folder() / "datasets").glob("[!.]*") if p.is_dir())


def clear() -> int:
    """Delete all data sets in the cache and return their number."""
    found = entries()
    for folder in found:
        shutil.rmtree(folder, ignore_errors=True)
    return len(found)


def load_cohort(dataset: Dataset, progress: Progress | None = None) -> Cohort:
    """Return the cohort of a data set, from the cache if `Dataset.cached` is true.

    Parameters
    ----------
    dataset : Dataset
        The key in the cache is its fingerprint and the code of its class. If another process is
        making the same data set, this one waits.
    progress : Progress or None

    Returns
    -------
    Cohort
        Its images are memory-mapped if they come from the cache. If the cache cannot be written,
        the data set is made without it.
    """
    if not dataset.cached:
        return dataset.load(progress)
    made_by = symbol_id(type(dataset).__module__, type(dataset).__qualname__)
    name = hashlib.sha256(f"{dataset.fingerprint} {made_by}".encode()).hexdigest()[:16]
    folder = cache_folder() / "datasets" / f"{dataset.info.name}-{name}"
    lock = FileLock(folder.parent / f"{LOCK}-{name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        log.warning("the cache %s cannot be used (%s)", folder.parent, error)
        return dataset.load(progress)
    try:
        return _from_cache(folder, dataset, progress)
    finally:
        lock.release()


def _from_cache(folder: Path, dataset: Dataset, progress: Progress | None) -> Cohort:
    if folder.is_dir():
        try:
            return read_cohort(folder)
        except (OSError, EOFError, ValueError, KeyError, HarmbenchError) as error:
            log.warning("%s is damaged (%s) and will be made again", folder, error)
            shutil.rmtree(folder)
    cohort = dataset.load(progress)
    temporary = folder.with_name(f"{UNFINISHED}{folder.name}")  # its user holds the lock
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        write_cohort(temporary, cohort)
        temporary.rename(folder)
    except OSError as error:
        log.warning("%s is not kept (%s)", folder.name, error)
        shutil.rmtree(temporary, ignore_errors=True)
        return cohort
    return read_cohort(folder)
