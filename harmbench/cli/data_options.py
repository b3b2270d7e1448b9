"""The flags that say how a study's own files are read, shared by `run` and `check`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

SiteColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the site, of participants.tsv, sessions.tsv or scans.tsv. Default: site.",
        metavar="NAME",
    ),
]
AgeColumn = Annotated[
    str | None,
    typer.Option(help='Column of the age; "" leaves age out. Default: age.',
                 metavar="NAME"),
]  # fmt: skip
SexColumn = Annotated[
    str | None,
    typer.Option(help='Column of the sex; "" leaves sex out. Default: sex.', metavar="NAME"),
]
SexCodes = Annotated[
    str | None,
    typer.Option(help="What numbers in it stand for.", metavar='"1=M,2=F"'),
]
AgeUnit = Annotated[
    str | None,
    typer.Option(
        help="Unit of the age: years, months, weeks or days. Default: as its column's name or "
        "participants.json says, or else years.",
        metavar="UNIT",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="Which columns of a table are features: names or patterns, '!' before one excludes. "
        "Default: all of numbers.",
        metavar="'lh_*,!ICV'",
    ),
]
Slices = Annotated[
    int | None, typer.Option(help="Slices of each scan, an odd number. Default: 1.", metavar="K")
]
SliceZ = Annotated[
    float | None,
    typer.Option(help="Height of the (middle) slice, world z. Default: the largest.",
                 metavar="MM"),
]  # fmt: skip
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave scans with problems out instead of refusing.")
]


def data_options(
    site_column: str | None,
    age_column: str | None,
    sex_column: str | None,
    sex_codes: str | None,
    age_unit: str | None,
    features: str | None,
    slices: int | None,
    slice_z: float | None,
    skip_bad: bool,
) -> dict[str, Any]:
    """Return the data set's arguments that the user stated, by their names there."""
    stated = {
        "site_column": site_column,
        "age_column": age_column,
        "sex_column": sex_column,
        "sex_codes": sex_codes,
        "age_unit": age_unit,
        "features": features,
        "slices": slices,
        "z": slice_z,
        "skip_bad": skip_bad or None,
    }
    return {name: value for name, value in stated.items() if value is not None}
