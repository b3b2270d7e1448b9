"""Who the phantom's people are: each one a pure function of the subject seed and an index."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harmbench.seeding import rng_from

AGE_RANGE = (18.0, 90.0)
"""Youngest and oldest, in years."""
SITE_SHARES = (0.22, 0.09, 0.17, 0.12, 0.15, 0.11, 0.14, 0.10, 0.16, 0.13, 0.19, 0.08)
"""Relative sizes of the sites, cut to their number and normalized; of seven, the least is 9 %."""
SITE_AGES = (0.1, 1.4, -1.3, 0.7, -0.5, 1.0, -0.9, 0.4, -1.5, 1.2, -0.2, 0.8)
"""Where each site's ages lie relative to the others, before standardizing."""
SITE_SEXES = (0.0, 0.09, -0.07, -0.11, 0.06, 0.10, -0.04, 0.08, -0.09, 0.03, -0.06, 0.07)
"""Each site's share of women minus one half at `confounding` 0.25."""
TRAITS = (
    "size",
    "width",
    "turn",
    "level",
    "pitch",
    "roll",
    "ventricle",
    "cortex",
    "lesion",
    "gray_t1",
    "white_t1",
    "place_x",
    "place_y",
)
"""Names of the standard normal traits that make one person differ from another."""
DEFORMATION_MODES = 11
FOLDING_MODES = 34
LESION_MODES = 44
# Additive recurrences (Roberts 2018): the golden ratio spreads subjects over sites, its
# two-dimensional generalization ages and sexes within each site, evenly at every cohort size.
_SITE_STEP = 0.6180339887498949
_AGE_STEP, _SEX_STEP = 0.7548776662466927, 0.5698402909980532


@dataclass(frozen=True)
class Subjects:
    """Some people, as arrays with one entry each.

    Attributes
    ----------
    index : ndarray of int, shape (n,)
    site : ndarray of int, shape (n,)
        Number of the home site.
    age : ndarray of float, shape (n,)
        Years.
    male : ndarray of float, shape (n,)
        1 for men, 0 for women.
    traits : ndarray of float32, shape (n, len(TRAITS))
        Standard normal.
    bends : ndarray of float32, shape (n, 3, DEFORMATION_MODES, DEFORMATION_MODES)
        Standard normal coefficients of the individual deformation (x, y, z).
    folds : ndarray of float32, shape (n, 2, FOLDING_MODES, FOLDING_MODES)
        Of the individual folding pattern (sulcal fluid, gray-white border).
    spots : ndarray of float32, shape (n, LESION_MODES, LESION_MODES)
        Of where white-matter lesions come first.
    """

    index: NDArray[np.int64]
    site: NDArray[np.int64]
    age: NDArray[np.float64]
    male: NDArray[np.float64]
    traits: NDArray[np.float32]
    bends: NDArray[np.float32]
    folds: NDArray[np.float32]
    spots: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)

    def trait(self, name: str) -> NDArray[np.float32]:
        """Return one trait by name, shape (n,)."""
        return self.traits[:, TRAITS.index(name)]

    def alike(self) -> Subjects:
        """Return the same people, all of one age and halfway between the sexes."""
        same = np.ones(len(self))
        return replace(self, age=50.0 * same, male=0.5 * same)


@dataclass(frozen=True)
class Demography:
    """Site, age and sex of some subjects, without their anatomy (arrays of shape (n,))."""

    site: NDArray[np.int64]
    age: NDArray[np.float64]
    male: NDArray[np.float64]


def site_shares(n_sites: int) -> NDArray[np.float64]:
    """Return each site's share of the subjects, summing to 1."""
    shares = np.array(SITE_SHARES[:n_sites])
    return shares / shares.sum()


def demography(
    seed: int, indices: NDArray[np.int64], n_sites: int, confounding: float
) -> Demography:
    """Return who is scanned where, how old they are, and which sex they have.

    Ages follow Wigner's semicircle (Beta(1.5, 1.5)) over `AGE_RANGE` in all; a site shifts the
    normal scores of its subjects so that it explains `confounding` of their variance.

    Parameters
    ----------
    seed : int
        The subject seed.
    indices : ndarray of int, shape (n,)
        Subject numbers, from 0.
    n_sites : int
        Number of sites.
    confounding : float
        Share of the variance of age that site explains, in [0, 0.9].
    """
    index = np.asarray(indices, dtype=np.int64)
    everyone = np.arange(index.max(initial=-1) + 1)
    rng = rng_from("phantom", "demography", seed)
    shares = site_shares(n_sites)
    place = (rng.random() + everyone * _SITE_STEP) % 1.0
    home = np.minimum(np.searchsorted(np.cumsum(shares), place, side="right"), n_sites - 1)
    order = (np.cumsum(home[:, None] == np.arange(n_sites), axis=0) - 1)[index, home[index]]
    site = home[index]
    start = rng.random((len(SITE_SHARES), 2))[site]
    by_age = (start[:, 0] + order * _AGE_STEP) % 1.0
    by_sex = (start[:, 1] + order * _SEX_STEP) % 1.0
    scores = np.array(SITE_AGES[:n_sites])
    scores = scores - shares @ scores
    spread = np.sqrt(shares @ scores**2)
    scores = scores / spread if spread > 0 else scores
    normal = special.ndtri(np.clip(by_age, 1e-6, 1 - 1e-6))
    latent = np.sqrt(confounding) * scores[site] + np.sqrt(1 - confounding) * normal
    low, high = AGE_RANGE
    age = low + (high - low) * special.betaincinv(1.5, 1.5, special.ndtr(latent))
    women = 0.5 + np.array(SITE_SEXES)[site] * min(1.5, np.sqrt(confounding / 0.25))
    return Demography(site.astype(np.int64), np.round(age, 2), (by_sex >= women).astype(float))


def draw_subjects(
    seed: int, indices: NDArray[np.int64], n_sites: int, confounding: float
) -> Subjects:
    """Return these subjects; each depends on the seed and its own index only."""
    who = demography(seed, indices, n_sites, confounding)
    shapes = (
        (len(TRAITS),),
        (3, DEFORMATION_MODES, DEFORMATION_MODES),
        (2, FOLDING_MODES, FOLDING_MODES),
        (LESION_MODES, LESION_MODES),
    )
    parts = [np.empty((len(indices), *shape), dtype=np.float32) for shape in shapes]
    for row, index in enumerate(indices):
        rng = rng_from("phantom", "subject", seed, int(index))
        for part, shape in zip(parts, shapes, strict=True):
            part[row] = rng.standard_normal(shape, dtype=np.float32)
    return Subjects(np.asarray(indices, dtype=np.int64), who.site, who.age, who.male, *parts)
