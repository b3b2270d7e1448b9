"""What each metric must say of each control: the protocol's table, on small phantoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import pairwise, product
from typing import Self

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline

from baselines.combat import Combat, combat_nocov
from baselines.controls import Blur, HistogramMatching, Identity, MeanImage, Shuffle, SiteShift
from baselines.denoise import DenoisedCombat
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.contracts.metric import Metric, MetricInputs, MetricResult
from harmbench.contracts.product import ProductContext
from harmbench.data.phantom import Phantom, phantom_dev
from harmbench.data.splits import make_split
from harmbench.protocol.biology import age_and_sex as biology
from harmbench.protocol.features import products as features
from harmbench.protocol.individuals import distances
from harmbench.protocol.individuals import identification as identity
from harmbench.protocol.leakage import metrics as leakage
from harmbench.protocol.leakage import placebo, pull
from harmbench.protocol.probes import training as probes
from harmbench.protocol.quality import frechet
from harmbench.protocol.site import accuracy as site
from harmbench.protocol.truth import errors as truth
from harmbench.protocol.truth.ceiling import Ceiling
from harmbench.protocol.truth.errors import TRAVELLING
from harmbench.protocol.truth.oracle import Dose, Oracle
from harmbench.seeding import rng_from

LEAK = 0.5


class Leaky(Identity):
    """Unharmonized, but for a planted leak: `LEAK` years of ageing for each year it is told."""

    @property
    def info(self) -> MethodInfo:
        sees = frozenset({"age", "site"})
        return replace(super().info, name="leaky", fit_sees=sees, harmonize_sees=sees)

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        sites, age = cohort.column("site"), cohort.column("age").astype(float)
        own = np.array([age[sites == s].mean() for s in sites])
        self.per_year = np.tensordot(age - own, cohort.images, 1) / ((age - own) ** 2).sum()
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> np.ndarray:
        years = cohort.column("age").astype(float) - 50
        return (cohort.images + LEAK * np.multiply.outer(years, self.per_year)).astype(np.float32)


METHODS: dict[str, Callable[[], Harmonizer]] = {
    "leaky": Leaky,
    "identity": Identity,
    "oracle": Oracle,
    "shuffle": Shuffle,
    "mean-image": MeanImage,
    "site-shift": SiteShift,
    "histogram": HistogramMatching,
    "blur": Blur,
    "combat": Combat,
    "combat-nocov": combat_nocov,
    "denoise+combat": DenoisedCombat,
    "ceiling": Ceiling,
    "dose-0.25": lambda: Dose(0.25),
    "dose-0.5": lambda: Dose(0.5),
    "dose-0.75": lambda: Dose(0.75),
}
DOSES = ("oracle", "dose-0.25", "dose-0.5", "dose-0.75", "identity")
TASKS: tuple[probes.Task, ...] = ("site", "age", "sex")
METRICS: list[Metric] = [
    site.site_bacc,
    site.site_excess,
    biology.age_mae,
    biology.age_skill_within,
    biology.sex_bacc,
    biology.sex_auc,
    distances.distance_pcc,
    distances.distance_pcc_truth,
    truth.truth_mae,
    truth.truth_mae_clean,
    truth.truth_psnr,
    truth.truth_ssim,
    identity.identification,
    identity.identification_margin,
]
PRODUCTS = {p.name: p for p in (*features.PRODUCTS, *site.PRODUCTS)}

Read = Callable[[np.ndarray], np.ndarray]
Probe = Callable[[probes.Task, MetricInputs], tuple[dict[str, np.ndarray], Read]]


def linear_probe(task: probes.Task, inputs: MetricInputs) -> tuple[dict[str, np.ndarray], Read]:
    """Return a probe product from principal components and a linear model, and how it reads."""
    training, test = inputs.cohort("harmonized.probe"), inputs.cohort("harmonized.test")
    x, y = (c.images.reshape(len(c), -1) for c in (training, test))
    scale = max(float(x.std(0).max()), 1e-3)
    x, y = x / scale, y / scale
    label = training.column(task)
    head = {"training_loss": np.array([[1.0, 0.0]])}
    pca = PCA(60, random_state=0)
    if task == "age":
        model = make_pipeline(pca, RidgeCV(np.logspace(-1, 4, 11))).fit(x, label.astype(float))
        product = head | {"predicted": model.predict(y)[None], "classes": np.array([], "<U1")}
        return product, lambda images: model.predict(images.reshape(len(images), -1) / scale)[None]
    linear = LogisticRegression(C=0.3, class_weight="balanced", max_iter=300, tol=1e-3)
    model = make_pipeline(pca, linear).fit(x, label.astype(str))
    predicted = model.predict_proba(y)[None]
    product = head | {"predicted": predicted, "classes": model.classes_.astype(str)}
    return product, lambda images: model.predict_proba(images.reshape(len(images), -1) / scale)[
        None
    ]


def cnn_probe(task: probes.Task, inputs: MetricInputs) -> tuple[dict[str, np.ndarray], Read]:
    product = probes.make_probe(task, inputs, ProductContext(seeds=(0,), threads=2))
    return product, partial(probes.apply_probe, product, task)


class Experiment:
    """A phantom with the products of any control, made once."""

    def __init__(self, data: Dataset, probe: Probe) -> None:
        self.data, self.probe = data, probe
        self.cohort = data.load()
        self.fold = make_split(self.cohort, 0).scored()
        self.reference = data.reference_site or ""
        self._scores: dict[tuple[str, str], MetricResult] = {}
        self._products: dict[str, dict] = {}
        self._methods: dict[str, Harmonizer] = {}
        self._readers: dict[tuple[str, str], Read] = {}
        self._truth = cache(self._ask)

    def _ask(self, name: str, keys: tuple, clean: bool, draw: int) -> np.ndarray:
        return self.data.truth(name, keys, clean=clean, draw=draw)

    def truth(self, name: str, keys, clean: bool = False, draw: int = 0) -> np.ndarray:
        return self._truth(name, tuple(keys), clean, draw)

    def part(self, name: str) -> Cohort:
        return self.cohort.subset(getattr(self.fold, name))

    @cached_property
    def shared(self) -> dict:
        test = self.part("test")
        found = {f"raw.{part}": self.part(part) for part in ("fit", "probe", "test")}
        found["raw.real"] = self.part("real")
        noisy, clean = ({"draw": 0}, {"clean": True})
        for name, how in (("truth.test", noisy), ("truth.test.clean", clean)):
            found[name] = test.with_images(self.truth(self.reference, test.keys, **how))
        return found

    def products(self, name: str) -> dict:
        if name not in self._products:
            method = METHODS[name]()
            context = FitContext(reference_site=self.reference, truth=self.truth)
            self._methods[name] = method.fit(self.part("fit"), context)
            apply = ApplyContext(truth=self.truth)
            found = {}
            for part in ("probe", "test"):
                raw = self.part(part)
                found[f"harmonized.{part}"] = raw.with_images(method.harmonize(raw, context=apply))
            self._products[name] = found
        return self._products[name]

    def make(self, method: str, name: str):
        if ":" in name:
            method, _, name = name.partition(":")
        declared = PRODUCTS.get(name)
        once = name in self.shared or (declared is not None and declared.scope == "run")
        held = self.shared if once else self.products(method)
        if name in ("leakage.age", "calibration.age", "pull.age"):
            held[name] = getattr(self, name.replace(".", "_"))(method)
        elif name not in held and declared is None:
            task = name.removeprefix("probe.")
            product, read = self.probe(task, MetricInputs(held, self.reference))  # type: ignore[arg-type]
            held[name], self._readers[method, task] = product, read
        elif name not in held:
            inputs = {need: self.make(method, need) for need in declared.needs}
            held[name] = declared.make(MetricInputs(inputs, self.reference), ProductContext())
        return held[name]

    def read_age(self, method: str, images: np.ndarray) -> np.ndarray:
        """Return what a cell's age probe reads from images; (seeds, n)."""
        self.make(method, "probe.age")
        return self._readers[method, "age"](images)

    def leakage_age(self, method: str) -> dict[str, np.ndarray]:
        harmonized = self.products(method)["harmonized.test"]
        fitted, ages, read = self._methods[method], [], []
        for name in leakage.AGES:
            lied = placebo.with_placebo(self.part("test"), name, "control table")
            ages.append(lied.column("placebo_age").astype(float))
            images = harmonized.images
            if placebo.concerns(name, fitted.info.harmonize_sees):
                images = fitted.harmonize(
                    placebo.replace_covariates(lied, name), context=ApplyContext()
                )
            read.append(self.read_age(method, images))
        return {"placebo": np.stack(ages), "predicted": np.stack(read)}

    def calibration_age(self, method: str) -> dict[str, np.ndarray]:
        return {"predicted": self.read_age(method, self.shared["truth.test"].images)}

    def pull_age(self, method: str) -> dict[str, np.ndarray]:
        parts = {"harmonized": self.products(method), "truth": self.shared}
        read = {
            name: self.read_age("oracle", held[f"{name}.test"].images)
            for name, held in parts.items()
        }
        return {**read, "training_loss": self.make("oracle", "probe.age")["training_loss"]}

    def result(self, metric: Metric, method: str) -> MetricResult:
        key = (metric.info.name, method)
        if key not in self._scores:
            # Nobody travels in this phantom.
            wants = [name for name in metric.info.wants if name != TRAVELLING]
            names = (*metric.info.needs, *wants)
            # One kind of probe stands for the best.
            kinds = ("best.", "linear.")
            products = {}
            for n in names:
                made = next((n.replace(kind, "probe.") for kind in kinds if kind in n), n)
                products[n] = self.make(method, made)
            inputs = MetricInputs(products, self.reference)
            self._scores[key] = metric(inputs, rng_from("resample"))
        return self._scores[key]

    def value(self, metric: Metric, method: str) -> float:
        found = self.result(metric, method)
        assert found.overall is not None, found.reason
        return found.overall.value

    def error(self, metric: Metric, first: str, second: str) -> float:
        """Standard error of the difference of two methods' values."""
        a, b = self.result(metric, first), self.result(metric, second)
        if a.replicates is None or b.replicates is None:
            return float(np.hypot(*((r.overall.high - r.overall.low) / 3.92 for r in (a, b))))
        return float(np.std(a.replicates - b.replicates, ddof=1))


