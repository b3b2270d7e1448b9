"""One finished run, or several merged ones, as the report sees them: ordered rows and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_arrays, read_csv, read_json
from harmbench.results.folder import RunFolder

AXES = ("site removal", "biology kept", "individuals", "quality", "truth", "leakage")
LEVELS = ("five", "core", "full")
HALVES = {"A": "B", "B": "A"}


@dataclass(frozen=True)
class Row:
    """One row of the tables: a method or a control at one method seed.

    Attributes
    ----------
    label : str
        As in ``scores.csv``.
    seed : int
        Method seed.
    title : str
        Label for people, with the seed where there are several.
    control, sees_truth : bool
        Whether it is a control, and whether it is given the simulator's answer.
    """

    label: str
    seed: int
    title: str
    control: bool
    sees_truth: bool

    @property
    def marked(self) -> str:
        """The title with its marks: ``*`` for a control, ``†`` for one that sees the truth."""
        return self.title + ("*" if self.control else "") + ("†" if self.sees_truth else "")


@dataclass(frozen=True)
class Score:
    """One cell of the tables; `value` is NaN where `status` is not ``"ok"``."""

    value: float
    low: float
    high: float
    target: float
    n: int
    status: str
    reason: str

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.status == "ok" and np.isfinite(self.value)


BRIEF = 0.25
"""Share of the default length below which a training is too brief to judge the method by."""
ABSENT = Score(np.nan, np.nan, np.nan, np.nan, 0, "absent", "not computed")


@dataclass(frozen=True)
class Results:
    """What a run folder holds, in the order in which it is shown.

    Attributes
    ----------
    folder : RunFolder
        Where it lies.
    config : dict
        ``config.json``.
    metrics : list of dict
        Declarations of the metrics, grouped by axis, the main ones first.
    methods : dict of str to dict
        Declarations of the methods by label, with their parameters.
    rows : list of Row
        Methods as they were asked for, then controls.
    scores : DataFrame
        ``scores.csv``.
    timing : DataFrame
        ``timing.csv``: label, seed, fold, stage, seconds, peak_mib.
    cells : list of dict
        ``cells.json``: where images and scores of each cell lie.
    environment : dict
        ``environment.json``, empty where there is none.
    sources : tuple of str
        Names of the folders that were merged (see `reports.merge`); empty for one run.
    absent : dict of (str, int, str) to str
        Why a row (label, seed) lacks a metric, where that is known.
    images_allowed : bool
        Whether images of single subjects may be shown.
    ids : dict of str to str
        What stands for each participant's id (see `reports.privacy`); empty for the ids themselves.
    """

    folder: RunFolder
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    rows: list[Row]
    scores: pd.DataFrame
    timing: pd.DataFrame
    cells: list[dict[str, Any]]
    environment: dict[str, Any]
    sources: tuple[str, ...] = ()
    absent: Mapping[tuple[str, int, str], str] = field(default_factory=dict)
    images_allowed: bool = True
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def first_seeds(self) -> list[Row]:
        """One row a label, its lowest seed: what the pictures show."""
        return list({row.label: row for row in reversed(self.rows)}.values())[::-1]

    # -- scores -------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> dict[tuple[str, int, str, str], Score]:
        found = {}
        for s in self.scores.itertuples():
            score = Score(
                float(s.value),
                float(s.ci_low),
                float(s.ci_high),
                float(s.target),
                int(s.n) if pd.notna(s.n) else 0,
                str(s.status),
                str(s.reason),
            )
            found[str(s.label), int(s.seed), str(s.metric), str(s.group)] = score
        return found

    def score(self, row: Row, metric: str, group: str = "all") -> Score:
        """Return one score, `ABSENT` where the run has none; `group` is a site or ``"all"``."""
        held = self._table.get((row.label, row.seed, metric, group))
        if held is not None:
            return held
        reason = self.absent.get((row.label, row.seed, metric))
        return ABSENT if reason is None else replace(ABSENT, reason=reason)

    def metric(self, name: str) -> dict[str, Any] | None:
        """Return the declaration of a metric, None where the run has no such metric."""
        return next((m for m in self.metrics if m["name"] == name), None)

    def axes(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return the axes that the run has metrics of, each with its metrics."""
        names = list(dict.fromkeys(m["axis"] for m in self.metrics))
        return [(axis, [m for m in self.metrics if m["axis"] == axis]) for axis in names]

    def target(self, metric: str) -> tuple[float, float]:
        """Return the smallest and the largest target of a metric's rows; NaN for none."""
        targets = [self.score(row, metric).target for row in self.rows]
        finite = [t for t in targets if np.isfinite(t)]
        return (min(finite), max(finite)) if finite else (np.nan, np.nan)

    def floors(self, metric: str) -> dict[str, float]:
        """Return the named floors that are the same for all rows of a metric.

        A floor that belongs to one row only (such as a distance at half that row's own n) cannot
        stand below a column.
        """
        held = [m.get("floors") or {} for row in self.rows for m in self.marks(row, metric)]
        held = [floors for floors in held if floors]
        common = [name for name in (held[0] if held else {}) if all(name in f for f in held)]
        values = {name: [f[name] for f in held if f[name] is not None] for name in common}
        return {
            name: float(v[0])
            for name, v in values.items()
            if len(v) == len(held) and np.allclose(v, v[0], rtol=1e-9, atol=1e-12)
        }

    # -- what the cells keep ------------------------------------------------------------------

    def stems(self, row: Row, kind: str, name: str) -> Iterator[tuple[str, Path]]:
        """Yield fold and path, without suffix, of a cell's images or scores of that name."""
        for cell in self.cells:
            if (cell["label"], cell["seed"]) == (row.label, row.seed) and name in cell[kind]:
                # Those of merged runs are absolute, which joining leaves as they are.
                yield cell["fold"], self.folder.root / cell[kind][name]

    def marks(self, row: Row, metric: str) -> list[dict[str, Any]]:
        """Return what was stored with a score, one mark a fold."""
        paths = [_with_suffix(stem, ".json") for _, stem in self.stems(row, "scores", metric)]
        return [read_json(path) for path in paths if path.is_file()]

    def arrays(self, row: Row, metric: str) -> list[dict[str, NDArray]]:
        """Return the arrays that a metric kept for the figures, one mapping a fold."""
        paths = [_with_suffix(stem, ".npz") for _, stem in self.stems(row, "scores", metric)]
        return [read_arrays(path) for path in paths if path.is_file()]

    def per_scan(self, row: Row, metric: str) -> pd.DataFrame | None:
        """Return a metric's table of test scans, all folds together, None where there is none."""
        paths = [_with_suffix(stem, ".csv") for _, stem in self.stems(row, "scores", metric)]
        words = ("participant_id", "site", "session_id")
        tables = [read_csv(path, words) for path in paths if path.is_file()]
        return self._named(pd.concat(tables, ignore_index=True)) if tables else None

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table of scans with what stands for the ids, in an order that tells nothing."""
        if not self.ids or "participant_id" not in table:
            return table
        names = table["participant_id"].map(self.ids).fillna("unknown")
        hidden = table.assign(participant_id=names)
        return hidden.sort_values("participant_id", kind="stable", ignore_index=True)

    def images(self, row: Row, name: str = "harmonized.test") -> dict[int, NDArray]:
        """Return a cell's images by their row in the cohort, memory-mapped; empty for none."""
        found: dict[int, NDArray] = {}
        for fold, stem in self.stems(row, "images", name):
            path = _with_suffix(stem, ".npy")
            if path.is_file():
                stack = np.load(path, mmap_mode="r", allow_pickle=False)
                part = HALVES.get(fold, "test")
                found |= dict(zip(np.flatnonzero(self.parts == part), stack, strict=True))
        return found

    def too_brief(self, row: Row) -> str:
        """Say how long a row's method was trained, where that is too little to judge it; else "".

        Less than `BRIEF` of the images that a training of the method's default length sees.
        Weights that are shipped or given were trained elsewhere, on purpose.
        """
        for made in (self.methods.get(row.label) or {}).get("weights") or []:
            images, full = (int(made.get(name) or 0) for name in ("images", "full_images"))
            if made.get("origin") == "trained" and 0 < images < BRIEF * full:
                return f"trained on {images:,} images of {full:,}"
        return ""

    # -- data ---------------------------------------------------------------------------------

    @cached_property
    def participants(self) -> pd.DataFrame:
        """The participants table of the whole cohort, with its split in column ``part``.

        Its rows are those of the images, in their order.
        """
        table = self.folder.cohort().participants.assign(part=self.parts)
        if not self.ids:
            return table
        return table.assign(participant_id=table["participant_id"].map(self.ids))

    @cached_property
    def parts(self) -> NDArray[np.str_]:
        """The part of the split of every row of the cohort."""
        return self.folder.split()["part"].to_numpy().astype(str)

    @property
    def tested(self) -> NDArray[np.intp]:
        """Positions in the cohort of the rows that are scored."""
        return np.flatnonzero(np.isin(self.parts, ["test", *HALVES]))

    @property
    def sites(self) -> list[str]:
        """Names of the sites, the reference site first."""
        names = sorted(self.participants["site"].unique())
        return sorted(names, key=lambda site: site != self.reference_site)

    @property
    def reference_site(self) -> str:
        """The site that everything is harmonized to."""
        return str(self.config["identity"].get("reference_site", ""))


