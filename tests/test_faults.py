"""Runs that are killed, stopped or started twice: what is finished stays, and the table is one."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import harmbench.data.toy
from harmbench.config import resolve
from harmbench.engine.run import run
from harmbench.errors import HarmbenchError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, /proc and fork servers")

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
SMALL = {"data": TOY, "methods": ["combat"], "metrics": ["distance_pcc", "truth_mae"], "threads": 1}
PROBED = {
    **SMALL,
    "metrics": [*SMALL["metrics"], "site_bacc"],
    "data_options": {"n": 480},
    "probe": {"images": 100},
}
SMOKE = {
    **SMALL,
    "data": "phantom",
    "preset": "smoke",
    "metrics": [*SMALL["metrics"], "truth_ssim", "icc", "site_bacc"],
    "probe": {"images": 200},
}
SECONDS_TO_NOTICE = 6.0
SECONDS_AT_MOST = 300
WAYS = ("half written", "written", "in place")
"""How far a file is when its process is killed."""

WARM = multiprocessing.get_context("forkserver")
"""Its processes begin with everything imported, so that a run's moments are those of its work."""
WARM.set_forkserver_preload(
    [
        *(
            "harmbench.cli.run",
            "harmbench.training.loop",
            "harmbench.protocol.probes.network",
            "filelock",
        ),
        *(
            "harmbench.protocol.truth.errors",
            "harmbench.protocol.individuals.distances",
            "baselines.controls",
        ),
        *("baselines.combat", "neuroHarmonize", "lightning_fabric", "torch._dynamo"),
    ]
)


@contextmanager
def driver(
    settings: dict[str, Any], out: Path, jobs: int | None = None, deadly: tuple[int, str] = (0, "")
) -> Iterator[BaseProcess]:
    """Start a run in a session of its own; it is gone after the block."""
    process = WARM.Process(target=drive, args=(settings, out, jobs, deadly))
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join(SECONDS_AT_MOST)


def drive(settings: dict[str, Any], out: Path, jobs: int | None, deadly: tuple[int, str]) -> None:
    """Do what `harmbench run` does, with the report where data are a phantom's."""
    import reports
    from harmbench.cli.run import run_and_report

    os.setsid()
    # What a shell starts in the background ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = os.open(out.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    if deadly[0]:
        die_at_write(*deadly)
    if settings["data"] == TOY:
        reports.build = reports.terminal_table = lambda folder: ""  # it costs seconds
    sys.exit(run_and_report(dict(settings), None, out, quiet=True, jobs=jobs))


