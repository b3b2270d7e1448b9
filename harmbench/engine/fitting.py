"""What a method is told, the same in `harmbench run` and `harmbench train`, and may return."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench.config import RunConfig
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import FitContext, Harmonizer
from harmbench.data.splits import validation_keys
from harmbench.progress import Progress


def settings(
    config: RunConfig,
    dataset: Dataset,
    reads: frozenset[str],
    seed: int,
    progress: Progress,
    log: logging.Logger,
) -> dict[str, Any]:
    """Return the fields of `ApplyContext`; the truth only where the method declares it."""
    return {
        "seed": seed,
        "device": config.device,
        "threads": config.threads,
        "progress": progress,
        "log": log,
        "truth": dataset.truth if "truth" in reads else None,
    }


def fit(
    method: Harmonizer,
    cohort: Cohort,
    reference_site: str,
    checkpoints: Path,
    told: dict[str, Any],
) -> None:
    """Fit a method on the fit part, of which it sees the columns it declares.

    Parameters
    ----------
    method : Harmonizer
        Changed in place.
    cohort : Cohort
        The fit part, all columns.
    reference_site : str
        Where to harmonize to.
    checkpoints : Path
        Where a training may keep its state.
    told : dict
        What `settings` returned.
    """
    context = FitContext(
        **told,
        reference_site=reference_site,
        validation=validation_keys(cohort, told["seed"]),
        checkpoints=checkpoints,
    )
    method.fit(cohort.only(method.info.fit_sees - {"truth"}), context)


def wrong(images: NDArray[Any], shape: tuple[int, ...]) -> str | None:
    """Return why these cannot be the harmonized images of a cohort of that shape, or None.

    Real floating-point numbers of any width will do; whole numbers would be intensities of another
    scale, most likely.
    """
    if images.shape != shape:
        return f"returned images of shape {images.shape} for {shape}"
    if images.dtype.kind != "f":
        return f"returned images of type {images.dtype}; float32 is asked for"
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
        finite = np.isfinite(images.astype(np.float32, copy=False))
    bad = int((~finite).any(axis=tuple(range(1, images.ndim))).sum())
    return f"returned NaN or infinite values in {bad} of {len(images)}" if bad else None
