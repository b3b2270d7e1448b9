"""A card for every method: its inputs, parameters, weights, training and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from reports.curves import Curve, training_curve
from reports.results import Results, Row

Facts = list[tuple[str, str]]


class Card(NamedTuple):
    """What the page says about one method.

    `facts` are its inputs and costs, `trained` the parameters of the training of its weights, and
    `curve` is the training curve.
    """

    title: str
    summary: str
    doi: str
    control: bool
    facts: Facts
    trained: Facts
    curve: Curve | None


def method_cards(results: Results) -> list[Card]:
    """Return the card of every method, in the order of the tables."""
    return [_card(results, row) for row in results.first_seeds]


def _card(results: Results, row: Row) -> Card:
    info = results.methods.get(row.label, {})
    title = info.get("label", row.label)
    weights = results.weights(row.label)
    kind = "control" if info.get("control") else "method"
    params = ", ".join(f"{name}={value!r}" for name, value in (info.get("params") or {}).items())
    facts = [
        ("Kind", f"{kind}, given the simulator's answer" if info.get("sees_truth") else kind),
        ("Sees in fitting", _sees(info, "fit_sees")),
        ("Sees in harmonizing", _sees(info, "harmonize_sees")),
        ("Renders to", "any site" if info.get("targets") == "any" else "the reference site"),
        ("Parameters", params or "defaults"),
        *(("Weights", text) for text in dict.fromkeys(map(_origin, weights))),
        *_cost(results, row.label),
    ]
    trained = (weights[0].get("params") or {}) if weights else {}
    return Card(
        title=title if title == row.label else f"{title} ({row.label})",
        summary=info.get("summary", ""),
        doi=info.get("doi", ""),
        control=row.control,
        facts=facts,
        trained=[(name, repr(value)) for name, value in trained.items()],
        curve=training_curve(results, row),
    )


def _sees(info: Mapping[str, Any], stage: str) -> str:
    return ", ".join(["images", *info[stage]]) if info.get(stage) else "images only"


def _origin(weights: Mapping[str, Any]) -> str:
    origin = str(weights.get("origin", "trained"))
    parts = ["trained in this run" if origin == "trained" else f"{origin}: {weights.get('name')}"]
    if weights.get("images"):
        parts.append(f"{int(weights['images']):,} images seen")
    if weights.get("seconds"):
        parts.append(f"trained in {duration(float(weights['seconds']))} on {weights['device']}")
    if weights.get("precision"):
        parts.append(f"precision {weights['precision']}")
    if weights.get("id"):
        parts.append(f"id {str(weights['id'])[:8]}")
    return ", ".join(parts)


def _cost(results: Results, label: str) -> Facts:
    mine = results.timing[results.timing["label"] == label]
    kind = mine["stage"].astype(str).str.extract(r"^(fit$|load weights$|harmonized|own_site)")[0]
    names = {"fit": "Fitting", "load weights": "Loading weights"}
    kind = kind.map(lambda stage: names.get(stage, "Harmonizing"), na_action="ignore")
    facts = []
    for name in (*names.values(), "Harmonizing"):
        rows = mine[kind == name]
        if len(rows):
            total = float(rows["seconds"].sum())
            # The number of images in the parts that the stages rendered; 0 if it is not known.
            parts = rows["stage"].astype(str).str.rpartition(".")[2]
            done = sum(int((results.parts == part).sum()) for part in parts)
            each = (
                f", {1000 * total / done:.3g} ms an image" if name == "Harmonizing" and done else ""
            )
            facts.append((name, duration(total) + each))
    # Runs of earlier versions have no peak memory.
    peaks = mine.loc[kind.notna(), "peak_mib"].dropna() if "peak_mib" in mine else []
    if len(peaks):
        facts.append(("Peak memory", f"{max(peaks) / 1024:.2f} GiB, of the whole process"))
    return facts


def duration(seconds: float) -> str:
    """Return seconds with a suitable unit: ``"3.1 s"``, ``"12 min"``, ``"2.5 h"``."""
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
