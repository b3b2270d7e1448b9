"""The commands and what their options mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harmbench import __version__
from harmbench.cli.cache import cache
from harmbench.cli.command import HarmbenchCommand, HarmbenchGroup
from harmbench.cli.curve import curve
from harmbench.cli.data_options import takes_data_options
from harmbench.cli.evaluate import evaluate
from harmbench.cli.export import export
from harmbench.cli.harmonize import harmonize
from harmbench.cli.options import (
    AsMarkdown,
    Config,
    Data,
    DataSeed,
    Debug,
    Device,
    Devices,
    Folds,
    Preset,
    Quiet,
    ReferenceSite,
    RepeatWithin,
    Seeds,
    Threads,
)
from harmbench.cli.phantom import phantom
from harmbench.cli.report import report
from harmbench.cli.suites import check_dataset, check_method, check_metric

app = typer.Typer(
    name="harmbench",
    cls=HarmbenchGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

Names = list[str]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"harmbench {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Benchmark of methods that harmonize multi-site brain MRI. Not for diagnosis."""


@app.command(cls=HarmbenchCommand)
@takes_data_options
def run(
    methods: Annotated[
        Names | None,
        typer.Option(
            help="Methods to evaluate, separated by spaces: names from `harmbench methods`, or "
            "file.py:Class.",
            metavar="NAME...",
        ),
    ] = None,
    data: Data = None,
    config: Config = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; an earlier run of the same data in it is extended. "
            "Default: results/<study>-<data>-<preset>, with a suffix for data options.",
            metavar="FOLDER",
        ),
    ] = None,
    preset: Preset = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Set of metrics: five (the paper's), core (also truth, leakage, mixing), full. "
            "Default: core.",
            metavar="five|core|full",
        ),
    ] = None,
    metrics: Annotated[
        Names | None,
        typer.Option(
            help="Compute only these metrics: names from `harmbench metrics`, or file.py:name.",
            metavar="NAME...",
        ),
    ] = None,
    controls: Annotated[
        Names | None,
        typer.Option(
            help="Controls in the tables beside the methods: all, none, or names. "
            "Default: identity, shuffle and, if the truth is known, oracle.",
            metavar="all|none|NAME...",
        ),
    ] = None,
    reference_site: ReferenceSite = None,
    seeds: Seeds = None,
    data_seed: DataSeed = None,
    folds: Folds = None,
    subjects: Annotated[
        int | None,
        typer.Option(
            min=5,
            help="Use at most this many subjects of each site, chosen at random.",
            metavar="N",
        ),
    ] = None,
    repeat_within: RepeatWithin = None,
    threads: Threads = None,
    device: Device = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes on this machine that run methods in parallel, with one "
            "thread each unless --threads is given.",
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            help="Run the methods on the workers of this dask scheduler, such as "
            "tcp://host:8786; --out must be a folder that they share.",
            metavar="ADDRESS",
        ),
    ] = None,
    weights: Annotated[
        Names | None,
        typer.Option(
            help="Weights to use instead of training: auto uses those shipped with a method if "
            "parameters, data, split, reference site and seed are the same; none trains; "
            "METHOD=FOLDER uses those that `harmbench train` saved there. Default: auto.",
            metavar="auto|none|METHOD=FOLDER...",
        ),
    ] = None,
    inception_weights: Annotated[
        Path | None,
        typer.Option(
            help="File of pytorch-fid's Inception weights, for machines without a network.",
            metavar="FILE",
        ),
    ] = None,
    data_options: dict[str, Any] | None = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and what is already done.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Evaluate methods with one protocol: fit, harmonize, score, and write a report.

    If you run the command again on the same folder with other methods or metrics, only those are
    computed and added. A run that was stopped continues where it stopped.
    """
    from harmbench.cli.run import run_and_report

    flags = {
        "methods": methods,
        "data": data,
        "preset": preset,
        "protocol": protocol,
        "metrics": metrics,
        "controls": controls,
        "reference_site": reference_site,
        "seeds": seeds,
        "data_seed": data_seed,
        "folds": folds,
        "subjects": subjects,
        "repeat_within": repeat_within,
        "threads": threads,
        "device": device,
        "inception_weights": inception_weights,
        "weights": weights,
        "data_options": data_options,
    }
    code = run_and_report(flags, config, out, quiet=quiet, dry_run=dry_run, jobs=jobs, dask=dask)
    raise typer.Exit(code)


@app.command(cls=HarmbenchCommand)
@takes_data_options
def train(
    methods: Annotated[
        Names | None,
        typer.Option(
            help="Methods to train, separated by spaces: names from `harmbench methods`, or "
            "file.py:Class.",
            metavar="NAME...",
        ),
    ] = None,
    data: Data = None,
    config: Config = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the weights, with one folder per method. "
            "Default: weights/<data>-<preset>.",
            metavar="FOLDER",
        ),
    ] = None,
    preset: Preset = None,
    reference_site: ReferenceSite = None,
    seeds: Seeds = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Train only this method seed, instead of --seeds.")
    ] = None,
    data_seed: DataSeed = None,
    threads: Threads = None,
    device: Device = None,
    devices: Devices = 1,
    data_options: dict[str, Any] | None = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train methods like `run`, and save their weights for `run --weights METHOD=FOLDER`.

    Each method's folder contains the weights, a card that describes how they were made, and the
    card as a page. A training that was stopped continues with the same command; a finished one is
    never overwritten.
    """
    from harmbench.cli.train import train_and_tell

    given = {
        "methods": methods,
        "data": data,
        "config": config,
        "out": out,
        "preset": preset,
        "reference_site": reference_site,
        "seeds": seeds,
        "seed": seed,
        "data_seed": data_seed,
        "threads": threads,
        "device": device,
        "devices": devices,
        "data_options": data_options,
        "quiet": quiet,
    }
    raise typer.Exit(train_and_tell(given))


