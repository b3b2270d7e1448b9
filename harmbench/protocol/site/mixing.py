"""Mixing: whether the sites' harmonized images lie among each other, in a space of features.

Both metrics read the features of the fixed random network, each divided by its standard deviation
over the RAW test images, the same for all methods: the features' own scales differ by orders of
magnitude, and the largest of them see the head more than the scanner. The features of a subject's
slices and sessions at a site are averaged, so that neighbors are people.

Sites whose people differ do not mix even when harmonized perfectly, so the target is the oracle's
value; where there is no oracle it is what the raw images score with the sites shuffled among people
of similar age, the same for all methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.protocol.people import (
    MIN_SUBJECTS,
    RAW_FEATURES,
    People,
    Space,
    note_of,
    people_of,
    shuffled,
    space_of,
    usual_distance,
)
from harmbench.protocol.site.lisi import inverse_simpson, neighbor_probabilities
from harmbench.stats import (
    half_sample_orders,
    holm,
    normal_interval,
    squared_distance_interval,
    subsample,
    subsample_se,
)

FEATURES = "features.random-conv.test"
ORACLE = f"oracle:{FEATURES}"
SHUFFLED = "raw images, sites shuffled within age strata"

SAME = 1e-3
"""Images nearer than this share of the raw images' median distance count as equal."""
MAX_NEIGHBORS = 90
"""Three times the perplexity of 30 of Korsunsky 2019."""
NEAREST = 3
"""Times the number of neighbors: so many are looked at in a part of the people before all are."""
KEEP, SUBSETS = 0.8, 100
SPLITS, PERMUTATIONS, FLOOR_SHUFFLES = 100, 999, 20
ROUNDING = 1e-12

Floats = NDArray[np.float64]


# Arrays -----------------------------------------------------------------------------------------


def mmd_between(kernel: ArrayLike, pairs: ArrayLike, first: ArrayLike, second: ArrayLike) -> Floats:
    """Return the unbiased squared MMD of many pairs of samples out of one set of rows.

    Gretton 2012 (JMLR 13, 723), eq. 3, over the pairs of rows that are allowed: a subject never
    makes a pair with itself, not even across the samples.

    Parameters
    ----------
    kernel : array_like, shape (n, n)
    pairs : array_like of bool, shape (n, n)
        Which pairs count; without the diagonal.
    first, second : array_like of bool, shape (b, n)
        Rows of the samples.

    Returns
    -------
    ndarray, shape (b,)
        May be negative.
    """
    everyone = slice(0, len(np.asarray(kernel)))
    return _mmd([(everyone, np.asarray(kernel), np.asarray(pairs))], [(first, second)])[0]


def _mmd(
    rows: Iterable[tuple[slice, NDArray, NDArray]], samples: list[tuple[ArrayLike, ArrayLike]]
) -> list[Floats]:
    """Return `mmd_between` of several pairs of samples, from blocks of rows of the kernel.

    Each block is the slice of its rows, their kernel values and which pairs count, (rows, n) each.
    """
    sets = [tuple(np.asarray(one, np.float64) for one in pair) for pair in samples]
    sums = [np.zeros((3, 2, len(x))) for x, _ in sets]
    for part, kernel, pairs in rows:
        allowed = pairs.astype(np.float64)
        k = kernel.astype(np.float64) * allowed
        for (x, y), total in zip(sets, sums, strict=True):
            for at, (a, c) in enumerate(((x, x), (y, y), (x, y))):
                for which, matrix in enumerate((k, allowed)):
                    total[at, which] += np.einsum("bn,bn->b", a[:, part] @ matrix, c)
    means = [total[:, 0] / total[:, 1] for total in sums]
    return [xx + yy - 2 * xy for xx, yy, xy in means]


# iLISI ------------------------------------------------------------------------------------------


