"""A fit of ``harmbench train``: in this process, or in several processes that train together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harmbench.config import MethodSpec, RunConfig, build_dataset, build_method
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import Harmonizer
from harmbench.engine.fitting import fit, settings
from harmbench.engine.log import timed, work_log
from harmbench.progress import Progress


@dataclass(frozen=True)
class Job:
    """One fit, as it is sent to other processes: specifications and data, but no plug-in objects.

    The cohort is the fit part with all columns; `checkpoints` is the folder for the state of a
    training.
    """

    config: RunConfig
    spec: MethodSpec
    cohort: Cohort
    reference_site: str
    seed: int
    checkpoints: Path


def fitted(job: Job, dataset: Dataset, progress: Progress, log: logging.Logger) -> Harmonizer:
    """Return the method, fitted in this process on the cohort of this data set."""
    method = build_method(job.spec)
    context = settings(job.config, dataset, method.info.fit_sees, job.seed, progress, log)
    fit(method, job.cohort, job.reference_site, job.checkpoints, context)
    return method


def fit_together(job: Job, folder: Path, devices: int, progress: Progress) -> None:
    """Fit in several processes and save the method in a folder.

    The parameters `devices` and `progress` are those of `harmbench.training.processes.launch`.
    """
    # Imported here, because the import takes seconds.
    from harmbench.training.processes import launch

    launch(_fit_share, job, folder, device=job.config.device, devices=devices, progress=progress)


def _fit_share(fabric: Any, progress: Progress, job: Job, folder: Path) -> None:
    """Fit as one of several processes; the first one saves the method."""
    threads = max(1, job.config.threads // fabric.strategy.num_processes)
    config = job.config.model_copy(update={"device": str(fabric.device), "threads": threads})
    if fabric.is_global_zero:
        log = work_log(job.checkpoints, "harmbench.train.first")
    else:
        log = logging.getLogger("harmbench.train.helper")
        log.disabled = True
    with timed(log, "share of the fit", threads):
        method = fitted(replace(job, config=config), build_dataset(config), progress, log)
    if fabric.is_global_zero:
        method.save(folder)
