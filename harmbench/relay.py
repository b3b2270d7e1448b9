"""Progress of other processes, shown in this one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from harmbench.progress import Progress, Task


class Relay(Progress):
    """Sends what it is told through a queue, for `relayed` to show.

    Parameters
    ----------
    queue : multiprocessing.SimpleQueue
        What `relayed` gave.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._opened = 0

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Open a task there."""
        self._opened += 1
        number = self._opened
        self._queue.put(("open", number, description, total))
        try:
            yield _RelayTask(self._queue, number)
        finally:
            self._queue.put(("close", number))

    def message(self, text: str) -> None:
        """Say one line there."""
        self._queue.put(("message", text))


class _RelayTask:
    def __init__(self, queue: Any, number: int) -> None:
        self._queue, self._number = queue, number

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._queue.put(("advance", self._number, amount, note))


@contextmanager
def relayed(progress: Progress, context: Any) -> Iterator[Any]:
    """Show what a `Relay` in another process sends.

    Parameters
    ----------
    progress : Progress
        Where.
    context : multiprocessing context
        How that process is started.

    Yields
    ------
    multiprocessing.SimpleQueue
        To be given to the `Relay`.
    """
    queue = context.SimpleQueue()
    thread = threading.Thread(target=_show, args=(queue, progress), daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(("end",))
        thread.join()


def _show(queue: Any, progress: Progress) -> None:
    tasks: dict[int, tuple[ExitStack, Task]] = {}
    with ExitStack() as left_open:
        while True:
            kind, *told = queue.get()
            if kind == "open":
                number, description, total = told
                stack = left_open.enter_context(ExitStack())
                tasks[number] = stack, stack.enter_context(progress.task(description, total))
            elif kind == "advance":
                tasks[told[0]][1].advance(*told[1:])
            elif kind == "close":
                tasks.pop(told[0])[0].close()
            elif kind == "message":
                progress.message(*told)
            else:
                return


class Shown:
    """Shows the notes of several processes as tasks, each as long as its step is the same.

    Parameters
    ----------
    progress : Progress
        Where.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: dict[str, tuple[str, ExitStack, Task]] = {}
        self._done: dict[str, float] = {}

    def show(self, notes: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring what is shown up to date.

        Parameters
        ----------
        notes : mapping of str to mapping
            By process: ``cell``, ``step`` and ``total``; where there is a step, ``done`` and
            ``note``.
        """
        heads = {who: ": ".join(filter(None, (n["cell"], n["step"]))) for who, n in notes.items()}
        for who, (head, stack, _) in list(self._open.items()):
            if heads.get(who) != head:
                stack.close()
                del self._open[who]
        for who, note in notes.items():
            if who not in self._open:
                stack = ExitStack()
                task = stack.enter_context(self._progress.task(heads[who], note["total"]))
                self._open[who] = heads[who], stack, task
                self._done[who] = 0.0
            done = note.get("done", 0.0)
            self._open[who][2].advance(done - self._done[who], note=note.get("note", ""))
            self._done[who] = done
