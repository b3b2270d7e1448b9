"""Probe transfer: the skill's known answers, and that no probe has seen the site it reads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext, ProductUnavailable
from harmbench.protocol.biology import transfer
from harmbench.protocol.biology.transfer import age_transfer, make_transfer

SITES = np.array(["ash", "birch", "cedar"])
CONTEXT = ProductContext(seeds=(0,), probe={"images": 1_500, "channels": (4, 6)})


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def cohort(n: int, seed: int, shift: float = 0.0) -> Cohort:
    """Noise whose middle brightens with age, and at cedar also by `shift`."""
    generator = np.random.default_rng(seed)
    site, age = np.arange(n) % 3, generator.uniform(20, 80, n)
    images = generator.normal(0.5, 0.05, (n, 24, 20)).astype(np.float32)
    images[:, 8:16, 8:16] += (0.01 * (age - 50) + shift * (site == 2))[:, None, None]
    table = pd.DataFrame(
        {
            "participant_id": [f"{seed}-{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": SITES[site],
            "age": age,
            "sex": "F",
        }
    )
    return Cohort(images, table, np.ones(images.shape, bool))


def given(errors: np.ndarray, **others: object) -> MetricInputs:
    """Readings that miss the true ages by `errors` (seeds, 120)."""
    training, test = cohort(90, 0), cohort(120, 1)
    made = {
        "predicted": test.column("age").astype(float) + errors,
        "sites": SITES,
        "underfit": np.array([False, False, False]),
    }
    products = {"transfer.age": made, "raw.probe": training, "raw.test": test}
    return MetricInputs(products | others, "ash")


def median_errors(inputs: MetricInputs) -> np.ndarray:
    training, test = (inputs.cohort(n).participants for n in ("raw.probe", "raw.test"))
    medians = training.groupby("site")["age"].median()
    return (test["site"].map(medians) - test["age"]).to_numpy(dtype=float)


def test_skill_is_1_without_error_and_0_for_the_sites_own_median() -> None:
    perfect = age_transfer(given(np.zeros((2, 120))), rng()).overall
    assert perfect is not None and (perfect.value, perfect.low) == (1, 1)
    guess = median_errors(given(np.zeros((2, 120))))
    result = age_transfer(given(np.stack([guess, guess])), rng())
    assert result.overall is not None and result.overall.value == pytest.approx(0, abs=1e-9)
    assert all(one.value == pytest.approx(0, abs=1e-9) for one in result.groups.values())


def test_skill_is_one_less_the_ratio_of_mean_errors() -> None:
    errors = np.random.default_rng(3).normal(0, 8, (2, 120))
    inputs = given(errors)
    trivial = np.abs(median_errors(inputs))
    result = age_transfer(inputs, rng())
    assert result.overall is not None
    expected = 1 - np.abs(errors).mean(1) / trivial.mean()
    assert result.overall.value == pytest.approx(expected.mean())
    assert result.overall.low < expected.mean() < result.overall.high
    own = inputs.cohort("raw.test").column("site") == "birch"
    at_site = 1 - np.abs(errors[:, own]).mean() / trivial[own].mean()
    assert result.groups["birch"].value == pytest.approx(at_site)


def test_the_target_is_the_oracles() -> None:
    base = given(np.full((2, 120), 9.0))
    oracle = dict(given(np.full((2, 120), 3.0)).products)["transfer.age"]
    result = age_transfer(given(np.full((2, 120), 9.0), **{transfer.ORACLE: oracle}), rng())
    trivial = np.abs(median_errors(base)).mean()
    assert result.target == pytest.approx(1 - 3 / trivial)
    assert np.isnan(age_transfer(base, rng()).target)


def test_unread_sites_and_unknown_ages_are_left_out() -> None:
    errors = np.full((2, 120), 5.0)
    errors[:, 2::3] = np.nan
    inputs = given(errors)
    test = inputs.cohort("raw.test")
    age = test.column("age").copy()
    age[:30] = np.nan
    holes = MetricInputs(dict(inputs.products) | {"raw.test": test.with_covariates(age=age)}, "ash")
    result = age_transfer(holes, rng())
    assert set(result.groups) == {"ash", "birch"}
    assert result.overall is not None and result.overall.n == 60


def test_underfit_probes_are_named() -> None:
    inputs = given(np.zeros((2, 120)))
    inputs.arrays("transfer.age")["underfit"][1] = True
    assert age_transfer(inputs, rng()).note == "underfit without birch"


def test_a_site_effect_misleads_only_the_probe_that_has_not_seen_it() -> None:
    """Cedar is brighter by 30 years of age: a probe that knew cedar would not be fooled."""
    parts = {"harmonized.probe": cohort(150, 0, 0.3), "harmonized.test": cohort(120, 1, 0.3)}
    arrays = make_transfer(MetricInputs(parts, "ash"), CONTEXT)
    test = parts["harmonized.test"]
    off = arrays["predicted"].mean(0) - test.column("age").astype(float)
    sites = test.column("site")
    assert off[sites == "cedar"].mean() > 15
    assert abs(off[sites == "ash"].mean()) < 15
    products = {"raw.probe": parts["harmonized.probe"], "raw.test": test, "transfer.age": arrays}
    groups = age_transfer(MetricInputs(products, "ash"), rng()).groups
    assert groups["cedar"].value < groups["ash"].value


def test_one_site_of_known_ages_is_not_enough() -> None:
    training = cohort(60, 0)
    age = np.where(training.column("site") == "ash", training.column("age"), np.nan)
    parts = {
        "harmonized.probe": training.with_covariates(age=age.astype(float)),
        "harmonized.test": cohort(60, 1),
    }
    with pytest.raises(ProductUnavailable, match="no second site"):
        make_transfer(MetricInputs(parts, "ash"), CONTEXT)
