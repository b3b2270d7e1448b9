"""Progress of other processes, shown in this one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from harmbench.progress import Progress, Task

SECONDS_TO_END = 5.0
"""How long what was sent last may take to be shown."""


class Relay(Progress):
    """Sends what it is told through a pipe, for `relayed` to show.

    Parameters
    ----------
    pipe : multiprocessing.connection.Connection
        What `relayed` gave; one process at a time may use it.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._opened = 0

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Open a task there."""
        self._opened += 1
        number = self._opened
        self._pipe.send(("open", number, description, total))
        try:
            yield _RelayTask(self._pipe, number)
        finally:
            self._pipe.send(("close", number))

    def message(self, text: str) -> None:
        """Say one line there."""
        self._pipe.send(("message", text))


class _RelayTask:
    def __init__(self, pipe: Connection, number: int) -> None:
        self._pipe, self._number = pipe, number

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._pipe.send(("advance", self._number, amount, note))


@contextmanager
def relayed(progress: Progress, context: Any) -> Iterator[Connection]:
    """Show what a `Relay` in another process sends.

    Parameters
    ----------
    progress : Progress
        Where.
    context : multiprocessing context
        How that process is started.

    Yields
    ------
    multiprocessing.connection.Connection
        To be given to the `Relay`. Not a queue: a process killed while it sends would keep its
        lock for ever.
    """
    told, pipe = context.Pipe(duplex=False)
    thread = threading.Thread(target=_show, args=(told, progress), daemon=True)
    thread.start()
    try:
        yield pipe
    finally:
        pipe.close()
        thread.join(SECONDS_TO_END)


def _show(pipe: Connection, progress: Progress) -> None:
    """Show what is sent until the last process that may send has closed its end."""
    tasks: dict[int, tuple[ExitStack, Task]] = {}
    with ExitStack() as left_open:
        while True:
            try:
                kind, *told = pipe.recv()
            except (EOFError, OSError):
                return
            if kind == "open":
                number, description, total = told
                stack = left_open.enter_context(ExitStack())
                tasks[number] = stack, stack.enter_context(progress.task(description, total))
            elif kind == "advance":
                tasks[told[0]][1].advance(*told[1:])
            elif kind == "close":
                tasks.pop(told[0])[0].close()
            else:
                progress.message(*told)


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
