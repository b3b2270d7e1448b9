"""The participants table of files, made clean: text first, then ages, sexes and sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from harmbench.errors import HarmbenchError

MISSING = frozenset({"", "n/a", "na", "nan", "none", "null", "unknown"})
SEXES = {"f": "F", "female": "F", "woman": "F", "w": "F", "m": "M", "male": "M", "man": "M"}
OTHER_SEXES = frozenset({"o", "other"})
OLDEST = 120.0


def read_table(path: Path) -> pd.DataFrame:
    """Read a tab-separated table as stripped text, missing values as NaN.

    Raises
    ------
    HarmbenchError
        Where it cannot be read as UTF-8 text with tabs, or has no rows.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' and Unicode's errors are ValueErrors
        raise HarmbenchError(
            f"{path} is not a table of tab-separated UTF-8 text: {error}"
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    if table.empty:
        raise HarmbenchError(f"{path} has no rows")
    table = table.apply(lambda column: column.str.strip())
    return table.mask(table.apply(lambda column: column.str.lower().isin(MISSING)))


def parse_ages(text: pd.Series, where: pd.Series) -> pd.Series:
    """Return ages in years from text; ``"89+"`` is 89, missing is NaN.

    Parameters
    ----------
    text, where : Series of str
        What was written, and which row that is (for the errors).

    Raises
    ------
    HarmbenchError
        For text that is no number and for ages outside 0 to 120.
    """
    ages = text.map(_number).astype(float)
    bad = (text.notna() & ages.isna()) | (ages < 0) | (ages > OLDEST) | np.isinf(ages)
    if bad.any():
        row = bad.idxmax()
        raise HarmbenchError(
            f"{where[row]}: age '{text[row]}' is not a number of years from 0 to {OLDEST:g}; "
            "write n/a where it is missing"
        )
    return ages


def _number(text: object) -> float:
    """Return the nearest float, NaN for no number (`pandas.to_numeric` is off in the last bit)."""
    try:
        return float(str(text).removesuffix("+"))
    except ValueError:
        return np.nan


def parse_sexes(text: pd.Series, where: pd.Series) -> pd.Series:
    """Return ``"F"``, ``"M"`` or NaN from the usual spellings; "other" counts as missing.

    Raises
    ------
    HarmbenchError
        For anything else, numbers included, whose meaning differs between data sets.
    """
    lower = text.str.lower()
    sexes = lower.map(SEXES)
    bad = lower.notna() & sexes.isna() & ~lower.isin(OTHER_SEXES)
    if bad.any():
        row = bad.idxmax()
        raise HarmbenchError(
            f"{where[row]}: sex '{text[row]}' is not known; write F, M, or n/a where it is missing"
        )
    return sexes.astype(object)


def require_sites(sites: pd.Series, where: pd.Series) -> None:
    """Refuse missing sites and a single site.

    Raises
    ------
    HarmbenchError
        Naming the row or the site.
    """
    if sites.isna().any():
        row = sites.isna().idxmax()
        raise HarmbenchError(f"{where[row]}: the site is missing; every scan needs one")
    names = sorted(set(sites))
    if len(names) < 2:
        raise HarmbenchError(
            f"all scans come from one site ({', '.join(names)}); harmonization needs two or more"
        )
