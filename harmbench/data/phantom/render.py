"""From tissue to image: what a scanner, set to a strength, makes of people's slices."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harmbench.data.phantom.anatomy import Grid, Tissue
from harmbench.data.phantom.scanner import (
    PROTON_DENSITY,
    RADIUS,
    T1,
    T2_STAR,
    Scanner,
    Sequence,
    receive_terms,
    signal,
)
from harmbench.data.phantom.subjects import Subjects
from harmbench.seeding import rng_from

PERCENTILE = 99.5
"""Of the intensities in the brain, which becomes 1: the scaling that files get, too."""

Value = TypeVar("Value", float, NDArray[np.float64])


@dataclass(frozen=True)
class Effect:
    """How far a site's scanner is from the reference's.

    Attributes
    ----------
    linear : float
        Weight of the site's receive field, transmit field and noise against the reference's.
    nonlinear : float
        Weight of the site's contrast, point spread and distortion.
    """

    linear: float
    nonlinear: float


@dataclass(frozen=True)
class Drift:
    """What differs from scan to scan at one scanner, arrays of shape (n,) or (n, 2).

    Attributes
    ----------
    flip : ndarray
        Factor on the flip angle: transmit calibration.
    blur : ndarray
        Factor on the width of the point spread: small head motion.
    noise : ndarray
        Factor on the noise.
    shift : ndarray, shape (n, 2)
        Repositioning in the coil, mm.
    """

    flip: NDArray[np.float32]
    blur: NDArray[np.float32]
    noise: NDArray[np.float32]
    shift: NDArray[np.float32]


def render(
    maps: Tissue,
    subjects: Subjects,
    grid: Grid,
    scanner: Scanner,
    reference: Scanner,
    effect: Effect,
    scans: Many[tuple[str | int | float, ...]] | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scan people's slices.

    Parameters
    ----------
    maps : Tissue
        n slices on the grid's fine samples.
    subjects : Subjects
        The same n people.
    grid : Grid
        Where the image is.
    scanner, reference : Scanner
        The site's and the reference site's.
    effect : Effect
        How much of the difference between them acts; 0 gives the reference scanner.
    scans : sequence of tuple or None
        The names of the n scans, which seed their noise and drift; None for neither.

    Returns
    -------
    images : ndarray of float32, shape (n, size, size)
        In [0, 1], 0 outside the brain.
    masks : ndarray of bool, shape (n, size, size)
        Where at least half of a pixel is brain.
    """
    n = len(subjects)
    rngs = None if scans is None else [rng_from("phantom", "scan", *name) for name in scans]
    drift = _drift(n, rngs)
    place = np.stack([2.5 * subjects.trait("place_x"), 4 * subjects.trait("place_y")], 1)
    gray, white, brain = _acquire(maps, place, grid, scanner, reference, effect, drift)
    x = grid.centers[None, :, None] + (place + drift.shift)[:, 0, None, None]
    y = grid.centers[None, None, :] + (place + drift.shift)[:, 1, None, None]
    image = _contrast((gray, white, brain), x, y, subjects, scanner, reference, effect, drift)
    image *= _receive(x, y, scanner, reference, effect)
    if rngs is not None:
        level = _between(np.log(reference.noise), np.log(scanner.noise), min(effect.linear, 1.5))
        image = _rician(image, np.exp(level) / grid.pixel * drift.noise, rngs)
    mask = brain > 0.5
    # A soft edge: a hard one would turn the last bits of a machine into whole pixels.
    image *= np.clip(2 * brain - 0.5, 0, 1)
    return _scale(image, mask), mask


def _between(reference: Value, site: Value, weight: float) -> Value:
    return reference + weight * (site - reference)


def _drift(n: int, rngs: list[np.random.Generator] | None) -> Drift:
    bell = np.zeros((n, 5), dtype=np.float32)
    for row, rng in enumerate(rngs or []):
        bell[row] = rng.standard_normal(5, dtype=np.float32)
    return Drift(
        flip=1 + 0.012 * bell[:, 0],
        blur=1 + np.float32(0.03) * np.abs(bell[:, 1]),
        noise=np.exp(0.08 * bell[:, 2]),
        shift=1.5 * bell[:, 3:5],
    )


