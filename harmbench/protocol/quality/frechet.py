"""Frechet distances between features of harmonized and real images.

``fid_*`` uses pytorch-fid's Inception features, ``fd_*`` the features of the fixed random network.
The real images are those of the probe part; ``*_reconstruction`` compares images rendered to their
own site with the original images.

A Frechet distance of samples is biased upwards, more for smaller samples (Chong & Forsyth 2020,
arXiv 1911.07023): two samples of 100 from one distribution in 512 dimensions can have a distance of
several hundred. Therefore only values for equal numbers of images can be compared. Each result has
two values of this kind in `MetricResult.floors`:

- ``two real sets, n=k``: distance between two disjoint halves of the real images, with k images
  each, mean over several splits by subject, within sites;
- ``this set, n=k``: distance between k of the compared images and the same halves.

With simulated data `target` is the oracle's value for the same n as the result. It contains the
part of the distance that is due to different ages of the populations. The distances of
`harmbench.protocol.quality.kernel` are unbiased and need neither.
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
    everywhere,
    needs,
    read_set,
    too_few,
)
from harmbench.protocol.resampled import half_sample_replicates
from harmbench.stats import half_sample_orders, squared_distance_interval, subsample

SPLITS = 200
"""With fewer splits the two parts of the error are so noisy that cutting one at 0 enlarges it."""
FLOOR_SPLITS = 10


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""Return the Frechet distance between Gaussians fitted to two samples, in float64.

    ``|mean x - mean y|^2 + tr Cx + tr Cy - 2 tr (Cx Cy)^(1/2)`` (Dowson & Landau 1982,
    10.1016/0047-259X(82)90077-X; Heusel 2017, arXiv 1706.08500, eq. 6), C with n - 1.

    For centered rows Xc, Yc the nonzero eigenvalues of Cx Cy are the squared singular values of
    ``Xc Yc^T / sqrt((n-1)(m-1))``, so the last trace is the sum of these singular values. This is
    exact for any rank and needs no matrix square root. A sample with more rows than features is
    first replaced by the triangle of its QR decomposition, which has the same singular values.

    Parameters
    ----------
    x, y : array_like, shapes (n, d), (m, d)
        Features; at least 2 rows each.

    Returns
    -------
    float
        Not negative, up to rounding; 0 for equal samples.

    Raises
    ------
    HarmbenchError
        If a sample has one row, or the numbers of features differ.
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
    """Return R with ``R^T R`` = covariance of `x`, with as few rows as n and d allow."""
    centered = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return linalg.qr(centered, mode="r")[0][: x.shape[1]] if len(x) > x.shape[1] else centered


def _halves(
    x: FeatureSet, y: FeatureSet, paired: bool, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the distances of random halves of the subjects, and of the other halves; (b, 2).

    If `paired`, rows i of both sets are of one image, and both sets are split in the same way.
    """
    a, b = x.features, y.features
    both = np.concatenate([a, b])
    if len(both) < both.shape[1]:
        # Coordinates in the common span have fewer columns and the same distances.
        triangle = linalg.qr(both.T, mode="r")[0][: len(both)].T
        a, b = triangle[: len(a)], triangle[len(a) :]
    ours = subsample(x.subjects, 0.5, SPLITS, rng, x.sites)
    theirs = ours if paired else subsample(y.subjects, 0.5, SPLITS, rng, y.sites)
    return np.array(
        [
            [frechet_distance(a[i], b[j]), frechet_distance(a[~i], b[~j])]
            for i, j in zip(ours, theirs, strict=True)
        ]
    )


def _floors(x: FeatureSet, y: FeatureSet, rng: np.random.Generator) -> dict[str, float]:
    """Return the distances for half the real set: of real to real images, and of `x` to real."""
    halves = subsample(y.subjects, 0.5, FLOOR_SPLITS, rng, y.sites)
    share = min(1.0, halves.sum(1).mean() / len(x.subjects))
    ours = subsample(x.subjects, share, FLOOR_SPLITS, rng, x.sites)
    real = [frechet_distance(y.features[half], y.features[~half]) for half in halves]
    this = [
        frechet_distance(x.features[mine], y.features[~half])
        for mine, half in zip(ours, halves, strict=True)
    ]
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
    """Return the distance with interval, replicates and floors.

    The interval is that of a squared distance, for the expected distance at this n, not for
    infinitely many images. Its error is that of `half_sample_orders`. The bias of the value is
    estimated from the halves, which have twice the bias (Chong & Forsyth 2020).
    """
    value = max(0.0, frechet_distance(x.features, y.features))
    floors = _floors(x, y, rng)
    halves = _halves(x, y, paired, rng)
    first, second = halves.T
    variance = half_sample_orders(first, second)
    bias = float(halves.mean()) - value
    df = min(x.n_subjects, y.n_subjects) - 1
    low, high = squared_distance_interval(value - bias, variance, df)
    return MetricResult(
        overall=Estimate(value, max(low + bias, 0.0), high + bias, x.n_subjects),
        target=target,
        floors=floors,
        replicates=half_sample_replicates(value, first, second, variance.se),
        note=f"{len(x.subjects)} images against {len(y.subjects)} real ones",
    )


def _pooled(inputs: MetricInputs, extractor: str, rng: np.random.Generator) -> MetricResult:
    ours, real = everywhere(inputs, extractor)
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


_PREFIXES = {"inception": ("fid", "arXiv:1706.08500"), "random-conv": ("fd", "arXiv:2002.09797")}
"""Prefix of the metrics of each extractor, and their source."""


def _needs_own(extractor: str) -> tuple[str, ...]:
    names = (f"features.{extractor}.own_site", f"features.{extractor}.raw_test")
    return ("own_site.test", "raw.test", *names)


def _declared(
    name: str,
    distance: Callable[[MetricInputs, str, np.random.Generator], MetricResult],
    summary: str,
    order: tuple[tuple[str, ...], ...] = (),
) -> list[Metric]:
    """Declare a distance for the features of each extractor."""

    def declared(extractor: str) -> Metric:
        prefix, doi = _PREFIXES[extractor]

        @metric(
            name=f"{prefix}_{name}",
            label=f"{prefix.upper()} {name}",
            summary=summary
            if extractor == "inception"
            else f"`fid_{name}` on features of a fixed random network.",
            axis="quality",
            level="five",
            direction="lower",
            goal=0.0,
            range=(0.0, None),
            min_n=100,
            needs=_needs_own(extractor) if distance is _reconstruction else needs(extractor),
            wants=(f"oracle:features.{extractor}.test",) if distance is _reference else (),
            expected_order=order,
            extractor=extractor,
            doi=doi,
        )
        def compute(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
            return distance(inputs, extractor, rng)

        return compute

    return [declared(extractor) for extractor in _PREFIXES]


# The variant closest to the paper's. Unchanged images are best by construction.
fid_pooled, fd_pooled = _declared(
    "pooled",
    _pooled,
    "Distance of harmonized test images to real, unharmonized images of other subjects at all "
    "sites.",
    (("identity",), ("mean-image",)),
)
# It also depends on the ages of the populations: compare it with the target and the floors.
fid_reference, fd_reference = _declared(
    "reference",
    _reference,
    "Distance of harmonized test images to real images of others at the reference site.",
    REFERENCE_ORDER,
)
fid_reconstruction, fd_reconstruction = _declared(
    "reconstruction",
    _reconstruction,
    "Distance of test images rendered to their own site to the original images.",
)
