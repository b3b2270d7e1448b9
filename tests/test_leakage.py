"""Leakage: planted leaks come back as planted, and who hears no lie leaks nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import linear_age_probe, probe_product

from baselines.combat import Combat
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext
from harmbench.data.splits import make_split
from harmbench.data.toy import ToyDataset
from harmbench.protocol.biology.effects import age_slopes, nuisance
from harmbench.protocol.leakage import metrics as leakage
from harmbench.protocol.leakage.metrics import (
    age_mae_placebo,
    leakage_age,
    leakage_age_abs,
    leakage_sex,
    placebo,
)

SITES = np.array(["ash", "birch", "cedar"])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# A planted leak in images, read by a linear probe ------------------------------------------------


class Experiment:
    """Toy images as truth; a 'method' that adds k years of the true age effect to them."""

    def __init__(self) -> None:
        data = ToyDataset(n=600, shape=(9, 8), strength=0.0, seed=3)
        cohort = data.load()
        fold = make_split(cohort, 0).scored()
        self.fit, self.probe, self.test = (
            cohort.subset(rows) for rows in (fold.fit, fold.probe, fold.test)
        )
        self.truth = self.test.with_images(data.truth("site-a", self.test.keys))
        flat = self.truth.images.reshape(len(self.test), -1).astype(float)
        age = self.test.column("age").astype(float)
        adjusted, once = nuisance(self.test, ["site"]), np.ones((1, len(age)))
        self.effect = age_slopes(flat, age, adjusted, once).reshape(self.test.shape)
        self.draws = [placebo.with_placebo(self.test, name, "toy") for name in leakage.AGES]

    def written(self, cohort: Cohort, k: float, column: str = "age") -> Cohort:
        years = cohort.column(column).astype(float) - 50
        return cohort.with_images(cohort.images + k * years[:, None, None] * self.effect)

    def inputs(self, k: float, truth: bool = True) -> MetricInputs:
        lies = [self.written(draw, k, "placebo_age") for draw in self.draws]
        images = [self.written(self.test, k), self.truth, *lies]
        honest, true, *read = linear_age_probe(self.written(self.probe, k), *images)
        ages = np.stack([draw.column("placebo_age") for draw in self.draws]).astype(float)
        products = {
            "raw.test": self.test,
            "probe.age": probe_product(honest),
            "leakage.age": {"placebo": ages, "predicted": np.stack(read)},
        }
        if truth:
            products["calibration.age"] = {"predicted": true}
        return MetricInputs(products, "site-a")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment()


@pytest.mark.parametrize("k", [0.3, 1.0, -0.5])
def test_a_planted_leak_is_recovered(experiment: Experiment, k: float) -> None:
    result = leakage_age(experiment.inputs(k), rng())
    assert result.overall is not None
    assert result.overall.value == pytest.approx(k, rel=1e-4)
    assert result.overall.low < k < result.overall.high
    assert set(result.groups) == {"site-a", "site-b", "site-c"}
    size = leakage_age_abs(experiment.inputs(k), rng()).overall
    assert size is not None and size.value == pytest.approx(abs(k), rel=1e-4)


def test_the_probe_alone_would_not_give_years(experiment: Experiment) -> None:
    inputs = experiment.inputs(0.3)
    result = leakage_age(inputs, rng())
    lie, change = result.arrays["lie"], result.arrays["change"]
    raw = (lie * change).sum() / (lie**2).sum()
    assert abs(raw - 0.3) > 0.02  # the shrunk slope, before it is calibrated


def test_without_a_truth_a_leak_of_k_reads_k_over_1_plus_k(experiment: Experiment) -> None:
    result = leakage_age(experiment.inputs(0.5, truth=False), rng())
    assert result.overall is not None
    assert result.overall.value == pytest.approx(1 / 3, rel=0.03)
    assert result.note == leakage.ON_OWN_IMAGES


def test_no_leak_is_exactly_0(experiment: Experiment) -> None:
    for metric in (leakage_age, leakage_age_abs):
        result = metric(experiment.inputs(0.0), rng())
        assert result.overall is not None
        assert (result.overall.value, result.overall.low, result.overall.high) == (0, 0, 0)


def test_a_leak_costs_age_error_under_placebo_only(experiment: Experiment) -> None:
    clean, leaky = (age_mae_placebo(experiment.inputs(k), rng()) for k in (0.0, 2.0))
    assert clean.overall is not None and leaky.overall is not None
    assert clean.overall.value == pytest.approx(clean.target)
    assert leaky.target < clean.target  # under the truth a leak looks like skill
    assert leaky.overall.value > clean.overall.value + 3


def test_combat_hardly_leaks(experiment: Experiment) -> None:
    """Its slope is beta * (1 - 1 / delta): the effect is taken out and put back."""
    scanner = ToyDataset(n=600, shape=(9, 8), strength=1.0, seed=3)
    cohort = scanner.load()
    fold = make_split(cohort, 0).scored()
    fit, probe, test = (cohort.subset(rows) for rows in (fold.fit, fold.probe, fold.test))
    method = Combat().fit(fit, FitContext(reference_site="site-a"))

    def harmonized(part: Cohort) -> Cohort:
        return part.with_images(method.harmonize(part, context=ApplyContext()))

    draws = [placebo.with_placebo(test, name, "toy") for name in leakage.AGES]
    lies = [
        harmonized(placebo.replace_covariates(d, name))
        for d, name in zip(draws, leakage.AGES, strict=True)
    ]
    truth = test.with_images(scanner.truth("site-a", test.keys))
    honest, true, *read = linear_age_probe(harmonized(probe), harmonized(test), truth, *lies)
    products = {
        "raw.test": test,
        "probe.age": probe_product(honest),
        "leakage.age": {
            "placebo": np.stack([d.column("placebo_age") for d in draws]).astype(float),
            "predicted": np.stack(read),
        },
        "calibration.age": {"predicted": true},
    }
    result = leakage_age_abs(MetricInputs(products, "site-a"), rng())
    assert result.overall is not None
    assert 0 < result.overall.value < 0.15
    assert result.groups["site-a"].value == 0  # the reference batch passes through


# Known answers from made-up readings -------------------------------------------------------------


def made_up(leaks: tuple[float, float, float], n: int = 150) -> tuple[Cohort, dict[str, object]]:
    """Three seeds of a probe that reads 0.4 of a year for a year and obeys each site's leak."""
    generator = np.random.default_rng(5)
    site = np.arange(n) % 3
    table = pd.DataFrame(
        {
            "participant_id": [f"s{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": SITES[site],
            "age": 40 + 10 * site + generator.uniform(-15, 15, n),
            "sex": np.where(generator.random(n) < 0.5, "F", "M"),
        }
    )
    images = np.zeros((n, 7, 8), np.float32)
    test = Cohort(images, table, images == 0)
    age = test.column("age").astype(float)
    honest = 0.4 * age + generator.normal(0, 3, (3, n))
    draws = [placebo.with_placebo(test, name, "made up") for name in leakage.AGES]
    told = np.stack([draw.column("placebo_age") for draw in draws]).astype(float)
    share = np.array(leaks)[site]
    read = honest + (0.4 * share * (told - age))[:, None]
    return test, {
        "raw.test": test,
        "probe.age": probe_product(honest),
        "leakage.age": {"placebo": told, "predicted": read},
        "calibration.age": {"predicted": 0.4 * age + np.zeros((3, n))},
    }


def test_sites_that_leak_either_way_cancel_only_with_sign() -> None:
    _, products = made_up((0.0, 0.6, -0.3))
    inputs = MetricInputs(products, "ash")
    signed, size = leakage_age(inputs, rng()), leakage_age_abs(inputs, rng())
    assert {s: round(e.value, 6) for s, e in signed.groups.items()} == {
        "ash": 0.0,
        "birch": 0.6,
        "cedar": -0.3,
    }
    assert signed.overall is not None and size.overall is not None
    assert signed.overall.value == pytest.approx(0.1)
    assert size.overall.value == pytest.approx(0.3)


@pytest.mark.parametrize("years", [0.0, 5.0])
def test_the_flipped_sex_changes_neither_the_leak_of_age_nor_its_interval(years: float) -> None:
    """Both are changed at once; ages are permuted within each sex, which has its own intercept."""
    for seed in range(5):
        test, products = made_up((0.5, 0.5, 0.5))
        draws = [placebo.with_placebo(test, name, "made up", seed) for name in leakage.AGES]
        told = np.stack([draw.column("placebo_age") for draw in draws]).astype(float)
        honest = products["probe.age"]["predicted"]
        towards = np.where(test.column("sex") == "F", years, -years)  # as if a man looked older
        read = honest + (0.4 * 0.5 * (told - test.column("age").astype(float)) + towards)[:, None]
        products["leakage.age"] = {"placebo": told, "predicted": read}
        result = leakage_age(MetricInputs(products, "ash"), rng()).overall
        assert result is not None
        found = (result.value, result.low, result.high)
        assert found == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)


