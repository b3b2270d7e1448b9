"""Several runs of one study as one: methods that were run as jobs of their own, in own folders.

Nothing is computed and nothing copied: the merged `Results` point into the folders. What differs
between runs that should be alike is refused, since a table must not mix two experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd

from harmbench.contracts.dataset import NOTE_KINDS
from harmbench.errors import HarmbenchError
from reports.results import LEVELS, Results, order_metrics, order_rows, read_results

Triple = tuple[str, int, str]
"""Label, seed and metric: what is taken from one folder, all its groups together."""

VALUES = ["group", "value", "ci_low", "ci_high", "target", "n"]
ORDER = ["method", "label", "seed", "metric", "group"]
LOOSE = ("threads", "device", "inception", "protocol")
"""Settings that may differ between merged runs, which a note then says."""


def read_merged(folders: Sequence[Path]) -> Results:
    """Read one finished run, or several as one.

    Parameters
    ----------
    folders : sequence of Path
        Run folders; rows stand in their order.

    Raises
    ------
    HarmbenchError
        Where a folder holds no finished run, or the runs cannot stand in one table.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise HarmbenchError("a folder is given twice; give each run once")
    runs = [read_results(Path(folder)) for folder in folders]
    return runs[0] if len(runs) == 1 else merge(runs)


def merge(runs: Sequence[Results]) -> Results:
    """Return several runs of the same data, split, reference site, preset and protocol as one.

    A row that stands in several folders, as the controls do, is taken once: its metrics from the
    first folder that has a value of them.

    Parameters
    ----------
    runs : sequence of Results
        At least two.

    Raises
    ------
    HarmbenchError
        Naming what differs, and the two folders it differs between.
    """
    names = folder_names([run.folder.root for run in runs])
    for name, run in zip(names[1:], runs[1:], strict=True):
        _check_alike(names[0], runs[0], name, run)
    _check_rows(names, runs)
    owners = _owners(runs)
    scores = _scores(runs, owners)
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
    """Return names that tell the folders apart and no more of where they lie than is needed."""
    full = [Path(folder).resolve() for folder in folders]
    for length in (1, 2):
        names = ["/".join(path.parts[-length:]) for path in full]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({i})" for i, path in enumerate(full, start=1)]


# -- what must be alike ---------------------------------------------------------------------------


def _check_alike(first: str, one: Results, second: str, other: Results) -> None:
    """Refuse runs of two experiments."""
    own, theirs = one.config["identity"], other.config["identity"]
    pairs = {name: (own.get(name), theirs.get(name)) for name in {**own, **theirs}}
    pairs["space"] = (one.config.get("space"), other.config.get("space"))
    pairs["probe"] = (one.config["run"].get("probe"), other.config["run"].get("probe"))
    versions = {m["name"]: m["version"] for m in other.metrics}
    for metric in one.metrics:
        there = versions.get(metric["name"], metric["version"])
        pairs[f"the version of metric {metric['name']}"] = (metric["version"], there)
    differences = [f"{n} is {a!r} there and {b!r} here" for n, (a, b) in pairs.items() if a != b]
    if not differences and not one.folder.split().equals(other.folder.split()):
        differences = ["the split into parts is another one"]
    if differences:
        raise HarmbenchError(
            f"{second} cannot be merged with {first}: {'; '.join(differences)}. Merge runs of the "
            "same data, split, reference site, preset and release, or report on each alone"
        )


def _check_rows(names: Sequence[str], runs: Sequence[Results]) -> None:
    """Refuse a row that is not the same in all folders that have it."""
    for i, run in enumerate(runs):
        for k in range(i):
            _check_methods((names[k], runs[k]), (names[i], run))
            _check_values((names[k], runs[k]), (names[i], run))


def _check_methods(one: tuple[str, Results], other: tuple[str, Results]) -> None:
    (first, a), (second, b) = one, other
    for label in sorted({row.label for row in a.rows} & {row.label for row in b.rows}):
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


def _values(run: Results) -> dict[Triple, tuple[Any, ...]]:
    """Return all that is shown of each score that has a value, so that it can be compared."""
    known = run.scores[run.scores["status"] == "ok"]
    texts = known[VALUES].astype(object).where(known[VALUES].notna(), None)
    held: dict[Triple, list[Any]] = {}
    keys = zip(known["label"].astype(str), known["seed"].astype(int), known["metric"], strict=True)
    for key, values in zip(keys, texts.itertuples(index=False, name=None), strict=True):
        held.setdefault(key, []).append(values)
    return {key: tuple(sorted(values, key=lambda v: str(v[0]))) for key, values in held.items()}


def _why(a: Results, b: Results) -> str:
    runs = [(name, a.config["run"].get(name), b.config["run"].get(name)) for name in LOOSE]
    differing = [f"{name} {theirs!r} and {own!r}" for name, own, theirs in runs if own != theirs]
    return f" ({', '.join(differing)})" if differing else ""


# -- what is taken from where ---------------------------------------------------------------------


def _owners(runs: Sequence[Results]) -> dict[Triple, int]:
    """Return which run a score is taken from: the first with a value, else the first with any."""
    owners: dict[Triple, int] = {}
    for wanted in (True, False):
        for i, run in enumerate(runs):
            ok = run.scores["status"] == "ok"
            for triple in _triples(run.scores[ok == wanted]):
                owners.setdefault(triple, i)
    return owners


def _triples(scores: pd.DataFrame) -> list[Triple]:
    columns = (scores["label"].astype(str), scores["seed"].astype(int), scores["metric"])
    return list(dict.fromkeys(zip(*columns, strict=True)))


def _scores(runs: Sequence[Results], owners: dict[Triple, int]) -> pd.DataFrame:
    parts = []
    for i, run in enumerate(runs):
        columns = (run.scores["label"].astype(str), run.scores["seed"].astype(int))
        triples = zip(*columns, run.scores["metric"], strict=True)
        parts.append(run.scores[[owners[triple] == i for triple in triples]])
    return pd.concat(parts, ignore_index=True).sort_values(ORDER, ignore_index=True)


def _cells(runs: Sequence[Results], owners: dict[Triple, int]) -> list[dict[str, Any]]:
    """Return the cells, each score and image with the whole path into the folder it is from."""
    merged: dict[tuple[str, int, str], dict[str, Any]] = {}
    for i, run in enumerate(runs):
        root = run.folder.root.resolve()
        for cell in run.cells:
            head = {key: cell[key] for key in ("label", "seed", "fold")}
            new = {**head, "shown": False, "images": {}, "scores": {}}
            held = merged.setdefault((cell["label"], cell["seed"], cell["fold"]), new)
            held["shown"] = held["shown"] or cell.get("shown", True)
            for name, stem in cell["images"].items():
                held["images"].setdefault(name, str(root / stem))
            for name, stem in cell["scores"].items():
                # Anchors that are computed but not shown have no scores in the tables.
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
    metrics = sorted(set(scores["metric"]))
    return {
        (label, seed, metric): f"not computed in {' and '.join(folders)}"
        for (label, seed), folders in rows.items()
        for metric in metrics
        if (label, seed, metric) not in held
    }


# -- settings -------------------------------------------------------------------------------------


def _config(names: Sequence[str], runs: Sequence[Results]) -> dict[str, Any]:
    """Return the settings of one run that would have done all of it."""
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
    """Return what a reader of the merged tables must know."""
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
