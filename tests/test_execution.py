"""Nodes made by other processes: the same bytes, nothing twice, whoever dies or is stopped."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from distributed import LocalCluster
from typer.testing import CliRunner

import harmbench.data.toy
from harmbench.cli.app import app
from harmbench.config import RunConfig, build_dataset, resolve
from harmbench.engine import execute, worker
from harmbench.engine.execute import workers
from harmbench.engine.layout import prepare, store
from harmbench.engine.run import open_graph, run
from harmbench.engine.worker import RemoteCall, settings_id
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress, Task
from harmbench.results.folder import RunFolder
from harmbench.training.process_state import STOP

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
FOLDS = 5
"""The toy cohort is small enough to be cross-fitted, so every method is fitted twice."""
SECONDS_TO_NOTICE = 6.0
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

PLUGINS = """
import os
import signal
import time
from pathlib import Path

import numpy as np
from harmbench.data.toy import ToyDataset
from harmbench import Estimate, Harmonizer, MethodInfo, MetricResult
from harmbench.contracts.metric import metric

ROOM = Path(__file__).parent


def note(text):
    with open(ROOM / "done.log", "a") as log:
        log.write(text + "\\n")


class SlowTruth(ToyDataset):
    "Two who ask for the truth at the same time both have the time to."

    def __init__(self, n=120):
        super().__init__(n)

    def truth(self, site, keys, clean=False, draw=0):
        if draw == 0:
            note(f"truth {len(keys)}")
            time.sleep(0.7)
        return super().truth(site, keys, clean, draw)


class Counted(Harmonizer):
    @property
    def info(self):
        return MethodInfo(type(self).__name__, type(self).__name__, "does a thing")

    def fit(self, cohort, context):
        self.before()
        note(f"fit {type(self).__name__} {len(cohort)} {cohort.images.sum():.6f}")
        return self

    def before(self):
        pass

    def harmonize(self, cohort, target=None, *, context):
        return np.array(cohort.images)

    def save(self, folder):
        pass

    @classmethod
    def load(cls, folder):
        return cls()


class Dies(Counted):
    def before(self):
        if not (ROOM / "died").exists():
            (ROOM / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class DiesAgain(Counted):
    def fit(self, cohort, context):
        doomed, fold = ROOM / "doomed", str(cohort.images.sum())
        if not doomed.exists():
            doomed.write_text(fold)
        if doomed.read_text() == fold:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(cohort, context)


class Steps(Counted):
    def fit(self, cohort, context):
        with context.progress.task("slow step", 3) as task:
            with context.progress.task("inner", 1):
                task.advance(3)
        return self


class Beats(Counted):
    def before(self):
        while not (ROOM / "go").exists():
            (ROOM / "beat").write_text(str(time.monotonic()))
            time.sleep(0.05)


@metric(label="Mean", axis="quality", level="five", direction="higher", needs=("harmonized.test",))
def mean(inputs, rng):
    '''Mean intensity.'''
    images = inputs.cohort("harmonized.test").images
    note(f"mean {len(images)} {images.sum():.6f} {images.std():.6f}")
    return MetricResult(Estimate(float(images.mean()), n=len(images)))
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGINS)
    return tmp_path


def config(room: Path, *methods: str, **settings: Any) -> RunConfig:
    names = [f"{room / 'mine.py'}:{name}" for name in methods]
    metrics = ["distance_pcc", "truth_mae", f"{room / 'mine.py'}:mean"]
    given = {"data": TOY, "methods": names, "metrics": metrics, "threads": 1, **settings}
    return resolve(**given)


def done(room: Path) -> Counter[str]:
    log = room / "done.log"
    return Counter(log.read_text().splitlines() if log.exists() else [])


def fits(room: Path) -> Counter[str]:
    return Counter(line.split()[1] for line in done(room).elements() if line.startswith("fit"))


