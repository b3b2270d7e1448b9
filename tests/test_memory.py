from pathlib import Path

import numpy as np
import pytest

import harmbench.memory as memory
from harmbench.memory import PeakMemory


def _tell(monkeypatch: pytest.MonkeyPatch, folder: Path, *, peak: float, held: float) -> None:
    status = folder / "status"
    status.write_text(f"VmHWM:\t{int(peak * 1024)} kB\nVmRSS:\t{int(held * 1024)} kB\n")
    monkeypatch.setattr(memory, "STATUS", status)


@pytest.fixture
def no_clearing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "nowhere" / "clear")


def test_the_peak_is_that_of_the_work_since_the_watch_began() -> None:
    before = PeakMemory()
    held = np.ones(64 * 2**20, dtype=np.uint8)
    during = before.mib()
    del held
    kept = before.mib()
    after = PeakMemory().mib()
    if during is None or after is None:
        pytest.skip("this system does not let a process forget its peak")
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
