"""One finished run, or several merged runs, as the report reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_arrays, read_csv, read_json
from harmbench.results.folder import RunFolder

AXES = ("site removal", "biology kept", "individuals", "quality", "truth", "leakage")
LEVELS = ("five", "core", "full")


class Row(NamedTuple):
    """One row of the tables: a method or a control at one method seed.

    `label` is that of ``scores.csv``; `title` is the label with the seed, if there are several.
    `sees_truth` says whether it is given the simulator's answer.
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

    @property
    def record(self) -> dict[str, Any]:
        """All but the title, for a table with one line for each row."""
        return {name: value for name, value in self._asdict().items() if name != "title"}


class Score(NamedTuple):
    """One value with its 95 % interval; `value` is NaN unless `status` is ``"ok"``."""

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
        return self.status == "ok" and bool(np.isfinite(self.value))


BRIEF = 0.25
"""Share of the default length below which a training is too short to judge the method."""
ABSENT = Score(np.nan, np.nan, np.nan, np.nan, 0, "absent", "not computed")


@dataclass(frozen=True)
class Results:
    """The content of a run folder, in the order in which it is shown.

    Attributes
    ----------
    folder : RunFolder
        The folder.
    config, environment : dict
        ``config.json``, and ``environment.json`` (empty if there is none).
    metrics : list of dict
        Declarations of the metrics, grouped by axis, the main ones first.
    methods : dict of str to dict
        Declarations of the methods by label, with their parameters.
    rows : list of Row
        Methods in the order of the command, then controls.
    scores, timing : DataFrame
        ``scores.csv`` and ``timing.csv`` (label, seed, fold, stage, seconds, peak_mib).
    cells : list of dict
        ``cells.json``: the paths of images and scores of each cell.
    sources : tuple of str
        Names of the folders that were merged (see `reports.merge`); empty for one run.
    absent : dict of (str, int, str) to str
        Why a row (label, seed) lacks a metric, if that is known.
    images_allowed : bool
        Whether images of single subjects may be shown.
    ids : dict of str to str
        What replaces each participant's id (see `reports.privacy`); empty to show the ids.
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
        """The row with the lowest seed of each label, which the figures show."""
        return list({row.label: row for row in reversed(self.rows)}.values())[::-1]

    # -- scores -------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> dict[tuple[str, int, str, str], Score]:
        keys = ["label", "seed", "metric", "group"]
        table = self.scores.fillna({"n": 0}).astype(dict.fromkeys(["seed", "n"], int))
        texts = ["label", "metric", "group", "status", "reason"]
        table = table.astype(dict.fromkeys(texts, str))
        values = table[["value", "ci_low", "ci_high", "target", "n", "status", "reason"]]
        rows = (tables.itertuples(index=False, name=None) for tables in (table[keys], values))
        return {key: Score(*value) for key, value in zip(*rows, strict=True)}

    def score(self, row: Row, metric: str, group: str = "all") -> Score:
        """Return one score, `ABSENT` if the run has none; `group` is a site or ``"all"``."""
        held = self._table.get((row.label, row.seed, metric, group))
        if held is not None:
            return held
        reason = self.absent.get((row.label, row.seed, metric))
        return ABSENT if reason is None else ABSENT._replace(reason=reason)

    def column(self, metric: dict[str, Any], group: str = "all") -> list[Score]:
        """Return the scores of all rows on one metric."""
        return [self.score(row, metric["name"], group) for row in self.rows]

    @property
    def all_scores(self) -> list[Score]:
        """The scores of all rows on all metrics, without those of single sites."""
        columns = [self.column(metric) for metric in self.metrics]
        return [score for row in zip(*columns, strict=True) for score in row]

    def has_value(self, metric: dict[str, Any]) -> bool:
        """Return whether any row has a value of the metric."""
        return any(score.ok for score in self.column(metric))

    def metric(self, name: str) -> dict[str, Any] | None:
        """Return the declaration of a metric, None if the run has no such metric."""
        return next((m for m in self.metrics if m["name"] == name), None)

    def axes(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return the axes with their metrics."""
        names = list(dict.fromkeys(m["axis"] for m in self.metrics))
        return [(axis, [m for m in self.metrics if m["axis"] == axis]) for axis in names]

    def target(self, metric: str) -> tuple[float, float]:
        """Return the smallest and the largest target of all rows; NaN for none."""
        targets = pd.Series([self.score(row, metric).target for row in self.rows], dtype=float)
        return float(targets.min()), float(targets.max())

    def floors(self, metric: str) -> dict[str, float]:
        """Return the named floors that are equal for all rows of a metric.

        A floor of a single row (such as a distance at half that row's n) is left out.
        """
        marks = (mark for row in self.rows for mark in self.marks(row, metric))
        held = pd.DataFrame([floors for mark in marks if (floors := mark.get("floors"))])
        held = held.dropna(axis="columns").astype(float)
        equal = [name for name in held if np.allclose(held[name], held[name][0], 1e-9, 1e-12)]
        return {str(name): float(held[name][0]) for name in equal}

    # -- what the cells store ------------------------------------------------------------------

    def stems(self, row: Row, kind: str, name: str) -> Iterator[Path]:
        """Yield the path, without suffix, of the images or scores with that name."""
        for cell in self.cells:
            if (cell["label"], cell["seed"]) == (row.label, row.seed) and name in cell[kind]:
                # The paths of merged runs are absolute, which joining does not change.
                yield self.folder.root / cell[kind][name]

    def _files(self, row: Row, metric: str, suffix: str) -> list[Path]:
        stems = self.stems(row, "scores", metric)
        paths = [stem.with_name(stem.name + suffix) for stem in stems]
        return [path for path in paths if path.is_file()]

    def marks(self, row: Row, metric: str) -> list[dict[str, Any]]:
        """Return the JSON stored with a score, one mapping for each fold."""
        return [read_json(path) for path in self._files(row, metric, ".json")]

    def arrays(self, row: Row, metric: str) -> list[dict[str, NDArray]]:
        """Return the arrays that a metric stored, one mapping for each fold."""
        return [read_arrays(path) for path in self._files(row, metric, ".npz")]

    def per_scan(self, row: Row, metric: str) -> pd.DataFrame | None:
        """Return a metric's table of test scans over all folds, None if there is none."""
        words = ("participant_id", "site", "session_id")
        tables = [read_csv(path, words) for path in self._files(row, metric, ".csv")]
        return self._named(pd.concat(tables, ignore_index=True)) if tables else None

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table of scans with the ids replaced, sorted by the new names."""
        if not self.ids or "participant_id" not in table:
            return table
        names = table["participant_id"].map(self.ids).fillna("unknown")
        hidden = table.assign(participant_id=names)
        return hidden.sort_values("participant_id", kind="stable", ignore_index=True)

    def images(self, row: Row, name: str = "harmonized.test") -> dict[int, NDArray]:
        """Return images by their row in the cohort, memory-mapped; empty for none."""
        found: dict[int, NDArray] = {}
        for stem in self.stems(row, "images", name):
            path = stem.with_name(stem.name + ".npy")
            if path.is_file():
                stack = np.load(path, mmap_mode="r", allow_pickle=False)
                found |= dict(zip(self.tested, stack, strict=True))
        return found

    @property
    def imaged(self) -> list[tuple[Row, dict[int, NDArray]]]:
        """The first seeds that have harmonized test images, each with them."""
        return [(row, stack) for row in self.first_seeds if (stack := self.images(row))]

    def weights(self, label: str) -> list[dict[str, Any]]:
        """Return the origins of a method's weights; empty for a method that has none."""
        return self.methods.get(label, {}).get("weights") or []

    def too_brief(self, row: Row) -> str:
        """Return how long a row was trained if that is too short to judge it; else "".

        The limit is `BRIEF` of the images that a training of the default length sees. Weights that
        were shipped or given are not limited.
        """
        for made in self.weights(row.label):
            images, full = (int(made.get(name) or 0) for name in ("images", "full_images"))
            if made.get("origin") == "trained" and 0 < images < BRIEF * full:
                return f"trained on {images:,} images of {full:,}"
        return ""

    # -- data ---------------------------------------------------------------------------------

    @cached_property
    def participants(self) -> pd.DataFrame:
        """The participants of the images, in their order, with the split in column ``part``."""
        table = self.folder.cohort().participants.assign(part=self.parts)
        names = table["participant_id"]
        return table.assign(participant_id=names.map(self.ids)) if self.ids else table

    @cached_property
    def parts(self) -> NDArray[np.str_]:
        """The part of the split of every row of the cohort."""
        return self.folder.split()["part"].to_numpy().astype(str)

    @cached_property
    def tested(self) -> NDArray[np.intp]:
        """Positions of the test images in the cohort."""
        return np.flatnonzero(~np.isin(self.parts, ["fit", "probe", "out"]))

    @property
    def sites(self) -> list[str]:
        """Names of the sites, the reference site first."""
        names = sorted(self.participants["site"].unique())
        return sorted(names, key=lambda site: site != self.reference_site)

    @property
    def reference_site(self) -> str:
        """The site to which all images are harmonized."""
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
        If the folder holds no run, or one without scores.
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
        else pd.DataFrame(columns=["label", "seed", "fold", "stage", "seconds", "peak_mib"]),
        cells=_inside(read_json(folder / "cells.json"), folder),
        environment=read_json(environment) if environment.is_file() else {},
    )