def made_in_logs(out: Path) -> Counter[tuple[str, str]]:
    """Count how often each stage was begun, by its place: what cells share, by its fold alone."""
    shared = {path.name.rpartition("-")[0] for path in (out / "raw").glob("*.json")}
    assert shared, "nothing is shared: the test says nothing"
    made = []
    for log in (out / "cells").rglob("log.txt"):
        for stage in re.findall(r"INFO (\S+): started", log.read_text()):
            made.append((log.parent.name if stage in shared else str(log.parent), stage))
    return Counter(made)


def test_two_processes_come_to_the_same_bytes_and_do_nothing_twice(room: Path) -> None:
    command = config(room, "Counted", data=f"{room / 'mine.py'}:SlowTruth")
    run(command, room / "here")
    here = done(room)
    (room / "done.log").unlink()
    run(command, room / "there", jobs=2)
    for name in ("scores.csv", "cells.json", "methods.json", "data/images.npy"):
        assert (room / "here" / name).read_bytes() == (room / "there" / name).read_bytes(), name
    assert done(room) == here
    made = made_in_logs(room / "there")
    assert made == Counter(list(made)), "made twice"


@posix
@pytest.mark.faults
def test_what_a_process_dies_of_is_tried_again_alone_and_the_rest_is_done_once(room: Path) -> None:
    methods = ("Dies", "DiesAgain", "Counted")
    summary = run(config(room, *methods, controls=["none"]), room / "out", jobs=1)
    status = summary.scores.groupby("label")["status"].agg(set)
    assert status.to_dict() == {"Dies": {"ok"}, "DiesAgain": {"failed"}, "Counted": {"ok"}}
    assert len(summary.failed) == 1
    assert "fit: its process died twice" in summary.failed[0]
    assert fits(room) == {"Dies": FOLDS, "DiesAgain": FOLDS - 1, "Counted": FOLDS}


@posix
def test_no_worker_outlives_its_driver_and_ctrl_c_ends_all(room: Path) -> None:
    command = [
        *(sys.executable, "-m", "harmbench", "run", "--data", TOY, "--jobs", "1"),
        *("--methods", f"{room / 'mine.py'}:Counted", f"{room / 'mine.py'}:Beats"),
        *("--metrics", "distance_pcc", "--controls", "none", "--out", str(room / "out")),
    ]
    driver = start(command, room)
    driver.kill()
    driver.wait()
    assert_silent(room)

    driver = start(command, room)
    begin = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    told = driver.communicate(timeout=30)[1]
    assert time.monotonic() - begin < 5
    assert driver.returncode == 130
    assert "the same command goes on where it was" in told
    assert "Traceback" not in told
    assert_silent(room)

    (room / "go").touch()
    assert fits(room) == {"Counted": FOLDS}
    run(config(room, "Counted", "Beats", metrics=["distance_pcc"]), room / "out")
    assert fits(room) == {"Counted": FOLDS, "Beats": FOLDS}


def start(command: list[str], room: Path) -> subprocess.Popen[str]:
    """Start a driver in a session of its own, as a terminal does, and wait for its worker."""
    (room / "beat").unlink(missing_ok=True)
    driver = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (room / "beat").exists():
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.1)
    return driver


def assert_silent(room: Path) -> None:
    end = time.monotonic() + SECONDS_TO_NOTICE
    while time.monotonic() < end:
        before = (room / "beat").read_text()
        time.sleep(0.5)
        if (room / "beat").read_text() == before:
            return
    pytest.fail("a worker is still at work")


def test_a_cluster_does_all_of_it_once_though_a_worker_is_killed(room: Path) -> None:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        summary = run(
            config(room, "Counted", "Dies"), room / "there", dask=cluster.scheduler_address
        )
    assert (room / "died").exists()
    assert not summary.failed
    assert set(summary.scores["status"]) == {"ok"}
    assert fits(room) == {"Counted": FOLDS, "Dies": FOLDS}
    alone = run(config(room, "Counted", "Dies"), room / "here").scores
    pd.testing.assert_frame_equal(summary.scores, alone)
    made = made_in_logs(room / "there")
    twice = {place: stage for (place, stage), n in made.items() if n > 1}
    assert set(twice.values()) <= {"fit"}, "only the fit that killed its worker began twice"