class _Near(NamedTuple):
    """Everyone's distances to some people, (rows, u), and the columns of the nearest, (rows, m)."""

    reach: Floats
    columns: NDArray[np.intp]

    @classmethod
    def of(cls, reach: Floats, m: int) -> _Near:
        m = min(m, reach.shape[1])
        return cls(reach, np.argpartition(reach, m - 1, axis=1)[:, :m])

    def weights(
        self, rows: NDArray[np.intp], kept: NDArray[np.bool_], k: int, same: float
    ) -> tuple[Floats, NDArray[np.intp]]:
        """Return the weights of these rows' neighbors among those kept, and their columns."""
        columns = self.columns[rows]
        distances = self.reach[rows[:, None], columns]
        near = np.where(kept[columns], distances, np.inf)
        far = np.partition(near, k - 1, axis=1)[:, k - 1]
        if np.any(far + same >= distances.max(1)):
            # Some neighbors may stand behind the nearest, and some as near as the last of them.
            columns = np.broadcast_to(np.arange(self.reach.shape[1]), (len(rows), len(kept)))
            near = np.where(kept, self.reach[rows], np.inf)
        return neighbor_probabilities(near, k, k / 3, same), columns


class _Group(NamedTuple):
    """Who is kept, (u,), everyone's site as a number, and the kept scans, (subjects, sites)."""

    kept: NDArray[np.bool_]
    site: NDArray[np.intp]
    scans: Floats

    @classmethod
    def of(cls, kept: NDArray[np.bool_], sites: NDArray, who: NDArray[np.intp]) -> _Group:
        names, site = np.unique(sites, return_inverse=True)
        scans = np.zeros((who.max() + 1, len(names)))
        np.add.at(scans, (who[kept], site[kept]), 1.0)
        return cls(kept, site, scans)


