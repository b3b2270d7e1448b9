"""BIDS names of the files of a cohort's rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from harmbench.errors import HarmbenchError


class Name(NamedTuple):
    """The entities of one row, such as ``sub-01``, ``ses-1`` and ``chunk-2``, or ``""``.

    Labels consist of letters and digits, so a name cannot lead out of its folder.
    """

    subject: str
    session: str = ""
    chunk: str = ""

    @property
    def stem(self) -> str:
        """The beginning of the file's name."""
        return "_".join(filter(None, self))

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return Path(self.subject, self.session, "anat")

    def file(self, rest: str) -> Path:
        """Return the path of a file with this description and suffix."""
        return self.folder / f"{self.stem}_{rest}"


def names_of(table: pd.DataFrame) -> list[Name]:
    """Return the BIDS names of rows.

    If a participant has several scans, a scan without a session gets the session ``ses-<site>``.
    Slices of a scan after the first are chunks.

    Parameters
    ----------
    table : DataFrame
        Columns ``participant_id``, ``site``, ``session_id`` and ``slice``. It must have all rows
        of each participant, because the names depend on them.

    Raises
    ------
    HarmbenchError
        If two rows, or two participants, get the same name, or a name has no letters or digits.
    """
    subject, session = table["participant_id"].astype(str), table["session_id"].astype(str)
    site = table["site"].astype(str)
    scans = pd.DataFrame({"who": subject, "site": site, "session": session}).drop_duplicates()
    several = subject.isin(scans["who"][scans["who"].duplicated()])
    session = session.where((session != "") | ~several, site)
    if (table["slice"] < 0).any():
        raise HarmbenchError(f"slice {table['slice'].min()} is negative; number slices from 0")
    names = [
        Name(
            _label("sub-", who),
            _label("ses-", when) if when else "",
            f"chunk-{int(number)}" if number else "",
        )
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
        raise HarmbenchError(f"'{value}' has no letter or digit for a BIDS label")
    return prefix + clean
