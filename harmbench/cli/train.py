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

from harmbench.cli import EXIT_INTERRUPTED
from harmbench.cli.run import make_progress
from harmbench.config import default_folder, resolve
from harmbench.engine.train import train
from harmbench.errors import HarmbenchError
from harmbench.study import read_study
from harmbench.training.cards import read_card
from harmbench.training.group import is_first

READ = (
    *("data", "data_options", "preset", "methods", "seeds", "data_seed", "reference_site"),
    *("threads", "device"),
)
"""Settings of a study file that training reads; the others are for `harmbench run`."""


def train_and_tell(
    flags: dict[str, Any], study: Path | None, out: Path | None, *, quiet: bool
) -> int:
    """Train what the command line and the study file asked for; return the exit code.

    Returns
    -------
    int
        0; 130 after Ctrl-C.
    """
    settings = read_study(study) if study else {}
    settings = {name: value for name, value in settings.items() if name in READ}
    options = {**settings.pop("data_options", {}), **(flags.pop("data_options", None) or {})}
    seed, devices = flags.pop("seed"), flags.pop("devices")
    if seed is not None and flags["seeds"] is not None:
        raise HarmbenchError("--seed trains one seed, --seeds the first so many; give one of them")
    settings |= {name: value for name, value in flags.items() if value is not None}
    if not settings.get("methods"):
        raise HarmbenchError("nothing to train: give --methods NAME... (see `harmbench methods`)")
    config = resolve(**settings, data_options=options, controls=("none",))
    folder = out or default_folder("weights", config, study, options)
    seeds = range(config.seeds) if seed is None else [seed]
    try:
        with make_progress(quiet or not is_first()) as progress, _terminations():
            command = _command(sys.argv[1:])
            folders = train(config, folder, progress, seeds=seeds, command=command, devices=devices)
    except KeyboardInterrupt:
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
