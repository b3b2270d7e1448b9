"""Mixing: whether the harmonized images of the sites overlap in a feature space.

Both metrics use the features of the fixed random network, divided by their standard deviations over
the raw test images, which are the same for all methods. Without this the scales of the features
differ by orders of magnitude, and the largest features depend more on the head than on the scanner.
The features of all slices and sessions of a subject at a site are averaged, so that neighbors are
people.

Sites with different populations do not mix even after perfect harmonization. Therefore the target
is the oracle's value. Without an oracle it is the value of the raw images if the sites are shuffled
among people of similar age, which is the same for all methods.
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
    Floats,
    People,
    Space,
    median_raw_distance,
    people_of,
    space_of,
)
from harmbench.protocol.resampled import KEEP, half_sample_replicates, subsample_estimate
from harmbench.protocol.site.lisi import Mixing
from harmbench.stats import half_sample_orders, holm, squared_distance_interval, subsample

FEATURES = "features.random-conv.test"
ORACLE = f"oracle:{FEATURES}"
SHUFFLED = "raw images, sites shuffled within age strata"

SAME = 1e-3
"""Images closer than this share of the raw images' median distance count as equal."""
SUBSETS, SPLITS, PERMUTATIONS, FLOOR_SHUFFLES = 100, 100, 999, 20
ROUNDING = 1e-12

_DECLARED = {
    "axis": "site removal",
    "level": "core",
    "direction": "target",
    "needs": ("raw.test", FEATURES, RAW_FEATURES),
    "wants": (ORACLE,),
    "anchors": ("identity", "oracle"),
    "real_anchors": ("identity", f"floor:{SHUFFLED}"),
    "extractor": "random-conv",
}


