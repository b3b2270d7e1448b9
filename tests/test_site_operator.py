"""The site operator finds a known site effect without pairs, and leaves populations alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from ddae.operator import SiteOperator

SHAPE = (24, 22)


def people(n, seed, age_slope=0.0):
    """Smooth random heads around one mean, brighter with age."""
    rng = np.random.default_rng(seed)
    mean = gaussian_filter(np.random.default_rng(7).random(SHAPE), 2)
    mean = 0.3 + 0.5 * (mean - mean.min()) / np.ptp(mean)
    own = gaussian_filter(rng.standard_normal((n, *SHAPE)), (0, 1.5, 1.5))
    age = rng.standard_normal(n)
    images = mean + 0.15 * own + age_slope * age[:, None, None]
    return np.clip(images, 0.05, None).astype(np.float32), age


def scanner(images):
    """Another gray scale, shading, blur and half a pixel's shift."""
    rows = np.linspace(-1, 1, SHAPE[0])[:, None]
    bent = 0.1 + 0.6 * images + 0.25 * images**2
    blurred = gaussian_filter(bent, (0, 0.7, 0.7))
    return (shift(blurred, (0, 0.4, 0), order=1, mode="nearest") * (1 + 0.1 * rows)).astype("f4")


def two_sites(n=120, age_gap=0.0, age_slope=0.0):
    images, age = people(2 * n, 0, 0.0)
    site = np.arange(2 * n) % 2
    age = age + age_gap * site
    images = (images + age_slope * age[:, None, None]).astype(np.float32)
    seen = np.where((site == 1)[:, None, None], scanner(images), images)
    return images, seen, np.ones(seen.shape, dtype=bool), site, age[:, None]


def inner_error(a, b):
    return float(np.abs(a - b)[:, 3:-3, 3:-3].mean())


def test_it_undoes_contrast_shading_blur_and_shift_in_people_it_has_not_seen():
    _, seen, mask, site, age = two_sites()
    operator = SiteOperator.learn(seen, mask, site, age, reference=0, degree=2)
    new, _ = people(40, seed=1)
    other = scanner(new)
    ones = np.ones(40, dtype=int)
    mapped = operator.to_reference(other, ones)
    assert inner_error(mapped, new) < 0.35 * inner_error(other, new)
    assert inner_error(operator.from_reference(mapped, ones), other) < 0.01


def test_the_reference_site_and_the_outside_stay_as_they_are():
    _, seen, mask, site, age = two_sites(n=30)
    operator = SiteOperator.learn(seen, mask, site, age, reference=0, degree=2)
    at_reference = seen[site == 0]
    zeros = np.zeros(len(at_reference), dtype=int)
    np.testing.assert_array_equal(operator.to_reference(at_reference, zeros), at_reference)
    holes = seen.copy()
    holes[:, :4] = 0
    assert (operator.to_reference(holes, site)[:, :4] == 0).all()


def test_what_sites_populations_differ_in_is_kept_where_covariates_say_it():
    images, seen, mask, site, age = two_sites(n=200, age_gap=2.0, age_slope=0.05)
    errors = []
    for covariates in (age, age[:, :0]):
        operator = SiteOperator.learn(seen, mask, site, covariates, reference=0, degree=2)
        errors.append(inner_error(operator.to_reference(seen, site), images))
    assert errors[0] < 0.6 * errors[1]


def test_sites_that_do_not_differ_are_hardly_changed():
    images, _ = people(120, seed=3)
    site = np.arange(120) % 3
    mask = np.ones(images.shape, dtype=bool)
    operator = SiteOperator.learn(images, mask, site, np.zeros((120, 0)), reference=0, degree=2)
    assert inner_error(operator.to_reference(images, site), images) < 0.02


@pytest.mark.parametrize("n", [6, 12])
def test_too_few_scans_change_nothing(n):
    images, _ = people(n, seed=3)
    site = np.arange(n) % 2
    mask = np.ones(images.shape, dtype=bool)
    operator = SiteOperator.learn(images, mask, site, np.zeros((n, 0)), reference=1, degree=3)
    np.testing.assert_array_equal(operator.to_reference(images, site), images)
