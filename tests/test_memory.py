import sys

import numpy as np
import pytest

from harmbench.memory import forget_peak, peak_mib

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")


@linux
def test_the_peak_is_that_of_the_work_since_it_was_forgotten() -> None:
    forget_peak()
    before = peak_mib()
    held = np.ones(64 * 2**20, dtype=np.uint8)
    during = peak_mib()
    del held
    after = peak_mib()
    forget_peak()
    anew = peak_mib()
    assert before is not None
    assert during is not None
    assert after is not None
    assert anew is not None
    assert 50 < during - before < 80
    assert after == pytest.approx(during, abs=5)  # the kernel counts in batches
    assert after - anew > 40


def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import harmbench.memory as memory

    monkeypatch.setattr(memory, "STATUS", memory.Path("/nowhere/status"))
    monkeypatch.setattr(memory, "CLEAR", memory.Path("/nowhere/clear"))
    forget_peak()
    assert peak_mib() is None
