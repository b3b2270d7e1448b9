"""Placebo covariates: what a method is told in place of the true age or sex, and by whom it shows.

Images harmonized under a placebo are products like any other: ``placebo.test.both`` with the age
permuted within each site and the sex flipped, which leakage is read from, and ``placebo.test.0``
to ``placebo.test.19`` with the age alone permuted, for false effects. Of ``both`` the ages are
permuted within each sex: at every site they add up to the true ones among the women and among the
men, so neither placebo biases what is read of the other (docs/statistics.md). The cohorts carry the
true covariates, and beside them what the method is given, as ``placebo_age`` and ``placebo_sex``. A
draw depends on the data and its name, never on the method.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from harmbench.contracts.cohort import Cohort
from harmbench.seeding import rng_from

DRAWS = 20
"""Draws of ages for false effects."""
BOTH = "placebo.test.both"
AGES = tuple(f"placebo.test.{draw}" for draw in range(DRAWS))
NAMES = frozenset({*AGES, BOTH})
OTHER_SEX = {"F": "M", "M": "F"}


def columns(name: str) -> tuple[str, ...]:
    """Return the covariates that are replaced in a placebo product."""
    return ("age", "sex") if name == BOTH else ("age",)


def concerns(name: str, sees: Collection[str]) -> bool:
    """Return whether a method that sees these columns can notice the placebo at all."""
    return not set(columns(name)).isdisjoint(sees)


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
        With ``placebo_age`` (years) and, of `BOTH`, ``placebo_sex``; missing where the truth is.
    """
    rng = rng_from("placebo age", *stream, name.rpartition(".")[2])
    if name != BOTH:
        return cohort.with_covariates(placebo_age=permuted_ages(cohort, rng, ["site"]))
    return cohort.with_covariates(
        placebo_age=permuted_ages(cohort, rng, ["site", "sex"]),
        placebo_sex=cohort.participants["sex"].map(OTHER_SEX),
    )


def told(cohort: Cohort, name: str) -> Cohort:
    """Return the cohort as the method is shown it: the placebo in place of the truth."""
    return cohort.with_covariates(
        **{lie: cohort.participants[f"placebo_{lie}"] for lie in columns(name)}
    )


def permuted_ages(cohort: Cohort, rng: np.random.Generator, within: Sequence[str]) -> pd.Series:
    """Return ages permuted between the subjects of each site, or of each site and sex.

    All rows of a subject at a site move together: its youngest row takes the other subject's least
    age, and the years between its sessions stay as they are.

    Parameters
    ----------
    cohort : Cohort
        Its images are not read.
    rng : numpy Generator
        The draw depends on the set of rows, not on their order.
    within : sequence of str
        ``["site"]`` or ``["site", "sex"]``.

    Returns
    -------
    Series of float, length n
        Years; NaN where the age is missing.
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
