"""The graph of a run: all nodes that its scores need, and those that are not made yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harmbench import errors
from harmbench.engine.cells import CellWork, Experiment
from harmbench.engine.keys import IMAGE_PRODUCTS, Cell
from harmbench.engine.nodes import TRUTH_DRAWS, Node, Outcome


@dataclass(frozen=True)
class Score:
    """One score that is asked for: of a node, or known in advance not to exist.

    Attributes
    ----------
    cell : Cell
        Of which cell.
    metric : str
        Registry name of the metric.
    node : str
        Its node.
    outcome : Outcome or None
        Why there is no node.
    """

    cell: Cell
    metric: str
    node: str = ""
    outcome: Outcome | None = None


@dataclass
class Graph:
    """Nodes by their ids, each after all that it depends on; and the scores asked for.

    Parameters
    ----------
    experiment : Experiment
        What all nodes share.
    asked : iterable of (Cell, str)
        Cells with the registry names of metrics.
    """

    experiment: Experiment
    asked: Iterable[tuple[Cell, str]]
    nodes: dict[str, Node] = field(default_factory=dict, init=False)
    scores: list[Score] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._unusable: dict[Any, Outcome | None] = {}
        self.scores = [self._score(cell, metric) for cell, metric in self.asked]

    def missing(self) -> list[Node]:
        """Return the nodes that must be made, in order: those without a result that are needed."""
        needed: set[str] = set()
        waiting = [score.node for score in self.scores if score.node]
        while waiting:
            one = waiting.pop()
            node = self.nodes[one]
            if one not in needed and node.stage.mark is None:
                needed.add(one)
                waiting += node.before
        return [node for one, node in self.nodes.items() if one in needed]

    def records(self, outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
        """Return what is known of each score after the nodes were made, in the order asked."""
        return [self._record(score, outcomes) for score in self.scores]

    def _record(self, score: Score, outcomes: dict[str, Outcome]) -> dict[str, Any]:
        head = {"cell": score.cell, "metric": self.experiment.metric(score.metric).info}
        mark = self.nodes[score.node].stage.mark if score.node else None
        if mark is not None:
            return {**head, **mark}
        outcome = score.outcome or outcomes[score.node]
        return {**head, "status": outcome.status, "reason": outcome.reason}

    # -- building -------------------------------------------------------------------------------

    def _score(self, cell: Cell, name: str) -> Score:
        work, metric = self.experiment.work(cell), self.experiment.metric(name)
        stage = work.score_stage(name)
        if stage.mark is None and (outcome := self._unusable_cell(work)):
            return Score(cell, name, outcome=outcome)
        if stage.mark is None and (reason := work.reason_to_skip(metric)):
            return Score(cell, name, outcome=Outcome("skipped", reason))
        node = Node(stage, "score", metric.info.name, cell, metric=name)
        return Score(cell, name, self._add(node, work, metric.info.needs, metric.info.wants))

    def _unusable_cell(self, work: CellWork) -> Outcome | None:
        """Return why no metric of a cell can be computed, or None."""
        if work.cell.id not in self._unusable:
            try:
                reason = work.skip
                found = Outcome("skipped", reason) if reason else None
            except (Exception, SystemExit) as error:
                work.log.exception("skip failed")
                found = Outcome("failed", errors.reason(error))
            self._unusable[work.cell.id] = found
        return self._unusable[work.cell.id]

    def _add(
        self, node: Node, work: CellWork, needs: Sequence[str], wants: Sequence[str] = ()
    ) -> str:
        """Add a node after all that it depends on, unless it is there; return its id."""
        if node.id in self.nodes:
            return node.id
        wants = [name for name in wants if work.unavailable(name) is None]
        inputs = tuple((name, self._product(work, name)) for name in (*needs, *wants))
        needed = frozenset(one for _, one in inputs[: len(needs)])
        node = replace(node, inputs=inputs, needs=needed)
        self.nodes[node.id] = node
        return node.id

    def _product(self, work: CellWork, name: str) -> str:
        """Add the node of a product; return its id, ``""`` for raw images."""
        work, name = work.place(name)
        if name == "fit":
            return self._add(Node(work.fit_stage, "fit", name, work.cell), work, ())
        if name.startswith("raw.") or name == "travelling.test":
            return ""
        if name in IMAGE_PRODUCTS:
            node = Node(work.stage(name), "images", name, work.cell)
            if name in TRUTH_DRAWS:
                return self._add(node, work, ())
            if not work.fits:
                return self._add(node, work, ("fit",))
            ids = [self._product(fit, name) for fit in work.fits]
            inputs = tuple((name, one) for one in ids)
            self.nodes.setdefault(node.id, replace(node, inputs=inputs, needs=frozenset(ids)))
            return node.id
        product = work.experiment.keys.products[name]
        node = Node(work.stage(name), "arrays", name, work.cell)
        return self._add(node, work, product.needs, product.wants)
