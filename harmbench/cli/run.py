"""`harmbench run`: resolve the settings, run, report, and say how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import typer
from tabulate import tabulate

from harmbench.cli import EXIT_FAILED_CELL, EXIT_INTERRUPTED
from harmbench.cli.interrupting import ended_soon
from harmbench.config import RunConfig, default_folder, resolve
from harmbench.engine.run import outline, run
from harmbench.errors import HarmbenchError
from harmbench.progress import BarProgress, LineProgress, Progress
from harmbench.study import read_study


def run_and_report(
    flags: dict[str, Any],
    study: Path | None,
    out: Path | None,
    *,
    quiet: bool,
    dry_run: bool = False,
    check: Callable[..., None] | None = None,
    jobs: int | None = None,
    dask: str | None = None,
) -> int:
    """Run what the command line and the study file asked for; return the exit code.

    Parameters
    ----------
    flags : dict
        Settings of `harmbench.config.resolve`, None where not given.
    study : Path or None
        File with further settings.
    out : Path or None
        The run folder.
    quiet, dry_run : bool
        Without progress; without doing anything.
    check : callable or None
        What must hold of the run before it starts, see `harmbench.engine.run.run`.
    jobs : int or None
        Processes that work on cells at once; then one thread each unless the settings say more.
    dask : str or None
        Address of a scheduler whose workers do, instead.

    Returns
    -------
    int
        0; 1 where a method or metric failed; 130 after Ctrl-C.
    """
    import reports

    settings = read_study(study) if study else {}
    options = {**settings.pop("data_options", {}), **(flags.pop("data_options", None) or {})}
    settings |= {name: value for name, value in flags.items() if value is not None}
    if not settings.get("methods") and not settings.get("controls"):
        raise HarmbenchError(
            "nothing to judge: give --methods NAME... (see `harmbench methods`), or --controls"
        )
    if jobs is not None or dask is not None:
        settings.setdefault("threads", 1)
    config = resolve(**settings, data_options=options)
    folder = out or default_folder("results", config, study, options)
    if dry_run:
        typer.echo(_plan(config, folder))
        return 0
    stopped = f"stopped; the same command goes on where it was ({folder})"
    try:
        with ended_soon(stopped), make_progress(quiet) as progress:
            first = partial(check, progress=progress) if check else None
            summary = run(config, folder, progress, check=first, jobs=jobs, dask=dask)
            progress.message("writing the report")
            page = reports.build(folder)
    except KeyboardInterrupt:
        typer.echo(stopped, err=True)
        return EXIT_INTERRUPTED
    typer.echo(reports.terminal_table(folder))
    for sentence in summary.failed:
        typer.echo(f"failed: {sentence}", err=True)
    typer.echo(f"report: {page}")
    return EXIT_FAILED_CELL if summary.failed else 0


def _plan(config: RunConfig, folder: Path) -> str:
    cells, work = outline(config, folder)
    known = work["seconds"].dropna()
    total = f"{work['nodes'].sum()} steps, about {timedelta(seconds=round(known.sum()))}"
    lines = [
        f"data      {config.data.name} {config.data.params or ''}",
        f"preset    {config.preset}, protocol {config.protocol}, threads {config.threads}",
        f"metrics   {', '.join(config.metrics)}",
        f"folder    {folder}{'' if folder.exists() else ' (new)'}",
        "",
        tabulate(cells, headers="keys", showindex=False),
        "",
        tabulate(work, headers="keys", showindex=False, floatfmt=".1f", missingval="?"),
        "",
        f"missing   {total} on one machine, as far as costs are known"
        if len(work)
        else "missing   nothing",
    ]
    return "\n".join(lines)


def make_progress(quiet: bool) -> Progress:
    """Return live bars for a terminal, plain lines for anything else, silence where asked for."""
    if quiet:
        return Progress()
    if sys.stderr.isatty():
        return BarProgress()
    return LineProgress(lambda text: typer.echo(text, err=True))
