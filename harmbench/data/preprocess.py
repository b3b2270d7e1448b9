"""From one scan to one slice on a common grid: pure functions, image by image.

Nothing here looks at more than one image, so no subject's result depends on another's. The steps,
in order: `canonical`, `select_plane`, `foreground`, `resample`, `scale`; `prepare` joins them.

Axes are those of NIfTI throughout, the first to the right and the second to the front, so that a
volume differs from a slice by one more axis only; ``np.rot90`` shows a slice upright.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from harmbench.errors import HarmbenchError

VERSION = 1
"""Raised when the pixels that `prepare` returns change; part of every file fingerprint."""
FIELD_OF_VIEW = 220.0
"""Default side of the square grid in mm: an adult head with a margin."""
STRIPPED_SHARE = 0.2
"""An image with at least this share of exact zeros has had its background removed."""
LARGEST_CUT = 0.05
"""Share of the foreground that may lie outside the grid."""
NEGATIVE_SHARE = 0.01
"""Share of negative values that interpolation may have left behind; more is another scale."""


@dataclass(frozen=True)
class PreprocessConfig:
    """What becomes of every image.

    Attributes
    ----------
    size : int
        Side of the square grid in pixels.
    spacing : float or None
        Pixel side in mm; None spreads `FIELD_OF_VIEW` over the grid.
    z : float or None
        World z in mm of the axial slice taken from a volume; None takes the largest cross-section
        of the foreground. An image that already is a slice is not asked.
    percentile : float
        Percentile of the foreground's intensities that becomes 1; above it values are clipped.
    center : {"brain", "image"}
        What stands in the middle of the grid: the foreground's center of mass, for images that are
        not registered, or the middle of the image, for images on one template's grid.
    scaled : bool
        Whether intensities are final: neither negative values are refused nor anything scaled,
        clipped or masked.

    Raises
    ------
    HarmbenchError
        For values out of range.
    """

    size: int = 64
    spacing: float | None = None
    z: float | None = None
    percentile: float = 99.5
    center: Literal["brain", "image"] = "brain"
    scaled: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise HarmbenchError(f"size {self.size} must be a positive number of pixels")
        if self.spacing is not None and not self.spacing > 0:
            raise HarmbenchError(f"spacing {self.spacing} must be a positive number of mm")
        if not 50 <= self.percentile <= 100:
            raise HarmbenchError(f"percentile {self.percentile} must lie between 50 and 100")
        if self.center not in ("brain", "image"):
            raise HarmbenchError(f"center '{self.center}' must be 'brain' or 'image'")

    @property
    def spacing_mm(self) -> float:
        """Pixel side in mm, stated or spread."""
        return self.spacing if self.spacing is not None else FIELD_OF_VIEW / self.size


class Prepared(NamedTuple):
    """One image on the common grid: first axis to the right, second to the front."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]


class Plane(NamedTuple):
    """One slice on its own grid, with the same axes."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    spacing: tuple[float, float]


def prepare(
    image: SpatialImage,
    mask: SpatialImage | None,
    config: PreprocessConfig,
) -> Prepared:
    """Turn one scan into one slice on the common grid.

    Parameters
    ----------
    image : SpatialImage
        A slice or a volume; its scale slope is applied.
    mask : SpatialImage or None
        Its foreground, on the same grid, where there is one; everything outside becomes 0.
    config : PreprocessConfig

    Returns
    -------
    Prepared
        Image of float32 in [0, 1] and mask, both of shape (size, size).

    Raises
    ------
    HarmbenchError
        Where the image is not finite, constant, negative, empty or does not fit.
    """
    data, affine = canonical(image)
    check_values(data, config.scaled)
    given = None if mask is None else _matching_mask(mask, data, affine)
    plane = select_plane(data, affine, given, config.z)
    front = foreground(plane.image, threshold_of(data)) if plane.mask is None else plane.mask
    pixels = plane.image
    if plane.mask is not None and not config.scaled:
        pixels = np.where(plane.mask, pixels, np.float32(0))
    if not front.any() or np.ptp(pixels[front]) == 0:
        raise HarmbenchError("its slice holds no foreground with more than one intensity")
    small, small_mask = resample(pixels, front, plane.spacing, config)
    if not config.scaled:
        _check_cut(front, plane.spacing, small_mask, config)
        small = scale(small, small_mask, config.percentile)
    return Prepared(small, small_mask)


def canonical(
    image: SpatialImage,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return data of three axes nearest to right, anterior, superior, and their affine.

    Raises
    ------
    HarmbenchError
        For series of volumes and for unusable affines.
    """
    data = np.asanyarray(image.dataobj, dtype=np.float32)
    shape = data.shape
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 2:
        data = data[..., np.newaxis]
    if data.ndim != 3 or sum(side == 1 for side in data.shape) > 1:
        raise HarmbenchError(f"shape {shape} is neither a slice nor a volume")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise HarmbenchError("its header has no usable affine (voxel sizes and orientation)")
    turned = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    return np.asanyarray(turned.dataobj, dtype=np.float32), np.asarray(turned.affine)


