"""`harmbench phantom`: the embedded cohort as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harmbench import registry
from harmbench.data.bids_write import write_bids


def write_phantom(out: Path, name: str, knobs: dict[str, Any]) -> str:
    """Write a phantom as a BIDS folder; return a sentence that says what was written."""
    dataset = registry.load("dataset", name)(**knobs)
    cohort = dataset.load()
    write_bids(cohort, out, spacing_mm=dataset.spacing_mm, name=dataset.info.label)
    return f"{len(cohort)} slices of {len(cohort.sites)} sites written to {out}"
