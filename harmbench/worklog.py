"""The log of one piece of work, kept in its folder, and its clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harmbench.memory import PeakMemory

FILE = "log.txt"


def work_log(folder: Path, name: str) -> logging.Logger:
    """Return the logger called `name` (dots part levels), which appends to ``folder/log.txt``."""
    log = logging.getLogger(name)
    held = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    if any(Path(handler.baseFilename) == (folder / FILE).absolute() for handler in held):
        return log
    for handler in held:  # of another run in this process
        log.removeHandler(handler)
        handler.close()
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / FILE, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log


@contextmanager
def timed(log: logging.Logger, name: str, threads: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """Log begin and end of a step and limit its threads.

    Yields
    ------
    callable
        Returns what the step has cost so far: ``seconds``, and ``peak_mib`` of the whole process,
        where the system tells it.
    """
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    memory = PeakMemory()
    log.info("%s: started", name)
    with threadpool_limits(threads):
        yield lambda: {"seconds": round(time.perf_counter() - start, 3), "peak_mib": memory.mib()}
    log.info("%s: done in %.1f s", name, time.perf_counter() - start)
