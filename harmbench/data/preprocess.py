"""Bring the slices of one scan onto a common grid.

All functions process one scan, so the result of a subject does not depend on other subjects. The
steps are `canonical`, `select_planes`, `foreground`, resampling and `scale`; `prepare` does all.

The axes are those of NIfTI: the first to the right, the second to the front. ``np.rot90`` shows a
slice upright.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from scipy import ndimage

from harmbench.data.geometry import of_grid
from harmbench.data.planes import Plane, canonical, foreground, select_planes, threshold_of
from harmbench.errors import HarmbenchError

VERSION = 2
"""Increased when the pixels of `prepare` change; part of the fingerprints of files."""
FIELD_OF_VIEW = 220.0
"""Default side of the square grid in mm: an adult head with a margin."""
LARGEST_SIZE = 4096
"""Largest number of pixels along one side; more would not fit into memory."""
LARGEST_CUT = 0.05
"""Largest share of the foreground outside the grid."""
NEGATIVE_SHARE = 0.01
"""Largest share of negative values, which interpolation may cause."""


@dataclass(frozen=True)
class PreprocessConfig:
    """Settings of the preprocessing.

    Raises
    ------
    HarmbenchError
        If a value is out of range.
    """

    size: int = 64  # side of the square grid in pixels
    spacing: float | None = None  # pixel side in mm; None divides `FIELD_OF_VIEW` by the size
    z: float | None = None  # height of the slice in mm; None: see `harmbench.data.planes`
    slices: int = 1  # number of axial slices of a volume, the middle one at `z`
    step: float = 5.0  # distance between them in mm
    percentile: float = 99.5  # of the foreground that becomes 1; higher values are clipped
    # Middle of the grid: the foreground's center of mass, or the middle of the image.
    center: Literal["brain", "image"] = "brain"
    # Whether intensities are final: nothing is scaled, clipped or masked, and any sign is allowed.
    scaled: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LARGEST_SIZE:
            raise HarmbenchError(f"size {self.size} must be from 1 to {LARGEST_SIZE} pixels")
        if self.z is not None and not np.isfinite(self.z):
            raise HarmbenchError(f"slice z {self.z} must be a number of mm")
        if self.spacing is not None and not self.spacing > 0:
            raise HarmbenchError(f"spacing {self.spacing} must be a positive number of mm")
        if not 1 <= self.slices < 100 or self.slices % 2 == 0:
            raise HarmbenchError(
                f"slices {self.slices} must be odd and positive, such as 1, 3 or 5: the middle one "
                "and as many above as below"
            )
        if not self.step > 0:
            raise HarmbenchError(f"slice step {self.step} must be a positive number of mm")
        if not 50 <= self.percentile <= 100:
            raise HarmbenchError(f"percentile {self.percentile} must lie between 50 and 100")
        if self.center not in ("brain", "image"):
            raise HarmbenchError(f"center '{self.center}' must be 'brain' or 'image'")

    @property
    def spacing_mm(self) -> float:
        """Pixel side in mm."""
        return self.spacing if self.spacing is not None else FIELD_OF_VIEW / self.size


class Prepared(NamedTuple):
    """One image on the common grid, with its affine (see `harmbench.data.geometry`)."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def prepare(
    image: SpatialImage, mask: SpatialImage | None, config: PreprocessConfig
) -> list[Prepared]:
    """Turn one scan into its slices on the common grid.

    Parameters
    ----------
    image : SpatialImage
        A slice or a volume; its scale slope is applied. NaN outside the foreground becomes 0.
    mask : SpatialImage or None
        Its foreground, on the same grid; everything outside becomes 0.
    config : PreprocessConfig

    Returns
    -------
    list of Prepared
        ``config.slices`` images of float32 in [0, 1] with their masks, each of shape
        (size, size), from the lowest to the highest.

    Raises
    ------
    HarmbenchError
        If a value is infinite, the foreground contains NaN, or the image is constant, negative,
        empty, or larger than the grid.
    """
    data, affine = canonical(image)
    infinite = int(np.count_nonzero(np.isinf(data)))
    if infinite:
        raise HarmbenchError(
            f"{infinite} of its values are infinite or above 3e38; correct its scale slope"
        )
    void = np.isnan(data)
    if void.all():
        raise HarmbenchError("all of its values are NaN; make it again from its source")
    if void.any():
        data = np.where(void, np.float32(0), data)
    check_values(data, config.scaled)
    given = None if mask is None else _matching_mask(mask, data, affine)
    threshold = threshold_of(data)
    planes = select_planes(data, affine, given, void, (config.z, config.slices, config.step))
    return [_prepare_plane(plane, threshold, config) for plane in planes]


