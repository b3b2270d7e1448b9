"""How the cells of a run are worked through: one by one here, in processes, or on a cluster.

The engines are `concurrent.futures` and `distributed`, which has the same interface. Results travel
through the run folder; processes claim each stage on the `harmbench.engine.board`, so that
none is done twice. See `harmbench.engine.worker` for the other side.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harmbench.engine.board import Board, opened, take_down
from harmbench.engine.keys import Cell
from harmbench.engine.nodes import Bench
from harmbench.engine.relay import Shown
from harmbench.engine.worker import (
    EXIT_INTERRUPTED,
    Answer,
    Order,
    begin,
    sees,
    stage_keys,
    work,
    work_or_end,
)
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_STOP = 3.0
"""How long stopped processes may take to save what they have; less than a person waits."""
SECONDS_TO_CONNECT = 10

Records = list[dict[str, Any]]
"""Of all cells in order, and of all metrics in order in each; with the cell and the metric."""
WorkThrough = Callable[[Bench, list[Cell]], Records]

log = logging.getLogger("harmbench.engine.execute")


@contextmanager
def crew(
    root: Path, progress: Progress, *, jobs: int | None = None, dask: str | None = None
) -> Iterator[WorkThrough]:
    """Get ready to work through cells, here or elsewhere.

    Parameters
    ----------
    root : Path
        The run folder, locked by this process.
    progress : Progress
        Where to show one bar over all cells, and what each worker does.
    jobs : int or None
        Processes to start on this machine.
    dask : str or None
        Address of a scheduler; its workers must see the run folder.

    Yields
    ------
    callable
        ``work_through(bench, cells)`` returns `Records`.

    Raises
    ------
    HarmbenchError
        Where both are given, or the cluster cannot be used; here or while it works.
    """
    if jobs is not None and dask is not None:
        raise HarmbenchError(f"--jobs {jobs} --dask {dask}: give one of them")
    if jobs is None and dask is None:
        take_down(root)
        yield partial(_one_by_one, progress=progress)
        return
    with opened(root.absolute()) as board:
        if dask is None:
            assert jobs is not None
            yield partial(_in_processes, board=board, progress=progress, jobs=jobs)
        else:
            with _cluster(dask, board, progress) as executor:
                yield partial(_on_cluster, board=board, progress=progress, executor=executor)


def _one_by_one(bench: Bench, cells: list[Cell], progress: Progress) -> Records:
    records = []
    with progress.task("all cells", len(cells)) as task:
        for cell in cells:
            work = bench.work(cell)
            for name, metric in bench.metrics.items():
                record = work.score(name)
                records.append({"cell": cell, "metric": metric.info, **record})
            task.advance(1, note=cell.spec.title)
    return records


# -- processes of this machine ------------------------------------------------------------------


def _in_processes(
    bench: Bench, cells: list[Cell], board: Board, progress: Progress, jobs: int
) -> Records:
    """Work through cells in processes; what one dies of is tried again at the end, alone."""
    with _Desk(bench, cells, board, progress) as desk:
        waiting = desk.orders
        suspects: list[Order] = []
        while waiting:
            lost, died = _round(desk, waiting, jobs)
            if lost and not died:
                # Nobody has noted what it was at: alone, each tells by itself.
                if len(lost) == len(waiting):
                    raise HarmbenchError(
                        f"--jobs {jobs}: the processes end before they begin. In a Python script, "
                        'put the call under `if __name__ == "__main__":`, since every process '
                        "imports the script again"
                    )
                died = {order.number: "" for order in lost}
            suspects += [order for order in lost if order.number in died]
            waiting = [order for order in lost if order.number not in died]
        for order in suspects:
            log.warning("%s: its process died; again, alone", order.cell.headline)
            lost, died = _round(desk, [order], 1)
            if lost:
                told = next(iter(died.values()), "before it began")
                desk.give_up(order, f"its process died twice ({told}), perhaps for want of memory")
        return desk.records()


def _round(desk: _Desk, orders: Sequence[Order], jobs: int) -> tuple[list[Order], dict[int, str]]:
    """Get answers from a fresh pool; return orders without one, and who died, with the reason."""
    with _pool(min(jobs, len(orders))) as (pool, processes):
        with _interrupts_held_back():
            futures = {pool.submit(work_or_end, order): order for order in orders}
        processes()
        lost = desk.collect(futures, BrokenProcessPool)
    codes = {process.pid: process.exitcode for process in processes()}
    at_work = {note["number"]: codes.get(note["pid"]) for note in desk.take_down()}
    # When one process dies, the pool asks all others to end.
    asked = (EXIT_INTERRUPTED, -signal.SIGTERM)
    died = {n: code for n, code in at_work.items() if code not in asked} or at_work
    return lost, {n: _told(code) for n, code in died.items()} if lost else {}


def _told(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


@contextmanager
def _pool(size: int) -> Iterator[tuple[Executor, Callable[[], set[BaseProcess]]]]:
    """Start a pool of processes that are gone after the block; also gives its processes."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    seen: set[BaseProcess] = set()

    def processes() -> set[BaseProcess]:
        seen.update(set(multiprocessing.active_children()) - others)
        return seen

    pool = ProcessPoolExecutor(size, mp_context=context, initializer=begin)
    try:
        yield pool, processes
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        _stop(processes())
        raise
    pool.shutdown()


