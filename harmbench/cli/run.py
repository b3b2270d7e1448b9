"""`harmbench run`: resolve the settings, run, report, and say how it ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import typer
from tabulate import tabulate

from harmbench.api import run_config
from harmbench.cli import EXIT_FAILED_CELL, EXIT_INTERRUPTED
from harmbench.cli.interrupting import ended_soon
from harmbench.config import RunConfig
from harmbench.engine.run import outline
from harmbench.progress import make_progress
from harmbench.study import run_settings


def run_and_report(
    given: dict[str, Any],
    study: Path | None,
    out: Path | None,
    *,
    quiet: bool,
    dry_run: bool = False,
    check: Callable[..., None] | None = None,
    jobs: int | None = None,
    dask: str | None = None,
) -> int:
    """Run what the command line and the study file ask for; return the exit code.

    Parameters
    ----------
    given : dict
        Settings of `harmbench.config.resolve`, None where not given.
    study, out : Path or None
        File with further settings; the run folder.
    quiet, dry_run : bool
        Without progress; without doing anything.
    check : callable or None
        What must hold of the run before it starts, see `harmbench.engine.run.run`.
    jobs, dask : int, str, or None
        Who makes the nodes; with one thread each unless the settings say more.

    Returns
    -------
    int
        0; 1 where a method or metric failed; 130 after Ctrl-C.
    """
    import reports

    alone = jobs is None and dask is None
    config, folder = run_settings(study, out, alone=alone, **given)
    if dry_run:
        typer.echo(_plan(config, folder))
        return 0
    stopped = f"stopped; the same command goes on where it was ({folder})"
    try:
        with ended_soon(stopped), make_progress(quiet) as progress:
            first = partial(check, progress=progress) if check else None
            results = run_config(config, folder, progress, check=first, jobs=jobs, dask=dask)
            progress.message("writing the report")
            page = results.report()
    except KeyboardInterrupt:
        typer.echo(stopped, err=True)
        return EXIT_INTERRUPTED
    typer.echo(reports.terminal_table(folder))
    for sentence in results.failed:
        typer.echo(f"failed: {sentence}", err=True)
    typer.echo(f"report: {page}")
    return EXIT_FAILED_CELL if results.failed else 0


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
