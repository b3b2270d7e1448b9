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
        help="Study file (TOML) with any of these settings, variants of methods among them, or "
        "an earlier run's config.json; flags win over it.",
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
        help="Site to harmonize to. Default: the data set's own, else the site with most subjects.",
        metavar="SITE",
    ),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="How many method seeds. Default: 1.")]
DataSeed = Annotated[
    int | None, typer.Option(min=0, help="Another split, and of the phantom another cohort.")
]
RepeatWithin = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Days within which a scan at the reference site stands for the truth of another scan "
        "of the same person. Default: 180.",
        metavar="DAYS",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")]
Device = Annotated[
    str | None, typer.Option(help="Where to train, such as cpu or cuda. Default: cpu.")
]
Devices = Annotated[
    int,
    typer.Option(
        min=1,
        help="How many GPUs (or processes on the CPU) train one model together, each on its share "
        "of every batch. For several machines, see torchrun in the documentation.",
    ),
]
AsMarkdown = Annotated[
    bool, typer.Option("--markdown", help="All of them as a Markdown table with their sources.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