@metric(
    label="iLISI",
    range=(0.0, 1.0),
    expected_order=(("mean-image",), ("shuffle", "oracle"), ("identity",)),
    doi="10.1038/s41592-019-0619-0",
    **_DECLARED,
)
def ilisi(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Number of sites among an image's nearest neighbors: 0 only its own, 1 all equally.

    This is the integration local inverse Simpson's index of Korsunsky 2019, scaled as in Luecken
    2022 (10.1038/s41592-021-01336-8), with two changes: sites count as if they had the same size,
    and the value is the mean of the sites' medians, so that a single separate site has an effect.
    With few neighbors even perfect mixing scores less than 1, so compare the value with its target.

    The number of neighbors is half the subjects of the smallest site, at most 90; the perplexity
    is a third of it. A subject's scans at other sites are not neighbors of it. The interval is
    normal, with the error of delete-d subsampling, and rather too long (1.1 to 1.6 times the spread
    of simulated test sets).
    """
    people = people_of(inputs.cohort("raw.test"))
    if len(people.names) < 2:
        return MetricResult.skipped(f"fewer than two sites have {MIN_SUBJECTS} test subjects")
    same = SAME * median_raw_distance(inputs, people)
    measure = Mixing(people, space_of(inputs, people, FEATURES), same)
    subsets = measure.medians(subsample(people.subjects, KEEP, SUBSETS, rng, people.sites))
    values = measure.medians()[0]
    raw = Mixing(people, space_of(inputs, people, RAW_FEATURES), same)
    shuffles = people.shuffled_sites(np.arange(len(people.sites)), FLOOR_SHUFFLES, rng)
    target = floor = float(np.mean(raw.medians(labels=shuffles)))
    if ORACLE in inputs:
        target = float(Mixing(people, space_of(inputs, people, ORACLE), same).medians().mean())
    change = (subsets.mean(1) - subsets.mean()) * np.sqrt(KEEP / (1 - KEEP))
    return MetricResult(
        overall=subsample_estimate(values.mean(), subsets.mean(1), len(np.unique(people.subjects))),
        groups={
            site: subsample_estimate(value, subset, people.size(site))
            for site, value, subset in zip(people.names, values, subsets.T, strict=True)
        },
        target=target,
        floors={SHUFFLED: floor},
        replicates=values.mean() + change,
        note=people.note(f"{measure.k} neighbors"),
    )


def unbiased_mmd(
    rows: Iterable[tuple[slice, NDArray, NDArray]], samples: list[tuple[ArrayLike, ArrayLike]]
) -> list[Floats]:
    """Return the unbiased squared MMD of many pairs of samples from one set of n rows.

    Gretton 2012 (JMLR 13, 723), eq. 3, over the allowed pairs of rows: a subject never makes a
    pair with itself, not even across the samples.

    Parameters
    ----------
    rows : iterable of tuple
        Blocks of rows: their slice, their kernel values (rows, n), and which pairs are allowed
        (rows, n), without the diagonal.
    samples : list of pair of array_like of bool, shape (b, n)
        Rows of the first and of the second sample. Each pair gives an array (b,).
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


class _Discrepancy(NamedTuple):
    """The MMD between the reference site and other sites in a feature space."""

    people: People
    space: Space
    bandwidth: float
    reference: str
    others: list[str]

    def of_parts(self, parts: list[NDArray[np.bool_]]) -> list[Floats]:
        """Return the MMD of each other site in subsets (b, u) of the people; (b, sites) each."""
        sites, k = self.people.sites, len(self.others)
        samples = [
            (kept & (sites == self.reference), kept & (sites == site))
            for kept in parts
            for site in self.others
        ]
        values = unbiased_mmd(self.space.kernel(self.bandwidth), samples)
        return [np.stack(values[i * k : (i + 1) * k], axis=1) for i in range(len(parts))]

    def permuted(self, site: str, rng: np.random.Generator) -> Floats:
        """Return the MMD of a site with sites shuffled within age strata; (permutations,)."""
        rows = np.flatnonzero(np.isin(self.people.sites, (self.reference, site)))
        sites = self.people.shuffled_sites(rows, PERMUTATIONS, rng)
        samples = [(sites == self.reference, sites == site)]
        space = Space(self.space.points[rows], self.space.subjects[rows])
        return unbiased_mmd(space.kernel(self.bandwidth), samples)[0]


@metric(
    label="MMD",
    expected_order=(("mean-image", "shuffle", "oracle"), ("identity",)),
    doi="https://jmlr.org/papers/v13/gretton12a.html",
    **_DECLARED,
)
def mmd(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Squared maximum mean discrepancy between the images of each site and of the reference site.

    The value is the mean over the sites. It is unbiased and may be negative. The bandwidth of the
    Gaussian kernel is the median distance between two subjects' raw images, so a method cannot
    change it. The permutation test shuffles the two sites among people of similar age (fifths of
    the ages).

    The interval is that of a squared distance, with the error of halves and their complements.
    """
    people, reference = people_of(inputs.cohort("raw.test")), inputs.reference_site
    if reference not in people.names or len(people.names) < 2:
        return MetricResult.skipped(
            f"the reference site {reference} and another site need {MIN_SUBJECTS} test subjects"
        )
    bandwidth = median_raw_distance(inputs, people)
    others = [site for site in people.names if site != reference]

    def between(features: str) -> _Discrepancy:
        space = space_of(inputs, people, features)
        return _Discrepancy(people, space, bandwidth, reference, others)

    everyone = np.ones((1, len(people.sites)), bool)
    halves = subsample(people.subjects, 0.5, SPLITS, rng, people.sites)
    ours, raw = between(FEATURES), between(RAW_FEATURES)
    values, first, second = ours.of_parts([everyone, halves, ~halves])
    permuted = np.stack([ours.permuted(site, rng) for site in others], axis=1)
    p = (1 + (permuted >= values - ROUNDING).sum(0)) / (PERMUTATIONS + 1)
    target = floor = float(np.mean([raw.permuted(site, rng) for site in others]))
    if ORACLE in inputs:
        target = float(between(ORACLE).of_parts([everyone])[0].mean())
    n = len(np.unique(people.subjects))
    overall, replicates = _halved(values.mean(), first.mean(1), second.mean(1), n)
    different = int((holm(p) < 0.05).sum())
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
        note=people.note(f"different beyond age at {different} of {len(others)} sites"),
    )


def _halved(value: float, first: Floats, second: Floats, n: int) -> tuple[Estimate, Floats]:
    """Return an estimate with the error of halves and their complements, and its replicates."""
    variance = half_sample_orders(first, second)
    estimate = Estimate(float(value), *squared_distance_interval(float(value), variance, n - 1), n)
    return estimate, half_sample_replicates(value, first, second, variance.se)
