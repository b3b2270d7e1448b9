"""Weighted slopes against numpy's and scipy's least squares."""

from __future__ import annotations

import numpy as np
from scipy.stats import linregress

from harmbench.protocol.leakage.slopes import weighted_slope

RNG = np.random.default_rng(0)
X = RNG.normal(50, 10, 60)
Y = 0.3 * X + RNG.normal(0, 5, (3, 60))
GROUPS = np.repeat(["a", "b", "c"], [10, 20, 30])
WEIGHTS = RNG.integers(0, 4, (7, 60)).astype(float)


def test_one_intercept_agrees_with_linregress() -> None:
    found = weighted_slope(X, Y, np.ones((1, 60)))
    np.testing.assert_allclose(found[0], [linregress(X, row).slope for row in Y])


def test_weights_are_repetitions_and_groups_have_their_own_intercepts() -> None:
    found = weighted_slope(X, Y, WEIGHTS, GROUPS)
    dummies = (GROUPS[:, None] == np.unique(GROUPS)).astype(float)
    for b, weights in enumerate(WEIGHTS):
        rows = np.repeat(np.arange(60), weights.astype(int))
        design = np.column_stack([X, dummies])[rows]
        expected = np.linalg.lstsq(design, Y[:, rows].T, rcond=None)[0][0]
        np.testing.assert_allclose(found[b], expected)


def test_without_spread_there_is_no_slope() -> None:
    constant = np.where(GROUPS == "a", 1.0, 2.0)
    assert np.isnan(weighted_slope(constant, Y, WEIGHTS, GROUPS)).all()
