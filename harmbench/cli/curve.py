"""`harmbench curve`: how many subjects per site a method needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harmbench.cli.data_options import takes_data_options
from harmbench.cli.options import (
    Config,
    Data,
    DataSeed,
    Debug,
    Folds,
    Preset,
    Quiet,
    ReferenceSite,
    Threads,
)


@takes_data_options
def curve(
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Methods to evaluate, as for `run`.", metavar="NAME..."),
    ] = None,
    data: Data = None,
    subjects: Annotated[
        list[int] | None,
        typer.Option(help="Subjects per site. Default: 10 20 40 80.", metavar="N..."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the runs, the table and the figure.", metavar="FOLDER")
    ] = Path("results/curve"),
    config: Config = None,
    preset: Preset = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Compute only these metrics, as for `run`.", metavar="NAME..."),
    ] = None,
    reference_site: ReferenceSite = None,
    data_seed: DataSeed = None,
    folds: Folds = None,
    threads: Threads = None,
    data_options: dict[str, Any] | None = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Evaluate methods on subsets of the subjects, and show the scores against their number.

    Every number of subjects per site is a run of its own, so a stopped command continues.
    """
    from harmbench.api import SUBJECTS
    from harmbench.api import curve as evaluate
    from harmbench.cli import EXIT_INTERRUPTED
    from harmbench.errors import HarmbenchError
    from reports.subjects import sentence

    if methods is None and config is None:
        raise HarmbenchError("give --methods NAME... (see `harmbench methods`)")
    try:
        table = evaluate(
            methods,
            data,
            subjects=subjects or SUBJECTS,
            out=out,
            config=config,
            preset=preset,
            metrics=metrics,
            reference_site=reference_site,
            data_seed=data_seed,
            folds=folds,
            threads=threads,
            data_options=data_options,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on where it was", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo(sentence(table))
    typer.echo(f"table: {out / 'curve.csv'}\nfigure: {out / 'curve.png'}")
