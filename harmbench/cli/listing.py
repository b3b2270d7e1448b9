"""`harmbench methods | metrics | datasets`: what there is, and all that one says about itself."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from harmbench import registry
from harmbench.contracts.method import Harmonizer
from harmbench.contracts.metric import Metric
from harmbench.engine.saved_weights import shipped_with
from harmbench.errors import HarmbenchError
from harmbench.registry import instance_of


def listing(kind: registry.Kind, name: str | None, *, markdown: bool) -> str:
    """Return what `show` does, or all plug-ins as a Markdown table.

    Raises
    ------
    HarmbenchError
        Where a single one is asked for as Markdown.
    """
    if not markdown:
        return show(kind, name)
    if name is not None:
        raise HarmbenchError(f"--markdown lists all; leave out '{name}', or leave out --markdown")
    from harmbench.cli import reference

    return reference.markdown(kind)


def show(kind: registry.Kind, name: str | None) -> str:
    """Return a table of all plug-ins of a kind, or everything about one of them."""
    if name is not None:
        facts = facts_of(registry.load(kind, name))
        return tabulate([(k, _text(v)) for k, v in facts.items()], tablefmt="plain")
    rows = []
    for known in registry.names(kind):
        facts = facts_of(registry.load(kind, known))
        ships = f"\nWeights: {facts['weights']}." if facts.get("weights") else ""
        rows.append((known, facts["label"], facts["summary"] + ships))
    return tabulate(rows, headers=("name", "label", "what it is"), maxcolwidths=[None, 32, 70])


def facts_of(plugin: Any) -> dict[str, Any]:
    """Return all that a plug-in declares, by name."""
    if isinstance(plugin, Metric):
        return asdict(plugin.info)
    parameters = inspect.signature(plugin).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    instance = instance_of(plugin)
    facts = asdict(instance.info)
    facts["parameters"] = ", ".join(p.name + _default(p) for p in named)
    if isinstance(instance, Harmonizer):
        facts["weights"] = ", ".join(
            f"{saved.name} (seed {saved.card.seed}, {saved.card.images:,} images)"
            for saved in shipped_with(instance)
        )
    return facts


def _default(parameter: inspect.Parameter) -> str:
    return "" if parameter.default is parameter.empty else f"={parameter.default!r}"


def _text(value: Any) -> str:
    if isinstance(value, set | frozenset):
        return ", ".join(sorted(value)) or "nothing"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
