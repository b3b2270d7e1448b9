"""Tissue fractions of a person's slice on a fine grid, monotone in age."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harmbench.data.phantom.subjects import Subjects
from harmbench.data.phantom.template import Template, template

FIELD_OF_VIEW = 200.0
"""Side of the square image, in mm."""
CENTER = (0.0, -17.0)
"""Center of the image in template space (x, y), in mm."""
SLICE_LEVEL = 18.0
"""Height of the axial slice in template space, in mm."""
HALF_WIDTH = 84.0
"""Largest distance of the head from the midline in mm; nothing is computed outside."""
SHARPNESS = 1.6
"""Exponent of the template's tissue odds: removes part of the blur of the mean of 152 people."""
GROWTH_STEPS = 2
"""Number of integration steps of the ventricles' growth."""


class Tissue(NamedTuple):
    """Fractions of gray matter, white matter and the whole brain, each (n, fine x, fine y)."""

    gray: NDArray[np.float32]
    white: NDArray[np.float32]
    brain: NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """The image grid and the finer grid for the anatomy; positions are in mm from the center."""

    pixel: float  # side of a pixel, mm
    centers: NDArray[np.float32]  # pixel centers along either axis
    fine_x: NDArray[np.float32]  # fine sample positions; even in number
    fine_y: NDArray[np.float32]


def make_grid(size: int) -> Grid:
    """Return the grid for images of `size` pixels, with at least 2 x 2 fine samples per pixel."""
    pixel = FIELD_OF_VIEW / size
    times = max(2, int(np.ceil(pixel / 1.6)))
    step = pixel / times
    fine = (np.arange(size * times) - (size * times - 1) / 2) * step
    half = step * np.ceil(HALF_WIDTH / step)
    centers = (np.arange(size) - (size - 1) / 2) * pixel
    narrow = fine[np.abs(fine) < half]
    return Grid(pixel, *(a.astype(np.float32) for a in (centers, narrow, fine)))


def tissue(subjects: Subjects, grid: Grid, jitter: float) -> Tissue:
    """Return the subjects' tissue fractions on the fine grid.

    Parameters
    ----------
    subjects : Subjects
        n people.
    grid : Grid
    jitter : float
        Standard deviation of the slice's height in mm; that of tilts is half of it in degrees.

    Returns
    -------
    Tissue
        Fractions in [0, 1]; the sum of gray and white matter is at most that of the brain.
    """
    atlas = template()
    points = _head_points(subjects, grid, jitter)
    coarse = points[0][:, ::2, ::2], points[1][:, ::2, ::2], points[2][:, ::2, ::2]
    edge = atlas.sample(atlas.edge, coarse)
    near = ndimage.binary_dilation(edge > -1, np.ones((1, 3, 3), dtype=bool))
    depth = _refine(_sample_inside(atlas, atlas.depth, coarse, near))
    shift_x, shift_y = _ventricle_shift(subjects, atlas, coarse, near)
    x, y, z = points[0] - _refine(shift_x), points[1] - _refine(shift_y), points[2]
    brain = np.clip(_refine(edge) + 0.5, 0, 1)
    gray = _sample_inside(atlas, atlas.gray, (x, y, z), brain > 0)
    white = _sample_inside(atlas, atlas.white, (x, y, z), brain > 0)
    fluid, tilt = _cortical_odds(subjects, grid, depth, y)
    gray_odds = np.exp(np.clip(SHARPNESS * gray - fluid + tilt, -12, 12))
    white_odds = np.exp(np.clip(SHARPNESS * white - fluid - tilt, -12, 12))
    share = brain / (1 + gray_odds + white_odds)
    gray, white = gray_odds * share, white_odds * share
    lesion = white * _lesions(subjects, grid, depth)
    return Tissue(gray + lesion, white - lesion, brain)


