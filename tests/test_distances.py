"""Distance correlations: known answers, controls, missing slices and intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.protocol.individuals import distances

SHAPE = (7, 8, 9)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def raw_cohort(rng, sizes=(12, 9, 14)):
    site = np.repeat(["a", "b", "ref"], sizes)
    n = len(site)
    table = pd.DataFrame(
        {
            "participant_id": [f"s{i:03}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": site,
        }
    )
    level = pd.Series(site).map({"a": 0.1, "b": 0.4, "ref": 0.0}).to_numpy()
    person = rng.normal(0.5, 0.2, (n, 1, 1, 1))
    images = level[:, None, None, None] + person + 0.1 * rng.random((n, *SHAPE))
    return Cohort(images.astype(np.float32), table, np.ones((n, *SHAPE), bool))


def measure(metric, raw, images, rng, truth=None):
    products = {"raw.test": raw, "harmonized.test": raw.with_images(images)}
    if truth is not None:
        products["truth.test"] = raw.with_images(truth)
    return metric(MetricInputs(products, "ref"), rng)


def noisy(raw, rng, scale=0.1):
    return raw.images + scale * rng.normal(size=(len(raw), 1, 1, 1)) * rng.random(raw.shape)


@pytest.mark.parametrize("metric", [distances.distance_pcc, distances.distance_spearman])
def test_identity_and_a_shift_per_site_give_one(rng, metric):
    raw = raw_cohort(rng)
    shift = {s: rng.normal(size=SHAPE) for s in raw.sites}
    moved = raw.images + np.array([shift[s] for s in raw.column("site")])
    for images in (raw.images, moved):
        got = measure(metric, raw, images, rng)
        assert got.overall.value == pytest.approx(1, abs=1e-6)
        assert got.overall.low == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [(distances.distance_pcc, pearsonr), (distances.distance_spearman, spearmanr)],
)
def test_value_is_the_pooled_correlation_of_the_triangles(rng, metric, reference):
    raw = raw_cohort(rng)
    images = noisy(raw, rng)
    got = measure(metric, raw, images, rng)
    expected = {}
    for site in ("a", "b"):
        rows = raw.column("site") == site
        before, after = (
            pdist(v[rows].reshape(rows.sum(), -1).astype(float))
            for v in (raw.images, images.astype(np.float32))
        )
        expected[site] = reference(before, after)[0]
        np.testing.assert_allclose(got.arrays[f"before.{site}"], before)
        np.testing.assert_allclose(got.arrays[f"after.{site}"], after)
        assert got.groups[site].value == pytest.approx(expected[site])
    pooled = np.tanh((12 * np.arctanh(expected["a"]) + 9 * np.arctanh(expected["b"])) / 21)
    assert got.overall.value == pytest.approx(pooled)
    assert got.overall.low < pooled < got.overall.high < 1
    assert got.overall.n == 21


def test_reference_site_does_not_count(rng):
    raw = raw_cohort(rng)
    images = noisy(raw, rng)
    other = images.copy()
    other[raw.column("site") == "ref"] = 0
    first = measure(distances.distance_pcc, raw, images, np.random.default_rng(0))
    second = measure(distances.distance_pcc, raw, other, np.random.default_rng(0))
    assert first.overall == second.overall
    assert set(first.groups) == {"a", "b"}


def test_one_image_for_all_scores_zero_not_nan(rng):
    raw = raw_cohort(rng)
    same = np.broadcast_to(raw.images[0], raw.images.shape)
    got = measure(distances.distance_pcc, raw, same, rng)
    assert (got.overall.value, got.overall.low, got.overall.high) == (0, 0, 0)


def test_shuffled_subjects_score_near_zero_with_a_large_p(rng):
    raw = raw_cohort(rng, (40, 40, 5))
    shuffled = raw.images[rng.permutation(len(raw))]
    got = measure(distances.distance_pcc, raw, shuffled, rng)
    assert abs(got.overall.value) < 0.25
    kept = measure(distances.distance_pcc, raw, noisy(raw, rng, 0.02), rng)
    np.testing.assert_allclose(kept.arrays["mantel_p"], 1 / 1000)
    assert got.arrays["mantel_p"].max() > 0.05
    assert list(got.arrays["sites"]) == ["a", "b"]


def test_truth_version_prefers_the_truth_to_doing_nothing(rng):
    raw = raw_cohort(rng)
    truth = noisy(raw, rng, 1.0)
    rescan = truth + 0.01 * rng.random(truth.shape)
    metric = distances.distance_pcc_truth
    oracle = measure(metric, raw, rescan, rng, truth).overall.value
    identity = measure(metric, raw, raw.images, rng, truth).overall.value
    assert oracle > 0.98 > identity + 0.1


def test_order_of_rows_does_not_matter(rng):
    raw = raw_cohort(rng)
    images = noisy(raw, rng)
    order = rng.permutation(len(raw))
    first = measure(distances.distance_pcc, raw, images, np.random.default_rng(1)).overall
    second = measure(
        distances.distance_pcc, raw.subset(order), images[order], np.random.default_rng(1)
    ).overall
    assert (first.value, first.low, first.high) == pytest.approx(
        (second.value, second.low, second.high)
    )


def test_slices_are_one_vector_and_only_shared_ones_count(rng):
    raw = raw_cohort(rng)
    halves = [raw.with_images(raw.images * k).with_covariates(slice=k) for k in (1, 2)]
    table = pd.concat([h.participants for h in halves], ignore_index=True)
    stacked = Cohort(
        np.concatenate([h.images for h in halves]), table, np.concatenate([h.mask for h in halves])
    )
    found = list(distances._rows_by_site(stacked, "ref").values())
    assert [rows.shape for rows in found] == [(12, 2), (9, 2)]
    whole = distances.pair_distances(stacked.images, found[0])
    single = distances.pair_distances(raw.images, distances._rows_by_site(raw, "ref")["a"])
    np.testing.assert_allclose(whole, np.sqrt(5) * single, rtol=1e-6)
    without = stacked.subset(np.arange(1, len(stacked)))  # the first subject lost slice 1
    shapes = [rows.shape for rows in distances._rows_by_site(without, "ref").values()]
    assert shapes == [(12, 1), (9, 2)]


def test_second_session_of_a_subject_is_left_out(rng):
    raw = raw_cohort(rng)
    again = raw.subset([0, 1]).with_covariates(session_id="2")
    both = Cohort(
        np.concatenate([again.images + 9, raw.images]),
        pd.concat([again.participants, raw.participants], ignore_index=True),
        np.concatenate([again.mask, raw.mask]),
    )
    np.testing.assert_allclose(
        distances.pair_distances(both.images, distances._rows_by_site(both, "ref")["a"]),
        distances.pair_distances(raw.images, distances._rows_by_site(raw, "ref")["a"]),
    )


def test_small_sites_only_is_a_skip(rng):
    raw = raw_cohort(rng, (4, 3, 20))
    got = measure(distances.distance_pcc, raw, raw.images, rng)
    assert got.overall is None and "5 subjects" in got.reason
