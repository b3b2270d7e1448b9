import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import balanced_accuracy_score

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext, ProductUnavailable
from harmbench.data.splits import validation_keys
from harmbench.data.toy import ToyDataset
from harmbench.protocol.features.intensities import NAMES, intensity_features
from harmbench.protocol.probes.kinds import make_best, make_kind
from harmbench.protocol.probes.training import validation_rows
from harmbench.protocol.site import kinds as site_kinds
from harmbench.protocol.site.accuracy import site_bacc
from harmbench.protocol.site.kinds import (
    FITSET,
    PRODUCTS,
    REFERENCE,
    make_fitset,
    make_reference,
    site_bacc_fitset,
    site_reference_vs_rest,
)

CONTEXT = ProductContext(seeds=(0, 1))
SITE = "site-a"


@pytest.fixture(scope="module")
def toy():
    data = ToyDataset(n=180, shape=(16, 18))
    cohort = data.load()
    perfect = cohort.with_images(data.truth(SITE, cohort.keys, draw=1))
    rows = np.arange(180) // 3 % 2 == 0
    return {
        "raw.probe": cohort.subset(rows),
        "raw.test": cohort.subset(~rows),
        "perfect.probe": perfect.subset(rows),
        "perfect.test": perfect.subset(~rows),
    }


def harmonized(toy, name, change=None):
    given = {part: toy[f"{name}.{part}"] for part in ("probe", "test")}
    if change is not None:
        given = {part: change(cohort) for part, cohort in given.items()}
    images = {f"harmonized.{part}": cohort for part, cohort in given.items()}
    return MetricInputs(
        {**images, "raw.probe": toy["raw.probe"], "raw.test": toy["raw.test"]}, SITE
    )


def given(toy, **products):
    raw = {name: toy[name] for name in ("raw.probe", "raw.test")}
    return MetricInputs({**raw, **{k.replace("__", ":"): v for k, v in products.items()}}, SITE)


def soften_others(cohort):
    images = cohort.images.copy()
    rows = cohort.column("site") != SITE
    images[rows] = gaussian_filter(images[rows], (0, 0.5, 0.5))
    return cohort.with_images(images)


def rng():
    return np.random.default_rng(0)


def said(truth, right, seed=0):
    """Predictions (2, n) that are right with a probability, else the next site."""
    names = np.unique(truth)
    following = names[(np.searchsorted(names, truth) + 1) % len(names)]
    hit = np.random.default_rng(seed).random((2, len(truth))) < right
    return np.where(hit, truth, following)


# Products


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_a_kind_sees_raw_sites_and_does_not_see_them_after_perfect_harmonization(toy, kind):
    raw = make_kind(kind, "site", harmonized(toy, "raw"), CONTEXT)
    perfect = make_kind(kind, "site", harmonized(toy, "perfect"), CONTEXT)
    truth = toy["raw.test"].column("site").astype(str)
    assert raw["predicted"].shape == (2, len(truth), 3)
    np.testing.assert_allclose(raw["predicted"].sum(-1), 1, rtol=1e-5)
    for row in raw["classes"][raw["predicted"].argmax(-1)]:
        assert balanced_accuracy_score(truth, row) > 0.9
    assert raw["validation"].min() > 0.75
    for row in perfect["classes"][perfect["predicted"].argmax(-1)]:
        assert balanced_accuracy_score(truth, row) < 0.6


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_a_kind_predicts_the_age_better_than_the_median(toy, kind):
    arrays = make_kind(kind, "age", harmonized(toy, "perfect"), CONTEXT)
    age = toy["raw.test"].column("age").astype(float)
    trivial = np.abs(age - np.median(age)).mean()
    assert arrays["predicted"].shape == (2, len(age))
    assert np.abs(arrays["predicted"] - age).mean() < 0.9 * trivial
    assert len(arrays["validation"]) == (2 if kind == "linear" else 1)


def test_the_best_kind_is_that_of_the_validation_subjects():
    def arrays(validation):
        predicted = np.full((2, 5), validation)
        return {
            "predicted": predicted,
            "classes": np.array([]),
            "validation": np.array([validation]),
        }

    products = {"probe.age": arrays(0.3), "linear.age": arrays(0.5), "trees.age": arrays(0.4)}
    best = make_best("age", MetricInputs(products, SITE), CONTEXT)
    assert str(best["kind"]) == "linear" and (best["predicted"] == 0.5).all()
    assert dict(zip(best["kinds"], best["scores"], strict=True)) == {
        "CNN": 0.3,
        "linear": 0.5,
        "trees": 0.4,
    }


def test_the_fingerprint_of_a_renderer_is_seen(toy):
    clean = make_reference(harmonized(toy, "perfect"), CONTEXT)
    marked = make_reference(harmonized(toy, "perfect", soften_others), CONTEXT)
    values = [
        site_reference_vs_rest(given(toy, **{REFERENCE: arrays}), rng()).overall.value
        for arrays in (clean, marked)
    ]
    assert values[0] < 0.7
    assert values[1] > 0.9
    assert set(marked["classes"]) == {SITE, "rest"}


def test_masks_do_not_tell_the_site(toy):
    """Each scan's mask bears its scanner; the features must be those of the images alone."""
    cohort, masks = toy["perfect.test"], toy["raw.probe"].mask
    cut = cohort.mask & (cohort.column("site") == SITE)[:, None, None]
    other = Cohort(cohort.images, cohort.participants, cut)
    np.testing.assert_array_equal(
        intensity_features(other, masks), intensity_features(cohort, masks)
    )


