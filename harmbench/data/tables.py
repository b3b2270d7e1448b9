"""Features from one table, such as regional volumes: a row a scan, a numeric column a feature."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset, DatasetInfo, Note
from harmbench.data.covariates import Columns, clean, missing_notes, no_names
from harmbench.data.feature_columns import Table, read_columns
from harmbench.data.problems import Problem
from harmbench.data.spellings import identifiers
from harmbench.data.survey import Survey, accepted, too_few_sites
from harmbench.data.table_files import SECOND_HEADER, read_table, second_header
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

VERSION = 2
NAMES = ("participant_id", "session_id", "slice", "site", "age", "sex")


class TableDataset(Dataset):
    """A table of features: ``participant_id``, ``site``, ``age``, ``sex``, and numeric columns.

    Every other column of numbers is a feature, but for those that plainly tell the site; the data
    sheet names them. The other columns are kept as they are. A ``session_id`` tells scans of one
    participant apart; a column ``slice`` is left out, a table of features has none. Each feature is
    brought to mean 0 and standard deviation 1 over the whole table, whatever its unit, so that
    distances do not depend on the largest one; no label has a part in that.

    Parameters
    ----------
    path : str or Path
        A .tsv or .csv file with a header line.
    site_column, age_column, sex_column : str
        What these columns are called; ``""`` leaves age or sex out.
    sex_codes : str
        What numbers in the column of the sex stand for, such as ``"1=M,2=F"``.
    age_unit : {"", "years", "months", "weeks", "days"}
        Unit of the age column; ``""`` for what its name says, or else years.
    skip_bad : bool
        Whether rows with problems are left out, with notes, instead of refused.
    features : str
        Patterns of the columns that are features, such as ``"lh_*,rh_*"``; one that begins with
        ``!`` excludes columns.

    Raises
    ------
    HarmbenchError
        By `load` and `fingerprint`, naming the columns and the lines, all of them at once.
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
        features: str = "",
    ) -> None:
        self.path = Path(path)
        self.columns = Columns(site_column, age_column, sex_column, sex_codes, age_unit)
        self.skip_bad = skip_bad
        self.features = features

    @property
    def info(self) -> DatasetInfo:
        """Named after the file."""
        return DatasetInfo("table", label=self.path.stem, summary="A table of features of scans.")

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # a property that is computed once
        """Hash of the file's bytes and of all that decides how they are read."""
        self._require_file()
        content = hashlib.sha256(self.path.read_bytes()).hexdigest()
        said = (VERSION, asdict(self.columns), self.skip_bad, self.features, content)
        return hashlib.sha256(f"table {said}".encode()).hexdigest()

    def _require_file(self) -> None:
        if not os.path.isfile(self.path):
            raise HarmbenchError(f"there is no file {self.path}")

    def load(self, progress: Progress | None = None) -> Cohort:
        """Read the table; rows keep its order, features that of the columns."""
        cohort, self.notes = accepted(self.survey(progress), self.skip_bad)
        return cohort

    def survey(self, progress: Progress | None = None) -> Survey:
        """Read everything that can be read, and gather all that is wrong."""
        self._require_file()
        try:
            return self._survey()
        except HarmbenchError as error:
            # The place says the file's name already.
            said = re.sub(rf"^{re.escape(self.path.name)}(, )?", "", str(error))
            said = f"it{said}" if said.startswith(" ") else said
            return Survey(None, [], [Problem(self.path.name, said)], [])

    def _survey(self) -> Survey:
        text = read_table(self.path, self.columns.site)
        if reason := second_header(text):
            raise HarmbenchError(SECOND_HEADER.format(line=text.index[0], reason=reason))
        stated = {self.columns.site, self.columns.age, self.columns.sex, *NAMES}
        of_scans = [name for name in text if name in stated]
        others = text[[name for name in text if name not in stated]]
        named, notes = self._named(text)
        sources = [dict.fromkeys(of_scans, f"{self.path.name}, line {line}") for line in text.index]
        known = clean(named, sources, self.columns, (), self.path.name)
        table = known.table
        scans = list(zip(table["participant_id"], table["session_id"], strict=True))
        of_rows = Table(
            self.path.name, scans, table["site"].to_numpy(str), table["age"].to_numpy(float)
        )
        columns = read_columns(others, of_rows, self.features)
        problems = [*known.problems, *columns.problems, *self._repeated(table, text.index)]
        bad = {problem.scan for problem in problems}
        good = np.array([scan not in bad for scan in scans])
        good &= columns.features.notna().all(axis=1).to_numpy()
        keys = table[["participant_id", "session_id", "slice", "site", "age", "sex"]]
        kept = pd.concat([keys, columns.rest.reset_index(drop=True)], axis=1)[good]
        if self.columns.site in text:
            problems += too_few_sites(self.path.name, kept, problems)
        if "slice" in text:
            notes.append(Note("column slice: a table of features has no slices", "set_aside"))
        notes += [*known.notes, *columns.notes, *missing_notes(kept)]
        if columns.features.empty or not good.any() or kept["site"].isna().any():
            return Survey(None, [], problems, notes)
        images = standardize(columns.features[good].to_numpy())
        whole = np.ones(images.shape, bool)
        cohort = Cohort(images, kept.reset_index(drop=True), whole, "table")
        return Survey(cohort, [], problems, notes)

    def _named(self, text: pd.DataFrame) -> tuple[pd.DataFrame, list[Note]]:
        """Return the table with its identifiers, each by one spelling."""
        if "participant_id" not in text:
            raise HarmbenchError(no_names(text))
        nothing = pd.Series(np.nan, text.index, dtype=object)
        people, sessions, said = identifiers(
            text["participant_id"], text.get("session_id", nothing), "line"
        )
        named = text.assign(participant_id=people, session_id=sessions, slice=0)
        return named, [Note(sentence) for sentence in said]

    def _repeated(self, table: pd.DataFrame, lines: pd.Index) -> list[Problem]:
        twice = table.duplicated(["participant_id", "site", "session_id"]).to_numpy()
        return [
            Problem(
                f"{self.path.name}, line {line}",
                f"it names the same scan of {person} as a line before it; tell them apart by a "
                "column session_id",
            )
            for line, person in zip(lines[twice], table["participant_id"][twice], strict=True)
        ]


def standardize(values: NDArray, reference: NDArray | None = None) -> NDArray[np.float32]:
    """Return features with mean 0 and standard deviation 1; constant ones are 0.

    Parameters
    ----------
    values : ndarray, shape (n, k)
        In any units.
    reference : ndarray, shape (m, k), or None
        Values whose mean becomes 0 and whose standard deviation becomes 1; None for `values`.
    """
    reference = values if reference is None else reference
    mean, spread = reference.mean(axis=0), reference.std(axis=0)
    flat = spread <= 1e-12 * np.abs(reference).max(axis=0)
    return np.where(flat, 0.0, (values - mean) / np.where(flat, 1.0, spread)).astype(np.float32)
