"""State of the whole process that is changed inside a block: random seed, threads, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

STOP = threading.Event()
"""Set by a worker process that should end, so that a training saves its state and stops."""


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Seed torch's global generator inside the block, then restore its state.

    Initial weights and dropout use this generator, since they accept no other one.
    """
    device = torch.device(device)
    if device.type == "cpu":
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            yield
    else:
        with torch.random.fork_rng([device.index or 0], device_type=device.type):
            torch.manual_seed(seed)
            yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_interrupt(react: Callable[[], None]) -> Iterator[None]:
    """Call a function for each Ctrl-C inside the block, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: react())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that no step is cut. The second one raises.

    In a thread other than the main one this is the event `STOP`.
    """
    main = threading.current_thread() is threading.main_thread()
    event = threading.Event() if main else STOP

    def note() -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    with on_interrupt(note):
        yield event
