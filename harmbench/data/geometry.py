"""Affines of slices, from pixel (i, j, 0) to mm in right, anterior, superior direction (NIfTI).

The columns of an affine are the steps along the two axes of the slice and along its normal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def centered(shape: Sequence[int], spacing_mm: float) -> NDArray[np.float64]:
    """Return an axis-aligned affine, shape (4, 4), with the origin in the middle of the slice.

    `shape` is that of the slice in pixels; `spacing_mm` is the side and thickness of a pixel.
    """
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:2, 3] = -spacing_mm * (np.array(shape) - 1) / 2
    return affine


def of_plane(affine: ArrayLike, normal: int, index: int) -> NDArray[np.float64]:
    """Return the affine, shape (4, 4), of plane `index` along the axis `normal` of a volume.

    `affine` is that of the volume. The other axes keep their order.
    """
    volume = np.asarray(affine, dtype=np.float64)
    in_plane = [axis for axis in range(3) if axis != normal]
    plane = volume[:, [*in_plane, normal, 3]]
    plane[:3, 3] += index * volume[:3, normal]
    return plane


def of_grid(affine: ArrayLike, factor: ArrayLike, offset: ArrayLike) -> NDArray[np.float64]:
    """Return the affine, shape (4, 4), of a grid on a slice with the given affine.

    Pixel p of the grid is pixel ``factor * p + offset`` of the slice; both have shape (2,).
    """
    step = np.eye(4)
    step[[0, 1], [0, 1]] = factor
    step[:2, 3] = offset
    return np.asarray(affine, dtype=np.float64) @ step
