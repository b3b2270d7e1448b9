"""If a part of the report fails, it is left out with the reason, and the rest is written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from harmbench.errors import DISK_CLOSED, DISK_FULL, HarmbenchError, reason
from reports.drawing import NoFigure

Part = TypeVar("Part")
LOG = logging.getLogger("harmbench.report")


def attempt(title: str, make: Callable[[], Part], left_out: list[str]) -> Part | None:
    """Return a part of the report, or None if it cannot be made.

    Parameters
    ----------
    title : str
        Name of the part, for readers.
    make : callable
        Function without arguments that makes the part.
    left_out : list of str
        One sentence is appended if `make` fails.

    Raises
    ------
    HarmbenchError
        If the user can fix the error. Errors of a full or read-only disk are raised, too.
    """
    try:
        return make()
    except NoFigure as why:
        left_out.append(f"{title}: {why}.")
    except HarmbenchError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL | DISK_CLOSED:
            raise
        LOG.exception("%s is left out", title)
        left_out.append(f"{title}: left out, because of an error in harmbench ({reason(error)}).")
    return None
