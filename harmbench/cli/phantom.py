"""`harmbench phantom`: the embedded cohort as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harmbench.cli.options import Debug


def phantom(
    out: Annotated[Path, typer.Argument(help="New folder to write to.")],
    n: Annotated[int, typer.Option(min=2, max=99_999, help="Number of subjects.")] = 1400,
    n_sites: Annotated[int, typer.Option(min=2, max=12, help="Number of sites.")] = 7,
    size: Annotated[int, typer.Option(min=16, help="Pixels along each side.")] = 64,
    strength: Annotated[
        float, typer.Option(min=0, max=2, help="Strength of the site effect.")
    ] = 1.0,
    confounding: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of age variance explained by site.")
    ] = 0.25,
    nonlinear: Annotated[
        float, typer.Option(min=0, max=2, help="Factor on blur, distortion and contrast.")
    ] = 1.0,
    jitter: Annotated[
        float, typer.Option(min=0, max=6, help="Standard deviation of the slice's height, mm.")
    ] = 2.0,
    travelling: Annotated[
        int, typer.Option(min=0, help="Number of subjects who are scanned at every site.")
    ] = 0,
    site_effect: Annotated[
        bool, typer.Option(help="Simulate a different scanner at each site.")
    ] = True,
    biology: Annotated[
        bool, typer.Option(help="Simulate effects of age and sex on the images.")
    ] = True,
    scanner_seed: Annotated[int | None, typer.Option(min=0, help="Seed of the scanners.")] = None,
    subject_seed: Annotated[int | None, typer.Option(min=0, help="Seed of the people.")] = None,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="Use the scanners and subjects for development (phantom-dev)."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Write the embedded phantom as a BIDS data set: NIfTI slices and participants.tsv."""
    from harmbench import registry
    from harmbench.data.bids_write import write_bids

    knobs = {
        "n": n,
        "n_sites": n_sites,
        "size": size,
        "strength": strength,
        "confounding": confounding,
        "nonlinear": nonlinear,
        "jitter": jitter,
        "travelling": travelling,
        "site_effect": site_effect,
        "biology": biology,
        "scanner_seed": scanner_seed,
        "subject_seed": subject_seed,
    }
    stated = {name: value for name, value in knobs.items() if value is not None}
    dataset = registry.load("dataset", "phantom-dev" if dev else "phantom")(**stated)
    cohort = dataset.load()
    write_bids(cohort, out, spacing_mm=dataset.spacing_mm, name=dataset.info.label)
    typer.echo(f"{len(cohort)} slices of {len(cohort.sites)} sites written to {out}")
