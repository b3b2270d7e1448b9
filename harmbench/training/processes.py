"""Several processes that train one model, started by Lightning Fabric or by ``torchrun``.

Each runs the whole fit, on a GPU or a share of the processor's threads.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from harmbench.errors import HarmbenchError
from harmbench.progress import Progress
from harmbench.training.group import from_outside

SECONDS_TO_BE_ENDED = 5.0
"""How long a process waits with a RuntimeError: its cause may be that another process is gone,
whose own error is then reported first and ends this one."""

Work = Callable[..., None]
"""``work(fabric, progress, *args)``: a function of a module, since it is sent to processes."""


def launch(work: Work, *args: Any, device: str, devices: int, progress: Progress) -> None:
    """Run a function in several processes that have joined a `Group`.

    Parameters
    ----------
    work : callable
        See `Work`.
    *args : object
        What can be sent to another process.
    device : str
        Kind of device: ``"cpu"`` or ``"cuda"``.
    devices : int
        How many processes to start here; where ``torchrun`` has started some, they are used.
    progress : Progress
        Shown by the first process; it must be picklable.

    Raises
    ------
    HarmbenchError
        Of the process that failed first; where it was killed; where there are too few devices.
    RuntimeError
        With the traceback of the process that failed first by any other error.
    KeyboardInterrupt
        After the processes have stopped at the end of the same step.
    """
    outside = from_outside()
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
    # As one object, since Fabric searches arguments for modules and refuses frozen dataclasses.
    member = partial(_member, work=work, args=args, progress=progress)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=outside // here if outside > 1 else 1,
        strategy=DDPStrategy(
            # Flags travel between processors, gradients between GPUs.
            process_group_backend="cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            start_method="popen" if outside > 1 else "spawn",
        ),
        plugins=[TorchElasticEnvironment() if outside > 1 else LightningEnvironment()],
    )
    if fabric.launch(member) if outside > 1 else _started(fabric, member, here, progress):
        raise KeyboardInterrupt


def _started(fabric: Any, member: Any, devices: int, progress: Progress) -> bool:
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    with _forwarded_interrupts() as interrupted, progress.paused():
        try:
            return bool(fabric.launch(partial(member, errors=errors)))
        except (ProcessExitedException, ProcessRaisedException) as error:
            if interrupted.is_set():
                return True
            if not errors.empty():
                raise HarmbenchError(errors.get()) from None
            if isinstance(error, ProcessExitedException):
                raise HarmbenchError(
                    f"of the {devices} processes that train together, {error}, perhaps for want "
                    "of memory; the same command goes on from the last saved state"
                ) from error
            raise RuntimeError(str(error)) from None


def _member(fabric: Any, work: Work, args: Any, progress: Progress, errors: Any = None) -> bool:
    """Do the work of one process; True where it was interrupted."""
    shown = progress if fabric.is_global_zero else Progress()
    try:
        if errors is None:
            work(fabric, shown, *args)
        else:
            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            if hasattr(os, "setpgrp"):
                os.setpgrp()  # a terminal's Ctrl-C comes from the process that started this one
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


@contextmanager
def _forwarded_interrupts() -> Iterator[threading.Event]:
    """Hand Ctrl-C on to the processes started inside the block, and wait for them to end."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    others = set(multiprocessing.active_children())

    def forward(number: int, frame: Any) -> None:
        event.set()
        for child in set(multiprocessing.active_children()) - others:
            if child.pid is not None:
                os.kill(child.pid, signal.SIGINT)

    before = signal.signal(signal.SIGINT, forward)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
