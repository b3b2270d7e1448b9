"""Frechet distances between harmonized images and real ones, on features.

``fid_*`` uses pytorch-fid's Inception features, ``fd_*`` the fixed random network's. The real
images are those of the probe part (see `feature_sets`); ``*_reconstruction`` compares an image's
rendering back to its own site with the image itself.

A Frechet distance of samples is biased upwards, the more the smaller they are (Chong & Forsyth
2020, arXiv 1911.07023): two samples of 100 of one distribution in 512 dimensions can score in the
hundreds. So a value is only ever comparable with one of the same numbers of images, and each comes
with these, all in `MetricResult.floors`:

- ``two real sets, n=k``: two disjoint halves of the real images, k in each: what "nothing is
  different" scores at that n (mean over several splits, by subject, within sites);
- ``this set, n=k``: k of the compared images against the same halves: what to hold against it.

On simulated data `target` is the oracle's value, at the very n of the headline; it also holds the
share of the distance that is due to populations that differ in age. The distances of `kernel` are
unbiased and need neither.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from harmbench.contracts.metric import Estimate, Metric, MetricInputs, MetricResult, metric
from harmbench.errors import HarmbenchError
from harmbench.protocol.features.sets import (
    REFERENCE_ORDER,
    FeatureSet,
    at_reference_site,
    needs,
    read_set,
    too_few,
)
from harmbench.stats import half_sample_orders, squared_distance_interval, subsample

SPLITS = 200
"""Fewer leave so much noise in the error's two parts that cutting one at 0 lengthens it."""
FLOOR_SPLITS = 10


# Distances of arrays ----------------------------------------------------------------------------


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""Return the Frechet distance of two samples seen as Gaussians, in float64.

    ``|mean x - mean y|^2 + tr Cx + tr Cy - 2 tr (Cx Cy)^(1/2)`` (Dowson & Landau 1982,
    10.1016/0047-259X(82)90077-X; Heusel 2017, arXiv 1706.08500, eq. 6), C with n - 1.

    With centred rows Xc, Yc the nonzero eigenvalues of Cx Cy are the squared singular values of
    ``Xc Yc^T / sqrt((n-1)(m-1))``, so the last trace is the sum of those singular values: exact at
    any rank, without a matrix square root, and of size n x m. A sample of more rows than features
    is first replaced by the d x d triangle of its QR decomposition, which leaves them unchanged.

    Parameters
    ----------
    x, y : array_like, shapes (n, d), (m, d)
        Features; 2 rows or more in each.

    Returns
    -------
    float
        Not negative, up to rounding; 0 for equal samples.

    Raises
    ------
    HarmbenchError
        Where a sample has one row, or the numbers of features differ.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise HarmbenchError(
            f"a Frechet distance needs two tables (n, d) of 2 rows or more with the same d, "
            f"not {a.shape} and {b.shape}"
        )
    shift = a.mean(0) - b.mean(0)
    root_a, root_b = _root(a), _root(b)
    cross = linalg.svdvals(root_a @ root_b.T, overwrite_a=True, check_finite=False).sum()
    return float(shift @ shift + (root_a**2).sum() + (root_b**2).sum() - 2 * cross)


