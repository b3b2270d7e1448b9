"""`harmbench evaluate`: images that were harmonized outside, in the table of a run."""

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
    RepeatWithin,
    Threads,
)


@takes_data_options
def evaluate(
    harmonized: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the harmonized images, under the names that `harmbench export` gave "
            "them, or written by `harmbench harmonize`.",
            metavar="FOLDER",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the row in the tables.", metavar="TEXT")
    ] = "returned images",
    data: Data = None,
    config: Config = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; an earlier run of the same data in it is extended, so "
            "that all rows are in one table. Default: results/<data>-<preset>, as for `run`.",
            metavar="FOLDER",
        ),
    ] = None,
    preset: Preset = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Set of metrics, as for `run`. Default: core.", metavar="five|core|full"),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Compute only these metrics, as for `run`.", metavar="NAME..."),
    ] = None,
    controls: Annotated[
        list[str] | None,
        typer.Option(help="Controls in the tables, as for `run`.", metavar="all|none|NAME..."),
    ] = None,
    reference_site: ReferenceSite = None,
    data_seed: DataSeed = None,
    folds: Folds = None,
    repeat_within: RepeatWithin = None,
    threads: Threads = None,
    device: Device = None,
    inception_weights: Annotated[
        Path | None,
        typer.Option(help="File of pytorch-fid's Inception weights.", metavar="FILE"),
    ] = None,
    data_options: dict[str, Any] | None = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score images that an external program has harmonized, in the same table as any method.

    The images are read without rescaling. Metrics that need more than harmonized images (other
    covariates, other targets) are skipped with this reason.
    """
    from functools import partial

    from harmbench.cli.run import run_and_report
    from harmbench.errors import HarmbenchError
    from harmbench.exchange.evaluate import check, returned_spec

    if harmonized is None:
        raise HarmbenchError("give the folder with the harmonized images: --harmonized FOLDER")
    spec = returned_spec(harmonized, name)
    flags = {
        "methods": [spec],
        "data": data,
        "preset": preset,
        "protocol": protocol,
        "metrics": metrics,
        "controls": controls,
        "reference_site": reference_site,
        "data_seed": data_seed,
        "folds": folds,
        "repeat_within": repeat_within,
        "threads": threads,
        "device": device,
        "inception_weights": inception_weights,
        "data_options": data_options,
    }
    code = run_and_report(flags, config, out, quiet=quiet, check=partial(check, spec=spec))
    raise typer.Exit(code)
