"""Placebo covariates, which a method receives instead of the true age or sex.

Images that are harmonized under a placebo are products. In ``placebo.test.both``, from which the
leakage is computed, the age is permuted within each site and sex, and the sex is swapped. In
``placebo.test.0`` to ``placebo.test.19``, which are used for false effects, only the age is
permuted, within each site. The permutation within sexes makes the sum of the ages of the women and
of the men of a site equal to the true sum, so that neither placebo biases the leakage of the other
(docs/statistics.md). The cohorts have the true covariates, and the placebos in the columns
``placebo_age`` and ``placebo_sex``. A draw depends on the data and on the product's name, but not
on the method.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from harmbench.contracts.cohort import Cohort
from harmbench.seeding import rng_from

DRAWS = 20
"""Number of permutations of the ages for false effects."""
BOTH = "placebo.test.both"
AGES = tuple(f"placebo.test.{draw}" for draw in range(DRAWS))
NAMES = frozenset({*AGES, BOTH})
OTHER_SEX = {"F": "M", "M": "F"}


def columns(name: str) -> tuple[str, ...]:
    """Return the covariates that a placebo product replaces."""
    return ("age", "sex") if name == BOTH else ("age",)


def concerns(name: str, sees: Collection[str]) -> bool:
    """Return whether a method that sees these columns receives the placebo."""
    return not set(columns(name)).isdisjoint(sees)


def with_placebo(cohort: Cohort, name: str, *stream: str | int) -> Cohort:
    """Return the cohort with the columns ``placebo_age`` (years) and, for `BOTH`, ``placebo_sex``.

    Parameters
    ----------
    cohort : Cohort
        Any part, with ``site`` and the covariates. A placebo is missing if the truth is.
    name : str
        One of `NAMES`.
    *stream : str or int
        Names of the data and of the fold; the draw depends on them and on `name`.
    """
    rng = rng_from("placebo age", *stream, name.rpartition(".")[2])
    if name != BOTH:
        return cohort.with_covariates(placebo_age=_permuted_ages(cohort, rng, ["site"]))
    return cohort.with_covariates(
        placebo_age=_permuted_ages(cohort, rng, ["site", "sex"]),
        placebo_sex=cohort.participants["sex"].map(OTHER_SEX),
    )


def replace_covariates(cohort: Cohort, name: str) -> Cohort:
    """Return the cohort that the method receives, with the placebos instead of the truth."""
    table = cohort.participants
    return cohort.with_covariates(**{one: table[f"placebo_{one}"] for one in columns(name)})


def _permuted_ages(cohort: Cohort, rng: np.random.Generator, within: Sequence[str]) -> pd.Series:
    """Return the ages permuted between the subjects of each site, or of each site and sex; years.

    All rows of a subject at a site change together: its youngest row receives the lowest age of
    the other subject, and the time between its sessions is kept. The draw depends on the set of
    rows, not on their order.
    """
    table = cohort.participants.astype({"age": float})
    table = table.assign(sex=table["sex"].where(table["sex"].notna(), "missing"))
    unit = [*within, "participant_id"]
    own = table.groupby(unit, sort=True)["age"].min().dropna()
    groups = own.groupby(own.index.droplevel("participant_id"), sort=True)
    taken = [rng.permutation(ages.to_numpy()) for _, ages in groups]
    other = pd.Series(np.concatenate(taken) if taken else [], index=own.index, dtype=float)
    index = pd.MultiIndex.from_frame(table[unit])
    since = table["age"].to_numpy() - own.reindex(index).to_numpy()
    return pd.Series(other.reindex(index).to_numpy() + since, index=table.index)
