"""`harmbench report`: the report of a finished run, or of several runs as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harmbench.cli.options import Debug


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of a run, or of several runs of the same data, such as one job per "
            "method.",
            metavar="FOLDER...",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the report. Default: the run folder; required for several runs.",
            metavar="FOLDER",
        ),
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Show no images of subjects.")
    ] = False,
    hash_ids: Annotated[
        bool,
        typer.Option(
            "--hash-ids", help="Replace participants' ids by pseudonyms, new ones for every report."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Write the report of a run again, or one report of several runs; compute nothing again."""
    import reports

    typer.echo(reports.build(folders, out, images=not no_images, hash_ids=hash_ids))
    if out is None and (hash_ids or no_images):
        typer.echo(
            f"note: {folders[0]} itself still holds images and ids; send only report.html, "
            "tables and figures, or write the report elsewhere with --out FOLDER",
            err=True,
        )
