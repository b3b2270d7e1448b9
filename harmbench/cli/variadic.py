"""Options that take names separated by spaces: ``--methods ddae combat cvae gan``.

Typer and Click know options with a fixed number of values only; this rewrites
``--methods a b,c`` to ``--methods a --methods b --methods c`` before they parse. A command of
class `VariadicCommand` does so for all of its options that may be repeated.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from typer.core import TyperCommand


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


class VariadicCommand(TyperCommand):
    """A command whose repeatable options also take several values at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Expand variadic options, then parse as usual."""
        options = {
            name
            for param in self.params
            if getattr(param, "multiple", False)
            for name in param.opts
        }
        return super().parse_args(ctx, expand(list(args), options))
