"""A fit that a training command asks for: in this process, or in several that train together."""

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
    """One fit, as it is sent to other processes: specifications and data, no objects of plug-ins.

    Attributes
    ----------
    config : RunConfig
        Of which the data's options, threads and device are read.
    spec : MethodSpec
        The method.
    cohort : Cohort
        The fit part, all columns.
    reference_site : str
        Where to harmonize to.
    seed : int
        The method's.
    checkpoints : Path
        Where a training may keep its state.
    """

    config: RunConfig
    spec: MethodSpec
    cohort: Cohort
    reference_site: str
    seed: int
    checkpoints: Path


def fitted(job: Job, dataset: Dataset, progress: Progress, log: logging.Logger) -> Harmonizer:
    """Return the method, fitted in this process.

    Parameters
    ----------
    job : Job
        What to fit.
    dataset : Dataset
        Where its cohort comes from.
    progress, log : Progress, logging.Logger
        What the method is given.
    """
    method = build_method(job.spec)
    told = settings(job.config, dataset, method.info.fit_sees, job.seed, progress, log)
    fit(method, job.cohort, job.reference_site, job.checkpoints, told)
    return method


def fit_together(job: Job, folder: Path, devices: int, progress: Progress) -> None:
    """Fit in several processes; see `harmbench.training.processes.launch`.

    Parameters
    ----------
    job : Job
        What to fit, and on which kind of device.
    folder : Path
        Where the first process saves the method.
    devices : int
        Processes to start on this machine, where ``torchrun`` has started none.
    progress : Progress
        Shown by the first process.
    """
    # Imported here because it costs seconds that one process need not spend.
    from harmbench.training.processes import launch

    launch(_share, job, folder, device=job.config.device, devices=devices, progress=progress)


def _share(fabric: Any, progress: Progress, job: Job, folder: Path) -> None:
    """Fit as one of several processes; the first one saves the method into the folder."""
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
