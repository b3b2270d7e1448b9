"""Where a report goes, what it is made from, and what is kept back."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_json
from reports.html import write_report
from reports.merge import folder_names, read_merged
from reports.privacy import keep_back
from reports.results import Results

MERGED = "merged.json"
SECRET_BYTES = 32


def build_report(
    folders: Sequence[Path], out: Path | None, *, images: bool = True, hash_ids: bool = False
) -> Path:
    """Do what `reports.build` promises."""
    roots = [Path(folder) for folder in folders]
    if not roots:
        raise HarmbenchError("nothing to report on: give the folder of a run")
    place = _place(roots, out)
    results = read_merged(roots)
    secret = secrets.token_bytes(SECRET_BYTES) if hash_ids else None
    shown = keep_back(results, images=images, secret=secret)
    page = write_report(place, shown)
    if place.resolve() not in [root.resolve() for root in roots]:
        write_json(place / MERGED, _origin(roots, shown))
    return page


def _place(roots: Sequence[Path], out: Path | None) -> Path:
    """Return the folder to write to; one that holds anything but a report is refused."""
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


def _origin(roots: Sequence[Path], results: Results) -> dict[str, object]:
    return {
        "sources": folder_names(roots),
        "identity": results.config["identity"],
        "images": results.images_allowed,
        "ids": "made up" if results.ids else "as in the data",
    }
