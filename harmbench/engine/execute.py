"""The nodes of a run, made by Dask: in this process, in several of this machine, on a cluster.

Results travel through the run folder. Nodes get and return outcomes, which are small.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dask

from harmbench.engine.graph import Graph
from harmbench.engine.keys import digest
from harmbench.engine.nodes import Node, Outcome
from harmbench.engine.nodes import make as make_node
from harmbench.engine.worker import Open, Outcomes, RemoteCall, ask_to_stop, settings_id
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress, Task

if TYPE_CHECKING:
    from distributed import Client, Future

SECONDS_TO_CONNECT = 10
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_RESTART = 600.0
"""How long Dask may take to start a process in place of one that died."""
SECONDS_TO_SAVE = 3.0
"""How long trainings may take to save their state when a run is stopped."""

log = logging.getLogger("harmbench.execute")


def execute(graph: Graph, progress: Progress, client: Client | None, open_graph: Open) -> Outcomes:
    """Make all nodes of a graph that have no result yet.

    Parameters
    ----------
    graph : Graph
        What is asked for; the run folder holds its settings and data.
    progress : Progress
        Where to show how far it is.
    client : distributed.Client or None
        Whose workers make the nodes; None for this process.
    open_graph : callable
        How a worker reads the graph.

    Returns
    -------
    dict of str to Outcome
        By node.

    Raises
    ------
    HarmbenchError
        Where a worker does not see the run folder, or has other code.
    """
    nodes = {node.id: node for node in graph.missing()}
    with progress.task("all steps", len(nodes)) as task:
        if client is None:
            return _in_process(graph, nodes, task)
        root = graph.experiment.folder.root.absolute()
        with _Remote(client, root, open_graph, progress, task) as remote:
            return remote.make(nodes)


def _delayed(
    nodes: Mapping[str, Node], make: Callable[[str, Outcomes], Outcome], mark: str = ""
) -> dict[str, Any]:
    """Return the nodes as a Dask graph: each calls ``make(id, outcomes before it)``."""
    call = dask.delayed(make, pure=False, traverse=False)
    found: dict[str, Any] = {}
    for one, node in nodes.items():
        before = {i: found[i] for i in node.before if i in found}
        found[one] = call(one, before, dask_key_name=mark + one)
    return found


def _in_process(graph: Graph, nodes: Mapping[str, Node], task: Task) -> Outcomes:
    def make(one: str, before: Outcomes) -> Outcome:
        node = nodes[one]
        outcome = make_node(graph.experiment.work(node.cell), node, before)
        task.advance(1, note=f"{node.cell.spec.title}: {node.name}")
        return outcome

    made = dask.compute(*_delayed(nodes, make).values(), scheduler="sync", optimize_graph=False)
    return dict(zip(nodes, made, strict=True))


# -- workers ------------------------------------------------------------------------------------


@contextmanager
def workers(jobs: int | None, address: str | None) -> Iterator[Client | None]:
    """Start processes of this machine, or connect to a cluster; neither for None and None.

    Parameters
    ----------
    jobs : int or None
        Processes to start.
    address : str or None
        Of a scheduler whose workers see the run folder.

    Raises
    ------
    HarmbenchError
        Where both are given, the processes do not start, or no scheduler answers.
    """
    if jobs is not None and address is not None:
        raise HarmbenchError(f"--jobs {jobs} --dask {address}: give one of them")
    if jobs is None and address is None:
        yield None
        return
    from distributed import Client

    with ExitStack() as stack:
        place = address if jobs is None else stack.enter_context(_local_cluster(jobs))
        try:
            client = Client(place, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise HarmbenchError(
                f"--dask {address}: no scheduler answers there; give the address that "
                "`dask scheduler` prints, such as tcp://host:8786"
            ) from error
        with client:
            yield client


@contextmanager
def _local_cluster(jobs: int) -> Iterator[Any]:
    from distributed import LocalCluster

    settings = {
        # One death only makes a node suspect; it is tried again by itself.
        "distributed.scheduler.allowed-failures": 0,
        # Threads are limited by node, as in one process.
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.comm.timeouts.connect": "30s",
        # `_replace_lost` does it: after a time only, Dask would end slow starts as well.
        "distributed.deploy.lost-worker-timeout": "365d",
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        with _interrupts_blocked():
            try:
                cluster = LocalCluster(
                    n_workers=jobs,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",  # any free port
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
            except RuntimeError as error:
                raise HarmbenchError(
                    f"--jobs {jobs}: the processes end before they begin ({error}). In a Python "
                    'script, put the call under `if __name__ == "__main__":`, since every process '
                    "imports the script again"
                ) from error
        stack.enter_context(cluster)
        try:
            yield cluster
        except BaseException:
            _kill(cluster)
            raise


def _replace_lost(cluster: Any) -> None:
    """Start processes in place of those that Dask gives up, as they died while they started."""
    from distributed import Status

    over = (Status.failed, Status.closing, Status.closed)
    for name, nanny in list(cluster.workers.items()):
        if nanny.status in over:
            _kill_one(nanny)
            cluster.workers.pop(name, None)
    if len(cluster.workers) < len(cluster.worker_spec):
        cluster.scale(len(cluster.worker_spec))


def _kill(cluster: Any) -> None:
    """End the processes at once; an orderly end waits for what they are computing."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        _kill_one(nanny)


