"""`harmbench check-method`: the contract suite, as the project's own tests run it."""

from __future__ import annotations

import textwrap

import typer

from harmbench import registry
from harmbench.checks import CheckResult, method_checks
from harmbench.cli import EXIT_FAILED_CELL


def check_method(name: str) -> int:
    """Print what holds of a method and what does not; return the exit code."""
    results = method_checks(registry.load("method", name))
    width = max(len(result.name) for result in results)
    for result in results:
        typer.echo(_line(result, width))
    broken = sum(not result.passed for result in results)
    typer.echo(f"{len(results) - broken} of {len(results)} hold")
    return EXIT_FAILED_CELL if broken else 0


def _line(result: CheckResult, width: int) -> str:
    head = f"{'holds ' if result.passed else 'BROKEN'}  {result.name:<{width}}  "
    indent = " " * len(head)
    return textwrap.fill(head + result.detail, 100, subsequent_indent=indent)
