"""From a configuration to a table of scores: prepare the folder, work through the cells, collect.

Cohort -> split -> fit -> harmonize -> score; every step is kept in the run folder.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harmbench import __version__, registry
from harmbench.cohort import Cohort
from harmbench.config import PROTOCOL_VERSION, RunConfig, build_dataset
from harmbench.data.splits import Split, make_split
from harmbench.dataset import Dataset
from harmbench.errors import HarmbenchError
from harmbench.plan import Cell, Keys, digest, make_cells
from harmbench.progress import Progress
from harmbench.protocol import PRODUCTS
from harmbench.stages import Bench
from harmbench.store import SCORE_COLUMNS, RunFolder, Stage, read_json, write_json

PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "neuroHarmonize", "nilearn")
SPLIT_COLUMNS = ["participant_id", "site", "session_id", "slice"]


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes
    ----------
    folder : Path
        Where everything lies.
    scores : DataFrame
        As in ``scores.csv``.
    failed : list of str
        One sentence for each thing that failed.
    """

    folder: Path
    scores: pd.DataFrame
    failed: list[str]


def run(config: RunConfig, out: Path, progress: Progress | None = None) -> RunSummary:
    """Do everything that a configuration asks for and that the folder does not hold yet.

    Parameters
    ----------
    config : RunConfig
        What to run.
    out : Path
        The run folder: new, empty, or holding an earlier run of the same data, which it extends.
    progress : Progress or None
        Where to show how far it is.

    Returns
    -------
    RunSummary

    Raises
    ------
    HarmbenchError
        For what the user can mend. A method or metric that fails is a row, not an exception.
    """
    progress = progress or Progress()
    folder = RunFolder(out)
    dataset = build_dataset(config)
    folder.begin(_identity(config, dataset))
    with folder.lock(), folder.tidied(), _logging_to(out / "run.log"):
        bench, cells = prepare(folder, config, dataset, progress)
        records = _work_through(bench, cells, progress)
        scores = collect_scores(records)
        folder.write_scores(scores, collect_timing(bench, cells))
        _write_index(bench, cells)
    return RunSummary(out, scores, _failures(scores))


def prepare(
    folder: RunFolder, config: RunConfig, dataset: Dataset, progress: Progress
) -> tuple[Bench, list[Cell]]:
    """Load the data and the split, settle the reference site, and lay out the cells."""
    identity = _identity(config, dataset)
    if folder.has_cohort and folder.config_file.is_file():
        cohort = folder.cohort()
        parts = folder.split()["part"].to_numpy().astype(str)
        split = Split(parts, cross_fitting=bool(set(parts) <= {"A", "B"}), reason="")
    else:
        cohort = dataset.load(progress)
        split = make_split(cohort, config.data_seed)
    reference = _reference_site(config, dataset, cohort)
    identity["reference_site"] = reference
    folder.begin(identity)
    config = _extend(folder, config)
    data_id = digest(dataset.fingerprint, config.data_seed, split.part.tolist())
    folds = {fold.name: fold for fold in split.folds()}
    cells = make_cells(config, folds, dataset.info.has_truth)
    _store(folder, config, identity, cohort, split, dataset)
    products = {product.name: product for product in PRODUCTS}
    anchors: dict[str, dict[str, Cell]] = {}
    for cell in reversed(cells):
        if cell.spec.name in ("identity", "shuffle", "oracle"):
            anchors.setdefault(cell.spec.name, {})[cell.fold] = cell
    keys = Keys(config, data_id, reference, products, anchors)
    metrics = {name: registry.load("metric", name) for name in config.metrics}
    return Bench(folder, dataset, cohort, folds, keys, metrics, progress), cells


