"""What is wrong with a data set, piece by piece, so that all of it can be said at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harmbench.errors import HarmbenchError

ScanName = tuple[str, str]
"""A participant and a session (``""`` where there is none)."""
MOST_SHOWN = 20
"""Problems that one error lists; `harmbench check` lists all."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and what would have to be left out.

    Attributes
    ----------
    place : str
        The file, relative to the data's folder, and the row where there is one.
    sentence : str
        What is wrong and how it is mended.
    scan : tuple of (str, str) or None
        The participant and session that can be left out instead; None where the data as a whole
        cannot be used as they are.
    """

    place: str
    sentence: str
    scan: ScanName | None = None

    def __str__(self) -> str:
        return printable(f"{self.place}: {self.sentence}")


def refuse(problems: Sequence[Problem], more: str = "") -> None:
    """Raise one error that says all of these problems; nothing where there is none.

    Parameters
    ----------
    problems : sequence of Problem
    more : str
        What else the user should know, as a last line.

    Raises
    ------
    HarmbenchError
        In the words of `harmbench check`.
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
    """Return one problem instead of many where all scans have the same one.

    Parameters
    ----------
    problems : list of Problem
        Each of one scan.
    scans : int
        How many were looked at.
    """

    def kind(problem: Problem) -> str:
        # Names of files stand in the sentence; without them it is the same for all.
        return re.sub(r"\S*sub-\S+", "...", problem.sentence)

    if scans < 2 or len(problems) < scans or len({kind(problem) for problem in problems}) > 1:
        return problems
    first = problems[0]
    return [Problem(first.place, f"all {scans} images have this problem: {first.sentence}")]


def printable(text: str) -> str:
    """Return text without control characters, which names in files may hold."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first few names, and how many more there are."""
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"
