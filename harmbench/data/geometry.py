"""Where the pixels of a slice lie in space: affines from pixel (i, j, 0) to millimeters.

An affine's columns are the steps along the slice's two axes and along its normal; world axes are
those of NIfTI: right, anterior, superior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def centered(shape: Sequence[int], spacing_mm: float) -> NDArray[np.float64]:
    """Return axes right, anterior, superior, with the origin in the middle of the slice.

    Parameters
    ----------
    shape : sequence of int
        Of the slice, in pixels.
    spacing_mm : float
        Side of a pixel, and thickness.

    Returns
    -------
    ndarray of float64, shape (4, 4)
    """
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:2, 3] = -spacing_mm * (np.array(shape) - 1) / 2
    return affine


def of_plane(affine: ArrayLike, normal: int, index: int) -> NDArray[np.float64]:
    """Return the affine of one plane of a volume.

    Parameters
    ----------
    affine : array, shape (4, 4)
        Of the volume.
    normal : int
        The axis that the plane stands on; the others stay in order.
    index : int
        Which plane.

    Returns
    -------
    ndarray of float64, shape (4, 4)
    """
    volume = np.asarray(affine, dtype=np.float64)
    in_plane = [axis for axis in range(3) if axis != normal]
    plane = volume[:, [*in_plane, normal, 3]]
    plane[:3, 3] += index * volume[:3, normal]
    return plane


def of_grid(affine: ArrayLike, factor: ArrayLike, offset: ArrayLike) -> NDArray[np.float64]:
    """Return the affine of a grid laid over a slice.

    Parameters
    ----------
    affine : array, shape (4, 4)
        Of the slice.
    factor, offset : array, shape (2,)
        Pixel p of the grid is pixel ``factor * p + offset`` of the slice.

    Returns
    -------
    ndarray of float64, shape (4, 4)
    """
    step = np.eye(4)
    step[[0, 1], [0, 1]] = factor
    step[:2, 3] = offset
    return np.asarray(affine, dtype=np.float64) @ step
