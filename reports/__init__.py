"""The report of a run: tables, figures and pages, made from what lies in the run folder.

Nothing is computed again here, and nothing here needs the plug-ins or torch, so a run of years ago
can still be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["build", "terminal_table"]


def build(
    folders: Path | Sequence[Path],
    out: Path | None = None,
    *,
    images: bool = True,
    hash_ids: bool = False,
) -> Path:
    """Write ``tables/``, ``figures/``, ``report.md`` and ``report.html`` of finished runs.

    Parameters
    ----------
    folders : Path or sequence of Path
        The run folder, or several of the same data, split, reference site, preset and protocol,
        whose rows are put into one report.
    out : Path, optional
        Where to write; by default the run folder itself. Several runs need one of their own. What
        an earlier report left there is replaced.
    images : bool
        Whether images of single subjects may be shown.
    hash_ids : bool
        Whether made-up names stand for the participants' ids, others in every report.

    Returns
    -------
    Path
        Of ``report.html``.

    Raises
    ------
    HarmbenchError
        Where a folder holds no run, or one without scores, or the runs cannot be merged.
    """
    from reports.assemble import build_report

    several = [folders] if isinstance(folders, str | Path) else list(folders)
    return build_report(several, out, images=images, hash_ids=hash_ids)


def terminal_table(folder: Path) -> str:
    """Return the main results as text of at most 80 columns.

    Parameters
    ----------
    folder : Path
        The run folder.

    Returns
    -------
    str
        Methods down, at most six metrics and the rank across; then how many values are missing
        and why.

    Raises
    ------
    HarmbenchError
        Where the folder holds no run, or one without scores.
    """
    from reports.results import read_results
    from reports.terminal import terminal_text

    return terminal_text(read_results(Path(folder)))
