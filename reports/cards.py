"""A card for every method: what it sees, its parameters, its weights, its training, its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.curves import Curve, training_curve
from reports.results import Results, Row

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """What the page says of one method.

    Attributes
    ----------
    title, summary, doi : str
        As it declares them.
    control : bool
        Whether it is a control.
    facts : list of (str, str)
        What it sees, what it costs.
    trained : list of (str, str)
        Parameters that its weights were trained with.
    curve : Curve or None
        How its training went.
    """

    title: str
    summary: str
    doi: str
    control: bool
    facts: Facts
    trained: Facts
    curve: Curve | None


def method_cards(results: Results) -> list[Card]:
    """Describe every shown method, in the order of the tables."""
    return [_card(results, row) for row in results.first_seeds]


def _card(results: Results, row: Row) -> Card:
    info = results.methods.get(row.label, {})
    title = info.get("label", row.label)
    weights = info.get("weights") or []
    facts = [
        ("Kind", _kind(info)),
        ("Sees in fitting", _sees(info, "fit_sees")),
        ("Sees in harmonizing", _sees(info, "harmonize_sees")),
        ("Renders to", "any site" if info.get("targets") == "any" else "the reference site"),
        ("Parameters", _params(info.get("params") or {}) or "defaults"),
        *_weights(weights),
        *_cost(results, row.label),
    ]
    return Card(
        title=title if title == row.label else f"{title} ({row.label})",
        summary=info.get("summary", ""),
        doi=info.get("doi", ""),
        control=row.control,
        facts=facts,
        trained=[(k, repr(v)) for k, v in (weights[0].get("params") or {}).items()]
        if weights
        else [],
        curve=training_curve(results, row),
    )


def _kind(info: Mapping[str, Any]) -> str:
    kind = "control" if info.get("control") else "method"
    return f"{kind}, given the simulator's answer" if info.get("sees_truth") else kind


def _sees(info: Mapping[str, Any], stage: str) -> str:
    return ", ".join(["images", *info.get(stage, [])]) if info.get(stage) else "images only"


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())


# -- weights ------------------------------------------------------------------------------------


def _weights(weights: list[dict[str, Any]]) -> Facts:
    """Say once for each origin where the fits came from."""
    texts = [_origin(w) for w in weights]
    return [("Weights", text) for text in dict.fromkeys(texts)]


def _origin(weights: Mapping[str, Any]) -> str:
    origin = str(weights.get("origin", "trained"))
    images = weights.get("images")
    parts = ["trained in this run" if origin == "trained" else f"{origin}: {weights.get('name')}"]
    if images:
        parts.append(f"{int(images):,} images seen")
    if weights.get("seconds"):
        parts.append(f"trained in {duration(float(weights['seconds']))} on {weights['device']}")
    if weights.get("precision"):
        parts.append(f"precision {weights['precision']}")
    if weights.get("id"):
        parts.append(f"id {str(weights['id'])[:8]}")
    return ", ".join(parts)


# -- cost ---------------------------------------------------------------------------------------


def _cost(results: Results, label: str) -> Facts:
    mine = results.timing[results.timing["label"] == label]
    stages = mine["stage"].astype(str)
    kinds = {
        "Fitting": stages == "fit",
        "Loading weights": stages == "load weights",
        "Harmonizing": stages.str.startswith(("harmonized", "own_site")),
    }
    facts = []
    for name, rows in kinds.items():
        if not rows.any():
            continue
        total = float(mine.loc[rows, "seconds"].sum())
        text = duration(total)
        done = sum(_images(results, stage) for stage in stages[rows])
        if name == "Harmonizing" and done:
            text += f", {1000 * total / done:.3g} ms an image"
        facts.append((name, text))
    peak = _peak_mib(mine[kinds["Fitting"] | kinds["Loading weights"] | kinds["Harmonizing"]])
    if np.isfinite(peak):
        facts.append(("Peak memory", f"{peak / 1024:.2f} GiB, of the whole process"))
    return facts


def _peak_mib(timing: pd.DataFrame) -> float:
    """Return the most that a stage held; NaN where none says, as in runs of earlier versions."""
    return float(timing["peak_mib"].max()) if "peak_mib" in timing and len(timing) else np.nan


def _images(results: Results, stage: str) -> int:
    """Return how many images a stage rendered; 0 where that cannot be told."""
    return int((results.parts == stage.rpartition(".")[2]).sum())


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``"3.1 s"``, ``"12 min"``, ``"2.5 h"``."""
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
