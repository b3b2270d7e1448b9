"""Features of harmonized and of real images as samples of subjects, for distances.

The real images are those of the probe part: no method was fitted on them, and none of their
subjects is in the test part. If the data are cross-fitted, the two sets are taken from different
subjects of the same images: half of the folds each, or the reference site and the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductUnavailable

MIN_REAL = 20
REFERENCE_ORDER = (("shuffle", "oracle"), ("mean-image", "identity"))
"""Expected order of the controls for a distance to the reference site."""


class FeatureSet(NamedTuple):
    """Features (n, d) with the subject and the site of each row."""

    features: NDArray[np.float64]
    subjects: NDArray
    sites: NDArray

    def keep(self, rows: NDArray[np.bool_]) -> FeatureSet:
        """Return some of the rows."""
        return FeatureSet(*(column[rows] for column in self))

    @property
    def n_subjects(self) -> int:
        """Number of subjects."""
        return len(np.unique(self.subjects))


def read_set(
    inputs: MetricInputs, features: str, images: str, site: str | None = None
) -> FeatureSet:
    """Return the features of images, optionally of one site only.

    Raises
    ------
    ProductUnavailable
        If the data are not images.
    """
    cohort = inputs.cohort(images)
    if cohort.space == "table":
        raise ProductUnavailable("needs images; these data are a table of features")
    values = np.asarray(inputs.arrays(features)["features"], np.float64)
    subjects, sites = (cohort.column(name).astype(str) for name in ("participant_id", "site"))
    rows = slice(None) if site is None else sites == site
    return FeatureSet(values[rows], subjects[rows], sites[rows])


def too_few(real: FeatureSet, what: str) -> str:
    """Return why there are too few real images, or ``""``."""
    n = real.n_subjects
    return "" if n >= MIN_REAL else f"{n} {what}; at least {MIN_REAL} are needed"


def at_reference_site(inputs: MetricInputs, extractor: str) -> tuple[FeatureSet, FeatureSet, str]:
    """Return harmonized and real images of the reference site, and why there are too few."""
    site = inputs.reference_site
    ours = read_set(inputs, f"features.{extractor}.test", "harmonized.test")
    real = read_set(inputs, f"features.{extractor}.real", "raw.real", site)
    if inputs.folds is not None:
        ours = ours.keep(~np.isin(ours.subjects, real.subjects))
    return ours, real, too_few(real, f"real images of the reference site {site}")


def needs(extractor: str) -> tuple[str, ...]:
    """Return the products for a distance between harmonized and real images."""
    names = (f"features.{extractor}.test", f"features.{extractor}.real")
    return ("harmonized.test", "raw.real", *names)


def everywhere(inputs: MetricInputs, extractor: str) -> tuple[FeatureSet, FeatureSet]:
    """Return harmonized and real images of all sites, of different subjects."""
    ours = read_set(inputs, f"features.{extractor}.test", "harmonized.test")
    real = read_set(inputs, f"features.{extractor}.real", "raw.real")
    if inputs.folds is None:
        return ours, real
    names = np.unique(inputs.folds)
    first = np.isin(inputs.folds, names[: (len(names) + 1) // 2])
    return ours.keep(first), real.keep(~first)
