"""Read a data set as far as possible: what is usable, and all problems."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset, Note
from harmbench.data.covariates import Columns
from harmbench.data.nifti import ImageFacts
from harmbench.data.problems import Problem, ScanName, refuse
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress


class Survey(NamedTuple):
    """The content and the problems of a data set."""

    cohort: Cohort | None  # the usable scans; None if there are none
    facts: list[tuple[ScanName, ImageFacts]]  # of each image file that is used
    problems: list[Problem]
    notes: list[Note]


class FileDataset(Dataset):
    """Base class of data sets in files, which report all of their problems at once.

    Parameters
    ----------
    path : str or Path
    site_column, age_column, sex_column : str
        Names of these columns; ``""`` leaves age or sex out.
    sex_codes : str
        Meaning of numbers in the sex column, such as ``"1=M,2=F"``.
    age_unit : {"", "years", "months", "weeks", "days"}
        Unit of the age column; ``""`` for the unit in the column's name, else years.
    skip_bad : bool
        Whether to leave out scans with problems, with notes, instead of refusing them.
    """

    def __init__(
        self,
        path: str | Path,
        site_column: str = "site",
        age_column: str = "age",
        sex_column: str = "sex",
        sex_codes: str = "",
        age_unit: str = "",
        skip_bad: bool = False,
    ) -> None:
        self.path = Path(path)
        self.columns = Columns(site_column, age_column, sex_column, sex_codes, age_unit)
        self.skip_bad = skip_bad

    @abstractmethod
    def survey(self, progress: Progress | None = None) -> Survey:
        """Read everything that can be read, and collect all problems."""

    def load(self, progress: Progress | None = None) -> Cohort:
        """Return the usable scans, in the order of the file.

        With `skip_bad`, scans with problems are left out, and become notes.

        Raises
        ------
        HarmbenchError
            If there are problems; it lists all of them.
        """
        survey = self.survey(progress)
        whole = [problem for problem in survey.problems if problem.scan is None]
        refuse(whole if self.skip_bad else survey.problems)
        assert survey.cohort is not None, "an empty data set has a problem without a scan"
        bad = [problem for problem in survey.problems if problem.scan is not None]
        self.notes = [*survey.notes, *(Note(str(problem), "set_aside") for problem in bad)]
        return survey.cohort


def make_survey(dataset: Dataset, progress: Progress | None = None) -> Survey:
    """Return the survey of any data set; one that does not read files reports its first problem."""
    if isinstance(dataset, FileDataset):
        return dataset.survey(progress)
    try:
        cohort = dataset.load(progress)
    except HarmbenchError as error:
        return Survey(None, [], [Problem(dataset.info.label, str(error))], [])
    return Survey(cohort, [], [], list(dataset.notes))


def too_few_sites(place: str, table: pd.DataFrame, problems: Sequence[Problem]) -> list[Problem]:
    """Return a problem if the table has only one site."""
    names = sorted(set(table["site"]))
    if len(names) > 1:
        return []
    without = "without the scans named above, " if problems else ""
    return [
        Problem(
            place,
            f"{without}all scans come from one site ({', '.join(names) or 'none'}); harmonization "
            "needs two or more: check the site column",
        )
    ]