def _inside(cells: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the index of a run; refuse one that names files outside of the run."""
    for cell in cells:
        for stem in (*cell["images"].values(), *cell["scores"].values()):
            if Path(stem).is_absolute() or ".." in Path(stem).parts:
                raise HarmbenchError(
                    f"{folder / 'cells.json'} names {stem!r}, which lies outside of the run; a "
                    "report shows what is in its folder"
                )
    return cells


def order_metrics(metrics: dict[str, Any], scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the declarations of the metrics that have scores, by axis, the main ones first."""

    def place(names: tuple[str, ...], name: str) -> int:
        return names.index(name) if name in names else len(names)

    shown = set(scores["metric"])
    return sorted(
        (m for m in metrics.values() if m["name"] in shown),
        key=lambda m: (place(AXES, m["axis"]), m["axis"], place(LEVELS, m["level"]), m["name"]),
    )


def order_rows(run: dict[str, Any], methods: dict[str, Any], scores: pd.DataFrame) -> list[Row]:
    """Return the rows with scores: methods in the order of the command, then controls."""
    titles = [spec.get("label") or spec["name"].rpartition(":")[2] for spec in run["methods"]]
    asked = {label: i for i, label in enumerate([*titles, *run["controls"]])}
    pairs = scores[["label", "seed"]].drop_duplicates().astype({"label": str, "seed": int})
    several = pairs["label"].duplicated(keep=False)
    rows = []
    for label, seed, titled in zip(pairs["label"], pairs["seed"], several, strict=True):
        info = methods.get(label, {})
        title = f"{label} (seed {seed})" if titled else label
        control = bool(info.get("control", label in run["controls"] and label not in titles))
        rows.append(Row(label, seed, title, control, bool(info.get("sees_truth", False))))
    # A control that was given as a method is listed with the controls.
    return sorted(rows, key=lambda r: (r.control, asked.get(r.label, len(asked)), r.label, r.seed))
