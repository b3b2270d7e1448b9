"""Split a cohort by subject into parts for fitting, for training probes, and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.errors import HarmbenchError
from harmbench.seeding import rng_from

PARTS = ("fit", "probe", "test")
HALVES = ("A", "B")
LEAST_CROSS_FITTED = 4
"""Smallest number of subjects of a site in cross-fitting: two in each half."""


@dataclass(frozen=True)
class Fold:
    """Rows for fitting, training probes and scoring; boolean masks of shape (n,).

    `real` are images of subjects not in `test`, for distances between distributions.
    """

    name: str  # "" for the three-part split; fold "A" is fitted on half A and scored on half B
    fit: NDArray[np.bool_]
    probe: NDArray[np.bool_]  # none in cross-fitting
    test: NDArray[np.bool_]
    real: NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """The part of every row.

    In cross-fitting every subject is scored once, by methods fitted on the other half.
    """

    part: NDArray[np.str_]  # shape (n,): "fit", "probe" or "test"; in cross-fitting "A" or "B"
    cross_fitting: bool
    reason: str  # reason for cross-fitting, "" without it

    def folds(self) -> list[Fold]:
        """Return the one fold of the three-part split, or the two of cross-fitting."""
        if not self.cross_fitting:
            fit, probe, test = (self.part == name for name in PARTS)
            return [Fold("", fit, probe, test, real=probe)]
        nobody = np.zeros(len(self.part), dtype=bool)
        a, b = (self.part == name for name in HALVES)
        return [Fold("A", a, nobody, b, real=a), Fold("B", b, nobody, a, real=b)]


def stored_split(parts: ArrayLike) -> Split:
    """Return the split of a run folder from its column of parts."""
    part = np.asarray(parts).astype(str)
    return Split(part, cross_fitting=set(part) <= set(HALVES), reason="")


def make_split(
    cohort: Cohort,
    seed: int,
    fractions: Sequence[float] = (0.4, 0.3, 0.3),
    least: int = 10,
) -> Split:
    """Split a cohort by subject, stratified by site, within-site age tertile and sex.

    Subjects scanned at several sites (travelling subjects) are in ``test``. If a site would then
    have fewer than `least` subjects in a part, the split is two-fold cross-fitting instead. It
    divides travelling subjects between the halves, because every subject is scored exactly once by
    methods that have not seen any of its scans.

    In each site, parts are assigned in one pass along ordered cells of sex and age tertile, so that
    a small cell is balanced together with its neighbor. A missing age or sex is its own cell.

    Parameters
    ----------
    cohort : Cohort
        With ``site``, ``age`` and ``sex``; no site is missing.
    seed : int
        The data seed. The split of a site's subjects does not depend on other sites.
    fractions : sequence of 3 float
        Shares of `PARTS`; positive, with the sum 1.
    least : int
        Smallest number of subjects of a site in a part of the three-part split.

    Returns
    -------
    Split
        Independent of the order of the rows.

    Raises
    ------
    HarmbenchError
        If there is only one site, a site has fewer than 4 subjects in cross-fitting, or the
        fractions are not valid.
    """
    valid = len(fractions) == len(PARTS) and all(f > 0 for f in fractions)
    if not valid or abs(sum(fractions) - 1) > 1e-6:
        raise HarmbenchError(
            f"split fractions {tuple(fractions)} must be three positive numbers with the sum 1 "
            f"({', '.join(PARTS)}), such as (0.4, 0.3, 0.3)"
        )
    subjects = _subject_table(cohort)
    sites = sorted({site for row in subjects["sites"] for site in row})
    if len(sites) < 2:
        raise HarmbenchError(
            f"the cohort has {len(sites)} site ({', '.join(sites)}); harmonization needs two or "
            "more: check the site column"
        )
    parts = _three_parts(subjects, sites, seed, fractions)
    reason = _too_few(subjects, sites, parts, least)
    if reason:
        parts = _halves(subjects, sites, seed)
    rows = cohort.participants["participant_id"].astype(str)
    part = np.array([parts[name] for name in rows], dtype="<U5")
    return Split(part, cross_fitting=bool(reason), reason=reason)


def validation_keys(cohort_fit: Cohort, seed: int, fraction: float = 0.1) -> list[RowKey]:
    """Select the validation rows of a method: whole subjects from all sites.

    Parameters
    ----------
    cohort_fit : Cohort
        The fit part; only its keys are used.
    seed : int
        The method seed.
    fraction : float
        Share of the subjects, in (0, 1); at least one if a site has two.

    Returns
    -------
    list of RowKey
        All rows of the selected subjects, sorted. The only subject of a site is never selected.
    """
    keys = sorted(cohort_fit.keys)
    home: dict[str, str] = {}
    for key in keys:
        home.setdefault(key.participant_id, key.site)
    rng = rng_from("validation", seed)
    subjects: list[str] = []
    for site in sorted(set(home.values())):
        names = sorted(name for name, own in home.items() if own == site)
        if len(names) > 1:
            subjects.extend(names[i] for i in rng.permutation(len(names)))
    if not subjects:
        return []
    count = max(1, round(fraction * len(subjects)))
    positions = ((np.arange(count) + rng.random()) * len(subjects) / count).astype(int)
    chosen = {subjects[i] for i in positions}
    return [key for key in keys if key.participant_id in chosen]


def _subject_table(cohort: Cohort) -> pd.DataFrame:
    """Return one row per subject, sorted by name: its sites, mean age and stated sex."""
    table = pd.DataFrame(
        {
            "name": cohort.column("participant_id").astype(str),
            "site": cohort.column("site").astype(str),
            "age": cohort.column("age").astype(float),
            "sex": [s if isinstance(s, str) else "" for s in cohort.column("sex")],
        }
    )
    grouped = table.sort_values(list(table)).groupby("name", sort=True)
    return pd.DataFrame(
        {
            "sites": grouped["site"].agg(lambda s: tuple(sorted(set(s)))),
            "age": grouped["age"].mean(),
            "sex": grouped["sex"].max(),
        }
    )


def _three_parts(
    subjects: pd.DataFrame, sites: list[str], seed: int, fractions: Sequence[float]
) -> dict[str, str]:
    parts = dict.fromkeys(subjects.index, "test")
    for site in sites:
        names = _ordered_by_cell(subjects[subjects["sites"] == (site,)], seed, site)
        parts.update(zip(names, _balanced(len(names), PARTS, fractions), strict=True))
    return parts


def _too_few(subjects: pd.DataFrame, sites: list[str], parts: dict[str, str], least: int) -> str:
    """Return which site has too few subjects in which part; ``""`` if none has."""
    for site in sites:
        own = [parts[name] for name, row in subjects["sites"].items() if site in row]
        for part in PARTS:
            if own.count(part) < least:
                return (
                    f"site {site} ({len(own)} subjects) would have {own.count(part)} subjects in "
                    f"part '{part}', fewer than {least}"
                )
    return ""


def _halves(subjects: pd.DataFrame, sites: list[str], seed: int) -> dict[str, str]:
    for site in sites:
        n = sum(site in row for row in subjects["sites"])
        if n < LEAST_CROSS_FITTED:
            raise HarmbenchError(
                f"site {site} has {n} subject(s); even two-fold cross-fitting needs "
                f"{LEAST_CROSS_FITTED} per site: leave the site out or add subjects"
            )
    parts: dict[str, str] = {}
    for site in sites:
        names = _ordered_by_cell(subjects[subjects["sites"] == (site,)], seed, site)
        labels = HALVES if rng_from("split first half", seed, site).random() < 0.5 else HALVES[::-1]
        parts.update(zip(names, _balanced(len(names), labels, (0.5, 0.5)), strict=True))
    _assign_travellers(subjects, sites, seed, parts)
    return parts


def _assign_travellers(
    subjects: pd.DataFrame, sites: list[str], seed: int, parts: dict[str, str]
) -> None:
    """Add each travelling subject to the half in which its sites have fewer subjects, in place."""
    surplus = dict.fromkeys(sites, 0)  # subjects in A minus subjects in B
    for name, half in parts.items():
        surplus[subjects["sites"][name][0]] += 1 if half == "A" else -1
    travellers = subjects[subjects["sites"].map(len) > 1]
    rng = rng_from("split travellers", seed)
    for name in travellers.index[rng.permutation(len(travellers))]:
        own = travellers["sites"][name]
        lead = sum(surplus[site] for site in own)
        half = "A" if lead < 0 or (lead == 0 and rng.random() < 0.5) else "B"
        parts[name] = half
        for site in own:
            surplus[site] += 1 if half == "A" else -1


def _ordered_by_cell(subjects: pd.DataFrame, seed: int, site: str) -> list[str]:
    """Return a site's subjects ordered by cell, in random order within each cell."""
    if subjects.empty:
        return []
    rng = rng_from("split", seed, site)
    tertile = _tertiles(subjects["age"].to_numpy(dtype=float))
    sex_names = sorted(set(subjects["sex"]))
    sex = np.array([sex_names.index(s) for s in subjects["sex"]])
    snake = np.where(sex % 2 == 0, tertile, 3 - tertile)  # reversed for every other sex
    order = np.lexsort((rng.permutation(len(subjects)), snake, sex))
    if rng.random() < 0.5:
        order = order[::-1]
    return [str(name) for name in subjects.index[order]]


def _tertiles(age: NDArray[np.float64]) -> NDArray[np.int_]:
    """Return 0, 1 or 2 by age, 3 if it is missing; equal ages are in the same tertile."""
    known = age[~np.isnan(age)]
    tertile = np.full(len(age), 3)
    if len(known):
        cuts = np.quantile(known, [1 / 3, 2 / 3])
        tertile[~np.isnan(age)] = np.searchsorted(cuts, known, side="left")
    return tertile


def _balanced(n: int, labels: Sequence[str], fractions: Sequence[float]) -> list[str]:
    """Return n labels in an order in which every section contains about the right shares.

    Each place gets the label that is furthest behind its share.
    """
    counts = np.zeros(len(labels))
    labels_in_order = []
    for place in range(1, n + 1):
        behind = np.round(np.asarray(fractions) * place - counts, 9)
        chosen = int(np.argmax(behind))
        counts[chosen] += 1
        labels_in_order.append(labels[chosen])
    return labels_in_order