app.command(cls=HarmbenchCommand)(harmonize)
app.command(cls=HarmbenchCommand)(export)
app.command(cls=HarmbenchCommand)(phantom)
app.command(cls=HarmbenchCommand)(cache)
app.command(cls=HarmbenchCommand)(evaluate)
app.command(cls=HarmbenchCommand)(curve)


app.command(cls=HarmbenchCommand)(report)


@app.command(cls=HarmbenchCommand)
@takes_data_options
def check(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A BIDS folder, a table (.csv, .tsv), an .npz file, or a data set's name. "
            "Default: the data of the study file.",
        ),
    ] = None,
    config: Config = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page with thumbnails of every site.", metavar="FILE"),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write data and options to a new study file, for `run --config`.", metavar="FILE"
        ),
    ] = None,
    preset: Preset = None,
    data_options: dict[str, Any] | None = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Describe data before a run: questions it can answer, every problem, sites, images.

    The exit code is 0 if a run with the same options would start, else 2.
    """
    from harmbench.cli import check as sheets

    flags = {"data": data, "preset": preset, "data_options": data_options}
    raise typer.Exit(sheets.check(flags, config, html, save, quiet=quiet))


for suite in (check_method, check_metric, check_dataset):
    app.command(cls=HarmbenchCommand)(suite)


@app.command(cls=HarmbenchCommand)
def methods(
    name: Annotated[str | None, typer.Argument(help="Show this method in full.")] = None,
    markdown: AsMarkdown = False,
    debug: Debug = False,
) -> None:
    """List the methods and controls, or show one."""
    from harmbench.cli.listing import listing

    typer.echo(listing("method", name, markdown=markdown))


@app.command(cls=HarmbenchCommand)
def metrics(
    name: Annotated[str | None, typer.Argument(help="Show this metric in full.")] = None,
    products: Annotated[
        bool,
        typer.Option("--products", help="List the products that a metric can need, as Markdown."),
    ] = False,
    markdown: AsMarkdown = False,
    debug: Debug = False,
) -> None:
    """List the metrics, or show one."""
    from harmbench.cli.listing import listing

    if products:
        from harmbench.cli import reference

        typer.echo(reference.products())
        return

    typer.echo(listing("metric", name, markdown=markdown))


@app.command(cls=HarmbenchCommand)
def datasets(
    name: Annotated[str | None, typer.Argument(help="Show this data set in full.")] = None,
    markdown: AsMarkdown = False,
    debug: Debug = False,
) -> None:
    """List the data sets, or show one."""
    from harmbench.cli.listing import listing

    typer.echo(listing("dataset", name, markdown=markdown))
