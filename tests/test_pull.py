"""Population pull: none by the oracle, all of it by methods that know no covariates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import linear_age_probe, probe_product

from baselines.combat import Combat, combat_nocov
from baselines.controls import MeanImage, Shuffle, SiteShift
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.contracts.metric import MetricInputs, MetricResult
from harmbench.contracts.product import ProductContext
from harmbench.data.phantom import phantom_dev
from harmbench.data.splits import make_split
from harmbench.protocol.leakage.pull import distance_to_reference, population_pull
from harmbench.protocol.truth.oracle import Oracle

SITES = np.array(["ash", "birch", "cedar"])
MEANS = np.array([40.0, 50.0, 65.0])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def readings(ours: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    return probe_product(ours) | {"harmonized": ours, "truth": true}


def pull_on_phantom(methods: dict[str, Any]) -> dict[str, MetricResult]:
    """Score methods with linear probes on a small phantom whose sites differ in age."""
    data = phantom_dev(n=700, size=32)
    cohort = data.load()
    fold = make_split(cohort, 0).scored()
    fit, probe, test = (cohort.subset(rows) for rows in (fold.fit, fold.probe, fold.test))
    truth = test.with_images(data.truth("siteA", test.keys))
    oracle = Oracle().fit(fit, FitContext(reference_site="siteA", truth=data.truth))
    rescans = oracle.harmonize(probe, context=ApplyContext(truth=data.truth))
    results = {}
    for name, method in methods.items():
        method.fit(fit, FitContext(reference_site="siteA", truth=data.truth))
        context = ApplyContext(truth=data.truth)
        done = test.with_images(method.harmonize(test, context=context))
        ours, true = linear_age_probe(probe.with_images(rescans), done, truth)
        products = {"raw.fit": fit, "raw.test": test, "pull.age": readings(ours, true)}
        results[name] = population_pull(MetricInputs(products, "siteA"), rng())
    return results


def test_who_knows_no_covariates_pulls() -> None:
    methods = {
        "oracle": Oracle(),
        "site-shift": SiteShift(),
        "combat-nocov": combat_nocov(),
        "shuffle": Shuffle(),
        "mean-image": MeanImage(),
        "combat": Combat(),
    }
    found = {name: result.overall for name, result in pull_on_phantom(methods).items()}
    values = {name: one.value for name, one in found.items() if one is not None}
    assert abs(values["oracle"]) < 0.1
    assert abs(values["combat"]) < values["site-shift"] / 2
    for name in ("site-shift", "combat-nocov", "shuffle", "mean-image"):
        assert values[name] == pytest.approx(1, abs=0.3), name
    assert abs(values["site-shift"] - values["combat-nocov"]) < 0.2
    oracle, shift = found["oracle"], found["site-shift"]
    assert oracle is not None and oracle.low < 0 < oracle.high
    assert shift is not None and shift.low > 0.3


# Known answers from made-up readings -------------------------------------------------------------


def cohort(n: int, seed: int, means: np.ndarray = MEANS) -> Cohort:
    generator = np.random.default_rng(seed)
    site = np.arange(n) % 3
    table = pd.DataFrame(
        {
            "participant_id": [f"{seed}-{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": SITES[site],
            "age": means[site] + generator.uniform(-15, 15, n),
            "sex": "F",
        }
    )
    images = np.zeros((n, 7, 8), np.float32)
    return Cohort(images, table, images == 0)


def given(pull: float, slope: float = 0.4, means: np.ndarray = MEANS) -> MetricInputs:
    """Readings of three seeds that read `slope` of a year, of images pulled by `pull`."""
    fit, test = cohort(240, 0, means), cohort(150, 1, means)
    noise = np.random.default_rng(2).normal(0, 1, (2, 3, len(test)))
    age = test.column("age").astype(float)
    distance = distance_to_reference(fit, test, "ash")
    true = slope * age + noise[0]
    ours = 3.0 + slope * (age + pull * distance) + noise[1]
    products = {"raw.fit": fit, "raw.test": test, "pull.age": readings(ours, true)}
    return MetricInputs(products, "ash")


@pytest.mark.parametrize("pull", [0.0, 0.5, 1.0, -0.3])
def test_a_pull_is_recovered_whatever_the_probe_shrinks(pull: float) -> None:
    for slope in (0.25, 0.9):
        overall = population_pull(given(pull, slope), rng()).overall
        assert overall is not None
        assert overall.value == pytest.approx(pull, abs=0.12)
        assert overall.low < overall.value < overall.high


def test_the_shift_of_all_sites_alike_is_no_pull() -> None:
    base, moved = given(0.5), given(0.5)
    moved.arrays("pull.age")["harmonized"][:] += 20
    first, second = (population_pull(one, rng()).overall for one in (base, moved))
    assert first is not None and second is not None
    assert second.value == pytest.approx(first.value)


def test_distances_are_those_of_the_fitted_people() -> None:
    fit, test = cohort(240, 0), cohort(150, 1)
    distance = distance_to_reference(fit, test, "ash")
    means = fit.participants.groupby("site")["age"].mean()
    own = test.column("site") == "cedar"
    np.testing.assert_allclose(distance[own], means["ash"] - means["cedar"])
    np.testing.assert_allclose(distance[test.column("site") == "ash"], 0)


def test_scans_of_unknown_age_are_left_out() -> None:
    inputs = given(0.5)
    test = inputs.cohort("raw.test")
    age = test.column("age").copy()
    age[::5] = np.nan
    products = dict(inputs.products) | {"raw.test": test.with_covariates(age=age)}
    overall = population_pull(MetricInputs(products, "ash"), rng()).overall
    assert overall is not None
    assert overall.n == 120 and overall.value == pytest.approx(0.5, abs=0.12)


def test_sites_of_one_age_cannot_pull() -> None:
    inputs = given(0.5)
    same = np.full(240, 50.0)
    fit = inputs.cohort("raw.fit").with_covariates(age=same)
    products = dict(inputs.products) | {"raw.fit": fit}
    result = population_pull(MetricInputs(products, "ash"), rng())
    assert result.overall is None and "mean ages differ by less than" in result.reason


def test_a_probe_that_reads_no_age_says_nothing_of_a_pull() -> None:
    inputs = given(0.5)
    inputs.arrays("pull.age")["truth"][:] = np.random.default_rng(4).normal(50, 2, (3, 150))
    result = population_pull(inputs, rng())
    assert result.overall is None and "does not read age" in result.reason


def test_a_slope_that_few_scattered_sites_make_by_chance_is_noted() -> None:
    inputs = given(1.0)
    assert population_pull(inputs, rng()).note == ""
    middle = inputs.cohort("raw.test").column("site") == "birch"
    inputs.arrays("pull.age")["harmonized"][:, middle] += 12
    assert "within the scatter of 3 sites" in population_pull(inputs, rng()).note


@pytest.mark.controls
def test_cnn_probes_say_the_same_of_the_controls() -> None:
    """The oracle's CNN reads all; a method's own CNN would see a pull of a half in a full one."""
    from harmbench.protocol.leakage.pull import READER, make_readings
    from harmbench.protocol.probes.training import make_probe

    data = phantom_dev(n=900, size=32)
    cohort = data.load()
    fold = make_split(cohort, 0).scored()
    fit, probe, test = (cohort.subset(rows) for rows in (fold.fit, fold.probe, fold.test))
    truth = test.with_images(data.truth("siteA", test.keys))
    context, apply = ProductContext(seeds=(0, 1)), ApplyContext(truth=data.truth)
    fitting = FitContext(reference_site="siteA", truth=data.truth)
    rescans = [
        p.with_images(Oracle().fit(p, fitting).harmonize(p, context=apply)) for p in (probe, test)
    ]
    parts = dict(zip(("harmonized.probe", "harmonized.test"), rescans, strict=True))
    reader = make_probe("age", MetricInputs(parts, "siteA"), context)
    values = {}
    methods = {"site-shift": SiteShift(), "combat-nocov": combat_nocov(), "combat": Combat()}
    for name, method in {**methods, "shuffle": Shuffle(), "oracle": Oracle()}.items():
        done = test.with_images(method.fit(fit, fitting).harmonize(test, context=apply))
        given = {READER: reader, "harmonized.test": done, "truth.test": truth}
        made = make_readings(MetricInputs(given, "siteA"), context)
        products = {"raw.fit": fit, "raw.test": test, "pull.age": made}
        overall = population_pull(MetricInputs(products, "siteA"), rng()).overall
        assert overall is not None
        values[name] = overall.value
    assert abs(values["oracle"]) < 0.05
    assert abs(values["combat"]) < 0.3
    for name in ("site-shift", "combat-nocov", "shuffle"):
        assert values[name] == pytest.approx(1, abs=0.3), name
