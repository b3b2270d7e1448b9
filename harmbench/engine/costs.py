"""What a run will cost: nodes that are missing, and what nodes of their kind took before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harmbench.engine.nodes import Node

REFERENCE = Path(__file__).parent / "costs.csv"
"""`medians` of the reference results; `nox -s reference` writes them."""
READ: dict[str, Any] = {"keep_default_na": False}
OF_METHODS = ("fit", "harmonized.", "own_site.", "placebo.")
"""Kinds of nodes whose cost depends on the method."""


def medians(timing: pd.DataFrame) -> pd.Series:
    """Return the median seconds by method (``""`` where it does not matter) and kind of node.

    Parameters
    ----------
    timing : DataFrame
        As in ``timing.csv``.

    Returns
    -------
    Series
        Index label and stage.
    """
    own = timing["stage"].str.startswith(OF_METHODS)
    table = timing.assign(label=timing["label"].where(own, ""))
    return table.groupby(["label", "stage"])["seconds"].median().round(3)


def expected(nodes: Sequence[Node], folder: Path) -> pd.DataFrame:
    """Return what making these nodes will take, by kind.

    Parameters
    ----------
    nodes : sequence of Node
        Those that are missing.
    folder : Path
        The run folder; an earlier run in it is the first to be asked.

    Returns
    -------
    DataFrame
        Columns kind, nodes, seconds (of all of them; NaN where nothing is known) and source.
    """
    timing = folder / "timing.csv"
    sources = {
        "the reference": pd.read_csv(REFERENCE, **READ).set_index(["label", "stage"])["seconds"]
    }
    if timing.is_file():
        sources = {"this folder": medians(pd.read_csv(timing, **READ)), **sources}
    rows = []
    for node in nodes:
        of_method = node.name.startswith(OF_METHODS)
        key = (node.cell.spec.title if of_method else "", node.name)
        source = next((name for name, costs in sources.items() if key in costs), "unknown")
        seconds = sources[source][key] if source in sources else float("nan")
        kind = f"{node.name} of {key[0]}" if of_method else node.name
        rows.append((kind, 1, seconds, source))
    table = pd.DataFrame(rows, columns=["kind", "nodes", "seconds", "source"])
    summed = table.groupby(["kind", "source"], sort=False)[["nodes", "seconds"]].sum(min_count=1)
    return summed.reset_index()[["kind", "nodes", "seconds", "source"]]
