"""Split a cohort by subject into parts for fitting, for training probes, and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import FOLDS, Cohort, RowKey
from harmbench.errors import HarmbenchError
from harmbench.seeding import rng_from

PARTS = ("fit", "probe", "test")
LEFT_OUT = "out"
"""Part of the rows of a site that is too small to be used."""


@dataclass(frozen=True)
class Fold:
    """Rows for fitting, training probes and scoring; boolean masks of shape (n,).

    `real` are images for distances between distributions.
    """

    fit: NDArray[np.bool_]
    probe: NDArray[np.bool_]
    test: NDArray[np.bool_]
    real: NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """The part of every row.

    Attributes
    ----------
    part : ndarray of str, shape (n,)
        ``"fit"``, ``"probe"`` or ``"test"``; ``"1"``, ``"2"``, ... if the data are cross-fitted;
        `LEFT_OUT` for a site that is too small.
    reason : str
        Reason for cross-fitting, and which sites are left out; "" for neither.
    """

    part: NDArray[np.str_]
    reason: str = ""

    @property
    def sentence(self) -> str:
        """What is done for the reason, for people."""
        return f"cross-fitting: {self.reason}" if self.cross_fitting else self.reason

    @property
    def used(self) -> NDArray[np.bool_]:
        """The rows that are not left out."""
        return self.part != LEFT_OUT

    @property
    def folds(self) -> list[str]:
        """Names of the folds of cross-fitting; empty for three parts."""
        return sorted(set(self.part) - {*PARTS, LEFT_OUT}, key=int)

    @property
    def cross_fitting(self) -> bool:
        """Whether the data are cross-fitted."""
        return bool(self.folds)

    def fits(self) -> dict[str, Fold]:
        """Return the fits of cross-fitting by name; empty for three parts.

        Fit k harmonizes fold k, which is scored, and the folds after it, on which probes are
        trained that are applied to fold k. It is fitted on the other folds. So neither the images
        that a probe is trained on nor those that it is applied to were seen by the fit. This is the
        three-part split, with the parts rotated.
        """
        names = self.folds
        n_probe = probe_folds(len(names))
        found = {}
        for k, name in enumerate(names):
            rotated = names[k + 1 :] + names[:k]
            probe, fit = (np.isin(self.part, own) for own in (rotated[:n_probe], rotated[n_probe:]))
            found[name] = Fold(fit, probe, self.part == name, real=probe)
        return found

    def scored(self) -> Fold:
        """Return the rows that are scored: all that are used, if the data are cross-fitted."""
        if self.cross_fitting:
            return Fold(self.used, self.used, self.used, self.used)
        fit, probe, test = (self.part == name for name in PARTS)
        return Fold(fit, probe, test, real=probe)


def probe_folds(folds: int) -> int:
    """Return the number of folds on which the probes for one fold are trained."""
    return max(1, (folds - 1) // 2)


def fewest_subjects(folds: int) -> int:
    """Return the smallest number of subjects of a site: two in the folds for one probe."""
    return folds if probe_folds(folds) > 1 else 2 * folds


def make_split(
    cohort: Cohort,
    seed: int,
    fractions: Sequence[float] = (0.4, 0.3, 0.3),
    least: int = 10,
    folds: int = FOLDS,
) -> Split:
    """Split a cohort by subject, stratified by site, within-site age tertile and sex.

    Subjects scanned at several sites (travelling subjects) are in ``test``. If a site would then
    have fewer than `least` subjects in a part, the data are cross-fitted instead: the subjects are
    divided into folds, and the parts are rotated (see `Split.fits`), so that every image is scored.
    All scans of a subject are in one fold.

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
    folds : int
        Number of folds of cross-fitting, 3 or more.

    Returns
    -------
    Split
        Independent of the order of the rows. Sites with fewer than `fewest_subjects` are
        left out.

    Raises
    ------
    HarmbenchError
        If fewer than two sites can be used, or the fractions are not valid.
    """
    valid = len(fractions) == len(PARTS) and all(f > 0 for f in fractions)
    if not valid or abs(sum(fractions) - 1) > 1e-6:
        raise HarmbenchError(
            f"split fractions {tuple(fractions)} must be three positive numbers with the sum 1 "
            f"({', '.join(PARTS)}), such as (0.4, 0.3, 0.3)"
        )
    site_of_row = cohort.column("site").astype(str)
    small, reason = _small_sites(cohort, site_of_row, fewest_subjects(folds))
    used = ~np.isin(site_of_row, list(small))
    subjects = _subject_table(cohort, used)
    sites = sorted({site for row in subjects["sites"] for site in row})
    parts = _three_parts(subjects, sites, seed, fractions)
    too_few = _too_few(subjects, sites, parts, least)
    if too_few:
        parts = _folds(subjects, sites, seed, folds)
    rows = cohort.participants["participant_id"].astype(str)
    part = [parts[name] if kept else LEFT_OUT for name, kept in zip(rows, used, strict=True)]
    return Split(np.array(part, dtype="<U5"), "; ".join(filter(None, [too_few, reason])))


def _small_sites(cohort: Cohort, sites: NDArray, fewest: int) -> tuple[set[str], str]:
    """Return the sites with too few subjects, and a sentence about them."""
    table = pd.DataFrame({"site": sites, "name": cohort.column("participant_id").astype(str)})
    counts = table.groupby("site")["name"].nunique()
    if len(counts) < 2:
        raise HarmbenchError(
            f"the cohort has {len(counts)} site ({', '.join(counts.index)}); harmonization needs "
            "two or more: check the site column"
        )
    small = counts[counts < fewest]
    if small.empty:
        return set(), ""
    held = ", ".join(f"{site} ({n})" for site, n in small.items())
    if len(counts) - len(small) < 2:
        raise HarmbenchError(
            f"fewer than two sites have {fewest} subjects; too few subjects at: {held}"
        )
    return set(small.index), (f"left out, because a site needs {fewest} subjects: {held}")


def thinned(cohort: Cohort, subjects: int, seed: int) -> Cohort:
    """Return a cohort with at most so many subjects per site, chosen at random.

    Parameters
    ----------
    cohort : Cohort
    subjects : int
        Largest number of subjects of a site.
    seed : int
        The data seed. A smaller number chooses some of the subjects that a larger one chooses.
    """
    names, sites = (cohort.column(name).astype(str) for name in ("participant_id", "site"))
    known = np.unique(names)
    rank = dict(zip(rng_from("subjects", seed).permutation(known), range(len(known)), strict=True))
    table = pd.DataFrame({"site": sites, "rank": [rank[name] for name in names]})
    within = table.groupby("site")["rank"].rank(method="dense")
    return cohort.subset((within <= subjects).to_numpy())


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


def _subject_table(cohort: Cohort, used: NDArray[np.bool_]) -> pd.DataFrame:
    """Return one row per subject of the used rows, sorted by name: sites, mean age, stated sex."""
    table = pd.DataFrame(
        {
            "name": cohort.column("participant_id").astype(str),
            "site": cohort.column("site").astype(str),
            "age": cohort.column("age").astype(float),
            "sex": [s if isinstance(s, str) else "" for s in cohort.column("sex")],
        }
    )
    grouped = table[used].sort_values(list(table)).groupby("name", sort=True)
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
        parts.update(zip(names, _deal(len(names), PARTS, fractions), strict=True))
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


def _folds(subjects: pd.DataFrame, sites: list[str], seed: int, count: int) -> dict[str, str]:
    names = [str(i + 1) for i in range(count)]
    parts: dict[str, str] = {}
    sizes = pd.DataFrame(0, index=names, columns=sites)
    for site in sites:
        own = _ordered_by_cell(subjects[subjects["sites"] == (site,)], seed, site)
        first = int(rng_from("split first fold", seed, site).integers(count))
        labels = _deal(len(own), names[first:] + names[:first], [1 / count] * count)
        parts.update(zip(own, labels, strict=True))
        sizes[site] += pd.Series(labels, dtype=str).value_counts().reindex(names, fill_value=0)
    travellers = subjects[subjects["sites"].map(len) > 1]
    rng = rng_from("split travellers", seed)
    for name in travellers.index[rng.permutation(len(travellers))]:
        own_sites = list(travellers["sites"][name])
        total = sizes[own_sites].sum(axis=1).to_numpy()
        fold = names[int(rng.choice(np.flatnonzero(total == total.min())))]
        parts[name] = fold
        sizes.loc[fold, own_sites] += 1
    return parts


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


def _deal(n: int, labels: Sequence[str], fractions: Sequence[float]) -> list[str]:
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
