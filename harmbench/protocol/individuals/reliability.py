"""Reliability: the share of the variance of regional means that is between subjects.

This is the one-way intraclass correlation of single scans (Shrout & Fleiss 1979,
10.1037/0033-2909.86.2.420, case 1): subjects are random, and all differences between scans of a
subject, such as the site, are error. Differences in age are not reliability, so age is a fixed
effect. The estimate uses restricted maximum likelihood, because subjects have different numbers of
scans.

Regions are the blocks of a fixed grid, `PARTS` along each axis, of which at least half lies in the
union of the scans' masks; voxels outside the union do not count. In a table each feature is a
region.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.files.blocks import blocks, image_bytes
from harmbench.protocol.individuals.identification import (
    ORACLE,
    SUBSETS,
    TRUTH,
    Entries,
    entries,
)
from harmbench.protocol.resampled import KEEP, subsample_estimate, subsample_replicates
from harmbench.stats import subsample

PARTS = 6
MIN_SUBJECTS = 10
_GOLDEN = (np.sqrt(5.0) - 1) / 2
_STEPS = 40  # of the golden-section search: 4e-9 of the interval
_TOP = 1.0 - 1e-9
_FLAT = 1e-10
"""Standard deviations below this share of the mean intensity are rounding errors."""

Floats = NDArray[np.float64]


def regions(mask: NDArray[np.bool_], parts: int = PARTS) -> NDArray[np.intp]:
    """Return the number of each voxel's region in the union of the scans' masks, same shape.

    There are `parts` blocks along each axis; with one axis every entry is a block. The numbers
    start from 0 without gaps, and are -1 outside the mask and in blocks less than half inside.
    """
    if mask.ndim == 1:
        parts = len(mask)
    places = np.meshgrid(*(np.arange(n) * parts // n for n in mask.shape), indexing="ij")
    block = np.ravel_multi_index(tuple(places), (parts,) * mask.ndim)
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


class _Sums(NamedTuple):
    """Weighted sums over the subjects of each number of ratings (`sizes`).

    `cross` holds the products of (1, covariates..., mean rating), (sizes, b, r, p + 1, p + 1).
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
    maximum likelihood (Patterson & Thompson 1971, 10.1093/biomet/58.3.545). The likelihood is a
    function of the ICC alone, which is found by golden-section search. For equal numbers of ratings
    and no covariate the result is ICC(1) of the analysis of variance if that is positive.

    Parameters
    ----------
    values : array_like, shape (n, r)
        Ratings of r things.
    subjects : array_like, shape (n,)
        Subject of each row.
    covariate : array_like, shape (n,)
        Equal in all rows of a subject; a constant for none.
    weights : array_like, shape (b, n), optional
        Weights of the subjects, equal in all rows of a subject; 1 by default.

    Returns
    -------
    ndarray, shape (b, r)
        In [0, 1]; 0 if the ratings are constant.
    """
    y = np.asarray(values, np.float64)
    w = np.ones((1, len(y))) if weights is None else np.asarray(weights, np.float64)
    # Scaling changes no correlation and keeps the sums well conditioned.
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
    zero_is_best = _deviance(np.zeros_like(found), sums) <= _deviance(found, sums)
    return np.where(flat | zero_is_best, 0.0, found)


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
    """Return -2 log restricted likelihood, profiled over the variance, up to a constant; (b, r)."""
    ratio = icc / (1 - icc)
    sizes = sums.sizes[:, None, None]
    inflation = 1 + sizes * ratio
    cross = ((sizes / inflation)[..., None, None] * sums.cross).sum(0)
    counts = sums.counts[:, :, None]
    fixed, p = cross[..., :-1, :-1], cross.shape[-1] - 1
    slope = np.linalg.solve(fixed, cross[..., :-1, -1:])[..., 0]
    between = cross[..., -1, -1] - (slope * cross[..., :-1, -1]).sum(-1)
    df = (sizes * counts).sum(0) - p
    rest = np.maximum(sums.within + between, np.finfo(float).tiny)
    log_det = (counts * np.log(inflation)).sum(0) + np.linalg.slogdet(fixed)[1]
    return df * np.log(rest) + log_det


class _Ratings(NamedTuple):
    """Regional means (n, r), with subject, age and first row of the cohort of each (n,)."""

    values: Floats
    subjects: NDArray
    ages: Floats
    rows: NDArray[np.intp]


def _ratings(inputs: MetricInputs, product: str, numbers: NDArray[np.intp]) -> _Ratings:
    """Return the ratings of the harmonized scans and, if there is a truth, of the rescans.

    With a truth the scans of the reference site are left out, because they are not changed.
    """
    ours = inputs.cohort(product)
    found = entries(ours)
    found = found.keep(~np.isnan(found.ages))
    if TRUTH in inputs:
        found = found.keep(found.sites != inputs.reference_site)
        _, first = np.unique(found.subjects, return_index=True)
        both = [(ours, found), (inputs.cohort(TRUTH), found.keep(first))]
    else:
        names, counts = np.unique(found.subjects, return_counts=True)
        both = [(ours, found.keep(np.isin(found.subjects, names[counts > 1])))]
    values = [_slice_means(cohort, part, numbers) for cohort, part in both]
    subjects = np.concatenate([part.subjects for _, part in both])
    ages = np.concatenate([part.ages for _, part in both])
    rows = np.concatenate([part.rows[:, 0] for _, part in both])
    names, code = np.unique(subjects, return_inverse=True)
    mean_age = np.bincount(code, ages) / np.bincount(code) if len(names) else np.empty(0)
    return _Ratings(np.concatenate(values), subjects, mean_age[code], rows)


def _slice_means(cohort: Cohort, found: Entries, numbers: NDArray[np.intp]) -> Floats:
    """Return the regional means of entries, averaged over their slices; (u, regions)."""
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

    With simulated data it is computed between a harmonized scan of another site and an independent
    rescan at the reference site, otherwise between the harmonized scans of travelling subjects.

    The interval is normal, with the error of delete-d subsampling, because bootstrap samples
    contain fewer different subjects, which lowers the variance between them.
    """
    test = inputs.cohort("harmonized.test")
    if entries(test).rows.shape[1] == 0:
        return MetricResult.skipped("the scans share no slice")
    numbers = regions(test.mask.any(0))
    found = _ratings(inputs, "harmonized.test", numbers)
    n = len(np.unique(found.subjects))
    if n < MIN_SUBJECTS or found.values.shape[1] == 0:
        return MetricResult.skipped(
            f"{n} people have two scans to compare (a truth, or travelling subjects); "
            f"{MIN_SUBJECTS} are needed"
        )
    table = test.participants
    kept = subsample(table["participant_id"], KEEP, SUBSETS, rng, strata=table["site"])
    values = icc_reml(found.values, found.subjects, found.ages)[0]
    subsets = icc_reml(found.values, found.subjects, found.ages, kept[:, found.rows]).mean(1)
    value = float(values.mean())
    target = float("nan")
    if ORACLE in inputs and TRUTH in inputs:
        best = _ratings(inputs, ORACLE, numbers)
        target = float(icc_reml(best.values, best.subjects, best.ages).mean())
    return MetricResult(
        overall=subsample_estimate(value, subsets, n),
        target=target,
        replicates=subsample_replicates(value, subsets),
        arrays={"icc": values, "regions": numbers},
        note=f"{len(values)} regions",
    )
