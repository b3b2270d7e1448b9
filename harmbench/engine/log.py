"""The log of one piece of work, kept in its folder, and its clock."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harmbench.engine.memory import PeakMemory

FILE = "log.txt"


class LogFile(logging.FileHandler):
    """A log that cannot be written, on a disk that is full or closed, stops no work.

    Parameters
    ----------
    path : Path
        Appended to; opened with the first line.
    names : bool
        Whether lines name their logger.
    """

    def __init__(self, path: Path, names: bool = False) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        name = " %(name)s" if names else ""
        self.setFormatter(logging.Formatter(f"%(asctime)s{name} %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, where that can be done."""
        with suppress(OSError):
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)
        # A run may have more cells than a process may have open files.
        self.close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Say on the standard error stream what is wrong with a line, unless it is the disk."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file; what is left of a line is dropped where it cannot be written."""
        with suppress(OSError):
            super().close()


def work_log(folder: Path, name: str) -> logging.Logger:
    """Return the logger called `name` (dots part levels), which appends to ``folder/log.txt``."""
    log = logging.getLogger(name)
    held = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    if any(Path(handler.baseFilename) == (folder / FILE).absolute() for handler in held):
        return log
    for handler in held:  # of another run in this process
        log.removeHandler(handler)
        handler.close()
    log.addHandler(LogFile(folder / FILE))
    return log


@contextmanager
def informative() -> Iterator[logging.Logger]:
    """Let the suite's logs say as much as a run keeps of them, and nothing go elsewhere."""
    log = logging.getLogger("harmbench")
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield log
    finally:
        log.setLevel(level)
        log.propagate = propagate


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
