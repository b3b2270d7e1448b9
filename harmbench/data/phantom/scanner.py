"""Scanners: their properties, and the signal of tissue by the signal equations.

Sources
-------
T1 of gray and white matter at 1.5 T and 3 T: Wright et al., MAGMA 2008,
doi:10.1007/s10334-008-0104-8. T1 of cerebrospinal fluid: Rooney et al., Magn Reson Med 2007,
doi:10.1002/mrm.21122. T2*: Peters et al., Magn Reson Imaging 2007, doi:10.1016/j.mri.2007.02.014.
Proton densities: Kwan et al., IEEE Trans Med Imaging 1999, doi:10.1109/42.816072 (BrainWeb).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harmbench.seeding import rng_from

PROTON_DENSITY = np.array([1.0, 0.86, 0.77])
"""Relative proton densities of fluid, gray and white matter; the next tables have this order."""
T1 = {1.5: np.array([4.3, 1.197, 0.646]), 3.0: np.array([4.3, 1.607, 0.838])}
"""Longitudinal relaxation times in s, by field strength in T."""
T2_STAR = {1.5: np.array([0.6, 0.0840, 0.0662]), 3.0: np.array([0.4, 0.0660, 0.0532])}
"""Effective transverse relaxation times in s."""
RECEIVE_TERMS = 9
"""Number of polynomial terms of the logarithm of the receive sensitivity."""
RADIUS = 90.0
"""Unit of length in mm of fields and distortions: about half the length of the head."""

REFERENCE_SITE = "siteA"
"""The reference: always a 3 T MPRAGE, the protocol of most current cohorts."""
RECEIVE_SPREAD = np.array([0.05, 0.06, 0.12, 0.12, 0.06, 0.06, 0.06, 0.06, 0.06])
"""Standard deviations of the coefficients between scanners, linear and quadratic terms first."""


@dataclass(frozen=True)
class PulseSequence:
    """A T1-weighted sequence on a magnet; times are in s."""

    kind: Literal["MPRAGE", "SPGR"]
    field: float  # field strength, T: 1.5 or 3
    tr: float  # repetition time: between inversions (MPRAGE) or between pulses (SPGR)
    te: float  # echo time
    flip: float  # flip angle, degrees
    ti: float = 0.0  # from the inversion to the center of the readout (MPRAGE)
    spacing: float = 0.0  # between readout pulses (MPRAGE)
    echoes: int = 0  # readout pulses after one inversion (MPRAGE)


@dataclass(frozen=True)
class Scanner:
    """A site's scanner. `stretch` and `warp` have shape (2,), for the axes x and y."""

    sequence: PulseSequence
    fwhm: float  # in-plane full width at half maximum of the point spread, mm
    noise: float  # standard deviation at 1 mm pixels; 1 is the signal of young white matter
    stretch: NDArray[np.float64]  # relative error of the scale
    warp: NDArray[np.float64]  # displacement at `RADIUS`, in units of it; grows as the third power
    receive: NDArray[np.float64]  # coefficients of the log receive sensitivity, `receive_terms`
    transmit: float  # share by which the flip angle is lower at `RADIUS` than in the center


def draw_scanner(seed: int, site: str) -> Scanner:
    """Return a site's scanner, which depends only on the scanner seed and the site's name."""
    rng = rng_from("phantom", "scanner", seed, site)
    reference = site == REFERENCE_SITE
    draw = rng.random(24)
    bell = rng.standard_normal(RECEIVE_TERMS)

    def between(k: int, low: float, high: float) -> float:
        return float(low + (high - low) * draw[k])

    field = 3.0 if reference or draw[0] < 0.5 else 1.5
    if reference or draw[1] < 0.5:
        sequence = PulseSequence(
            "MPRAGE",
            field,
            tr=between(2, 1.9, 2.5),
            te=between(3, 0.0022, 0.0040),
            flip=between(4, 7.0, 12.0),
            ti=between(5, 0.78, 1.12),
            spacing=between(6, 0.0068, 0.0090),
            echoes=round(between(7, 160, 192)),
        )
    else:
        sequence = PulseSequence(
            "SPGR",
            field,
            tr=between(2, 0.010, 0.026),
            te=between(3, 0.0030, 0.0060),
            flip=between(4, 14.0, 32.0),
        )
    fwhm = between(8, 1.6, 2.2) if reference else between(8, 1.4, 3.8)
    ratio = between(9, 30.0, 36.0) if reference else between(9, 18.0, 40.0)
    extent = 0.3 if reference else 1.0
    stretch = extent * np.array([between(10, -0.008, 0.008), between(11, -0.008, 0.008)])
    warp = extent * np.array([between(12, -0.010, 0.010), between(13, -0.010, 0.010)])
    transmit = between(14, 0.10, 0.22) if field == 3.0 else between(14, 0.01, 0.06)
    receive = bell * RECEIVE_SPREAD * (0.5 if reference else 1.0)
    return Scanner(sequence, fwhm, 1 / ratio, stretch, warp, receive, transmit)


def receive_terms(
    x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """Return the `RECEIVE_TERMS` polynomial terms, of degree 1 to 3, at points in mm."""
    u, v = x / np.float32(RADIUS), y / np.float32(RADIUS)
    return (u, v, u * u, v * v, u * v, u * u * u, v * v * v, u * u * v, u * v * v)


def signal(sequence: PulseSequence, t1: NDArray, flip_scale: NDArray) -> NDArray:
    """Steady-state signal of one tissue per unit of proton density, without T2* decay.

    Parameters
    ----------
    sequence : PulseSequence
        SPGR: Ernst and Anderson 1966 (ideal spoiling). MPRAGE: the periodic steady state of
        inversion, recovery, `echoes` spoiled pulses and recovery (Deichmann et al., NeuroImage
        2000, doi:10.1006/nimg.2000.0601), read at the middle pulse.
    t1 : ndarray
        Longitudinal relaxation time, s.
    flip_scale : ndarray
        Local flip angle divided by the nominal one; broadcast against `t1`.

    Returns
    -------
    ndarray
        Share of the equilibrium magnetization. It is negative if an inverted tissue has not yet
        recovered; the image uses the magnitude.
    """
    angle = np.deg2rad(sequence.flip) * flip_scale
    sin, cos = np.sin(angle), np.cos(angle)
    if sequence.kind == "SPGR":
        e1 = np.exp(-sequence.tr / t1)
        return sin * (1 - e1) / (1 - cos * e1)
    half = sequence.echoes // 2
    e1 = np.exp(-sequence.spacing / t1)
    before = np.exp(-(sequence.ti - half * sequence.spacing) / t1)
    rest = sequence.tr - sequence.ti - (sequence.echoes - half) * sequence.spacing
    after = np.exp(-rest / t1)
    factor = cos * e1
    limit = (1 - e1) / (1 - factor)
    to_middle = np.exp(half * np.log(factor))
    to_end = np.exp(sequence.echoes * np.log(factor))
    # The magnetization before the inversion is periodic: m = after*(train(before(-m))) + ...
    gain = -after * to_end * before
    start = after * (to_end * (1 - before) + limit * (1 - to_end)) + 1 - after
    m = start / (1 - gain)
    ready = 1 - before * (1 + m)
    return sin * (to_middle * ready + limit * (1 - to_middle))