def _prepare_plane(plane: Plane, threshold: float, config: PreprocessConfig) -> Prepared:
    front = foreground(plane.image, threshold) if plane.mask is None else plane.mask
    broken = int(np.count_nonzero(plane.void & front))
    if broken:
        raise HarmbenchError(
            f"{broken} of its values are NaN in the brain and not only around it; make it again "
            "from its source"
        )
    pixels = plane.image
    if plane.mask is not None and not config.scaled:
        pixels = np.where(plane.mask, pixels, np.float32(0))
    if not front.any() or np.ptp(pixels[front]) == 0:
        raise HarmbenchError("its slice holds no foreground with more than one intensity")
    factor, offset = _placement(front, plane.spacing, config)
    small, small_mask = _resample(pixels, front, factor, offset, config.size)
    if not config.scaled:
        _check_cut(front, plane.spacing, small_mask, config)
        small = scale(small, small_mask, config.percentile)
    return Prepared(small, small_mask, of_grid(plane.affine, factor, offset))


def _placement(
    mask: NDArray[np.bool_], spacing: NDArray[np.float64], config: PreprocessConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return factor and offset: pixel p of the grid is ``factor * p + offset`` of the slice."""
    factor = config.spacing_mm / spacing
    factor = np.where(np.abs(factor - 1) < 1e-4, 1.0, factor)  # headers contain float32 spacings
    if config.center == "brain":
        center = np.asarray(ndimage.center_of_mass(mask))
    else:
        center = (np.asarray(mask.shape) - 1) / 2
    return factor, center - factor * (config.size - 1) / 2


def _resample(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    factor: NDArray[np.float64],
    offset: NDArray[np.float64],
    size: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Interpolate a slice and its mask linearly on a grid, after smoothing if the grid is coarser.

    The Gaussian's standard deviation is (factor - 1) / 2 source pixels, as in scikit-image. If the
    grid is that of the slice, values are unchanged. Outside the slice they are 0.
    """
    sigma = np.maximum(factor - 1, 0) / 2

    def sample(values: NDArray) -> NDArray[np.float32]:
        smooth = ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="nearest")
        return ndimage.affine_transform(
            smooth, np.diag(factor), offset, (size, size), order=1, mode="grid-constant", cval=0.0
        )

    return sample(image), sample(mask) >= 0.5


def scale(
    image: NDArray[np.float32], mask: NDArray[np.bool_], percentile: float = 99.5
) -> NDArray[np.float32]:
    """Map 0 to 0 and a percentile of the foreground (`mask`) to 1, and clip to [0, 1].

    Raises
    ------
    HarmbenchError
        If that percentile is not positive.
    """
    top = float(np.percentile(image[mask], percentile)) if mask.any() else 0.0
    if not top > 0:
        raise HarmbenchError("its foreground has no positive intensities")
    return np.clip(image / np.float32(top), 0, 1).astype(np.float32)


def check_values(data: NDArray[np.float32], scaled: bool) -> None:
    """Raise a HarmbenchError for data that are not finite, constant, or (not `scaled`) negative."""
    broken = int(np.count_nonzero(~np.isfinite(data)))
    if broken:
        raise HarmbenchError(
            f"{broken} of its values are NaN or infinite; replace them (by 0 in the background)"
        )
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise HarmbenchError(f"it is constant ({low:g} everywhere)")
    negative = np.count_nonzero(data < 0) / np.count_nonzero(data)
    if negative > NEGATIVE_SHARE and not scaled:
        raise HarmbenchError(
            f"{negative:.0%} of its values are negative (as after z-scoring); give intensities "
            "with a background of 0"
        )


def _matching_mask(
    mask: SpatialImage, data: NDArray[np.float32], affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    values, mask_affine = canonical(mask)
    if values.shape != data.shape or not np.allclose(mask_affine, affine, atol=1e-2):
        raise HarmbenchError(
            f"its mask is on another grid (shape {values.shape}, image {data.shape}, or another "
            "affine); resample the mask to the image"
        )
    return values > 0.5


def _check_cut(
    before: NDArray[np.bool_],
    spacing: NDArray[np.float64],
    after: NDArray[np.bool_],
    config: PreprocessConfig,
) -> None:
    area = np.count_nonzero(before) * spacing[0] * spacing[1]
    cut = 1 - np.count_nonzero(after) * config.spacing_mm**2 / area
    # On a coarse grid the area is inexact, so the foreground must also touch the edge.
    touches_edge = any(edge.any() for edge in (after[0], after[-1], after[:, 0], after[:, -1]))
    if not after.any() or (touches_edge and cut > LARGEST_CUT):
        raise HarmbenchError(
            f"{cut:.0%} of its foreground lies outside the grid of {config.size} x "
            f"{config.spacing_mm:.3g} mm; raise size or spacing"
        )
