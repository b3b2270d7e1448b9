"""Association of age and sex with site, and the conclusions that it allows."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats.contingency import association

SMALL, LARGE = 0.06, 0.14
"""Medium and large eta squared (Cohen 1988, Statistical Power Analysis, chapter 8)."""
SMALL_V, LARGE_V = 0.1, 0.3
"""Small and medium association with one degree of freedom (Cohen 1988, chapter 7)."""
NO_OVERLAP = 0.05
"""Ages of two sites with a smaller overlap are said not to overlap."""


class Confounding(NamedTuple):
    """A measure of confounding and its interpretation."""

    name: str
    value: float  # NaN if it cannot be computed
    chance: float  # expected value if sites were assigned at random; NaN if not known
    meaning: str  # what can and cannot be concluded from these data


def eta_squared(values: ArrayLike, groups: ArrayLike) -> float:
    """Return the share of the variance of values that groups explain.

    Parameters
    ----------
    values : array_like of float, shape (n,)
        Missing values are left out.
    groups : array_like of str, shape (n,)

    Returns
    -------
    float
        Between 0 and 1; NaN if there is no variance.
    """
    table = pd.DataFrame({"value": np.asarray(values, dtype=float), "group": np.asarray(groups)})
    table = table.dropna(subset=["value"])
    total = float(((table["value"] - table["value"].mean()) ** 2).sum())
    if not total > 0:
        return float("nan")
    means = table.groupby("group")["value"].transform("mean")
    return float(((means - table["value"].mean()) ** 2).sum()) / total


def cramers_v(first: ArrayLike, second: ArrayLike) -> float:
    """Return Cramer's V of two columns (Cramer 1946), without a bias correction.

    Parameters
    ----------
    first, second : array_like of str, shape (n,)
        Rows with a missing value are left out.

    Returns
    -------
    float
        Between 0 and 1; NaN if one of them has a single value.
    """
    counts = pd.crosstab(np.asarray(first, dtype=object), np.asarray(second, dtype=object))
    if min(counts.shape) < 2:
        return float("nan")
    return float(association(counts.to_numpy(), method="cramer"))


def overlap(first: ArrayLike, second: ArrayLike) -> float:
    """Return the overlap of two samples: 1 minus the largest gap between their distributions.

    The gap is the two-sample Kolmogorov-Smirnov statistic, which needs no bins. The overlap is 0 if
    all values of one sample are above the other, and near 1 for samples of one distribution.

    Parameters
    ----------
    first, second : array_like of float
        Not empty, without missing values.
    """
    one, two = np.sort(np.asarray(first, float)), np.sort(np.asarray(second, float))
    points = np.concatenate([one, two])
    below = [np.searchsorted(x, points, side="right") / len(x) for x in (one, two)]
    return 1.0 - float(np.abs(below[0] - below[1]).max())


def overlaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return the overlap of ages of all pairs of sites, shape (sites, sites), NaN if unknown."""
    ages = {site: rows["age"].dropna().to_numpy() for site, rows in table.groupby("site")}
    sites = sorted(ages)
    found = pd.DataFrame(np.nan, index=sites, columns=sites)
    for one, two in itertools.product(sites, sites):
        if len(ages[one]) and len(ages[two]):
            found.loc[one, two] = overlap(ages[one], ages[two])
    return found


def confounding(table: pd.DataFrame) -> list[Confounding]:
    """Return the association of age with site, the overlap of ages, and the association of sex.

    Parameters
    ----------
    table : DataFrame
        Columns ``participant_id``, ``site``, ``age``, ``sex``; a subject counts once per site.
    """
    subjects = table.drop_duplicates(["participant_id", "site"])
    return [_age(subjects), _age_overlap(subjects), _sex(subjects)]


def _age(subjects: pd.DataFrame) -> Confounding:
    known = subjects.dropna(subset=["age"])
    value = eta_squared(known["age"], known["site"])
    n, sites = len(known), known["site"].nunique()
    chance = (sites - 1) / (n - 1) if n > 1 else float("nan")
    name = "Share of age variance between sites (eta squared)"
    if np.isnan(value) or sites < 2:
        unknown = "Ages are missing or all equal, or there is one site: unknown."
        return Confounding(name, float("nan"), chance, unknown)
    if value < max(SMALL, chance):
        meaning = (
            "Sites differ little in age. Site differences in the images are hardly due to age."
        )
    elif value < LARGE:
        meaning = (
            "Sites differ somewhat in age. Preserve age when harmonizing; a site classifier can "
            "use age, so read site accuracy against its target, not against chance."
        )
    else:
        meaning = (
            "Sites differ strongly in age. A method that does not know age removes age effects "
            "together with site effects; good site removal may mean lost biology. Read age skill "
            "within sites, and site accuracy against its target, not against chance."
        )
    return Confounding(name, value, chance, meaning)


def _age_overlap(subjects: pd.DataFrame) -> Confounding:
    found = overlaps(subjects)
    name = "Smallest overlap of ages between two sites (0 none, 1 full)"
    pairs = [(found.loc[a, b], a, b) for a, b in itertools.combinations(found.index, 2)]
    pairs = sorted(pair for pair in pairs if not np.isnan(pair[0]))
    if not pairs:
        return Confounding(name, float("nan"), float("nan"), "Fewer than two sites state ages.")
    lowest, one, two = pairs[0]
    apart = [f"{a} and {b}" for value, a, b in pairs if value < NO_OVERLAP]
    if apart:
        more = f" (and {len(apart) - 3} more pairs)" if len(apart) > 3 else ""
        meaning = (
            f"The ages of {'; '.join(apart[:3])}{more} do not overlap: site and age effects "
            "cannot be told apart between them by any method. Conclude nothing about age "
            "differences across them."
        )
    else:
        meaning = (
            f"Lowest for {one} and {two}. Between any two sites there are subjects of similar age "
            "to compare; where overlap is low, these are few."
        )
    return Confounding(name, lowest, float("nan"), meaning)


def _sex(subjects: pd.DataFrame) -> Confounding:
    known = subjects.dropna(subset=["sex"])
    value = cramers_v(known["site"], known["sex"])
    n, sites = len(known), known["site"].nunique()
    # The mean of chi squared under independence is its degrees of freedom, (sites - 1) here.
    chance = float(np.sqrt((sites - 1) / n)) if n else float("nan")
    name = "Association of sex and site (Cramer's V)"
    if np.isnan(value):
        meaning = "One sex or one site only, or sex is missing: unknown."
    elif value < max(SMALL_V, chance):
        meaning = "Sites have similar shares of women and men."
    elif value < LARGE_V:
        meaning = "Sites differ somewhat in sex. Preserve sex when harmonizing."
    else:
        meaning = (
            "Sites differ strongly in sex: sex and site effects are mixed up. Read sex accuracy "
            "within sites; a method that does not know sex removes part of it with the site."
        )
    return Confounding(name, value, chance, meaning)