def _sample_inside(
    atlas: Template,
    volume: NDArray[np.float32],
    points: tuple[NDArray, NDArray, NDArray],
    inside: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Sample only points `inside`, else return 0: half of the field of view is air."""
    values = np.zeros(inside.shape, dtype=np.float32)
    x, y, z = (p[inside] for p in points)
    values[inside] = atlas.sample(volume, (x, y, z))
    return values


def ventricle_area(subjects: Subjects, grid: Grid, jitter: float) -> NDArray[np.float64]:
    """Return the area of fluid within 12 mm of the ventricles in the slice, mm^2, shape (n,)."""
    maps = tissue(subjects, grid, jitter)
    points = _head_points(subjects, grid, jitter)
    atlas = template()
    near = atlas.sample(atlas.depth, points) < 12
    step = float(grid.fine_y[1] - grid.fine_y[0])
    return ((maps.brain - maps.gray - maps.white) * near).sum((1, 2), dtype=float) * step**2


def _decades(subjects: Subjects) -> NDArray[np.float32]:
    """Return the decades since the age of 18."""
    return _column((subjects.age - 18) / 10)


def _column(values: NDArray) -> NDArray[np.float32]:
    """Return one value per person for broadcasting over (n, x, y)."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _head_points(
    subjects: Subjects, grid: Grid, jitter: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Template coordinates (mm) of the fine samples after size, pose and individual deformation."""
    x, y = grid.fine_x[None, :, None], grid.fine_y[None, None, :]
    size = 1 + 0.021 * (2 * _column(subjects.male) - 1) + 0.024 * _column(subjects.trait("size"))
    width = 1 + 0.018 * _column(subjects.trait("width"))
    angle = np.deg2rad(1.2) * _column(subjects.trait("turn"))
    cos, sin = np.cos(angle), np.sin(angle)
    bend_x, bend_y, bend_z = _deformation(subjects, grid)
    head_x = (cos * x + sin * y) / (size * width) + bend_x
    head_y = (cos * y - sin * x) * (width / size) + bend_y
    tilt = np.deg2rad(jitter / 2)
    height = jitter * _column(subjects.trait("level")) + bend_z
    height = height + tilt * (
        _column(subjects.trait("pitch")) * y + _column(subjects.trait("roll")) * x
    )
    return head_x + np.float32(CENTER[0]), head_y + np.float32(CENTER[1]), SLICE_LEVEL + height


def _cosines(points: NDArray[np.float32], modes: int) -> NDArray[np.float32]:
    """Cosine modes 0 .. modes-1 over the field of view at the points, shape (len, modes)."""
    phase = (points.astype(np.float64) / FIELD_OF_VIEW + 0.5)[:, None] * np.pi
    return np.cos(phase * np.arange(modes)).astype(np.float32)


def _smooth_field(
    coefficients: NDArray[np.float32], grid: Grid, low: float, high: float
) -> NDArray[np.float32]:
    """Random field of unit variance with wavelengths from `low` to `high` mm, (..., x, y)."""
    modes = coefficients.shape[-1]
    waves = np.hypot(*np.meshgrid(np.arange(modes), np.arange(modes))) / (2 * FIELD_OF_VIEW)
    weights = np.exp(-np.square(waves * low) / 2) * -np.expm1(-np.square(waves * high) / 2)
    weights /= np.sqrt(np.sum(np.square(weights)) / 4)
    left, right = _cosines(grid.fine_x, modes), _cosines(grid.fine_y, modes)
    return left @ (coefficients * weights.astype(np.float32)) @ right.T


def _deformation(subjects: Subjects, grid: Grid) -> list[NDArray[np.float32]]:
    """Individual displacement in mm along x, y and z, similar in the two hemispheres."""
    odd = np.arange(subjects.bends.shape[-1]) % 2 == 1
    displacements = []
    for axis, rms in enumerate((1.5, 1.7, 1.1)):
        mirrored = odd if axis == 0 else ~odd
        weights = rms * np.where(mirrored, 1.33, 0.47).astype(np.float32)[:, None]
        coefficients = subjects.bends[:, axis] * weights
        displacements.append(_smooth_field(coefficients, grid, 55.0, 200.0))
    return displacements


def _refine(coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate samples 0, 2, 4, ... to 0, 1, 2, 3, ... along the last two axes."""
    for axis in (-2, -1):
        coarse = np.moveaxis(coarse, axis, 0)
        after = np.concatenate([coarse[1:], coarse[-1:]])
        both = np.stack([coarse, (coarse + after) / 2], axis=1)
        coarse = np.moveaxis(both.reshape(-1, *coarse.shape[1:]), 0, axis)
    return coarse


def _ventricle_growth(subjects: Subjects) -> NDArray[np.float32]:
    """Displacement of the ventricles' walls: about 0.4 mm per decade at 18, 1.5 mm at 90 years."""
    decades = _decades(subjects)
    pace = np.exp(0.12 * _column(subjects.trait("ventricle")))
    growth = (0.34 * decades + 0.085 * decades**2) * pace
    offset = 0.40 * _column(subjects.trait("ventricle")) + 0.20 * _column(subjects.male)
    return growth + offset - 1.3


def _ventricle_shift(
    subjects: Subjects,
    atlas: Template,
    points: tuple[NDArray, NDArray, NDArray],
    inside: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Displacement in mm (x, y) around the growing ventricles.

    It integrates the template's push field in short steps, so that a wall does not cross the middle
    of a narrow horn.
    """
    step = np.broadcast_to(_ventricle_growth(subjects) / GROWTH_STEPS, inside.shape)[inside]
    x, y, z = (p[inside] for p in points)
    shift_x, shift_y = np.zeros_like(points[0]), np.zeros_like(points[1])
    for _ in range(GROWTH_STEPS):
        push_x, push_y = (step * atlas.sample(push, (x, y, z)) for push in atlas.push)
        x, y = x - push_x, y - push_y
        shift_x[inside] += push_x
        shift_y[inside] += push_y
    return shift_x, shift_y


def _cortical_odds(
    subjects: Subjects, grid: Grid, depth: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log odds added to fluid (sulci widen), and from white to gray matter (folding pattern)."""
    decades = _decades(subjects)
    cortex = 1 - np.exp(-np.square(np.maximum(depth, 0) / 22.0))
    pace = np.exp(0.12 * _column(subjects.trait("cortex")))
    widening = (0.43 * decades + 0.045 * decades**2) * pace + 0.20 * _column(
        subjects.trait("cortex")
    )
    behind = 1 / (1 + np.exp(np.clip((y + 35) / 8, -30, 30)))
    regional = _column(subjects.male - 0.5) * (1.1 * behind - 0.35)
    folds = _smooth_field(subjects.folds, grid, 7.0, 26.0)
    fluid = cortex * (widening - 0.3 + regional + 0.70 * folds[:, 0])
    return fluid, cortex * np.float32(0.55) * folds[:, 1]


def _lesions(subjects: Subjects, grid: Grid, depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of lesions in white matter: first caps around the ventricles, then deep spots."""
    spots = _smooth_field(subjects.spots, grid, 7.0, 40.0)
    near = np.exp(-np.square((depth - 2) / 8))
    burden = 0.60 * _decades(subjects) + 0.5 * _column(subjects.trait("lesion"))
    odds = (burden + 3.0 * near + spots - 7.1) / 0.35
    return np.float32(0.8) / (1 + np.exp(np.clip(-odds, -30, 30)))
