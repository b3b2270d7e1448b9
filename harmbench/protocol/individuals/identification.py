"""Identification: whether a harmonized image resembles the same subject and no other.

Every harmonized scan of another site than the reference (a probe) is compared with scans at the
reference site of the same and of other subjects (the gallery). With simulated data the gallery
consists of the truth's independent rescans of all test subjects. Otherwise it consists of the
harmonized scans of the reference site, and the probes are the scans of travelling subjects, who
were also scanned there.

An entry is a subject at a site: the slices that all entries have, of the first session. Only voxels
in the union of the scans' masks are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.files.blocks import blocks
from harmbench.protocol.resampled import KEEP, subsample_estimate, subsample_replicates
from harmbench.stats import subsample

TRUTH = "truth.test"
ORACLE = "oracle:harmonized.test"

GALLERY = 20
"""Largest number of subjects in a gallery, with the probe's own subject."""
MIN_OTHERS = 4
AGE_RANGE = 10.0
"""Largest difference in age between the probe and the others in its gallery, years."""
MIN_PROBES = 10
SUBSETS = 200

Floats = NDArray[np.float64]


class Entries(NamedTuple):
    """Subjects at sites: names (u,), rows of the cohort (u, slices), ages and sexes (u,)."""

    subjects: NDArray
    sites: NDArray
    rows: NDArray[np.intp]
    ages: Floats
    sexes: NDArray

    def keep(self, which: NDArray | slice) -> Entries:
        """Return some of the entries."""
        subjects, sites, rows, ages, sexes = self
        return Entries(subjects[which], sites[which], rows[which], ages[which], sexes[which])


def entries(cohort: Cohort) -> Entries:
    """Return the entries of a cohort, sorted by subject and site."""
    table = cohort.participants.assign(row=np.arange(len(cohort)))
    unit = ["participant_id", "site"]
    first = table.groupby(unit)["session_id"].transform("min")
    table = table[table["session_id"] == first].astype({"participant_id": str, "site": str})
    rows = table.pivot_table(index=unit, columns="slice", values="row", aggfunc="first")
    known = table.drop_duplicates(unit).set_index(unit).loc[rows.index]
    return Entries(
        rows.index.get_level_values(0).to_numpy().astype(str),
        rows.index.get_level_values(1).to_numpy().astype(str),
        rows.dropna(axis="columns").to_numpy().astype(np.intp),
        known["age"].to_numpy(np.float64),
        known["sex"].fillna("").to_numpy().astype(str),
    )


class Match(NamedTuple):
    """Root mean square differences (p, g) of probes from gallery entries, and their candidates.

    These are the gallery entries of the probe's own subject (p,) and of others (p, l), see
    `similar_people`.
    """

    distances: Floats
    own: NDArray[np.intp]
    others: NDArray[np.intp]


def similar_people(probes: Entries, gallery: Entries) -> NDArray[np.intp]:
    """Return the other subjects of each probe's sex within `AGE_RANGE`, nearest in age first.

    They are positions in the gallery (p, l), filled up with -1. A probe of unknown age or sex has
    none.
    """
    gap = np.abs(probes.ages[:, None] - gallery.ages)
    similar = (
        (gap <= AGE_RANGE)
        & (probes.sexes[:, None] == gallery.sexes)
        & (probes.sexes != "")[:, None]
        & (probes.subjects[:, None] != gallery.subjects)
    )
    gap = np.where(similar, gap, np.inf)
    order = np.argsort(gap, axis=1, kind="stable")[:, : int(similar.sum(1).max(initial=0))]
    return np.where(np.take_along_axis(similar, order, axis=1), order, -1)


class Identified(NamedTuple):
    """Of each probe (p,): whether it is identified, its margin, and the size of its gallery."""

    rank1: Floats
    margin: Floats
    size: NDArray[np.intp]


def identify(match: Match, present: NDArray[np.bool_] | None = None) -> Identified:
    """Find each probe's own subject among it and the `GALLERY` - 1 others nearest in age.

    Only entries that are `present` (g,) may be in a gallery; all by default.

    Returns
    -------
    Identified
        `rank1` is 1 if the own subject is nearest (1 / ties if several are), else 0. `margin` is
        ``(d_other - d_own) / (d_other + d_own)`` with the nearest other. Both are NaN if there are
        fewer than `MIN_OTHERS` others.
    """
    distances, others = match.distances, match.others
    here = np.ones(distances.shape[1], bool) if present is None else present
    chosen = (others >= 0) & here[others]
    chosen &= np.cumsum(chosen, axis=1) < GALLERY
    count = chosen.sum(1)
    own = np.take_along_axis(distances, match.own[:, None], axis=1)[:, 0]
    there = np.where(chosen, np.take_along_axis(distances, others, axis=1), np.inf)
    nearest = there.min(1, initial=np.inf)
    ties = (there == own[:, None]).sum(1)
    scored = (count >= MIN_OTHERS) & here[match.own]
    rank1 = np.where(own <= nearest, 1.0 / (1.0 + ties), 0.0)
    nearest = np.where(scored, nearest, 0.0)
    total = nearest + own
    margin = (nearest - own) / np.where(total > 0, total, 1.0)
    return Identified(np.where(scored, rank1, np.nan), np.where(scored, margin, np.nan), count + 1)


