"""The command line. Heavy imports stand inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import sys

EXIT_FAILED_CELL = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line: the entry point of ``harmbench``."""
    from harmbench.cli.app import app
    from harmbench.errors import HarmbenchError

    try:
        app()
    except HarmbenchError as error:
        if "--debug" in sys.argv:
            raise
        print(f"harmbench: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        text = f"harmbench: {type(error).__name__}: {error} (a bug; --debug shows where)"
        print(text, file=sys.stderr)
        sys.exit(EXIT_FAILED_CELL)
