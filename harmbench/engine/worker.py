"""One node made by another process of Dask: what is sent there, and its progress."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harmbench.engine.graph import Graph
from harmbench.engine.keys import digest
from harmbench.engine.log import informative
from harmbench.engine.nodes import Outcome
from harmbench.engine.nodes import make as make_node
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress, Task

SECONDS_TO_SEE = 10.0
"""How long a file that was written on one machine may take to show on another one."""
SECONDS_BETWEEN_EVENTS = 0.5

Outcomes = dict[str, Outcome]
Open = Callable[[Path], Graph]
"""Reads the graph of the run in a folder, all of it; a function of a module."""


def settings_id(root: Path) -> str:
    """Return the hash of a run's settings: driver and worker must see the same."""
    return digest((root / "config.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class RemoteCall:
    """Makes one node at a worker; it is sent there with names and outcomes, and no data.

    Attributes
    ----------
    root : Path
        The run folder.
    settings : str
        `settings_id` of it.
    driver : str
        Name of this call of `harmbench.engine.run.run`: a worker may outlive it.
    open_graph : callable
        How a worker reads the graph.
    known : mapping of str to Outcome
        Outcomes of earlier rounds.
    """

    root: Path
    settings: str
    driver: str
    open_graph: Open
    known: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """Of the events that say how far a node is."""
        return f"harmbench-{self.driver}"

    def __call__(self, one: str, before: Outcomes) -> Outcome:
        """Make the node with this id; the function that Dask calls."""
        from harmbench.training.process_state import STOP, threads

        with _ONE_AT_A_TIME:
            if _served.get("driver") != self.driver:
                _served["driver"] = self.driver
                STOP.clear()  # an earlier driver may have been stopped
            graph = _graph(self.root, self.settings, self.driver, self.open_graph)
            node = graph.nodes.get(one)
            if node is None:
                raise HarmbenchError(
                    f"a worker on {socket.gethostname()} has other code of harmbench or of a "
                    "plug-in than the driver; install the same there and start the workers again"
                )
            graph.experiment.progress = _Events(self.topic, node.cell.headline)
            with informative(), threads(graph.experiment.keys.config.threads):
                try:
                    return make_node(
                        graph.experiment.work(node.cell), node, {**self.known, **before}
                    )
                except KeyboardInterrupt:  # it has saved its state, and the driver does not wait
                    return Outcome("failed", "stopped")


_ONE_AT_A_TIME = threading.Lock()
"""A node limits the threads of its process; a worker of a cluster may have several threads."""
_served: dict[str, str] = {}
"""The driver whose node was made last."""


@lru_cache(maxsize=1)
def _graph(root: Path, settings: str, driver: str, open_graph: Open) -> Graph:
    """Return the graph of a run, read once for each driver: plug-ins may have been edited."""
    end = time.monotonic() + SECONDS_TO_SEE
    while not (root / "config.json").is_file() or settings_id(root) != settings:
        if time.monotonic() > end:
            raise HarmbenchError(
                f"a worker on {socket.gethostname()} does not see the folder {root} of this run; "
                "give an --out that all workers share"
            )
        time.sleep(0.1)
    return open_graph(root)


class _Events(Progress):
    """Sends the outermost step of a node to the driver, as events of Dask."""

    def __init__(self, topic: str, headline: str) -> None:
        self._topic, self._headline, self._depth = topic, headline, 0

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Open a step."""
        self._depth += 1
        outermost = self._depth == 1
        if outermost:
            self.send(kind="open", text=f"{self._headline}: {description}", total=total)
        try:
            yield _EventTask(self if outermost else None)
        finally:
            self._depth -= 1
            if outermost:
                self.send(kind="close")

    def send(self, **event: Any) -> None:
        """Send one event."""
        from distributed import get_worker

        worker = get_worker()
        worker.log_event(self._topic, {"worker": worker.address, **event})


class _EventTask:
    def __init__(self, events: _Events | None) -> None:
        self._events, self._amount, self._sent = events, 0.0, 0.0

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count, and say so now and then."""
        self._amount += amount
        now = time.monotonic()
        if self._events and now - self._sent > SECONDS_BETWEEN_EVENTS:
            self._events.send(kind="advance", amount=self._amount, note=note)
            self._amount, self._sent = 0.0, now


def ask_to_stop(driver: str) -> None:
    """Let a training that this process does for a driver save its state and end."""
    from harmbench.training.process_state import STOP

    if _served.get("driver") == driver:
        STOP.set()