def _acquire(
    maps: Tissue,
    place: NDArray[np.float32],
    grid: Grid,
    scanner: Scanner,
    reference: Scanner,
    effect: Effect,
    drift: Drift,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Tissue fractions of the image's pixels: distortion, point spread and pixel averaging."""
    w = effect.nonlinear
    fwhm = np.exp(_between(np.log(reference.fwhm), np.log(scanner.fwhm), w))
    width = np.sqrt(np.square(fwhm * drift.blur / 2.3548) + grid.pixel**2 / 12)
    stretch = _between(reference.stretch, scanner.stretch, w)
    warp = _between(reference.warp, scanner.warp, w)
    sides = []
    for axis, fine in enumerate((grid.fine_x, grid.fine_y)):
        offset = place[:, axis, None]
        away = grid.centers + offset
        seen = away * (1 + stretch[axis]) + warp[axis] * away**3 / RADIUS**2 - offset
        gaps = (seen[:, :, None] - fine) / width[:, None, None]
        weights = np.exp(-0.5 * np.square(gaps))
        step = float(fine[1] - fine[0])
        weights *= step / (np.sqrt(2 * np.pi) * width[:, None, None])
        sides.append(weights.astype(np.float32))
    left, right = sides[0], sides[1].transpose(0, 2, 1)
    gray, white, brain = (left @ part @ right for part in maps)
    return gray, white, brain


def _contrast(
    parts: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    subjects: Subjects,
    scanner: Scanner,
    reference: Scanner,
    effect: Effect,
    drift: Drift,
) -> NDArray[np.float32]:
    """Image before the receive field, 1 where young white matter is in the center."""
    gray, white, brain = parts
    fluid = np.maximum(brain - gray - white, 0)
    radius = (np.square(x) + np.square(y)) / np.float32(RADIUS**2)
    total = np.zeros_like(gray)
    b1 = np.float32(_between(reference.transmit, scanner.transmit, effect.linear))
    flip = drift.flip[:, None, None] * (1 + b1 * (np.float32(0.4) - radius))
    flip = np.clip(flip, 0.6, 1.4)
    for one, weight in ((reference, 1 - effect.nonlinear), (scanner, effect.nonlinear)):
        if weight == 0:
            continue
        times = _relaxation(subjects, one.sequence)
        young = np.array(T1[one.sequence.field][2], dtype=np.float32)
        unit = float(_tissue_signal(one.sequence, 2, young, np.ones_like(young)))
        for number, fraction in enumerate((fluid, gray, white)):
            response = _tissue_signal(one.sequence, number, times[number], flip)
            total += np.float32(weight / unit) * fraction * response
    return np.maximum(total, 0)


def _tissue_signal(
    sequence: Sequence, number: int, t1: NDArray[np.float32], flip: NDArray[np.float32]
) -> NDArray[np.float32]:
    decay = np.exp(-sequence.te / T2_STAR[sequence.field][number])
    density = np.float32(PROTON_DENSITY[number] * decay)
    return density * np.abs(signal(sequence, t1, flip)).astype(np.float32)


def _relaxation(subjects: Subjects, sequence: Sequence) -> list[NDArray[np.float32]]:
    """T1 of fluid, gray and white matter in s, each (n, 1, 1): drifts with age, differs a bit."""
    late = ((subjects.age - 18) / 72).astype(np.float32)
    gray = (1 - 0.06 * late) * (1 + 0.012 * subjects.trait("gray_t1"))
    white = (1 + 0.04 * late + 0.08 * late**2) * (1 + 0.012 * subjects.trait("white_t1"))
    factors = (np.ones_like(gray), gray, white)
    base = T1[sequence.field].astype(np.float32)
    return [(b * f)[:, None, None] for b, f in zip(base, factors, strict=True)]


def _receive(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    scanner: Scanner,
    reference: Scanner,
    effect: Effect,
) -> NDArray[np.float32]:
    """Receive sensitivity, fixed to the scanner, at the subject's position in it."""
    coefficients = _between(reference.receive, scanner.receive, effect.linear)
    log = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    for weight, term in zip(coefficients, receive_terms(x, y), strict=True):
        log += np.float32(weight) * term
    return np.exp(log)


def _rician(
    image: NDArray[np.float32], sigma: NDArray[np.float32], rngs: list[np.random.Generator]
) -> NDArray[np.float32]:
    """Magnitude of the image with complex noise of standard deviation `sigma`, shape (n,)."""
    noise = np.empty((2, *image.shape), dtype=np.float32)
    for row, rng in enumerate(rngs):
        noise[:, row] = rng.standard_normal((2, *image.shape[1:]), dtype=np.float32)
    noise *= sigma.astype(np.float32)[:, None, None]
    return np.hypot(image + noise[0], noise[1])


def _scale(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scale each image so that a percentile of its brain's intensities is 1; clip to [0, 1]."""
    flat = np.where(mask, image, np.float32(-1)).reshape(len(image), -1)
    ranked = np.sort(flat, axis=1)
    count = mask.reshape(len(mask), -1).sum(1)
    rank = flat.shape[1] - 1 - (1 - PERCENTILE / 100) * (count - 1)
    low = np.floor(rank).astype(int)
    rows = np.arange(len(image))
    high = np.minimum(low + 1, flat.shape[1] - 1)
    part = (rank - low).astype(np.float32)
    level = ranked[rows, low] * (1 - part) + ranked[rows, high] * part
    return np.clip(image / level[:, None, None], 0, 1)
