"""Voxelwise effects: agreement with nilearn and numpy, nominal levels, and what controls keep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from nilearn.glm import OLSModel
from scipy.stats import t as student

from baselines.controls import Identity, MeanImage, Shuffle, SiteShift
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.contracts.metric import MetricInputs, MetricResult
from harmbench.data.splits import make_split
from harmbench.data.toy import ToyDataset
from harmbench.protocol.biology.effects import (
    CLEAN,
    ORACLE,
    age_slopes,
    common_mask,
    effect_agreement,
    effect_correlation,
    effect_slope,
    false_effects,
    nuisance,
    significant_share,
)
from harmbench.protocol.leakage import placebo
from harmbench.protocol.truth.oracle import Oracle

SITES = np.array(["ash", "birch", "cedar"])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def cohort(n: int = 120, shape: tuple[int, ...] = (7, 8, 9), seed: int = 0) -> Cohort:
    """Noise with an age effect in one half, sites of unlike gain, and a background of 0."""
    generator = np.random.default_rng(seed)
    site = np.arange(n) % 3
    age = 40 + 10 * site + generator.uniform(-15, 15, n)
    wide = (slice(None), *(None for _ in shape))
    images = generator.normal(0.5, 0.1, (n, *shape)) + 0.1 * site[wide]
    images[:, :3] += 0.005 * age[wide]
    mask = np.zeros(images.shape, bool)
    mask[:, 1:-1] = True
    table = pd.DataFrame(
        {
            "participant_id": [f"{seed}-{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": SITES[site],
            "age": age,
            "sex": np.where(generator.random(n) < 0.5, "F", "M"),
        }
    )
    return Cohort(np.where(mask, images, 0).astype(np.float32), table, mask, "volume")


# Arrays ------------------------------------------------------------------------------------------


def test_significance_agrees_with_nilearn() -> None:
    data = cohort()
    y = data.images.reshape(len(data), -1)[:, 80:].astype(float)
    age, basis = data.column("age").astype(float), nuisance(data, ("sex", "site"))
    t = OLSModel(np.column_stack([age, basis])).fit(y[:, np.ptp(y, axis=0) > 0]).t(0)
    p = 2 * student.sf(np.abs(t), len(y) - basis.shape[1] - 1)
    for alpha in (0.05, 0.01):
        expected = (p < alpha).sum() / y.shape[1]
        assert 0.1 < expected < 0.9
        assert significant_share(y, age, basis, alpha) == pytest.approx(expected)


def test_the_basis_spans_sexes_and_sites_once() -> None:
    data = cohort()
    assert nuisance(data, ()).shape[1] == 1
    assert nuisance(data, ("sex", "site")).shape[1] == 1 + 1 + 2
    sex = data.column("sex").astype(object)
    sex[:9] = None
    assert nuisance(data.with_covariates(sex=sex), ("sex",)).shape[1] == 3
    women = data.with_covariates(sex=np.full(len(data), "F"))
    assert nuisance(women, ("sex", "site")).shape[1] == 3


def test_constant_voxels_show_nothing_and_too_few_scans_are_nan() -> None:
    data = cohort(12)
    age, basis = data.column("age").astype(float), nuisance(data, ("site",))
    assert significant_share(np.full((12, 5), 0.3), age, basis) == 0
    assert np.isnan(significant_share(np.ones((4, 5)), age[:4], basis[:4]))
    site_only = (data.column("site") == "ash").astype(float)
    assert np.isnan(significant_share(np.ones((12, 5)), site_only, basis))


def test_slopes_under_weights_are_those_of_repeated_rows() -> None:
    data = cohort(60)
    y = data.images.reshape(60, -1)[:, :90].astype(float)
    age, basis = data.column("age").astype(float), nuisance(data, ("sex", "site"))
    weights = np.random.default_rng(1).integers(0, 4, (5, 60)).astype(float)
    found = age_slopes(y, age, basis, weights)
    for b, own in enumerate(weights):
        rows = np.repeat(np.arange(60), own.astype(int))
        design = np.column_stack([age, basis])[rows]
        expected = np.linalg.lstsq(design, y[rows], rcond=None)[0][0]
        np.testing.assert_allclose(found[b], expected, atol=1e-12)


def test_agreement_of_maps() -> None:
    truth = np.random.default_rng(1).normal(-1, 1, (3, 500))
    correlation, slope = effect_agreement(0.5 * truth, truth)
    np.testing.assert_allclose(correlation, 1)
    np.testing.assert_allclose(slope, 0.5)
    correlation, slope = effect_agreement(np.zeros_like(truth), truth)
    assert not correlation.any() and not slope.any()
    noisy = truth + np.random.default_rng(2).normal(0, 1, truth.shape)
    np.testing.assert_allclose(effect_agreement(noisy, truth)[1], 1, atol=0.1)


def test_voxels_of_half_the_masks() -> None:
    data = cohort()
    assert common_mask(data).sum() == 5 * 8 * 9


# False effects -----------------------------------------------------------------------------------


def told(data: Cohort, k: float) -> MetricInputs:
    """Give inputs of a method that adds k times the age it is told to a part of the image."""
    products = {"raw.test": data}
    for name in placebo.AGES:
        draw = placebo.with_placebo(data, name, "x")
        images = data.images.copy()
        images[:, 3:] += (k * draw.column("placebo_age"))[:, None, None, None]
        products[name] = draw.with_images(images)
    return MetricInputs(products, "ash")


def test_who_hears_no_lie_has_the_nominal_share() -> None:
    result = false_effects(told(cohort(), 0.0), rng())
    assert result.overall is not None
    assert result.overall.value == pytest.approx(0.05, abs=0.01)
    assert result.overall.low < result.overall.value < result.overall.high
    assert result.floors["raw images"] == pytest.approx(result.overall.value)
    assert result.target == 0.05


def test_what_is_written_is_found_where_it_is_written() -> None:
    result = false_effects(told(cohort(), 0.02), rng())
    assert result.overall is not None
    written = 3 / 5  # of the slabs of the mask
    assert result.overall.value == pytest.approx(written + 0.05 * (1 - written), abs=0.02)
    assert result.floors["raw images"] == pytest.approx(0.05, abs=0.01)


def test_several_scans_of_a_subject_do_not_make_it_significant() -> None:
    """The same scans four times over would shrink every error to a half."""
    data = cohort(60)
    table = pd.concat(
        [data.participants.assign(session_id=str(i)) for i in range(4)], ignore_index=True
    )
    images, mask = np.tile(data.images, (4, 1, 1, 1)), np.tile(data.mask, (4, 1, 1, 1))
    result = false_effects(told(Cohort(images, table, mask, "volume"), 0.0), rng())
    assert result.overall is not None
    assert result.overall.n == 60 and result.overall.value < 0.08


def test_unknown_ages_are_left_out_and_too_few_are_a_skip() -> None:
    data = cohort()
    age = data.column("age").copy()
    age[::3] = np.nan
    result = false_effects(told(data.with_covariates(age=age), 0.0), rng())
    assert result.overall is not None and result.overall.n == 80
    age[5:] = np.nan
    assert "cannot be tested" in false_effects(told(data.with_covariates(age=age), 0), rng()).reason
    age[:] = np.nan
    assert "known age" in false_effects(told(data.with_covariates(age=age), 0.0), rng()).reason


# Effects kept ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, MetricResult]]:
    """Both metrics of five controls on toy data whose sites differ in age and in gain."""
    data = ToyDataset(n=450, shape=(12, 10), strength=1.0, seed=1)
    cohort = data.load()
    fold = make_split(cohort, 0).scored()
    fit, test = cohort.subset(fold.fit), cohort.subset(fold.test)
    methods = {
        "oracle": Oracle(),
        "identity": Identity(),
        "site-shift": SiteShift(),
        "shuffle": Shuffle(),
        "mean-image": MeanImage(),
    }
    truth = test.with_images(data.truth("site-a", test.keys, clean=True))
    images = {}
    for name, method in methods.items():
        method.fit(fit, FitContext(reference_site="site-a", truth=data.truth))
        images[name] = test.with_images(
            method.harmonize(test, context=ApplyContext(truth=data.truth))
        )
    images["half"] = test.with_images((images["oracle"].images + images["mean-image"].images) / 2)
    results = {}
    for name, done in images.items():
        products = {"harmonized.test": done, CLEAN: truth, ORACLE: images["oracle"]}
        inputs = MetricInputs(products, "site-a")
        metrics = {"correlation": effect_correlation, "slope": effect_slope}
        results[name] = {key: metric(inputs, rng()) for key, metric in metrics.items()}
    return results


def values(kept: dict[str, dict[str, MetricResult]], key: str) -> dict[str, float]:
    overall = {name: results[key].overall for name, results in kept.items()}
    return {name: one.value for name, one in overall.items() if one is not None}


def test_the_oracle_keeps_the_whole_effect_and_shuffling_none(
    kept: dict[str, dict[str, MetricResult]],
) -> None:
    correlation, slope = values(kept, "correlation"), values(kept, "slope")
    assert correlation["oracle"] > 0.97
    assert slope["oracle"] == pytest.approx(1, abs=0.03)
    assert abs(slope["shuffle"]) < 0.3
    assert correlation["mean-image"] == slope["mean-image"] == 0
    assert correlation["oracle"] > correlation["identity"] > 0


def test_half_of_the_effect_has_half_the_slope(kept: dict[str, dict[str, MetricResult]]) -> None:
    slope, correlation = values(kept, "slope"), values(kept, "correlation")
    assert slope["half"] == pytest.approx(slope["oracle"] / 2, rel=1e-4)
    assert correlation["half"] == pytest.approx(correlation["oracle"], rel=1e-4)


def test_with_site_in_the_model_its_means_no_longer_matter(
    kept: dict[str, dict[str, MetricResult]],
) -> None:
    """Shifting the sites' means takes their ages along: seen without site, not beside it."""
    shifted, raw = (
        kept[name]["slope"].groups["age + sex + site"] for name in ("site-shift", "identity")
    )
    assert shifted.value == pytest.approx(raw.value, rel=1e-5)
    overall = kept["site-shift"]["slope"].overall
    assert overall is not None and overall.value < shifted.value - 0.05


def test_values_lie_in_their_intervals_and_targets_are_the_oracles(
    kept: dict[str, dict[str, MetricResult]],
) -> None:
    for results in kept.values():
        for result in results.values():
            one = result.overall
            assert one is not None and one.low <= one.value <= one.high
            assert result.replicates is not None
            assert result.replicates.mean() == pytest.approx(one.value)
    target = kept["identity"]["correlation"].target
    assert target == pytest.approx(values(kept, "correlation")["oracle"])
    assert kept["identity"]["slope"].target == 1


def test_no_effect_to_keep_is_a_skip() -> None:
    data = cohort()
    same = data.with_covariates(age=np.full(len(data), 50.0))
    inputs = MetricInputs({"harmonized.test": same, CLEAN: same}, "ash")
    assert "does not vary" in effect_slope(inputs, rng()).reason
    nobody = data.with_covariates(age=np.full(len(data), np.nan))
    inputs = MetricInputs({"harmonized.test": nobody, CLEAN: nobody}, "ash")
    assert "known age" in effect_correlation(inputs, rng()).reason