def test_a_site_without_two_ages_in_a_resample_keeps_the_interval() -> None:
    test, products = made_up((0.5, 0.5, 0.5))
    site = test.column("site").astype(object)
    few = np.flatnonzero((site == "birch") & (test.column("sex") == "F"))[:2]
    site[few] = "elm"  # a site of two women: half of its resamples hold one of them twice
    small = test.with_covariates(site=site)
    name = leakage.AGES[0]
    told = next(
        ages
        for seed in range(50)
        for ages in [placebo.with_placebo(small, name, "x", seed).column("placebo_age")]
        if ages[few[0]] != small.column("age")[few[0]]
    ).astype(float)[None]
    honest = products["probe.age"]["predicted"]
    read = honest + (0.4 * 0.5 * (told - small.column("age").astype(float)))[:, None]
    products |= {"raw.test": small, "leakage.age": {"placebo": told, "predicted": read}}
    result = leakage_age(MetricInputs(products, "ash"), rng())
    assert result.overall is not None
    found = (result.overall.value, result.overall.low, result.overall.high)
    assert found == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)
    assert np.isfinite(result.replicates).all()


def test_scans_of_unknown_age_are_left_out() -> None:
    test, products = made_up((0.5, 0.5, 0.5))
    age = test.column("age").copy()
    age[::5] = np.nan
    holes = test.with_covariates(age=age)
    inputs = MetricInputs(products | {"raw.test": holes}, "ash")
    overall = leakage_age(inputs, rng()).overall
    assert overall is not None and overall.value == pytest.approx(0.5) and overall.n == 120
    placebo_error = age_mae_placebo(inputs, rng()).overall
    assert placebo_error is not None and placebo_error.n == 120


