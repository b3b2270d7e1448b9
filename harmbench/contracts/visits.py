"""Time between two scans of one person."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DAYS_A_YEAR = 365.25
REPEAT_WITHIN = 180
"""Largest number of days between two scans at two sites that count as repeats, by default."""


def days_apart(one: pd.DataFrame, other: pd.DataFrame) -> NDArray[np.float64]:
    """Return the days between two visits of one person, row by row.

    Parameters
    ----------
    one, other : DataFrame with n rows
        Participants tables. If both rows have a date in the column ``acq_time`` (of scans.tsv or
        sessions.tsv), the dates are used, else the difference of the ages.

    Returns
    -------
    ndarray, shape (n,)
        Days, not negative; 0 if neither dates nor ages are known.
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
    """Count the people scanned at several sites, and those without a repeat among their scans.

    Parameters
    ----------
    table : DataFrame
        Participants table.
    within : float
        Largest number of days between two scans that count as repeats.

    Returns
    -------
    people, late : int
        Number of people scanned at several sites, and of those among them who have no two scans
        at two sites within this time.
    """
    people = late = 0
    scans = table.drop_duplicates(["participant_id", "site", "session_id"])
    several = scans.groupby("participant_id")["site"].transform("nunique") > 1
    for _, own in scans[several].groupby("participant_id"):
        first, second = np.triu_indices(len(own), 1)
        sites = own["site"].to_numpy().astype(str)
        apart = days_apart(own.iloc[first], own.iloc[second])
        people += 1
        late += not ((sites[first] != sites[second]) & (apart <= within)).any()
    return people, late
