"""The oracle: the truth's own rescan, and what it says where there is no truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.method import ApplyContext, FitContext
from harmbench.protocol.anchors import Oracle

DATA = ToyDataset(n=24, shape=(7, 9))
CONTEXT = ApplyContext(truth=DATA.truth)


@pytest.fixture
def oracle() -> Oracle:
    cohort = DATA.load()
    fit = FitContext(reference_site=DATA.reference_site, truth=DATA.truth)
    return Oracle().fit(cohort.only(Oracle().info.fit_sees), fit)


def test_it_declares_that_it_sees_the_truth():
    info = Oracle().info
    assert info.sees_truth and info.control and info.targets == "any"
    assert "site" in info.harmonize_sees  # a key names the site


def test_it_returns_draw_1_which_metrics_never_compare_with(oracle):
    cohort = DATA.load()
    out = oracle.harmonize(cohort, context=CONTEXT)
    assert_array_equal(out, DATA.truth("site-a", cohort.keys, draw=1))
    compared_with = DATA.truth("site-a", cohort.keys, draw=0)
    error = np.abs(out - compared_with)[cohort.mask].mean()
    assert 0.01 < error < 0.04  # two noisy scans: noise 0.02 times 2 / sqrt(pi)


def test_it_reads_no_pixel_of_its_input(oracle):
    cohort = DATA.load()
    dark = cohort.with_images(np.zeros_like(cohort.images))
    expected = oracle.harmonize(cohort, context=CONTEXT)
    assert_array_equal(oracle.harmonize(dark, context=CONTEXT), expected)


def test_other_targets(oracle):
    cohort = DATA.load()
    out = oracle.harmonize(cohort, "site-c", context=CONTEXT)
    assert_array_equal(out, DATA.truth("site-c", cohort.keys, draw=1))
    own = oracle.harmonize(cohort, "own", context=CONTEXT)
    for row, key in enumerate(cohort.keys):
        assert_array_equal(own[row], DATA.truth(key.site, [key], draw=1)[0])


def test_without_a_truth_it_is_an_error_that_says_what_to_do(oracle):
    with pytest.raises(HarmbenchError, match=r"oracle needs a data set that knows.*'phantom'"):
        oracle.harmonize(DATA.load(), context=ApplyContext())


def test_it_loads_with_its_reference_site(oracle, tmp_path):
    cohort = DATA.load()
    oracle.save(tmp_path)
    expected = oracle.harmonize(cohort, context=CONTEXT)
    assert_array_equal(Oracle.load(tmp_path).harmonize(cohort, context=CONTEXT), expected)
