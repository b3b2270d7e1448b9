"""Features from one table, such as regional volumes: a row a scan, a numeric column a feature."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.cohort import Cohort
from harmbench.data import participants
from harmbench.data.problems import some
from harmbench.data.table_files import read_table
from harmbench.dataset import Dataset, DatasetInfo, Note
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

VERSION = 1
MOST_NAMED = 100
"""Features that the data sheet names."""
NAMES = ("participant_id", "session_id", "slice", "site", "age", "sex")


class TableDataset(Dataset):
    """A table of features: ``participant_id``, ``site``, ``age``, ``sex``, and numeric columns.

    Every other column whose values are all numbers is a feature; the rest are kept as they are. A
    ``session_id`` tells scans of one participant apart; a column ``slice`` is left out, a table of
    features has none. Each feature is brought to mean 0 and
    standard deviation 1 over the whole table, whatever its unit, so that distances do not hang on
    the largest one; no label has a part in that.

    Parameters
    ----------
    path : str or Path
        A .tsv or .csv file in UTF-8, with a header line.
    site_column, age_column, sex_column : str
        What these columns are called; ``""`` leaves age or sex out.
    sex_codes : str
        What numbers in the column of the sex stand for, such as ``"1=M,2=F"``.

    Raises
    ------
    HarmbenchError
        By `load` and `fingerprint`, naming the column and the line.
    """

    def __init__(
        self,
        path: str | Path,
        site_column: str = "site",
        age_column: str = "age",
        sex_column: str = "sex",
        sex_codes: str = "",
    ) -> None:
        self.path = Path(path)
        self.site_column = site_column
        self.age_column = age_column
        self.sex_column = sex_column
        self.sex_codes = sex_codes

    @property
    def info(self) -> DatasetInfo:
        """Named after the file."""
        return DatasetInfo("table", label=self.path.stem, summary="A table of features of scans.")

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # a property that is computed once
        """Hash of the file's bytes and of the names of its columns."""
        if not os.path.isfile(self.path):
            raise HarmbenchError(f"there is no file {self.path}")
        content = hashlib.sha256(self.path.read_bytes()).hexdigest()
        names = (self.site_column, self.age_column, self.sex_column, self.sex_codes)
        return hashlib.sha256(f"table {VERSION} {names} {content}".encode()).hexdigest()

    def load(self, progress: Progress | None = None) -> Cohort:
        """Read the table; rows keep its order, features that of the columns."""
        if not os.path.isfile(self.path):
            raise HarmbenchError(f"there is no file {self.path}")
        text = read_table(self.path)
        lines = pd.Series([f"{self.path.name}, line {line}" for line in text.index], text.index)
        known = self._known(text, lines)
        stated = {self.site_column, self.age_column, self.sex_column, *NAMES}
        others = text[[name for name in text if name not in stated]]
        features, rest = _features(others, lines)
        table = pd.concat([known, rest], axis=1).reset_index(drop=True)
        images = _standardized(features)
        names = some(map(str, features), MOST_NAMED)
        self.notes = [Note(f"{features.shape[1]} features: {names}", "read")]
        self.notes += [Note(f"column '{name}': not numbers", "set_aside") for name in rest]
        return Cohort(images, table, np.ones(images.shape, bool), "table")

    def _known(self, text: pd.DataFrame, lines: pd.Series) -> pd.DataFrame:
        """Return identifiers and covariates of every row."""
        asked = (self.site_column, self.age_column, self.sex_column)
        for name in ("participant_id", *filter(None, asked)):
            if name not in text:
                raise HarmbenchError(
                    f"{self.path.name} has no column '{name}'; it has {', '.join(text)}: rename "
                    "it, or say what it is called by --site-column, --age-column, --sex-column"
                )
        nothing = pd.Series(np.nan, text.index, dtype=object)
        age = text[self.age_column] if self.age_column else nothing
        sex = text[self.sex_column] if self.sex_column else nothing
        sexes = participants.read_sexes(sex, participants.parse_codes(self.sex_codes))
        for line, sentence in sexes.faults.items():
            raise HarmbenchError(f"{lines[line]}: {sentence}")
        known = pd.DataFrame(
            {
                "participant_id": text["participant_id"],
                "session_id": text["session_id"].fillna("") if "session_id" in text else "",
                "slice": 0,
                "site": text[self.site_column],
                "age": participants.parse_ages(age, lines),
                "sex": sexes.values,
            }
        )
        if known["participant_id"].isna().any():
            raise HarmbenchError(f"{lines[known['participant_id'].isna().idxmax()]} has no name")
        participants.require_sites(known["site"], lines)
        twice = known.duplicated(["participant_id", "site", "session_id"])
        if twice.any():
            raise HarmbenchError(
                f"{lines[twice.idxmax()]} names the same scan as a line before it; tell them "
                "apart by a column session_id"
            )
        return known


def _features(others: pd.DataFrame, lines: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the columns of numbers as float64, and the others as they are.

    Raises
    ------
    HarmbenchError
        Where there is no column of numbers, or one with a value missing or infinite.
    """
    numbers = others.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    is_feature = (numbers.notna() | others.isna()).all() & numbers.notna().any()
    chosen = numbers.loc[:, is_feature]
    if chosen.shape[1] == 0:
        raise HarmbenchError("the table has no feature: no further column whose values are numbers")
    bad = ~np.isfinite(chosen.to_numpy())
    if bad.any():
        line, column = np.argwhere(bad)[0]
        raise HarmbenchError(
            f"{lines.iloc[line]}: feature '{chosen.columns[column]}' is missing or infinite; "
            "fill it, or leave the line or the column out"
        )
    return chosen, others.loc[:, ~is_feature]


def _standardized(features: pd.DataFrame) -> NDArray[np.float32]:
    """Return the features with mean 0 and standard deviation 1; constant ones are 0."""
    values = features.to_numpy()
    centered = values - values.mean(axis=0)
    spread = centered.std(axis=0)
    flat = spread <= 1e-12 * np.abs(values).max(axis=0)
    return np.where(flat, 0.0, centered / np.where(flat, 1.0, spread)).astype(np.float32)
