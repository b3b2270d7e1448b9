"""People as points in a space of features: who counts, how far they are apart, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.files.blocks import blocks

RAW_FEATURES = "features.random-conv.raw_test"
MIN_SUBJECTS = 10
"""Sites with fewer test subjects are left out."""
STRATA = 5

Floats = NDArray[np.float64]


def gaussian_kernel(distances: ArrayLike, bandwidth: float) -> Floats:
    """Return ``exp(-d^2 / (2 bandwidth^2))`` of distances, same shape."""
    return np.exp(-0.5 * (np.asarray(distances, np.float64) / bandwidth) ** 2)


class People(NamedTuple):
    """Subjects at sites (u,), of all sites with enough of them, and the mean over their rows."""

    subjects: NDArray
    sites: NDArray
    strata: NDArray[np.intp]
    average: csr_array
    left_out: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the sites, sorted."""
        return [str(site) for site in np.unique(self.sites)]

    def size(self, site: str) -> int:
        """Return how many people a site has."""
        return int((self.sites == site).sum())


def people_of(test: Cohort) -> People:
    """Return the subjects of a cohort, of its sites with enough of them; images are not read."""
    table = test.participants.astype({"participant_id": str, "site": str})
    rows = table.groupby(["site", "participant_id"])
    sizes = table.groupby("site")["participant_id"].nunique()
    small = tuple(str(site) for site, size in sizes.items() if size < MIN_SUBJECTS)
    code = rows.ngroup().to_numpy()
    count = np.bincount(code)
    average = csr_array((1 / count[code], (code, np.arange(len(table)))))
    known = rows["age"].mean().reset_index()
    kept = np.flatnonzero(~known["site"].isin(small))
    subjects, sites, ages = (
        known[column].to_numpy()[kept] for column in ("participant_id", "site", "age")
    )
    subjects = subjects.astype(str)
    return People(
        subjects,
        sites.astype(str),
        _age_strata(ages.astype(np.float64)),
        average[kept],
        small,
    )


def _age_strata(age: Floats) -> NDArray[np.intp]:
    """Return the fifth of the ages that each row is in; those without one are a stratum."""
    known = age[~np.isnan(age)]
    if len(known) == 0:
        return np.zeros(len(age), np.intp)
    cuts = np.quantile(known, np.arange(1, STRATA) / STRATA)
    return np.where(np.isnan(age), STRATA, np.searchsorted(cuts, age)).astype(np.intp)


def shuffled(people: People, rows: NDArray, b: int, rng: np.random.Generator) -> NDArray:
    """Return the sites of some people, shuffled among those of similar age; (b, rows)."""
    out = np.tile(people.sites[rows], (b, 1))
    strata = people.strata[rows]
    for level in np.unique(strata):
        at = np.flatnonzero(strata == level)
        out[:, at] = rng.permuted(out[:, at], axis=1)
    return out


class Space(NamedTuple):
    """People as points of a space of features, (u, d), and who each of them is, (u,)."""

    points: Floats
    subjects: NDArray

    def keep(self, rows: NDArray) -> Space:
        """Return some of them."""
        return Space(self.points[rows], self.subjects[rows])

    def distances(self) -> Iterator[tuple[slice, Floats, NDArray[np.bool_]]]:
        """Yield the distances of blocks of people to all, and which pairs are of two subjects.

        A matrix of everyone's would grow with the square of the cohort; a block does not, with the
        half a dozen copies that are made of it.
        """
        for part in blocks(len(self.points), 48 * len(self.points)):
            pairs = self.subjects[part, None] != self.subjects
            yield part, cdist(self.points[part], self.points), pairs

    def kernel(self, bandwidth: float) -> Iterator[tuple[slice, Floats, NDArray[np.bool_]]]:
        """Yield the same of `gaussian_kernel`."""
        for part, distances, pairs in self.distances():
            yield part, gaussian_kernel(distances, bandwidth), pairs


def space_of(inputs: MetricInputs, people: People, name: str) -> Space:
    """Return people's features over the raw images' standard deviations."""
    raw = np.asarray(inputs.arrays(RAW_FEATURES)["features"], np.float64)
    spread = raw.std(0)
    # A feature that hardly varies in raw images must not become the loudest.
    scale = np.maximum(spread, 0.01 * spread.mean()) if spread.any() else np.ones_like(spread)
    scaled = np.asarray(inputs.arrays(name)["features"], np.float64) / scale
    return Space(people.average @ scaled, people.subjects)


def usual_distance(inputs: MetricInputs, people: People) -> float:
    """Return the median distance of two subjects' RAW images; the same for all methods."""
    n = len(people.subjects)
    found, count = np.empty(n * (n - 1) // 2), 0
    for part, distances, pairs in space_of(inputs, people, RAW_FEATURES).distances():
        above = np.arange(n) > np.arange(n)[part, None]  # each pair once: the median is the same
        chosen = distances[pairs & above]
        found[count : count + len(chosen)] = chosen
        count += len(chosen)
    median = float(np.median(found[:count], overwrite_input=True))
    return median if median > 0 else 1.0


def note_of(people: People, text: str) -> str:
    """Add to a note which sites were left out."""
    few = f"; without {', '.join(people.left_out)} (under {MIN_SUBJECTS} subjects)"
    return text + few if people.left_out else text
