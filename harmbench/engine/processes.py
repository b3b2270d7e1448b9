"""Several processes that train one model: how they start, show progress, and stop together.

Each runs the whole fit, on a GPU or a share of the processor's threads.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from harmbench.engine.relay import Relay, relayed
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress
from harmbench.training.group import Lost, from_outside

SECONDS_TO_BE_ENDED = 20.0
"""How long a process that lost another one waits to be ended, so that the other one's error is the
one told."""


@dataclass(frozen=True)
class Member:
    """What one of several processes is told.

    Attributes
    ----------
    first : bool
        Whether what it makes is kept.
    device : str
        Its own, such as ``"cuda:1"``.
    here : int
        How many of the processes share this machine.
    progress : Progress
        Shown to somebody in the first process only.
    """

    first: bool
    device: str
    here: int
    progress: Progress


Work = Callable[..., None]
"""``work(member, *args)``: a function of a module, since it is sent to other processes."""


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
        Where the first process's progress is shown.

    Raises
    ------
    HarmbenchError
        Of the process that failed first; where it was killed; where there are too few devices.
    RuntimeError
        With the traceback of the process that failed first by any other error.
    KeyboardInterrupt
        After the processes have stopped at the end of the same step.
    """
    _require_devices(device, devices if from_outside() == 1 else _local_size())
    if from_outside() > 1:
        stopped = _joined(device).launch(partial(_member, work=work, args=args, progress=progress))
    else:
        stopped = _started(work, args, device, devices, progress)
    if stopped:
        raise KeyboardInterrupt


def _require_devices(device: str, devices: int) -> None:
    kind, _, index = device.partition(":")
    if index:
        raise HarmbenchError(
            f"--device {device} names one device, but {devices} are to train together; "
            f"give --device {kind}"
        )
    if kind == "cuda" and torch.cuda.device_count() < devices:
        raise HarmbenchError(
            f"{devices} GPUs were asked for, but this machine shows {torch.cuda.device_count()}"
        )


def _local_size() -> int:
    return int(os.environ["LOCAL_WORLD_SIZE"])


class _Strategy(DDPStrategy):
    """Joins the processes without a word."""

    def __init__(self, device: str, **options: Any) -> None:
        # Flags travel between processors, gradients between GPUs.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        super().__init__(process_group_backend=backend, **options)

    def setup_environment(self) -> None:
        log = logging.getLogger("lightning_fabric")
        before = log.level
        log.setLevel(logging.WARNING)
        super().setup_environment()
        log.setLevel(before)


def _joined(device: str) -> Any:
    here = _local_size()
    return Fabric(
        accelerator=device,
        devices=here,
        num_nodes=from_outside() // here,
        strategy=_Strategy(device),
        plugins=[TorchElasticEnvironment()],
    )


def _started(work: Work, args: Any, device: str, devices: int, progress: Progress) -> bool:
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        strategy=_Strategy(device, start_method="spawn"),
        plugins=[LightningEnvironment()],
    )
    with _forwarded_interrupts() as interrupted, relayed(progress, context) as relay:
        # As one object, since Fabric searches arguments for modules and refuses frozen dataclasses.
        member = partial(_member, work=work, args=args, progress=relay, errors=errors)
        try:
            return bool(fabric.launch(member))
        except (ProcessExitedException, ProcessRaisedException) as error:
            if interrupted.is_set():
                return True
            if isinstance(error, ProcessExitedException):
                raise HarmbenchError(
                    f"of the {devices} processes that train together, {error}, perhaps for want "
                    "of memory; the same command goes on from the last saved state"
                ) from error
            known, text = (False, str(error)) if errors.empty() else errors.get()
            raise (HarmbenchError if known else RuntimeError)(text) from None


def _member(fabric: Any, work: Work, args: Any, progress: Any, errors: Any = None) -> bool:
    """Do the work of one process; True where it was interrupted."""
    if errors is not None and hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal's Ctrl-C comes from the process that started this one
    first = fabric.global_rank == 0
    shown = Relay(progress) if errors is not None else progress
    try:
        here = fabric.strategy.num_processes
        work(Member(first, str(fabric.device), here, shown if first else Progress()), *args)
    except KeyboardInterrupt:
        return True
    except Exception as error:
        if isinstance(error, Lost):
            time.sleep(SECONDS_TO_BE_ENDED)
        if errors is not None:
            known = isinstance(error, HarmbenchError)
            errors.put((known, str(error) if known else traceback.format_exc()))
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
