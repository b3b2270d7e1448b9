"""`harmbench cache`: data sets that are kept for this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from harmbench.cli.options import Debug


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of them.")] = False,
    debug: Debug = False,
) -> None:
    """List the data sets that are kept so that they are made only once, or delete them.

    They lie in the folder that the variable HARMBENCH_CACHE names, or in the user's cache folder.
    """
    from datetime import datetime

    from tabulate import tabulate

    from harmbench.data import cache as kept

    rows = []
    for folder in kept.entries():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        made = datetime.fromtimestamp(folder.stat().st_mtime)
        rows.append((folder.name, f"{size / 2**20:,.1f} MiB", f"{made:%Y-%m-%d %H:%M}"))
    typer.echo(f"cache: {kept.cache_folder()}")
    if rows:
        typer.echo(tabulate(rows, headers=("data set", "size", "made")))
    else:
        typer.echo("it holds nothing")
    if clear:
        typer.echo(f"deleted: {kept.clear()}")
