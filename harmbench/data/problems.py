"""Problems of a data set, collected so that all of them can be reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harmbench.errors import HarmbenchError

ScanName = tuple[str, str]
"""A participant and a session (``""`` if there is none)."""
MOST_SHOWN = 20
"""Largest number of problems in one error; `harmbench check` lists all."""


@dataclass(frozen=True)
class Problem:
    """One problem, its place, and the scan that it concerns.

    The scan can be left out instead; it is None if the data as a whole cannot be used.
    """

    place: str  # the file, relative to the folder of the data, and the row if there is one
    sentence: str  # what is wrong and how to correct it
    scan: ScanName | None = None

    def __str__(self) -> str:
        return printable(f"{self.place}: {self.sentence}")


def refuse(problems: Sequence[Problem], more: str = "") -> None:
    """Raise one HarmbenchError that lists all problems, if there are any.

    `more` is further information for the user, shown as the last line.
    """
    if not problems:
        return
    if len(problems) == 1:
        lines = [str(problems[0])]
    else:
        lines = [f"the data have {len(problems)} problems:"]
        lines += [f"- {problem}" for problem in problems[:MOST_SHOWN]]
    if len(problems) > MOST_SHOWN:
        lines.append(f"... and {len(problems) - MOST_SHOWN} more; `harmbench check` lists all")
    if all(problem.scan is not None for problem in problems):
        count = len({problem.scan for problem in problems})
        lines.append(f"(--skip-bad goes on without {'this scan' if count == 1 else 'these scans'})")
    raise HarmbenchError("\n".join([*lines, more] if more else lines))


def shared(problems: list[Problem], scans: int) -> list[Problem]:
    """Return one problem instead of many if all of the scans have the same one."""
    # Sentences differ only by the names of files in them.
    kinds = {re.sub(r"\S*sub-\S+", "...", problem.sentence) for problem in problems}
    if scans < 2 or len(problems) < scans or len(kinds) > 1:
        return problems
    first = problems[0]
    return [Problem(first.place, f"all {scans} images have this problem: {first.sentence}")]


def printable(text: str) -> str:
    """Replace control characters, which may occur in names in files."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first few names, and the number of the others."""
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"


def full_name(scan: ScanName) -> str:
    """Return participant and session as one text."""
    return " ".join(filter(None, scan))