def small(**knobs) -> Phantom:
    return phantom_dev(**{"n": 420, "n_sites": 4, "size": 32, **knobs})


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """Return a phantom whose sites' people do not differ: an order of biology is then clear."""
    return Experiment(small(confounding=0.0), linear_probe)


@pytest.fixture(scope="module")
def confounded() -> Experiment:
    """Return a phantom whose sites' people differ in age."""
    return Experiment(small(n=300, confounding=0.8), linear_probe)


def check_order(experiment: Experiment, metric: Metric) -> None:
    """Every control of a tie must do better than all of the next tie, the ends beyond doubt."""
    sign = 1 if metric.info.direction == "higher" else -1
    order = metric.info.expected_order
    assert len(order) > 1
    for better, worse in pairwise(order):
        for first, second in product(better, worse):
            gap = sign * (experiment.value(metric, first) - experiment.value(metric, second))
            assert gap > -2 * experiment.error(metric, first, second), (first, second, gap)
    for first, second in product(order[0], order[-1]):
        gap = sign * (experiment.value(metric, first) - experiment.value(metric, second))
        assert gap > 2 * experiment.error(metric, first, second), (first, second, gap)


def check_dose(experiment: Experiment, metric: Metric) -> None:
    """From the oracle to no harmonization no step goes back by more than its own noise."""
    values = [experiment.value(metric, name) for name in DOSES]
    errors = [experiment.error(metric, a, b) for a, b in pairwise(DOSES)]
    steps = np.diff(values) * np.sign(values[-1] - values[0])
    back = any(s < -2 * e for s, e in zip(steps, errors, strict=True))
    assert back != metric.info.monotone, values


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.info.name)
def test_order_of_the_controls(experiment: Experiment, metric: Metric) -> None:
    check_order(experiment, metric)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.info.name)
