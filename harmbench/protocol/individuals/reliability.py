"""Reliability: how much of the variance of regional means is between people, not between scanners.

The intraclass correlation of single scans, one-way (Shrout & Fleiss 1979,
10.1037/0033-2909.86.2.420, case 1): people are random, and whatever differs between scans of one
person, the site included, is error. People differ by age too, which is no reliability, so age is
taken out as a fixed effect. Estimated by restricted maximum likelihood, because not everyone has
the same number of scans.

Regions are the blocks of a fixed grid, `PARTS` along each axis, of which at least half lies in the
union of the scans' masks; voxels outside the union do not count. Of a table each feature is one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.files.blocks import blocks, image_bytes
from harmbench.protocol.individuals.identification import ORACLE, TRUTH, Entries, entries
from harmbench.stats import normal_interval, subsample, subsample_se

PARTS = 6
MIN_SUBJECTS = 10
KEEP, SUBSETS = 0.8, 200
_GOLDEN = (np.sqrt(5.0) - 1) / 2
_STEPS = 40  # of golden section: 4e-9 of the interval
_TOP = 1.0 - 1e-9
_FLAT = 1e-10
"""Standard deviations below this share of the mean intensity are rounding."""

Floats = NDArray[np.float64]


# Regions ----------------------------------------------------------------------------------------


def regions(mask: NDArray[np.bool_], parts: int = PARTS) -> NDArray[np.intp]:
    """Return the number of each voxel's region, -1 for none.

    Parameters
    ----------
    mask : ndarray of bool, shape (*shape)
        Union of the scans' masks.
    parts : int
        Blocks along each axis; with one axis every entry is a block.

    Returns
    -------
    ndarray of int, shape (*shape)
        Numbers from 0 without a gap; -1 outside the mask and in blocks less than half inside.
    """
    if mask.ndim == 1:
        parts = len(mask)  # of a table of features each is a region
    block = np.zeros(mask.shape, np.intp)
    for axis, size in enumerate(mask.shape):
        place = np.arange(size) * parts // size
        block = block * parts + place.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
    total = np.bincount(block.ravel(), minlength=parts**mask.ndim)
    inside = np.bincount(block[mask], minlength=len(total))
    kept = (inside > 0) & (2 * inside >= total)
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    return np.where(mask, number[block], -1)


def regional_means(images: NDArray, numbers: NDArray[np.intp]) -> Floats:
    """Return the mean of each image in each region of `regions`; shape (n, regions)."""
    flat = numbers.ravel()
    voxels = np.flatnonzero(flat >= 0)
    own = flat[voxels]
    share = 1.0 / np.bincount(own)[own]
    weights = csr_array((share, (own, voxels)), shape=(own.max(initial=-1) + 1, flat.size))
    means = np.empty((len(images), weights.shape[0]))
    for rows in blocks(len(images), 4 * image_bytes(images)):
        means[rows] = (weights @ images[rows].reshape(-1, flat.size).T.astype(np.float64)).T
    return means


# REML -------------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """Weighted sums over subjects with `size` ratings; S of shapes (b, ...) for each size.

    `cross` holds the products of (1, covariates..., mean rating), (sizes, b, regions, p+1, p+1).
    """

    sizes: Floats
    counts: Floats
    cross: Floats
    within: Floats


def icc_reml(
    values: ArrayLike, subjects: ArrayLike, covariate: ArrayLike, weights: ArrayLike | None = None
) -> Floats:
    """Return the one-way intraclass correlation of single ratings, adjusted for a covariate.

    ``y_ij = b0 + b1 x_i + u_i + e_ij`` with ``ICC = var u / (var u + var e)``, by restricted
    maximum likelihood (Patterson & Thompson 1971, 10.1093/biomet/58.3.545). In terms of the ICC
    alone the likelihood has one dimension; it is searched by golden section. With equal numbers of
    ratings and no covariate it is ICC(1) of the analysis of variance, where that is positive.

    Parameters
    ----------
    values : array_like, shape (n, r)
        Ratings of r things.
    subjects : array_like, shape (n,)
        Who each row is of.
    covariate : array_like, shape (n,)
        The same in all rows of a subject; a constant for none.
    weights : array_like, shape (b, n), optional
        Of the subjects, the same in all rows of one; ones by default.

    Returns
    -------
    ndarray, shape (b, r)
        In [0, 1]; 0 where the ratings are constant.
    """
    y = np.asarray(values, np.float64)
    w = np.ones((1, len(y))) if weights is None else np.asarray(weights, np.float64)
    # A common scale changes no correlation and keeps the sums well conditioned.
    spread, level = y.std(0), np.abs(y).max(0, initial=0.0)
    flat = spread <= _FLAT * level
    y = (y - y.mean(0)) / np.where(flat, 1.0, spread)
    sums = _sums(y, np.asarray(subjects), np.asarray(covariate, np.float64), w)
    low, high = np.zeros((len(w), y.shape[1])), np.full((len(w), y.shape[1]), _TOP)
    for _ in range(_STEPS):
        step = _GOLDEN * (high - low)
        left, right = high - step, low + step
        better = _deviance(left, sums) < _deviance(right, sums)
        low, high = np.where(better, low, left), np.where(better, right, high)
    found = (low + high) / 2
    found = np.where(_deviance(np.zeros_like(found), sums) <= _deviance(found, sums), 0.0, found)
    return np.where(flat, 0.0, found)


def _sums(y: Floats, subjects: NDArray, covariate: Floats, w: Floats) -> _Sums:
    _, first, code, size = np.unique(
        subjects, return_index=True, return_inverse=True, return_counts=True
    )
    member = csr_array((1.0 / size[code], (code, np.arange(len(y)))))
    mean = member @ y
    within = size[:, None] * (member @ (y - mean[code]) ** 2)
    x = covariate[first] - covariate[first].mean()
    fixed = [np.ones_like(x)] + ([x / x.std()] if x.std() > 0 else [])
    columns = np.stack([np.broadcast_to(f[:, None], mean.shape) for f in fixed] + [mean], axis=2)
    products = columns[..., :, None] * columns[..., None, :]
    own = w[:, first]
    sizes = np.unique(size)
    groups = [size == k for k in sizes]
    return _Sums(
        sizes.astype(np.float64),
        np.stack([own[:, g].sum(1) for g in groups]),
        np.stack([np.tensordot(own[:, g], products[g], axes=1) for g in groups]),
        np.stack([own[:, g] @ within[g] for g in groups]).sum(0),
    )


def _deviance(icc: Floats, sums: _Sums) -> Floats:
    """Return -2 log restricted likelihood, up to a constant, the variance profiled out; (b, r)."""
    ratio = icc / (1 - icc)
    sizes = sums.sizes[:, None, None]
    inflation = 1 + sizes * ratio
    cross = ((sizes / inflation)[..., None, None] * sums.cross).sum(0)
    counts = sums.counts[:, :, None]
    fixed, p = cross[..., :-1, :-1], cross.shape[-1] - 1
    slope = np.linalg.solve(fixed, cross[..., :-1, -1:])[..., 0]
    between = cross[..., -1, -1] - (slope * cross[..., :-1, -1]).sum(-1)
    freedom = (sizes * counts).sum(0) - p
    rest = np.maximum(sums.within + between, np.finfo(float).tiny)
    log_det = (counts * np.log(inflation)).sum(0) + np.linalg.slogdet(fixed)[1]
    return freedom * np.log(rest) + log_det


# The metric -------------------------------------------------------------------------------------


class _Ratings(NamedTuple):
    """Regional means (n, r) with the subject, the age and the first row of the cohort of each."""

    values: Floats
    subjects: NDArray
    ages: Floats
    rows: NDArray[np.intp]


def _ratings(inputs: MetricInputs, product: str) -> _Ratings:
    """Return the harmonized scans, and, where there is a truth, the rescans beside them.

    With a truth of other sites only: at the reference site there is nothing to harmonize.
    """
    ours = inputs.cohort(product)
    mask = inputs.cohort("harmonized.test").mask.any(0)
    numbers = regions(mask)
    found = entries(ours)
    known = ~np.isnan(found.ages)
    both: list[Entries]
    if TRUTH in inputs:
        found = found.keep((found.sites != inputs.reference_site) & known)
        _, first = np.unique(found.subjects, return_index=True)
        both = [found, found.keep(first)]
        cohorts = [ours, inputs.cohort(TRUTH)]
    else:
        names, counts = np.unique(found.subjects[known], return_counts=True)
        found = found.keep(np.isin(found.subjects, names[counts > 1]) & known)
        both, cohorts = [found], [ours]
    parts = [_means(*pair, numbers) for pair in zip(cohorts, both, strict=True)]
    subjects = np.concatenate([part.subjects for part in both])
    ages = np.concatenate([part.ages for part in both])
    rows = np.concatenate([part.rows[:, 0] for part in both])
    names, code = np.unique(subjects, return_inverse=True)
    mean_age = np.bincount(code, ages) / np.bincount(code) if len(names) else np.empty(0)
    return _Ratings(np.concatenate(parts), subjects, mean_age[code], rows)


def _means(cohort: Cohort, found: Entries, numbers: NDArray[np.intp]) -> Floats:
    """Regional means of entries, averaged over their slices; (u, regions)."""
    values = [regional_means(cohort.images[column], numbers) for column in found.rows.T]
    return np.mean(values, axis=0)


@metric(
    label="ICC of regions",
    axis="individuals",
    level="full",
    direction="higher",
    goal=1.0,
    range=(0.0, 1.0),
    needs=("harmonized.test",),
    wants=(TRUTH, ORACLE),
    expected_order=(("oracle",), ("shuffle", "mean-image")),
    doi="10.1037/0033-2909.86.2.420",
)
def icc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Intraclass correlation of regional mean intensities, adjusted for age; mean over regions.

    On simulated data between a harmonized scan of another site and an independent rescan at the
    reference site; elsewhere between the harmonized scans of travelling subjects.

    The interval is normal, with the error of delete-d subsampling: bootstrap samples hold fewer
    different people, which lowers the variance between them.
    """
    if entries(inputs.cohort("harmonized.test")).rows.shape[1] == 0:
        return MetricResult.skipped("the scans share no slice")
    found = _ratings(inputs, "harmonized.test")
    people = np.unique(found.subjects)
    if len(people) < MIN_SUBJECTS or found.values.shape[1] == 0:
        return MetricResult.skipped(
            f"{len(people)} people have two scans to compare (a truth, or travelling subjects); "
            f"{MIN_SUBJECTS} are needed"
        )
    table = inputs.cohort("harmonized.test").participants
    kept = subsample(table["participant_id"], KEEP, SUBSETS, rng, strata=table["site"])
    values = icc_reml(found.values, found.subjects, found.ages)[0]
    subsets = icc_reml(found.values, found.subjects, found.ages, kept[:, found.rows]).mean(1)
    value = float(values.mean())
    interval = normal_interval(value, subsample_se(subsets, KEEP), bounds=(0.0, 1.0))
    target = float("nan")
    if ORACLE in inputs and TRUTH in inputs:
        best = _ratings(inputs, ORACLE)
        target = float(icc_reml(best.values, best.subjects, best.ages).mean())
    numbers = regions(inputs.cohort("harmonized.test").mask.any(0))
    return MetricResult(
        overall=Estimate(value, *interval, len(people)),
        target=target,
        replicates=value + (subsets - subsets.mean()) * np.sqrt(KEEP / (1 - KEEP)),
        arrays={"icc": values, "regions": numbers},
        note=f"{len(values)} regions",
    )
