"""Individual differences: whether subjects that differed before harmonizing still do after it.

Per site, the Euclidean distances of all pairs of its subjects are correlated before and after
(upper triangles; the paper's "PCC"). Sites are pooled by Fisher's z with r cut at 1 - 1e-7, each
weighing its number of subjects; the reference site is left out, because harmonizing it to itself
is no test. A constant image for everyone has distances 0, and the correlation of a constant is 0.

One entry of a matrix is one subject: of several sessions at a site the first is taken, of several
slices those that all subjects of the site share, as one long vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist, squareform

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.files.blocks import blocks, image_bytes, take
from harmbench.stats import (
    REPLICATES,
    fisher_pool,
    mantel_p,
    percentile_interval,
    ranks,
    subject_counts,
    weighted_pair_correlation,
)

MIN_SUBJECTS = 5
PERMUTATIONS = 999

Floats = NDArray[np.float64]


class _Site(NamedTuple):
    """Rows of one site: (subjects, slices) positions in the cohort, one row a subject."""

    name: str
    rows: NDArray[np.intp]


def _sites(cohort: Cohort, reference_site: str) -> list[_Site]:
    """Find the sites with enough subjects, without the reference site, sorted by name."""
    table = cohort.participants.reset_index(drop=True)
    found = []
    for name in cohort.sites:
        if name == reference_site:
            continue
        here = table[table["site"] == name]
        first = here.groupby("participant_id")["session_id"].transform("min")
        here = here[here["session_id"] == first]
        position = here.assign(row=here.index).pivot_table(
            index="participant_id", columns="slice", values="row", aggfunc="first"
        )
        shared = position.dropna(axis="columns")
        if shared.shape[1] and len(shared) >= MIN_SUBJECTS:
            found.append(_Site(str(name), shared.to_numpy().astype(np.intp)))
    return found


def pair_distances(images: NDArray, rows: NDArray[np.intp]) -> Floats:
    """Return the condensed Euclidean distances of subjects.

    Parameters
    ----------
    images : ndarray, shape (n, *shape)
    rows : ndarray of int, shape (k, slices)
        The rows of each of k subjects.

    Returns
    -------
    ndarray of float64, shape (k * (k - 1) / 2,)
        Upper triangle, row by row, as `scipy.spatial.distance.pdist` orders it. Subjects are read
        in blocks, which changes no bit.
    """
    k, width = len(rows), 2 * image_bytes(images) * rows.shape[1]

    def vectors(part: slice) -> Floats:
        wanted = take(images, rows[part].ravel())
        return wanted.reshape(len(rows[part]), -1).astype(np.float64)

    parts = list(blocks(k, width))
    out = np.empty(k * (k - 1) // 2)
    for i, part in enumerate(parts):
        own = vectors(part)
        if len(parts) == 1:
            return pdist(own)
        for other in parts[i:]:
            between = cdist(own, own if other is part else vectors(other))
            for row, found in zip(range(k)[part], between, strict=True):
                later = max(other.start, row + 1)
                if later < other.stop:
                    # Before the pairs of a row stand those of all rows above it.
                    at = row * k - row * (row + 1) // 2 + later - row - 1
                    out[at : at + other.stop - later] = found[later - other.start :]
    return out


def _as_they_are(distances: Floats) -> Floats:
    return distances


def _correlate(
    before: Cohort,
    after: Cohort,
    inputs: MetricInputs,
    rng: np.random.Generator,
    scale: Callable[[Floats], Floats] = _as_they_are,
) -> MetricResult:
    """Correlate two cohorts' distances, scaled first, in each site; pool and resample subjects.

    Ranks are taken once, not in each replicate: they belong to the scale, not to the sample.
    """
    table = before.participants
    weights = subject_counts(table["participant_id"], REPLICATES, rng, strata=table["site"])
    sites = _sites(before, inputs.reference_site)
    if not sites:
        return MetricResult.skipped(
            f"no site but the reference site has {MIN_SUBJECTS} subjects with shared slices"
        )
    arrays: dict[str, NDArray] = {}
    points, replicates, p_values = [], [], []
    for site in sites:
        first, second = (pair_distances(c.images, site.rows) for c in (before, after))
        arrays[f"before.{site.name}"], arrays[f"after.{site.name}"] = first, second
        x, y = squareform(scale(first)), squareform(scale(second))
        points.append(weighted_pair_correlation(x, y, np.ones((1, len(x))))[0])
        replicates.append(weighted_pair_correlation(x, y, weights[:, site.rows[:, 0]]))
        p_values.append(mantel_p(x, y, PERMUTATIONS, rng))
    sizes = np.array([len(site.rows) for site in sites])
    pooled = fisher_pool(np.stack(replicates, axis=1), sizes)
    groups = {
        site.name: Estimate(
            float(r), *percentile_interval(reps, df=len(site.rows) - 1), len(site.rows)
        )
        for site, r, reps in zip(sites, points, replicates, strict=True)
    }
    value, worst = float(fisher_pool(points, sizes)), max(p_values)
    arrays |= {"sites": np.array([site.name for site in sites]), "mantel_p": np.array(p_values)}
    return MetricResult(
        overall=Estimate(
            value,
            *percentile_interval(pooled, df=int(sizes.sum()) - len(sizes)),
            int(sizes.sum()),
        ),
        groups=groups,
        replicates=pooled,
        arrays=arrays,
        note=f"not above chance at every site (Mantel p = {worst:.2f})" if worst >= 0.05 else "",
    )


@metric(
    label="Distance PCC",
    axis="individuals",
    level="five",
    direction="higher",
    goal=1.0,
    range=(-1.0, 1.0),
    needs=("raw.test", "harmonized.test"),
    expected_order=(("identity", "site-shift"), ("shuffle",)),
    doi="arXiv:2408.15890",
)
def distance_pcc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Pearson correlation of pairwise image distances before and after, within sites.

    Doing nothing scores 1: read it beside `distance_pcc_truth`.
    """
    return _correlate(inputs.cohort("raw.test"), inputs.cohort("harmonized.test"), inputs, rng)


@metric(
    label="Distance Spearman",
    axis="individuals",
    level="full",
    direction="higher",
    goal=1.0,
    range=(-1.0, 1.0),
    needs=("raw.test", "harmonized.test"),
    expected_order=(("identity", "site-shift"), ("shuffle",)),
    doi="arXiv:2408.15890",
)
def distance_spearman(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Spearman correlation of pairwise image distances before and after, within sites."""
    before, after = inputs.cohort("raw.test"), inputs.cohort("harmonized.test")
    return _correlate(before, after, inputs, rng, ranks)


@metric(
    label="Distance PCC to truth",
    axis="individuals",
    level="five",
    direction="higher",
    goal=1.0,
    range=(-1.0, 1.0),
    needs=("truth.test", "harmonized.test"),
    anchors=("shuffle", "oracle"),
    expected_order=(("oracle",), ("shuffle", "mean-image")),
)
def distance_pcc_truth(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Pearson correlation of pairwise distances of harmonized images with those of the truth.

    The truth is an independent noisy rescan of the same subjects at the reference site; neither
    doing nothing nor blurring scores 1.
    """
    return _correlate(inputs.cohort("truth.test"), inputs.cohort("harmonized.test"), inputs, rng)