def _stop(processes: set[BaseProcess]) -> None:
    """End processes; a training among them saves its state first, where that is soon done."""
    try:
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        end = time.monotonic() + SECONDS_TO_STOP
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        for process in processes:
            process.kill()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let processes that are started inside the block hear no Ctrl-C before they can handle it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- a cluster ----------------------------------------------------------------------------------


@contextmanager
def _cluster(address: str, board: Board, progress: Progress) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise HarmbenchError(
            "--dask needs the package distributed; install harmbench with its extra: "
            "pip install 'harmbench[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise HarmbenchError(
            f"--dask {address}: no scheduler answers there; give the address that "
            "`dask scheduler` prints, such as tcp://host:8786"
        ) from error
    with client:
        _require_shared(client, board, address, progress)
        yield client.get_executor(pure=False)


def _require_shared(client: Any, board: Board, address: str, progress: Progress) -> None:
    """Check that the workers that are there see the run folder; later ones check themselves."""
    asked = (board.root, board.token)
    seen = client.run(sees, *asked)
    if not seen:
        progress.message(f"{address} has no workers yet; waiting for the first")
        # As a task, since some clusters start workers only for tasks.
        seen = {"that came first": client.submit(sees, *asked, pure=False).result()}
    blind = sorted(who for who, found in seen.items() if not found)
    if blind:
        raise HarmbenchError(
            f"--out {board.root} is not seen by the worker {', '.join(blind)}; "
            "give a folder that all of them share"
        )


def _on_cluster(
    bench: Bench, cells: list[Cell], board: Board, progress: Progress, executor: Executor
) -> Records:
    """Work through cells on a cluster, which tries again what dies, a few times, by itself."""
    from distributed import KilledWorker

    with _Desk(bench, cells, board, progress) as desk:
        futures = {executor.submit(work, order): order for order in desk.orders}
        try:
            lost = desk.collect(futures, KilledWorker)
        except CancelledError as error:
            raise HarmbenchError(
                "the connection to the scheduler was lost; the same command goes on where it was"
            ) from error
        finally:
            for future in futures:
                future.cancel()
        for order in lost:
            desk.give_up(order, "every worker that tried it died; see their logs")
        return desk.records()


# -- both ---------------------------------------------------------------------------------------


class _Desk:
    """Hands out the orders of a run, gathers the answers, and shows how far it is."""

    def __init__(self, bench: Bench, cells: list[Cell], board: Board, progress: Progress) -> None:
        self._bench, self._cells, self._board = bench, cells, board
        self._answers: dict[int, Answer] = {}
        self._total = progress.task("all cells", len(cells))
        self._shown = Shown(progress)
        self.orders = [self._order(number, cell) for number, cell in enumerate(cells)]

    def __enter__(self) -> _Desk:
        self._task = self._total.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.show({})
        self._total.__exit__(*error)

    def _order(self, number: int, cell: Cell) -> Order:
        bench = self._bench
        keys = stage_keys(bench.work(cell))
        board, sent = self._board, replace(bench.keys, products={})
        return Order(board.root, board.token, number, cell, sent, bench.weights, keys)

    def collect(
        self, futures: Mapping[Future[Answer], Order], death: type[Exception]
    ) -> list[Order]:
        """Wait for all answers; return the orders that have none because of a death."""
        lost, pending = [], set(futures)
        while pending:
            done, pending = wait(pending, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            for future in done:
                try:
                    self._take(futures[future], future.result())
                    log.info("%s: done", futures[future].cell.headline)
                except death:
                    lost.append(futures[future])
            self._shown.show(self._board.notes())
        return lost

    def _take(self, order: Order, answer: Answer) -> None:
        if answer.complaint:
            raise HarmbenchError(answer.complaint)
        self._answers[order.number] = answer
        self._task.advance(1, note=order.cell.spec.title)

    def give_up(self, order: Order, reason: str) -> None:
        """Take what there is of a cell, and the reason for what there is not."""
        work = self._bench.work(order.cell)
        marks = [work.score_stage(name).mark for name in self._bench.metrics]
        failed = {"status": "failed", "reason": reason}
        log.error("%s: %s", order.cell.headline, reason)
        self._take(order, Answer([mark or failed for mark in marks]))

    def take_down(self) -> list[dict[str, Any]]:
        """Take the notes that dead processes have left off the board; return them."""
        left = self._board.notes()
        for name in left:
            self._board.take(name)
        return list(left.values())

    def records(self) -> Records:
        """Return what all answers say, in the order of the run."""
        return [
            {"cell": cell, "metric": metric.info, **record}
            for number, cell in enumerate(self._cells)
            for metric, record in zip(
                self._bench.metrics.values(), self._answers[number].records, strict=True
            )
        ]
