"""`harmbench export`: the data of a run for a program outside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harmbench.cli.data_options import takes_data_options
from harmbench.cli.options import Config, DataSeed, Debug, Folds, Preset, Quiet, ReferenceSite


@takes_data_options
def export(
    data: Annotated[
        str | None,
        typer.Argument(help="A BIDS folder, an .npz file, or a data set's name, as for `run`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder to write to.")] = None,
    config: Config = None,
    preset: Preset = None,
    reference_site: ReferenceSite = None,
    data_seed: DataSeed = None,
    folds: Folds = None,
    data_options: dict[str, Any] | None = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the slices that methods receive, and the split, for an external program.

    The README.md in the folder describes what the program must do; `harmbench evaluate` scores the
    images that it returns.
    """
    from harmbench.config import resolve
    from harmbench.errors import HarmbenchError
    from harmbench.exchange.export import export as write
    from harmbench.progress import make_progress
    from harmbench.study import OF_DATA, combined

    if out is None:
        raise HarmbenchError("give the new folder to write to: --out FOLDER")
    flags = {
        "data": data,
        "preset": preset,
        "reference_site": reference_site,
        "data_seed": data_seed,
        "folds": folds,
        "data_options": data_options,
    }
    said = combined(config, flags, OF_DATA)
    if not said.get("data"):
        raise HarmbenchError("nothing to read: name the data, such as a BIDS folder")
    settings = resolve(**said, controls=("none",))
    with make_progress(quiet) as progress:
        material = write(settings, out, progress)
    typer.echo(f"{len(material.cohort)} slices written to {out}; its README.md says what to do")
    typer.echo(f"reference site: {material.reference_site}; fingerprint and settings: export.json")
