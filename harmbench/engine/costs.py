"""What a run will cost: nodes that are missing, and what nodes of their kind took before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harmbench.engine.nodes import Node

REFERENCE = Path(__file__).parent / "costs.csv"
"""Median seconds of each kind of node in the reference results, as `nox -s reference` made them."""
OF_METHODS = ("fit", "harmonized.", "own_site.", "placebo.")
"""Kinds of nodes whose cost depends on the method."""


def medians(timing: pd.DataFrame) -> pd.DataFrame:
    """Return the median seconds by method and kind of node.

    Parameters
    ----------
    timing : DataFrame
        As in ``timing.csv``.

    Returns
    -------
    DataFrame
        Columns label (``""`` where the method does not matter), stage and seconds.
    """
    own = timing["stage"].str.startswith(OF_METHODS)
    table = timing.assign(label=timing["label"].where(own, ""))
    return table.groupby(["label", "stage"])["seconds"].median().round(3).reset_index()


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
    sources = [("the reference", pd.read_csv(REFERENCE, keep_default_na=False))]
    if timing.is_file():
        sources.insert(0, ("this folder", medians(pd.read_csv(timing, keep_default_na=False))))
    rows = []
    for node in nodes:
        of_method = node.name.startswith(OF_METHODS)
        label = node.cell.spec.title if of_method else ""
        kind = f"{node.name} of {label}" if of_method else node.name
        row = {"kind": kind, "nodes": 1, "seconds": float("nan"), "source": "unknown"}
        for source, costs in sources:
            found = costs.loc[(costs["label"] == label) & (costs["stage"] == node.name), "seconds"]
            if len(found):
                row |= {"seconds": float(found.iloc[0]), "source": source}
                break
        rows.append(row)
    table = pd.DataFrame(rows, columns=["kind", "nodes", "seconds", "source"])
    summed = table.groupby(["kind", "source"], sort=False)
    return summed.agg(
        nodes=("nodes", "sum"), seconds=("seconds", lambda s: s.sum(min_count=1))
    ).reset_index()[["kind", "nodes", "seconds", "source"]]