def test_monotone_in_dose_or_declared_not_to_be(experiment: Experiment, metric: Metric) -> None:
    check_dose(experiment, metric)


def test_site_scores_of_the_controls(experiment: Experiment) -> None:
    names = ("identity", "oracle", "shuffle", "mean-image", "site-shift", "combat", "combat-nocov")
    value = {name: experiment.value(site.site_bacc, name) for name in names}
    assert value["identity"] > 0.85
    assert value["mean-image"] == 0.25
    for name in ("shuffle", "mean-image"):
        assert value[name] <= value["oracle"] + 2 * experiment.error(site.site_bacc, name, "oracle")
    # Means of forty scans a site are wrong by the same image in all others: that is left of them.
    for name in ("site-shift", "combat", "combat-nocov"):
        assert value["oracle"] < value[name] < value["identity"] - 0.15


def test_where_ages_differ_the_oracle_still_shows_the_site(confounded: Experiment) -> None:
    oracle = confounded.result(site.site_bacc, "oracle")
    assert oracle.overall.low > 0.25
    # Under the target lies a loss of what the sites' people differ in.
    assert confounded.result(site.site_excess, "shuffle").overall.high < 0
    assert confounded.value(site.site_excess, "oracle") == 0


def check_leakage(experiment: Experiment, tolerance: float) -> None:
    """A planted leak is recovered; what hears no age leaks nothing, ComBat little."""
    for name in ("identity", "oracle", "site-shift", "combat-nocov"):
        assert experiment.value(leakage.leakage_age, name) == 0, name
    # What it takes out with its own scale and puts back with another's: little of a year.
    assert abs(experiment.value(leakage.leakage_age, "combat")) < LEAK / 2
    found = experiment.result(leakage.leakage_age, "leaky").overall
    assert found.value == pytest.approx(LEAK, abs=tolerance)
    assert found.low > 0.1


