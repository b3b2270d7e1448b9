"""Which subjects and probe seeds a replicate holds: weights and subsets."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REPLICATES = 1000


def _rescaled(n: int, b: int, rng: np.random.Generator) -> Floats:
    """Rao-Wu weights of n units: n - 1 drawn with replacement, scaled to the mean 1; (b, n)."""
    if n == 1:
        return np.ones((b, 1))
    return rng.multinomial(n - 1, np.full(n, 1.0 / n), size=b) * (n / (n - 1.0))


def _subjects_and_strata(
    subjects: ArrayLike, strata: ArrayLike | None
) -> tuple[NDArray[np.intp], list[NDArray[np.intp]]]:
    """Code of each row's subject, and the codes of the subjects of each stratum."""
    names, codes = np.unique(np.asarray(subjects).astype(str), return_inverse=True)
    if strata is None:
        return codes, [np.arange(len(names))]
    seen: list[set[str]] = [set() for _ in names]
    for code, stratum in zip(codes, np.asarray(strata).astype(str), strict=True):
        seen[code].add(stratum)
    members: dict[tuple[str, ...], list[int]] = {}
    for code, sites in enumerate(seen):
        members.setdefault(tuple(sorted(sites)), []).append(code)
    groups = [np.array(members[key]) for key in sorted(members)]
    # One subject alone has no variance to show: such strata are resampled as one.
    alone = [group for group in groups if len(group) == 1]
    groups = [group for group in groups if len(group) > 1]
    return codes, groups + ([np.concatenate(alone)] if alone else [])


def subject_counts(
    subjects: ArrayLike,
    b: int,
    rng: np.random.Generator,
    strata: ArrayLike | None = None,
) -> Floats:
    """Draw bootstrap weights of subjects, shared by all rows of a subject.

    The bootstrap is rescaled (Rao & Wu 1988, 10.1080/01621459.1988.10478591): of the m subjects of
    a stratum m - 1 are drawn with replacement and count m / (m - 1) each, which makes the variance
    of a mean unbiased; the plain bootstrap is (m - 1) / m too small, felt at sites of ten.

    Pass the sites as `strata`, for balanced accuracy too: how many subjects a site has is part of
    the design, not of chance, so it stays fixed, no site or class vanishes from a replicate, and
    rows picked afterwards by site are themselves a proper resample.

    Parameters
    ----------
    subjects : array_like of str, shape (n,)
        The participant of each row.
    b : int
        Number of replicates.
    rng : numpy Generator
        The draw depends on the set of subjects and strata, not on the order of the rows.
    strata : array_like of str, shape (n,), optional
        Usually the sites. A subject seen in several belongs to the stratum of that combination;
        strata of a single subject are merged.

    Returns
    -------
    ndarray of float64, shape (b, n)
        Not negative; over the subjects of a stratum the mean is 1 in every replicate.
    """
    codes, groups = _subjects_and_strata(subjects, strata)
    weights = np.empty((b, int(codes.max(initial=-1)) + 1))
    for group in groups:
        weights[:, group] = _rescaled(len(group), b, rng)
    return weights[:, codes]


def seed_weights(n_seeds: int, b: int, rng: np.random.Generator) -> Floats:
    """Draw weights of probe seeds, shape (b, n_seeds), each row adding up to 1.

    Rescaled as in `subject_counts`: with three seeds the plain bootstrap would show only two
    thirds of the variance. One seed has all the weight, and its noise cannot be known.
    """
    return _rescaled(n_seeds, b, rng) / n_seeds


def over_seeds(values: ArrayLike, weights: ArrayLike) -> Floats:
    """Average replicates (b, s) over the probe seeds by `seed_weights` (b, s); shape (b,)."""
    return np.einsum("bs,bs->b", np.asarray(values, float), np.asarray(weights, float))


def subsample(
    subjects: ArrayLike,
    fraction: float,
    b: int,
    rng: np.random.Generator,
    strata: ArrayLike | None = None,
) -> Bools:
    """Draw subsets of subjects without replacement (delete-d), for `subsample_se`.

    Parameters
    ----------
    subjects, b, rng, strata
        As in `subject_counts`.
    fraction : float
        Share of the subjects of each stratum to keep, in (0, 1); rounded, at least one.

    Returns
    -------
    ndarray of bool, shape (b, n)
        Which rows each subset keeps.
    """
    codes, groups = _subjects_and_strata(subjects, strata)
    keep = np.zeros((b, int(codes.max(initial=-1)) + 1), dtype=bool)
    for group in groups:
        m = max(1, round(fraction * len(group)))
        order = np.argsort(rng.random((b, len(group))), axis=1)[:, :m]
        keep[np.arange(b)[:, None], group[order]] = True
    return keep[:, codes]
