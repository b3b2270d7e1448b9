"""Several runs of one study as one, such as methods that were run as separate jobs.

Nothing is computed or copied: the merged `Results` refer to the folders. Runs that differ in their
data or protocol are refused, because a table must not mix two experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from harmbench.contracts.dataset import NOTE_KINDS
from harmbench.errors import HarmbenchError
from reports.results import LEVELS, Results, order_metrics, order_rows, read_results

Triple = tuple[str, int, str]
"""Label, seed and metric; all groups of such a score are taken from the same folder."""

KEYS = ["label", "seed", "metric"]
VALUES = ["group", "value", "ci_low", "ci_high", "target", "n"]
ORDER = ["method", "label", "seed", "metric", "group"]
LOOSE = ("threads", "device", "inception", "protocol")
"""Settings that may differ between merged runs; a note names the differences."""


def read_merged(folders: Sequence[Path]) -> Results:
    """Read one finished run, or several as one.

    Parameters
    ----------
    folders : sequence of Path
        Run folders, in the order of the rows.

    Raises
    ------
    HarmbenchError
        If a folder holds no finished run, or the runs cannot be in the same table.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise HarmbenchError("a folder is given twice; give each run once")
    runs = [read_results(Path(folder)) for folder in folders]
    return runs[0] if len(runs) == 1 else merge(runs)


def merge(runs: Sequence[Results]) -> Results:
    """Return several runs of the same data, split, reference site, preset and protocol as one.

    A row in several folders, such as a control, is taken once; each of its metrics is taken from
    the first folder that has a value.

    Parameters
    ----------
    runs : sequence of Results
        At least two.

    Raises
    ------
    HarmbenchError
        If two runs differ; the message names the difference and the folders.
    """
    names = folder_names([run.folder.root for run in runs])
    named = list(zip(names, runs, strict=True))
    for other in named[1:]:
        _check_alike(named[0], other)
    for one, other in combinations(named, 2):
        _check_methods(one, other)
        _check_values(one, other)
    owners, scores = _owners(runs)
    methods = _methods(runs)
    config = _config(names, runs)
    declared = {m["name"]: m for run in reversed(runs) for m in run.metrics}
    keys = ["label", "seed", "fold", "stage"]
    return Results(
        folder=runs[0].folder,
        config=config,
        metrics=order_metrics(declared, scores),
        methods=methods,
        rows=order_rows(config["run"], methods, scores),
        scores=scores,
        timing=pd.concat([run.timing for run in runs], ignore_index=True).drop_duplicates(keys),
        cells=_cells(runs, owners),
        environment=runs[0].environment,
        sources=tuple(names),
        absent=_absent(names, runs, scores),
    )


def folder_names(folders: Sequence[Path]) -> list[str]:
    """Return distinct names of the folders, with as little of their paths as possible."""
    full = [Path(folder).resolve() for folder in folders]
    for length in (1, 2):
        names = ["/".join(path.parts[-length:]) for path in full]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({i})" for i, path in enumerate(full, start=1)]


# -- what must be equal ---------------------------------------------------------------------------


def _check_alike(one: tuple[str, Results], other: tuple[str, Results]) -> None:
    """Refuse runs of two experiments."""
    (first, a), (second, b) = one, other
    own, theirs = a.config["identity"], b.config["identity"]
    pairs = {name: (own.get(name), theirs.get(name)) for name in {**own, **theirs}}
    pairs["space"] = (a.config.get("space"), b.config.get("space"))
    pairs["probe"] = (a.config["run"].get("probe"), b.config["run"].get("probe"))
    versions = {m["name"]: m["version"] for m in b.metrics}
    for metric in a.metrics:
        there = versions.get(metric["name"], metric["version"])
        pairs[f"the version of metric {metric['name']}"] = (metric["version"], there)
    differences = [f"{n} is {x!r} there and {y!r} here" for n, (x, y) in pairs.items() if x != y]
    if not differences and not a.folder.split().equals(b.folder.split()):
        differences = ["the split into parts is another one"]
    if differences:
        raise HarmbenchError(
            f"{second} cannot be merged with {first}: {'; '.join(differences)}. Merge runs of the "
            "same data, split, reference site, preset and release, or report on each alone"
        )


def _check_methods(one: tuple[str, Results], other: tuple[str, Results]) -> None:
    (first, a), (second, b) = one, other
    for label in sorted(set(a.scores["label"]) & set(b.scores["label"])):
        own, theirs = (r.methods.get(label, {}) for r in (a, b))
        for what in ("name", "params"):
            if own.get(what) != theirs.get(what):
                raise HarmbenchError(
                    f"{second} and {first} cannot be merged: '{label}' has {what} "
                    f"{theirs.get(what)!r} in {second} and {own.get(what)!r} in {first}; run one "
                    "of them again under a label of its own"
                )


def _check_values(one: tuple[str, Results], other: tuple[str, Results]) -> None:
    (first, a), (second, b) = one, other
    held, theirs = _values(a), _values(b)
    for triple in sorted(held.keys() & theirs.keys()):
        if held[triple] != theirs[triple]:
            label, seed, metric = triple
            raise HarmbenchError(
                f"{second} and {first} cannot be merged: '{label}' (seed {seed}) scores other "
                f"values of {metric} in {second} than in {first}{_why(a, b)}; run them again with "
                "the same code, threads and device, or leave that method out of one"
            )


