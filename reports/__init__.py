"""The report of a run: tables, figures and pages, made from what lies in the run folder.

Nothing is computed again here, and nothing here needs the plug-ins or torch, so a run of years ago
can still be read.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["build", "terminal_table"]


def build(folder: Path) -> Path:
    """Write ``tables/``, ``figures/``, ``report.md`` and ``report.html`` of a finished run.

    Parameters
    ----------
    folder : Path
        The run folder. What an earlier report left there is replaced.

    Returns
    -------
    Path
        Of ``report.html``.

    Raises
    ------
    HarmbenchError
        Where the folder holds no run, or one without scores.
    """
    from reports.html import write_report

    return write_report(Path(folder))


def terminal_table(folder: Path) -> str:
    """Return the main results as text of at most 100 columns.

    Parameters
    ----------
    folder : Path
        The run folder.

    Returns
    -------
    str
        One block an axis: methods down, metrics across, targets and floors below; then the
        reasons of what was skipped or failed.

    Raises
    ------
    HarmbenchError
        Where the folder holds no run, or one without scores.
    """
    from reports.results import read_results
    from reports.terminal import terminal_text

    return terminal_text(read_results(Path(folder)))
