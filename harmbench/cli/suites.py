"""The commands that run the contract suites of plug-ins."""

from __future__ import annotations

from typing import Annotated

import typer

from harmbench.cli.options import Debug


def check_method(
    name: Annotated[str, typer.Argument(help="A method's name, or file.py:Class.")],
    debug: Debug = False,
) -> None:
    """Run the contract suite on a method: shapes, determinism, order, round trip, columns, ...

    The exit code is 0 if all checks pass, else 1.
    """
    from harmbench.cli.check_plugin import check_plugin

    raise typer.Exit(check_plugin("method", name))


def check_metric(
    name: Annotated[str, typer.Argument(help="A metric's name, or file.py:name.")],
    debug: Debug = False,
) -> None:
    """Run the contract suite on a metric: its declaration, its products and controls.

    The exit code is 0 if all checks pass, else 1.
    """
    from harmbench.cli.check_plugin import check_plugin

    raise typer.Exit(check_plugin("metric", name))


def check_dataset(
    name: Annotated[str, typer.Argument(help="A data set's name, or file.py:Class.")],
    debug: Debug = False,
) -> None:
    """Run the contract suite on a data set: rows, sites, fingerprint, truth.

    The exit code is 0 if all checks pass, else 1. To inspect data, use `check`.
    """
    from harmbench.cli.check_plugin import check_plugin

    raise typer.Exit(check_plugin("dataset", name))