def test_jobs_or_a_cluster_not_both() -> None:
    with pytest.raises(HarmbenchError, match="give one of them"), workers(2, "tcp://x:1"):
        pass


def test_a_scheduler_that_is_not_there_is_said_to_be_so(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "SECONDS_TO_CONNECT", 0.3)
    with pytest.raises(HarmbenchError, match="no scheduler answers there"):
        run(config(room), room / "out", dask="tcp://127.0.0.1:9")
    assert not (room / "out").exists()


def test_jobs_without_threads_have_one_thread_each(room: Path) -> None:
    command = ["run", "--data", TOY, "--methods", "combat", "--dry-run"]
    one, more = ([*command, "--jobs", "2"], [*command, "--jobs", "2", "--threads", "3"])
    assert "threads 1\n" in CliRunner().invoke(app, one).output
    assert "threads 3\n" in CliRunner().invoke(app, more).output


class Recorded(Progress):
    """Keeps the descriptions of all tasks."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        self.said.append(f"{description} ({total:g})")
        with super().task(description, total) as task:
            yield task


def test_each_worker_is_shown_with_its_step(room: Path) -> None:
    progress = Recorded()
    asked = config(room, "Steps", controls=["none"], metrics=["distance_pcc"])
    run(asked, room / "out", progress, jobs=1)
    assert progress.said[0].startswith("all steps")
    assert "Steps, seed 0, fit 1: slow step (3)" in progress.said
    assert not any("inner" in text for text in progress.said), "only the outermost is shown"


@pytest.fixture
def stored(room: Path) -> Path:
    """Return the folder of a run whose nodes are all missing."""
    asked, folder = config(room, "Counted"), RunFolder(room / "out")
    store(prepare(folder, asked, build_dataset(asked), Progress()))
    return folder.root


def test_what_is_sent_to_a_worker_holds_no_data(stored: Path) -> None:
    call = RemoteCall(stored, settings_id(stored), "driver", open_graph)
    assert len(pickle.dumps(call)) < 1_000


def test_a_worker_with_other_code_says_so_and_does_nothing(stored: Path) -> None:
    node = next(iter(open_graph(stored).nodes))
    call = RemoteCall(stored, settings_id(stored), "driver", open_graph)
    with pytest.raises(HarmbenchError, match="has other code"):
        call(node[:-1] + ("0" if node[-1] != "0" else "1"), {})
    assert not (stored / "cells").exists()


def test_a_worker_that_does_not_see_the_folder_says_so(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SECONDS_TO_SEE", 0.0)
    with pytest.raises(HarmbenchError, match="does not see the folder"):
        RemoteCall(stored, "of another run", "driver", open_graph)("", {})
    with pytest.raises(HarmbenchError, match="does not see the folder"):
        RemoteCall(stored / "elsewhere", settings_id(stored), "driver", open_graph)("", {})


def test_a_worker_that_outlives_a_driver_reads_edited_plugins_and_forgets_its_stop(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker._Events, "send", lambda self, **event: None)

    def made(driver: str) -> str:
        node = next(n for n in open_graph(stored).nodes.values() if n.cell.spec.title == "Counted")
        assert node.kind == "fit"
        return RemoteCall(stored, settings_id(stored), driver, open_graph)(node.id, {}).status

    assert made("first") == "done"
    worker.ask_to_stop("of somebody else")
    assert not STOP.is_set()
    worker.ask_to_stop("first")
    assert STOP.is_set()
    file = stored.parent / "mine.py"
    file.write_text(file.read_text().replace("self.before()", "self.before() or None"))
    assert made("second") == "done"
    assert not STOP.is_set()
