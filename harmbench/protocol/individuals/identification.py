"""Identity: whether a harmonized image is still that person's, and no one else's.

Every harmonized scan from another site than the reference is compared with scans of the same and of
other people at the reference site. On simulated data these are the truth's independent rescans,
of all test subjects; elsewhere they are the harmonized scans of the reference site, and the people
compared are the travelling subjects, who were scanned there, too.

One entry is one subject at one site: of several sessions there the first, of several slices those
that all share, as one long vector. Only voxels inside the union of the scans' masks count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.files.blocks import blocks
from harmbench.stats import normal_interval, subsample, subsample_se

TRUTH = "truth.test"
ORACLE = "oracle:harmonized.test"

GALLERY = 20
"""Most people in a gallery, its owner among them."""
LEAST_OTHERS = 4
AGE_RANGE = 10.0
"""Years that another person of a gallery may be older or younger."""
MIN_PROBES = 10
KEEP, SUBSETS = 0.8, 200

Floats = NDArray[np.float64]


# Entries ----------------------------------------------------------------------------------------


class Entries(NamedTuple):
    """Subjects at sites: names (u,), rows of the cohort (u, slices), ages and sexes (u,)."""

    subjects: NDArray
    sites: NDArray
    rows: NDArray[np.intp]
    ages: Floats
    sexes: NDArray

    def keep(self, which: NDArray | slice) -> Entries:
        """Return some of them."""
        subjects, sites, rows, ages, sexes = self
        return Entries(subjects[which], sites[which], rows[which], ages[which], sexes[which])


def entries(cohort: Cohort) -> Entries:
    """Return each subject at each site, sorted by subject and site, with the slices all share."""
    table = cohort.participants.assign(row=np.arange(len(cohort)))
    home = ["participant_id", "site"]
    first = table.groupby(home)["session_id"].transform("min")
    table = table[table["session_id"] == first].astype({"participant_id": str, "site": str})
    rows = table.pivot_table(index=home, columns="slice", values="row", aggfunc="first")
    known = table.drop_duplicates(home).set_index(home).loc[rows.index]
    return Entries(
        rows.index.get_level_values(0).to_numpy().astype(str),
        rows.index.get_level_values(1).to_numpy().astype(str),
        rows.dropna(axis="columns").to_numpy().astype(np.intp),
        known["age"].to_numpy(np.float64),
        known["sex"].fillna("").to_numpy().astype(str),
    )


# Galleries --------------------------------------------------------------------------------------


class Match(NamedTuple):
    """Probes (p,) against a gallery (g,).

    Attributes
    ----------
    distances : ndarray, shape (p, g)
        Euclidean, root mean square over voxels.
    own : ndarray of int, shape (p,)
        The entry of the probe's own subject.
    others : ndarray of int, shape (p, l)
        Other people of the same sex within `AGE_RANGE`, nearest in age first; -1 fills up.
    """

    distances: Floats
    own: NDArray[np.intp]
    others: NDArray[np.intp]


def similar_people(probes: Entries, gallery: Entries) -> NDArray[np.intp]:
    """Return for every probe the others of its sex and within `AGE_RANGE`, nearest in age first.

    Returns
    -------
    ndarray of int, shape (p, l)
        Positions in the gallery, filled up with -1. A probe without age or sex has no others.
    """
    gap = np.abs(probes.ages[:, None] - gallery.ages)
    suits = (
        (gap <= AGE_RANGE)
        & (probes.sexes[:, None] == gallery.sexes)
        & (probes.sexes != "")[:, None]
        & (probes.subjects[:, None] != gallery.subjects)
    )
    gap = np.where(suits, gap, np.inf)
    order = np.argsort(gap, axis=1, kind="stable")[:, : int(suits.sum(1).max(initial=0))]
    return np.where(np.take_along_axis(suits, order, axis=1), order, -1)


class Identified(NamedTuple):
    """Of every probe: whether identified, its margin, and the size of its gallery; (p,) each."""

    rank1: Floats
    margin: Floats
    size: NDArray[np.intp]


def identify(match: Match, present: NDArray[np.bool_] | None = None) -> Identified:
    """Find every probe's own subject in its gallery.

    A gallery is the own subject and the `GALLERY` - 1 similar people who are nearest in age.

    Parameters
    ----------
    match : Match
    present : ndarray of bool, shape (g,), optional
        Who may be in a gallery; everyone by default.

    Returns
    -------
    Identified
        `rank1` is 1 where the own subject is nearest (shared among ties), else 0; `margin` is
        ``(d_other - d_own) / (d_other + d_own)`` with the nearest other. Both are NaN where there
        are fewer than `LEAST_OTHERS`.
    """
    distances, others = match.distances, match.others
    here = np.ones(distances.shape[1], bool) if present is None else present
    suits = (others >= 0) & here[others]
    suits &= np.cumsum(suits, axis=1) < GALLERY
    count = suits.sum(1)
    own = np.take_along_axis(distances, match.own[:, None], axis=1)[:, 0]
    there = np.where(suits, np.take_along_axis(distances, others, axis=1), np.inf)
    nearest = there.min(1, initial=np.inf)
    ties = (there == own[:, None]).sum(1)
    scored = (count >= LEAST_OTHERS) & here[match.own]
    rank1 = np.where(own <= nearest, 1.0 / (1.0 + ties), 0.0)
    nearest = np.where(scored, nearest, 0.0)
    total = nearest + own
    margin = (nearest - own) / np.where(total > 0, total, 1.0)
    nowhere = np.full(len(own), np.nan)
    return Identified(
        np.where(scored, rank1, nowhere), np.where(scored, margin, nowhere), count + 1
    )


def _people(inputs: MetricInputs) -> tuple[Entries, Entries, Cohort]:
    """Return probes, gallery, and the cohort that the gallery's rows are of."""
    ours, reference = inputs.cohort("harmonized.test"), inputs.reference_site
    found = entries(ours)
    if TRUTH in inputs:
        _, first = np.unique(found.subjects, return_index=True)
        return found.keep(found.sites != reference), found.keep(first), inputs.cohort(TRUTH)
    gallery = found.keep(found.sites == reference)
    travelled = np.isin(found.subjects, gallery.subjects) & (found.sites != reference)
    return found.keep(travelled), gallery, ours


