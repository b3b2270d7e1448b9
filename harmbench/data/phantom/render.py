"""Simulate the images of people's slices: the effects of a site's scanner on tissue."""

from __future__ import annotations

from collections.abc import Sequence
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
    PulseSequence,
    Scanner,
    receive_terms,
    signal,
)
from harmbench.data.phantom.subjects import Subjects
from harmbench.seeding import rng_from

PERCENTILE = 99.5
"""Percentile of the intensities in the brain that becomes 1, as for images from files."""

Value = TypeVar("Value", float, NDArray[np.float64])


@dataclass(frozen=True)
class SiteScanner:
    """A scanner between that of the reference site and that of a site.

    The weights of the site are 0 for the scanner of the reference.
    """

    site: Scanner
    reference: Scanner
    linear: float  # weight in receive field, transmit field and noise
    nonlinear: float  # weight in contrast, point spread and distortion


@dataclass(frozen=True)
class Drift:
    """Differences between n scans at one scanner; the first three are factors of shape (n,)."""

    flip: NDArray[np.float32]  # flip angle: transmit calibration
    blur: NDArray[np.float32]  # width of the point spread: small head motion
    noise: NDArray[np.float32]
    shift: NDArray[np.float32]  # (n, 2), repositioning in the coil, mm


def render(
    maps: Tissue,
    subjects: Subjects,
    grid: Grid,
    scanner: SiteScanner,
    scans: Sequence[tuple[str | int, ...]] | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Simulate scans of people's slices.

    Parameters
    ----------
    maps : Tissue
        n slices on the grid's fine samples.
    subjects : Subjects
        The same n people.
    grid : Grid
    scanner : SiteScanner
    scans : sequence of tuple or None
        Names of the n scans, which seed their noise and drift; None for neither.

    Returns
    -------
    images : ndarray of float32, shape (n, size, size)
        In [0, 1], 0 outside the brain.
    masks : ndarray of bool, shape (n, size, size)
        Pixels of which at least half is brain.
    """
    n = len(subjects)
    rngs = None if scans is None else [rng_from("phantom", "scan", *name) for name in scans]
    drift = _drift(n, rngs)
    place = np.stack([2.5 * subjects.trait("place_x"), 4 * subjects.trait("place_y")], 1)
    gray, white, brain = _acquire(maps, place, grid, scanner, drift)
    x = grid.centers[None, :, None] + (place + drift.shift)[:, 0, None, None]
    y = grid.centers[None, None, :] + (place + drift.shift)[:, 1, None, None]
    image = _contrast((gray, white, brain), x, y, subjects, scanner, drift)
    image *= _receive(x, y, scanner)
    if rngs is not None:
        noises = np.log(scanner.reference.noise), np.log(scanner.site.noise)
        level = _between(*noises, min(scanner.linear, 1.5))
        image = _rician(image, np.exp(level) / grid.pixel * drift.noise, rngs)
    mask = brain > 0.5
    # The edge is soft: with a hard one, rounding differences would change whole pixels.
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
    scanner: SiteScanner,
    drift: Drift,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Tissue fractions of the image's pixels: distortion, point spread and pixel averaging."""
    site, reference, weight = scanner.site, scanner.reference, scanner.nonlinear
    fwhm = np.exp(_between(np.log(reference.fwhm), np.log(site.fwhm), weight))
    width = np.sqrt(np.square(fwhm * drift.blur / 2.3548) + grid.pixel**2 / 12)
    stretch = _between(reference.stretch, site.stretch, weight)
    warp = _between(reference.warp, site.warp, weight)
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
    scanner: SiteScanner,
    drift: Drift,
) -> NDArray[np.float32]:
    """Image without the receive field; young white matter in the center has the value 1."""
    gray, white, brain = parts
    fluid = np.maximum(brain - gray - white, 0)
    radius = (np.square(x) + np.square(y)) / np.float32(RADIUS**2)
    total = np.zeros_like(gray)
    site, reference = scanner.site, scanner.reference
    b1 = np.float32(_between(reference.transmit, site.transmit, scanner.linear))
    flip = drift.flip[:, None, None] * (1 + b1 * (np.float32(0.4) - radius))
    flip = np.clip(flip, 0.6, 1.4)
    for one, weight in ((reference, 1 - scanner.nonlinear), (site, scanner.nonlinear)):
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
    sequence: PulseSequence, number: int, t1: NDArray[np.float32], flip: NDArray[np.float32]
) -> NDArray[np.float32]:
    decay = np.exp(-sequence.te / T2_STAR[sequence.field][number])
    density = np.float32(PROTON_DENSITY[number] * decay)
    return density * np.abs(signal(sequence, t1, flip)).astype(np.float32)


def _relaxation(subjects: Subjects, sequence: PulseSequence) -> list[NDArray[np.float32]]:
    """T1 of fluid, gray and white matter in s by age and individual, each (n, 1, 1)."""
    late = ((subjects.age - 18) / 72).astype(np.float32)
    gray = (1 - 0.06 * late) * (1 + 0.012 * subjects.trait("gray_t1"))
    white = (1 + 0.04 * late + 0.08 * late**2) * (1 + 0.012 * subjects.trait("white_t1"))
    factors = (np.ones_like(gray), gray, white)
    base = T1[sequence.field].astype(np.float32)
    return [(b * f)[:, None, None] for b, f in zip(base, factors, strict=True)]


def _receive(
    x: NDArray[np.float32], y: NDArray[np.float32], scanner: SiteScanner
) -> NDArray[np.float32]:
    """Receive sensitivity of the scanner at the position of the subject."""
    coefficients = _between(scanner.reference.receive, scanner.site.receive, scanner.linear)
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
    ranked = np.where(mask, image, np.float32(-1)).reshape(len(image), -1)
    ranked.sort(axis=1)
    count = mask.reshape(len(mask), -1).sum(1)
    rank = ranked.shape[1] - 1 - (1 - PERCENTILE / 100) * (count - 1)
    low = np.floor(rank).astype(int)
    rows = np.arange(len(image))
    high = np.minimum(low + 1, ranked.shape[1] - 1)
    part = (rank - low).astype(np.float32)
    level = ranked[rows, low] * (1 - part) + ranked[rows, high] * part
    return np.clip(image / level[:, None, None], 0, 1)
