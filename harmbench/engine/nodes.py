"""The nodes of a run: what each is, and how its result is made from those in the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from harmbench import errors
from harmbench.contracts.method import OWN_SITE
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductUnavailable
from harmbench.engine import records
from harmbench.engine.cells import CellWork, StageFailedError
from harmbench.engine.imaging import Outside, in_blocks, true_images
from harmbench.engine.keys import Cell
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_arrays, write_rows
from harmbench.protocol.leakage import placebo
from harmbench.results.folder import Stage
from harmbench.seeding import rng_from

TRUTH_DRAWS: dict[str, dict[str, Any]] = {
    "truth.test": {"draw": 0},
    "truth.test.clean": {"clean": True},
}


@dataclass(frozen=True)
class Node:
    """One piece of work of a run, with one result.

    Attributes
    ----------
    stage : Stage
        Place and content key of the result.
    kind : {"fit", "images", "arrays", "score"}
        What is made.
    name : str
        ``"fit"``, a product or a metric.
    cell : Cell
        Of which cell; a result that several cells share belongs to the first of them.
    inputs : tuple of (str, str)
        Names of all products that it reads, with their nodes; ``""`` for raw images.
    needs : frozenset of str
        Nodes without which it cannot be made; it is made without others that cannot be had.
    metric : str
        Registry name of the metric.
    """

    stage: Stage
    kind: Literal["fit", "images", "arrays", "score"]
    name: str
    cell: Cell
    inputs: tuple[tuple[str, str], ...] = ()
    needs: frozenset[str] = frozenset()
    metric: str = ""

    @property
    def before(self) -> list[str]:
        """Ids of all nodes that it depends on."""
        return [one for _, one in self.inputs if one]

    @property
    def id(self) -> str:
        """Name of the node: place and content key of its result."""
        return f"{'/'.join(self.stage.stem.parts[-5:])}-{self.stage.key[8:]}"


@dataclass(frozen=True)
class Outcome:
    """What has become of a node: the result lies in the run folder, or the reason why not."""

    status: Literal["done", "skipped", "failed"]
    reason: str = ""


def make(work: CellWork, node: Node, outcomes: Mapping[str, Outcome]) -> Outcome:
    """Make the result of one node, unless what it needs is missing.

    Parameters
    ----------
    work : CellWork
        Of the node's cell.
    node : Node
        What to make, unless its result lies in the run folder.
    outcomes : mapping of node id to Outcome
        What has become of the nodes that it depends on and that were made in this run.

    Returns
    -------
    Outcome
        Anything that a method or a metric raises is in it.

    Raises
    ------
    HarmbenchError
        Where the run folder was moved or deleted.
    """
    work.experiment.folder.require_there()
    if node.stage.mark is not None:
        return Outcome("done")
    found = {one: outcomes[one] for one in node.before if one in outcomes}
    if failed := next((one for one in found.values() if one.status == "failed"), None):
        return failed
    without = [one for one in found if found[one].status == "skipped"]
    if skipped := next((one for one in without if one in node.needs), None):
        return found[skipped]
    given = [name for name, one in node.inputs if one not in without]
    try:
        return MAKERS[node.kind](work, node, given)
    except ProductUnavailable as error:
        return Outcome("skipped", str(error))
    except StageFailedError as error:
        return Outcome("failed", str(error))
    except (Exception, SystemExit) as error:
        if not isinstance(error, HarmbenchError) or node.kind == "score":
            work.log.exception("%s failed", node.name)
        prefix = "" if node.kind == "score" else f"{node.name}: "
        return Outcome("failed", prefix + errors.reason(error))


def _fit(work: CellWork, node: Node, given: Sequence[str]) -> Outcome:
    work.make_fit()
    work.method  # a fit that cannot be loaded has failed  # noqa: B018
    return DONE


def _images(work: CellWork, node: Node, given: Sequence[str]) -> Outcome:
    experiment, name = work.experiment, node.name
    if name not in TRUTH_DRAWS and not work.fits:
        work.method  # loaded before the clock of harmonizing starts  # noqa: B018
    cohort, counter = work.rows(name), Outside()
    if name in TRUTH_DRAWS:
        site = experiment.keys.reference_site
        parts = true_images(experiment.dataset, cohort, site, TRUTH_DRAWS[name])
    elif work.fits:
        parts = work.pooled(name)
    else:
        seen = placebo.replace_covariates(cohort, name) if name in placebo.NAMES else cohort
        rows = experiment.rows(work.cell.fold, name.split(".")[1])
        target = OWN_SITE if name == "own_site.test" else None
        filled = in_blocks(seen, experiment.cohort.images, rows)
        parts = (work.render(block, target) for block in filled)
    with work.timed(name) as cost:
        write_rows(node.stage.file(".npy"), cohort.images.shape, np.float32, counter.over(parts))
    node.stage.complete(stage=name, **cost(), outside_range=counter.share)
    return DONE


def _arrays(work: CellWork, node: Node, given: Sequence[str]) -> Outcome:
    product = work.experiment.keys.products[node.name]
    n = int(work.fold.test.sum())
    if n < product.min_n:
        raise ProductUnavailable(f"needs {product.min_n} test scans; there are {n}")
    context = replace(
        work.experiment.keys.context(work.cell),
        progress=work.experiment.progress,
        log=work.log.getChild("products"),
    )
    inputs = _inputs(work, given)
    with work.timed(product.name) as cost:
        arrays = product.make(inputs, context)
    write_arrays(node.stage.file(".npz"), arrays)
    node.stage.complete(stage=product.name, **cost())
    return DONE


def _score(work: CellWork, node: Node, given: Sequence[str]) -> Outcome:
    metric = work.experiment.metric(node.metric)
    inputs = _inputs(work, given)
    rng = rng_from("resample", work.experiment.keys.data_id, "")
    with work.timed(metric.info.name) as cost:
        result = metric(inputs, rng)
    record = records.keep(result, node.stage, cost())
    return Outcome("failed", record["reason"]) if record["status"] == "failed" else DONE


def _inputs(work: CellWork, names: Iterable[str]) -> MetricInputs:
    products = {name: work.product(name) for name in names}
    experiment = work.experiment
    return MetricInputs(products, experiment.keys.reference_site, *experiment.rounds)


DONE = Outcome("done")
MAKERS = {"fit": _fit, "images": _images, "arrays": _arrays, "score": _score}
