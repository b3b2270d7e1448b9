"""Tables of regions, such as FreeSurfer's and FastSurfer's, joined to a table of participants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harmbench.contracts.dataset import Note
from harmbench.data.problems import some
from harmbench.data.table_files import number, read_table
from harmbench.errors import HarmbenchError

ICV_NAMES = ("etiv", "estimatedtotalintracranialvol", "icv", "tiv", "intracranialvolume")
ICV_USES = ("leave", "regress", "ratio")


def join_tables(people: pd.DataFrame, paths: Sequence[Path]) -> tuple[pd.DataFrame, list[Note]]:
    """Return the columns of other tables for the rows of a participants table.

    The first column of each table names the subjects, as in the tables of ``aparcstats2table`` and
    ``asegstats2table``: ``sub-01``, ``01`` or ``sub-01_ses-a``. A table in which subjects repeat is
    long: its last column holds the values, and the columns before it name the feature.

    Parameters
    ----------
    people : DataFrame of str
        With ``participant_id`` and perhaps ``session_id``.
    paths : sequence of Path
        The tables. Columns that several of them share, such as ``eTIV``, must be equal.

    Returns
    -------
    DataFrame of str
        One row for each row of `people`; NaN for a subject that a table does not hold.
    list of Note

    Raises
    ------
    HarmbenchError
        If a table cannot be read, holds none of the participants, holds a subject twice, or
        differs from another one.
    """
    sessions = people["session_id"] if "session_id" in people else pd.Series("", people.index)
    scans = [
        _scan(f"{person}_ses-{session}" if isinstance(session, str) and session else str(person))
        for person, session in zip(people["participant_id"], sessions, strict=True)
    ]
    joined = pd.DataFrame(index=people.index)
    notes = []
    for path in paths:
        table = _wide(path)
        rows = [scan if scan in table.index else (scan[0], "") for scan in scans]
        unknown = table.index.difference(pd.Index(rows))
        if len(unknown) == len(table):
            raise HarmbenchError(
                f"{path.name} holds none of the participants: its subjects are "
                f"{some((name for name, _ in table.index), 3)}, the participants "
                f"{some((name for name, _ in scans), 3)}"
            )
        if len(unknown):
            names = some((name for name, _ in unknown), 5)
            notes.append(Note(f"{path.name}: {len(unknown)} subjects are no participants: {names}"))
        found = table.reindex(pd.MultiIndex.from_tuples(rows)).set_axis(people.index)
        for name in found.columns.intersection(joined.columns):
            if not _equal(found[name], joined[name]):
                raise HarmbenchError(
                    f"column '{name}' of {path.name} differs from that of a table before it; "
                    "rename one of them"
                )
            joined[name] = joined[name].fillna(found[name])
        joined = joined.join(found[found.columns.difference(joined.columns, sort=False)])
    return joined, notes


def _scan(text: str) -> tuple[str, str]:
    """Return participant and session of a subject's folder name."""
    person, _, session = text.strip().removeprefix("sub-").partition("_ses-")
    return person, re.sub(r"\.long\..*", "", session).removeprefix("ses-")


def _wide(path: Path) -> pd.DataFrame:
    """Read a table with one row per scan; the index is participant and session."""
    if not path.is_file():
        raise HarmbenchError(f"--tables: there is no file {path}")
    table = read_table(path)
    if table.shape[1] < 2:
        raise HarmbenchError(f"{path.name} has one column; it must have subjects and features")
    subjects, values = table.iloc[:, 0], table.iloc[:, 1:]
    if subjects.isna().any():
        raise HarmbenchError(f"{path.name}, line {subjects.index[subjects.isna()][0]}: no subject")
    is_long = subjects.duplicated().any() and values.shape[1] in (2, 3)
    if is_long:
        names = values.iloc[:, :-1].fillna("").agg("_".join, axis=1)
        values = pd.DataFrame({"name": names, "value": values.iloc[:, -1]})
    index = pd.MultiIndex.from_tuples([_scan(str(name)) for name in subjects])
    keys = [*zip(index, names, strict=True)] if is_long else list(index)
    twice = pd.Series(keys).duplicated().to_numpy()
    if twice.any():
        line, name = table.index[twice][0], subjects[twice].iloc[0]
        raise HarmbenchError(f"{path.name}, line {line} repeats '{name}'; keep one row of each")
    values = values.set_index(index)
    return values.pivot(columns="name", values="value") if is_long else values


def _equal(a: pd.Series, b: pd.Series) -> bool:
    """Whether two columns are equal where both have values."""
    both = a.notna() & b.notna()
    return bool((a[both].map(number) == b[both].map(number)).all())


def icv_column(names: Sequence[str], wanted: str, use: str) -> tuple[str, list[Note]]:
    """Return the column of the intracranial volume, ``""`` for none, and notes about it.

    Parameters
    ----------
    names : sequence of str
        Names of the features.
    wanted : str
        The column that the user names; ``""`` to recognize it by its name.
    use : {"leave", "regress", "ratio"}
        What to do with it.

    Raises
    ------
    HarmbenchError
        If there is no such column, or `use` is unknown.
    """
    if use not in ICV_USES:
        raise HarmbenchError(f"--icv-use {use}: give one of {', '.join(ICV_USES)}")
    known = [name for name in names if re.sub(r"[\W_]+", "", name).casefold() in ICV_NAMES]
    found = [wanted] if wanted in names else known if not wanted else []
    if use == "leave":
        text = "it is a feature like others; --icv-use regress or ratio adjusts the other features"
        return "", [Note(f"column {name} is the intracranial volume: {text}") for name in found[:1]]
    if not found:
        raise HarmbenchError(
            f"--icv-use {use}: there is no feature '{wanted or 'eTIV'}'; name the column of the "
            f"intracranial volume by --icv; the features are {some(names, 10)}"
        )
    how = "divided by it" if use == "ratio" else "adjusted for it by regression within sites"
    return found[0], [Note(f"column {found[0]}: the other features are {how}", "read")]


def adjusted_for_icv(
    features: pd.DataFrame, sites: pd.Series, column: str, use: str
) -> pd.DataFrame:
    """Return the other features, adjusted for the intracranial volume.

    Parameters
    ----------
    features : DataFrame of float, n rows
        The volume is one of the columns.
    sites : Series, n rows
        The slope of the regression is estimated within sites, so that it does not contain
        differences between scanners.
    column, use : str
        As `icv_column` returns and takes them; not ``"leave"``.
    """
    volume, others = features[column], features.drop(columns=column)
    if not (volume > 0).all():
        raise HarmbenchError(f"column '{column}' has values that are not positive volumes")
    if use == "ratio":
        return others.div(volume, axis=0)
    within = volume - volume.groupby(sites).transform("mean")
    scatter = float((within**2).sum())
    if scatter == 0:
        raise HarmbenchError(f"column '{column}' does not vary within sites")
    slopes = others.mul(within, axis=0).sum() / scatter
    return others - np.outer(volume - volume.mean(), slopes)
