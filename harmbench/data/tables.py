"""Features from one table, such as regional volumes: one row per scan, one column per feature."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import DatasetInfo, Note
from harmbench.data.covariates import clean, missing_notes, no_names
from harmbench.data.feature_columns import Rows, read_columns
from harmbench.data.problems import Problem
from harmbench.data.spellings import identifiers
from harmbench.data.stats_tables import adjusted_for_icv, icv_column, join_tables
from harmbench.data.survey import FileDataset, Survey, too_few_sites
from harmbench.data.table_files import read_table, second_header
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

VERSION = 2
"""Version of the table reader; part of the fingerprint."""
KEYS = ["participant_id", "session_id", "slice", "site", "age", "sex"]


class TableDataset(FileDataset):
    """A table of features: ``participant_id``, ``site``, ``age``, ``sex``, and numeric columns.

    Every other numeric column is a feature, unless it identifies the site; the data sheet names
    such columns. Other columns are kept unchanged. ``session_id`` distinguishes scans of one
    participant; a column ``slice`` is left out. Each feature is standardized over the whole table,
    so that distances do not depend on units; labels are not used.

    Parameters
    ----------
    path : str or Path
        A .tsv or .csv file with a header line.
    site_column, age_column, sex_column, sex_codes, age_unit, skip_bad
        See `FileDataset`.
    features : str
        Patterns of the feature columns, such as ``"lh_*,rh_*"``; ``!`` before a pattern excludes
        columns.
    tables : sequence of str
        Further tables with the features of these participants, such as those that FreeSurfer's
        ``aparcstats2table`` and ``asegstats2table`` write, see `join_tables`. Then `path` is a
        table of participants, and its own columns of numbers are no features.
    icv : str
        Column of the intracranial volume; ``""`` recognizes names such as ``eTIV``.
    icv_use : {"leave", "regress", "ratio"}
        Whether the other features are adjusted for the intracranial volume by regression within
        sites, or divided by it; it is no feature then.

    Raises
    ------
    HarmbenchError
        By `load` and `fingerprint`; it lists all problems with their columns and lines.
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
        tables: Sequence[str] = (),
        icv: str = "",
        icv_use: str = "leave",
    ) -> None:
        super().__init__(path, site_column, age_column, sex_column, sex_codes, age_unit, skip_bad)
        self.features = features
        self.tables = [Path(table) for table in tables]
        self.icv, self.icv_use = icv, icv_use

    @property
    def info(self) -> DatasetInfo:
        """Named after the file."""
        return DatasetInfo("table", label=self.path.stem, summary="A table of features of scans.")

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # a property that is computed once
        """Hash of the file's bytes and of everything that determines how they are read."""
        self._require_file()
        content = hashlib.sha256(self.path.read_bytes()).hexdigest()
        settings: tuple[object, ...] = (
            VERSION,
            asdict(self.columns),
            self.skip_bad,
            self.features,
            content,
        )
        if self.tables or self.icv or self.icv_use != "leave":
            tables = [hashlib.sha256(_read_bytes(table)).hexdigest() for table in self.tables]
            settings = (*settings, tables, self.icv, self.icv_use)
        return hashlib.sha256(f"table {settings}".encode()).hexdigest()

    def _require_file(self) -> None:
        if not os.path.isfile(self.path):
            raise HarmbenchError(f"there is no file {self.path}")

    def survey(self, progress: Progress | None = None) -> Survey:
        """Read everything that can be read, and collect all problems."""
        self._require_file()
        try:
            return self._survey()
        except HarmbenchError as error:
            # The place already contains the name of the file.
            sentence = re.sub(rf"^{re.escape(self.path.name)}(, )?", "", str(error))
            sentence = f"it{sentence}" if sentence.startswith(" ") else sentence
            return Survey(None, [], [Problem(self.path.name, sentence)], [])

    def _survey(self) -> Survey:
        text = read_table(self.path, self.columns.site)
        if fault := second_header(text):
            raise HarmbenchError(fault)
        if "participant_id" not in text:
            raise HarmbenchError(no_names(text))
        known = {self.columns.site, self.columns.age, self.columns.sex, *KEYS}
        of_scans = [name for name in text if name in known]
        others = text[[name for name in text if name not in known]]
        own = others.iloc[:, :0]
        joining: list[Note] = []
        if self.tables:
            own, (others, joining) = others, join_tables(text, self.tables)
            own = own[own.columns.difference(others.columns, sort=False)]
        nothing = pd.Series(np.nan, text.index, dtype=object)
        people, sessions, spellings = identifiers(
            text["participant_id"], text.get("session_id", nothing), "line"
        )
        named = text.assign(participant_id=people, session_id=sessions, slice=0)
        sources = [dict.fromkeys(of_scans, f"{self.path.name}, line {line}") for line in text.index]
        table, problems, notes = clean(named, sources, self.columns, (), self.path.name)
        scans = list(zip(table["participant_id"], table["session_id"], strict=True))
        rows = Rows(
            self.path.name, scans, table["site"].to_numpy(str), table["age"].to_numpy(float)
        )
        features, rest, faults, more = read_columns(others, rows, self.features)
        icv, of_icv = icv_column(list(features), self.icv, self.icv_use)
        more += [*joining, *of_icv]
        problems += faults + self._repeated(table, text.index)
        bad = {problem.scan for problem in problems}
        good = np.array([scan not in bad for scan in scans])
        good &= features.notna().all(axis=1).to_numpy()
        rest = rest.join(own).reset_index(drop=True)
        kept = pd.concat([table[KEYS], rest], axis=1)[good]
        if self.columns.site in text:
            problems += too_few_sites(self.path.name, kept, problems)
        if "slice" in text:
            notes.insert(0, Note("column slice: a table of features has no slices", "set_aside"))
        notes = [*map(Note, spellings), *notes, *more, *missing_notes(kept)]
        if features.empty or not good.any() or kept["site"].isna().any():
            return Survey(None, [], problems, notes)
        if icv:
            sites = kept["site"].set_axis(features.index[good])
            features = adjusted_for_icv(features[good], sites, icv, self.icv_use)
        else:
            features = features[good]
        self.feature_names = list(features)
        images = standardize(features.to_numpy())
        mask = np.ones(images.shape, bool)
        cohort = Cohort(images, kept.reset_index(drop=True), mask, "table")
        return Survey(cohort, [], problems, notes)

    def _repeated(self, table: pd.DataFrame, lines: pd.Index) -> list[Problem]:
        twice = table.duplicated(["participant_id", "site", "session_id"]).to_numpy()
        return [
            Problem(
                f"{self.path.name}, line {line}",
                f"it names the same scan of {person} as a line before it; distinguish them by a "
                "column session_id",
            )
            for line, person in zip(lines[twice], table["participant_id"][twice], strict=True)
        ]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HarmbenchError(f"--tables: {path} cannot be read ({error.strerror})") from error


def standardize(values: NDArray, reference: NDArray | None = None) -> NDArray[np.float32]:
    """Return features with mean 0 and standard deviation 1; constant features are 0.

    Parameters
    ----------
    values : ndarray, shape (n, k)
        In any units.
    reference : ndarray, shape (m, k), or None
        Values that define mean and standard deviation; None for `values`.
    """
    reference = values if reference is None else reference
    mean, spread = reference.mean(axis=0), reference.std(axis=0)
    flat = spread <= 1e-12 * np.abs(reference).max(axis=0)
    return np.where(flat, 0.0, (values - mean) / np.where(flat, 1.0, spread)).astype(np.float32)
