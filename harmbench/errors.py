"""The one class of error that a user can mend, and the sentences that teach the mend."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_REASON = 300
_TEMPORARY = re.compile(r"[^\s'\"]*\.unfinished-\w+/?")
"""Name of a file that is being written; it differs each time (`harmbench.files.atomic`)."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class HarmbenchError(Exception):
    """Something the user can mend: one clear sentence with the value, the choices and the fix.

    The command line prints the sentence without a traceback and ends with exit code 2.
    """


def unknown(kind: str, value: str, known: Iterable[str]) -> HarmbenchError:
    """Error for a name that is not known, with the known ones and the nearest.

    Parameters
    ----------
    kind : str
        What was being named, in the singular, such as ``"method"``.
    value : str
        The name as given.
    known : iterable of str
        All names that would have been accepted.

    Returns
    -------
    HarmbenchError
        To be raised by the caller.

    Examples
    --------
    >>> print(unknown("method", "combatt", ["combat", "identity"]))
    unknown method 'combatt'; did you mean 'combat'? Known: combat, identity
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    nearest = get_close_matches(value.lower(), by_lower, n=1, cutoff=0.6)
    hint = f"; did you mean '{by_lower[nearest[0]]}'?" if nearest else "."
    return HarmbenchError(f"unknown {kind} '{value}'{hint} Known: {', '.join(names) or 'none'}")


def reason(error: BaseException) -> str:
    """Return what a table says of an exception: one line, without the names of temporary files.

    Parameters
    ----------
    error : BaseException
        Whatever a method, a metric or the disk has raised.

    Returns
    -------
    str
        Such as ``"ValueError: no such site"``; at most about `LONGEST_REASON` characters.
    """
    text = " ".join(_TEMPORARY.sub("", str(error)).split())
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."
    kind = type(error).__name__
    if isinstance(error, HarmbenchError):
        return text
    if isinstance(error, SystemExit):
        return f"it asked the program to end, with code {error.code}"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "no space is left on the disk"
    if isinstance(error, OSError) and error.errno in DISK_CLOSED:
        return f"no right to write or read ({error.strerror})"
    # Of torch, without importing it; on the processor it raises a RuntimeError.
    short = isinstance(error, MemoryError) or kind == "OutOfMemoryError"
    if short or "can't allocate memory" in text:
        return f"out of memory ({text})" if text else "out of memory"
    return f"{kind}: {text}" if text else kind
