"""Denoising before ComBat: what it changes, and what it leaves to ComBat."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from baselines.combat import Combat
from baselines.denoise import DenoisedCombat
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.data.toy import ToyDataset

DATA = ToyDataset(n=60, shape=(17, 18))
FIT = FitContext(reference_site=DATA.reference_site)
APPLY = ApplyContext()


def test_without_denoising_it_is_combat():
    cohort = DATA.load()
    ours = DenoisedCombat(weight=0).fit(cohort, FIT).harmonize(cohort, context=APPLY)
    assert_array_equal(ours, Combat().fit(cohort, FIT).harmonize(cohort, context=APPLY))


def test_it_comes_nearer_to_the_clean_truth_by_denoising_alone():
    cohort = DATA.load()
    clean = DATA.truth(DATA.reference_site, cohort.keys, clean=True)

    def error(method) -> float:
        out = method.fit(cohort, FIT).harmonize(cohort, context=APPLY)
        inner = cohort.column("site") == DATA.reference_site
        return float(np.abs(out - clean)[inner][cohort.mask[inner]].mean())

    assert error(DenoisedCombat(weight=0.02)) < 0.95 * error(Combat())


def test_outside_the_masks_nothing_is_smoothed():
    cohort = DATA.load()
    out = DenoisedCombat(weight=0.05).fit(cohort, FIT).harmonize(cohort, context=APPLY)
    # ComBat leaves scans of the reference site alone, so these show the denoising only.
    own = cohort.subset(cohort.column("site") == DATA.reference_site)
    out = out[cohort.column("site") == DATA.reference_site]
    assert_array_equal(out[~own.mask], own.images[~own.mask])
    assert np.abs(out - own.images)[own.mask].mean() > 0.001


def test_it_loads_with_combat(tmp_path):
    cohort = DATA.load()
    method = DenoisedCombat(weight=0.01).fit(cohort, FIT)
    method.save(tmp_path)
    expected = method.harmonize(cohort, context=APPLY)
    assert_array_equal(DenoisedCombat.load(tmp_path).harmonize(cohort, context=APPLY), expected)
