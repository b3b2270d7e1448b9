"""Features of harmonized and of real images as samples of subjects, which distances compare.

The real images are those of the probe part: no method has been fitted on them, and no subject of
the test part is among them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductUnavailable

MIN_REAL = 20
REFERENCE_ORDER = (("shuffle", "oracle"), ("mean-image", "identity"))
"""What every distance to the reference site says of the controls."""


class FeatureSet(NamedTuple):
    """Features (n, d) with the subject and the site of each row."""

    features: NDArray[np.float64]
    subjects: NDArray
    sites: NDArray

    def keep(self, rows: NDArray) -> FeatureSet:
        """Return some rows."""
        return FeatureSet(self.features[rows], self.subjects[rows], self.sites[rows])


def read_set(
    inputs: MetricInputs, features: str, images: str, site: str | None = None
) -> FeatureSet:
    """Return the features of images, of one site where it is named.

    Raises
    ------
    ProductUnavailable
        Where the data are no images.
    """
    cohort: Cohort = inputs.cohort(images)
    if cohort.space == "table":
        raise ProductUnavailable("needs images; these data are a table of features")
    values = np.asarray(inputs.arrays(features)["features"], np.float64)
    found = FeatureSet(
        values, cohort.column("participant_id").astype(str), cohort.column("site").astype(str)
    )
    return found if site is None else found.keep(found.sites == site)


def too_few(real: FeatureSet, what: str) -> str:
    """Return why there are too few real images, or nothing."""
    n = len(np.unique(real.subjects))
    return "" if n >= MIN_REAL else f"{n} {what}; at least {MIN_REAL} are needed"


def at_reference_site(inputs: MetricInputs, extractor: str) -> tuple[FeatureSet, FeatureSet, str]:
    """Return harmonized test images, real ones of the reference site, and why they are too few."""
    site = inputs.reference_site
    ours = read_set(inputs, f"features.{extractor}.test", "harmonized.test")
    real = read_set(inputs, f"features.{extractor}.real", "raw.real", site)
    return ours, real, too_few(real, f"real images of the reference site {site}")


def needs(extractor: str) -> tuple[str, ...]:
    """Return what a distance of harmonized images to real ones is computed from."""
    names = (f"features.{extractor}.test", f"features.{extractor}.real")
    return ("harmonized.test", "raw.real", *names)
