"""The options that say how a study's own files are read, the same for every command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

SiteColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the site in participants.tsv, sessions.tsv or scans.tsv. Default: site.",
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
    typer.Option(help="Meaning of numbers in the sex column.", metavar='"1=M,2=F"'),
]
AgeUnit = Annotated[
    str | None,
    typer.Option(
        help="Unit of the age: years, months, weeks or days. Default: as given by the "
        "column's name or participants.json, else years.",
        metavar="UNIT",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="Columns of a table that are features: names or patterns; '!' before a pattern "
        "excludes columns. Default: all numeric columns that do not identify the site.",
        metavar="'lh_*,!ICV'",
    ),
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        help="Tables with the features of the participants in --data, such as those of "
        "FreeSurfer's aparcstats2table and asegstats2table (wide, or long with a column of names "
        "and one of values).",
        metavar="FILE...",
    ),
]
Icv = Annotated[
    str | None,
    typer.Option(
        help="Column of the intracranial volume. Default: recognized by its name, such as eTIV.",
        metavar="NAME",
    ),
]
IcvUse = Annotated[
    str | None,
    typer.Option(
        help="Intracranial volume: leave (a feature like others), regress (adjust the other "
        "features, by a regression within sites) or ratio (divide them by it). Default: leave.",
        metavar="leave|regress|ratio",
    ),
]
Suffix = Annotated[
    str | None,
    typer.Option(help="Ending of the image names, such as T2w or UNIT1. Default: T1w.",
                 metavar="NAME"),
]  # fmt: skip
Contains = Annotated[
    str | None,
    typer.Option(
        help="Use only images whose names contain this text, such as space-MNI152NLin2009cAsym.",
        metavar="TEXT",
    ),
]
Center = Annotated[
    str | None,
    typer.Option(
        help="What is placed in the middle of the grid: brain, or image for images registered to "
        "one template. Default: brain.",
        metavar="brain|image",
    ),
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Follow links that leave the data set.")
]
Slices = Annotated[
    int | None, typer.Option(help="Number of slices of each scan, odd. Default: 1.", metavar="K")
]
SliceZ = Annotated[
    float | None,
    typer.Option(
        help="Height of the (middle) slice, world z. Default: that of the lateral ventricles, "
        "found from the top of the head.",
        metavar="MM",
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave out scans with problems instead of refusing the data."),
]


OPTIONS: dict[str, tuple[Any, str]] = {
    "site_column": (SiteColumn, "site_column"),
    "age_column": (AgeColumn, "age_column"),
    "sex_column": (SexColumn, "sex_column"),
    "sex_codes": (SexCodes, "sex_codes"),
    "age_unit": (AgeUnit, "age_unit"),
    "features": (Features, "features"),
    "tables": (Tables, "tables"),
    "icv": (Icv, "icv"),
    "icv_use": (IcvUse, "icv_use"),
    "suffix": (Suffix, "suffix"),
    "contains": (Contains, "contains"),
    "center": (Center, "center"),
    "follow_links": (FollowLinks, "follow_links"),
    "slices": (Slices, "slices"),
    "slice_z": (SliceZ, "z"),
    "skip_bad": (SkipBad, "skip_bad"),
}
"""Each option's declaration and the data set's argument that it sets."""
FLAGS = (FollowLinks, SkipBad)


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Return the words of the command line that state these arguments of a data set."""
    words = []
    for name, (_, argument) in OPTIONS.items():
        value = options.get(argument)
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, list | tuple):
            words += [flag, *map(str, value)] if value else []
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


def takes_data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of these options; it gets those stated as the dict `data_options`."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name != "data_options"]
    data = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if declared in FLAGS else None,
            annotation=declared,
        )
        for name, (declared, _) in OPTIONS.items()
    ]

    def with_options(**given: Any) -> None:
        stated = {argument: given.pop(name) for name, (_, argument) in OPTIONS.items()}
        given_options = {n: v for n, v in stated.items() if v is not None and v is not False}
        if tables := given_options.get("tables"):
            given_options["tables"] = [str(Path(table).resolve()) for table in tables]
        command(**given, data_options=given_options)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + data
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options
