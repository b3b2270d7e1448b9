"""The work of one cell: how each of its nodes is made, from results that lie in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench import errors
from harmbench.config import build_method
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import ApplyContext, Harmonizer
from harmbench.contracts.metric import Metric
from harmbench.data.splits import Fold, Split
from harmbench.engine import keys
from harmbench.engine.fitting import fit, settings, wrong
from harmbench.engine.keys import Cell, CellId, Keys
from harmbench.engine.log import timed, work_log
from harmbench.engine.saved_weights import Saved, trained_here
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_arrays, read_rows
from harmbench.files.blocks import blocks, image_bytes
from harmbench.progress import Progress
from harmbench.protocol.leakage import placebo
from harmbench.results.folder import RunFolder, Stage


class StageFailedError(Exception):
    """A stage of a cell failed; its reason becomes that of all rows that need it."""


@dataclass
class Experiment:
    """What all cells of a run share.

    Attributes
    ----------
    folder : RunFolder
        Where everything lies.
    dataset : Dataset
        Asked for truth only; the images come from `cohort`.
    cohort : Cohort
        All rows.
    split : Split
        The part of every row.
    keys : Keys
        Keys of all stages.
    metrics : dict of str to Metric
        By registry name.
    progress : Progress
        Where long work reports.
    weights : dict of cell id to Saved
        Saved weights to take up instead of a fit.
    gate : dict of str to Metric
        The metric that says whether probes learn, where it is not among `metrics`.
    """

    folder: RunFolder
    dataset: Dataset
    cohort: Cohort
    split: Split
    keys: Keys
    metrics: dict[str, Metric]
    progress: Progress = field(default_factory=Progress)
    weights: Mapping[CellId, Saved] = field(default_factory=dict)
    gate: dict[str, Metric] = field(default_factory=dict)
    _works: dict[CellId, CellWork] = field(default_factory=dict)

    @cached_property
    def folds(self) -> dict[str, Fold]:
        """The rows of every cell by its fit; ``""`` for what is scored."""
        return {"": self.split.scored(), **self.split.fits()}

    @cached_property
    def test_folds(self) -> NDArray[np.str_] | None:
        """The fold of every scored row, None if the data are not cross-fitted."""
        return self.split.part[self.split.used] if self.split.cross_fitting else None

    @cached_property
    def probe_folds(self) -> NDArray[np.str_] | None:
        """The fold to which the probes that are trained on each probe row are applied."""
        if not self.split.cross_fitting:
            return None
        counts = {name: len(self.rows(name, "probe")) for name in self.split.folds}
        return np.repeat(list(counts), list(counts.values()))

    @property
    def rounds(self) -> tuple[NDArray[np.str_] | None, NDArray[np.str_] | None]:
        """The folds of the test rows and of the probe rows, as `MetricInputs` has them."""
        return self.test_folds, self.probe_folds

    def metric(self, name: str) -> Metric:
        """Return a metric by its registry name."""
        return self.metrics[name] if name in self.metrics else self.gate[name]

    def work(self, cell: Cell) -> CellWork:
        """Return the one worker of a cell."""
        if cell.id not in self._works:
            self._works[cell.id] = CellWork(self, cell)
        return self._works[cell.id]

    def rows(self, fold: str, part: str) -> NDArray[np.intp]:
        """Return the positions in the cohort of one part of a fold.

        The probe rows of cross-fitted data are those of all fits, one after the other.
        """
        if part == "probe" and not fold and self.split.cross_fitting:
            return np.concatenate([self.rows(name, part) for name in self.split.folds])
        return np.flatnonzero(getattr(self.folds[fold], part))

    def raw(self, fold: str, part: str) -> Cohort:
        """Return the raw rows of one part of a fold."""
        return self.cohort.subset(self.rows(fold, part))

    def known(self, fold: str, part: str, images: NDArray[np.float32] | None = None) -> Cohort:
        """Return the rows of one part with other images, or none: the raw ones are not read."""
        rows = self.rows(fold, part)
        if images is None:
            images = np.broadcast_to(np.float32(0), (len(rows), *self.cohort.shape))
        return self.cohort.subset(rows, images)


class CellWork:
    """Makes and finds the stages of one cell.

    Parameters
    ----------
    experiment : Experiment
        What all cells share.
    cell : Cell
        The method, its seed, its fit.
    """

    def __init__(self, experiment: Experiment, cell: Cell) -> None:
        self.experiment = experiment
        self.cell = cell
        self.folder = experiment.folder.root / "cells" / cell.folder
        self.fold = experiment.folds[cell.fold]
        self.fits = [experiment.work(fit) for fit in experiment.keys.fits(cell)]

    # -- fit and harmonize ----------------------------------------------------------------------

    @cached_property
    def log(self) -> logging.Logger:
        """The cell's log, kept in its folder."""
        name = "harmbench.cells." + str(self.cell.folder).replace(".", "_")
        return work_log(self.folder, name)

    def _told(self, reads: frozenset[str], purpose: str) -> dict[str, Any]:
        experiment = self.experiment
        log = self.log.getChild(purpose)
        config = experiment.keys.config
        return settings(config, experiment.dataset, reads, self.cell.seed, experiment.progress, log)

    @cached_property
    def skip(self) -> str | None:
        """Why the method cannot run on this cohort, or None."""
        if self.fits:
            return next((reason for fit in self.fits if (reason := fit.skip)), None)
        return build_method(self.cell.spec).skip(self.experiment.raw(self.cell.fold, "fit"))

    @cached_property
    def method(self) -> Harmonizer:
        """The fitted method, from the run folder.

        Raises
        ------
        StageFailedError
            If it cannot be loaded.
        """
        try:
            return type(build_method(self.cell.spec)).load(self.fit_stage.stem)
        except (Exception, SystemExit) as error:
            self.log.exception("the fitted method cannot be loaded")
            raise StageFailedError(f"fit: {errors.reason(error)}") from error

    def make_fit(self) -> None:
        """Fit the method, or take up saved weights, and keep it in the run folder."""
        stage = self.fit_stage
        method = build_method(self.cell.spec)
        saved = self.experiment.weights.get(self.cell.id)
        with self.timed("fit") as cost:
            if saved:
                method = saved.load(method)
                # The key was made when the run began, perhaps hours ago.
                if replace(saved).id != self.experiment.keys.weights[self.cell.id]:
                    raise HarmbenchError(f"the weights in {saved.folder} changed during the run")
            else:
                self._train(method, stage)
        stage.write_folder(method.save)
        origin = saved.facts if saved else trained_here(method, self.experiment.keys.config.device)
        name = "load weights" if saved else "fit"
        stage.complete(stage=name, **cost(), weights=origin)

    def _train(self, method: Harmonizer, stage: Stage) -> None:
        fit(
            method,
            self.experiment.raw(self.cell.fold, "fit"),
            self.experiment.keys.reference_site,
            self.folder / f"checkpoints-{stage.key[:8]}",
            self._told(method.info.fit_sees, "fit"),
        )

    def rows(self, name: str, images: NDArray[np.float32] | None = None) -> Cohort:
        """Return the rows of an image product, with the placebos that the method receives."""
        experiment, part = self.experiment, name.split(".")[1]
        if name not in placebo.NAMES:
            return experiment.known(self.cell.fold, part, images)
        # All fits of cross-fitting share one draw.
        whole = placebo.with_placebo(experiment.known("", part), name, experiment.keys.data_id, "")
        own = np.isin(experiment.rows("", part), experiment.rows(self.cell.fold, part))
        return whole.subset(own, whole.subset(own).images if images is None else images)

    def pooled(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Yield the images of all fits in blocks: test rows in the order of the cohort."""
        stacks = [read_rows(fit.stage(name).file(".npy")) for fit in self.fits]
        part = name.split(".")[1]
        rows = [self.experiment.rows(fit.cell.fold, part) for fit in self.fits]
        owner = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        position = np.concatenate([np.arange(len(own)) for own in rows])
        order = np.arange(len(owner)) if part == "probe" else np.argsort(np.concatenate(rows))
        for block in blocks(len(order), image_bytes(stacks[0])):
            yield np.stack([stacks[owner[i]][position[i]] for i in order[block]])

    def render(self, cohort: Cohort, target: str | None = None) -> NDArray[np.float32]:
        """Return these rows harmonized, checked; `target` as in `Harmonizer.harmonize`."""
        method, info = self.method, self.method.info
        images = method.harmonize(
            cohort.only(info.harmonize_sees - {"truth"}),
            target,
            context=ApplyContext(**self._told(info.harmonize_sees, "harmonize")),
        )
        images = np.asarray(images)
        if reason := wrong(images, cohort.images.shape):
            raise StageFailedError(reason)
        if info.own_background:
            # A method that works voxel by voxel writes into what is background in this scan.
            images = np.where(cohort.mask, images, cohort.images)
        return images.astype(np.float32, copy=False)

    # -- products -------------------------------------------------------------------------------

    def place(self, name: str) -> tuple[CellWork, str]:
        """Return the cell that makes a product, and its name there.

        An anchor's product is made by the anchor's cell. A method that does not see a covariate
        returns the very same images under a placebo of it.
        """
        if ":" in name:
            anchor, _, rest = name.partition(":")
            return self.experiment.work(self.experiment.keys.anchors[anchor]).place(rest)
        if name in placebo.NAMES and not placebo.concerns(name, self.cell.info.harmonize_sees):
            return self, "harmonized.test"
        return self, name

    def product(self, name: str) -> Any:
        """Return a product, a `Cohort` or a mapping of arrays, from the run folder.

        Raises
        ------
        FileNotFoundError
            Where it was not made.
        """
        if ":" in name:
            owner, rest = self.place(name)
            return owner.product(rest)
        stem, _, part = name.partition(".")
        if stem == "raw":
            return self.experiment.raw(self.cell.fold, part)
        if name == "travelling.test":
            from harmbench.protocol.truth.errors import scans_at_reference

            return scans_at_reference(
                self.experiment.raw(self.cell.fold, "test"),
                self.experiment.keys.reference_site,
                self.experiment.keys.config.repeat_within,
            )
        stage = self.stage(self.place(name)[1])
        if name in keys.IMAGE_PRODUCTS:
            return self.rows(name, read_rows(stage.file(".npy")))
        return read_arrays(stage.file(".npz"))

    def stage(self, name: str) -> Stage:
        """Return the stage of one product; what all cells share lies in ``raw/``."""
        shared = name.startswith("truth.") or (
            name in self.experiment.keys.products
            and self.experiment.keys.products[name].scope == "run"
        )
        folder = self.experiment.folder.root / "raw" if shared else self.folder / "products"
        return Stage(folder, name, self.experiment.keys.product(self.cell, name))

    def unavailable(self, name: str) -> str | None:
        """Return why a product cannot exist here, as far as that is known in advance."""
        return keys.unavailable(
            name,
            self.cell,
            has_truth=self.experiment.dataset.info.has_truth,
            is_table=self.experiment.cohort.space == "table",
            keys=self.experiment.keys,
        )

    # -- stages ---------------------------------------------------------------------------------

    @property
    def fit_stage(self) -> Stage:
        """The stage of the fitted method."""
        return Stage(self.folder, "fit", self.experiment.keys.fit(self.cell))

    @property
    def is_fitted(self) -> bool:
        """Whether all fits are there already."""
        return all(work.fit_stage.mark is not None for work in self.fits or [self])

    def score_stage(self, registry_name: str) -> Stage:
        """Return the stage of one metric's score."""
        metric = self.experiment.metric(registry_name)
        needs = metric.info.needs
        if not all(self.experiment.keys.has(need) for need in needs):
            return Stage(self.folder / "scores", metric.info.name, "-" * 32)
        key = self.experiment.keys.score(self.cell, registry_name, metric.info)
        return Stage(self.folder / "scores", metric.info.name, key)

    def reason_to_skip(self, metric: Metric) -> str | None:
        """Return why a metric cannot be computed here, as far as that is known in advance."""
        reasons = (self.unavailable(name) for name in metric.info.needs)
        if reason := next((reason for reason in reasons if reason), None):
            return reason
        n = int(self.fold.test.sum())
        if n < metric.info.min_n:
            return f"needs {metric.info.min_n} scored scans; there are {n}"
        return None

    # -- shared ---------------------------------------------------------------------------------

    def timed(self, name: str) -> AbstractContextManager[Callable[[], dict[str, Any]]]:
        """Log a step, limit its threads and measure it, see `harmbench.engine.log.timed`."""
        return timed(self.log, name, self.experiment.keys.config.threads)
