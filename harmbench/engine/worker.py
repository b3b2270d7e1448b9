"""One cell worked through in another process: what that is told, what it tells, when it ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from harmbench import registry
from harmbench.config import RunConfig, build_dataset
from harmbench.data.splits import stored_split
from harmbench.engine.board import Board, Closed
from harmbench.engine.keys import Cell, CellId, Keys
from harmbench.engine.nodes import Bench, CellWork
from harmbench.engine.saved_weights import Saved
from harmbench.progress import Progress, Task
from harmbench.protocol import PRODUCTS
from harmbench.results.folder import RunFolder
from harmbench.training import process_state as ambient

SECONDS_BETWEEN_NOTES = 0.5
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_SAVE = 3.0
"""How long a training may take to save its state, once its driver has gone."""
EXIT_INTERRUPTED = 130

_ONE_AT_A_TIME = threading.Lock()
"""A cell limits the threads of its whole process; a cluster's worker may have several threads."""


@dataclass(frozen=True)
class Order:
    """A cell as it is sent to another process: specifications, no data, no objects of plug-ins.

    Attributes
    ----------
    root : Path
        The run folder; holds the data, and all that is made of them.
    token : str
        Name of the driver's `harmbench.engine.board.Board`.
    number : int
        The cell's, in the order of the run.
    cell : Cell
        What to work through.
    keys : Keys
        Keys of all stages, with the settings, without the products, which cannot be sent.
    weights : mapping of cell id to Saved
        Saved weights to take up instead of a fit.
    expected : tuple of str
        What `stage_keys` gave the driver.
    """

    root: Path
    token: str
    number: int
    cell: Cell
    keys: Keys
    weights: Mapping[CellId, Saved]
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What comes of an order.

    Attributes
    ----------
    records : list of dict
        One for each metric of the run, as of `harmbench.engine.nodes.CellWork.score`.
    complaint : str
        Why the whole run cannot go on with this worker, or ``""``.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    complaint: str = ""


def stage_keys(work: CellWork) -> tuple[str, ...]:
    """Return the keys of a cell's fit and scores: other code, here or there, makes other keys."""
    scores = (work.score_stage(name).key for name in work.bench.metrics)
    return (work.fit_stage.key, *scores)


def name() -> str:
    """Return what tells this process from all others at work in a run."""
    return f"{socket.gethostname()}-{os.getpid()}"


def sees(root: Path, token: str) -> bool:
    """Return whether this process sees the driver's run folder."""
    return Board(root, token).shows()


def work(order: Order) -> Answer:
    """Work through one cell: the function that is run in another process.

    Parameters
    ----------
    order : Order
        What to do.

    Returns
    -------
    Answer
        Failures of methods and metrics are records; anything else is raised.
    """
    if not sees(order.root, order.token):
        return Answer(
            complaint=f"a worker on {socket.gethostname()} does not see the folder {order.root}; "
            "give an --out that all workers share"
        )
    board = Board(order.root, order.token)
    threads = order.keys.config.threads
    from threadpoolctl import threadpool_limits

    with _ONE_AT_A_TIME, _logging(), threadpool_limits(threads), ambient.threads(threads):
        try:
            return _worked(order, board)
        except Closed:
            return Answer(complaint="the driver of this run has gone")


def _worked(order: Order, board: Board) -> Answer:
    progress = _Noted(board, order)
    try:
        progress.tell()
        shared = _shared(order.root, order.token, order.keys.config.model_dump_json())
        bench = Bench(
            **shared,
            keys=replace(order.keys, products={p.name: p for p in PRODUCTS}),
            progress=progress,
            weights=order.weights,
            claim=board.claim,
        )
        cell = bench.work(order.cell)
        if stage_keys(cell) != order.expected:
            return Answer(
                complaint=f"a worker on {socket.gethostname()} has other code of harmbench or of "
                "a plug-in than the driver; install the same there and start the workers anew"
            )
        with board.claim(f"cell-{order.number}"):
            return Answer([cell.score(metric) for metric in bench.metrics])
    finally:
        board.take(progress.name)


@lru_cache(maxsize=1)
def _shared(root: Path, token: str, settings: str) -> dict[str, Any]:
    """Return what a process's cells of one run share; images are mapped, not read."""
    registry.refresh()
    config = RunConfig.model_validate_json(settings)
    folder = RunFolder(root)
    return {
        "folder": folder,
        "dataset": build_dataset(config),
        "cohort": folder.cohort(),
        "folds": {fold.name: fold for fold in stored_split(folder.split()["part"]).folds()},
        "metrics": {name: registry.load("metric", name) for name in config.metrics},
    }


class _Noted(Progress):
    """Puts the outermost step of a cell on the board; stops the cell where the driver has gone."""

    def __init__(self, board: Board, order: Order) -> None:
        cell = order.cell
        self.name = name()
        self._board = board
        self._note = {
            "number": order.number,
            "pid": os.getpid(),
            "cell": cell.headline,
            "step": "",
            "total": 1,
        }
        self._tasks: list[_NotedTask] = []
        self._told = float("-inf")

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Open a step."""
        task = _NotedTask(self, description, total)
        self._tasks.append(task)
        try:
            yield task
        finally:
            self._tasks.remove(task)

    def tell(self) -> None:
        """Say how far it is, where that was not said just before."""
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_NOTES:
            return
        self._told = now
        self._board.put(self.name, self._note | (self._tasks[0].note if self._tasks else {}))


class _NotedTask:
    def __init__(self, progress: _Noted, description: str, total: float) -> None:
        self._progress = progress
        self._done = 0.0
        self.note = {"step": description, "total": total, "done": 0.0, "note": ""}

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count and tell."""
        self._done += amount
        self.note |= {"done": self._done, "note": note}
        self._progress.tell()


@contextmanager
def _logging() -> Iterator[None]:
    """Let the cells' logs say as much as in the driver, and nothing go elsewhere."""
    log = logging.getLogger("harmbench")
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate = propagate


# -- processes of this machine ------------------------------------------------------------------


def begin() -> None:
    """Make this process a worker that ends, without a word, with its driver or when told to."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal's Ctrl-C comes from the driver
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_watch_the_driver, daemon=True).start()


def work_or_end(order: Order) -> Answer:
    """Do `work`; end the process where a training was stopped and has saved its state."""
    try:
        return work(order)
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)


def _end(number: int, frame: Any) -> None:
    """End at once, since every result is written atomically; let a training save its state."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or handler is _end:
        os._exit(EXIT_INTERRUPTED)
    handler(signal.SIGINT, frame)


def _watch_the_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    while driver.is_alive() and os.getppid() == driver.pid:
        driver.join(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(EXIT_INTERRUPTED)
