"""`harmbench check-method`, `check-metric`, `check-dataset`: the contract suites."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import typer

from harmbench import registry
from harmbench.checks import CheckResult, dataset_checks, method_checks, metric_checks
from harmbench.cli import EXIT_FAILED_CELL
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import Harmonizer
from harmbench.contracts.metric import Metric
from harmbench.errors import HarmbenchError


def check_plugin(kind: registry.Kind, name: str) -> int:
    """Print what holds of a plug-in and what does not; return the exit code.

    Raises
    ------
    HarmbenchError
        Where the name leads to something else than a plug-in of that kind.
    """
    found = registry.load(kind, name)
    results = {"method": _method, "metric": _metric, "dataset": _dataset}[kind](found, name)
    width = max(len(result.name) for result in results)
    for result in results:
        typer.echo(_line(result, width))
    broken = sum(not result.passed for result in results)
    typer.echo(f"{len(results) - broken} of {len(results)} hold")
    return EXIT_FAILED_CELL if broken else 0


def _method(found: Any, name: str) -> list[CheckResult]:
    return method_checks(_factory(found, name, Harmonizer))


def _dataset(found: Any, name: str) -> list[CheckResult]:
    return dataset_checks(_factory(found, name, Dataset))


def _metric(found: Any, name: str) -> list[CheckResult]:
    from harmbench.engine.keys import IMAGE_PRODUCTS
    from harmbench.protocol import PRODUCTS

    if not isinstance(found, Metric):
        raise HarmbenchError(
            f"{name} is no metric; declare the function with the decorator `harmbench.metric`"
        )
    products = {*IMAGE_PRODUCTS, *(product.name for product in PRODUCTS)}
    return metric_checks(found, products=products, methods=registry.names("method"))


def _factory(found: Any, name: str, base: type) -> Callable[[], Any]:
    """Return what makes an instance without arguments.

    Raises
    ------
    HarmbenchError
        For a class of another kind, one with methods missing, and one that needs arguments.
    """
    if not callable(found) or (isinstance(found, type) and not issubclass(found, base)):
        raise HarmbenchError(f"{name} is no subclass of {base.__name__}")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise HarmbenchError(f"{name} does not define {', '.join(missing)}")
    parameters = inspect.signature(found).parameters.values()
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        raise HarmbenchError(
            f"{name} cannot be made without {', '.join(needed)}; check a file.py:NAME that can, "
            "such as a function that gives these arguments"
        )
    return found


def _line(result: CheckResult, width: int) -> str:
    head = f"{'holds ' if result.passed else 'BROKEN'}  {result.name:<{width}}  "
    indent = " " * len(head)
    return textwrap.fill(head + result.detail, 100, subsequent_indent=indent)