def test_a_probe_that_reads_no_age_cannot_say_how_much_is_leaked() -> None:
    test, products = made_up((0.5, 0.5, 0.5))
    noise = np.random.default_rng(1).normal(50, 2, (3, len(test)))
    result = leakage_age(
        MetricInputs(products | {"calibration.age": {"predicted": noise}}, "ash"), rng()
    )
    assert result.overall is None and "does not read age" in result.reason


def test_one_age_at_each_site_is_a_skip() -> None:
    test, products = made_up((0.5, 0.5, 0.5))
    same = test.with_covariates(age=np.full(len(test), 40.0))
    told = products["leakage.age"] | {"placebo": np.full((len(leakage.AGES), len(test)), 40.0)}
    given = MetricInputs(products | {"raw.test": same, "leakage.age": told}, "ash")
    assert leakage_age(given, rng()).reason == leakage.NO_CHANGE


def test_sex_leakage_is_the_mean_change_towards_the_lie() -> None:
    test, products = made_up((0, 0, 0))
    generator = np.random.default_rng(2)
    second = generator.uniform(0.2, 0.8, (3, len(test)))
    woman = test.column("sex") == "F"
    moved = second + np.where(woman, 0.15, -0.15)
    products |= {
        "probe.sex": probe_product(np.stack([1 - second, second], -1), ("F", "M")),
        "leakage.sex": {"predicted": np.stack([1 - moved, moved], -1)},
    }
    overall = leakage_sex(MetricInputs(products, "ash"), rng()).overall
    assert overall is not None and overall.value == pytest.approx(0.15)
    honest = products | {"leakage.sex": {"predicted": products["probe.sex"]["predicted"]}}
    overall = leakage_sex(MetricInputs(honest, "ash"), rng()).overall
    assert overall is not None and (overall.value, overall.high) == (0, 0)


# Products ----------------------------------------------------------------------------------------


def test_images_that_did_not_change_are_not_read_again() -> None:
    test, products = made_up((0, 0, 0))
    draws = {name: placebo.with_placebo(test, name, "x") for name in leakage.AGES}
    given = {**products, **draws, "harmonized.test": test, "truth.test": test}
    arrays = leakage.make_age_readings(MetricInputs(given, "ash"), ProductContext())
    draws = len(leakage.AGES)
    assert arrays["predicted"].shape == (draws, 3, len(test)) and len(arrays["placebo"]) == draws
    for read in arrays["predicted"]:
        np.testing.assert_array_equal(read, products["probe.age"]["predicted"])


@pytest.mark.controls
def test_cnn_probes_recover_a_planted_leak_and_see_none_in_controls(experiment: Experiment) -> None:
    from harmbench.protocol.probes.training import make_probe

    def padded(cohort: Cohort) -> Cohort:
        wide = np.kron(cohort.images, np.ones((1, 3, 3), np.float32))
        return Cohort(wide, cohort.participants, np.ones(wide.shape, bool))

    context = ProductContext(seeds=(0, 1, 2))
    for k in (0.0, 0.5):
        lies = {
            n: padded(experiment.written(d, k, "placebo_age"))
            for n, d in zip(leakage.AGES, experiment.draws, strict=True)
        }
        products = {
            **lies,
            "raw.test": experiment.test,
            "harmonized.probe": padded(experiment.written(experiment.probe, k)),
            "harmonized.test": padded(experiment.written(experiment.test, k)),
            "truth.test": padded(experiment.truth),
        }
        products["probe.age"] = make_probe("age", MetricInputs(products, "site-a"), context)
        for product in leakage.PRODUCTS:
            if product.name != "leakage.sex":
                made = product.make(MetricInputs(products, "site-a"), context)
                products[product.name] = made
        overall = leakage_age(MetricInputs(products, "site-a"), rng()).overall
        assert overall is not None
        assert overall.value == pytest.approx(k, abs=0.1)
        assert overall.low - 0.05 <= k <= overall.high + 0.05
