import subprocess
import sys
from pathlib import Path

import pytest

import harmbench.engine.memory as memory
from harmbench.engine.memory import PeakMemory


def _tell(monkeypatch: pytest.MonkeyPatch, folder: Path, *, peak: float, held: float) -> None:
    status = folder / "status"
    status.write_text(f"VmHWM:\t{int(peak * 1024)} kB\nVmRSS:\t{int(held * 1024)} kB\n")
    monkeypatch.setattr(memory, "STATUS", status)


@pytest.fixture
def no_clearing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "nowhere" / "clear")


ALONE = """
import numpy as np
from harmbench.engine.memory import PeakMemory
before = PeakMemory()
held = np.ones(64 * 2**20, dtype=np.uint8)
during = before.mib()
del held
print(during, before.mib(), PeakMemory().mib())
"""


def test_the_peak_is_that_of_the_work_since_the_watch_began() -> None:
    # In a process of its own: one that has done other work may keep memory that is freed.
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    if "None" in told.stdout:
        pytest.skip("this system does not let a process forget its peak")
    during, kept, after = map(float, told.stdout.split())
    assert kept == pytest.approx(during, abs=8)  # the kernel counts in batches
    assert 40 < during - after < 80


@pytest.mark.usefixtures("no_clearing")
def test_a_peak_of_earlier_work_is_not_told_as_this_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tell(monkeypatch, tmp_path, peak=1400, held=600)
    watch = PeakMemory()
    _tell(monkeypatch, tmp_path, peak=1400, held=900)
    assert watch.mib() is None
    _tell(monkeypatch, tmp_path, peak=1500, held=900)
    assert watch.mib() == 1500


@pytest.mark.usefixtures("no_clearing")
def test_work_that_begins_at_the_peak_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tell(monkeypatch, tmp_path, peak=1400, held=1399)
    assert PeakMemory().mib() == 1400


@pytest.mark.usefixtures("no_clearing")
def test_a_system_that_tells_nothing_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "nowhere" / "status")
    assert PeakMemory().mib() is None
