import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist, squareform

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.protocol.site.mixing import SHUFFLED, ilisi, mmd, unbiased_mmd
from harmbench.stats import mmd_u

SITES = np.array(["ash", "birch", "cedar"])
SIZES = (40, 30, 20)
TEST, RAW = "features.random-conv.test", "features.random-conv.raw_test"


def rng(seed=0):
    return np.random.default_rng(seed)


def cohort(age=None, sizes=SIZES):
    n = sum(sizes)
    table = pd.DataFrame(
        {
            "participant_id": [f"p{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": np.repeat(SITES, sizes),
            "age": rng(9).uniform(20, 80, n) if age is None else age,
            "sex": "F",
        }
    )
    images = np.zeros((n, 2, 3), np.float32)
    return Cohort(images, table, images == 0)


def inputs(features, raw=None, test=None, **more):
    products = {
        "raw.test": cohort() if test is None else test,
        TEST: {"features": features},
        RAW: {"features": features if raw is None else raw},
    }
    return MetricInputs(products | more, "ash")


def shifted(step, seed=0, d=7):
    """Features in which each site is a step away from the next."""
    return rng(seed).normal(size=(sum(SIZES), d)) + step * np.repeat(np.arange(3), SIZES)[:, None]


def direct_mmd(kernel, subjects, first, second):
    def mean(a, b):
        return np.mean([kernel[i, j] for i in a for j in b if subjects[i] != subjects[j]])

    return mean(first, first) + mean(second, second) - 2 * mean(first, second)


def gaussian_kernel(distances, bandwidth):
    return np.exp(-0.5 * (distances / bandwidth) ** 2)


def mmd_between(kernel, pairs, first, second):
    return unbiased_mmd([(slice(0, len(kernel)), kernel, pairs)], [(first, second)])[0]


def test_mmd_agrees_with_a_direct_sum_over_pairs():
    x = rng().normal(size=(17, 5))
    kernel = gaussian_kernel(squareform(pdist(x)), 2.0)
    subjects = np.array([*range(8), *range(9)])  # eight were scanned at both sites
    first = np.arange(17) < 8
    got = mmd_between(kernel, subjects[:, None] != subjects, first[None], ~first[None])
    expected = direct_mmd(kernel, subjects, np.flatnonzero(first), np.flatnonzero(~first))
    assert got[0] == pytest.approx(expected, abs=1e-12)


def test_mmd_of_different_people_is_the_u_statistic():
    x = rng().normal(size=(20, 5))
    kernel = gaussian_kernel(squareform(pdist(x)), 2.0)
    first = np.arange(20) < 9
    got = mmd_between(kernel, ~np.eye(20, dtype=bool), first[None], ~first[None])
    expected = mmd_u(kernel[:9, :9], kernel[9:, 9:], kernel[:9, 9:]).value
    assert got[0] == pytest.approx(expected, abs=1e-12)


def test_mmd_metric_is_the_mean_over_sites_with_the_bandwidth_of_raw_images():
    features, raw = shifted(0.5), shifted(2.0, seed=1)
    result = mmd(inputs(features, raw), rng())
    scale = raw.std(0)
    bandwidth = np.median(pdist(raw / scale))
    kernel = gaussian_kernel(squareform(pdist(features / scale)), bandwidth)
    sites, everyone = np.repeat(SITES, SIZES), np.arange(sum(SIZES))
    rows = [np.flatnonzero(sites == site) for site in SITES]
    expected = [direct_mmd(kernel, everyone, rows[0], other) for other in rows[1:]]
    assert [result.groups[s].value for s in SITES[1:]] == pytest.approx(expected, abs=1e-10)
    assert result.overall.value == pytest.approx(np.mean(expected), abs=1e-10)
    assert result.overall.low < result.overall.value < result.overall.high


@pytest.mark.parametrize("measure", [ilisi, mmd])
def test_separate_sites_are_worse_than_mixed_ones_and_equal_images_are_best(measure):
    raw = shifted(2.0, seed=1)
    apart, mixed, equal = (
        measure(inputs(f, raw), rng()).overall.value
        for f in (raw, shifted(0.0), np.ones((sum(SIZES), 7)))
    )
    sign = 1 if measure is ilisi else -1
    assert sign * apart < sign * mixed
    if measure is ilisi:
        assert apart < 0.1 < mixed < equal == pytest.approx(1.0)
    else:
        assert apart > 0.1 > abs(mixed)
        assert equal == pytest.approx(0.0, abs=1e-12)


def test_one_site_apart_shows_in_its_group_and_in_the_mean():
    features = shifted(0.0)
    together = ilisi(inputs(features), rng())
    features[-20:] += 30
    apart = ilisi(inputs(features), rng())
    assert apart.groups["cedar"].value == pytest.approx(0, abs=0.01)
    assert apart.overall.value < together.overall.value - 0.1


def test_target_is_the_oracle_else_raw_images_shuffled_among_people_of_similar_age():
    raw, oracle = shifted(2.0, seed=1), shifted(0.0, seed=2)
    for measure in (ilisi, mmd):
        perfect = measure(inputs(oracle, raw), rng()).overall.value
        with_oracle = measure(inputs(raw, raw, **{f"oracle:{TEST}": {"features": oracle}}), rng())
        assert with_oracle.target == pytest.approx(perfect)
        alone = measure(inputs(shifted(1.0), raw), rng())
        assert alone.target == alone.floors[SHUFFLED]
        assert alone.target == measure(inputs(shifted(0.3), raw), rng()).target


def test_what_age_explains_is_not_held_against_a_method():
    age = np.repeat([30.0, 50.0, 70.0], SIZES) + rng(3).normal(0, 8, sum(SIZES))
    people = rng(4).normal(size=(sum(SIZES), 4)) + age[:, None] / 10
    test = cohort(age)
    result = mmd(inputs(people, test=test), rng())
    unknown = mmd(inputs(people, test=test.with_covariates(age=np.nan)), rng())
    assert result.overall.low > 0
    assert result.target > 0.5 * result.overall.value
    assert abs(unknown.target) < 0.1 * unknown.overall.value
    assert (unknown.arrays["p"] < 0.01).all()
    assert (result.arrays["p"] > unknown.arrays["p"]).all()


def test_sites_with_few_subjects_are_left_out_and_named():
    sizes = (40, 41, 9)
    test = cohort(sizes=sizes)
    for measure in (ilisi, mmd):
        result = measure(inputs(shifted(0.0), test=test), rng())
        assert "without cedar" in result.note
        assert "cedar" not in result.groups
        assert result.overall.n == 81
    few = mmd(inputs(shifted(0.0), test=cohort(sizes=(8, 42, 40))), rng())
    assert "reference site ash" in few.reason
    assert "two sites" in ilisi(inputs(shifted(0.0), test=cohort(sizes=(8, 9, 73))), rng()).reason


@pytest.mark.parametrize("measure", [ilisi, mmd])
def test_neighbors_are_people_not_slices(measure):
    features, test = shifted(0.5), cohort()
    once = measure(inputs(features, test=test), rng())
    twice = test.subset(np.repeat(np.arange(90), 2)).with_covariates(slice=np.tile([0, 1], 90))
    noise = np.tile([[0.1], [-0.1]], (90, 7))
    doubled = np.repeat(features, 2, axis=0)
    again = measure(inputs(doubled + noise, doubled, twice), rng())
    assert again.overall.value == pytest.approx(once.overall.value)
    assert (again.overall.low, again.overall.n) == (pytest.approx(once.overall.low), 90)


@pytest.mark.parametrize("measure", [ilisi, mmd])
def test_replicates_are_paired_and_as_wide_as_the_interval(measure):
    features = shifted(0.5)
    first = measure(inputs(features), rng(1))
    second = measure(inputs(features + rng(2).normal(0, 0.05, features.shape), features), rng(1))
    assert np.corrcoef(first.replicates, second.replicates)[0, 1] > 0.7
    assert first.replicates.mean() == pytest.approx(first.overall.value)
    low, high = (abs(e - first.overall.value) for e in (first.overall.low, first.overall.high))
    # The arms of a squared distance are not alike; their product is near that of equal ones.
    width = 1.96 * first.replicates.std(ddof=1)
    assert np.sqrt(low * high) == pytest.approx(width, rel=0.01 if measure is ilisi else 0.2)
    assert low <= high * 1.001


@pytest.mark.parametrize("measure", [ilisi, mmd])
def test_the_anchor_on_real_data_is_a_floor_of_the_result(measure):
    zero, one = measure.info.real_anchors
    result = measure(inputs(shifted(2.0)), rng(1))
    floor = result.floors[one.removeprefix("floor:")]
    assert zero == "identity"
    # Sites that were told apart are told from the floor, too.
    assert not result.overall.low <= floor <= result.overall.high