def _vectors(cohort: Cohort, rows: NDArray[np.intp], mask: NDArray[np.bool_]) -> Floats:
    inside = cohort.images[rows][..., mask]
    width = rows.shape[1] * int(mask.sum())
    return inside.reshape(len(rows), width).astype(np.float64)


def _matches(
    inputs: MetricInputs, product: str, kept: NDArray[np.bool_]
) -> Iterator[tuple[slice, Match]]:
    """Compare the images of a product with the galleries, in blocks of probes.

    Only with those who can be in a gallery, of everyone or of a subset of the test rows `kept`,
    (b, n); all other distances are infinite.
    """
    probes, gallery, reference = _people(inputs)
    mask = inputs.cohort("harmonized.test").mask.any(0)
    images, present = inputs.cohort(product), kept[:, gallery.rows[:, 0]]
    for part in blocks(len(probes.subjects), 48 * len(gallery.subjects)):
        some = probes.keep(part)
        own = np.searchsorted(gallery.subjects, some.subjects)
        others = _reached(similar_people(some, gallery), present)
        distances = np.full((len(own), len(gallery.subjects)), np.inf)
        for row, found in enumerate(np.column_stack([own, others])):
            who = found[found >= 0]
            ours = _vectors(images, some.rows[row : row + 1], mask)
            theirs = _vectors(reference, gallery.rows[who], mask)
            distances[row, who] = cdist(ours, theirs) / np.sqrt(max(ours.shape[1], 1))
        yield part, Match(distances, own, others)


