"""From the records of all cells to tables: scores, seconds, and the index that reports read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from harmbench.engine.cells import Experiment
from harmbench.engine.keys import Cell
from harmbench.files.atomic import read_json, write_json
from harmbench.results.folder import SCORE_COLUMNS


def marked_underfit(
    records: list[dict[str, Any]],
    gate: tuple[str, float] | None,
    further: Iterable[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Mark all probe scores where the probes do not see what is plainly there.

    Parameters
    ----------
    records : list of dict
        Of all cells.
    gate : tuple of str and float, or None
        A metric and the least value of it that an adequate probe gives on unharmonized images.
    further : iterable of dict
        Records of that metric that belong to no row.
    """
    if gate is None:
        return records
    name, least = gate
    seen = [
        r["overall"]["value"]
        for r in (*records, *further)
        if r["cell"].spec.name == "identity" and r["metric"].name == name and r["status"] == "ok"
    ]
    if not seen or min(seen) >= least:
        return records
    text = f"underfit: the probe's {name} of unharmonized images is {min(seen):.2f}, under {least}"
    return [
        {**r, "note": "; ".join(filter(None, [r.get("note"), text]))}
        if any(reads_probe(need) for need in r["metric"].needs)
        else r
        for r in records
    ]


def reads_probe(need: str) -> bool:
    """Whether a product is a trained probe."""
    return "probe." in need or "best." in need


def collect_scores(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Turn the records of all shown cells into rows: overall and by site."""
    shown = [record for record in records if record["cell"].shown]
    return pd.DataFrame([row for one in shown for row in _rows(one)], columns=SCORE_COLUMNS)


def _rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cell, info = record["cell"], record["metric"]
    head = {
        "method": cell.spec.name.rpartition(":")[2],
        "label": cell.spec.title,
        "seed": cell.seed,
        "metric": info.name,
        "metric_version": info.version,
        "status": record["status"],
    }
    if record["status"] != "ok":
        yield {**head, "group": "all", "n": 0, "reason": record["reason"]}
        return
    target, note = record.get("target"), record.get("note") or ""
    yield {**head, "group": "all", **_columns(record["overall"]), "target": target, "reason": note}
    for site, estimate in sorted(record["groups"].items()):
        yield {**head, "group": site, **_columns(estimate), "reason": ""}


def _columns(estimate: dict[str, Any]) -> dict[str, Any]:
    return {
        "value": estimate["value"],
        "ci_low": estimate["low"],
        "ci_high": estimate["high"],
        "n": estimate["n"],
    }


def collect_timing(experiment: Experiment, cells: list[Cell]) -> pd.DataFrame:
    """Return the seconds and the peak memory of every finished stage, read from its mark.

    What images made elsewhere took to read says nothing of their method, and is left out.
    """
    rows = []
    for cell in (one for scored in cells for one in (*experiment.keys.fits(scored), scored)):
        place = experiment.folder.root / "cells" / cell.folder
        # Only where marks lie: what a method saves may have any name and content.
        marks = (
            place.glob(f"{marked}*.json") for marked in ("fit-", "products/[!.]", "scores/[!.]")
        )
        for path in sorted(path for found in marks for path in found):
            found = _timing_row(cell.spec.title, cell.seed, cell.fold, path)
            rows += [row for row in found if not (cell.info.images_only and _is_own(row["stage"]))]
    for path in sorted((experiment.folder.root / "raw").glob("[!.]*.json")):
        rows += _timing_row("(shared)", 0, "", path)
    return pd.DataFrame(rows, columns=["label", "seed", "fold", "stage", "seconds", "peak_mib"])


def _is_own(stage: str) -> bool:
    """Whether a stage is a method's own work, not that of the protocol on its images."""
    return stage == "fit" or stage.startswith("harmonized.")


def _timing_row(label: str, seed: int, fold: str, path: Path) -> list[dict[str, Any]]:
    mark = read_json(path)
    if not isinstance(mark, dict) or "seconds" not in mark:
        return []
    row = {"label": label, "seed": seed, "fold": fold}
    cost = {"seconds": mark["seconds"], "peak_mib": mark.get("peak_mib")}
    return [{**row, "stage": mark["stage"], **cost}]


def write_index(experiment: Experiment, cells: list[Cell]) -> None:
    """Write what the report reads, so that old runs stay readable without their plug-ins."""
    root = experiment.folder.root
    write_json(
        root / "metrics.json", {m.info.name: asdict(m.info) for m in experiment.metrics.values()}
    )
    methods: dict[str, dict[str, Any]] = {}
    index = []
    for cell in cells:
        info = asdict(cell.info) | {"sees_truth": cell.info.sees_truth}
        info = {k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in info.items()}
        entry = info | {"params": cell.spec.params, "shown": cell.shown, "weights": []}
        methods.setdefault(cell.spec.title, entry)["weights"] += _origin(experiment, cell)
        index.append(_index_entry(experiment, cell))
    write_json(root / "methods.json", methods)
    write_json(root / "cells.json", index)


def _origin(experiment: Experiment, cell: Cell) -> list[dict[str, Any]]:
    """Return where a cell's fit came from, where it was trained in steps or taken up."""
    found = []
    for fit in experiment.keys.fits(cell) or [cell]:
        origin = (experiment.work(fit).fit_stage.mark or {}).get("weights", {})
        if origin.get("images") or origin.get("origin", "trained") != "trained":
            found.append({"seed": fit.seed, "fold": fit.fold, **origin})
    return found


def _index_entry(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    work = experiment.work(cell)
    images = {
        name: work.stage(name)
        for name in ("harmonized.test", "own_site.test", "truth.test")
        if work.unavailable(name) is None
    }
    scores = {
        metric.info.name: work.score_stage(name) for name, metric in experiment.metrics.items()
    }
    root = experiment.folder.root
    found = {
        kind: {n: str(s.stem.relative_to(root)) for n, s in stages.items() if s.mark is not None}
        for kind, stages in (("images", images), ("scores", scores))
    }
    head = {"label": cell.spec.title, "seed": cell.seed, "fold": cell.fold, "shown": cell.shown}
    return head | found
