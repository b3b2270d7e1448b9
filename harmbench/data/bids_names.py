"""What the rows of a cohort are called as files: BIDS entities made of a row's key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from harmbench.errors import HarmbenchError


class Name(NamedTuple):
    """The entities of one row; ``""`` for one that it does not have.

    Attributes
    ----------
    subject, session, chunk : str
        Such as ``sub-01``, ``ses-1`` and ``chunk-2``: letters, digits and the prefix, so no name
        leads out of the folder that it stands in.
    """

    subject: str
    session: str = ""
    chunk: str = ""

    @property
    def stem(self) -> str:
        """Begin of the file's name."""
        return "_".join(filter(None, self))

    @property
    def folder(self) -> Path:
        """Where the file stands."""
        return Path(self.subject, self.session, "anat")

    def file(self, rest: str) -> Path:
        """Return the path of a file with this description and suffix."""
        return self.folder / f"{self.stem}_{rest}"


def names_of(table: pd.DataFrame) -> list[Name]:
    """Return the BIDS names of rows.

    A scan without a session, of a participant with several scans, is given the session
    ``ses-<site>``. A slice after the first of its scan is a chunk.

    Parameters
    ----------
    table : DataFrame
        With ``participant_id``, ``site``, ``session_id`` and ``slice``; of each participant all
        rows, or the names may differ.

    Raises
    ------
    HarmbenchError
        Where two rows, or two participants, become the same name, or one has no letter or digit.
    """
    subject, session = table["participant_id"].astype(str), table["session_id"].astype(str)
    site = table["site"].astype(str)
    scans = pd.DataFrame({"who": subject, "site": site, "session": session}).drop_duplicates()
    several = subject.isin(scans["who"][scans["who"].duplicated()])
    session = session.where((session != "") | ~several, site)
    names = [
        Name(_label("sub-", who), _label("ses-", when) if when else "", _chunk(int(number)))
        for who, when, number in zip(subject, session, table["slice"], strict=True)
    ]
    if len({name.subject for name in names}) != subject.nunique():
        raise HarmbenchError("two participants become the same BIDS label (letters and digits)")
    seen: set[Name] = set()
    for name in names:
        if name in seen:
            raise HarmbenchError(
                f"{' '.join(filter(None, name))} would be written twice; each scan needs a session "
                "of its own, and each slice a number"
            )
        seen.add(name)
    return names


def _label(prefix: str, value: str) -> str:
    clean = re.sub("[^0-9A-Za-z]", "", value.removeprefix(prefix))
    if not clean:
        raise HarmbenchError(f"'{value}' has no letter or digit to make a BIDS label of")
    return prefix + clean


def _chunk(number: int) -> str:
    if number < 0:
        raise HarmbenchError(f"slice {number} is negative; number slices from 0")
    return f"chunk-{number}" if number else ""
