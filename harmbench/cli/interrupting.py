"""Ctrl-C that is heard even while one long native computation holds the main thread."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harmbench.cli import EXIT_INTERRUPTED

SECONDS_TO_END = 4.5
"""How long a training may take to save its state, and processes to end, before all is cut off."""


@contextmanager
def ended_soon(said: str) -> Iterator[None]:
    """End the process some seconds after a Ctrl-C, where it is then still at work.

    Python raises `KeyboardInterrupt` between two of its own instructions, so a matrix root or a
    convolution comes to its end first. Results are written atomically: nothing is cut in two.

    Parameters
    ----------
    said : str
        What to say then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, told = socket.socketpair()
    told.setblocking(False)
    over = threading.Event()
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(ours, over, said), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        told.close()
        watch.join()
        ours.close()


def _watch(ours: socket.socket, over: threading.Event, said: str) -> None:
    while number := ours.recv(1):
        if number[0] == signal.SIGINT and not over.wait(SECONDS_TO_END):
            print(said, file=sys.stderr, flush=True)
            os._exit(EXIT_INTERRUPTED)
