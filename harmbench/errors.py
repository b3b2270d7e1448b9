"""The one class of error that a user can mend, and the sentences that teach the mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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
