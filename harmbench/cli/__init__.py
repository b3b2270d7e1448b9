"""The command line. Heavy imports stand inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

EXIT_FAILED_CELL = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line: the entry point of ``harmbench``."""
    from harmbench.errors import HarmbenchError

    try:
        from harmbench.cli.app import app

        app()
    except (KeyboardInterrupt, SystemExit) as end:
        if _is_interrupt(end):
            print("stopped; the same command goes on where it was, or begins anew", file=sys.stderr)
        elif isinstance(end, SystemExit) and end.code != EXIT_INTERRUPTED:
            raise
        _leave()
    except HarmbenchError as error:
        if "--debug" in sys.argv:
            raise
        print(f"harmbench: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if said := _of_the_disk(error):
            print(f"harmbench: {said}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        text = f"harmbench: {type(error).__name__}: {error} (a bug; --debug shows where)"
        print(text, file=sys.stderr)
        sys.exit(EXIT_FAILED_CELL)


def _leave() -> NoReturn:
    """End after a Ctrl-C, without the interpreter's clearing up of a thousand modules.

    That takes one or two seconds of a processor, and many of a busy one.
    """
    # Before it, what must be done at any end: logs, and semaphores of ended processes.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_INTERRUPTED)


def _is_interrupt(end: BaseException) -> bool:
    """Whether it is a Ctrl-C that no command has answered; typer makes a silent exit of one."""
    cause = end.__context__.__cause__ if end.__context__ else None
    return isinstance(end, KeyboardInterrupt) or isinstance(cause, KeyboardInterrupt)


def _of_the_disk(error: Exception) -> str | None:
    """Return what to say of a disk that is full or may not be written to, None for other errors."""
    from harmbench.errors import DISK_CLOSED, DISK_FULL

    if not isinstance(error, OSError) or error.errno not in DISK_FULL | DISK_CLOSED:
        return None
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in DISK_FULL:
        return (
            f"no space is left on the disk{place}; free some, or give another folder (--out); what "
            "is finished is kept, and the same command goes on where it was"
        )
    return f"no right to write or read{place} ({error.strerror}); change it, or give another folder"
