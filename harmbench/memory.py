"""The most memory that this process held during one piece of work, where the system tells."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def forget_peak() -> None:
    """Start anew to watch the largest resident memory (Linux; elsewhere nothing happens)."""
    try:
        CLEAR.write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return


def peak_mib() -> float | None:
    """Return the largest resident memory of the whole process since `forget_peak`, in MiB.

    Returns
    -------
    float or None
        None where the system does not tell. Memory of a GPU is not in it.
    """
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    held = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(held[0]) / 1024, 1) if held else None
