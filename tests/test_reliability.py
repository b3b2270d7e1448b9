import numpy as np
import pandas as pd
import pytest

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.protocol.individuals.reliability import icc, icc_reml, regional_means, regions

SHAPE = (12, 14)


def rng(seed=0):
    return np.random.default_rng(seed)


def ratings(seed=0, sizes=(3,) * 25, error=0.7):
    sizes = np.asarray(sizes)
    subjects = np.repeat(np.arange(len(sizes)), sizes)
    age = rng(seed).uniform(20, 80, len(sizes))[subjects]
    own = rng(seed + 1).normal(size=(len(sizes), 2))[subjects]
    return own + error * rng(seed + 2).normal(size=own.shape), subjects, age


# REML


def test_agrees_with_pingouin_where_everyone_has_as_many_ratings():
    pingouin = pytest.importorskip("pingouin")
    y, subjects, _ = ratings()
    table = pd.DataFrame({"who": subjects, "rater": np.arange(75) % 3})
    expected = []
    for values in y.T:
        found = pingouin.intraclass_corr(table.assign(y=values), "who", "rater", "y")
        expected.append(found["ICC"].iloc[0])
    np.testing.assert_allclose(icc_reml(y, subjects, np.ones(75))[0], expected, atol=1e-6)


def test_agrees_with_a_mixed_model_with_age_where_ratings_are_missing():
    api = pytest.importorskip("statsmodels.api")
    y, subjects, age = ratings(seed=5, sizes=rng(3).integers(1, 5, 60))
    y = y + 0.04 * age[:, None]
    got = icc_reml(y, subjects, age)[0]
    for values, found in zip(y.T, got, strict=True):
        fit = api.MixedLM(values, api.add_constant(age), groups=subjects).fit(reml=True)
        between = float(np.asarray(fit.cov_re)[0, 0])
        assert found == pytest.approx(between / (between + fit.scale), abs=1e-4)


def test_weights_are_repetitions_of_people_up_to_the_lost_degrees_of_freedom():
    y, subjects, age = ratings(seed=2, sizes=(2, 3, 1) * 30)
    weights = np.where(subjects % 2 == 0, 2.0, 1.0)
    again = np.flatnonzero(subjects % 2 == 0)
    twice = (np.r_[y, y[again]], np.r_[subjects, subjects[again] + 1000], np.r_[age, age[again]])
    weighted = icc_reml(y, subjects, age, weights[None])
    np.testing.assert_allclose(weighted[0], icc_reml(*twice)[0], atol=1e-8)


def test_neither_scale_nor_a_slope_of_age_changes_it():
    y, subjects, age = ratings(sizes=(2, 3) * 12)
    expected = icc_reml(y, subjects, age)
    np.testing.assert_allclose(icc_reml(1e-3 * y + 5, subjects, age), expected, atol=1e-6)
    sloped = y + 0.3 * age[:, None]
    np.testing.assert_allclose(icc_reml(sloped, subjects, age), expected, atol=1e-6)
    assert (icc_reml(sloped, subjects, np.ones(len(y))) > expected + 0.1).all()


def test_ends_of_the_scale():
    y, subjects, age = ratings()
    constant = np.full_like(y, 3.3)
    assert (icc_reml(constant, subjects, age) == 0).all()
    exact = ratings(error=0.0)[0]
    np.testing.assert_allclose(icc_reml(exact, subjects, age), 1, atol=1e-6)
    opposite = np.tile([[1.0], [-1.0]], (20, 1)) + 0.1 * rng().normal(size=(40, 1))
    assert icc_reml(opposite, np.repeat(np.arange(20), 2), np.ones(40)) == 0


# Regions


