"""`harmbench harmonize`: a data set harmonized by one method, as NIfTI files."""

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
    Device,
    Folds,
    Preset,
    Quiet,
    ReferenceSite,
    Threads,
)


@takes_data_options
def harmonize(
    method: Annotated[
        str | None,
        typer.Option(
            help="Method: a name from `harmbench methods`, file.py:Class, or the label of a "
            "variant in the study file.",
            metavar="NAME",
        ),
    ] = None,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder to write to.", metavar="FOLDER")
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights to use instead of training: auto uses those shipped with the method if "
            "they fit; none trains; or a folder that `harmbench train` has written.",
            metavar="auto|none|FOLDER",
        ),
    ] = "auto",
    target: Annotated[
        str | None,
        typer.Option(
            help="Site to harmonize to, for methods that can render images at any site. Default: "
            "the reference site.",
            metavar="SITE",
        ),
    ] = None,
    config: Config = None,
    preset: Preset = None,
    reference_site: ReferenceSite = None,
    data_seed: DataSeed = None,
    folds: Folds = None,
    threads: Threads = None,
    device: Device = None,
    data_options: dict[str, Any] | None = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Harmonize a whole data set with one method and write it as NIfTI files.

    The method is fitted as in `run` with seed 0, or its weights are used, so the images are those
    that `run` scores. A command that was stopped continues when you run it again.
    """
    from harmbench.api import harmonize as write
    from harmbench.cli import EXIT_INTERRUPTED
    from harmbench.errors import HarmbenchError

    if method is None or out is None:
        raise HarmbenchError("give --method NAME (see `harmbench methods`) and --out FOLDER")
    try:
        material = write(
            method,
            out,
            data,
            weights=weights,
            target=target,
            config=config,
            preset=preset,
            reference_site=reference_site,
            data_seed=data_seed,
            folds=folds,
            threads=threads,
            device=device,
            data_options=data_options,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on where it was", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo(f"{len(material.cohort)} slices written to {out}")
    if not material.split.cross_fitting:
        typer.echo(
            "the method was fitted on the images of part `fit` (split.tsv) and harmonizes those "
            "better than others: judge it by the other parts"
        )
