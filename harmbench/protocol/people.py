"""Subjects at sites as points in a feature space, and their distances in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.files.blocks import blocks

RAW_FEATURES = "features.random-conv.raw_test"
MIN_SUBJECTS = 10
"""Sites with fewer test subjects are left out."""
STRATA = 5
"""Number of age strata; subjects of unknown age are a further stratum."""

Floats = NDArray[np.float64]


class People(NamedTuple):
    """Subjects at sites (u,) with their age strata (u,), without those of small sites.

    A subject scanned at two sites is two entries. `average` (u, n) averages the cohort's rows.
    """

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
        """Return the number of subjects at a site."""
        return int((self.sites == site).sum())

    def note(self, text: str) -> str:
        """Return a note, with the names of the sites that were left out."""
        few = f"; without {', '.join(self.left_out)} (under {MIN_SUBJECTS} subjects)"
        return text + few if self.left_out else text

    def shuffled_sites(self, rows: NDArray, b: int, rng: np.random.Generator) -> NDArray:
        """Return the sites of some entries, shuffled within age strata; (b, rows)."""
        out = np.tile(self.sites[rows], (b, 1))
        strata = self.strata[rows]
        for level in np.unique(strata):
            at = np.flatnonzero(strata == level)
            out[:, at] = rng.permuted(out[:, at], axis=1)
        return out


def people_of(test: Cohort) -> People:
    """Return the subjects of a cohort at its sites; the images are not read."""
    table = test.participants.astype({"participant_id": str, "site": str})
    rows = table.groupby(["site", "participant_id"])
    sizes = table.groupby("site")["participant_id"].nunique()
    small = tuple(str(site) for site, size in sizes.items() if size < MIN_SUBJECTS)
    code = rows.ngroup().to_numpy()
    count = np.bincount(code)
    average = csr_array((1 / count[code], (code, np.arange(len(table)))))
    known = rows["age"].mean().reset_index()
    kept = np.flatnonzero(~known["site"].isin(small))
    known = known.iloc[kept]
    return People(
        known["participant_id"].to_numpy().astype(str),
        known["site"].to_numpy().astype(str),
        _age_strata(known["age"].to_numpy().astype(np.float64)),
        average[kept],
        small,
    )


def _age_strata(age: Floats) -> NDArray[np.intp]:
    known = age[~np.isnan(age)]
    if len(known) == 0:
        return np.zeros(len(age), np.intp)
    cuts = np.quantile(known, np.arange(1, STRATA) / STRATA)
    return np.where(np.isnan(age), STRATA, np.searchsorted(cuts, age)).astype(np.intp)


class Space(NamedTuple):
    """Points (u, d) in a feature space, with the subject (u,) of each."""

    points: Floats
    subjects: NDArray

    def distances(self) -> Iterator[tuple[slice, Floats, NDArray[np.bool_]]]:
        """Yield rows, their distances to all points, and which pairs are of two subjects.

        The distances come in blocks, because a whole matrix would not fit into memory for a large
        cohort. A block leaves room for about six copies of it.
        """
        for part in blocks(len(self.points), 48 * len(self.points)):
            pairs = self.subjects[part, None] != self.subjects
            yield part, cdist(self.points[part], self.points), pairs

    def kernel(self, bandwidth: float) -> Iterator[tuple[slice, Floats, NDArray[np.bool_]]]:
        """Yield the same blocks of the Gaussian kernel ``exp(-d^2 / (2 bandwidth^2))``."""
        for part, distances, pairs in self.distances():
            yield part, np.exp(-0.5 * (distances / bandwidth) ** 2), pairs


def space_of(inputs: MetricInputs, people: People, name: str) -> Space:
    """Return the features of a product, divided by their standard deviations in the raw images."""
    raw = np.asarray(inputs.arrays(RAW_FEATURES)["features"], np.float64)
    spread = raw.std(0)
    # A lower limit, so that a feature that hardly varies in the raw images does not dominate.
    scale = np.maximum(spread, 0.01 * spread.mean()) if spread.any() else np.ones_like(spread)
    scaled = np.asarray(inputs.arrays(name)["features"], np.float64) / scale
    return Space(people.average @ scaled, people.subjects)


def median_raw_distance(inputs: MetricInputs, people: People) -> float:
    """Return the median distance between raw images of two subjects, the same for all methods."""
    n = len(people.subjects)
    found, count = np.empty(n * (n - 1) // 2), 0
    for part, distances, pairs in space_of(inputs, people, RAW_FEATURES).distances():
        above = np.arange(n) > np.arange(n)[part, None]  # half of the pairs has the same median
        chosen = distances[pairs & above]
        found[count : count + len(chosen)] = chosen
        count += len(chosen)
    median = float(np.median(found[:count], overwrite_input=True))
    return median if median > 0 else 1.0
