"""Thirty features of an image's intensities and sharpness, for probes that are not CNNs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace

from harmbench.contracts.cohort import Cohort

QUANTILES = np.arange(5, 100, 5) / 100
GRADIENT = (0.5, 0.75, 0.95)
LAPLACIAN = (0.5, 0.95)
NAMES = (
    *(f"intensity, quantile {q:.2f}" for q in QUANTILES),
    *(f"intensity, {name}" for name in ("mean", "standard deviation", "skewness", "kurtosis")),
    *(f"gradient, quantile {q:.2f}" for q in GRADIENT),
    *(f"Laplacian, quantile {q:.2f}" for q in LAPLACIAN),
    "outside, mean absolute",
    "outside, standard deviation",
)
"""Names of the columns of `intensity_features`."""


def intensity_features(cohort: Cohort, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return quantiles, moments and sharpness of each image in one common region.

    Gradient magnitudes and absolute Laplacians describe blur and noise; the features outside all
    masks describe what a method leaves in the background. A scan's own mask is not used. It comes
    from the scan before harmonization and has the distortion of its scanner, so a probe could
    predict the site from the masks, even for rescans at the reference site.

    Parameters
    ----------
    cohort : Cohort
        Its masks are not read.
    masks : ndarray of bool, shape (m, *shape)
        Masks of the training images. The region consists of the voxels in at least half of them.

    Returns
    -------
    ndarray of float32, shape (n, 30)
        Columns as in `NAMES`; all 0 for an empty region.
    """
    inside, outside = masks.mean(0) >= 0.5, ~masks.any(0)
    rows = [_features(image.astype(np.float64), inside, outside) for image in cohort.images]
    return np.array(rows, np.float32).reshape(len(cohort), len(NAMES))


def _features(
    image: NDArray[np.float64], inside: NDArray[np.bool_], outside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    if not inside.any():
        return np.zeros(len(NAMES))
    brain, rest = image[inside], image[outside]
    gradient = np.sqrt(sum(np.square(part) for part in np.gradient(image)))[inside]
    spread = brain.std()
    z = (brain - brain.mean()) / (spread if spread > 0 else 1.0)
    background = [np.abs(rest).mean(), rest.std()] if rest.size else [0.0, 0.0]
    return np.concatenate(
        [
            np.quantile(brain, QUANTILES),
            [brain.mean(), spread, (z**3).mean(), (z**4).mean()],
            np.quantile(gradient, GRADIENT),
            np.quantile(np.abs(laplace(image))[inside], LAPLACIAN),
            background,
        ]
    )
