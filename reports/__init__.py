"""The report of a run: tables, figures and pages, made from the files in the run folder.

No metric is computed again, and neither the plug-ins nor torch are needed, so that old runs can
still be reported on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["build", "terminal_table"]

MERGED = "merged.json"


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
        The run folder, or several with the same data, split, reference site, preset and protocol,
        whose rows are put into one report.
    out : Path, optional
        Where to write; by default the run folder itself. Several runs need a separate folder. An
        earlier report in it is replaced.
    images : bool
        Whether images of single subjects may be shown.
    hash_ids : bool
        Whether the participants' ids are replaced by random names, which differ in every report.

    Returns
    -------
    Path
        Path of ``report.html``.

    Raises
    ------
    HarmbenchError
        If a folder holds no run, or one without scores, or the runs cannot be merged.
    """
    import secrets

    from harmbench.errors import HarmbenchError
    from harmbench.files.atomic import write_json
    from reports.html import write_report
    from reports.merge import folder_names, read_merged
    from reports.privacy import keep_back

    roots = [Path(f) for f in ([folders] if isinstance(folders, str | Path) else folders)]
    if not roots:
        raise HarmbenchError("nothing to report on: give the folder of a run")
    place = _place(roots, out)
    secret = secrets.token_bytes(32) if hash_ids else None
    shown = keep_back(read_merged(roots), images=images, secret=secret)
    page = write_report(place, shown)
    if place.resolve() not in [root.resolve() for root in roots]:
        origin = {
            "sources": folder_names(roots),
            "identity": shown.config["identity"],
            "images": shown.images_allowed,
            "ids": "made up" if shown.ids else "as in the data",
        }
        write_json(place / MERGED, origin)
    return page


def _place(roots: Sequence[Path], out: Path | None) -> Path:
    """Return the folder to write to; refuse one that holds anything but a report."""
    from harmbench.errors import HarmbenchError

    if out is None and len(roots) > 1:
        raise HarmbenchError(
            f"several runs need a folder for their report: add --out FOLDER to {len(roots)} folders"
        )
    place = roots[0] if out is None else Path(out)
    if len(roots) == 1 and place.resolve() == roots[0].resolve():
        return place
    if place.is_file():
        raise HarmbenchError(f"--out {place} is a file; give a folder")
    if place.is_dir() and any(place.iterdir()) and not (place / MERGED).is_file():
        kind = "a run" if (place / "config.json").is_file() else "files that are not a report's"
        raise HarmbenchError(f"--out {place} holds {kind}; give an empty or a new folder")
    return place


def terminal_table(folder: Path) -> str:
    """Return the main results as text of at most 80 columns.

    Parameters
    ----------
    folder : Path
        The run folder.

    Returns
    -------
    str
        A table with a row for each method and columns for at most six metrics and the rank, then
        the number of missing values and the reasons.

    Raises
    ------
    HarmbenchError
        If the folder holds no run, or one without scores.
    """
    from reports.results import read_results
    from reports.terminal import terminal_text

    return terminal_text(read_results(Path(folder)))