def test_validation_rows_are_those_of_the_cnn(toy):
    training = toy["raw.probe"]
    rows = validation_rows(training, 3, 0.2)
    expected = set(validation_keys(training, 3, 0.2))
    assert [key in expected for key in training.keys] == rows.tolist()
    assert 0.15 < rows.mean() < 0.25


def test_one_site_cannot_be_probed(toy):
    alone = toy["raw.probe"].subset(toy["raw.probe"].column("site") == SITE)
    inputs = MetricInputs({"harmonized.probe": alone, "harmonized.test": toy["raw.test"]}, SITE)
    with pytest.raises(ProductUnavailable, match="needs two values of site"):
        make_kind("linear", "site", inputs, CONTEXT)


def test_the_same_seed_gives_the_same_probes(toy):
    first, second = (make_reference(harmonized(toy, "raw"), CONTEXT) for _ in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_fitset_probe_is_trained_on_fit_images(toy, monkeypatch):
    seen = {}

    def train(task, inputs, context):
        seen.update(inputs.products)
        return {"task": np.array(task)}

    monkeypatch.setattr(site_kinds, "make_probe", train)
    products = {"harmonized.fit": toy["raw.probe"], "harmonized.test": toy["perfect.test"]}
    assert make_fitset(MetricInputs(products, SITE), CONTEXT)["task"] == "site"
    assert seen["harmonized.probe"] is toy["raw.probe"]
    assert seen["harmonized.test"] is toy["perfect.test"]


def test_products_are_declared():
    assert {p.name for p in PRODUCTS} == {REFERENCE, FITSET}
    needs = {p.name: p.needs for p in PRODUCTS}
    assert "harmonized.fit" in needs[FITSET] and "harmonized.probe" not in needs[FITSET]


# Metrics


def best_of(truth, right, seed=0):
    classes = np.unique(truth)
    codes = np.searchsorted(classes, said(truth, right, seed))
    return {
        "predicted": np.eye(len(classes))[codes],
        "classes": classes,
        "kind": np.array("trees"),
        "kinds": np.array(["linear", "trees"]),
        "scores": np.array([0.4, 0.9]),
    }


def test_the_kind_is_named_and_the_oracle_has_a_choice_of_its_own(toy):
    truth = toy["raw.test"].column("site").astype(str)
    arrays, oracle = best_of(truth, 0.5), best_of(truth, 0.35, 1)
    result = site_bacc(given(toy, **{"best.site": arrays, "oracle__best.site": oracle}), rng())
    expected, target = (
        np.mean(
            [balanced_accuracy_score(truth, a["classes"][row]) for row in a["predicted"].argmax(-1)]
        )
        for a in (arrays, oracle)
    )
    assert result.overall.value == pytest.approx(expected)
    assert result.target == pytest.approx(target)
    assert result.note == "trees probe, 0.90 on validation"


def test_target_of_the_reference_without_an_oracle_is_what_age_and_sex_tell(toy):
    truth = toy["raw.test"].column("site").astype(str)
    floor = {"predicted": np.where(truth == SITE, SITE, "site-b")}
    binary = best_of(np.where(truth == SITE, SITE, "rest"), 0.9)
    result = site_reference_vs_rest(given(toy, **{REFERENCE: binary, "floor.site": floor}), rng())
    assert result.target == pytest.approx(1.0)
    assert result.floors["chance"] == pytest.approx(1 / 2)
    assert set(result.groups) == {"site-a", "site-b", "site-c"}


def test_fitset_is_shown_beside_the_probe_of_other_subjects(toy):
    truth, classes = toy["raw.test"].column("site").astype(str), np.unique(toy["raw.test"].sites)

    def probe(right, seed):
        codes = np.searchsorted(classes, said(truth, right, seed))
        loss = np.linspace(2, 1, 20) * np.ones((2, 1))
        return {"predicted": np.eye(3)[codes], "classes": classes, "training_loss": loss}

    own, other, oracle = probe(0.4, 1), probe(0.7, 2), probe(0.3, 3)
    products = {FITSET: own, "probe.site": other, "oracle__probe.site": oracle}
    result = site_bacc_fitset(given(toy, **products), rng())
    values = [
        np.mean([balanced_accuracy_score(truth, row) for row in classes[p["predicted"].argmax(-1)]])
        for p in (own, other, oracle)
    ]
    shown = (result.overall.value, result.floors["trained on other subjects"], result.target)
    assert shown == pytest.approx(tuple(values))
    assert result.note == ""


# Features


def test_features_of_known_images():
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(8.0), indexing="ij")
    image = (rows + 2 * columns).astype(np.float32)
    mask = np.zeros((1, 9, 8), bool)
    mask[0, 2:7, 2:6] = True
    table = ToyDataset(n=1).load().participants
    found = intensity_features(Cohort(image[None], table, mask), mask)[0]
    named = dict(zip(NAMES, found, strict=True))
    inside, outside = image[mask[0]], image[~mask[0]]
    assert len(found) == 30
    assert named["intensity, quantile 0.50"] == np.median(inside)
    assert named["intensity, mean"] == pytest.approx(inside.mean())
    assert named["intensity, skewness"] == pytest.approx(0, abs=1e-6)
    assert named["gradient, quantile 0.95"] == pytest.approx(np.sqrt(5))
    assert named["Laplacian, quantile 0.95"] == pytest.approx(0, abs=1e-5)
    assert named["outside, mean absolute"] == pytest.approx(outside.mean())


def test_features_of_a_constant_and_of_no_region_are_finite():
    table = ToyDataset(n=1).load().participants
    flat = Cohort(np.full((1, 7, 8, 9), 0.5, np.float32), table, np.ones((1, 7, 8, 9), bool))
    assert np.isfinite(intensity_features(flat, flat.mask)).all()
    assert (intensity_features(flat, ~flat.mask) == 0).all()
