"""Individual differences: whether subjects that differed before harmonization still differ.

At each site, the Euclidean distances between all pairs of its subjects before and after are
correlated (the "PCC" of the paper). The sites are pooled with Fisher's z, with r clipped at
1 - 1e-7, weighted by their number of subjects. The reference site is left out, because its images
are not changed. If all images are equal, the distances are 0, and the correlation is 0.

The image of a subject consists of the slices that all subjects of the site have, of the first
session.
"""

from __future__ import annotations

from collections.abc import Callable

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


def _rows_by_site(cohort: Cohort, reference_site: str) -> dict[str, NDArray[np.intp]]:
    """Return the rows (subjects, slices) of each site with enough subjects, not the reference."""
    table = cohort.participants.reset_index(drop=True)
    found = {}
    for name in cohort.sites:
        here = table[table["site"] == name]
        first = here.groupby("participant_id")["session_id"].transform("min")
        here = here[here["session_id"] == first]
        position = here.assign(row=here.index).pivot_table(
            index="participant_id", columns="slice", values="row", aggfunc="first"
        )
        shared = position.dropna(axis="columns")
        if name != reference_site and shared.shape[1] and len(shared) >= MIN_SUBJECTS:
            found[str(name)] = shared.to_numpy().astype(np.intp)
    return found


def pair_distances(images: NDArray, rows: NDArray[np.intp]) -> Floats:
    """Return the distances of `scipy.spatial.distance.pdist` between k subjects.

    Subjects, with the rows (k, slices) of images (n, *shape), are read in blocks.
    """
    k, width = len(rows), 2 * image_bytes(images) * rows.shape[1]

    def vectors(part: slice) -> Floats:
        wanted = take(images, rows[part].ravel())
        return wanted.reshape(len(rows[part]), -1).astype(np.float64)

    parts = list(blocks(k, width))
    if len(parts) == 1:
        return pdist(vectors(parts[0]))
    out = np.empty((k, k))
    for i, part in enumerate(parts):
        own = vectors(part)
        for other in parts[i:]:
            out[part, other] = cdist(own, own if other is part else vectors(other))
    return out[np.triu_indices(k, 1)]


def _correlation(
    inputs: MetricInputs,
    before: str,
    rng: np.random.Generator,
    scale: Callable[[Floats], Floats] = np.asarray,
) -> MetricResult:
    """Correlate the scaled distances in a product and in the harmonized images at each site.

    Ranks are computed once, not in each replicate.
    """
    cohorts = inputs.cohort(before), inputs.cohort("harmonized.test")
    table = cohorts[0].participants
    weights = subject_counts(table["participant_id"], REPLICATES, rng, strata=table["site"])
    sites = _rows_by_site(cohorts[0], inputs.reference_site)
    if not sites:
        return MetricResult.skipped(
            f"no site but the reference site has {MIN_SUBJECTS} subjects with shared slices"
        )
    arrays: dict[str, NDArray] = {}
    groups, replicates, p_values = {}, [], []
    for site, rows in sites.items():
        first, second = (pair_distances(cohort.images, rows) for cohort in cohorts)
        arrays[f"before.{site}"], arrays[f"after.{site}"] = first, second
        x, y = squareform(scale(first)), squareform(scale(second))
        r = float(weighted_pair_correlation(x, y, np.ones((1, len(x))))[0])
        replicates.append(weighted_pair_correlation(x, y, weights[:, rows[:, 0]]))
        p_values.append(mantel_p(x, y, PERMUTATIONS, rng))
        interval = percentile_interval(replicates[-1], df=len(rows) - 1)
        groups[site] = Estimate(r, *interval, len(rows))
    sizes = np.array([estimate.n for estimate in groups.values()])
    n, worst = int(sizes.sum()), max(p_values)
    value = float(fisher_pool([estimate.value for estimate in groups.values()], sizes))
    pooled = fisher_pool(np.stack(replicates, axis=1), sizes)
    arrays |= {"sites": np.array(list(sites)), "mantel_p": np.array(p_values)}
    return MetricResult(
        overall=Estimate(value, *percentile_interval(pooled, df=n - len(sizes)), n),
        groups=groups,
        replicates=pooled,
        arrays=arrays,
        note=f"not above chance at every site (Mantel p = {worst:.2f})" if worst >= 0.05 else "",
    )


_DECLARED = {"axis": "individuals", "direction": "higher", "goal": 1.0, "range": (-1.0, 1.0)}
_BEFORE_AND_AFTER = {
    **_DECLARED,
    "needs": ("raw.test", "harmonized.test"),
    "expected_order": (("identity", "site-shift"), ("shuffle",)),
    "doi": "arXiv:2408.15890",
}


@metric(label="Distance PCC", level="five", **_BEFORE_AND_AFTER)
def distance_pcc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Pearson correlation of pairwise image distances before and after, within sites.

    Unchanged images score 1, so read it together with `distance_pcc_truth`.
    """
    return _correlation(inputs, "raw.test", rng)


@metric(label="Distance Spearman", level="full", **_BEFORE_AND_AFTER)
def distance_spearman(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Spearman correlation of pairwise image distances before and after, within sites."""
    return _correlation(inputs, "raw.test", rng, ranks)


@metric(
    label="Distance PCC to truth",
    level="five",
    needs=("truth.test", "harmonized.test"),
    anchors=("shuffle", "oracle"),
    expected_order=(("oracle",), ("shuffle", "mean-image")),
    **_DECLARED,
)
def distance_pcc_truth(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Pearson correlation of pairwise distances of harmonized images with those of the truth.

    The truth is an independent noisy rescan of the same subjects at the reference site. Neither
    unchanged nor blurred images score 1.
    """
    return _correlation(inputs, "truth.test", rng)
