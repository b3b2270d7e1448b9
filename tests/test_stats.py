"""Known answers, agreement with scikit-learn and SciPy, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats as reference
from scipy.spatial.distance import squareform
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from harmbench import stats
from harmbench.errors import HarmbenchError


def repeated(x, w):
    """Rows repeated as often as whole-numbered weights say."""
    return np.repeat(np.asarray(x), w.astype(int), axis=-1)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# Resampling


def test_all_rows_of_a_subject_share_its_weight(rng):
    subjects = np.array(["b", "a", "b", "c", "a", "d"])
    w = stats.subject_counts(subjects, 50, rng)
    assert w.shape == (50, 6)
    assert (w[:, 0] == w[:, 2]).all() and (w[:, 1] == w[:, 4]).all()
    np.testing.assert_allclose(w[:, [0, 1, 3, 5]].sum(1), 4)


def test_weights_do_not_depend_on_the_order_of_rows():
    subjects = np.array([f"s{i}" for i in range(12)])
    sites = np.array(["x", "y", "z"] * 4)
    order = np.random.default_rng(1).permutation(12)
    first = stats.subject_counts(subjects, 9, np.random.default_rng(5), sites)
    other = stats.subject_counts(subjects[order], 9, np.random.default_rng(5), sites[order])
    np.testing.assert_array_equal(first[:, order], other)


def test_no_stratum_vanishes_and_its_size_stays(rng):
    sites = np.array(["big"] * 40 + ["small"] * 2 + ["alone"])
    w = stats.subject_counts(np.arange(43), 300, rng, sites)
    np.testing.assert_allclose(w[:, :40].sum(1), 40)
    np.testing.assert_allclose(w[:, 40:42].sum(1), 2)
    np.testing.assert_array_equal(w[:, 42], 1)


def test_a_subject_of_two_sites_has_one_weight(rng):
    subjects = np.array(["t", "t", "a", "b", "c", "d"])
    sites = np.array(["x", "y", "x", "x", "y", "y"])
    w = stats.subject_counts(subjects, 40, rng, sites)
    assert (w[:, 0] == w[:, 1]).all() and w.std() > 0


def test_bootstrap_variance_of_a_mean_is_unbiased_at_small_n(rng):
    x = np.array([1.0, 4.0, 2.0, 9.0, 3.0])
    spread = stats.weighted_mean(x, stats.subject_counts(np.arange(5), 40_000, rng)).var()
    assert spread == pytest.approx(x.var(ddof=1) / 5, rel=0.03)


def test_three_seeds_show_the_whole_variance(rng):
    x = np.array([0.5, 0.7, 0.75])
    w = stats.seed_weights(3, 40_000, rng)
    np.testing.assert_allclose(w.sum(1), 1)
    assert stats.over_seeds(np.tile(x, (40_000, 1)), w).var() == pytest.approx(
        x.var(ddof=1) / 3, rel=0.03
    )


def test_one_seed_has_all_the_weight(rng):
    np.testing.assert_array_equal(stats.seed_weights(1, 4, rng), np.ones((4, 1)))


def test_subsample_keeps_whole_subjects_and_the_share(rng):
    subjects = np.repeat(np.arange(20), 2)
    keep = stats.subsample(subjects, 0.5, 30, rng, np.repeat(["x", "y"], 20))
    assert (keep[:, ::2] == keep[:, 1::2]).all()
    np.testing.assert_array_equal(keep[:, :20].sum(1), 10)
    np.testing.assert_array_equal(keep[:, 20:].sum(1), 10)
    assert keep.mean(0).std() > 0


# Intervals


def test_percentile_interval_of_known_replicates():
    known = pytest.approx((25.0, 975.0))
    assert stats.percentile_interval(np.arange(1001.0)) == known
    assert stats.percentile_interval([np.nan, *np.arange(1001.0)]) == known
    assert np.isnan(stats.percentile_interval([np.nan, np.nan, 1.0])).all()


def test_percentile_interval_is_wider_with_few_subjects():
    reps = reference.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    for df in (4, 29):
        ends = reference.t.ppf([0.025, 0.975], df)
        assert stats.percentile_interval(reps, df=df) == pytest.approx(tuple(ends), abs=0.02)
    assert stats.percentile_interval(reps, df=0) == stats.percentile_interval(reps, df=1)


def test_normal_interval_is_cut_at_its_bounds():
    low, high = stats.normal_interval(0.5, 1.0, bounds=(0.0, None))
    assert low == 0.0 and high == pytest.approx(0.5 + 1.959964, abs=1e-5)


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8])
def test_subsampled_error_of_a_mean_is_that_of_the_formula(rng, fraction):
    x = rng.normal(size=60)
    keep = stats.subsample(np.arange(60), fraction, 8000, rng)
    means = (keep * x).sum(1) / keep.sum(1)
    expected = x.std(ddof=1) / np.sqrt(60)
    assert stats.subsample_se(means, fraction) == pytest.approx(expected, rel=0.04)


def test_half_samples_find_the_error_of_first_and_second_order(rng):
    n = 60
    first, pairs = rng.normal(size=n), rng.normal(size=(n, n))
    keep = stats.subsample(np.arange(n), 0.5, 4000, rng).astype(float)

    def error(linear, quadratic):
        def statistic(w):
            square = np.einsum("bi,ij,bj->b", w, np.triu(pairs, 1), w) / (w.sum(1) ** 2 / 2)
            return linear * (w @ first) / w.sum(1) + quadratic * square

        return stats.half_sample_orders(statistic(keep), statistic(1 - keep)).se

    assert error(1.0, 0.0) == pytest.approx(first.std(ddof=1) / np.sqrt(n), rel=0.05)
    assert error(0.0, 1.0) == pytest.approx(np.sqrt(2) / n, rel=0.1)


def test_a_small_squared_distance_has_a_longer_upper_arm():
    variance = stats.Orders(first=0.09, second=0.01)
    low, high = stats.squared_distance_interval(1.0, variance, 60)
    assert high - 1.0 > 1.2 * (1.0 - low)
    for t in (low, high):  # at both ends the value is just as surprising as Student's quantile
        surprise = (1.0 - t) / np.sqrt(0.01 + 0.09 * t)
        assert abs(surprise) == pytest.approx(reference.t.ppf(0.975, 60), rel=1e-6)
    even = stats.squared_distance_interval(1.0, stats.Orders(0.0, 0.01), 60)
    assert even == pytest.approx(1.0 + 0.1 * reference.t.ppf([0.025, 0.975], 60))


def test_a_squared_distance_below_zero_lies_in_its_interval():
    low, high = stats.squared_distance_interval(-5.0, stats.Orders(0.0, 0.01), 9, steepness=1.0)
    assert low <= -5.0 <= high


def test_mmd_against_its_definition(rng):
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(9, 3))
    k = [a @ b.T for a, b in ((x, x), (y, y), (x, y))]
    within_x = np.mean([x[i] @ x[j] for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([y[i] @ y[j] for i in range(9) for j in range(9) if i != j])
    assert stats.mmd_u(*k).value == pytest.approx(within_x + within_y - 2 * (x @ y.T).mean())


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_mmd_error_is_the_spread_over_samples(rng, shift):
    drawn = []
    for _ in range(400):
        x, y = rng.normal(size=(40, 4)) + shift, rng.normal(size=(25, 4))
        drawn.append(stats.mmd_u(*((a @ b.T / 4 + 1) ** 2 for a, b in ((x, x), (y, y), (x, y)))))
    values, errors, _, _ = np.array(drawn).T
    # Without a shift the first order's variance, cut at 0, leaves the error a little too large.
    assert 0.9 < np.sqrt(np.mean(errors**2)) / values.std() < 1.3
    if shift == 0:
        assert abs(values.mean()) < 4 * values.std() / 20


def test_mmd_of_one_row_is_refused():
    with pytest.raises(HarmbenchError, match="2 or more"):
        stats.mmd_u(np.ones((1, 1)), np.ones((3, 3)), np.ones((1, 3)))


# Weighted statistics: whole-numbered weights are repeated rows


def whole_weights(rng, n):
    return rng.integers(0, 4, size=(6, n)) + (np.arange(n) % 3 == 0)


def test_weighted_balanced_accuracy_is_that_of_repeated_rows(rng):
    truth, predicted = rng.integers(0, 3, 40), rng.integers(0, 3, (2, 40))
    w = whole_weights(rng, 40)
    got = stats.weighted_balanced_accuracy(truth, predicted, w)
    expected = [
        [balanced_accuracy_score(repeated(truth, v), repeated(p, v)) for p in predicted] for v in w
    ]
    np.testing.assert_allclose(got, expected)


def test_weighted_auc_is_that_of_repeated_rows_with_ties(rng):
    truth, score = rng.random(40) < 0.4, rng.integers(0, 6, (2, 40)) / 5
    w = whole_weights(rng, 40)
    got = stats.weighted_auc(truth, score, w)
    expected = [[roc_auc_score(repeated(truth, v), repeated(s, v)) for s in score] for v in w]
    np.testing.assert_allclose(got, expected)


def test_weighted_correlation_is_that_of_repeated_rows(rng):
    x, y = rng.normal(size=40) + 1e6, rng.normal(size=40)
    w = whole_weights(rng, 40)
    expected = [np.corrcoef(repeated(x, v), repeated(y, v))[0, 1] for v in w]
    np.testing.assert_allclose(stats.weighted_correlation(x, y, w), expected, rtol=1e-6)


def test_within_group_correlation_ignores_the_groups_levels(rng):
    groups = np.repeat([0, 1, 2], 15)
    x, w = rng.normal(size=45), rng.random((5, 45))
    y = 0.5 * x + rng.normal(size=45)
    shifted = stats.weighted_correlation(x + 30 * groups, y - 7 * groups, w, groups)
    np.testing.assert_allclose(stats.weighted_correlation(x, y, w, groups), shifted, rtol=1e-8)
    residual = [v - np.array([v[groups == g].mean() for g in groups]) for v in (x, y)]
    even = stats.weighted_correlation(x, y, np.ones((1, 45)), groups)
    assert even[0] == pytest.approx(np.corrcoef(*residual)[0, 1])


@pytest.mark.parametrize("constant", [0.0, 0.1, 55.3, 1e6])
def test_correlation_of_a_constant_is_zero(rng, constant):
    w, x, flat = rng.random((4, 30)), rng.normal(size=30), np.full(30, constant)
    np.testing.assert_array_equal(stats.weighted_correlation(x, flat, w), 0)
    np.testing.assert_array_equal(
        stats.weighted_correlation(x, flat + 0.1 * (np.arange(30) % 2), w, np.arange(30) % 2), 0
    )
    pairs = np.abs(x[:, None] - x)
    np.testing.assert_array_equal(
        stats.weighted_pair_correlation(pairs, np.full((30, 30), constant), w), 0
    )


def test_pair_correlation_with_even_weights_is_that_of_the_triangles(rng):
    x, y = rng.random(36), rng.random(36)
    got = stats.weighted_pair_correlation(squareform(x), squareform(y), np.ones((1, 9)))
    assert got[0] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_pairs_never_join_a_subject_with_itself(rng):
    x, y = squareform(rng.random(36)), squareform(rng.random(36))
    twice = np.repeat(np.arange(9), 2)
    got = stats.weighted_pair_correlation(
        x[np.ix_(twice, twice)], y[np.ix_(twice, twice)], np.ones((1, 18)), subjects=twice
    )
    np.testing.assert_allclose(got, stats.weighted_pair_correlation(x, y, np.ones((1, 9))))
    drawn = stats.weighted_pair_correlation(x, x, stats.subject_counts(np.arange(9), 20, rng))
    np.testing.assert_allclose(drawn, 1)


def test_pair_correlation_lies_inside_its_own_interval(rng):
    x = rng.normal(size=(40, 5))
    a, b = (
        np.linalg.norm(v[:, None] - v, axis=2) for v in (x, x + 0.05 * rng.normal(size=(40, 5)))
    )
    value = stats.weighted_pair_correlation(a, b, np.ones((1, 40)))[0]
    w = stats.subject_counts(np.arange(40), 500, rng)
    low, high = stats.percentile_interval(stats.weighted_pair_correlation(a, b, w))
    assert low < value < high < 1


def test_values_and_weights_of_other_lengths_are_refused():
    with pytest.raises(HarmbenchError, match="disagree"):
        stats.weighted_mean(np.ones(3), np.ones((2, 4)))


def test_fisher_pool_is_bounded_and_weighted():
    assert stats.fisher_pool([0.3, 0.3, 0.3], [5, 1, 9]) == pytest.approx(0.3)
    assert 1 - 1e-6 < stats.fisher_pool([1.0, 1.0], [3, 4]) < 1
    assert stats.fisher_pool([0.9, 0.1], [1, 0]) == pytest.approx(0.9)
    assert stats.fisher_pool(np.zeros((5, 2)), [3, 4]).shape == (5,)


def test_ranks_agree_with_scipy(rng):
    x = rng.integers(0, 9, (5, 8))
    np.testing.assert_allclose(stats.ranks(x), reference.rankdata(x).reshape(5, 8))


# Tests and comparisons


def test_spearman_p_is_near_the_exact_one(rng):
    x, y = rng.normal(size=25), rng.normal(size=25)
    exact = reference.spearmanr(x, y, alternative="greater").pvalue
    assert stats.spearman_p(x, y, 4000, rng) == pytest.approx(exact, abs=0.03)


def test_mantel_p_sees_a_relation_and_not_its_absence(rng):
    x, z = rng.normal(size=(15, 3)), rng.normal(size=(15, 3))
    a, b = (np.linalg.norm(v[:, None] - v, axis=2) for v in (x, z))
    assert stats.mantel_p(a, a + 0.1 * b, 199, rng) == pytest.approx(1 / 200)
    null = []
    for _ in range(100):
        v = rng.normal(size=(12, 3))
        null.append(stats.mantel_p(a[:12, :12], np.linalg.norm(v[:, None] - v, axis=2), 99, rng))
    assert 0.35 < np.mean(null) < 0.65 and np.mean(np.array(null) < 0.1) < 0.25


def test_paired_difference_is_narrower_than_an_unpaired_one(rng):
    common = rng.normal(size=1000)
    ours, theirs = 1.0 + common + 0.1 * rng.normal(size=1000), common
    got = stats.paired_difference(1.0, ours, 0.0, theirs)
    assert got.value == 1.0 and 0.7 < got.low < 1 < got.high < 1.3
    assert got.p == pytest.approx(2 / 1001)
    assert stats.paired_difference(0.0, common, 0.0, -common).p > 0.5
    with pytest.raises(HarmbenchError, match="paired"):
        stats.paired_difference(0, np.ones(3), 0, np.ones(4))


def test_holm_on_a_worked_example():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(stats.holm([0.9, 0.8]), [1.0, 1.0])


@pytest.mark.parametrize(
    ("interval", "margin", "claim", "better", "expected"),
    [
        ((-1.0, -0.2), 0.0, "superior", "lower", "held"),
        ((-1.0, 0.2), 0.0, "superior", "lower", "inconclusive"),
        ((0.1, 0.2), 0.0, "superior", "lower", "not held"),
        ((-0.1, 0.4), 0.5, "non-inferior", "lower", "held"),
        ((-0.1, 0.6), 0.5, "non-inferior", "lower", "inconclusive"),
        ((0.6, 0.9), 0.5, "non-inferior", "lower", "not held"),
        ((-0.02, 0.1), 0.03, "non-inferior", "higher", "held"),
        ((0.01, 0.1), 0.05, "superior", "higher", "inconclusive"),
        ((np.nan, np.nan), 0.05, "superior", "higher", "inconclusive"),
    ],
)
def test_verdicts(interval, margin, claim, better, expected):
    assert stats.verdict(interval, margin, claim, better) == expected


def test_a_negative_margin_is_refused():
    with pytest.raises(HarmbenchError, match="0 or more"):
        stats.verdict((0, 1), -0.1, "superior", "higher")


# Coverage: 95 % intervals hold the truth in 92 to 98 % of simulated test sets. The larger
# simulations, and the alternatives to the percentile interval, are benchmarks/coverage.py.


def coverage(draw, rng, repeats=500, b=200):
    hits = 0
    for _ in range(repeats):
        subjects, strata, statistic, truth = draw()
        w = stats.subject_counts(subjects, b, rng, strata)
        df = len(np.unique(subjects)) - (1 if strata is None else len(np.unique(strata)))
        low, high = stats.percentile_interval(statistic(w), df=df)
        hits += low <= truth <= high
    return hits / repeats


def test_coverage_of_a_mean_over_subjects_with_repeated_rows(rng):
    def draw():
        subjects = np.repeat(np.arange(60), 3)
        x = rng.exponential(size=60)[subjects] + 0.5 * rng.normal(size=180)
        return subjects, None, lambda w: stats.weighted_mean(x, w), 1.0

    assert 0.92 <= coverage(draw, rng) <= 0.98


def test_coverage_of_balanced_accuracy_with_seed_noise(rng):
    site = np.repeat(np.arange(4), 20)
    truth = reference.norm.cdf(0.5 / np.sqrt(2.09))

    def draw():
        skill = 0.5 + 0.3 * rng.normal(size=(3, 1)) + rng.normal(size=80)
        guess = np.where(skill + rng.normal(size=(3, 80)) > 0, site, (site + 1) % 4)

        def statistic(w):
            values = stats.weighted_balanced_accuracy(site, guess, w)
            return stats.over_seeds(values, stats.seed_weights(3, len(w), rng))

        return np.arange(80), site, statistic, truth

    assert 0.92 <= coverage(draw, rng) <= 0.98


def test_coverage_of_a_within_site_correlation(rng):
    site = np.arange(80) % 4

    def draw():
        x = rng.normal(size=80)
        y = 0.6 * x + 0.8 * rng.normal(size=80)
        return (
            site * 100 + np.arange(80),
            site,
            (lambda w: stats.weighted_correlation(x + site, y - site, w, site)),
            0.6,
        )

    assert 0.92 <= coverage(draw, rng) <= 0.98


def test_coverage_of_a_pairwise_correlation(rng):
    def world(n):
        x = rng.normal(size=(n, 6)) * np.linspace(2, 0.5, 6)
        both = (x, x + 0.5 * rng.normal(size=(n, 6)))
        return [np.sqrt(((v[:, None] - v) ** 2).sum(2)) for v in both]

    truth = np.mean(
        [stats.weighted_pair_correlation(*world(800), np.ones((1, 800))) for _ in range(4)]
    )

    def draw():
        x, y = world(40)
        return np.arange(40), None, lambda w: stats.weighted_pair_correlation(x, y, w), truth

    assert 0.92 <= coverage(draw, rng) <= 0.98


@pytest.mark.parametrize(("n", "shift"), [(45, 0.45), (35, 0.25)])
def test_coverage_of_a_kernel_distance(rng, n, shift):
    found = []
    for _ in range(500):
        x, y = rng.normal(size=(n, 6)) + shift, rng.normal(size=(30, 6))
        k = ((a @ b.T / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        found.append(stats.mmd_u(*k))
    values, _, low, high = np.array(found).T
    assert 0.92 <= np.mean((low <= values.mean()) & (values.mean() <= high)) <= 0.98