def read_results(folder: Path) -> Results:
    """Read a finished run.

    Parameters
    ----------
    folder : Path
        The run folder.

    Raises
    ------
    HarmbenchError
        Where the folder holds no run, or one without scores.
    """
    run = RunFolder(folder)
    config, scores = run.config, run.scores()
    methods = run.table("methods")
    environment = folder / "environment.json"
    timing = folder / "timing.csv"
    return Results(
        folder=run,
        config=config,
        metrics=order_metrics(run.table("metrics"), scores),
        methods=methods,
        rows=order_rows(config["run"], methods, scores),
        scores=scores,
        timing=read_csv(timing, ["label", "stage"])
        if timing.is_file()
        else pd.DataFrame(columns=TIMING),
        cells=_inside(read_json(folder / "cells.json"), folder),
        environment=read_json(environment) if environment.is_file() else {},
    )


def _inside(cells: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the index of a run; refuse one that names files elsewhere, which it would show."""
    for cell in cells:
        for stem in (*cell["images"].values(), *cell["scores"].values()):
            if Path(stem).is_absolute() or ".." in Path(stem).parts:
                raise HarmbenchError(
                    f"{folder / 'cells.json'} names {stem!r}, which lies outside of the run; a "
                    "report shows what is in its folder"
                )
    return cells


TIMING = ["label", "seed", "fold", "stage", "seconds", "peak_mib"]


def order_metrics(metrics: dict[str, Any], scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the declarations of the metrics that have scores, by axis, the main ones first."""

    def place(metric: dict[str, Any]) -> tuple[int, str, int, str]:
        axis = AXES.index(metric["axis"]) if metric["axis"] in AXES else len(AXES)
        level = LEVELS.index(metric["level"]) if metric["level"] in LEVELS else len(LEVELS)
        return axis, metric["axis"], level, metric["name"]

    shown = set(scores["metric"])
    return sorted((m for m in metrics.values() if m["name"] in shown), key=place)


def order_rows(run: dict[str, Any], methods: dict[str, Any], scores: pd.DataFrame) -> list[Row]:
    """Return the rows that have scores: methods as they were asked for, then controls."""
    titles = [spec.get("label") or spec["name"].rpartition(":")[2] for spec in run["methods"]]
    asked = {label: i for i, label in enumerate([*titles, *run["controls"]])}
    pairs = scores[["label", "seed"]].drop_duplicates().itertuples(index=False)
    found = sorted((asked.get(str(p.label), len(asked)), str(p.label), int(p.seed)) for p in pairs)
    seeds = pd.Series([label for _, label, _ in found]).value_counts()
    rows = []
    for _, label, seed in found:
        info = methods.get(label, {})
        title = f"{label} (seed {seed})" if seeds[label] > 1 else label
        control = bool(info.get("control", label in run["controls"] and label not in titles))
        rows.append(Row(label, seed, title, control, bool(info.get("sees_truth", False))))
    # A control that was asked for as a method still stands with the controls.
    return sorted(rows, key=lambda row: row.control)


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
