"""Placebo covariates: what a method is told in place of the true age or sex, and by whom it shows.

Images harmonized under a placebo are products like any other: ``placebo.test.0`` to
``placebo.test.19`` with the age permuted within each site, ``placebo.test.sex`` with the sex
flipped. Their cohorts carry the true covariates, and beside them what the method was told, as
``placebo_age`` or ``placebo_sex``. A draw depends on the data and its number, never on the method.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from harmbench.cohort import Cohort
from harmbench.seeding import rng_from

DRAWS = 20
"""Draws of ages in all; `harmbench.protocol.leakage` reads the first five."""
SEX = "placebo.test.sex"
AGES = tuple(f"placebo.test.{draw}" for draw in range(DRAWS))
NAMES = frozenset({*AGES, SEX})
OTHER_SEX = {"F": "M", "M": "F"}


def column(name: str) -> str:
    """Return the covariate that a placebo product lies about: ``"sex"`` or ``"age"``."""
    return "sex" if name == SEX else "age"


def concerns(name: str, sees: Collection[str]) -> bool:
    """Return whether a method that sees these columns can notice the lie at all."""
    return column(name) in sees


def with_placebo(cohort: Cohort, name: str, *stream: str | int) -> Cohort:
    """Return the cohort with the column that a method is told instead of the truth.

    Parameters
    ----------
    cohort : Cohort
        Any part, with ``site`` and the covariate in question.
    name : str
        One of `NAMES`.
    *stream : str or int
        What the draw depends on besides the draw's number: names of the data and of the fold.

    Returns
    -------
    Cohort
        With ``placebo_age`` (years) or ``placebo_sex``; missing where the truth is.
    """
    if name == SEX:
        return cohort.with_covariates(placebo_sex=cohort.participants["sex"].map(OTHER_SEX))
    rng = rng_from("placebo age", *stream, name.rpartition(".")[2])
    return cohort.with_covariates(placebo_age=permuted_within_sites(cohort, rng))


def told(cohort: Cohort, name: str) -> Cohort:
    """Return the cohort as the method is shown it: the placebo in place of the truth."""
    lie = column(name)
    return cohort.with_covariates(**{lie: cohort.participants[f"placebo_{lie}"]})


def permuted_within_sites(cohort: Cohort, rng: np.random.Generator) -> pd.Series:
    """Return ages permuted between the subjects of each site.

    All rows of a subject at a site move together: its youngest row takes the other subject's least
    age, and the years between its sessions stay as they are.

    Parameters
    ----------
    cohort : Cohort
        Its images are not read.
    rng : numpy Generator
        The draw depends on the set of rows, not on their order.

    Returns
    -------
    Series of float, length n
        Years; NaN where the age is missing.
    """
    table = cohort.participants.astype({"age": float})
    units = table.groupby(["site", "participant_id"], sort=True)["age"]
    own = units.min().dropna()
    taken = [rng.permutation(ages.to_numpy()) for _, ages in own.groupby(level="site", sort=True)]
    other = pd.Series(np.concatenate(taken) if taken else [], index=own.index, dtype=float)
    index = pd.MultiIndex.from_frame(table[["site", "participant_id"]])
    since = table["age"].to_numpy() - own.reindex(index).to_numpy()
    return pd.Series(other.reindex(index).to_numpy() + since, index=table.index)