def die_at_write(number: int, way: str) -> None:
    """Let this process be killed while it puts its `number`-th file or folder into place."""
    left = iter(range(number - 1, -1, -1))

    def deadly(move: Callable[..., Any]) -> Callable[..., Any]:
        def moved(source: Path, target: Path) -> Any:
            last = next(left) == 0
            if last and way == "half written" and source.is_file():
                os.truncate(source, source.stat().st_size // 2)
            if not last or way == "in place":
                done = move(source, target)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return moved

    for name in ("replace", "rename"):
        setattr(Path, name, deadly(getattr(Path, name)))


def finish(settings: dict[str, Any], out: Path) -> float:
    """Let a run come to its end; return the seconds of its work."""
    with driver(settings, out) as process:
        await_begin(process, out)
        begin = time.monotonic()
        process.join(SECONDS_AT_MOST)
    assert process.exitcode == 0, out.with_suffix(".said").read_text()
    return time.monotonic() - begin


def await_begin(process: BaseProcess, out: Path) -> None:
    while not out.with_suffix(".said").exists() and process.is_alive():
        time.sleep(0.01)


def finished(out: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of every file of every finished stage, by its place."""
    found = {}
    for top in ("cells", "raw"):
        for mark in (out / top).rglob("[!.]*.json"):
            if "key" in json.loads(mark.read_text()):
                stem = mark.name.removesuffix(".json")
                payload = [p for p in mark.parent.rglob("*") if stem in str(p) and p.is_file()]
                found |= {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in payload}
    return found


def begun_again(out: Path) -> int:
    """Return how many stages were begun a second time, as the logs tell."""
    begun = Counter(
        (log.parent, stage)
        for log in out.rglob("log.txt")
        for stage in re.findall(r"INFO (\S+): started", log.read_text())
    )
    assert begun
    return begun.total() - len(begun)


def assert_kept(before: dict[str, tuple[int, bytes]], out: Path, told: str) -> None:
    after = finished(out)
    changed = [place for place, content in before.items() if after.get(place) != content]
    assert not changed, f"{told}: made again: {changed}"


def assert_tidy(out: Path) -> None:
    litter = [p for p in out.rglob(".*") if p.name not in (".lock",)]
    assert not litter


class Undisturbed(NamedTuple):
    """The scores of a run that nothing came in the way of, and the seconds of its work."""

    scores: bytes
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[dict[str, Any]], Undisturbed]:
    """Return what comes of settings, made once for each."""
    made: dict[str, Undisturbed] = {}

    def table(settings: dict[str, Any]) -> Undisturbed:
        name = str(settings)
        if name not in made:
            out = tmp_path_factory.mktemp("undisturbed") / "out"
            seconds = finish(settings, out)
            made[name] = Undisturbed((out / "scores.csv").read_bytes(), seconds)
        return made[name]

    return table


# -- kill -9 ------------------------------------------------------------------------------------


def chain(settings: dict[str, Any], out: Path, moments: Iterator[float], kills: int) -> int:
    """Kill and resume a run at these moments of its work, then let it end; return the kills."""
    struck, told = 0, []
    while struck < kills:
        before, moment = finished(out), next(moments)
        out.with_suffix(".said").unlink(missing_ok=True)
        with driver(settings, out) as process:
            await_begin(process, out)
            process.join(moment)
            struck += process.is_alive()
            told.append(f"{moment:.3f} s")
        assert_kept(before, out, f"killed after {told}")
        if process.exitcode == 0:
            break
    before = finished(out)
    finish(settings, out)
    assert_kept(before, out, f"killed after {told}")
    assert begun_again(out) <= struck, f"more than the stage in progress was lost; {told}"
    assert_tidy(out)
    return struck


def test_a_run_killed_at_three_random_moments_loses_nothing(
    tmp_path: Path, undisturbed: Any
) -> None:
    expected, seconds = undisturbed(PROBED)
    rng = np.random.default_rng(2028)
    moments = iter(lambda: rng.uniform(0, seconds / 3), None)
    assert chain(PROBED, tmp_path / "out", moments, kills=3), "no moment struck"
    assert (tmp_path / "out/scores.csv").read_bytes() == expected


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_a_smoke_run_killed_at_random_moments_loses_nothing(
    tmp_path: Path, undisturbed: Any, seed: int
) -> None:
    """Five runs, each killed four times and more: 20 moments."""
    expected, seconds = undisturbed(SMOKE)
    rng = np.random.default_rng([2029, seed])
    moments = iter(lambda: rng.uniform(0, seconds / 3), None)
    struck = 0
    while struck < 4:
        out = tmp_path / f"out-{struck}"
        struck += chain(SMOKE, out, moments, kills=4 - struck)
        assert (out / "scores.csv").read_bytes() == expected


def killed_while_writing(out: Path, writes: Iterator[tuple[int, str]]) -> None:
    """Kill and resume a run at these files of each attempt, until they or the run are over."""
    told = []
    for number, way in writes:
        before = finished(out)
        told.append(f"write {number} {way}")
        with driver(SMALL, out, deadly=(number, way)) as process:
            process.join(SECONDS_AT_MOST)
        assert_kept(before, out, f"killed at {told}")
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, out.with_suffix(".said").read_text()
    finish(SMALL, out)
    assert begun_again(out) <= len(told), f"more than the stage in progress was lost; {told}"
    assert_tidy(out)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_while_it_writes_goes_on(tmp_path: Path, undisturbed: Any, way: str) -> None:
    out = tmp_path / "out"
    # Settings first, then data, then a mark or a payload somewhere.
    later = np.random.default_rng(WAYS.index(way)).integers(9, 40)
    killed_while_writing(out, iter([(1, way), (3, way), (int(later), way)]))
    assert (out / "scores.csv").read_bytes() == undisturbed(SMALL).scores


@pytest.mark.faults
@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_at_every_few_files_goes_on(
    tmp_path: Path, undisturbed: Any, way: str
) -> None:
    rng = np.random.default_rng([2030, WAYS.index(way)])
    # Two writes of every attempt are its settings and versions.
    writes = iter(lambda: (int(rng.integers(1, 9)), way), None)
    killed_while_writing(tmp_path / "out", writes)
    assert (tmp_path / "out/scores.csv").read_bytes() == undisturbed(SMALL).scores


def test_no_worker_outlives_a_driver_that_is_killed(tmp_path: Path, undisturbed: Any) -> None:
    expected, out = undisturbed(PROBED).scores, tmp_path / "out"
    with driver(PROBED, out, jobs=2) as process:
        await_true(lambda: any(out.glob("cells/**/log.txt")))
        session = process.pid
        assert len(alive(session)) >= 3, "a driver and two workers"
        time.sleep(np.random.default_rng(2031).uniform(0, 1))
        process.kill()
        process.join()
        await_true(lambda: not alive(session), SECONDS_TO_NOTICE)
    before = finished(out)
    finish(PROBED, out)
    assert_kept(before, out, "killed with --jobs 2")
    assert begun_again(out) <= 2
    assert_tidy(out)
    assert (out / "scores.csv").read_bytes() == expected


def alive(session: int | None) -> list[int]:
    """Return the processes of a session that are still at work."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone in the meantime
            continue
        if int(owner) == session and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def await_true(said: Callable[[], bool], seconds: float = SECONDS_AT_MOST) -> None:
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


# -- the same bytes ------------------------------------------------------------------------------


def rows(out: Path) -> list[bytes]:
    return (out / "scores.csv").read_bytes().splitlines()


def test_another_process_gives_the_same_bytes_and_what_is_added_changes_no_row(
    tmp_path: Path, undisturbed: Any
) -> None:
    out = tmp_path / "out"
    run(resolve(**PROBED), out)
    assert (out / "scores.csv").read_bytes() == undisturbed(PROBED).scores
    before = rows(out)
    more = {"methods": ["histogram"], "metrics": ["age_mae", "mmd"], "controls": ["blur", "oracle"]}
    run(resolve(**{**PROBED, **more}), out)
    after = rows(out)
    assert set(before) < set(after)
    assert [row for row in after if row in before] == before, "in another order"
    both = {**PROBED, **more, "methods": ["histogram", "combat"], "controls": []}
    both["metrics"] = [*more["metrics"], *PROBED["metrics"]]
    at_once = tmp_path / "at-once"
    run(resolve(**both), at_once)
    assert set(rows(at_once)) < set(after), "alone, together or one after the other"


# -- Ctrl-C, and two at once --------------------------------------------------------------------


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_a_run_soon_and_a_second_driver_is_refused(
    tmp_path: Path, undisturbed: Any, presses: int
) -> None:
    expected, out = undisturbed(SMALL).scores, tmp_path / "out"
    config = resolve(**SMALL)
    with driver(SMALL, out) as process:
        await_true(lambda: any(out.rglob("log.txt")))
        with pytest.raises(HarmbenchError, match="another run is working in"):
            run(config, out)
        begin = time.monotonic()
        for _ in range(presses):
            with suppress(ProcessLookupError):  # the first one may have ended it already
                os.kill(process.pid or 0, signal.SIGINT)
            time.sleep(0.05)
        process.join(SECONDS_AT_MOST)
        assert time.monotonic() - begin < 5
    said = out.with_suffix(".said").read_text()
    assert process.exitcode == 130, said
    assert "the same command goes on where it was" in said
    assert "Traceback" not in said
    finish(SMALL, out)
    assert (out / "scores.csv").read_bytes() == expected


def hold_the_main_thread(out: Path) -> None:
    import hashlib

    from harmbench.cli import interrupting

    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupting.SECONDS_TO_END = 0.3
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 2)
    with interrupting.ended_soon("go on"):
        out.with_suffix(".begun").touch()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, in one native call


def test_ctrl_c_is_heard_in_a_long_native_computation(tmp_path: Path) -> None:
    out = tmp_path / "said"
    process = WARM.Process(target=hold_the_main_thread, args=(out,))
    process.start()
    try:
        await_true(out.with_suffix(".begun").exists)
        time.sleep(0.1)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(5)
        assert process.exitcode == 130
        assert out.read_text() == "go on\n"
    finally:
        process.kill()
        process.join()
