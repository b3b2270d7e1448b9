"""The most memory that this process held during one piece of work, where the system tells."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
BATCH_MIB = 8.0  # the kernel counts the pages of each thread in batches


class PeakMemory:
    """The largest resident memory of the whole process from now on (Linux).

    The kernel keeps one peak per process, so a new watch ends the one before it. Some systems do
    not let the peak be forgotten; there it says something about this piece of work only once the
    work has gone beyond all that was before.
    """

    def __init__(self) -> None:
        with suppress(OSError):  # whether the peak went is read below: silence is no proof of it
            CLEAR.write_text(RESET_PEAK, encoding="ascii")
        self._stale = _read("VmHWM")
        held = _read("VmRSS")
        if self._stale is not None and held is not None and self._stale - held < BATCH_MIB:
            self._stale = 0.0

    def mib(self) -> float | None:
        """Return the peak so far, in MiB.

        Returns
        -------
        float or None
            None where the system does not tell. Memory of a GPU is not in it.
        """
        peak = _read("VmHWM")
        if peak is None or self._stale is None or peak <= self._stale:
            return None
        return round(peak, 1)


def _read(field: str) -> float | None:
    """Return one of the kernel's figures on this process, in MiB."""
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    held = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(held[0]) / 1024 if held else None
