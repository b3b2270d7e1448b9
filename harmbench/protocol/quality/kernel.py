"""Kernel distances between features of harmonized and real images, unbiased for any n.

``kid_reference`` uses pytorch-fid's Inception features, ``kd_reference`` the features of the fixed
random network.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmbench.contracts.metric import Estimate, Metric, MetricInputs, MetricResult, metric
from harmbench.files.blocks import blocks
from harmbench.protocol.features.sets import REFERENCE_ORDER, FeatureSet, at_reference_site, needs
from harmbench.stats import mmd_u

SUBJECTS_AT_ONCE = 1024
"""Number of subjects in a block: the time to average over their rows grows with its cube."""


def polynomial_kernel(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return KID's kernel ``(x . y / d + 1)^3`` (Binkowski 2018, arXiv 1801.01401); (n, m)."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def _kernel_of_subjects(x: FeatureSet, y: FeatureSet) -> NDArray[np.float64]:
    """Return the kernel averaged over each subject's rows, so that its units are independent."""
    ours = list(_by_subject(x))
    theirs = ours if y is x else list(_by_subject(y))
    out = np.empty((x.n_subjects, y.n_subjects))
    top = 0
    for a, rows in ours:
        left = 0
        for b, columns in theirs:
            one = x.features[rows]
            # The same array, for which the matrix product uses another routine: other last digits.
            other = one if columns is rows else y.features[columns]
            kernel = polynomial_kernel(one, other)
            out[top : top + len(a), left : left + len(b)] = a @ kernel @ b.T
            left += len(b)
        top += len(a)
    return out


def _by_subject(x: FeatureSet) -> Iterator[tuple[NDArray[np.float64], NDArray[np.intp]]]:
    """Yield averaging matrices (subjects, rows) of blocks of subjects, with their rows."""
    names, codes = np.unique(x.subjects, return_inverse=True)
    for part in blocks(len(names), 1, SUBJECTS_AT_ONCE):
        rows = np.flatnonzero((codes >= part.start) & (codes < part.stop))
        member = (np.arange(part.start, part.stop)[:, None] == codes[rows]).astype(float)
        yield member / member.sum(1, keepdims=True), rows


def _declared(name: str, label: str, extractor: str, summary: str) -> Metric:
    """Declare the distance for the features of one extractor."""

    @metric(
        name=name,
        label=label,
        summary=summary,
        axis="quality",
        level="five",
        direction="lower",
        goal=0.0,
        min_n=20,
        needs=needs(extractor),
        expected_order=REFERENCE_ORDER,
        extractor=extractor,
        doi="arXiv:1801.01401",
    )
    def compute(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
        ours, real, reason = at_reference_site(inputs, extractor)
        if reason:
            return MetricResult.skipped(reason)
        pairs = ((ours, ours), (real, real), (ours, real))
        found = mmd_u(*(_kernel_of_subjects(x, y) for x, y in pairs))
        return MetricResult(
            overall=Estimate(found.value, found.low, found.high, ours.n_subjects),
            note=f"{len(ours.subjects)} images against {len(real.subjects)} real ones",
        )

    return compute


# The counterpart of `fid_reference` for small n; it may be negative.
kid_reference = _declared(
    "kid_reference",
    "KID reference",
    "inception",
    "Unbiased kernel distance between harmonized test images and real images of the reference "
    "site.",
)
kd_reference = _declared(
    "kd_reference",
    "KD reference",
    "random-conv",
    "`kid_reference` on features of a fixed random network.",
)