def test_regions_are_a_grid_in_the_mask():
    mask = np.ones((12, 13, 14), bool)
    mask[:2] = False
    numbers = regions(mask, parts=2)
    assert (numbers[:2] == -1).all()
    assert set(np.unique(numbers[2:])) == set(range(8))
    assert len(np.unique(numbers[2:6, :6, :7])) == 1
    mask[:4] = False  # of the first six planes two are left: under a half
    numbers = regions(mask, parts=2)
    assert (numbers[:6] == -1).all() and numbers.max() == 3


def test_regional_means_are_means():
    mask = rng().random((12, 14)) < 0.9
    numbers = regions(mask)
    images = rng(1).normal(size=(5, 12, 14)).astype(np.float32)
    means = regional_means(images, numbers)
    assert means.shape == (5, numbers.max() + 1)
    expected = images[:, numbers == 3].mean(1)
    np.testing.assert_allclose(means[:, 3], expected, rtol=1e-5)


# The metric


def cohort(n=60, travelling=0):
    people = pd.DataFrame(
        {
            "participant_id": [f"p{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "age": rng().uniform(30, 60, n),
            "sex": "F",
        }
    )
    home = np.array(["ash", "birch", "cedar"])[np.arange(n) % 3]
    scans = [
        people[(home == s) | (np.arange(n) < travelling)].assign(site=s) for s in np.unique(home)
    ]
    table = pd.concat(scans, ignore_index=True)
    mask = np.ones((len(table), *SHAPE), bool)
    return Cohort(np.zeros(mask.shape, np.float32), table, mask)


def faces(test, noise, seed=1):
    _, who = np.unique(test.column("participant_id"), return_inverse=True)
    own = rng(7).normal(size=(who.max() + 1, *SHAPE))[who]
    return test.with_images(own + noise * rng(seed).normal(size=own.shape))


@pytest.mark.parametrize("truth", [True, False])
def test_falls_with_the_noise_as_theory_says(truth):
    test = cohort(travelling=0 if truth else 40)
    values = []
    for noise in (0.05, 1.0, 30.0):
        products = {"harmonized.test": faces(test, noise)}
        if truth:
            products["truth.test"] = faces(test, noise, seed=2)
        result = icc(MetricInputs(products, "ash"), rng())
        assert result.overall.low <= result.overall.value <= result.overall.high
        values.append(result.overall.value)
    assert values[0] > 0.98
    assert values[1] == pytest.approx(0.5, abs=0.12)
    assert values[2] < 0.2


def test_a_shift_of_a_site_is_error():
    test = cohort(travelling=40)
    images = faces(test, 0.1)
    moved = images.images + 2.0 * (test.column("site") == "cedar")[:, None, None]
    with_shift = icc(MetricInputs({"harmonized.test": test.with_images(moved)}, "ash"), rng())
    without = icc(MetricInputs({"harmonized.test": images}, "ash"), rng())
    assert with_shift.overall.value < 0.5 < without.overall.value


def test_images_that_are_the_same_for_all_score_zero():
    test = cohort()
    products = {"harmonized.test": test, "truth.test": faces(test, 0.1)}
    result = icc(MetricInputs(products, "ash"), rng())
    assert result.overall.value < 0.05
    assert result.overall.n == 40


def test_target_is_the_oracle():
    test = cohort()
    products = {
        "harmonized.test": faces(test, 1.0),
        "truth.test": faces(test, 0.1, seed=2),
        "oracle:harmonized.test": faces(test, 0.1, seed=3),
    }
    result = icc(MetricInputs(products, "ash"), rng())
    assert result.target > 0.95 > result.overall.value
    assert result.arrays["icc"].mean() == pytest.approx(result.overall.value)
    assert result.arrays["regions"].max() + 1 == len(result.arrays["icc"])


@pytest.mark.parametrize("travelling", [0, 5])
def test_nobody_to_compare_is_a_skip(travelling):
    test = cohort(travelling=travelling)
    result = icc(MetricInputs({"harmonized.test": faces(test, 0.1)}, "ash"), rng())
    assert "travelling subjects" in result.reason
