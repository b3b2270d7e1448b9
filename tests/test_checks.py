"""The contract suites: every registered plug-in passes, and every planted fault is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baselines.controls import Identity, SiteShift
from harmbench import registry
from harmbench.checks import method_checks, metric_checks, toy_cohort
from harmbench.contracts.metric import Metric, MetricInfo, MetricResult
from harmbench.data.toy import ToyDataset
from harmbench.engine.keys import IMAGE_PRODUCTS
from harmbench.files.models import load_model, save_model
from harmbench.protocol import PRODUCTS

# Images made elsewhere are no method to be checked: nothing is fitted or computed.
METHODS = [n for n in registry.names("method") if not registry.load("method", n)().info.images_only]
METRICS = registry.names("metric")
# Methods that are trained at length: their own tests run the suite with a small budget.
TRAINED = {name for name in METHODS if registry.load("method", name)().budget}


def failures(results):
    return {r.name: r.detail for r in results if not r.passed}


@pytest.mark.parametrize("name", [n for n in METHODS if n not in TRAINED])
@pytest.mark.parametrize("shape", [(16, 16), (7, 9)])
def test_every_registered_method_keeps_the_contract(name, shape):
    data = ToyDataset(shape=shape)
    results = method_checks(registry.load("method", name), data.load(), truth=data.truth)
    assert failures(results) == {}
    assert len(results) == 17


@pytest.mark.parametrize("name", METHODS)
def test_every_registered_method_declares_its_registered_name(name):
    assert registry.load("method", name)().info.name == name


@pytest.mark.parametrize("name", METRICS)
def test_every_registered_metric_is_declared_well(name):
    known = {*IMAGE_PRODUCTS, *(product.name for product in PRODUCTS)}
    results = metric_checks(registry.load("metric", name), name, products=known, methods=METHODS)
    assert failures(results) == {}


def test_the_toy_cohort_has_site_and_age_effects_and_a_truth():
    cohort = toy_cohort(n=60, shape=(7, 9))
    level = cohort.images.sum(axis=(1, 2)) / cohort.mask.sum(axis=(1, 2))
    site, age = cohort.column("site"), cohort.column("age")
    between = [level[site == s].mean() for s in cohort.sites]
    assert np.ptp(between) > 3 * min(level[site == s].std() for s in cohort.sites)
    for s in cohort.sites:
        assert np.corrcoef(level[site == s], age[site == s])[0, 1] < -0.5
    data = ToyDataset(n=60, shape=(7, 9))
    truth = data.truth("site-a", cohort.keys)
    own = site == "site-a"
    errors = np.abs(truth - cohort.images).mean(axis=(1, 2))
    assert errors[own].max() < errors[~own].min()
    assert np.array_equal(data.load().images, cohort.images)
    assert not np.array_equal(toy_cohort(n=60, shape=(7, 9), seed=1).images, cohort.images)


class Faulty(SiteShift):
    """A sound method, for faults to be planted in."""


def faulty(**methods):
    return type("Planted", (Faulty,), methods)


def shifted(self, cohort, target=None, *, context):
    return SiteShift.harmonize(self, cohort, target, context=context)


def in_place(self, cohort, target=None, *, context):
    cohort.images[0] += 1.0
    return shifted(self, cohort, target, context=context)


def batch_mean(self, cohort, target=None, *, context):
    out = shifted(self, cohort, target, context=context)
    return out - out.mean(axis=0, keepdims=True)


def by_position(self, cohort, target=None, *, context):
    out = shifted(self, cohort, target, context=context)
    return out + np.linspace(0, 1, len(out), dtype=np.float32)[:, None, None]


def noisy(self, cohort, target=None, *, context):
    out = shifted(self, cohort, target, context=context)
    return out + np.random.standard_normal(out.shape).astype(np.float32)  # noqa: NPY002


def seeded(self, cohort, target=None, *, context):
    out = shifted(self, cohort, target, context=context)
    return out + np.float32(context.seed)


def silent_on_sites(self, cohort, target=None, *, context):
    out = cohort.images.copy()
    out[~np.isin(cohort.column("site"), list(self.means))] = np.nan
    return out


def standardized(self, cohort, target=None, *, context):
    out = cohort.images.copy()
    with np.errstate(all="ignore"):
        return np.where(cohort.mask.any(axis=0), out / self.means[self.reference_site], out).astype(
            np.float32
        )


def save_pickle(self, folder):
    SiteShift.save(self, folder)
    (Path(folder) / "model.pkl").write_bytes(b"")


def save_rounded(self, folder):
    SiteShift.save(self, folder)
    arrays, config = load_model(folder)
    save_model(folder, {"means": arrays["means"].round(2)}, config)


def greedy(self, cohort, target=None, *, context):
    return cohort.images + cohort.column("age")[:, None, None].astype(np.float32)


def double(self, cohort, target=None, *, context):
    return shifted(self, cohort, target, context=context).astype(np.float64)


PLANTED = {
    "input is not changed": {"harmonize": in_place},
    "other rows do not matter": {"harmonize": batch_mean},
    "a single row works": {"harmonize": batch_mean},
    "order of rows does not matter": {"harmonize": by_position},
    "no global random numbers": {"harmonize": noisy},
    "same seed, same result": {"harmonize": seeded},
    "unseen site works or raises an error": {"harmonize": silent_on_sites},
    "unknown target raises an error": {"harmonize": silent_on_sites},
    "constant voxels stay finite": {"harmonize": standardized},
    "saves and loads": {"save": save_rounded},
    "fits and harmonizes": {"harmonize": greedy},
}


@pytest.mark.parametrize("check", PLANTED)
def test_a_planted_fault_is_found(check):
    assert check in failures(method_checks(faulty(**PLANTED[check])))


def test_a_sound_method_has_no_failures_and_further_faults_are_found():
    assert failures(method_checks(Faulty)) == {}
    found = failures(method_checks(faulty(save=save_pickle)))
    assert "safetensors and JSON" in found["saves and loads"] and len(found) == 1
    found = failures(method_checks(faulty(harmonize=double)))
    assert "float64" in found["fits and harmonizes"]
    found = failures(method_checks(faulty(harmonize=greedy)))
    assert "column 'age' is not there" in found["fits and harmonizes"]


def test_a_view_of_the_input_and_a_wrong_declaration_are_found():
    view = type("View", (Identity,), {"harmonize": lambda s, c, t=None, *, context: c.images})
    assert "view" in failures(method_checks(view))["input is not changed"]
    info = replace(Identity().info, fit_sees=frozenset({"agee"}), label="")
    wrong = type("Wrong", (Identity,), {"info": property(lambda self: info)})
    assert "label" in failures(method_checks(wrong))["declaration is complete"]


def test_a_method_that_chokes_on_missing_age_is_found():
    info = replace(SiteShift().info, harmonize_sees=frozenset({"site", "age"}))

    def harmonize(self, cohort, target=None, *, context):
        age = cohort.column("age")[:, None, None]
        return shifted(self, cohort, target, context=context) + np.float32(0.001) * age.astype("f4")

    planted = faulty(info=property(lambda self: info), harmonize=harmonize)
    assert list(failures(method_checks(planted))) == ["missing age is handled"]


def declared(**changes):
    info = MetricInfo(
        name="toy",
        label="Toy",
        summary="It measures nothing.",
        axis="quality",
        level="core",
        direction="higher",
        needs=("harmonized.test",),
        goal=1.0,
        range=(0.0, 1.0),
        anchors=("identity", "oracle"),
    )
    return Metric(replace(info, **changes), lambda inputs, rng: MetricResult())


def test_a_well_declared_metric_passes():
    results = metric_checks(
        declared(), "toy", products=["harmonized.test"], methods=["identity", "oracle"]
    )
    assert failures(results) == {}
    assert not any(r.detail for r in results)


def test_anchors_on_real_data_may_be_floors():
    results = metric_checks(
        declared(real_anchors=("floor:chance", "identity")), methods=["identity", "oracle"]
    )
    assert failures(results) == {}


REAL = "anchors for real data exist"


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("name is the registered one", {"name": "other"}),
        ("label and summary are given", {"summary": " "}),
        ("level, axis and direction are known", {"level": "six"}),
        ("level, axis and direction are known", {"direction": "up"}),
        ("range and goal agree with the direction", {"goal": 1.5}),
        ("range and goal agree with the direction", {"goal": 0.0}),
        ("range and goal agree with the direction", {"range": (1.0, 0.0)}),
        ("version and min_n are positive", {"min_n": 0}),
        ("products are known", {"needs": ("harmonised.test",)}),
        ("products are known", {"wants": ("harmonized.test",)}),
        ("controls are known", {"anchors": ("identity", "orakle")}),
        ("controls are known", {"anchors": ("identity",)}),
        ("controls are known", {"expected_order": (("nobody",),)}),
        (REAL, {"real_anchors": ("identity",)}),
        (REAL, {"real_anchors": ("identity", "identity")}),
        (REAL, {"real_anchors": ("identity", "oracle")}),
        (REAL, {"real_anchors": ("identity", "floor:")}),
        (REAL, {"real_anchors": ("floor:chance", "nobody")}),
        (REAL, {"real_anchors": ("floor:chance", "identity"), "anchors": ()}),
    ],
)
def test_a_badly_declared_metric_is_found(check, changes):
    results = metric_checks(
        declared(**changes), "toy", products=["harmonized.test"], methods=["identity", "oracle"]
    )
    assert check in failures(results)
