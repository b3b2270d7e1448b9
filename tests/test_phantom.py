"""The phantom: purity, monotone biology, knobs that do what they say, and frozen numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harmbench.contracts.cohort import RowKey
from harmbench.data.phantom import Phantom, effect_maps, phantom_dev
from harmbench.data.phantom.anatomy import make_grid, tissue, ventricle_area
from harmbench.data.phantom.scanner import T1, PulseSequence, signal
from harmbench.data.phantom.subjects import demography
from harmbench.errors import HarmbenchError

SMALL = {"n": 40, "n_sites": 3, "size": 32}


@pytest.fixture(scope="module")
def small():
    phantom = Phantom(**SMALL, travelling=4)
    return phantom, phantom.load()


def in_mask(difference, cohort, rows=slice(None)):
    return float(np.abs(difference)[rows][cohort.mask[rows]].mean())


def eta_squared(age, site):
    means = {s: age[site == s].mean() for s in np.unique(site)}
    return np.var([means[s] for s in site]) / np.var(age)


# ------------------------------------------------------------------------------ purity


def test_images_are_scaled_masked_and_plausible(small):
    _, cohort = small
    assert cohort.images.dtype == np.float32
    assert cohort.images.shape == (40 + 4 * 2, 32, 32)
    assert cohort.images.min() >= 0 and cohort.images.max() <= 1
    share = cohort.mask.mean((1, 2))
    assert np.all((share > 0.3) & (share < 0.7))
    assert np.all(cohort.images[:, [0, -1]] == 0)
    tops = [np.percentile(i[m], 99.5) for i, m in zip(cohort.images, cohort.mask, strict=True)]
    np.testing.assert_allclose(tops, 1, atol=0.01)


def test_axes_are_right_and_anterior(small):
    """The field of view is centered on the brain, which is longer from back to front."""
    _, cohort = small
    mean = cohort.mask.mean(0)
    assert (mean.max(0) > 0.5).sum() > 1.15 * (mean.max(1) > 0.5).sum()
    # The two frontal lobes are narrower than the parietal part behind the middle.
    width = mean.sum(0)
    half = len(width) // 2
    assert width[:half].sum() > width[half:].sum()


def test_subject_does_not_depend_on_n_order_or_company(small):
    phantom, cohort = small
    more = Phantom(**{**SMALL, "n": 61}).load()
    np.testing.assert_array_equal(cohort.images[:40], more.images[:40])
    keys = cohort.keys
    some = [keys[i] for i in (31, 2, 17)]
    together = phantom.truth("siteB", some)
    for i, key in enumerate(some):
        np.testing.assert_allclose(phantom.truth("siteB", [key])[0], together[i], atol=1e-6)
    np.testing.assert_allclose(phantom.truth("siteB", some[::-1]), together[::-1], atol=1e-6)


def test_load_is_repeatable(small):
    phantom, cohort = small
    again = phantom.load()
    np.testing.assert_array_equal(again.images, cohort.images)
    assert again.participants.equals(cohort.participants)


def test_truth_at_the_own_site_differs_by_noise_and_drift_only(small):
    phantom, cohort = small
    rows = cohort.participants["site"].to_numpy() == "siteB"
    keys = [k for k in cohort.keys if k.site == "siteB"]
    clean = phantom.truth("siteB", keys, clean=True)
    other = phantom.truth("siteA", keys, clean=True)
    own = in_mask(cohort.images[rows] - clean, cohort.subset(rows))
    away = in_mask(cohort.images[rows] - other, cohort.subset(rows))
    assert 0.001 < own < 0.015
    assert away > 2.5 * own


def test_truth_draws_are_independent(small):
    phantom, cohort = small
    keys = cohort.keys[:12]
    clean = phantom.truth("siteA", keys, clean=True)
    first, second = (phantom.truth("siteA", keys, draw=d) - clean for d in (0, 1))
    part = cohort.mask[:12] & (clean > 0.05) & (clean < 0.95)
    fine = [d[part] - np.mean(d[part]) for d in (first, second)]
    assert abs(np.corrcoef(*fine)[0, 1]) < 0.15
    np.testing.assert_array_equal(phantom.truth("siteA", keys) - clean, first)
    np.testing.assert_array_equal(phantom.truth("siteA", keys, clean=True, draw=1), clean)
    at_home = np.array([k.site == "siteA" for k in keys])
    scan = cohort.images[:12][at_home] - clean[at_home]
    assert not np.allclose(scan, first[at_home], atol=1e-3)


# ------------------------------------------------------------------------------ biology


def test_ventricles_grow_and_tissue_shrinks_with_age_in_every_subject():
    phantom = Phantom(**SMALL)
    grid = make_grid(48)
    people = phantom.subjects(np.arange(7))
    ages = (18.0, 36.0, 54.0, 72.0, 90.0)
    older = [replace(people, age=np.full(7, age)) for age in ages]
    areas = np.array([ventricle_area(p, grid, 2.0) for p in older])
    assert np.all(np.diff(areas, axis=0) > 0)
    assert np.all(areas[-1] > 1.5 * areas[0])
    maps = [tissue(p, grid, 2.0) for p in older]
    both = np.array([(m.gray + m.white).sum((1, 2)) / m.brain.sum((1, 2)) for m in maps])
    assert np.all(np.diff(both, axis=0) < 0)
    for m in maps:
        assert m.gray.min() >= 0 and m.white.min() >= 0
        assert (m.brain - m.gray - m.white).min() > -1e-5


def test_men_have_larger_heads():
    people = Phantom(**SMALL).subjects(np.arange(8))
    grid = make_grid(40)
    women, men = (
        tissue(replace(people, male=np.full(8, m)), grid, 2.0).brain.sum() for m in (0.0, 1.0)
    )
    assert men / women == pytest.approx((1.021 / 0.979) ** 2, rel=0.03)


def test_people_differ():
    phantom = Phantom(**{**SMALL, "biology": False, "jitter": 0.0})
    clean = phantom.truth("siteA", phantom.load().keys[:9], clean=True)
    distances = np.abs(clean[:, None] - clean[None]).mean((2, 3))[np.triu_indices(9, 1)]
    assert distances.min() > 0.02


def test_without_biology_images_say_nothing_of_age_and_sex():
    off = Phantom(**SMALL, biology=False)
    keys = off.load().keys[:6]
    people = off.subjects(np.arange(6))
    table = off.table().iloc[:6]
    assert table["age"].nunique() == 6, "the table keeps the true ages"
    alike = people.alike()
    assert np.ptp(alike.age) == 0 and np.ptp(alike.male) == 0
    other = Phantom(**{**SMALL, "confounding": 0.9}, biology=False)
    assert not np.allclose(other.table()["age"][:6], table["age"])
    np.testing.assert_array_equal(
        off.truth("siteA", keys, clean=True), other.truth("siteA", keys, clean=True)
    )


def test_effect_maps_show_ventricles_darkening_and_vanish_without_biology():
    phantom = Phantom(**{**SMALL, "size": 48})
    maps = effect_maps(phantom, people=12)
    assert maps.age.shape == maps.sex.shape == (48, 48)
    middle = maps.age[18:30, 18:34]
    assert middle.min() < -0.003, "a pixel beside the ventricles loses signal over the years"
    assert np.abs(maps.sex).max() > 0.02
    none = effect_maps(Phantom(**SMALL, biology=False), people=5)
    assert np.abs(none.age).max() < 1e-6 and np.abs(none.sex).max() == 0


# ------------------------------------------------------------------------------ knobs


@pytest.mark.parametrize("wanted", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_confounding_is_realized(wanted, seed):
    site, age, male = demography(seed, np.arange(1400), 7, wanted)
    assert eta_squared(age, site) == pytest.approx(wanted, abs=0.03)
    assert np.bincount(site).min() >= 100
    assert age.min() >= 18 and age.max() <= 90
    assert abs(np.corrcoef(age, male)[0, 1]) < 0.1


def test_strength_zero_is_a_rescan(small):
    keys = small[1].keys[:40]
    none = Phantom(**SMALL, strength=0.0)
    cohort = none.load()
    rows = cohort.participants["site"].to_numpy() != "siteA"
    truth, again = (none.truth("siteA", keys, draw=d) for d in (0, 1))
    scan = in_mask(cohort.images - truth, cohort, rows)
    floor = in_mask(again - truth, cohort, rows)
    assert scan == pytest.approx(floor, rel=0.15)
    real = in_mask(small[1].images[:40] - truth, cohort, rows)
    assert real > 3 * floor
    off = Phantom(**SMALL, site_effect=False)
    np.testing.assert_array_equal(off.load().images, cohort.images)


def test_site_effect_grows_with_strength_and_with_its_nonlinear_share():
    keys = Phantom(**SMALL).load().keys[:15]

    def effect(**knobs):
        phantom = Phantom(**SMALL, **knobs)
        here = [phantom.truth(s, keys, clean=True) for s in ("siteA", "siteB", "siteC")]
        return float(np.abs(here[1] - here[0]).mean() + np.abs(here[2] - here[0]).mean())

    half, full = effect(strength=0.5), effect()
    assert 0 < half < full < effect(strength=1.5)
    assert effect(nonlinear=0.0) < full


def test_jitter_moves_the_slice():
    still, moved = (Phantom(**SMALL, jitter=j) for j in (0.0, 4.0))
    keys = still.load().keys[:8]
    a, b = (p.truth("siteA", keys, clean=True) for p in (still, moved))
    assert np.abs(a - b).mean() > 0.01


def test_travelling_subjects_are_scanned_everywhere(small):
    phantom, cohort = small
    table = cohort.participants
    counts = table.groupby("participant_id").size()
    assert (counts == 3).sum() == 4 and (counts == 1).sum() == 36
    for _, rows in table[table["participant_id"].duplicated(keep=False)].groupby("participant_id"):
        assert sorted(rows["site"]) == phantom.sites
        assert rows["age"].nunique() == rows["sex"].nunique() == 1
    assert len(set(cohort.keys)) == len(cohort)


def test_fingerprint_names_every_knob():
    base = Phantom()
    others = {
        "n": 500, "n_sites": 5, "size": 48, "strength": 0.5, "confounding": 0.3,
        "nonlinear": 0.5, "jitter": 1.0, "site_effect": False, "biology": False,
        "travelling": 3, "scanner_seed": 9, "subject_seed": 9,
    }  # fmt: skip
    assert set(others) == set(base.knobs)
    prints = {Phantom(**{name: value}).fingerprint for name, value in others.items()}
    assert len(prints | {base.fingerprint}) == len(others) + 1
    assert Phantom(strength=1).fingerprint == base.fingerprint, "1 and 1.0 are the same data"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"n": 1}, "n is 1; give a whole number from 2 to 99999 subjects"),
        ({"n": 10.0}, "n is 10.0"),
        ({"n_sites": 13}, "from 2 to 12 sites"),
        ({"size": 8}, "from 16 to 256 pixels"),
        ({"strength": -0.1}, "strength is -0.1"),
        ({"confounding": float("nan")}, "confounding is nan"),
        ({"jitter": "2"}, "jitter is '2'"),
        ({"travelling": 2000}, "travelling is 2000; give a whole number from 0 to 1400"),
        ({"subject_seed": True}, "subject_seed is True"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(HarmbenchError, match=message):
        Phantom(**knobs)


def test_unknown_sites_and_participants_are_refused(small):
    phantom, cohort = small
    with pytest.raises(HarmbenchError, match="unknown site 'siteQ'"):
        phantom.truth("siteQ", cohort.keys[:1])
    for name in ("sub-00040", "sub-x", "17"):
        with pytest.raises(HarmbenchError, match=f"participant '{name}' is not in this phantom"):
            phantom.truth("siteA", [RowKey(name, "siteA", "")])


def test_names_do_not_give_the_site_away(small):
    _, cohort = small
    table = cohort.participants.iloc[:40]
    number = table["participant_id"].str[-5:].astype(int)
    assert table["participant_id"].str.fullmatch(r"sub-\d{5}").all()
    assert abs(np.corrcoef(number, table["site"].astype("category").cat.codes)[0, 1]) < 0.2


def test_dev_phantom_has_other_people_and_other_scanners():
    dev, main = phantom_dev(**SMALL), Phantom(**SMALL)
    assert dev.fingerprint != main.fingerprint
    assert dev.scanner("siteB") != main.scanner("siteB")
    assert not np.array_equal(dev.table()["age"], main.table()["age"])
    assert phantom_dev(subject_seed=1).knobs["scanner_seed"] == dev.knobs["scanner_seed"]


# ------------------------------------------------------------------------------ physics


def test_spoiled_gradient_echo_peaks_at_the_ernst_angle():
    t1 = np.array(0.9)
    ernst = np.rad2deg(np.arccos(np.exp(-0.02 / 0.9)))
    values = [
        float(signal(PulseSequence("SPGR", 3.0, tr=0.02, te=0.003, flip=f), t1, np.array(1.0)))
        for f in (ernst - 3, ernst, ernst + 3)
    ]
    assert values[1] > values[0] and values[1] > values[2]


def test_mprage_is_the_steady_state_of_its_pulses():
    """Reference: follow the magnetization pulse by pulse until it repeats itself."""
    seq = PulseSequence(
        "MPRAGE", 3.0, tr=2.2, te=0.003, flip=9.0, ti=0.95, spacing=0.008, echoes=170
    )
    for t1 in T1[3.0]:
        m = 1.0
        for _ in range(40):
            m = 1 - (1 + m) * np.exp(-(seq.ti - 85 * seq.spacing) / t1)
            for pulse in range(seq.echoes):
                if pulse == 85:
                    seen = m * np.sin(np.deg2rad(9.0))
                m = 1 - (1 - m * np.cos(np.deg2rad(9.0))) * np.exp(-seq.spacing / t1)
            m = 1 - (1 - m) * np.exp(-(seq.tr - seq.ti - 85 * seq.spacing) / t1)
        assert float(signal(seq, np.array(t1), np.array(1.0))) == pytest.approx(seen, rel=1e-6)


def test_white_matter_is_brightest_and_fluid_darkest_on_every_scanner():
    for phantom in (Phantom(n_sites=12), phantom_dev(n_sites=12)):
        for site in phantom.sites:
            sequence = phantom.scanner(site).sequence
            fluid, gray, white = np.abs(
                [float(signal(sequence, np.array(t), np.array(1.0))) for t in T1[sequence.field]]
            ) * (1.0, 0.86, 0.77)
            assert fluid < gray < white, site


# ------------------------------------------------------------------------------ frozen


def test_version_1_is_frozen():
    """Fails when any image of the phantom changes: then raise PHANTOM_VERSION and rerun all."""
    phantom = Phantom()
    keys = [RowKey(f"sub-{i:05d}", "", "") for i in (0, 7, 1399)]
    found = [phantom.truth("siteC", keys)[:, x, y] for x, y in FROZEN_PIXELS]
    np.testing.assert_allclose(np.transpose(found), FROZEN, atol=1e-5)
    table = phantom.table()
    assert table["site"].iloc[:5].tolist() == FROZEN_SITES
    np.testing.assert_allclose(table["age"].iloc[:5], FROZEN_AGES)


FROZEN_PIXELS = ((32, 32), (20, 40), (44, 18), (31, 52), (16, 30))
FROZEN = (
    (0.704894, 0.875051, 0.935383, 0.731492, 0.561194),
    (0.829044, 0.835493, 0.950720, 0.400990, 0.563575),
    (0.378154, 0.795551, 0.872094, 0.557479, 0.688130),
)
FROZEN_SITES = ["siteF", "siteC", "siteA", "siteE", "siteB"]
FROZEN_AGES = [72.7, 84.44, 41.71, 41.38, 76.04]


def test_another_data_seed_draws_other_people_for_the_same_scanners() -> None:
    phantom = Phantom(n=12, size=16)
    other = phantom.with_data_seed(3)
    assert other.scanner_seed == phantom.scanner_seed
    assert other.fingerprint != phantom.fingerprint
    assert not np.array_equal(other.table()["age"], phantom.table()["age"])
    assert phantom.with_data_seed(3).fingerprint == other.fingerprint
