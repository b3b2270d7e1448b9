"""What a long piece of work tells the person who waits: one small interface and its three looks.

Methods and metrics call `Progress.task`; the command line decides how it looks: live bars on a
terminal (`BarProgress`), plain lines elsewhere (`LineProgress`), nothing with ``--quiet``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task as RichTask
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 15.0
SECONDS_OF_A_START = 1.0
"""What a task counts as done in its first moment was done before, by a run that was stopped."""
LINES_OF_A_TASK = 10


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count `amount` more units as done; `note` is a short state such as ``"loss 0.12"``."""


class Progress:
    """Progress that is shown to nobody; the base of those that are shown."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Open a task of `total` units; leaving the block closes it."""
        yield _SilentTask()

    def message(self, text: str) -> None:
        """Say one line."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Show nothing inside the block, where another process shows a copy of this object."""
        yield

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class _SilentTask:
    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count nothing."""


class LineProgress(Progress):
    """Plain lines, for logs and pipes: one for each tenth of the outer task, and a sign of life.

    Parameters
    ----------
    say : callable
        Prints one line.
    clock : callable
        Seconds, for tests.
    """

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._depth = 0
        self._last = clock()

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Open a task; the outermost tells every tenth, an inner one now and then."""
        self._depth += 1
        try:
            yield _LineTask(self, description, total, outermost=self._depth == 1)
        finally:
            self._depth -= 1

    def message(self, text: str) -> None:
        """Say one line."""
        self._last = self._clock()
        self._say(text)


class _LineTask:
    def __init__(
        self, progress: LineProgress, description: str, total: float, outermost: bool
    ) -> None:
        self._progress = progress
        self._description = description
        self._total = total
        self._outermost = outermost
        self._done = 0.0
        self._before = 0.0
        self._told = 0
        self._start = progress._clock()

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        now = self._progress._clock()
        if now - self._start < SECONDS_OF_A_START:
            self._before = self._done
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        step = int(share * LINES_OF_A_TASK)
        if (self._outermost and step > self._told) or (
            now - self._progress._last >= SECONDS_BETWEEN_LINES
        ):
            self._told = step
            tail = [note] if note else []
            self._progress.message(
                f"{self._description}: {self._done:g}/{self._total:g}"
                + "".join(f", {part}" for part in tail + self._pace(now - self._start))
            )

    def _pace(self, seconds: float) -> list[str]:
        """Return the units in a second, where they are many, and the time left."""
        rate = (self._done - self._before) / seconds if seconds else 0.0
        left = f"{_minutes(max(self._total - self._done, 0.0) / rate)} left" if rate else ""
        return [text for text in (_speed(rate), left) if text]


def _speed(rate: float | None) -> str:
    return f"{rate:,.0f}/s" if rate and rate >= 1 else ""


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class BarProgress(Progress):
    """Live bars with the time left: the whole run on top, the step under way below it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class SpeedColumn(ProgressColumn):
            """Units in a second, where they are many, such as the images of a training."""

            def render(self, task: RichTask) -> Text:
                return Text(_speed(task.speed))

        self._bars: RichProgress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            SpeedColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Open a bar; it goes when the work is done."""
        bar = self._bars.add_task(description, total=total, note="")
        try:
            yield _BarTask(self._bars, bar)
        finally:
            self._bars.remove_task(bar)

    def message(self, text: str) -> None:
        """Say one line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars inside the block."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()

    def __reduce__(self) -> tuple[Any, ...]:
        return BarProgress, ()

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()


class _BarTask:
    def __init__(self, bars: RichProgress, bar: TaskID) -> None:
        self._bars = bars
        self._bar = bar

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._bars.update(self._bar, advance=amount, note=note)


def make_progress(quiet: bool = False) -> Progress:
    """Return live bars for a terminal, plain lines for anything else, silence where asked for."""
    if quiet:
        return Progress()
    if sys.stderr.isatty():
        return BarProgress()
    return LineProgress(_print_to_stderr)


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
