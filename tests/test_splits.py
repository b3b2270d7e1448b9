from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harmbench.contracts.cohort import Cohort
from harmbench.data.splits import PARTS, Split, make_split, validation_keys
from harmbench.errors import HarmbenchError


def make_cohort(per_site: dict[str, int], travellers: int = 0, seed: int = 0) -> Cohort:
    """Subjects of given sites, then travelling ones scanned at all sites; some age, sex missing."""
    rng = np.random.default_rng(seed)
    rows = [(f"sub-{site}{i:03d}", site) for site, n in per_site.items() for i in range(n)]
    rows += [(f"sub-T{i}", site) for i in range(travellers) for site in per_site]
    names = sorted({name for name, _ in rows})
    age = dict(zip(names, rng.uniform(20, 80, len(names)), strict=True))
    sex = dict(zip(names, rng.choice(["F", "M"], len(names)).astype(object), strict=True))
    for name in rng.choice(names, 3, replace=False):
        age[name], sex[name] = np.nan, np.nan
    table = pd.DataFrame(rows, columns=["participant_id", "site"]).assign(session_id="", slice=0)
    table["age"] = table["participant_id"].map(age)
    table["sex"] = table["participant_id"].map(sex)
    images = np.zeros((len(table), 7, 8), dtype=np.float32)
    return Cohort(images, table, np.ones(images.shape, dtype=bool))


def subject_parts(cohort: Cohort, split: Split) -> pd.Series:
    parts = pd.Series(split.part).groupby(cohort.column("participant_id"))
    assert (parts.nunique() == 1).all()
    return parts.first()


@pytest.mark.parametrize("seed", range(5))
def test_three_parts_keep_subjects_whole_and_sites_at_their_shares(seed):
    cohort = make_cohort({"a": 34, "b": 60, "c": 101}, travellers=4, seed=seed)
    split = make_split(cohort, seed)
    assert not split.cross_fitting and split.reason == ""
    subject_parts(cohort, split)
    for site, n in (("a", 34), ("b", 60), ("c", 101)):
        own = (cohort.column("site") == site) & ~np.char.startswith(
            cohort.column("participant_id").astype(str), "sub-T"
        )
        counts = [np.count_nonzero(split.part[own] == part) for part in PARTS]
        assert np.abs(np.array(counts) - n * np.array([0.4, 0.3, 0.3])).max() < 4 / 3


def test_travelling_subjects_are_all_in_test():
    cohort = make_cohort({"a": 40, "b": 40}, travellers=6)
    parts = subject_parts(cohort, make_split(cohort, 3))
    assert set(parts[parts.index.str.startswith("sub-T")]) == {"test"}


@pytest.mark.parametrize("seed", range(5))
def test_age_and_sex_are_balanced_better_than_by_chance(seed):
    cohort = make_cohort({"a": 60, "b": 90}, seed=seed)
    split = make_split(cohort, seed)
    table = cohort.participants.assign(part=split.part)
    table["third"] = table.groupby("site")["age"].transform(
        lambda age: np.searchsorted(np.nanquantile(age, [1 / 3, 2 / 3]), age)
    )
    cells = table.dropna(subset=["age", "sex"]).groupby(["site", "sex", "third"])["part"]
    share = dict(zip(PARTS, (0.4, 0.3, 0.3), strict=True))
    off = [abs((own == p).sum() - len(own) * share[p]) for _, own in cells for p in PARTS]
    assert max(off) < 8 / 3  # any stretch of the dealt row: twice the bound of a beginning
    ages = table.groupby(["site", "part"])["age"].mean().unstack()
    assert (ages.max(axis=1) - ages.min(axis=1)).max() < 6  # chance: 17 / sqrt(20) * 2 or so


@pytest.mark.parametrize("sizes", [{"a": 40, "b": 50}, {"a": 9, "b": 50}])
def test_row_order_does_not_matter_and_the_seed_does(sizes):
    cohort = make_cohort(sizes, travellers=3)
    shuffled = np.random.default_rng(1).permutation(len(cohort))
    first, again = make_split(cohort, 5), make_split(cohort.subset(shuffled), 5)
    assert np.array_equal(first.part[shuffled], again.part)
    assert not np.array_equal(first.part, make_split(cohort, 6).part)