def _kill_one(nanny: Any) -> None:
    if nanny.pid:
        with suppress(ProcessLookupError):
            os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let processes and threads that are started inside the block never hear of a Ctrl-C.

    The driver alone answers it, and tells its workers.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its first start would unblock what is blocked here.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Remote:
    """Has nodes made by the workers of a client, and shows what each of them does."""

    def __init__(
        self, client: Client, root: Path, open_graph: Open, progress: Progress, task: Task
    ) -> None:
        self._client, self._progress, self._task = client, progress, task
        self._call = RemoteCall(root, settings_id(root), uuid4().hex, open_graph)
        self._rounds = 0
        self._shown: dict[str, tuple[ExitStack, Task]] = {}

    def __enter__(self) -> _Remote:
        self._client.subscribe_topic(self._call.topic, lambda event: self._show(event[1]))
        if not self._client.scheduler_info()["workers"]:
            self._progress.message("the scheduler has no workers yet; waiting for the first")
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.unsubscribe_topic(self._call.topic)
        for stack, _ in self._shown.values():
            stack.close()

    def make(self, nodes: Mapping[str, Node]) -> Outcomes:
        """Make all nodes; what a worker dies of is tried again by itself, then given up."""
        outcomes: Outcomes = {}
        while left := {one: node for one, node in nodes.items() if one not in outcomes}:
            suspects = self._round(left, outcomes)
            for one in suspects:
                node = nodes[one]
                log.warning("%s, %s: its process died; again, alone", node.cell.headline, node.name)
                if one in self._round({one: node}, outcomes):
                    reason = "its process died twice, perhaps for want of memory"
                    log.error("%s, %s: %s", node.cell.headline, node.name, reason)
                    outcomes[one] = Outcome("failed", f"{node.name}: {reason}")
                    self._task.advance(1)
        return outcomes

    def _round(self, nodes: Mapping[str, Node], outcomes: Outcomes) -> list[str]:
        """Add the outcomes of nodes; return those during which a worker has died."""
        from distributed import KilledWorker

        known = {i: outcomes[i] for n in nodes.values() for i in n.before if i in outcomes}
        call = replace(self._call, known=known)
        # Other names in every round: Dask forgets a name some time after the last use of it.
        self._rounds += 1
        graph = _delayed(nodes, call, f"{digest(str(self._call.root))[:8]}-{self._rounds}/")
        futures = self._client.compute(list(graph.values()), optimize_graph=False)
        of = dict(zip((future.key for future in futures), nodes, strict=True))
        suspects = []
        try:
            for future in self._completed(futures):
                if future.cancelled():
                    raise HarmbenchError(
                        "the connection to the scheduler was lost; the same command goes on where "
                        "it was"
                    )
                one = of[future.key]
                try:
                    outcomes[one] = future.result()
                except KilledWorker as error:  # of this node, or of one that it depends on
                    suspects += [one] if str(error.task) == future.key else []
                else:
                    self._task.advance(1, note=f"{nodes[one].cell.spec.title}: {nodes[one].name}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._stop()
            self._client.cancel(futures)
            raise
        return suspects

    def _completed(self, futures: Sequence[Future]) -> Iterator[Future]:
        """Yield futures as they complete."""
        pending, seen = set(futures), time.monotonic()
        while pending:
            done = {future for future in pending if future.status != "pending"}
            pending -= done
            yield from done
            if done:
                continue
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now, cluster = time.monotonic(), self._client.cluster  # None for a scheduler elsewhere
            if cluster is not None:
                _replace_lost(cluster)
            if cluster is None or cluster.scheduler.workers:
                seen = now
            elif now - seen > SECONDS_TO_RESTART:
                raise HarmbenchError(
                    "a process that died was not started again; the same command goes on where it "
                    "was"
                )

    def _stop(self) -> None:
        """Let trainings save their state, where that is soon done."""
        self._client.run(ask_to_stop, self._call.driver, on_error="ignore")
        end = time.monotonic() + SECONDS_TO_SAVE
        while any(self._client.processing().values()) and time.monotonic() < end:
            time.sleep(0.05)

    def _show(self, event: Mapping[str, Any]) -> None:
        """Show the step that a worker is at."""
        who = event["worker"]
        if event["kind"] == "open":
            stack = ExitStack()
            task = stack.enter_context(self._progress.task(event["text"], event["total"]))
            self._shown[who] = stack, task
        elif event["kind"] == "advance" and who in self._shown:
            self._shown[who][1].advance(event["amount"], note=event["note"])
        elif event["kind"] == "close" and who in self._shown:
            self._shown.pop(who)[0].close()
