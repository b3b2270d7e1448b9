"""The ICBM 152 template near the phantom's slice, as smooth maps.

The maps are the symmetric non-linear 2009a average of 152 brains (Fonov et al., NeuroImage 2011,
doi:10.1016/j.neuroimage.2010.07.033) at 1 mm, which is part of nilearn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from scipy import ndimage

Z_RANGE = (-14, 50)
"""Lowest and highest axial plane in mm; positions outside get the values of the last plane."""
ODDS_FLOOR = 0.015
"""Constant added to each tissue probability, so that log odds are finite."""
PUSH_RANGE = 14.0
"""Distance from a ventricle's wall in mm at which the displacement is reduced to exp(-1)."""
VENTRICLE_BOX = ((-34.0, 34.0), (-62.0, 34.0), (-14.0, 34.0))
"""Box with the lateral and third ventricles (x, y, z in mm); other fluid does not move."""


@dataclass(frozen=True)
class Template:
    """Maps of shape (z, x, y) at 1 mm, first voxel at `origin` (z, x, y in mm, RAS).

    The first axis is z, so that an axial slice is contiguous in memory. Distances are in mm.
    """

    gray: NDArray[np.float32]  # log odds of gray matter against cerebrospinal fluid
    white: NDArray[np.float32]
    edge: NDArray[np.float32]  # distance from the surface of the brain, positive inside
    depth: NDArray[np.float32]  # distance from the nearest ventricle, negative inside
    push: NDArray[np.float32]  # (2, z, x, y): displacement if a ventricle's wall grows by 1 mm
    origin: NDArray[np.float64]

    def sample(
        self, volume: NDArray[np.float32], points: tuple[NDArray, NDArray, NDArray]
    ) -> NDArray[np.float32]:
        """Interpolate one map linearly at points (x, y, z in mm: three arrays of one shape)."""
        x, y, z = points
        voxels = np.stack([p - o for p, o in zip((z, x, y), self.origin, strict=True)])
        return ndimage.map_coordinates(
            volume, voxels, output=np.float32, order=1, mode="nearest", prefilter=False
        )


@cache
def template() -> Template:
    """Return the template: tissue log odds, brain mask, and the ventricles' geometry."""
    from nilearn import datasets

    head = datasets.load_mni152_template(resolution=1)
    low, high = (round(z - head.affine[2, 3]) for z in Z_RANGE)

    def stack(image: SpatialImage) -> NDArray[np.float64]:
        return np.asarray(image.dataobj, dtype=np.float64)[:, :, low : high + 1]

    origin = np.array(head.affine[:3, 3], dtype=np.float64)
    origin[2] += low
    gray = stack(datasets.load_mni152_gm_template(resolution=1))
    white = stack(datasets.load_mni152_wm_template(resolution=1))
    inside = stack(head) > 0
    brain = np.stack([ndimage.binary_fill_holes(inside[..., k]) for k in range(inside.shape[2])], 2)
    fluid = np.clip(1 - gray - white, 0, 1)
    depth, push = _ventricles(fluid * brain, origin)
    base = np.log(fluid + ODDS_FLOOR)

    def planes(volume: NDArray) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.moveaxis(volume, -1, -3), dtype=np.float32)

    return Template(
        gray=planes(np.log(gray + ODDS_FLOOR) - base),
        white=planes(np.log(white + ODDS_FLOOR) - base),
        edge=planes(_distance(brain)),
        depth=planes(depth),
        push=planes(push),
        origin=np.roll(origin, 1),
    )


def _ventricles(
    fluid: NDArray[np.float64], origin: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signed distance to the ventricles and the in-plane displacement field around them."""
    box = np.zeros(fluid.shape, dtype=bool)
    bounds = [
        slice(max(0, int(a - o)), int(b - o) + 1)
        for (a, b), o in zip(VENTRICLE_BOX, origin, strict=True)
    ]
    box[tuple(bounds)] = True
    labels, _ = ndimage.label((fluid > 0.5) & box)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    ventricles = np.isin(labels, np.flatnonzero(sizes >= 200))
    distance = -_distance(ventricles)
    smooth = ndimage.gaussian_filter(distance, 1.5)
    slopes = np.stack(np.gradient(smooth)[:2])
    fade = np.exp(-np.square(np.maximum(smooth, 0) / PUSH_RANGE))
    push = np.stack([ndimage.gaussian_filter(s * fade, 1.0) for s in slopes])
    return smooth, push


def _distance(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the border in voxels, positive inside."""
    edt = ndimage.distance_transform_edt
    return np.where(inside, edt(inside) - 0.5, 0.5 - edt(~inside))
