"""How far apart two scans of one person are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DAYS_A_YEAR = 365.25
REPEAT_WITHIN = 180
"""Days within which a scan at another site counts as a repeat of the same brain, by default."""


def days_apart(one: pd.DataFrame, other: pd.DataFrame) -> NDArray[np.float64]:
    """Return the days between two visits of one person, row by row.

    Parameters
    ----------
    one, other : DataFrame with n rows
        Participants tables. The column ``acq_time`` (of scans.tsv or sessions.tsv) decides where
        both rows have a date, else the difference of the ages.

    Returns
    -------
    ndarray, shape (n,)
        Not negative; 0 where neither dates nor ages are known.
    """
    dates = [_dates(table) for table in (one, other)]
    by_date = np.abs((dates[0] - dates[1]).astype(float)) / 86_400
    known = ~(np.isnat(dates[0]) | np.isnat(dates[1]))
    years = [table["age"].to_numpy(dtype=np.float64) for table in (one, other)]
    by_age = np.nan_to_num(np.abs(years[0] - years[1]) * DAYS_A_YEAR)
    return np.where(known, by_date, by_age)


def _dates(table: pd.DataFrame) -> NDArray[np.datetime64]:
    if "acq_time" not in table:
        return np.full(len(table), np.datetime64("NaT"), dtype="datetime64[s]")
    found = pd.to_datetime(table["acq_time"], errors="coerce", format="ISO8601", utc=True)
    return found.dt.tz_localize(None).to_numpy().astype("datetime64[s]")


def late_repeats(table: pd.DataFrame, within: float = REPEAT_WITHIN) -> tuple[int, int]:
    """Count the people scanned at several sites, and those of them with all scans far apart.

    Parameters
    ----------
    table : DataFrame
        Participants table.
    within : float
        Days.

    Returns
    -------
    people, late : int
        Late are those with no two scans at two sites within so many days.
    """
    people = late = 0
    for _, own in table.drop_duplicates(["participant_id", "site", "session_id"]).groupby(
        "participant_id"
    ):
        if own["site"].nunique() < 2:
            continue
        first, second = np.triu_indices(len(own), 1)
        sites = own["site"].to_numpy().astype(str)
        apart = days_apart(own.iloc[first], own.iloc[second])
        people += 1
        late += not ((sites[first] != sites[second]) & (apart <= within)).any()
    return people, late
