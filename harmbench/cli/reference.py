"""What plug-ins declare, as Markdown tables for the documentation."""

from __future__ import annotations

from typing import Any, get_args

from tabulate import tabulate

from harmbench import registry
from harmbench.cli.listing import facts_of
from harmbench.contracts.metric import Axis

AXES = get_args(Axis)
DIRECTIONS = {"lower": "lower", "higher": "higher", "target": "to its target"}


def markdown(kind: registry.Kind) -> str:
    """Return all plug-ins of a kind as a Markdown table, as docs/reference.md shows it."""
    facts = {name: facts_of(registry.load(kind, name)) for name in registry.names(kind)}
    rows = {"method": _methods, "metric": _metrics, "dataset": _datasets}[kind](facts)
    return _table(rows)


def products() -> str:
    """Return what a metric can name in `needs` and `wants`, as a Markdown table."""
    from harmbench.engine.keys import IMAGE_PRODUCTS
    from harmbench.protocol import PRODUCTS
    from harmbench.protocol.leakage import placebo

    first, *others = placebo.AGES
    names = {first: f"`{first}` to `{others[-1]}`"}
    rows = [
        {
            "product": names.get(name, f"`{name}`"),
            "kind": "images",
            "what it is": text,
            "made of": "",
        }
        for name, text in IMAGE_PRODUCTS.items()
        if name not in others
    ] + [
        {
            "product": f"`{one.name}`",
            "kind": "arrays",
            "what it is": one.summary,
            "made of": ", ".join(f"`{name}`" for name in one.needs),
        }
        for one in PRODUCTS
    ]
    return _table(rows)


def _table(rows: list[dict[str, str]]) -> str:
    return str(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))


def _methods(facts: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    ordered = sorted(facts.items(), key=lambda pair: (bool(pair[1]["control"]), pair[0]))
    return [
        {
            "method": f"`{name}`" + (" (control)" if fact["control"] else ""),
            "what it does": fact["summary"],
            "sees at the fit": _columns(fact["fit_sees"]),
            "sees when harmonizing": _columns(fact["harmonize_sees"]),
            "targets": {"any": "any site", "fit": "the reference site"}[fact["targets"]],
            "weights shipped": fact["weights"] or "",
            "source": _source(fact["doi"]),
        }
        for name, fact in ordered
    ]


def _metrics(facts: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    def place(pair: tuple[str, dict[str, Any]]) -> tuple[int, str]:
        return AXES.index(pair[1]["axis"]), pair[0]

    return [
        {
            "question": fact["axis"],
            "metric": f"`{name}`",
            "what it is": fact["summary"],
            "unit": fact["unit"],
            "better": DIRECTIONS[fact["direction"]],
            "from": fact["level"],
            "source": _source(fact["doi"]),
        }
        for name, fact in sorted(facts.items(), key=place)
    ]


def _datasets(facts: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {"data set": f"`{name}`", "what it is": fact["summary"], "options": fact["parameters"]}
        for name, fact in facts.items()
    ]


def _columns(seen: frozenset[str]) -> str:
    return ", ".join(sorted(seen, key=lambda column: (column != "site", column))) or "nothing"


def _source(doi: str) -> str:
    if not doi:
        return ""
    name = doi.removeprefix("https://doi.org/")
    if name.startswith("https://"):
        return f"[{name.partition('://')[2].partition('/')[0]}]({name})"
    arxiv = name.lower().startswith("arxiv:")
    return f"[{name}](https://doi.org/{'10.48550/arXiv.' + name[6:] if arxiv else name})"