def test_a_site_is_split_the_same_whatever_the_others_hold():
    small, large = make_cohort({"a": 40, "b": 40}), make_cohort({"a": 40, "b": 40, "c": 77})
    ages = dict(zip(small.column("participant_id"), small.column("age"), strict=True))
    sexes = dict(zip(small.column("participant_id"), small.column("sex"), strict=True))
    table = large.participants
    table = table.assign(
        age=[ages.get(name, 50.0) for name in table["participant_id"]],
        sex=[sexes.get(name, "F") for name in table["participant_id"]],
    )
    large = Cohort(large.images, table, large.mask)
    common = np.isin(large.column("site"), ["a", "b"])
    assert np.array_equal(make_split(small, 0).part, make_split(large, 0).part[common])


@pytest.mark.parametrize(("n", "crossed"), [(9, True), (25, True), (32, True), (36, False)])
def test_cross_fitting_where_a_part_would_be_too_small(n, crossed):
    split = make_split(make_cohort({"a": n, "b": 50}), 0)
    assert split.cross_fitting is crossed
    assert ("site a" in split.reason) is crossed
    assert set(split.part) == (set("12345") if crossed else set(PARTS))


@pytest.mark.parametrize("seed", range(5))
def test_cross_fitting_scores_every_subject_once_by_what_has_not_seen_it(seed):
    cohort = make_cohort({"a": 5, "b": 12, "c": 6}, travellers=7, seed=seed)
    split = make_split(cohort, seed)
    subject_parts(cohort, split)
    fits = split.fits()
    assert list(fits) == ["1", "2", "3", "4", "5"]
    assert np.array_equal(
        sum(fold.test.astype(int) for fold in fits.values()), np.ones(len(cohort))
    )
    for name, fold in fits.items():
        assert np.array_equal(fold.test, split.part == name)
        assert np.array_equal(fold.fit.astype(int) + fold.probe + fold.test, np.ones(len(cohort)))
        assert set(cohort.column("site")[fold.fit]) == {"a", "b", "c"}


def test_three_part_folds_are_disjoint_and_real_images_are_the_probes():
    split = make_split(make_cohort({"a": 40, "b": 40}), 0)
    fold = split.scored()
    assert split.fits() == {}
    assert np.array_equal(fold.fit.astype(int) + fold.probe + fold.test, np.ones(80))
    assert np.array_equal(fold.real, fold.probe)


def test_travellers_alone_can_be_cross_fitted():
    cohort = make_cohort({"a": 0, "b": 0}, travellers=8)
    parts = subject_parts(cohort, make_split(cohort, 0))
    assert sorted(parts.value_counts()) == [1, 1, 2, 2, 2]


def test_a_site_that_is_too_small_is_named():
    with pytest.raises(HarmbenchError, match=r"too few subjects at: b \(3\)"):
        make_split(make_cohort({"a": 40, "b": 3}), 0)


def test_one_site_is_refused():
    with pytest.raises(HarmbenchError, match=r"1 site \(a\)"):
        make_split(make_cohort({"a": 40}), 0)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(HarmbenchError, match="sum 1"):
        make_split(make_cohort({"a": 40, "b": 40}), 0, fractions)


def test_validation_is_a_tenth_of_the_subjects_whole_and_spread_over_sites():
    cohort = make_cohort({"a": 40, "b": 60}, travellers=5)
    keys = validation_keys(cohort, seed=2)
    subjects = {key.participant_id for key in keys}
    assert len(subjects) == round(0.1 * 105)
    assert keys == sorted(key for key in cohort.keys if key.participant_id in subjects)
    assert {key.site for key in keys} == {"a", "b"}
    assert keys != validation_keys(cohort, seed=3)


def test_validation_needs_no_covariates_and_no_order():
    cohort = make_cohort({"a": 20, "b": 30})
    blind = cohort.only({"site"}).subset(np.arange(len(cohort))[::-1])
    assert validation_keys(blind, seed=0) == validation_keys(cohort, seed=0)


def test_validation_never_takes_a_sites_only_subject():
    cohort = make_cohort({"a": 1, "b": 12})
    taken = {key.site for seed in range(40) for key in validation_keys(cohort, seed, 0.5)}
    assert taken == {"b"}
