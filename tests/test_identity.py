import numpy as np
import pandas as pd
import pytest

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.protocol.individuals.identification import (
    AGE_RANGE,
    GALLERY,
    Match,
    entries,
    identification,
    identification_margin,
    identify,
    similar_people,
)

SHAPE = (7, 8)
SITES = ("ash", "birch", "cedar")


def rng(seed=0):
    return np.random.default_rng(seed)


def cohort(n=90, travelling=0, seed=0):
    """`n` people dealt to three sites; the first `travelling` were scanned at all of them."""
    people = pd.DataFrame(
        {
            "participant_id": [f"p{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "age": rng(seed).uniform(30, 60, n),
            "sex": np.where(np.arange(n) % 2, "F", "M"),
        }
    )
    home = np.array(SITES)[np.arange(n) % 3]
    scans = [people[(home == s) | (np.arange(n) < travelling)].assign(site=s) for s in SITES]
    table = pd.concat(scans, ignore_index=True)
    mask = np.ones((len(table), *SHAPE), bool)
    mask[:, 0] = False
    return Cohort(np.zeros(mask.shape, np.float32), table, mask)


def faces(test, noise, seed=1):
    """Every person's own image, the same at all sites, plus the noise of each scan."""
    _, who = np.unique(test.column("participant_id"), return_inverse=True)
    own = rng(7).normal(size=(who.max() + 1, *SHAPE))[who]
    return test.with_images(own + noise * rng(seed).normal(size=own.shape))


def inputs(test, noise, **more):
    products = {"harmonized.test": faces(test, noise), "truth.test": faces(test, 0.1, seed=2)}
    return MetricInputs(products | more, "ash")


def travellers_only(test, noise):
    return MetricInputs({"harmonized.test": faces(test, noise)}, "ash")


def match_of(distances, others=None):
    d = np.asarray(distances, float)
    n = d.shape[1]
    if others is None:
        others = np.array([[j for j in range(n) if j != i] for i in range(len(d))])
    return Match(d, np.arange(len(d)), np.asarray(others))


def test_rank1_and_margin_of_known_distances():
    d = np.full((6, 6), 3.0)
    np.fill_diagonal(d, [1.0, 3.0, 5.0, 0.0, 2.0, 2.0])
    d[4, 0] = d[5, 0] = 1.0
    d[5, 1] = 0.5
    found = identify(match_of(d))
    np.testing.assert_allclose(found.rank1, [1, 1 / 6, 0, 1, 0, 0])
    np.testing.assert_allclose(found.margin, [0.5, 0, -0.25, 1, -1 / 3, -0.6])
    assert (found.size == 6).all()


def test_equal_images_are_at_chance_with_margin_zero():
    found = identify(match_of(np.zeros((8, 8))))
    np.testing.assert_allclose(found.rank1, 1 / 8)
    np.testing.assert_allclose(found.margin, 0)


def test_absent_people_are_in_no_gallery_and_too_few_others_are_no_answer():
    d = np.full((7, 7), 3.0)
    np.fill_diagonal(d, 2.0)
    d[:, 0] = 1.0
    there = np.arange(7) != 0
    assert np.nansum(identify(match_of(d)).rank1[1:]) == 0
    found = identify(match_of(d), there)
    assert np.isnan(found.rank1[0]) and (found.rank1[1:] == 1).all()
    few = identify(match_of(d), np.arange(7) < 4)
    assert np.isnan(few.rank1).all() and np.isnan(few.margin).all()


def test_gallery_holds_the_nearest_in_age_only():
    n = GALLERY + 5
    d = np.full((1, n), 9.0)
    d[0, 0] = 2.0
    nearest_first = np.arange(1, n)[None]
    d[0, GALLERY - 1] = 1.0
    assert identify(match_of(d, nearest_first)).rank1 == [0]
    d[0, GALLERY - 1], d[0, GALLERY] = 9.0, 1.0
    found = identify(match_of(d, nearest_first))
    assert found.rank1 == [1] and found.size == [GALLERY]


def test_similar_people_are_of_the_same_sex_and_age_and_others():
    found = entries(cohort(60))
    others = similar_people(found, found)
    for i, row in enumerate(others):
        chosen = row[row >= 0]
        gaps = np.abs(found.ages[chosen] - found.ages[i])
        expected = (
            (found.sexes == found.sexes[i])
            & (np.abs(found.ages - found.ages[i]) <= AGE_RANGE)
            & (found.subjects != found.subjects[i])
        )
        assert set(chosen) == set(np.flatnonzero(expected))
        assert (np.diff(gaps) >= 0).all()
    assert (others >= 0).any(axis=1).all()


def test_unknown_age_or_sex_is_similar_to_nobody():
    test = cohort(60)
    table = test.participants
    test = test.with_covariates(
        age=table["age"].where(table.index != 3), sex=table["sex"].where(table.index != 5)
    )
    found = entries(test)
    others = similar_people(found, found)
    strange = np.isin(found.subjects, table["participant_id"][[3, 5]])
    assert (others[strange] == -1).all()
    assert not np.isin(others[~strange], np.flatnonzero(strange)).any()


def test_entries_take_the_first_session_and_the_shared_slices():
    table = pd.DataFrame(
        [("b", "s1", 0), ("b", "s1", 4), ("a", "s2", 0), ("a", "s1", 4), ("a", "s1", 0)],
        columns=["participant_id", "session_id", "slice"],
    ).assign(site="ash", age=40.0, sex="F")
    images = np.zeros((5, 7, 8), np.float32)
    found = entries(Cohort(images, table, images == 0))
    assert found.subjects.tolist() == ["a", "b"]
    assert found.rows.tolist() == [[4, 3], [0, 1]]


@pytest.mark.parametrize("given", [inputs, travellers_only])
def test_less_noise_identifies_better(given):
    test = cohort(60, travelling=30)
    for measure in (identification, identification_margin):
        values = [measure(given(test, noise), rng()).overall.value for noise in (0.1, 1.5, 50)]
        assert values[0] > values[1] > values[2]
    assert identification(given(test, 0.1), rng()).overall.value == 1
    result = identification(given(test, 50), rng())
    assert result.overall.low < result.floors["chance"] < result.overall.high


def test_probes_are_of_other_sites_and_travellers_are_found_at_the_reference_site():
    test = cohort(60, travelling=20)
    with_truth = identification(inputs(test, 1.0), rng())
    assert set(with_truth.groups) == {"birch", "cedar"}
    travelled = identification(travellers_only(test, 1.0), rng())
    assert set(travelled.per_scan["participant_id"]) <= {f"p{i:03d}" for i in range(20)}
    assert len(travelled.per_scan) == 2 * travelled.overall.n > 30
    assert "travelling" in travelled.note and "rescans" in with_truth.note


def test_neither_truth_nor_travellers_is_a_skip():
    reason = identification(travellers_only(cohort(60), 0.1), rng()).reason
    assert "0 scans" in reason and "travelling subjects" in reason
    assert identification(travellers_only(cohort(90, travelling=4), 0.1), rng()).overall is None


def test_voxels_outside_all_masks_do_not_count():
    test = cohort(60)
    given = inputs(test, 1.0)
    painted = given.cohort("harmonized.test")
    images = painted.images.copy()
    images[:, 0] = rng(5).normal(0, 100, images[:, 0].shape)
    other = MetricInputs({**given.products, "harmonized.test": painted.with_images(images)}, "ash")
    for measure in (identification, identification_margin):
        assert measure(other, rng()).overall == measure(given, rng()).overall


def test_order_of_the_rows_does_not_matter():
    given = inputs(cohort(60), 1.0)
    order = rng(4).permutation(60)
    shuffled = {name: c.subset(order) for name, c in given.products.items()}
    for measure in (identification, identification_margin):
        expected = measure(given, rng()).overall
        got = measure(MetricInputs(shuffled, "ash"), rng()).overall
        assert (got.value, got.low) == pytest.approx((expected.value, expected.low))


def test_target_is_the_oracle_and_the_error_is_about_that_of_other_people():
    values, errors = [], []
    for seed in range(12):
        test = cohort(90, seed=seed)
        test = test.with_covariates(participant_id=[f"p{seed}{i:03d}" for i in range(90)])
        _, who = np.unique(test.column("participant_id"), return_inverse=True)
        own = rng(100 + seed).normal(size=(90, *SHAPE))[who]
        scans = [
            test.with_images(own + s * rng(k + seed).normal(size=own.shape))
            for k, s in ((200, 2.0), (300, 0.1), (400, 0.1))
        ]
        names = ("harmonized.test", "truth.test", "oracle:harmonized.test")
        result = identification(MetricInputs(dict(zip(names, scans, strict=True)), "ash"), rng())
        assert result.target == 1
        values.append(result.overall.value)
        errors.append(result.replicates.std(ddof=1))
    assert 0.3 < np.mean(values) < 0.98
    assert 0.5 < np.mean(errors) / np.std(values, ddof=1) < 2
