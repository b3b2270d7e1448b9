"""ComBat: agreement with neuroHarmonize, known answers, and a policy for each of its silences."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from baselines import combat as combat_module
from baselines.combat import Combat, combat_nocov
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.errors import HarmbenchError

REFERENCE = "b"
FIT = FitContext(reference_site=REFERENCE)
APPLY = ApplyContext()
SLOPE = 0.004


def simulated(n=240, shape=(5, 6), seed=0, confounding=0.0, curve=0.0):
    """Sites a, b, c with shift and scale per voxel, an age slope of SLOPE and a sex difference.

    The last row of voxels lies outside every mask.
    """
    rng = np.random.default_rng(seed)
    site = np.array(["a", "b", "c"])[np.arange(n) % 3]
    age = rng.uniform(20, 70, n) + confounding * (np.arange(n) % 3)
    sex = np.where(rng.random(n) < 0.5, "F", "M")
    person = 0.05 * rng.standard_normal((n, *shape))
    clean = 0.5 + person + (SLOPE * (age - 45) + 0.03 * (sex == "M"))[:, None, None]
    clean = clean + (curve * ((age - 45) / 25) ** 2)[:, None, None]
    shift = {s: 0.1 * rng.standard_normal(shape) for s in "ac"} | {"b": np.zeros(shape)}
    scale = {"a": 1.5, "b": 1.0, "c": 0.6}
    mean = clean - person
    seen = np.stack([mean[i] + scale[s] * person[i] + shift[s] for i, s in enumerate(site)])
    mask = np.ones((n, *shape), dtype=bool)
    mask[:, -1] = False
    table = pd.DataFrame(
        {
            "participant_id": [f"p{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": site,
            "age": age,
            "sex": sex,
        }
    )
    return Cohort(seen.astype(np.float32), table, mask), clean


def harmonized(cohort, *, method=None, apply_to=None):
    fitted = (method or Combat()).fit(cohort, FIT)
    return fitted.harmonize(apply_to or cohort, context=APPLY)


def with_voxel(cohort, values, rows=slice(None), voxel=(1, 2)):
    images = cohort.images.copy()
    images[(rows, *voxel)] = values
    return cohort.with_images(images)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of the direct call
@pytest.mark.parametrize("eb", [True, False])
def test_agrees_with_a_direct_call_on_clean_data(eb):
    pytest.importorskip("neuroHarmonize", reason="it needs numpy below 2")
    from neuroHarmonize import harmonizationApply, harmonizationLearn

    train, test = simulated()[0], simulated(n=90, seed=1)[0]
    inside = train.mask[0]
    tables = [
        pd.DataFrame(
            {
                "SITE": c.column("site"),
                "age": c.column("age"),
                "sex": (c.column("sex") == "M").astype(float),
            }
        )
        for c in (train, test)
    ]
    model, _ = harmonizationLearn(
        train.images[:, inside].astype(float), tables[0], eb=eb, ref_batch=REFERENCE
    )
    expected = harmonizationApply(test.images[:, inside].astype(float), tables[1], model)
    out = harmonized(train, method=Combat(eb=eb), apply_to=test)
    assert_allclose(out[:, inside], expected, atol=2e-6)


CASES = {
    "eb": Combat(),
    "no eb": Combat(eb=False),
    "no covariates": combat_nocov(),
    "age spline": Combat(age_basis=4),
    "sex": Combat(covariates=("sex",)),
}
KNOWN = Path(__file__).parent / "known" / "combat.npz"
"""What neuroHarmonize 2.5.2 makes of these cases; rewritten by this file, run as a program."""


def answers() -> dict[str, np.ndarray]:
    """Return some harmonized voxels of every case, in double precision."""
    train, test = simulated()[0], simulated(n=90, seed=1)[0]
    found = {}
    for name, method in CASES.items():
        fitted = type(method)(**method.params()).fit(train, FIT)
        table = fitted._table(test, test.column("site").astype(str), FIT.log)
        values = test.images[:, fitted.voxels]
        found[name] = fitted._apply(values, table, FIT.log)[::7, ::5]
    one = np.zeros_like(train.mask)
    one[:, 1, 1] = True
    single = replace(train, mask=one)
    fitted = Combat().fit(single, FIT)
    table = fitted._table(test, test.column("site").astype(str), FIT.log)
    found["one voxel"] = fitted._apply(test.images[:, fitted.voxels], table, FIT.log)[::7]
    return found


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_known_answers_of_neuroharmonize(own, in_blocks, monkeypatch):
    if not own and not combat_module.HAS_NEUROHARMONIZE:
        pytest.skip("neuroHarmonize is not installed")
    monkeypatch.setattr(combat_module, "HAS_NEUROHARMONIZE", not own)
    if in_blocks:
        monkeypatch.setattr(combat_module, "VALUES_AT_ONCE", 2000)
    with np.load(KNOWN) as known:
        found = answers()
        assert set(known) == set(found)
        for name, values in found.items():
            assert_allclose(values, known[name], atol=1e-8, rtol=0, err_msg=name)


def test_removes_location_and_scale_and_keeps_age_and_sex():
    cohort, _ = simulated(n=900, confounding=10.0)
    out = harmonized(cohort)[:, :-1]
    age, site = cohort.column("age"), cohort.column("site")
    sex = (cohort.column("sex") == "M").astype(float)
    design = np.column_stack([age, sex, *(site == s for s in "abc")])
    coefficients, *_ = np.linalg.lstsq(design, out.reshape(len(out), -1), rcond=None)
    assert_allclose(coefficients[0], SLOPE, rtol=0.12)
    assert_allclose(coefficients[0].mean(), SLOPE, rtol=0.02)
    assert_allclose(coefficients[1].mean(), 0.03, atol=0.003)
    assert_allclose(coefficients[2:] - coefficients[3], 0.0, atol=0.015)
    residual = out.reshape(len(out), -1) - design @ coefficients
    spread = np.array([residual[site == s].std(axis=0).mean() for s in "abc"])
    assert_allclose(spread, 0.05, rtol=0.05)


def test_without_covariates_it_erases_what_the_populations_differ_in():
    cohort, _ = simulated(n=900, confounding=20.0)
    age, site = cohort.column("age"), cohort.column("site")
    gaps = {}
    for name, method in {"kept": Combat(), "nocov": combat_nocov()}.items():
        level = harmonized(cohort, method=method)[:, :-1].mean(axis=(1, 2))
        gaps[name] = level[site == "c"].mean() - level[site == "a"].mean()
    true = SLOPE * (age[site == "c"].mean() - age[site == "a"].mean())
    assert gaps["kept"] == pytest.approx(true, rel=0.1)
    assert abs(gaps["nocov"]) < 0.1 * true


def test_reference_site_and_background_pass_through_unchanged():
    cohort, _ = simulated()
    out = harmonized(cohort)
    own = cohort.column("site") == REFERENCE
    assert_array_equal(out[own], cohort.images[own])
    assert_array_equal(out[:, -1], cohort.images[:, -1])
    assert np.abs(out[~own][:, :-1] - cohort.images[~own][:, :-1]).mean() > 0.01


@pytest.mark.parametrize("rows", ["everywhere", "a", "b"])
def test_a_voxel_constant_in_a_site_passes_through_and_harms_no_other(rows):
    cohort, _ = simulated()
    where = slice(None) if rows == "everywhere" else np.flatnonzero(cohort.column("site") == rows)
    broken = with_voxel(cohort, 0.25, where)
    out = harmonized(broken)
    assert np.isfinite(out).all()
    assert_array_equal(out[:, 1, 2], broken.images[:, 1, 2])
    masked = Cohort(cohort.images, cohort.participants, cohort.mask.copy())
    masked.mask[:, 1, 2] = False
    without = harmonized(masked)
    others = np.ones(cohort.shape, dtype=bool)
    others[1, 2] = False
    assert_array_equal(out[:, others], without[:, others])


def test_a_voxel_in_few_masks_of_a_site_passes_through():
    cohort, _ = simulated()
    rows = np.flatnonzero(cohort.column("site") == "c")
    rare = Cohort(cohort.images, cohort.participants, cohort.mask.copy())
    rare.mask[rows[4:], 1, 2] = False  # in 4 of 80 masks: exactly the default share
    assert not np.allclose(harmonized(rare)[:, 1, 2], cohort.images[:, 1, 2])
    rare.mask[rows[3], 1, 2] = False
    assert_array_equal(harmonized(rare)[:, 1, 2], cohort.images[:, 1, 2])
    out = harmonized(rare, method=Combat(coverage=0.0))
    assert not np.allclose(out[:, 1, 2], cohort.images[:, 1, 2])
    with pytest.raises(HarmbenchError, match="coverage is 5; it is a share"):
        Combat(coverage=5).fit(cohort, FIT)


def test_no_varying_voxel_at_all_passes_through_with_a_warning(caplog):
    cohort, _ = simulated(n=30)
    flat = cohort.with_images(np.full_like(cohort.images, 0.5))
    with caplog.at_level(logging.WARNING, logger="harmbench"):
        out = harmonized(flat)
    assert_array_equal(out, flat.images)
    assert "no voxel varies" in caplog.text


def test_values_that_are_not_finite_are_an_error_at_both_stages():
    cohort, _ = simulated()
    broken = with_voxel(cohort, np.nan, 7)
    with pytest.raises(HarmbenchError, match=r"1 images hold values that are not finite.*p007"):
        Combat().fit(broken, FIT)
    with pytest.raises(HarmbenchError, match="not finite"):
        harmonized(cohort, apply_to=broken)


def test_a_site_with_one_subject_is_an_error():
    cohort, _ = simulated()
    site = cohort.column("site").copy()
    site[[0, 3]] = "lonely"
    twice = cohort.column("participant_id").copy()
    twice[3] = twice[0]
    with pytest.raises(HarmbenchError, match=r"two or more subjects.*lonely"):
        Combat().fit(cohort.with_covariates(site=site, participant_id=twice), FIT)
    assert np.isfinite(harmonized(cohort.with_covariates(site=site))).all()


def test_an_unseen_site_is_named_with_the_sites_of_the_fit():
    cohort, _ = simulated()
    site = cohort.column("site").copy()
    site[[2, 4]] = "zurich"
    with pytest.raises(HarmbenchError, match=r"sites a, b, c.* 2 scans of: zurich"):
        harmonized(cohort, apply_to=cohort.with_covariates(site=site))


def test_missing_sites_single_rows_and_blocks_of_rows_change_nothing(monkeypatch):
    cohort, _ = simulated()
    method = Combat().fit(cohort, FIT)
    full = method.harmonize(cohort, context=APPLY)
    only_c = np.flatnonzero(cohort.column("site") == "c")
    out = method.harmonize(cohort.subset(only_c), context=APPLY)
    assert_allclose(out, full[only_c], atol=1e-6)
    for row in (0, 1, 2):
        alone = method.harmonize(cohort.subset([row]), context=APPLY)
        assert_allclose(alone, full[[row]], atol=1e-6)
    monkeypatch.setattr(combat_module, "ROWS_AT_ONCE", 7)
    assert_allclose(method.harmonize(cohort, context=APPLY), full, atol=1e-6)


def test_neither_the_order_of_columns_nor_further_columns_matter():
    cohort, _ = simulated()
    method = Combat().fit(cohort, FIT)
    expected = method.harmonize(cohort, context=APPLY)
    table = cohort.participants.iloc[:, ::-1].assign(a_further_one=3.0)
    turned = Cohort(cohort.images, table, cohort.mask)
    assert_array_equal(method.harmonize(turned, context=APPLY), expected)
    assert_array_equal(harmonized(turned), expected)


def test_an_unknown_reference_site_is_an_error():
    cohort, _ = simulated()
    with pytest.raises(HarmbenchError, match=r"unknown reference site 'B'.*a, b, c"):
        Combat().fit(cohort, FitContext(reference_site="B"))


def test_a_constant_covariate_is_dropped_with_a_line_in_the_log(caplog):
    cohort, _ = simulated()
    women = cohort.with_covariates(sex=np.full(len(cohort), "F"))
    with caplog.at_level(logging.WARNING, logger="harmbench"):
        out = harmonized(women)
    assert "covariate sex" in caplog.text and "dropped" in caplog.text
    assert_array_equal(out, harmonized(women, method=Combat(covariates=("age",))))


def test_a_covariate_that_site_determines_is_an_error():
    cohort, _ = simulated()
    sex = np.where(cohort.column("site") == "a", "F", "M")
    with pytest.raises(HarmbenchError, match="cannot tell covariate 'sex' from site"):
        Combat().fit(cohort.with_covariates(sex=sex), FIT)


def test_a_sex_that_is_neither_f_nor_m_is_an_error():
    cohort, _ = simulated()
    with pytest.raises(HarmbenchError, match="covariate 'sex' is 'female' in row 0; it must be F"):
        Combat().fit(cohort.with_covariates(sex=np.full(len(cohort), "female")), FIT)


def test_missing_ages_are_left_out_of_the_fit_and_become_the_median_after_it(caplog):
    cohort, _ = simulated()
    age = cohort.column("age").copy()
    age[:12] = np.nan
    holes = cohort.with_covariates(age=age)
    with caplog.at_level(logging.INFO, logger="harmbench"):
        method = Combat().fit(holes, FIT)
    assert "12 scans without a covariate are left out" in caplog.text
    complete = Combat().fit(holes.subset(np.arange(12, len(cohort))), FIT)
    for name in combat_module.APPLIED:
        assert_array_equal(method.model[name], complete.model[name])
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="harmbench"):
        out = method.harmonize(holes, context=APPLY)
    assert "12 scans without age" in caplog.text
    assumed = holes.with_covariates(age=np.where(np.isnan(age), np.nanmedian(age), age))
    assert_array_equal(out, method.harmonize(assumed, context=APPLY))


def test_what_neuroharmonize_prints_goes_to_the_log(capsys, caplog):
    cohort, _ = simulated()
    mask = np.zeros_like(cohort.mask)
    mask[:, 1, 2] = True
    one_voxel = Cohort(cohort.images, cohort.participants, mask)
    with caplog.at_level(logging.INFO, logger="harmbench"):
        out = harmonized(one_voxel)
    assert capsys.readouterr().out == ""
    said = "neuroHarmonize: [neuroHarmonize]: Bypassing"
    assert (said if combat_module.HAS_NEUROHARMONIZE else "only one voxel varies") in caplog.text
    assert not np.allclose(out[:, 1, 2], cohort.images[:, 1, 2])


@pytest.mark.parametrize("method", [Combat(age_basis=4), Combat(eb=False), combat_nocov()])
def test_saves_and_loads_exactly(method, tmp_path):
    cohort, _ = simulated()
    fitted = method.fit(cohort, FIT)
    fitted.save(tmp_path)
    again = Combat.load(tmp_path)
    assert again.params() == fitted.params() and again.info == fitted.info
    expected = fitted.harmonize(cohort, context=APPLY)
    assert_array_equal(again.harmonize(cohort, context=APPLY), expected)


def test_the_age_basis_keeps_a_curve_that_a_line_erases():
    cohort, clean = simulated(n=900, confounding=15.0, curve=0.2)
    errors = {}
    for columns in (0, 5):
        out = harmonized(cohort, method=Combat(age_basis=columns))[:, :-1]
        bias = (out - clean[:, :-1]).reshape(len(out), -1).mean(axis=1)
        errors[columns] = max(abs(bias[cohort.column("site") == s].mean()) for s in ("a", "c"))
    assert errors[5] < 0.01
    assert errors[0] > 2 * errors[5]


def test_the_age_basis_is_clamped_outside_the_ages_of_the_fit():
    cohort, _ = simulated()
    method = Combat(age_basis=4).fit(cohort, FIT)
    outs = [
        method.harmonize(cohort.with_covariates(age=np.full(len(cohort), age)), context=APPLY)
        for age in (cohort.column("age").max(), 150.0)
    ]
    assert_array_equal(outs[0], outs[1])


def test_a_spline_of_too_few_columns_is_an_error():
    with pytest.raises(HarmbenchError, match="age_basis is 2; choose 0"):
        Combat(age_basis=2).fit(simulated()[0], FIT)


def test_one_site_alone_is_the_reference_and_stays_as_it_is():
    cohort, _ = simulated()
    alone = cohort.subset(cohort.column("site") == REFERENCE)
    assert_array_equal(harmonized(alone), alone.images)


def test_only_the_reference_site_is_a_target():
    cohort, _ = simulated()
    method = Combat().fit(cohort, FIT)
    for target in ("a", "own"):
        with pytest.raises(HarmbenchError, match="only to the reference site of its fit, 'b'"):
            method.harmonize(cohort, target, context=APPLY)


def test_a_variant_declares_what_it_sees():
    assert Combat().info.fit_sees == {"site", "age", "sex"}
    assert Combat(covariates=["age"]).info.harmonize_sees == {"site", "age"}
    control = combat_nocov().info
    assert control.fit_sees == control.harmonize_sees == {"site"}
    assert control.name == "combat-nocov" and control.control
    assert not Combat().info.control


@pytest.mark.parametrize("eb", [True, False])
@pytest.mark.parametrize("voxels", [1, 7, 16])
def test_blocks_of_voxels_learn_what_neuroharmonize_learns_from_all(monkeypatch, eb, voxels):
    cohort, _ = simulated(n=123, shape=(6, 7), confounding=5.0)
    whole = Combat(eb=eb).fit(cohort, FIT)
    monkeypatch.setattr(combat_module, "VALUES_AT_ONCE", voxels * len(cohort))
    blocked = Combat(eb=eb).fit(cohort, FIT)
    assert_array_equal(blocked.voxels, whole.voxels)
    for name in combat_module.APPLIED:
        assert_allclose(blocked.model[name], whole.model[name], rtol=1e-9, atol=1e-11)
    images = (one.harmonize(cohort, context=APPLY) for one in (whole, blocked))
    assert_allclose(*images, rtol=0, atol=1e-6)


def test_blocks_shrunk_one_by_one_would_be_another_method(monkeypatch):
    cohort, _ = simulated(n=123, shape=(6, 7))
    whole = Combat().fit(cohort, FIT).model["gamma_star"]
    parts = []
    for columns in np.array_split(np.arange(6 * 7 - 7), 5):
        part = np.zeros(6 * 7, dtype=bool)
        part[columns] = True
        mask = cohort.mask & part.reshape(6, 7)
        parts.append(Combat().fit(Cohort(cohort.images, cohort.participants, mask), FIT))
    apart = np.concatenate([one.model["gamma_star"] for one in parts], axis=1)
    assert np.abs(apart - whole).max() > 1e-3


if __name__ == "__main__":
    KNOWN.parent.mkdir(exist_ok=True)
    np.savez_compressed(KNOWN, **answers())