def select_plane(
    data: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    z: float | None,
) -> Plane:
    """Return the slice itself, or one axial slice of a volume.

    The voxel plane nearest to `z` is taken as it is: interpolating between two planes would blur
    some subjects and not others.

    Parameters
    ----------
    data, affine : ndarray
        From `canonical`. An axis of length 1 is a slice's normal, whichever axis it is.
    mask : ndarray of bool or None
        Foreground, of the same shape.
    z : float or None
        World z in mm; None for the largest cross-section of the foreground.

    Raises
    ------
    HarmbenchError
        Where `z` is outside the volume.
    """
    sides = voxel_sizes(affine)
    if 1 in data.shape:
        normal, index = data.shape.index(1), 0
    else:
        normal, index = 2, _largest_section(data, mask) if z is None else _plane_at(data, affine, z)
    in_plane = [axis for axis in range(3) if axis != normal]
    return Plane(
        image=np.moveaxis(data, normal, 0)[index],
        mask=None if mask is None else np.moveaxis(mask, normal, 0)[index],
        spacing=(float(sides[in_plane[0]]), float(sides[in_plane[1]])),
    )


def _largest_section(data: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> int:
    front = data > threshold_of(data) if mask is None else mask
    return int(np.argmax(front.sum(axis=(0, 1))))


def _plane_at(data: NDArray[np.float32], affine: NDArray[np.float64], z: float) -> int:
    # In an oblique volume z varies within a voxel plane; it is met in the middle of the plane.
    middle = (np.array(data.shape[:2]) - 1) / 2
    first = float(affine[2, :2] @ middle + affine[2, 3])
    last = first + float(affine[2, 2]) * (data.shape[2] - 1)
    index = round((z - first) / float(affine[2, 2]))
    if not 0 <= index < data.shape[2]:
        raise HarmbenchError(
            f"z = {z:g} mm is outside the volume, which reaches from {first:.1f} to {last:.1f} mm"
        )
    return index


def threshold_of(data: NDArray[np.float32]) -> float:
    """Return the intensity above which a pixel is foreground.

    0 where the background was removed (at least `STRIPPED_SHARE` exact zeros), else Otsu's
    threshold (Otsu 1979).
    """
    if np.mean(data == 0) >= STRIPPED_SHARE:
        return 0.0
    return float(threshold_otsu(data))


def foreground(image: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return the pixels above a threshold, without specks and holes.

    Parameters
    ----------
    image : ndarray, shape (h, w)
    threshold : float
        From `threshold_of`.

    Returns
    -------
    ndarray of bool, shape (h, w)
        Components smaller than a twentieth of the largest are dropped, holes filled.
    """
    labels, count = ndimage.label(image > threshold)
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    areas = np.bincount(labels.ravel())[1:]
    kept = 1 + np.flatnonzero(areas >= areas.max() / 20)
    return ndimage.binary_fill_holes(np.isin(labels, kept))


def resample(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    spacing: tuple[float, float],
    config: PreprocessConfig,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bring a slice onto the square grid, linearly, smoothed first where it gets coarser.

    The Gaussian's standard deviation is (factor - 1) / 2 source pixels, as in scikit-image. Where
    spacing and center already are the grid's, values come back unchanged.

    Returns
    -------
    image, mask : ndarray, shape (size, size)
        0 and False outside the slice.
    """
    factor = config.spacing_mm / np.asarray(spacing)
    factor = np.where(np.abs(factor - 1) < 1e-4, 1.0, factor)  # headers hold float32 spacings
    if config.center == "brain":
        center = np.asarray(ndimage.center_of_mass(mask))
    else:
        center = (np.asarray(image.shape) - 1) / 2
    offset = center - factor * (config.size - 1) / 2
    sigma = np.maximum(factor - 1, 0) / 2

    def sample(values: NDArray) -> NDArray[np.float32]:
        smooth = ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="nearest")
        shape = (config.size, config.size)
        return ndimage.affine_transform(
            smooth, np.diag(factor), offset, shape, order=1, mode="grid-constant", cval=0.0
        )

    return sample(image), sample(mask) >= 0.5


def scale(
    image: NDArray[np.float32], mask: NDArray[np.bool_], percentile: float = 99.5
) -> NDArray[np.float32]:
    """Map 0 to 0 and a high percentile of the foreground to 1, and clip to [0, 1].

    Parameters
    ----------
    image : ndarray, any shape
    mask : ndarray of bool, same shape
        Foreground.
    percentile : float

    Raises
    ------
    HarmbenchError
        Where that percentile is not positive.
    """
    top = float(np.percentile(image[mask], percentile)) if mask.any() else 0.0
    if not top > 0:
        raise HarmbenchError("its foreground has no positive intensities")
    return np.clip(image / np.float32(top), 0, 1).astype(np.float32)


def check_values(data: NDArray[np.float32], scaled: bool) -> None:
    """Refuse data that are not finite, constant, or (unless final) negative in part.

    Raises
    ------
    HarmbenchError
    """
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
    spacing: tuple[float, float],
    after: NDArray[np.bool_],
    config: PreprocessConfig,
) -> None:
    area = np.count_nonzero(before) * spacing[0] * spacing[1]
    cut = 1 - np.count_nonzero(after) * config.spacing_mm**2 / area
    # On a coarse grid the area itself is rough, so only a foreground that meets the edge counts.
    meets_edge = any(edge.any() for edge in (after[0], after[-1], after[:, 0], after[:, -1]))
    if not after.any() or (meets_edge and cut > LARGEST_CUT):
        raise HarmbenchError(
            f"{cut:.0%} of its foreground lies outside the grid of {config.size} x "
            f"{config.spacing_mm:.3g} mm; raise size or spacing"
        )
