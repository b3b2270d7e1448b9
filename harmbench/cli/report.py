"""`harmbench report`: the report of a finished run, or of several runs as one."""

from __future__ import annotations

from pathlib import Path

import typer


def report_on(folders: list[Path], out: Path | None, *, images: bool, hash_ids: bool) -> None:
    """Write the report and say where it lies, and what must not be sent with it."""
    import reports

    page = reports.build(folders, out, images=images, hash_ids=hash_ids)
    typer.echo(page)
    if out is None and (hash_ids or not images):
        typer.echo(
            f"note: {folders[0]} itself still holds images and ids; send only report.html, "
            "tables and figures, or write the report elsewhere with --out FOLDER",
            err=True,
        )
