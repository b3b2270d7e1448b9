"""The supervised ceiling: between ComBat and the oracle, and honest about what it has seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from baselines.combat import Combat
from harmbench.checks import method_checks
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.data.phantom import phantom_dev
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.protocol.truth.ceiling import Ceiling
from harmbench.protocol.truth.local_regression import apply_local, fit_local

TOY = ToyDataset(n=60, shape=(7, 9))
APPLY = ApplyContext()


def fitted(data, rows=slice(None), **params) -> Ceiling:
    cohort = data.load()
    fit = cohort.subset(np.arange(len(cohort))[rows])
    context = FitContext(reference_site=data.reference_site, truth=data.truth)
    return Ceiling(**params).fit(fit.only({"site"}), context)


def test_it_keeps_the_contract():
    results = method_checks(Ceiling, TOY.load(), truth=TOY.truth)
    assert {r.name: r.detail for r in results if not r.passed} == {}


def test_on_unseen_subjects_it_is_better_than_combat_and_worse_than_a_rescan():
    data = phantom_dev(n=240, n_sites=3, size=32)
    cohort = data.load()
    fit, test = cohort.subset(np.arange(160)), cohort.subset(np.arange(160, 240))
    truth = data.truth(data.reference_site, test.keys)
    other = test.column("site") != data.reference_site

    def error(images) -> float:
        return float(np.abs(images - truth)[other][test.mask[other]].mean())

    context = FitContext(reference_site=data.reference_site, truth=data.truth)
    ours = error(Ceiling().fit(fit, context).harmonize(test, context=APPLY))
    combat = error(Combat().fit(fit, context).harmonize(test, context=APPLY))
    rescan = error(data.truth(data.reference_site, test.keys, draw=1))
    assert rescan < ours < 0.8 * combat < combat < error(test.images)


def test_it_sees_no_truth_when_it_harmonizes_and_reads_its_input():
    method = fitted(TOY, slice(40))
    test = TOY.load().subset(np.arange(40, 60)).only({"site"})
    out = method.harmonize(test, context=APPLY)
    brighter = method.harmonize(test.with_images(test.images + 0.1), context=APPLY)
    assert not np.allclose(out, brighter, atol=1e-3)


def test_a_local_rule_that_differs_from_pixel_to_pixel_is_recovered():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (300, 7, 8)).astype(np.float32)
    gain = rng.uniform(0.5, 1.5, (7, 8))
    left = np.roll(images, 1, axis=2)
    left[:, :, 0] = 0
    answers = (gain * images + 0.2 * left + 0.3 * images**2 - 0.1).astype(np.float32)
    weights = fit_local(images[:200], answers[:200], side=3, ridge=1e-6)
    assert weights.shape == (7, 8, 3 * 3 + 3 + 1)
    assert_allclose(apply_local(images[200:], weights), answers[200:], atol=1e-3)


def test_a_large_penalty_leaves_a_shift():
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 1, (50, 7, 9)).astype(np.float32)
    answers = (0.5 * images).astype(np.float32)
    weights = fit_local(images, answers, side=3, ridge=1e9)
    shift = (answers - images).mean(0)
    assert_allclose(apply_local(images, weights), images + shift, atol=1e-5)


def test_it_loads_with_its_weights(tmp_path):
    method = fitted(TOY)
    cohort = TOY.load()
    method.save(tmp_path)
    expected = method.harmonize(cohort, context=APPLY)
    assert_array_equal(Ceiling.load(tmp_path).harmonize(cohort, context=APPLY), expected)


def test_errors_say_what_to_do():
    with pytest.raises(HarmbenchError, match="ceiling needs a data set that knows"):
        Ceiling().fit(TOY.load(), FitContext(reference_site="site-a"))
    with pytest.raises(HarmbenchError, match="odd side"):
        Ceiling(side=4)
    context = FitContext(reference_site="site-z", truth=TOY.truth)
    with pytest.raises(HarmbenchError, match="site-z"):
        Ceiling().fit(TOY.load(), context)
    strangers = TOY.load().with_covariates(site="elsewhere")
    with pytest.raises(HarmbenchError, match="cannot harmonize scans of: elsewhere"):
        fitted(TOY).harmonize(strangers, context=APPLY)
    with pytest.raises(HarmbenchError, match="only to the reference site"):
        fitted(TOY).harmonize(TOY.load(), "own", context=APPLY)
