"""The oracle and the doses: rescans, mixtures, and what they say where there is no truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.protocol.truth.oracle import Dose, Oracle

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


@pytest.mark.parametrize("target", [None, "own", "site-b"])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_a_dose_mixes_the_image_with_the_rescan_of_the_same_target(oracle, alpha, target):
    cohort = DATA.load()
    dose = Dose(alpha).fit(cohort, FitContext(reference_site=DATA.reference_site))
    rescans = oracle.harmonize(cohort, target, context=CONTEXT)
    out = dose.harmonize(cohort, target, context=CONTEXT)
    assert out.dtype == np.float32
    assert_allclose(out, alpha * cohort.images + (1 - alpha) * rescans, atol=1e-6)


def test_a_dose_says_its_share_and_keeps_it(tmp_path):
    cohort = DATA.load()
    dose = Dose(0.75).fit(cohort, FitContext(reference_site="site-b"))
    assert dose.info.name == "dose-0.75" and dose.info.sees_truth and dose.info.control
    dose.save(tmp_path)
    expected = dose.harmonize(cohort, context=CONTEXT)
    assert_array_equal(Dose.load(tmp_path).harmonize(cohort, context=CONTEXT), expected)


def test_a_dose_outside_its_range_and_without_a_truth_is_an_error():
    with pytest.raises(HarmbenchError, match=r"alpha is 1\.5; give a share from 0 to 1"):
        Dose(1.5)
    dose = Dose().fit(DATA.load(), FitContext(reference_site="site-a"))
    with pytest.raises(HarmbenchError, match=r"dose-0\.5 needs a data set that knows"):
        dose.harmonize(DATA.load(), context=ApplyContext())
