from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext, ProductUnavailable
from harmbench.errors import HarmbenchError
from harmbench.protocol.probes import training as probes
from harmbench.protocol.probes.training import (
    PRODUCTS,
    apply_probe,
    predicted_classes,
    underfit_note,
)

QUICK = {"images": 1_200, "channels": (6, 8)}
SITES = ("ash", "birch", "cedar")


def cohort(n=120, shape=(32, 32), mark=0.0, aging=0.0, seed=0):
    """Noise images; `mark` brightens a corner by the site, `aging` the middle by the age."""
    rng = np.random.default_rng(seed)
    site, age = np.arange(n) % len(SITES), rng.uniform(20, 80, n)
    images = rng.normal(0.5, 0.1, (n, *shape)).astype(np.float32)
    images[:, : shape[0] // 4, : shape[1] // 4] += mark * site[:, None, None]
    images[:, 12:20, 12:20] += (aging * (age - 50) / 30)[:, None, None]
    table = pd.DataFrame(
        {
            "participant_id": [f"{seed}-{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": np.array(SITES)[site],
            "age": age,
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
        }
    )
    return Cohort(images, table, np.ones(images.shape, bool))


def make(task, training, test, seeds=(0, 1), **settings):
    inputs = MetricInputs({"harmonized.probe": training, "harmonized.test": test}, "ash")
    context = ProductContext(seeds=seeds, probe=QUICK | settings)
    return {p.name: p for p in PRODUCTS}[f"probe.{task}"].make(inputs, context)


@pytest.fixture(scope="module")
def marked():
    return make("site", cohort(mark=0.2), cohort(mark=0.2, seed=1))


def test_an_obvious_mark_is_read(marked):
    truth = cohort(seed=1).column("site")
    assert (predicted_classes(marked) == truth).mean(axis=1).min() > 0.95
    assert underfit_note(marked) == ""


def test_images_without_a_site_give_chance():
    arrays = make("site", cohort(), cohort(n=600, seed=1))
    share = (predicted_classes(arrays) == cohort(n=600, seed=1).column("site")).mean()
    assert abs(share - 1 / 3) < 0.07


def test_ages_are_read_in_years():
    test = cohort(aging=0.3, seed=1)
    arrays = make("age", cohort(aging=0.3), test)
    assert np.abs(arrays["predicted"] - test.column("age")).mean() < 8
    assert arrays["predicted"].shape == (2, len(test))


def test_what_a_product_holds(marked):
    assert marked["predicted"].shape == (2, 120, 3)
    np.testing.assert_allclose(marked["predicted"].sum(-1), 1, rtol=1e-5)
    assert list(marked["classes"]) == list(SITES)
    assert marked["validation_loss"].shape[0] == marked["training_loss"].shape[0] == 2
    assert marked["training_loss"].shape[1:] == marked["images"].shape
    assert marked["image_mean"].shape == (32, 32)
    assert all(value.dtype.kind in "fiU" for value in marked.values())


def test_applied_again_says_the_same_in_any_order(marked):
    images = cohort(mark=0.2, seed=1).images
    order = np.random.default_rng(0).permutation(len(images))
    again = apply_probe(marked, "site", images[order])
    np.testing.assert_allclose(again, marked["predicted"][:, order], atol=1e-5)
    np.testing.assert_allclose(
        apply_probe(marked, "site", images[:7]), marked["predicted"][:, :7], atol=1e-5
    )


def test_the_same_seed_gives_the_same_bytes():
    first, second = (make("site", cohort(), cohort(seed=1), images=300) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_a_seed_does_not_depend_on_the_other_seeds():
    together = make("age", cohort(aging=0.3), cohort(seed=1), seeds=(5, 2), images=300)
    alone = make("age", cohort(aging=0.3), cohort(seed=1), seeds=(2,), images=300)
    np.testing.assert_allclose(together["predicted"][1], alone["predicted"][0], rtol=1e-3)
    assert not np.allclose(together["predicted"][0], alone["predicted"][0], rtol=1e-2)


@pytest.mark.parametrize("shape", [(32, 32), (40, 40), (37, 29), (256, 256)])
def test_any_size(shape):
    arrays = make("sex", cohort(40, shape), cohort(12, shape, seed=1), images=64)
    assert np.isfinite(arrays["predicted"]).all()


def test_rows_without_a_label_are_left_out():
    training = cohort(aging=0.3)
    age = training.column("age").copy()
    age[::4] = np.nan
    arrays = make("age", training.with_covariates(age=age), cohort(seed=1), images=300)
    assert arrays["label_mean"] == pytest.approx(np.nanmean(age))
    assert np.isfinite(arrays["predicted"]).all()


def test_constant_images_are_no_trouble():
    training = cohort()
    flat = training.with_images(np.broadcast_to(training.images[:1], training.images.shape))
    arrays = make("site", flat, flat, images=300)
    assert np.ptp(arrays["predicted"], axis=1).max() < 1e-4


@pytest.mark.parametrize(
    ("task", "column", "value", "reason"),
    [
        ("sex", "sex", "F", "120 of F"),
        ("site", "site", "ash", "two values of site"),
        ("age", "age", 50.0, "do not differ"),
        ("sex", "sex", None, "without sex"),
    ],
)
def test_nothing_to_learn_is_said(task, column, value, reason):
    with pytest.raises(ProductUnavailable, match=reason):
        make(task, cohort().with_covariates(**{column: value}), cohort())


def test_volumes_are_not_read():
    images = np.zeros((30, 7, 8, 9), np.float32)
    table = cohort(30).participants
    volumes = Cohort(images, table, images == 0, "volume")
    with pytest.raises(ProductUnavailable, match="slices"):
        make("site", volumes, volumes)


def test_images_of_another_size_are_refused(marked):
    with pytest.raises(HarmbenchError, match=r"\(32, 32\), not \(64, 64\)"):
        apply_probe(marked, "site", np.zeros((2, 64, 64), np.float32))


def test_settings_are_strict():
    known = [field.name for field in fields(type(probes.probe_config({})))]
    assert "images" in known
    with pytest.raises(HarmbenchError, match="did you mean 'images'"):
        probes.probe_config({"image": 3})


def test_a_loss_that_does_not_fall_is_reported():
    level = np.ones((2, 50))
    assert underfit_note({"training_loss": level}) == "underfit"
    assert underfit_note({"training_loss": level * np.linspace(2, 1, 50)}) == ""


def test_no_subject_is_in_training_and_validation():
    from harmbench.protocol.probes.network import ProbeConfig

    base = cohort(60)
    ids = np.array([f"p{i // 2}" for i in range(60)])
    sessions = np.array([str(i % 2) for i in range(60)])
    base = base.with_covariates(
        participant_id=ids, session_id=sessions, site=np.array(SITES)[np.arange(60) // 2 % 3]
    )
    constants = probes._standardization(base, "age")
    data = probes._data(base, "age", constants, (0, 1), [np.zeros(60, bool)] * 2, ProbeConfig())
    for train, validation in zip(data.train, data.validation, strict=True):
        assert set(ids[train]).isdisjoint(ids[validation])
        assert len(train) + len(validation) == 60
        assert 0.1 < len(validation) / 60 < 0.3
    assert set(data.validation[0]) != set(data.validation[1])
