"""`harmbench run`: resolve the settings, run, report, and say how it ended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from harmbench.cli import EXIT_FAILED_CELL, EXIT_INTERRUPTED
from harmbench.config import data_title, resolve
from harmbench.errors import HarmbenchError
from harmbench.progress import BarProgress, LineProgress, Progress
from harmbench.runner import run


def run_and_report(settings: dict[str, Any], out: Path | None, *, quiet: bool) -> int:
    """Run what the command line asked for; return the exit code.

    Returns
    -------
    int
        0; 1 where a method or metric failed; 130 after Ctrl-C.
    """
    import reports

    if not settings["methods"] and not settings["controls"]:
        raise HarmbenchError(
            "nothing to judge: give --methods NAME... (see `harmbench methods`), or --controls"
        )
    config = resolve(**settings)
    folder = out or Path("results") / f"{data_title(config.data)}-{config.preset}"
    try:
        with make_progress(quiet) as progress:
            summary = run(config, folder, progress)
            progress.message("writing the report")
            page = reports.build(folder)
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on where it was ({folder})", err=True)
        return EXIT_INTERRUPTED
    typer.echo(reports.terminal_table(folder))
    for sentence in summary.failed:
        typer.echo(f"failed: {sentence}", err=True)
    typer.echo(f"report: {page}")
    return EXIT_FAILED_CELL if summary.failed else 0


def make_progress(quiet: bool) -> Progress:
    """Return live bars for a terminal, plain lines for anything else, silence where asked for."""
    if quiet:
        return Progress()
    if sys.stderr.isatty():
        return BarProgress()
    return LineProgress(lambda text: typer.echo(text, err=True))
