import numpy as np
import pytest
from scipy.spatial.distance import cdist

from harmbench.protocol.site.lisi import inverse_simpson, neighbor_probabilities

# lisi_knn of scib-metrics 0.5.10 (float64) on `points`: 15 neighbors besides the row, perplexity 5.
REFERENCE = [
    2.6969528399758347, 2.9100529193362505, 1.1053481994090535, 1.753892998137445,
    1.9132093180411673, 1.5373486643402399, 1.6216314507734255, 1.4280249617943626,
    1.0544039603291664, 1.733903716802833, 2.7181493305542115, 1.8004825745090496,
]  # fmt: skip
REFERENCE_SCALED_MEDIAN = 0.39938104301727817


def points():
    x, labels = np.random.default_rng(12).normal(size=(60, 7)), np.arange(60) % 3
    x[labels == 2] += 0.8
    return x, labels


def distances(x):
    d = cdist(x, x)
    np.fill_diagonal(d, np.inf)
    return d


def lisi(probabilities, labels, shares=None):
    member = labels[:, None] == np.unique(labels)
    return inverse_simpson(probabilities @ member.astype(float), shares)


def test_agrees_with_scib_metrics():
    x, labels = points()
    index = lisi(neighbor_probabilities(distances(x), 15, 5), labels)
    np.testing.assert_allclose(index[:12], REFERENCE, rtol=1e-4)
    assert (np.median(index) - 1) / 2 == pytest.approx(REFERENCE_SCALED_MEDIAN, rel=1e-4)


def test_weights_have_the_perplexity_and_stay_among_the_nearest():
    d = distances(points()[0])
    p = neighbor_probabilities(d, 15, 5)
    np.testing.assert_allclose(p.sum(1), 1)
    entropy = -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=1)
    np.testing.assert_allclose(np.exp(entropy), 5, rtol=1e-6)
    assert ((p > 0).sum(1) == 15).all()
    order = np.argsort(d, axis=1)
    assert (np.take_along_axis(p, order, axis=1)[:, 15:] == 0).all()


def test_depends_on_neither_scale_nor_order():
    x, labels = points()
    order = np.random.default_rng(0).permutation(60)
    index = lisi(neighbor_probabilities(distances(x), 15, 5), labels)
    other = lisi(neighbor_probabilities(distances(1e4 * x[order]), 15, 5), labels[order])
    np.testing.assert_allclose(other, index[order], rtol=1e-6)


def test_equal_points_are_all_neighbors_of_each_other():
    labels = np.repeat([0, 1, 2], 7)
    d = np.full((21, 21), 1e-6)
    d[np.triu_indices(21)] = 2e-6
    np.fill_diagonal(d, np.inf)
    p = neighbor_probabilities(d, 5, 5 / 3, same=1e-3)
    np.testing.assert_allclose(p[~np.eye(21, dtype=bool)], 1 / 20)
    shares = np.isfinite(d) @ np.eye(3)[labels] / 20
    np.testing.assert_allclose(lisi(p, labels, shares), 3)


def test_shares_make_up_for_unequal_sizes():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(400, 3)), (np.arange(400) % 10 == 0).astype(int)
    p = neighbor_probabilities(distances(x), 60, 20)
    plain = np.median(lisi(p, labels))
    corrected = np.median(lisi(p, labels, [0.9, 0.1]))
    equal = np.median(lisi(p, np.arange(400) % 2))
    assert plain < 1.35
    assert corrected > 1.6
    assert equal > 1.8
    np.testing.assert_allclose(lisi(p, np.arange(400) % 2, [0.5, 0.5]).mean(), equal, rtol=0.05)


def test_separate_labels_score_one():
    x, labels = points()
    x[:, 0] += 100 * labels
    np.testing.assert_allclose(lisi(neighbor_probabilities(distances(x), 12, 4), labels), 1)
