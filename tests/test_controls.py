"""Controls: the known answer of each, and errors that teach."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist

from baselines.controls import Blur, HistogramMatching, Identity, MeanImage, Shuffle, SiteShift
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError

DATA = ToyDataset(n=45, shape=(7, 9))
REFERENCE = DATA.reference_site
FIT = FitContext(reference_site=REFERENCE)
APPLY = ApplyContext()


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return DATA.load()


def rows_of(cohort, site):
    return np.flatnonzero(cohort.column("site") == site)


def test_identity_returns_an_equal_array_that_is_not_the_input(cohort):
    out = Identity().fit(cohort, FIT).harmonize(cohort, context=APPLY)
    assert_array_equal(out, cohort.images)
    out[:] = 0
    assert cohort.images.any()


@pytest.mark.parametrize("target", [None, "site-b"])
def test_site_shift_equates_mean_images_and_keeps_distances_within_sites(cohort, target):
    out = SiteShift().fit(cohort, FIT).harmonize(cohort, target, context=APPLY)
    wanted = cohort.images[rows_of(cohort, target or REFERENCE)].mean(axis=0)
    for site in cohort.sites:
        rows = rows_of(cohort, site)
        assert_allclose(out[rows].mean(axis=0), wanted, atol=1e-6)
        before, after = (
            pdist(images[rows].reshape(len(rows), -1).astype(float))
            for images in (cohort.images, out)
        )
        assert_allclose(after, before, atol=1e-5)


def test_site_shift_to_the_own_site_changes_nothing(cohort):
    out = SiteShift().fit(cohort, FIT).harmonize(cohort, "own", context=APPLY)
    assert_array_equal(out, cohort.images)


def test_site_shift_uses_the_means_of_the_fit_alone(cohort):
    method = SiteShift().fit(cohort, FIT)
    row = rows_of(cohort, "site-b")[:1]
    brighter = cohort.subset(row).with_images(cohort.images[row] + 1)
    out = method.harmonize(brighter, context=APPLY)
    assert_allclose(out, method.harmonize(cohort.subset(row), context=APPLY) + 1, atol=1e-6)


def test_site_shift_names_unseen_sites_and_the_sites_of_the_fit(cohort):
    known = cohort.subset(cohort.column("site") != "site-c")
    method = SiteShift().fit(known, FIT)
    with pytest.raises(HarmbenchError, match=r"sites site-a, site-b .* 15 scans of: site-c"):
        method.harmonize(cohort, context=APPLY)
    with pytest.raises(HarmbenchError, match="unknown target site 'site-c'"):
        method.harmonize(known, "site-c", context=APPLY)


def test_histogram_gives_every_image_the_reference_quantiles_and_keeps_the_background(cohort):
    out = HistogramMatching().fit(cohort, FIT).harmonize(cohort, context=APPLY)
    rows = rows_of(cohort, REFERENCE)
    pooled = cohort.images[rows][cohort.mask[rows]]
    probes = np.linspace(0.05, 0.95, 19)
    for image, mask in zip(out, cohort.mask, strict=True):
        # An image of 30 voxels cannot have exactly the quantiles of 500.
        assert_allclose(np.quantile(image[mask], probes), np.quantile(pooled, probes), atol=0.06)
    assert_array_equal(out[~cohort.mask], cohort.images[~cohort.mask])


def test_histogram_undoes_every_increasing_map_of_intensities(cohort):
    method = HistogramMatching().fit(cohort, FIT)
    curved = cohort.with_images(np.where(cohort.mask, 3 + np.exp(2 * cohort.images), 0))
    out = method.harmonize(curved, context=APPLY)
    assert_allclose(out, method.harmonize(cohort, context=APPLY), atol=1e-6)


def test_histogram_keeps_ties_and_order(cohort):
    method = HistogramMatching().fit(cohort, FIT)
    steps = cohort.with_images(np.round(cohort.images, 1)).subset([1])
    out, mask = method.harmonize(steps, context=APPLY)[0], steps.mask[0]
    before, after = steps.images[0][mask], out[mask]
    assert len(np.unique(after)) == len(np.unique(before)) > 3
    order = np.argsort(before, kind="stable")
    assert (np.diff(after[order]) >= 0).all()


def test_histogram_of_the_pooled_reference_itself_is_the_identity(cohort):
    one = cohort.subset(rows_of(cohort, REFERENCE)[:1])
    out = HistogramMatching().fit(one, FIT).harmonize(one, context=APPLY)
    assert_allclose(out, one.images, atol=2e-3)


def test_histogram_leaves_an_image_without_foreground_and_refuses_to_learn_from_none(cohort):
    empty = Cohort(cohort.images, cohort.participants, np.zeros_like(cohort.mask))
    method = HistogramMatching().fit(cohort, FIT)
    assert_array_equal(method.harmonize(empty, context=APPLY), cohort.images)
    with pytest.raises(HarmbenchError, match="masks of reference site 'site-a' are empty"):
        HistogramMatching().fit(empty, FIT)


def test_mean_image_is_the_reference_mean_for_everyone(cohort):
    out = MeanImage().fit(cohort, FIT).harmonize(cohort, context=APPLY)
    expected = cohort.images[rows_of(cohort, REFERENCE)].mean(axis=0)
    assert_allclose(out, np.broadcast_to(expected, out.shape), atol=1e-6)


def test_blur_spreads_a_point_by_a_share_of_the_smallest_side():
    images = np.zeros((2, 32, 48), dtype=np.float32)
    images[0, 16, 24] = 1.0
    table = ToyDataset(n=2).load().participants
    point = Cohort(images, table, images > 0)
    out = Blur(sigma=1 / 16).fit(point, FIT).harmonize(point, context=APPLY)
    rows, columns = np.indices(out.shape[1:])
    assert out[0].sum() == pytest.approx(1, abs=1e-5)
    for distance in (rows - 16, columns - 24):
        assert (out[0] * distance**2).sum() == pytest.approx(2.0**2, rel=0.05)
    assert not out[1].any()


def test_shuffle_returns_real_reference_images_of_other_subjects(cohort):
    out = Shuffle().fit(cohort, FIT).harmonize(cohort, context=APPLY)
    real = {cohort.images[row].tobytes() for row in rows_of(cohort, REFERENCE)}
    own = [image.tobytes() for image in cohort.images]
    drawn = [image.tobytes() for image in out]
    assert set(drawn) <= real
    assert all(a != b for a, b in zip(drawn, own, strict=True))
    assert len(set(drawn)) > 8  # of 15: not the same image for all


def test_shuffle_never_draws_another_scan_of_the_same_subject(cohort):
    people = cohort.column("participant_id").copy()
    rows = rows_of(cohort, REFERENCE)
    people[rows[:-1]] = "somebody"
    table = cohort.with_covariates(participant_id=people, session_id=np.arange(45).astype(str))
    out = Shuffle().fit(table, FIT).harmonize(table.subset(rows[:-1]), context=APPLY)
    assert_array_equal(out, np.repeat(cohort.images[rows[-1:]], len(rows) - 1, axis=0))
    alone = table.subset(rows[:-1])
    with pytest.raises(HarmbenchError, match="no scan of a subject other than 'somebody'"):
        Shuffle().fit(alone, FIT).harmonize(alone, context=APPLY)


def test_shuffle_draws_from_the_same_slice_where_it_has_one():
    both = ToyDataset(n=30, sites=1, shape=(7, 9)).load()
    level = np.arange(30) % 2
    both = both.with_covariates(slice=level)
    out = Shuffle().fit(both, FIT).harmonize(both, context=APPLY)
    slice_of = {image.tobytes(): k for image, k in zip(both.images, level, strict=True)}
    assert [slice_of[image.tobytes()] for image in out] == level.tolist()
    elsewhere = both.with_covariates(slice=np.full(30, 9))
    assert np.isfinite(Shuffle().fit(both, FIT).harmonize(elsewhere, context=APPLY)).all()


def test_shuffle_depends_on_the_seed_and_not_on_the_order_of_the_fit(cohort):
    backwards = cohort.subset(np.arange(len(cohort))[::-1])
    first = Shuffle().fit(cohort, FIT).harmonize(cohort, context=APPLY)
    again = Shuffle().fit(backwards, FIT).harmonize(cohort, context=APPLY)
    other = Shuffle().fit(cohort, FIT).harmonize(cohort, context=ApplyContext(seed=1))
    assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2)).sum() > 30


@pytest.mark.parametrize("method", [HistogramMatching, MeanImage, Shuffle])
def test_methods_of_one_target_refuse_another(cohort, method):
    fitted = method().fit(cohort, FIT)
    for target in ("site-b", "own"):
        with pytest.raises(HarmbenchError, match="only to the reference site of its fit"):
            fitted.harmonize(cohort, target, context=APPLY)


@pytest.mark.parametrize("method", [SiteShift, HistogramMatching, MeanImage, Shuffle])
def test_an_unknown_reference_site_is_named_with_the_known_ones(cohort, method):
    with pytest.raises(HarmbenchError, match=r"'site-x'.*site-a, site-b, site-c"):
        method().fit(cohort, FitContext(reference_site="site-x"))


def test_a_saved_control_keeps_its_parameters(tmp_path):
    cohort = DATA.load()
    HistogramMatching(levels=11).fit(cohort, FIT).save(tmp_path / "histogram")
    assert HistogramMatching.load(tmp_path / "histogram").params() == {"levels": 11}
    Blur(sigma=0.5).fit(cohort, FIT).save(tmp_path / "blur")
    assert Blur.load(tmp_path / "blur").params() == {"sigma": 0.5}
