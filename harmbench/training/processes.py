"""Several processes that train one model, started by Lightning Fabric or by ``torchrun``.

Each process runs the whole fit, on a GPU or with a share of the CPU threads.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from harmbench.errors import HarmbenchError
from harmbench.progress import Progress
from harmbench.training.group import torchrun_size
from harmbench.training.process_state import on_interrupt

SECONDS_TO_BE_ENDED = 5.0
"""How long a process with a RuntimeError waits. The cause may be that another process has failed;
the error of that process is then reported first and ends this one."""

Work = Callable[..., None]
"""``work(fabric, progress, *args)``: a function of a module, since other processes import it."""


def launch(work: Work, *args: Any, device: str, devices: int, progress: Progress) -> None:
    """Run a function in several processes that form a `Group`.

    Parameters
    ----------
    work : callable
        See `Work`.
    *args : object
        Picklable arguments.
    device : str
        Kind of device, ``"cpu"`` or ``"cuda"``.
    devices : int
        Number of processes to start here. The processes that ``torchrun`` has started are used
        instead, if there are any.
    progress : Progress
        Shown by the first process; it must be picklable.

    Raises
    ------
    HarmbenchError
        The error of the process that failed first, if a process was killed, or if there are too
        few devices.
    RuntimeError
        With the traceback of the process that failed first with any other error.
    KeyboardInterrupt
        After all processes have stopped after the same step.
    """
    outside = torchrun_size()
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if outside > 1 else devices
    kind, _, index = device.partition(":")
    if index:
        raise HarmbenchError(
            f"--device {device} names one device, but {here} are to train together; "
            f"give --device {kind}"
        )
    if kind == "cuda" and torch.cuda.device_count() < here:
        raise HarmbenchError(
            f"{here} GPUs were asked for, but this machine shows {torch.cuda.device_count()}"
        )
    # One object, because Fabric searches arguments for modules and refuses frozen dataclasses.
    member = partial(_run_member, work=work, args=args, progress=progress)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=outside // here if outside > 1 else 1,
        strategy=DDPStrategy(
            # Flags are exchanged between CPUs, gradients between GPUs.
            process_group_backend="cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            start_method="popen" if outside > 1 else "spawn",
        ),
        plugins=[TorchElasticEnvironment() if outside > 1 else LightningEnvironment()],
    )
    if fabric.launch(member) if outside > 1 else _start(fabric, member, here, progress):
        raise KeyboardInterrupt


def _start(fabric: Any, member: Any, devices: int, progress: Progress) -> bool:
    """Start the processes, forward Ctrl-C to them, and return whether they were interrupted."""
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    interrupted = threading.Event()
    others = set(multiprocessing.active_children())

    def forward() -> None:
        interrupted.set()
        for child in set(multiprocessing.active_children()) - others:
            if child.pid is not None:
                os.kill(child.pid, signal.SIGINT)

    with on_interrupt(forward), progress.paused():
        try:
            return bool(fabric.launch(partial(member, errors=errors)))
        except (ProcessExitedException, ProcessRaisedException) as error:
            if interrupted.is_set():
                return True
            if not errors.empty():
                raise HarmbenchError(errors.get()) from None
            if isinstance(error, ProcessExitedException):
                raise HarmbenchError(
                    f"of the {devices} processes that train together, {error}, perhaps for lack "
                    "of memory; the same command continues from the last saved state"
                ) from error
            raise RuntimeError(str(error)) from None


def _run_member(fabric: Any, work: Work, args: Any, progress: Progress, errors: Any = None) -> bool:
    """Run the work of one process and return whether it was interrupted."""
    shown = progress if fabric.is_global_zero else Progress()
    try:
        if errors is None:
            work(fabric, shown, *args)
        else:
            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            if hasattr(os, "setpgrp"):
                os.setpgrp()  # the process that started this one forwards a terminal's Ctrl-C
            with shown:
                work(fabric, shown, *args)
    except KeyboardInterrupt:
        return True
    except HarmbenchError as error:
        if errors is not None:
            errors.put(str(error))
        raise
    except RuntimeError:
        time.sleep(SECONDS_TO_BE_ENDED)
        raise
    return False
