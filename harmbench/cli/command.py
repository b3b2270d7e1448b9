"""What all commands share: options of several values, groups of options, completion, ``~``.

Typer and Click know options with a fixed number of values only; ``--methods a b,c`` is rewritten to
``--methods a --methods b --methods c`` before they parse.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

from harmbench import registry
from harmbench.files.foreign import at_home


def expand(args: list[str], options: Collection[str]) -> list[str]:
    """Give every value of a variadic option its own flag.

    Parameters
    ----------
    args : list of str
        Command line arguments.
    options : collection of str
        The options that take any number of values, such as ``"--methods"``.

    Returns
    -------
    list of str

    Examples
    --------
    >>> expand(["--methods", "ddae", "combat,gan", "--quiet"], {"--methods"})
    ['--methods', 'ddae', '--methods', 'combat', '--methods', 'gan', '--quiet']
    """
    expanded: list[str] = []
    option = ""
    used = True
    for position, arg in enumerate(args):
        if arg == "--":
            return expanded + ([] if used else [option]) + args[position:]
        name, equals, value = arg.partition("=")
        if arg.startswith("-") and arg != "-":
            if not used:
                expanded.append(option)  # no value followed: let the parser complain
            option, used = (name, False) if name in options else ("", True)
            if not option:
                expanded.append(arg)
                continue
            if not equals:
                continue
            arg = value
        if not option:
            expanded.append(arg)
            continue
        for one in filter(None, arg.split(",")):
            expanded += [option, one]
        used = True
    return expanded if used else [*expanded, option]


PANELS = {
    "What to run": "methods method config preset protocol metrics controls seeds seed data_seed "
    "folds subjects reference_site repeat_within target weights name",
    "Data": "data harmonized site_column age_column sex_column sex_codes age_unit features tables "
    "icv icv_use suffix contains center follow_links slices slice_z skip_bad",
    "Machine": "threads device devices jobs dask inception_weights",
    "Output": "out html save no_images hash_ids markdown products dry_run quiet debug",
}
"""Options in the order of the groups that ``--help`` shows them in."""


def _plugins(kind: registry.Kind, *more: str) -> Callable[[], list[str]]:
    return lambda: [*more, *registry.names(kind)]


def _sites() -> list[str]:
    """Return the sites in the table of the data that are typed; none where it cannot be read."""
    words = os.environ.get("_TYPER_COMPLETE_ARGS", "").split()
    typed = dict(itertools.pairwise(words))
    data = Path(typed.get("--data", "")).expanduser()
    table = data / "participants.tsv" if data.is_dir() else data
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="," if table.suffix == ".csv" else "\t")
            return sorted(
                {row.get(typed.get("--site-column", "site")) or "" for row in rows} - {""}
            )
    except (OSError, ValueError, csv.Error):
        return []


VALUES: dict[str, Callable[[], list[str]]] = {
    "methods": _plugins("method"),
    "method": _plugins("method"),
    "metrics": _plugins("metric"),
    "controls": _plugins("method", "all", "none"),
    "data": _plugins("dataset"),
    "preset": lambda: ["smoke", "standard", "paper"],
    "protocol": lambda: ["five", "core", "full"],
    "reference_site": _sites,
    "target": _sites,
    "age_unit": lambda: ["years", "months", "weeks", "days"],
}
"""What the shell offers as the value of an option, by the option's name."""


def offered(name: str, incomplete: str) -> list[str]:
    """Return the values of an option that begin with what is typed."""
    return [value for value in VALUES[name]() if value.startswith(incomplete)]


class HarmbenchGroup(TyperGroup):
    """The program: its flags are shown without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all options, ``--help`` among them."""
        return plain_flags(super().get_params(ctx))


def plain_flags(params: list[Any]) -> list[Any]:
    """Return the parameters, so that ``--help`` shows no type for those that take no value."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = " "
    return params


class HarmbenchCommand(TyperCommand):
    """A command of harmbench.

    Its repeatable options also take several values at once, ``~`` in paths is the home folder, its
    options are shown in groups, and the shell completes their values.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        panels = {name: panel for panel, names in PANELS.items() for name in names.split()}
        for param in self.params:
            name = str(param.name)
            if isinstance(param, TyperOption):
                param.rich_help_panel = panels.get(name)
                if name in VALUES:
                    param._custom_shell_complete = partial(_complete, name)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all options, ``--help`` among them."""
        return plain_flags(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Expand variadic options, parse as usual, and read ``~`` as the home folder."""
        rest = super().parse_args(ctx, expand(list(args), self._variadic))
        ctx.params = {name: at_home(value) for name, value in ctx.params.items()}
        return rest

    @property
    def _variadic(self) -> set[str]:
        repeatable = [p for p in self.params if getattr(p, "multiple", False)]
        return {name for param in repeatable for name in param.opts}

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer further values of an option that takes several, else as usual."""
        words = os.environ.get("_TYPER_COMPLETE_ARGS", "").split()
        flags = [word for word in words if word.startswith("--") and word != incomplete]
        if flags and flags[-1] in self._variadic and not incomplete.startswith("-"):
            name = flags[-1].removeprefix("--").replace("-", "_")
            return _complete(name, ctx, None, incomplete) if name in VALUES else []
        return super().shell_complete(ctx, incomplete)


def _complete(name: str, ctx: Any, param: Any, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(value) for value in offered(name, incomplete)]
