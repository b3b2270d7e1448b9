"""The true effects of age and sex on the phantom's images."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmbench.data.phantom.anatomy import make_grid, tissue
from harmbench.data.phantom.cohort import Phantom
from harmbench.data.phantom.render import render
from harmbench.data.phantom.scanner import REFERENCE_SITE
from harmbench.data.phantom.subjects import Subjects


class EffectMaps(NamedTuple):
    """True mean effects at a site, each of shape (size, size).

    `age` is the change of intensity a year, `sex` that from women to men.
    """

    age: NDArray[np.float32]
    sex: NDArray[np.float32]


def effect_maps(phantom: Phantom, site: str = REFERENCE_SITE, people: int = 96) -> EffectMaps:
    """Return the mean change of the clean image when a subject alone were older, or the other sex.

    Parameters
    ----------
    phantom : Phantom
        Its first `people` subjects are used.
    site : str
        Where they are scanned.
    people : int
        Number of subjects averaged over.

    Notes
    -----
    The age effect is the slope of a least-squares line through each subject's images at 25, 40, 55,
    70 and 85 years: a total over adult life, since the phantom's aging accelerates.
    """
    subjects = phantom.subjects(np.arange(min(people, phantom.n)))
    ages = np.array([25.0, 40.0, 55.0, 70.0, 85.0])
    weights = (ages - ages.mean()) / np.square(ages - ages.mean()).sum()
    images = [
        _mean_image(phantom, site, replace(subjects, age=np.full(len(subjects), age)))
        for age in ages
    ]
    slope = sum(w * image for w, image in zip(weights, images, strict=True))
    women, men = (
        _mean_image(phantom, site, replace(subjects, male=np.full(len(subjects), male)))
        for male in (0.0, 1.0)
    )
    return EffectMaps(np.asarray(slope, dtype=np.float32), (men - women).astype(np.float32))


def _mean_image(phantom: Phantom, site: str, subjects: Subjects) -> NDArray[np.float64]:
    grid = make_grid(phantom.size)
    people = subjects if phantom.biology else subjects.alike()
    maps = tissue(people, grid, phantom.jitter)
    reference = phantom.scanner(REFERENCE_SITE)
    images, _ = render(maps, people, grid, phantom.scanner(site), reference, phantom.effect, None)
    return images.mean(0, dtype=np.float64)