def _people(inputs: MetricInputs) -> tuple[Entries, Entries, Cohort]:
    """Return the probes, the gallery, and the cohort with the gallery's images."""
    ours, reference = inputs.cohort("harmonized.test"), inputs.reference_site
    found = entries(ours)
    away = found.sites != reference
    if TRUTH in inputs:
        _, first = np.unique(found.subjects, return_index=True)
        return found.keep(away), found.keep(first), inputs.cohort(TRUTH)
    gallery = found.keep(~away)
    return found.keep(away & np.isin(found.subjects, gallery.subjects)), gallery, ours


def _vectors(cohort: Cohort, rows: NDArray[np.intp], mask: NDArray[np.bool_]) -> Floats:
    inside = cohort.images[rows][..., mask]
    width = rows.shape[1] * int(mask.sum())
    return inside.reshape(len(rows), width).astype(np.float64)


def _matches(
    inputs: MetricInputs, product: str, kept: NDArray[np.bool_]
) -> Iterator[tuple[slice, Match]]:
    """Compare the images of a product with the galleries, in blocks of probes.

    Only entries that can be in a gallery are compared, with all test rows or with one of the
    subsets `kept` (b, n) of them; all other distances are infinite.
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
    """Drop the columns of others who are in no gallery, of all rows or of one subset (b, g)."""
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


def _result(
    inputs: MetricInputs, rng: np.random.Generator, low: float, column: str
) -> MetricResult:
    """Average a field of `Identified`, not less than `low`, over the probes."""
    probes, gallery, _ = _people(inputs)
    if probes.rows.shape[1] == 0:
        return MetricResult.skipped("the scans share no slice")
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
    if scored.sum() < MIN_PROBES:
        return MetricResult.skipped(
            f"{int(scored.sum())} scans have their own subject and {MIN_OTHERS} similar ones at "
            f"the reference site (a truth, or travelling subjects); {MIN_PROBES} are needed"
        )

    def estimate(which: NDArray[np.bool_]) -> Estimate:
        means = _row_means(subsets[:, which])
        n = len(np.unique(probes.subjects[which]))
        return subsample_estimate(values[which].mean(), means[np.isfinite(means)], n, low)

    target = float("nan")
    if ORACLE in inputs and TRUTH in inputs:
        best = [getattr(identify(m), column) for _, m in _matches(inputs, ORACLE, kept[:0])]
        target = float(np.concatenate(best)[scored].mean())
    scans = pd.DataFrame({"participant_id": probes.subjects, "site": probes.sites})
    return MetricResult(
        overall=estimate(scored),
        groups={
            str(site): estimate(scored & (probes.sites == site))
            for site in np.unique(probes.sites[scored])
        },
        target=target,
        floors={"chance": float((1 / size[scored]).mean())} if column == "rank1" else {},
        replicates=subsample_replicates(values[scored].mean(), _row_means(subsets)),
        per_scan=scans.assign(**{column: values, "gallery": size})[scored],
        note=f"{'rescans' if TRUTH in inputs else 'travelling subjects'}, galleries of "
        f"{size[scored].min()} to {size[scored].max()}",
    )


def _row_means(subsets: Floats) -> Floats:
    """Return the mean of the finite values of each row, NaN if there is none."""
    return np.ma.masked_invalid(subsets).mean(1).filled(np.nan)


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
    """Share of harmonized scans whose nearest scan at the reference site is of the same subject.

    The scans of other sites are compared with up to 20 subjects of the same sex and within 10 years
    of age, by Euclidean distance in the brain; so neither age nor sex identifies a subject.

    The floor is chance. The interval is normal, with the error of delete-d subsampling, because in
    a bootstrap sample a subject would be compared with copies of itself.
    """
    return _result(inputs, rng, 0.0, "rank1")


@metric(label="Identification margin", range=(-1.0, 1.0), **_DECLARED)
def identification_margin(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """How much nearer the subject's own scan at the reference site is than the nearest other scan.

    This is the mean over scans of ``(d_other - d_own) / (d_other + d_own)`` in the galleries of
    `identification`. It distinguishes methods with which all subjects are identified.
    """
    return _result(inputs, rng, -1.0, "margin")
