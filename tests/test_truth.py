"""Errors to the truth: known answers, the mask, the reference site and the rescan floor."""

import numpy as np
import pandas as pd
import pytest
from skimage.metrics import structural_similarity

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.protocol.truth import errors as room

SHAPE = (8, 9)
METRICS = [room.truth_mae, room.truth_mae_clean, room.truth_psnr, room.truth_ssim]


@pytest.fixture
def rng():
    return np.random.default_rng(2)


@pytest.fixture
def truth(rng):
    site = np.repeat(["a", "b", "ref"], (7, 9, 8))
    n = len(site)
    table = pd.DataFrame(
        {
            "participant_id": [f"s{i:03}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": site,
        }
    )
    mask = np.zeros((n, *SHAPE), bool)
    mask[:, 1:6, 2:8] = True
    return Cohort(rng.random((n, *SHAPE)).astype(np.float32), table, mask)


def measure(metric, truth, images):
    products = {
        "truth.test": truth,
        "truth.test.clean": truth,
        "harmonized.test": truth.with_images(images),
    }
    return metric(MetricInputs(products, "ref"), np.random.default_rng(0))


def test_a_constant_error_is_read_exactly(truth):
    got = measure(room.truth_mae, truth, truth.images + 0.25)
    assert got.overall.value == pytest.approx(0.25, rel=1e-5)
    assert (got.overall.low, got.overall.high) == pytest.approx((0.25, 0.25), rel=1e-5)
    psnr = measure(room.truth_psnr, truth, truth.images + 0.1)
    assert psnr.overall.value == pytest.approx(20.0, rel=1e-4)


def test_equal_images_are_perfect(truth):
    values = [measure(metric, truth, truth.images).overall.value for metric in METRICS]
    assert values == pytest.approx([0, 0, 100, 1])


@pytest.mark.parametrize("metric", [room.truth_mae, room.truth_psnr])
def test_outside_of_the_mask_does_not_count(truth, metric, rng):
    images = truth.images + 0.1
    spoiled = np.where(truth.mask, images, 1e6)
    assert measure(metric, truth, spoiled).overall.value == pytest.approx(
        measure(metric, truth, images).overall.value
    )
    inside = np.where(truth.mask, images + 0.1, images)
    assert measure(metric, truth, inside).overall.value != pytest.approx(
        measure(metric, truth, images).overall.value
    )


@pytest.mark.parametrize("metric", METRICS)
def test_reference_site_does_not_count(truth, metric):
    images = truth.images + 0.1
    spoiled = images.copy()
    spoiled[truth.column("site") == "ref"] = 9
    first, second = measure(metric, truth, images), measure(metric, truth, spoiled)
    assert first.overall == second.overall
    assert set(first.groups) == {"a", "b"}
    assert first.overall.n == 16


def test_sites_and_scans_add_up(truth):
    error = np.linspace(0.0, 0.46, len(truth))
    got = measure(room.truth_mae, truth, truth.images + error[:, None, None])
    np.testing.assert_allclose(got.per_scan["mae"], error[:16], atol=1e-6)
    assert list(got.per_scan["site"]) == ["a"] * 7 + ["b"] * 9
    assert got.groups["a"].value == pytest.approx(error[:7].mean(), rel=1e-5)
    assert got.groups["b"].n == 9
    assert got.overall.value == pytest.approx(error[:16].mean(), rel=1e-5)
    for estimate in (got.overall, *got.groups.values()):
        assert estimate.low < estimate.value < estimate.high


def test_ssim_is_the_map_averaged_in_the_mask(truth, rng):
    images = (truth.images + 0.3 * rng.random(truth.images.shape)).astype(np.float32)
    got = measure(room.truth_ssim, truth, images)
    expected = [
        structural_similarity(a, b, data_range=1.0, full=True)[1][m].mean()
        for a, b, m in zip(images[:16], truth.images[:16], truth.mask[:16], strict=True)
    ]
    np.testing.assert_allclose(got.per_scan["ssim"], expected, rtol=1e-4)


def test_volumes_work_too(rng):
    images = rng.random((3, 7, 8, 9)).astype(np.float32)
    mask = np.ones(images.shape, bool)
    assert room.masked_mae(images + 0.5, images, mask) == pytest.approx([0.5] * 3)
    assert room.masked_ssim(images, images, mask) == pytest.approx([1] * 3)


@pytest.mark.parametrize("metric", METRICS)
def test_oracle_is_the_floor_and_the_target(truth, metric, rng):
    rescan = truth.images + 0.05 * rng.random(truth.images.shape)
    products = {
        "truth.test": truth,
        "truth.test.clean": truth,
        "oracle:harmonized.test": truth.with_images(rescan),
        "harmonized.test": truth.with_images(rescan),
    }
    got = metric(MetricInputs(products, "ref"), rng)
    assert got.floors["rescan"] == pytest.approx(got.overall.value)
    assert got.target == got.floors["rescan"]
    alone = measure(metric, truth, rescan)
    assert np.isnan(alone.target) and not alone.floors


def test_replicates_are_common_to_methods(truth, rng):
    noise = rng.normal(size=truth.images.shape)
    first = measure(room.truth_mae, truth, truth.images + 0.1 * noise)
    second = measure(room.truth_mae, truth, truth.images + 0.2 * noise)
    np.testing.assert_allclose(second.replicates, 2 * first.replicates, rtol=1e-4)


def test_a_scan_without_a_brain_is_left_out(truth):
    mask = truth.mask.copy()
    mask[0] = False
    empty = Cohort(truth.images, truth.participants, mask)
    got = measure(room.truth_mae, empty, truth.images + 0.25)
    assert got.overall.n == 15 and got.overall.value == pytest.approx(0.25, rel=1e-5)


def test_reference_site_alone_is_a_skip(truth):
    only = truth.subset(truth.column("site") == "ref")
    got = measure(room.truth_mae, only, only.images)
    assert got.overall is None and "reference site" in got.reason
