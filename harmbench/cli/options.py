"""Options that `harmbench run` and `harmbench train` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str | None,
    typer.Option(
        help="A data set's name (see `harmbench datasets`), a BIDS folder, "
        "a table of features (.csv, .tsv), or an .npz file. "
        "Default: phantom.",
        metavar="NAME|FOLDER|FILE",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="Study file (TOML) with any of these settings, including variants of methods, or "
        "an earlier run's config.json; command-line options override it.",
        metavar="FILE",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Sizes and budgets: smoke (a minute), standard, paper (for a GPU). Default: standard.",
        metavar="smoke|standard|paper",
    ),
]
ReferenceSite = Annotated[
    str | None,
    typer.Option(
        help="Site to harmonize to. Default: the data set's reference site, else the site with the "
        "most subjects.",
        metavar="SITE",
    ),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Number of method seeds. Default: 1.")]
DataSeed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of the split, and of the phantom's cohort. Default: 0."),
]
Folds = Annotated[
    int | None,
    typer.Option(
        min=3,
        max=20,
        help="Number of folds, and of fits of each method, if the data are too few for separate "
        "parts: every image is harmonized by a fit that has not seen its subject. Default: 5.",
        metavar="K",
    ),
]
RepeatWithin = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Largest number of days between two scans of a person for which the scan at the "
        "reference site is the truth of the other scan. Default: 180.",
        metavar="DAYS",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")]
Device = Annotated[
    str | None, typer.Option(help="Device for training, such as cpu or cuda. Default: cpu.")
]
Devices = Annotated[
    int,
    typer.Option(
        min=1,
        help="Number of GPUs (or processes on the CPU) that train one model together, each on its "
        "share of every batch. For several machines, see torchrun in the documentation.",
    ),
]
AsMarkdown = Annotated[
    bool, typer.Option("--markdown", help="Print all as a Markdown table with their sources.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