def _identity(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    identity = {
        "data": config.data.name,
        "fingerprint": dataset.fingerprint,
        "data_seed": config.data_seed,
        "preset": config.preset,
        "protocol_version": PROTOCOL_VERSION,
    }
    if config.reference_site is not None:
        identity["reference_site"] = config.reference_site
    return identity


def _reference_site(config: RunConfig, dataset: Dataset, cohort: Cohort) -> str:
    site = config.reference_site or dataset.reference_site
    if site is None:
        subjects = cohort.participants.drop_duplicates(["participant_id", "site"])
        counts = subjects["site"].value_counts()
        site = min(counts.index[counts == counts.max()])
    if site not in cohort.sites:
        raise HarmbenchError(
            f"--reference-site '{site}' is not a site of these data; "
            f"sites: {', '.join(cohort.sites)}"
        )
    return str(site)


def _extend(folder: RunFolder, config: RunConfig) -> RunConfig:
    """Return the union of what the folder's run asked for and what is asked for now."""
    if not folder.config_file.is_file():
        return config
    held = RunConfig.model_validate(folder.config["run"])
    mine = {spec.title for spec in config.methods}
    methods = tuple(spec for spec in held.methods if spec.title not in mine)
    return config.model_copy(
        update={
            "methods": methods + config.methods,
            "controls": tuple(dict.fromkeys(held.controls + config.controls)),
            "metrics": tuple(dict.fromkeys(held.metrics + config.metrics)),
            "seeds": max(held.seeds, config.seeds),
            "inception": config.inception or held.inception,
        }
    )


def _store(
    folder: RunFolder,
    config: RunConfig,
    identity: dict[str, Any],
    cohort: Cohort,
    split: Split,
    dataset: Dataset,
) -> None:
    if not folder.has_cohort:
        table = cohort.participants[SPLIT_COLUMNS].assign(part=split.part)
        folder.save_cohort(cohort, table)
    info = asdict(dataset.info)
    notes = list(getattr(dataset, "notes", []))
    content = {
        "identity": identity,
        "run": config.model_dump(mode="json"),
        "dataset": info,
        "notes": notes + ([split.reason] if split.reason else []),
        "space": cohort.space,
    }
    if folder.config_file.is_file():
        content["notes"] = folder.config["notes"]
    write_json(folder.config_file, content)
    write_json(folder.root / "environment.json", environment())


def environment() -> dict[str, Any]:
    """Return the versions that results may depend on; nothing names the machine or its user."""
    found = {"harmbench": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return {"versions": found, "system": platform.system(), "processor": platform.machine()}


def _work_through(bench: Bench, cells: list[Cell], progress: Progress) -> list[dict[str, Any]]:
    records = []
    with progress.task("all cells", len(cells)) as task:
        for cell in cells:
            work = bench.work(cell)
            for name, metric in bench.metrics.items():
                record = work.score(name)
                records.append({"cell": cell, "metric": metric.info, **record})
            task.advance(1, note=cell.spec.title)
    return records


# -- tables -------------------------------------------------------------------------------------


def collect_scores(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Turn the records of all shown cells into rows; folds become one row, their mean.

    The halves of cross-fitting score different subjects, so the half-width of the mean's interval
    is the root of the sum of the squared half-widths, divided by their number.
    """
    grouped: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for record in records:
        cell = record["cell"]
        if cell.shown:
            key = (cell.spec.title, cell.seed, record["metric"].name)
            grouped.setdefault(key, []).append(record)
    rows = [row for folds in grouped.values() for row in _rows(folds)]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def _rows(folds: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    cell, info = folds[0]["cell"], folds[0]["metric"]
    worst = next((f for f in folds if f["status"] != "ok"), folds[0])
    head = {
        "method": cell.spec.name.rpartition(":")[2],
        "label": cell.spec.title,
        "seed": cell.seed,
        "metric": info.name,
        "metric_version": info.version,
        "status": worst["status"],
    }
    if worst["status"] != "ok":
        yield {**head, "group": "all", "n": 0, "reason": worst["reason"]}
        return
    target = _mean([f.get("target") for f in folds])
    note = "; ".join(dict.fromkeys(f["note"] for f in folds if f.get("note")))
    overall = _combine([f["overall"] for f in folds])
    yield {**head, "group": "all", **overall, "target": target, "reason": note}
    for site in sorted({site for f in folds for site in f["groups"]}):
        there = [f["groups"][site] for f in folds if site in f["groups"]]
        yield {**head, "group": site, **_combine(there), "reason": ""}


def _combine(estimates: list[dict[str, Any]]) -> dict[str, Any]:
    value = _mean([e["value"] for e in estimates])
    k = len(estimates)

    def bound(side: str) -> float:
        if any(e[side] is None for e in estimates):
            return float("nan")
        gaps = np.array([e[side] - e["value"] for e in estimates], dtype=float)
        return value + float(np.sign(gaps.sum()) * np.sqrt((gaps**2).sum()) / k)

    return {
        "value": value,
        "ci_low": bound("low"),
        "ci_high": bound("high"),
        "n": sum(e["n"] for e in estimates),
    }


def _mean(values: list[Any]) -> float:
    if any(v is None for v in values):
        return float("nan")
    return float(np.mean(values))


def collect_timing(bench: Bench, cells: list[Cell]) -> pd.DataFrame:
    """Return the seconds of every finished stage, read from its mark."""
    rows = []
    for cell in cells:
        for path in sorted((bench.folder.root / "cells" / cell.folder).rglob("*.json")):
            rows += _timing_row(cell.spec.title, cell.seed, cell.fold, path)
    for path in sorted((bench.folder.root / "raw").glob("*.json")):
        rows += _timing_row("(shared)", 0, "", path)
    return pd.DataFrame(rows, columns=["label", "seed", "fold", "stage", "seconds"])


def _timing_row(label: str, seed: int, fold: str, path: Path) -> list[dict[str, Any]]:
    mark = read_json(path)
    if not isinstance(mark, dict) or "seconds" not in mark:
        return []
    row = {"label": label, "seed": seed, "fold": fold}
    return [{**row, "stage": mark["stage"], "seconds": mark["seconds"]}]


def _failures(scores: pd.DataFrame) -> list[str]:
    failed = scores[scores["status"] == "failed"]
    pairs = dict.fromkeys(zip(failed["label"], failed["reason"], strict=True))
    return [f"{label}: {reason}" for label, reason in pairs]


def _write_index(bench: Bench, cells: list[Cell]) -> None:
    """Write what the report reads, so that old runs stay readable without their plug-ins."""
    root = bench.folder.root
    write_json(root / "metrics.json", {m.info.name: asdict(m.info) for m in bench.metrics.values()})
    methods = {}
    index = []
    for cell in cells:
        info = asdict(cell.info) | {"sees_truth": cell.info.sees_truth}
        info = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in info.items()}
        methods[cell.spec.title] = info | {"params": cell.spec.params, "shown": cell.shown}
        index.append(_index_entry(bench, cell))
    write_json(root / "methods.json", methods)
    write_json(root / "cells.json", index)


def _index_entry(bench: Bench, cell: Cell) -> dict[str, Any]:
    work = bench.work(cell)
    images = {
        name: work.stage(name)
        for name in ("harmonized.test", "own_site.test", "truth.test")
        if work.unavailable(name) is None
    }
    scores = {
        metric.info.name: Stage(
            work.folder / "scores", metric.info.name, bench.keys.score(cell, name, metric.info)
        )
        for name, metric in bench.metrics.items()
        if all(bench.keys.has(need) for need in metric.info.needs)
    }
    root = bench.folder.root
    found = {
        kind: {n: str(s.stem.relative_to(root)) for n, s in stages.items() if s.mark is not None}
        for kind, stages in (("images", images), ("scores", scores))
    }
    head = {"label": cell.spec.title, "seed": cell.seed, "fold": cell.fold, "shown": cell.shown}
    return head | found


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    log = logging.getLogger("harmbench")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(level)
        log.propagate = propagate