def _reached(others: NDArray[np.intp], present: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Leave out the others whom no gallery reaches, everyone's or one of those present, (b, g)."""
    reach = 2 * GALLERY
    while reach < others.shape[1]:
        near, beyond = others[:, :reach], others[:, reach] >= 0
        if all(
            ((near >= 0) & here[near])[beyond].sum(1).min(initial=GALLERY) >= GALLERY - 1
            for here in present
        ):
            return near
        reach *= 2
    return others


# Metrics ----------------------------------------------------------------------------------------


def _why_not(probes: Entries, scored: NDArray[np.bool_]) -> str:
    if probes.rows.shape[1] == 0:
        return "the scans share no slice"
    if scored.sum() >= MIN_PROBES:
        return ""
    return (
        f"{int(scored.sum())} scans have their own subject and {LEAST_OTHERS} similar ones at the "
        f"reference site (a truth, or travelling subjects); {MIN_PROBES} are needed"
    )


def _identified(
    inputs: MetricInputs, rng: np.random.Generator, low: float, column: str
) -> MetricResult:
    """Average one field of `Identified` over the probes, with delete-d subsampling of subjects."""
    probes, gallery, _ = _people(inputs)
    table = inputs.cohort("harmonized.test").participants
    kept = subsample(table["participant_id"], KEEP, SUBSETS, rng, strata=table["site"])
    values, size = np.full(len(probes.subjects), np.nan), np.zeros(len(probes.subjects), np.intp)
    subsets = np.full((len(kept), len(values)), np.nan)
    for part, match in _matches(inputs, "harmonized.test", kept):
        found = identify(match)
        values[part], size[part] = getattr(found, column), found.size
        for subset, here in zip(subsets, kept[:, gallery.rows[:, 0]], strict=True):
            subset[part] = getattr(identify(match, here), column)
    scored = np.isfinite(values)
    if reason := _why_not(probes, scored):
        return MetricResult.skipped(reason)
    means = _means(subsets)
    target = float("nan")
    if ORACLE in inputs and TRUTH in inputs:
        best = [getattr(identify(m), column) for _, m in _matches(inputs, ORACLE, kept[:0])]
        target = float(np.concatenate(best)[scored].mean())
    estimate = _estimator(probes, values, subsets, low)
    centered = (means - means.mean()) * np.sqrt(KEEP / (1 - KEEP))
    names = {"participant_id": probes.subjects, "site": probes.sites}
    return MetricResult(
        overall=estimate(scored),
        groups={
            str(site): estimate(scored & (probes.sites == site))
            for site in np.unique(probes.sites[scored])
        },
        target=target,
        floors={"chance": float((1 / size[scored]).mean())} if column == "rank1" else {},
        replicates=values[scored].mean() + centered,
        per_scan=pd.DataFrame({**names, column: values, "gallery": size})[scored],
        note=f"{'rescans' if TRUTH in inputs else 'travelling subjects'}, galleries of "
        f"{size[scored].min()} to {size[scored].max()}",
    )


def _means(subsets: Floats) -> Floats:
    """Mean of each row over what is there; NaN where nothing is."""
    there = np.isfinite(subsets)
    count = there.sum(1)
    total = np.where(there, subsets, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _estimator(
    probes: Entries, values: Floats, subsets: Floats, low: float
) -> Callable[[NDArray[np.bool_]], Estimate]:
    def estimate(which: NDArray[np.bool_]) -> Estimate:
        value = float(values[which].mean())
        means = _means(subsets[:, which])
        se = subsample_se(means[np.isfinite(means)], KEEP)
        n = len(np.unique(probes.subjects[which]))
        return Estimate(value, *normal_interval(value, se, bounds=(low, 1.0)), n)

    return estimate


_DECLARED = {
    "axis": "individuals",
    "level": "core",
    "direction": "higher",
    "needs": ("harmonized.test",),
    "wants": (TRUTH, ORACLE),
    "expected_order": (("oracle",), ("shuffle", "mean-image")),
}


@metric(
    label="Identification",
    goal=1.0,
    range=(0.0, 1.0),
    anchors=("shuffle", "oracle"),
    real_anchors=("floor:chance", "identity"),
    **_DECLARED,
)
def identification(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Share of harmonized scans whose nearest scan at the reference site is the same person's.

    Nearest among up to 20 people of the same sex and within 10 years of age, by Euclidean distance
    in the brain; so neither age nor sex can be what is recognized. Scans of other sites only.

    The floor is chance. The interval is normal, with the error of delete-d subsampling: in a
    bootstrap sample a person would compete with himself.
    """
    return _identified(inputs, rng, 0.0, "rank1")


@metric(label="Identification margin", range=(-1.0, 1.0), **_DECLARED)
def identification_margin(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """By how much the person's own scan at the reference site is nearer than the nearest other's.

    ``(d_other - d_own) / (d_other + d_own)`` in the galleries of `identification`, mean over
    scans: it still tells methods apart where all identify everyone.
    """
    return _identified(inputs, rng, -1.0, "margin")
