"""What a long piece of work tells the person who waits: one small interface, shown by the shell.

Methods and metrics call `Progress.task`; the command line decides how it looks (live bars on a
terminal, plain lines elsewhere, nothing with ``--quiet``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


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


class _SilentTask:
    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count nothing."""