def _root(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return R with ``R^T R`` = the covariance of `x`, with as few rows as n and d allow."""
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return linalg.qr(centred, mode="r")[0][: x.shape[1]] if len(x) > x.shape[1] else centred


# Samples of subjects ----------------------------------------------------------------------------


def _in_span(x: FeatureSet, y: FeatureSet) -> tuple[FeatureSet, FeatureSet]:
    """Turn both into coordinates of their common span, where that is smaller than d."""
    both = np.concatenate([x.features, y.features])
    if len(both) >= both.shape[1]:
        return x, y
    triangle = linalg.qr(both.T, mode="r")[0][: len(both)].T
    return x._replace(features=triangle[: len(x.features)]), y._replace(
        features=triangle[len(x.features) :]
    )


def _halves(
    x: FeatureSet, y: FeatureSet, paired: bool, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Distances of random halves of both sets' subjects, and of the other halves; (b, 2).

    Where `paired`, row i of both sets is one image, and both are split alike.
    """
    ours = subsample(x.subjects, 0.5, SPLITS, rng, x.sites)
    theirs = ours if paired else subsample(y.subjects, 0.5, SPLITS, rng, y.sites)
    return np.array(
        [
            [frechet_distance(x.features[i], y.features[j]) for i, j in ((a, b), (~a, ~b))]
            for a, b in zip(ours, theirs, strict=True)
        ]
    )


def _floors(x: FeatureSet, y: FeatureSet, rng: np.random.Generator) -> dict[str, float]:
    """Distances at the n of half the real set: real against real, and ours against real."""
    halves = subsample(y.subjects, 0.5, FLOOR_SPLITS, rng, y.sites)
    share = min(1.0, halves.sum(1).mean() / len(x.subjects))
    ours = subsample(x.subjects, share, FLOOR_SPLITS, rng, x.sites)
    real, this = [], []
    for mine, half in zip(ours, halves, strict=True):
        real.append(frechet_distance(y.features[half], y.features[~half]))
        this.append(frechet_distance(x.features[mine], y.features[~half]))
    n = round(halves.sum(1).mean())
    return {
        f"two real sets, n={n}": float(np.mean(real)),
        f"this set, n={n}": float(np.mean(this)),
    }


def _frechet(
    x: FeatureSet,
    y: FeatureSet,
    rng: np.random.Generator,
    *,
    paired: bool = False,
    target: float = np.nan,
) -> MetricResult:
    """Distance with interval, replicates and floors.

    The interval is that of a squared distance, of the expected distance at this n, not of the
    limit for infinitely many images; the error is that of `half_sample_orders`. What the value has
    of bias is found from the halves, which have twice as much of it (Chong & Forsyth 2020). The
    replicates are those of the halves, scaled to that error, so that differences between methods
    are paired.
    """
    value = max(0.0, frechet_distance(x.features, y.features))
    floors = _floors(x, y, rng)
    halves = _halves(*_in_span(x, y), paired, rng)
    variance = half_sample_orders(*halves.T)
    bias = float(halves.mean()) - value
    n, m = (len(np.unique(one.subjects)) for one in (x, y))
    low, high = squared_distance_interval(value - bias, variance, min(n, m) - 1)
    change = (halves[:, 0] - halves[:, 1]) / 2
    change -= change.mean()
    return MetricResult(
        overall=Estimate(value, max(low + bias, 0.0), high + bias, n),
        target=target,
        floors=floors,
        replicates=value + change * (variance.se / (change.std(ddof=1) or 1.0)),
        note=f"{len(x.subjects)} images against {len(y.subjects)} real ones",
    )


def _pooled(inputs: MetricInputs, extractor: str, rng: np.random.Generator) -> MetricResult:
    ours = read_set(inputs, f"features.{extractor}.test", "harmonized.test")
    real = read_set(inputs, f"features.{extractor}.real", "raw.real")
    if reason := too_few(real, "real images"):
        return MetricResult.skipped(reason)
    return _frechet(ours, real, rng)


def _reference(inputs: MetricInputs, extractor: str, rng: np.random.Generator) -> MetricResult:
    ours, real, reason = at_reference_site(inputs, extractor)
    if reason:
        return MetricResult.skipped(reason)
    target, oracle = float("nan"), f"oracle:features.{extractor}.test"
    if oracle in inputs:
        target = frechet_distance(inputs.arrays(oracle)["features"], real.features)
    return _frechet(ours, real, rng, target=target)


def _reconstruction(inputs: MetricInputs, extractor: str, rng: np.random.Generator) -> MetricResult:
    rendered = read_set(inputs, f"features.{extractor}.own_site", "own_site.test")
    real = read_set(inputs, f"features.{extractor}.raw_test", "raw.test")
    return _frechet(rendered, real, rng, paired=True)


# Declarations -----------------------------------------------------------------------------------

_SOURCES = {
    "inception": ("fid", "arXiv:1706.08500"),
    "random-conv": ("fd", "arXiv:2002.09797"),
}
"""Prefix of the metrics of each extractor, and their source."""


def _needs_own(extractor: str) -> tuple[str, ...]:
    names = (f"features.{extractor}.own_site", f"features.{extractor}.raw_test")
    return ("own_site.test", "raw.test", *names)


def _declared(
    extractor: str,
    name: str,
    distance: Callable[[MetricInputs, str, np.random.Generator], MetricResult],
    summary: str,
    needs: Callable[[str], tuple[str, ...]] = needs,
    order: tuple[tuple[str, ...], ...] = (),
) -> Metric:
    """Declare a distance on the features of one extractor."""
    prefix, doi = _SOURCES[extractor]
    if extractor != "inception":
        summary = f"`fid_{name}` on features of a fixed random network."

    @metric(
        name=f"{prefix}_{name}",
        label=f"{prefix.upper()} {name}",
        summary=summary,
        axis="quality",
        level="five",
        direction="lower",
        goal=0.0,
        range=(0.0, None),
        min_n=100,
        needs=needs(extractor),
        wants=(f"oracle:features.{extractor}.test",) if distance is _reference else (),
        expected_order=order,
        extractor=extractor,
        doi=doi,
    )
    def compute(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
        return distance(inputs, extractor, rng)

    return compute


# The reading nearest to the paper's. Doing nothing wins it by construction.
fid_pooled, fd_pooled = (
    _declared(
        extractor,
        "pooled",
        _pooled,
        "Harmonized test images against disjoint real images of all sites, unharmonized.",
        order=(("identity",), ("mean-image",)),
    )
    for extractor in _SOURCES
)
# A population that differs in age changes it, too: compare it with the target and the floors.
fid_reference, fd_reference = (
    _declared(
        extractor,
        "reference",
        _reference,
        "Harmonized test images against disjoint real images of the reference site.",
        order=REFERENCE_ORDER,
    )
    for extractor in _SOURCES
)
fid_reconstruction, fd_reconstruction = (
    _declared(
        extractor,
        "reconstruction",
        _reconstruction,
        "Test images rendered back to their own site against the same images as they are.",
        _needs_own,
    )
    for extractor in _SOURCES
)
