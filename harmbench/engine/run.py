"""From a configuration to a table of scores: lay out the run, make its graph's nodes, collect.

Cohort -> split -> fit -> harmonize -> score; every step is kept in the run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from harmbench import registry
from harmbench.config import RunConfig, build_dataset
from harmbench.engine.collect import (
    collect_scores,
    collect_timing,
    marked_underfit,
    write_index,
)
from harmbench.engine.costs import expected
from harmbench.engine.execute import execute, workers
from harmbench.engine.graph import Graph
from harmbench.engine.layout import Layout, identity_of, prepare, store
from harmbench.engine.log import LogFile, informative
from harmbench.progress import Progress
from harmbench.results.folder import RunFolder, failures


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


def run(
    config: RunConfig,
    out: Path,
    progress: Progress | None = None,
    *,
    check: Callable[[Layout], None] | None = None,
    jobs: int | None = None,
    dask: str | None = None,
) -> RunSummary:
    """Do everything that a configuration asks for and that the folder does not hold yet.

    Parameters
    ----------
    config : RunConfig
        What to run.
    out : Path
        The run folder: new, empty, or holding an earlier run of the same data, which it extends.
    progress : Progress or None
        Where to show how far it is.
    check : callable or None
        Looks at the run as it is laid out, before anything is written, and raises what must stop
        it.
    jobs : int or None
        Worker processes to start; None to make all nodes in this one.
    dask : str or None
        Address of a dask scheduler whose workers make the nodes.

    Returns
    -------
    RunSummary

    Raises
    ------
    HarmbenchError
        For what the user can mend. A method or metric that fails is a row, not an exception.
    """
    progress = progress or Progress()
    registry.refresh()
    folder = RunFolder(out)
    dataset = build_dataset(config)
    folder.begin(identity_of(config, dataset))
    with (
        folder.lock(),
        folder.tidied(),
        _logging_to(out / "run.log"),
        workers(jobs, dask) as client,
    ):
        layout = prepare(folder, config, dataset, progress)
        if check is not None:
            check(layout)
        store(layout)
        for line in layout.announcements():
            progress.message(line)
        graph = layout.graph()
        records = graph.records(execute(graph, progress, client, open_graph))
        shown = len(layout.cells) * len(layout.experiment.metrics)
        scores = collect_scores(
            marked_underfit(records[:shown], dataset.probe_gate, records[shown:])
        )
        folder.write_scores(scores, collect_timing(layout.experiment, layout.cells))
        write_index(layout.experiment, layout.cells)
    return RunSummary(out, scores, failures(scores))


def open_graph(root: Path) -> Graph:
    """Return the graph of the run in a folder, as a worker needs it."""
    registry.refresh()
    folder = RunFolder(root)
    config = RunConfig.model_validate(folder.config["run"])
    return prepare(folder, config, build_dataset(config), Progress()).graph()


class Outline(NamedTuple):
    """What a run would do.

    Attributes
    ----------
    cells : DataFrame
        One row a cell: label, seed, whether it is fitted, the weights that it takes up, how
        many of its scores exist, whether it is shown.
    work : DataFrame
        One row for each kind of node that is missing, see `harmbench.engine.costs.expected`.
    """

    cells: pd.DataFrame
    work: pd.DataFrame


def outline(config: RunConfig, out: Path, progress: Progress | None = None) -> Outline:
    """Say what `run` would do, and what of it is already done, without writing anything."""
    registry.refresh()
    folder = RunFolder(out)
    dataset = build_dataset(config)
    folder.begin(identity_of(config, dataset))
    layout = prepare(folder, config, dataset, progress or Progress())
    graph = layout.graph()
    rows = []
    for cell in layout.cells:
        work = layout.experiment.work(cell)
        stages = [work.score_stage(name) for name in layout.experiment.metrics]
        rows.append(
            {
                "label": cell.spec.title,
                "seed": cell.seed,
                "fitted": "yes" if work.is_fitted else "no",
                "weights": "; ".join(
                    str(choice.saved)
                    for fit in layout.experiment.keys.fits(cell) or [cell]
                    if (choice := layout.choices[fit.id]).saved
                ),
                "scores": f"{sum(s.mark is not None for s in stages)} of {len(stages)}",
                "shown": "yes" if cell.shown else "no, an anchor",
            }
        )
    return Outline(pd.DataFrame(rows), expected(graph.missing(), folder.root))


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = LogFile(path, names=True)
    with informative() as log:
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()
