"""Select the slices of an image: its axes, planes and foreground."""

from __future__ import annotations

from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from harmbench.data.geometry import of_plane
from harmbench.errors import HarmbenchError

STRIPPED_SHARE = 0.2
"""If an image has at least this share of exact zeros, its background was removed."""
DEPTH = 0.72
"""Height of the slice below the top of the head, in radii of its largest cross-section: z = +18 mm,
through the lateral ventricles, in the ICBM 152 template."""
TOP = 0.1
"""Smallest share of the largest cross-section of a plane that is part of the head."""


class Plane(NamedTuple):
    """One slice on its own grid; see `harmbench.data.geometry` for `affine`."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    void: NDArray[np.bool_]  # positions of NaN
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Sides of a pixel in mm, shape (2,)."""
        return voxel_sizes(self.affine)[:2]


def read_values(image: SpatialImage) -> NDArray[np.float32]:
    """Return the scaled values of an image; values too large for float32 become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asanyarray(image.dataobj, dtype=np.float32)


def canonical(image: SpatialImage) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return data with axes nearest to right, anterior, superior, and the affine.

    Raises
    ------
    HarmbenchError
        If it is a series of volumes, or the affine is not usable.
    """
    data = read_values(image)
    shape = data.shape
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 2:
        data = data[..., np.newaxis]
    if data.ndim != 3 or sum(side == 1 for side in data.shape) > 1:
        series = f": a series of {np.prod(shape[3:])} volumes; save one" if data.ndim > 3 else ""
        raise HarmbenchError(f"shape {shape} is neither a slice nor a volume{series}")
    affine = np.asarray(image.affine, dtype=np.float64)
    check_affine(affine)
    turned = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    return np.asanyarray(turned.dataobj, dtype=np.float32), np.asarray(turned.affine)


def check_affine(affine: NDArray[np.float64]) -> None:
    """Raise a HarmbenchError if an affine is not finite or not invertible."""
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise HarmbenchError("its header has no usable affine (voxel sizes and orientation)")


def select_planes(
    data: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    void: NDArray[np.bool_],
    asked: tuple[float | None, int, float],
) -> list[Plane]:
    """Return the slice itself, or axial slices of a volume.

    The nearest voxel planes are taken without interpolation, which would blur only some subjects.

    Parameters
    ----------
    data, affine : ndarray
        From `canonical`. An axis of length 1 is the normal of a slice.
    mask : ndarray of bool or None
        Foreground, of the same shape.
    void : ndarray of bool
        Positions of NaN, of the same shape.
    asked : tuple of (float or None, int, float)
        Height of the middle slice in mm, number of slices, and distance between them in mm.

    Raises
    ------
    HarmbenchError
        If a height is outside the volume, or two heights are in the same voxel plane.
    """
    if 1 in data.shape:
        normal, indices = data.shape.index(1), [0]
        if asked[1] > 1:
            raise HarmbenchError(
                f"it is a single slice, but {asked[1]} slices of each scan are asked for"
            )
    else:
        normal, indices = 2, _plane_indices(data, affine, mask, *asked)
    data, void = np.moveaxis(data, normal, 0), np.moveaxis(void, normal, 0)
    masks = None if mask is None else np.moveaxis(mask, normal, 0)
    return [
        Plane(data[i], None if masks is None else masks[i], void[i], of_plane(affine, normal, i))
        for i in indices
    ]


def _plane_indices(
    data: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    z: float | None,
    slices: int,
    step: float,
) -> list[int]:
    # In an oblique volume z varies within a voxel plane; the middle of the plane is used.
    middle = (np.array(data.shape[:2]) - 1) / 2
    first = float(affine[2, :2] @ middle + affine[2, 3])
    apart = float(affine[2, 2])
    last = first + apart * (data.shape[2] - 1)
    sides = voxel_sizes(affine)
    middle_z = first + apart * _below_the_top(data, mask, sides) if z is None else z
    heights = middle_z + step * (np.arange(slices) - slices // 2)
    indices = [round((height - first) / apart) for height in heights]
    for height, index in zip(heights, indices, strict=True):
        if not 0 <= index < data.shape[2]:
            raise HarmbenchError(
                f"z = {height:g} mm is outside the volume, which reaches from {first:.1f} to "
                f"{last:.1f} mm"
            )
    if len(set(indices)) < len(indices):
        raise HarmbenchError(
            f"its planes are {apart:.3g} mm apart, too far for slices every {step:g} mm; "
            "raise slice_step or take one slice"
        )
    return indices


def _below_the_top(
    data: NDArray[np.float32], mask: NDArray[np.bool_] | None, sides: NDArray[np.float64]
) -> float:
    """Return the index of the plane at one anatomical height: `DEPTH` below the top of the head.

    Every scan contains the top of the head and its largest cross-section, but the height of that
    cross-section is not well defined. It is used only if a scan does not reach down far enough.
    """
    front = data > threshold_of(data) if mask is None else mask
    areas = front.sum(axis=(0, 1)).astype(np.float64)
    if not areas.any():
        return (data.shape[2] - 1) / 2
    lowest, top = np.flatnonzero(areas >= TOP * areas.max())[[0, -1]]
    radius = float(np.sqrt(areas.max() * sides[0] * sides[1] / np.pi))
    found = top - DEPTH * radius / float(sides[2])
    return found if found >= lowest else float(np.argmax(areas))


def threshold_of(data: NDArray[np.float32]) -> float:
    """Return the intensity above which a pixel is foreground.

    It is 0 if the background was removed (at least `STRIPPED_SHARE` exact zeros), else Otsu's
    threshold (Otsu 1979).
    """
    if np.mean(data == 0) >= STRIPPED_SHARE:
        return 0.0
    return float(threshold_otsu(data.ravel()))  # Otsu would interpret a last axis of 3 as colors


def foreground(image: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return the pixels above a threshold, shape (h, w), with holes filled.

    Components smaller than a twentieth of the largest one are removed.
    """
    labels, count = ndimage.label(image > threshold)
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    areas = np.bincount(labels.ravel())[1:]
    kept = 1 + np.flatnonzero(areas >= areas.max() / 20)
    return ndimage.binary_fill_holes(np.isin(labels, kept))
