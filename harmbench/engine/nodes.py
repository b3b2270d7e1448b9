"""The work of one cell, stage by stage: fit, harmonize, make products, score.

Every stage looks for its finished result first, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench import errors
from harmbench.config import build_method
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import OWN_SITE, ApplyContext, Harmonizer
from harmbench.contracts.metric import Metric, MetricInputs
from harmbench.contracts.product import Product, ProductUnavailable
from harmbench.data.splits import Fold
from harmbench.engine import keys as plan
from harmbench.engine import records
from harmbench.engine.fitting import fit, settings, wrong
from harmbench.engine.imaging import Outside, in_blocks, true_images
from harmbench.engine.keys import Cell, CellId, Keys
from harmbench.engine.log import timed, work_log
from harmbench.engine.saved_weights import Saved, trained_here
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_arrays, read_rows, write_arrays, write_rows
from harmbench.progress import Progress
from harmbench.protocol.leakage import placebo
from harmbench.results.folder import RunFolder, Stage
from harmbench.seeding import rng_from

TRUTH_DRAWS: dict[str, dict[str, Any]] = {
    "truth.test": {"draw": 0},
    "truth.test.clean": {"clean": True},
}


class StageFailedError(Exception):
    """A stage of a cell failed; its reason becomes that of all rows that need it."""


@dataclass
class Bench:
    """What all cells of a run share.

    Attributes
    ----------
    folder : RunFolder
        Where everything lies.
    dataset : Dataset
        Asked for truth only; the images come from `cohort`.
    cohort : Cohort
        All rows.
    folds : dict of str to Fold
        By name.
    keys : Keys
        Keys of all stages.
    metrics : dict of str to Metric
        By registry name.
    progress : Progress
        Where long work reports.
    weights : dict of cell id to Saved
        Saved weights to take up instead of a fit.
    claim : callable
        ``claim(key)`` holds a stage for this process where others work in the folder, too.
    """

    folder: RunFolder
    dataset: Dataset
    cohort: Cohort
    folds: dict[str, Fold]
    keys: Keys
    metrics: dict[str, Metric]
    progress: Progress = field(default_factory=Progress)
    weights: Mapping[CellId, Saved] = field(default_factory=dict)
    claim: Callable[[str], AbstractContextManager[Any]] = nullcontext
    _works: dict[CellId, CellWork] = field(default_factory=dict)

    def work(self, cell: Cell) -> CellWork:
        """Return the one worker of a cell."""
        if cell.id not in self._works:
            self._works[cell.id] = CellWork(self, cell)
        return self._works[cell.id]

    def rows(self, fold: str, part: str) -> NDArray[np.intp]:
        """Return the positions in the cohort of one part of a fold."""
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

    def settle(self, stage: Stage, make: Callable[[], None]) -> None:
        """Let `make` do a stage that is not done; of several processes, one does it."""
        if stage.mark is None:
            with self.claim(stage.key):
                if stage.mark is None:
                    make()


class CellWork:
    """Makes and finds the stages of one cell.

    Parameters
    ----------
    bench : Bench
        What all cells share.
    cell : Cell
        The method, its seed, its fold.
    """

    def __init__(self, bench: Bench, cell: Cell) -> None:
        self.bench = bench
        self.cell = cell
        self.folder = bench.folder.root / "cells" / cell.folder
        self.fold = bench.folds[cell.fold]
        self._failures: dict[str, str] = {}

    # -- fit and harmonize ----------------------------------------------------------------------

    @cached_property
    def log(self) -> logging.Logger:
        """The cell's log, kept in its folder."""
        name = "harmbench.cells." + str(self.cell.folder).replace(".", "_")
        return work_log(self.folder, name)

    def _told(self, reads: frozenset[str], purpose: str) -> dict[str, Any]:
        bench = self.bench
        log = self.log.getChild(purpose)
        config = bench.keys.config
        return settings(config, bench.dataset, reads, self.cell.seed, bench.progress, log)

    @cached_property
    def skip(self) -> str | None:
        """Why the method cannot run on this cohort, or None."""
        return build_method(self.cell.spec).skip(self.bench.raw(self.cell.fold, "fit"))

    @cached_property
    def method(self) -> Harmonizer:
        """The fitted method, loaded where it was fitted before."""
        return self._once("fit", self._fit)

    def _fit(self) -> Harmonizer:
        stage = self.fit_stage
        self.bench.settle(stage, lambda: self._make_fit(stage))
        return type(build_method(self.cell.spec)).load(stage.stem)

    def _make_fit(self, stage: Stage) -> None:
        method = build_method(self.cell.spec)
        saved = self.bench.weights.get(self.cell.id)
        with self._timed("fit") as cost:
            if saved:
                method = saved.load(method)
                # The key was made when the run began, perhaps hours ago.
                if replace(saved).id != self.bench.keys.weights[self.cell.id]:
                    raise HarmbenchError(f"the weights in {saved.folder} changed during the run")
            else:
                self._train(method, stage)
        stage.write_folder(method.save)
        origin = saved.facts if saved else trained_here(method, self.bench.keys.config.device)
        name = "load weights" if saved else "fit"
        stage.complete(stage=name, **cost(), weights=origin)

    def _train(self, method: Harmonizer, stage: Stage) -> None:
        fit(
            method,
            self.bench.raw(self.cell.fold, "fit"),
            self.bench.keys.reference_site,
            self.folder / f"checkpoints-{stage.key[:8]}",
            self._told(method.info.fit_sees, "fit"),
        )

    def _rows(self, name: str, images: NDArray[np.float32] | None = None) -> Cohort:
        """Return the rows of an image product; a placebo's say what the method is told."""
        cohort = self.bench.known(self.cell.fold, name.split(".")[1], images)
        if name not in placebo.NAMES:
            return cohort
        return placebo.with_placebo(cohort, name, self.bench.keys.data_id, self.cell.fold)

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

    def product(self, name: str) -> Any:
        """Return a product, made now or found: a `Cohort` or a mapping of arrays.

        Raises
        ------
        StageFailedError
            Where it, or what it is made of, failed.
        ProductUnavailable
            Where it cannot be had here.
        """
        if ":" in name:
            anchor, _, rest = name.partition(":")
            cell = self.bench.keys.anchors[anchor][self.cell.fold]
            return self.bench.work(cell).product(rest)
        stem, _, part = name.partition(".")
        if stem == "raw":
            return self.bench.raw(self.cell.fold, part)
        if name == "travelling.test":
            from harmbench.protocol.truth.errors import scans_at_reference

            return scans_at_reference(
                self.bench.raw(self.cell.fold, "test"),
                self.bench.keys.reference_site,
                self.bench.keys.config.repeat_within,
            )
        return self._once(name, lambda: self._find_or_make(name))

    def _find_or_make(self, name: str) -> Any:
        sees = self.cell.info.harmonize_sees
        if name in placebo.NAMES and not placebo.concerns(name, sees):
            # Told a lie that it does not hear, a method returns the very same images.
            return self._rows(name, self.product("harmonized.test").images)
        stage = self.stage(name)
        if name in plan.IMAGE_PRODUCTS:
            self.bench.settle(stage, lambda: self._make_images(name, stage))
            return self._rows(name, read_rows(stage.file(".npy")))
        product = self.bench.keys.products[name]
        self.bench.settle(stage, lambda: self._make_arrays(product, stage))
        return read_arrays(stage.file(".npz"))

    def stage(self, name: str) -> Stage:
        """Return the stage of one product; what all cells share lies in ``raw/``."""
        shared = name.startswith("truth.") or (
            name in self.bench.keys.products and self.bench.keys.products[name].scope == "run"
        )
        folder = self.bench.folder.root / "raw" if shared else self.folder / "products"
        return Stage(folder, name, self.bench.keys.product(self.cell, name))

    def _make_images(self, name: str, stage: Stage) -> None:
        if name not in TRUTH_DRAWS:
            self.method  # fitted before the clock of harmonizing starts  # noqa: B018
        cohort, counter = self._rows(name), Outside()
        if name in TRUTH_DRAWS:
            site = self.bench.keys.reference_site
            parts = true_images(self.bench.dataset, cohort, site, TRUTH_DRAWS[name])
        else:
            told = placebo.told(cohort, name) if name in placebo.NAMES else cohort
            rows = self.bench.rows(self.cell.fold, name.split(".")[1])
            target = OWN_SITE if name == "own_site.test" else None
            filled = in_blocks(told, self.bench.cohort.images, rows)
            parts = (self.render(block, target) for block in filled)
        with self._timed(name) as cost:
            write_rows(stage.file(".npy"), cohort.images.shape, np.float32, counter.over(parts))
        stage.complete(stage=name, **cost(), outside_range=counter.share)

    def _make_arrays(self, product: Product, stage: Stage) -> None:
        n = int(self.fold.test.sum())
        if n < product.min_n:
            raise ProductUnavailable(f"needs {product.min_n} test scans; there are {n}")
        inputs = self._inputs(product.needs, product.wants)
        context = replace(
            self.bench.keys.context(self.cell),
            progress=self.bench.progress,
            log=self.log.getChild("products"),
        )
        with self._timed(product.name) as cost:
            arrays = product.make(inputs, context)
        write_arrays(stage.file(".npz"), arrays)
        stage.complete(stage=product.name, **cost())

    def _inputs(self, needs: tuple[str, ...], wants: tuple[str, ...]) -> MetricInputs:
        products = {name: self.product(name) for name in needs}
        for name in wants:
            with suppress(ProductUnavailable):
                if self.unavailable(name) is None:
                    products[name] = self.product(name)
        return MetricInputs(products, self.bench.keys.reference_site)

    def unavailable(self, name: str) -> str | None:
        """Return why a product cannot exist here, as far as that is known in advance."""
        return plan.unavailable(
            name,
            self.cell,
            has_truth=self.bench.dataset.info.has_truth,
            fold_has_probe=bool(self.fold.probe.any()),
            keys=self.bench.keys,
        )

    # -- scores ---------------------------------------------------------------------------------

    def score(self, registry_name: str) -> dict[str, Any]:
        """Return the record of one metric: its values, or why there are none."""
        metric = self.bench.metrics[registry_name]
        stage = self.score_stage(registry_name)
        self.bench.folder.require_there()
        mark = stage.mark
        if mark is not None:
            return mark
        try:
            reason = self.skip or self._reason_to_skip(metric)
            if reason:
                return {"status": "skipped", "reason": reason}
            inputs = self._inputs(metric.info.needs, metric.info.wants)
            rng = rng_from("resample", self.bench.keys.data_id, self.cell.fold)
            with self._timed(metric.info.name) as cost:
                result = metric(inputs, rng)
            return records.keep(result, stage, cost())
        except ProductUnavailable as error:
            return {"status": "skipped", "reason": str(error)}
        except StageFailedError as error:
            return {"status": "failed", "reason": str(error)}
        except (Exception, SystemExit) as error:
            self.log.exception("metric %s failed", metric.info.name)
            return {"status": "failed", "reason": errors.reason(error)}

    @property
    def fit_stage(self) -> Stage:
        """The stage of the fitted method."""
        return Stage(self.folder, "fit", self.bench.keys.fit(self.cell))

    @property
    def is_fitted(self) -> bool:
        """Whether the fit is there already."""
        return self.fit_stage.mark is not None

    def scores_done(self) -> int:
        """Return how many of the run's metrics are there already."""
        return sum(self.score_stage(name).mark is not None for name in self.bench.metrics)

    def score_stage(self, registry_name: str) -> Stage:
        """Return the stage of one metric's score."""
        metric = self.bench.metrics[registry_name]
        needs = metric.info.needs
        if not all(self.bench.keys.has(need) for need in needs):
            return Stage(self.folder / "scores", metric.info.name, "-" * 32)
        key = self.bench.keys.score(self.cell, registry_name, metric.info)
        return Stage(self.folder / "scores", metric.info.name, key)

    def _reason_to_skip(self, metric: Metric) -> str | None:
        n = int(self.fold.test.sum())
        if n < metric.info.min_n:
            return f"needs {metric.info.min_n} test scans; there are {n}"
        reasons = (self.unavailable(name) for name in metric.info.needs)
        return next((reason for reason in reasons if reason), None)

    # -- shared ---------------------------------------------------------------------------------

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """Run a stage; a failure is logged once and remembered for all that need the stage."""
        if name in self._failures:
            raise StageFailedError(self._failures[name])
        try:
            return make()
        except (StageFailedError, ProductUnavailable) as error:
            if isinstance(error, StageFailedError):
                self._failures.setdefault(name, str(error))
            raise
        except HarmbenchError as error:
            self._failures[name] = f"{name}: {error}"
        except (Exception, SystemExit) as error:
            self.log.exception("%s failed", name)
            self._failures[name] = f"{name}: {errors.reason(error)}"
        raise StageFailedError(self._failures[name])

    def _timed(self, name: str) -> AbstractContextManager[Callable[[], dict[str, Any]]]:
        return timed(self.log, name, self.bench.keys.config.threads)
