"""All that can be said of a data set in one pass: what is usable, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import pandas as pd

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Note
from harmbench.data import participants
from harmbench.data.bids_images import ImageFacts
from harmbench.data.problems import Problem, ScanName, refuse
from harmbench.progress import Progress


class Survey(NamedTuple):
    """All that can be said of a data set in one pass.

    Attributes
    ----------
    cohort : Cohort or None
        The usable scans; None where there is none.
    facts : list of (ScanName, ImageFacts)
        What each image file holds that could be read and used.
    problems : list of Problem
        Everything that is wrong.
    notes : list of Note
        What was read, what was set aside, and what else is worth knowing.
    """

    cohort: Cohort | None
    facts: list[tuple[ScanName, ImageFacts]]
    problems: list[Problem]
    notes: list[Note]


@runtime_checkable
class Surveyed(Protocol):
    """A data set that tells all of its problems at once."""

    def survey(self, progress: Progress | None = None) -> Survey:
        """Read everything that can be read, and gather all that is wrong."""
        ...


def accepted(survey: Survey, skip_bad: bool) -> tuple[Cohort, list[Note]]:
    """Return the usable scans and all notes, where a run may use them.

    Parameters
    ----------
    survey : Survey
    skip_bad : bool
        Whether scans with problems are left out, with notes, instead of refused.

    Raises
    ------
    HarmbenchError
        With all problems that are in the way.
    """
    bad = [problem for problem in survey.problems if problem.scan is not None]
    refuse([p for p in survey.problems if p.scan is None] if skip_bad else survey.problems)
    assert survey.cohort is not None, "nothing usable is a problem of the whole"
    return survey.cohort, survey.notes + [Note(str(problem), "set_aside") for problem in bad]


def too_few_sites(place: str, table: pd.DataFrame, problems: Sequence[Problem]) -> list[Problem]:
    """Return a problem where the table has one site only."""
    sentence = participants.single_site(table["site"])
    without = "without the scans named above, " if problems else ""
    return [Problem(place, without + sentence)] if sentence else []