class _Mixing:
    """iLISI of people in a space, of parts of them, and under other sites."""

    def __init__(self, people: People, space: Space, same: float) -> None:
        self.people = people
        self.space = space
        self.same = same
        # Under the size of the smallest site, or a site on its own could not score 0.
        self.k = min(MAX_NEIGHBORS, min(map(people.size, people.names)) // 2)

    def of_parts(self, parts: NDArray[np.bool_]) -> Floats:
        """Return each site's median index within each part of the people; (parts, sites)."""
        return self._of([(kept, self.people.sites) for kept in parts])

    def of_labels(self, labels: NDArray) -> Floats:
        """Return each site's median index where everyone's site is another, (b, u); (b, sites)."""
        everyone = np.ones(len(self.people.sites), bool)
        return self._of([(everyone, sites) for sites in labels])

    def everyone(self) -> Floats:
        """Return each site's median index; (sites,)."""
        return self.of_labels(self.people.sites[None])[0]

    def _of(self, cases: list[tuple[NDArray[np.bool_], NDArray]]) -> Floats:
        """Return each site's median index among some people at some sites; (cases, sites)."""
        indices = np.zeros((len(cases), len(self.people.sites)))
        who = np.unique(self.people.subjects, return_inverse=True)[1]
        groups = [_Group.of(kept, sites, who) for kept, sites in cases]
        for block, distances, pairs in self.space.distances():
            # Of a part of the people, the nearest in it are nearly always among these.
            near = _Near.of(np.where(pairs, distances, np.inf), NEAREST * self.k)
            for index, group in zip(indices, groups, strict=True):
                rows = np.flatnonzero(group.kept[block])
                if len(rows):
                    index[block][rows] = self._index(near, rows, group, who[block][rows])
        return np.array(
            [
                self._medians(index[kept], sites[kept])
                for index, (kept, sites) in zip(indices, cases, strict=True)
            ]
        )

    def _index(self, near: _Near, rows: NDArray[np.intp], group: _Group, who: NDArray) -> Floats:
        """Return the index of some rows of a block, which are of these subjects, in a group."""
        # Fewer neighbors among fewer people, so that they are as near as among all.
        k = max(2, round(self.k * group.kept.sum() / len(group.kept)))
        p, columns = near.weights(rows, group.kept, k, self.same)
        there = group.site[columns]
        weights = [np.where(there == s, p, 0.0).sum(1) for s in range(group.scans.shape[1])]
        # A subject's own scans are no neighbors of it.
        shares = group.scans.sum(0) - group.scans[who]
        return inverse_simpson(np.stack(weights, 1), shares / shares.sum(1, keepdims=True))

    @staticmethod
    def _medians(index: Floats, sites: NDArray) -> Floats:
        """Return the median of each site's people, scaled to [0, 1]."""
        names = np.unique(sites)
        return (np.array([np.median(index[sites == name]) for name in names]) - 1) / (
            len(names) - 1
        )


@metric(
    label="iLISI",
    axis="site removal",
    level="core",
    direction="target",
    range=(0.0, 1.0),
    needs=("raw.test", FEATURES, RAW_FEATURES),
    wants=(ORACLE,),
    anchors=("identity", "oracle"),
    real_anchors=("identity", f"floor:{SHUFFLED}"),
    expected_order=(("mean-image",), ("shuffle", "oracle"), ("identity",)),
    extractor="random-conv",
    doi="10.1038/s41592-019-0619-0",
)
def ilisi(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """How many sites stand among an image's nearest neighbors: 0 its own only, 1 all alike.

    Integration local inverse Simpson's index of Korsunsky 2019, scaled as in Luecken 2022
    (10.1038/s41592-021-01336-8), with two changes: sites count as if they were of equal size, and
    the value is the mean of the sites' medians, so that one site apart from the others is seen.
    With few neighbors even perfect mixing scores under 1: read it against its target.

    The number of neighbors is half the subjects of the smallest site, at most 90; the perplexity
    is a third of it. A subject's scans at other sites are no neighbors of it. The interval is
    normal, with the error of delete-d subsampling: rather too long (1.1 to 1.6 times the spread of
    simulated test sets).
    """
    people = people_of(inputs.cohort("raw.test"))
    if len(people.names) < 2:
        return MetricResult.skipped(f"fewer than two sites have {MIN_SUBJECTS} test subjects")
    same = SAME * usual_distance(inputs, people)
    measure = _Mixing(people, space_of(inputs, people, FEATURES), same)
    subsets = measure.of_parts(subsample(people.subjects, KEEP, SUBSETS, rng, people.sites))
    values = measure.everyone()
    raw = _Mixing(people, space_of(inputs, people, RAW_FEATURES), same)
    shuffles = shuffled(people, np.arange(len(people.sites)), FLOOR_SHUFFLES, rng)
    floor = float(np.mean(raw.of_labels(shuffles)))
    target = floor
    if ORACLE in inputs:
        target = float(_Mixing(people, space_of(inputs, people, ORACLE), same).everyone().mean())
    change = (subsets.mean(1) - subsets.mean()) * np.sqrt(KEEP / (1 - KEEP))
    return MetricResult(
        overall=_subsampled(values.mean(), subsets.mean(1), len(np.unique(people.subjects))),
        groups={
            site: _subsampled(value, subset, people.size(site))
            for site, value, subset in zip(people.names, values, subsets.T, strict=True)
        },
        target=target,
        floors={SHUFFLED: floor},
        replicates=values.mean() + change,
        note=note_of(people, f"{measure.k} neighbors"),
    )


def _subsampled(value: float, subsets: Floats, n: int) -> Estimate:
    se = subsample_se(subsets, KEEP)
    return Estimate(float(value), *normal_interval(float(value), se, bounds=(0.0, 1.0)), n)


# MMD --------------------------------------------------------------------------------------------


def _mmd_by_site(
    people: People, space: Space, bandwidth: float, reference: str, parts: list[NDArray[np.bool_]]
) -> list[Floats]:
    """Return the MMD of each other site to the reference site in subsets; (b, sites) a part."""
    others = [site for site in people.names if site != reference]
    samples = [
        (kept & (people.sites == reference), kept & (people.sites == site))
        for kept in parts
        for site in others
    ]
    values = _mmd(space.kernel(bandwidth), samples)
    k = len(others)
    return [np.stack(values[i * k : (i + 1) * k], axis=1) for i in range(len(parts))]


def _permuted(
    people: People,
    space: Space,
    bandwidth: float,
    reference: str,
    site: str,
    rng: np.random.Generator,
) -> Floats:
    """Return the MMD of one site with labels shuffled within age strata; (permutations,)."""
    rows = np.flatnonzero(np.isin(people.sites, (reference, site)))
    sites = shuffled(people, rows, PERMUTATIONS, rng)
    samples = [(sites == reference, sites == site)]
    return _mmd(space.keep(rows).kernel(bandwidth), samples)[0]


@metric(
    label="MMD",
    axis="site removal",
    level="core",
    direction="target",
    needs=("raw.test", FEATURES, RAW_FEATURES),
    wants=(ORACLE,),
    anchors=("identity", "oracle"),
    real_anchors=("identity", f"floor:{SHUFFLED}"),
    expected_order=(("mean-image", "shuffle", "oracle"), ("identity",)),
    extractor="random-conv",
    doi="https://jmlr.org/papers/v13/gretton12a.html",
)
def mmd(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Squared maximum mean discrepancy of each site's harmonized images to the reference site's.

    Unbiased (it may be negative), mean over the sites, Gaussian kernel whose bandwidth is the
    median distance of two subjects' RAW images: a method cannot move it. The permutation test
    shuffles the two sites among people of similar age (fifths of the ages).

    The interval is that of a squared distance, with the error of halves and their complements.
    """
    people, reference = people_of(inputs.cohort("raw.test")), inputs.reference_site
    if reference not in people.names or len(people.names) < 2:
        return MetricResult.skipped(
            f"the reference site {reference} and another site need {MIN_SUBJECTS} test subjects"
        )
    bandwidth = usual_distance(inputs, people)
    ours = space_of(inputs, people, FEATURES)
    everyone = np.ones((1, len(people.sites)), bool)
    halves = subsample(people.subjects, 0.5, SPLITS, rng, people.sites)
    others = [site for site in people.names if site != reference]
    values, first, second = _mmd_by_site(
        people, ours, bandwidth, reference, [everyone, halves, ~halves]
    )
    permuted = np.stack(
        [_permuted(people, ours, bandwidth, reference, site, rng) for site in others], axis=1
    )
    p = (1 + (permuted >= values - ROUNDING).sum(0)) / (PERMUTATIONS + 1)
    raw = space_of(inputs, people, RAW_FEATURES)
    floor = float(np.mean([_permuted(people, raw, bandwidth, reference, s, rng) for s in others]))
    target = floor
    if ORACLE in inputs:
        oracle = space_of(inputs, people, ORACLE)
        target = float(_mmd_by_site(people, oracle, bandwidth, reference, [everyone])[0].mean())
    n = len(np.unique(people.subjects))
    overall, replicates = _halved(values.mean(), first.mean(1), second.mean(1), n)
    apart = int((holm(p) < 0.05).sum())
    return MetricResult(
        overall=overall,
        groups={
            site: _halved(values[0, i], first[:, i], second[:, i], people.size(site))[0]
            for i, site in enumerate(others)
        },
        target=target,
        floors={SHUFFLED: floor},
        replicates=replicates,
        arrays={"sites": np.array(others), "p": p},
        note=note_of(people, f"apart beyond age at {apart} of {len(others)} sites"),
    )


def _halved(value: float, first: Floats, second: Floats, n: int) -> tuple[Estimate, Floats]:
    """Return an estimate with the error of halves, and replicates that vary by that error."""
    variance = half_sample_orders(first, second)
    change = (first - second) / 2
    change -= change.mean()
    estimate = Estimate(float(value), *squared_distance_interval(float(value), variance, n - 1), n)
    return estimate, value + change * (variance.se / (change.std(ddof=1) or 1.0))
