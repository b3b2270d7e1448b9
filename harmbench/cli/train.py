"""`harmbench train`: resolve the settings, train, save with cards, and say how it ended."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from harmbench.api import train
from harmbench.cli import EXIT_INTERRUPTED
from harmbench.training.cards import read_card
from harmbench.training.group import is_first


def train_and_tell(given: dict[str, Any]) -> int:
    """Train what the command line and the study file ask for; return the exit code.

    Parameters
    ----------
    given : dict
        Arguments of `harmbench.api.train`.

    Returns
    -------
    int
        0; 130 after Ctrl-C.
    """
    try:
        with _terminations():
            folders = train(**given, command=_command(sys.argv[1:]))
    except KeyboardInterrupt as folder:
        if is_first():
            typer.echo(f"stopped; the same command goes on where it was ({folder})", err=True)
        return EXIT_INTERRUPTED
    if is_first():
        for line in _told(folders):
            typer.echo(line)
    return 0


def _told(folders: Sequence[Path]) -> list[str]:
    lines = []
    for folder in folders:
        card = read_card(folder)
        curve = [v for v in card.history.get("loss", []) if v is not None]
        facts = [f"{card.images:,} images"] if card.images else []
        facts += [f"{card.seconds:,.0f} s", *([f"loss {curve[-1]:.4g}"] if curve else [])]
        lines.append(f"{card.label}, seed {card.seed}: {', '.join(facts)}: {folder}")
    first = read_card(folders[0])
    top = folders[0].parent if first.seed else folders[0]
    lines.append(f"taken up by: harmbench run --weights {shlex.quote(f'{first.label}={top}')} ...")
    return lines


def _command(argv: Sequence[str]) -> str:
    """Return the command without the folders of this machine."""

    def bare(word: str) -> str:
        flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        return flag + equals + (Path(value).name if Path(value).is_absolute() else value)

    return shlex.join(["harmbench", *map(bare, argv)])


@contextmanager
def _terminations() -> Iterator[None]:
    """Treat the SIGTERM that batch systems send before they kill as Ctrl-C."""

    def stop(number: int, frame: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # a process in the background is started to ignore Ctrl-C
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
