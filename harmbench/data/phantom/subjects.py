"""The people of the phantom: each depends only on the subject seed and an index."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harmbench.seeding import rng_from

AGE_RANGE = (18.0, 90.0)
"""Lowest and highest age in years."""
SITE_SHARES = (0.22, 0.09, 0.17, 0.12, 0.15, 0.11, 0.14, 0.10, 0.16, 0.13, 0.19, 0.08)
"""Relative sizes of the first, second, ... site; the smallest of seven has 9 %."""
SITE_AGES = (0.1, 1.4, -1.3, 0.7, -0.5, 1.0, -0.9, 0.4, -1.5, 1.2, -0.2, 0.8)
"""Relative mean age of each site before standardizing."""
SITE_SEXES = (0.0, 0.09, -0.07, -0.11, 0.06, 0.10, -0.04, 0.08, -0.09, 0.03, -0.06, 0.07)
"""Share of women at each site minus one half, at `confounding` 0.25."""
TRAITS = (
    "size", "width", "turn", "level", "pitch", "roll", "ventricle", "cortex", "lesion", "gray_t1",
    "white_t1", "place_x", "place_y",
)  # fmt: skip
"""Names of the standard normal traits of a person."""
DEFORMATION_MODES = 11
FOLDING_MODES = 34
LESION_MODES = 44
# Additive recurrences (Roberts 2018): the golden ratio distributes subjects evenly over sites, its
# two-dimensional generalization distributes ages and sexes in each site, for any cohort size.
_SITE_STEP = 0.6180339887498949
_AGE_STEP, _SEX_STEP = 0.7548776662466927, 0.5698402909980532


@dataclass(frozen=True)
class Subjects:
    """n people. The coefficients are standard normal; k is the number of modes."""

    site: NDArray[np.int64]  # number of the home site
    age: NDArray[np.float64]  # years
    male: NDArray[np.float64]  # 1 for men, 0 for women
    traits: NDArray[np.float32]  # (n, len(TRAITS)), standard normal
    bends: NDArray[np.float32]  # (n, 3, k, k), of the individual deformation along x, y, z
    folds: NDArray[np.float32]  # (n, 2, k, k), of the folds: sulcal fluid, gray-white border
    spots: NDArray[np.float32]  # (n, k, k), of the places where lesions appear first

    def __len__(self) -> int:
        return len(self.age)

    def trait(self, name: str) -> NDArray[np.float32]:
        """Return one trait by name, shape (n,)."""
        return self.traits[:, TRAITS.index(name)]

    def alike(self) -> Subjects:
        """Return the same people, all with the same age and between the sexes."""
        same = np.ones(len(self))
        return replace(self, age=50.0 * same, male=0.5 * same)


def demography(
    seed: int, indices: NDArray[np.int64], n_sites: int, confounding: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return site number, age in years and sex (1 for men, 0 for women) of subjects.

    All ages together have a Wigner semicircle distribution (Beta(1.5, 1.5)) over `AGE_RANGE`. A
    site shifts the normal scores of its subjects, so that it explains the share `confounding` (0
    to 0.9) of their variance. `indices` are subject numbers from 0, shape (n,).
    """
    index = np.asarray(indices, dtype=np.int64)
    everyone = np.arange(index.max(initial=-1) + 1)
    rng = rng_from("phantom", "demography", seed)
    shares = np.array(SITE_SHARES[:n_sites])
    shares = shares / shares.sum()
    place = (rng.random() + everyone * _SITE_STEP) % 1.0
    home = np.minimum(np.searchsorted(np.cumsum(shares), place, side="right"), n_sites - 1)
    order = (np.cumsum(home[:, None] == np.arange(n_sites), axis=0) - 1)[index, home[index]]
    site = home[index]
    start = rng.random((len(SITE_SHARES), 2))[site]
    by_age = (start[:, 0] + order * _AGE_STEP) % 1.0
    by_sex = (start[:, 1] + order * _SEX_STEP) % 1.0
    scores = np.array(SITE_AGES[:n_sites])
    scores = scores - shares @ scores
    scores = scores / np.sqrt(shares @ scores**2)
    normal = special.ndtri(np.clip(by_age, 1e-6, 1 - 1e-6))
    latent = np.sqrt(confounding) * scores[site] + np.sqrt(1 - confounding) * normal
    low, high = AGE_RANGE
    age = low + (high - low) * special.betaincinv(1.5, 1.5, special.ndtr(latent))
    women = 0.5 + np.array(SITE_SEXES)[site] * min(1.5, np.sqrt(confounding / 0.25))
    return site.astype(np.int64), np.round(age, 2), (by_sex >= women).astype(float)


def draw_subjects(
    seed: int, indices: NDArray[np.int64], n_sites: int, confounding: float
) -> Subjects:
    """Return subjects; each depends only on the seed and its index."""
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
    return Subjects(*demography(seed, indices, n_sites, confounding), *parts)