def _values(run: Results) -> dict[Triple, str]:
    """Return all shown numbers of each score that has a value, as a text to compare."""
    known = run.scores[run.scores["status"] == "ok"].astype({"n": float}).sort_values("group")
    return {key: part[VALUES].to_csv(index=False) for key, part in known.groupby(KEYS)}


def _why(a: Results, b: Results) -> str:
    runs = [(name, a.config["run"].get(name), b.config["run"].get(name)) for name in LOOSE]
    differing = [f"{name} {theirs!r} and {own!r}" for name, own, theirs in runs if own != theirs]
    return f" ({', '.join(differing)})" if differing else ""


# -- from which run each part is ------------------------------------------------------------------


def _owners(runs: Sequence[Results]) -> tuple[dict[Triple, int], pd.DataFrame]:
    """Return the run that each score is taken from, and the scores.

    It is the first run with a value, or else the first run with any row of that score.
    """
    parts = [run.scores.assign(run=i) for i, run in enumerate(runs)]
    every = pd.concat(parts, ignore_index=True).astype({"seed": int})
    missing = every.assign(missing=every["status"] != "ok").sort_values(["missing", "run"])
    first = missing.drop_duplicates(KEYS)
    owners = dict(zip(_triples(first), first["run"].tolist(), strict=True))
    kept = every[every["run"] == [owners[triple] for triple in _triples(every)]]
    return owners, kept.drop(columns="run").sort_values(ORDER, ignore_index=True)


def _triples(scores: pd.DataFrame) -> list[Triple]:
    return list(scores[KEYS].itertuples(index=False, name=None))


def _cells(runs: Sequence[Results], owners: dict[Triple, int]) -> list[dict[str, Any]]:
    """Return the cells with the absolute path of each image and score."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for i, run in enumerate(runs):
        root = run.folder.root.resolve()
        for cell in run.cells:
            head = {key: cell[key] for key in ("label", "seed", "fold")}
            new = {**head, "shown": False, "images": {}, "scores": {}}
            held = merged.setdefault(tuple(head.values()), new)
            held["shown"] = held["shown"] or cell.get("shown", True)
            for name, stem in cell["images"].items():
                held["images"].setdefault(name, str(root / stem))
            for name, stem in cell["scores"].items():
                # Anchors that are not shown have no scores in the tables.
                owner = owners.get((cell["label"], cell["seed"], name))
                if owner == i or (owner is None and name not in held["scores"]):
                    held["scores"][name] = str(root / stem)
    return list(merged.values())


def _methods(runs: Sequence[Results]) -> dict[str, dict[str, Any]]:
    methods: dict[str, dict[str, Any]] = {}
    for run in runs:
        for label, info in run.methods.items():
            held = methods.setdefault(label, deepcopy(info))
            held["shown"] = held.get("shown", True) or info.get("shown", True)
            mine = held.setdefault("weights", [])
            mine += [origin for origin in info.get("weights", []) if origin not in mine]
    return methods


def _absent(
    names: Sequence[str], runs: Sequence[Results], scores: pd.DataFrame
) -> dict[Triple, str]:
    """Return which folders lack a metric that another one has."""
    held = set(_triples(scores))
    rows: dict[tuple[str, int], list[str]] = {}
    for name, run in zip(names, runs, strict=True):
        for row in run.rows:
            rows.setdefault((row.label, row.seed), []).append(name)
    return {
        (*row, metric): f"not computed in {' and '.join(folders)}"
        for row, folders in rows.items()
        for metric in sorted(set(scores["metric"]))
        if (*row, metric) not in held
    }


# -- settings -------------------------------------------------------------------------------------


def _config(names: Sequence[str], runs: Sequence[Results]) -> dict[str, Any]:
    """Return the settings of one run that would have the same rows."""
    config = deepcopy(runs[0].config)
    settings = [run.config["run"] for run in runs]
    specs = {(s.get("label") or s["name"]): s for run in reversed(settings) for s in run["methods"]}
    order = dict.fromkeys(s.get("label") or s["name"] for run in settings for s in run["methods"])
    config["run"] |= {
        "methods": [specs[title] for title in order],
        "controls": list(dict.fromkeys(name for run in settings for name in run["controls"])),
        "metrics": list(dict.fromkeys(name for run in settings for name in run["metrics"])),
        "seeds": max(run["seeds"] for run in settings),
        "protocol": max((run["protocol"] for run in settings), key=_level),
    }
    weights = {k: v for run in reversed(settings) for k, v in run.get("weights", {}).items()}
    if weights:
        config["run"]["weights"] = weights
    for kind in NOTE_KINDS:
        said = [str(text) for run in runs for text in run.config.get(kind, [])]
        config[kind] = list(dict.fromkeys(said))
    config["notes"] += _notes(names, runs)
    return config


def _level(protocol: str) -> int:
    return LEVELS.index(protocol) if protocol in LEVELS else len(LEVELS)


def _notes(names: Sequence[str], runs: Sequence[Results]) -> list[str]:
    """Return notes on the merged runs and their differences."""
    notes = [f"Merged from the runs {', '.join(names)}."]
    settings = {name: [run.config["run"].get(name) for run in runs] for name in LOOSE}
    libraries = [run.environment.get("versions", {}) for run in runs]
    for library in sorted({name for versions in libraries for name in versions}):
        settings[library] = [versions.get(library) for versions in libraries]
    for what, values in settings.items():
        if any(value != values[0] for value in values):
            said = ", ".join(f"{v} in {n}" for v, n in zip(values, names, strict=True))
            notes.append(f"The runs differ in {what}: {said}.")
    return notes