def check_pull(experiment: Experiment) -> None:
    """What knows no ages pulls everyone; the oracle nobody."""
    pulled = {
        name: experiment.result(pull.population_pull, name).overall
        for name in ("oracle", "combat", "site-shift", "combat-nocov")
    }
    # A rescan's noise is all it has; one interval in twenty leaves out a 0 that is there.
    assert abs(pulled["oracle"].value) < 0.02
    for name in ("site-shift", "combat-nocov"):
        assert pulled[name].low > max(0.4, pulled["combat"].value, pulled["oracle"].high), name
    assert abs(pulled["combat"].value) < 0.3


def test_only_a_planted_leak_leaks(experiment: Experiment) -> None:
    check_leakage(experiment, 0.1)


def test_what_knows_no_ages_pulls_people_to_the_reference(confounded: Experiment) -> None:
    check_pull(confounded)


def test_distances_after_no_change_and_after_a_shift_per_site(experiment: Experiment) -> None:
    for name in ("identity", "site-shift"):
        assert experiment.value(distances.distance_pcc, name) == pytest.approx(1, abs=1e-6)
    assert experiment.value(distances.distance_pcc, "blur") > 0.9
    assert abs(experiment.value(distances.distance_pcc, "shuffle")) < 0.2
    assert experiment.value(distances.distance_pcc, "mean-image") == 0


def test_distance_to_real_images_tells_a_mean_image_from_the_oracle(experiment: Experiment) -> None:
    fd = {
        n: experiment.value(frechet.fd_reference, n) for n in ("oracle", "identity", "mean-image")
    }
    assert fd["oracle"] < fd["identity"] < fd["mean-image"]


def test_errors_to_the_truth_of_the_controls(experiment: Experiment) -> None:
    names = ("oracle", "ceiling", "combat", "denoise+combat", "identity", "blur", "shuffle")
    mae = {name: experiment.value(truth.truth_mae, name) for name in names}
    assert mae["oracle"] < mae["ceiling"] < mae["combat"] < mae["identity"] < mae["shuffle"]
    assert mae["blur"] > mae["combat"]
    assert mae["denoise+combat"] == pytest.approx(mae["combat"], rel=0.05)


def test_without_a_site_effect_there_is_nothing_to_remove() -> None:
    experiment = Experiment(small(n=300, strength=0.0), linear_probe)
    oracle = experiment.result(site.site_bacc, "oracle").overall
    for name in ("identity", "histogram"):
        assert oracle.low <= experiment.value(site.site_bacc, name) <= oracle.high, name
    # What is wrong in ComBat's estimates is common to all scans of a site and so can be read.
    assert experiment.value(site.site_bacc, "combat") < 0.6
    for name in ("mean-image", "shuffle"):
        estimate = experiment.result(site.site_bacc, name).overall
        assert estimate.low <= 0.25 <= estimate.high, name


def test_without_biology_the_age_is_at_the_floor_of_the_median() -> None:
    experiment = Experiment(small(n=300, biology=False, confounding=0.0), linear_probe)
    for name in ("identity", "oracle", "combat"):
        mae = experiment.result(biology.age_mae, name)
        assert mae.overall.value == pytest.approx(mae.floors["overall median"], rel=0.08), name
        assert abs(experiment.value(biology.age_skill_within, name)) < 0.3, name


@pytest.mark.controls
def test_cnn_probes_say_the_same() -> None:
    experiment = Experiment(phantom_dev(n=900, n_sites=4, size=48, confounding=0.0), cnn_probe)
    for metric in (site.site_bacc, biology.age_skill_within, biology.sex_bacc):
        check_order(experiment, metric)
        check_dose(experiment, metric)
    assert experiment.value(site.site_bacc, "identity") > 0.95
    assert experiment.value(site.site_bacc, "mean-image") == 0.25
    check_leakage(experiment, 0.2)


@pytest.mark.controls
def test_cnn_probes_see_the_same_pull() -> None:
    check_pull(Experiment(phantom_dev(n=900, n_sites=4, size=48, confounding=0.8), cnn_probe))
