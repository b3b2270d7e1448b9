"""What an author of a plug-in meets: names, errors, short metrics, methods without save."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import harmbench
from harmbench import Estimate, HarmbenchError, Harmonizer, MethodInfo, MetricResult, metric
from harmbench.checks import dataset_checks, toy_cohort
from harmbench.cli.app import app
from harmbench.config import MethodSpec, resolve
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.contracts.metric import MetricInputs
from harmbench.data.splits import Split
from harmbench.data.toy import ToyDataset
from harmbench.engine.keys import Cell, Keys
from harmbench.protocol import PRODUCTS

DECLARED = {"label": "Mine", "axis": "quality", "level": "full", "direction": "lower"}


@pytest.mark.parametrize("first", ["", "import harmbench.engine.run, harmbench.contracts.metric;"])
def test_every_public_name_is_the_object_of_that_name(first):
    names = [name for name in harmbench.__all__ if name != "__version__"]
    code = f"{first}\nfrom harmbench import {', '.join(names)}\n" + "".join(
        f"assert {name}.__name__ == {name!r}, {name}\n" for name in names
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Metrics ----------------------------------------------------------------------------------------


def declared(value):
    @metric(**DECLARED, needs=("harmonized.test",))
    def mine(inputs, rng):
        """Return what it is given."""
        return value

    return mine


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.float64(0.5), Estimate(0.5, 0, 1)])
def test_a_metric_may_return_a_number_or_an_estimate(value):
    result = declared(value)(MetricInputs({}, "a"), np.random.default_rng(0))
    assert isinstance(result, MetricResult)
    assert result.overall.value == getattr(value, "value", value)


@pytest.mark.parametrize("value", [None, "0.5", [0.5], np.ones(1), True])
def test_a_metric_that_returns_something_else_is_named(value):
    with pytest.raises(HarmbenchError, match=f"'mine' returned {type(value).__name__}; it must"):
        declared(value)(MetricInputs({}, "a"), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"axis": "qualty"}, "unknown axis 'qualty'; did you mean 'quality'"),
        ({"level": "ful"}, "unknown level 'ful'; did you mean 'full'"),
        ({"direction": "loewr"}, "unknown direction 'loewr'; did you mean 'lower'"),
        ({"need": ("raw.test",)}, "unknown field of a metric 'need'; did you mean 'needs'"),
    ],
)
def test_a_misspelt_declaration_names_the_nearest(change, sentence):
    with pytest.raises(HarmbenchError, match=sentence):
        metric(**{**DECLARED, "needs": ("raw.test",), **change})


def test_a_declaration_says_what_it_lacks():
    with pytest.raises(HarmbenchError, match="'lacking' does not declare label, needs"):

        @metric(axis="quality", level="full", direction="lower")
        def lacking(inputs, rng):
            """Nothing."""


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("harmonised.test", "harmonized.test"), ("probe.ages", "probe.age"), ("truth", "truth.test")],
)
def test_a_misspelt_product_names_the_nearest(name, nearest):
    products = {product.name: product for product in PRODUCTS}
    config = resolve(methods=[MethodSpec(name="blur")])
    keys = Keys(config, "data", "a", products, {}, Split(np.array(["fit", "probe", "test"])))
    cell = Cell(config.methods[0], None)
    with pytest.raises(HarmbenchError, match=f"product '{name}'; did you mean '{nearest}'"):
        keys.product(cell, name)


def test_a_run_with_a_misspelt_product_ends_with_a_sentence(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from harmbench import metric\n"
        "@metric(label='M', axis='quality', level='full', direction='lower',\n"
        "        needs=('harmonised.test',))\n"
        "def mine(inputs, rng):\n    'Nothing.'\n    return 0.5\n"
    )
    command = ["run", "--methods", "blur", "--preset", "smoke", "--metrics", f"{file}:mine"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--quiet"])
    assert isinstance(result.exception, HarmbenchError), result.output
    assert "did you mean 'harmonized.test'" in str(result.exception)


# Methods without save and load ------------------------------------------------------------------


class Stateful(Harmonizer):
    """Keeps all kinds of state that are saved by themselves."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    @property
    def info(self):
        return MethodInfo("stateful", "Stateful", "Keeps state.")

    def fit(self, cohort, context):
        site = cohort.column("site")
        self.means = {name: cohort.images[site == name].mean(axis=0) for name in cohort.sites}
        self.scale = cohort.images.std()
        self.pieces = [np.arange(3), {"a": np.ones((2, 2), bool), "b": [1, 2.5, "x", None, True]}]
        self.nothing = {}
        return self

    def harmonize(self, cohort, target=None, *, context):
        own = np.stack([self.means[site] for site in cohort.column("site")])
        return ((cohort.images - own) / self.scale * self.factor).astype(np.float32)


def test_plain_state_comes_back_as_it_was(tmp_path):
    cohort = toy_cohort()
    method = Stateful(3.0).fit(cohort, FitContext(reference_site=cohort.sites[0]))
    method.save(tmp_path)
    again = Stateful.load(tmp_path)
    assert again.factor == 3.0
    assert type(again.scale) is type(method.scale)
    np.testing.assert_equal(vars(again), vars(method))
    images = [one.harmonize(cohort, context=ApplyContext()) for one in (method, again)]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), (1, 2), {1: 2}, np.array(["a"]), b"x", {"a": {"b": {3}}}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_state_that_would_not_come_back_is_refused_by_name(value, tmp_path):
    method = Stateful()
    method.learned = value
    with pytest.raises(HarmbenchError, match=r"the attribute learned\S* is a \w+"):
        method.save(tmp_path)


# check-method, check-metric, check-dataset ------------------------------------------------------

FILE = """
from harmbench import Harmonizer, Dataset, metric

class One(Harmonizer):
    "Lacks everything."

class Two(Harmonizer):
    def __init__(self, needed): ...
    info = fit = harmonize = None

class Stripes(Dataset):
    "Lacks everything."

@metric(label='M', axis='quality', level='full', direction='lower', needs=('raw.test',))
def mine(inputs, rng):
    "Nothing."
    return 0.5

def helper(): ...
"""


@pytest.mark.parametrize(
    ("command", "name", "sentence"),
    [
        ("method", "plug.py", "does not name the class; give FILE:NAME: .*:One, .*:Two"),
        ("metric", "plug.py", "does not name the function; give FILE:NAME: .*plug.py:mine$"),
        ("dataset", "plug.py", "does not name the class.*:Stripes"),
        ("method", "plug.py:Oen", "'Oen'; did you mean 'One'"),
        ("method", "plug.py:One", "does not define fit, harmonize, info"),
        ("method", "plug.py:Two", "cannot be made without needed"),
        ("method", "plug.py:Stripes", "is no subclass of Harmonizer"),
        ("dataset", "plug.py:One", "is no subclass of Dataset"),
        ("metric", "plug.py:helper", "is no metric; declare the function"),
        ("method", "absent.py", "there is no file"),
        ("method", "broken.py", "does not load"),
        ("metric", "truth_mea", "did you mean 'truth_mae'"),
        ("dataset", "bids", "cannot be made without path"),
    ],
)
def test_a_plugin_that_cannot_be_checked_gets_one_sentence(command, name, sentence, tmp_path):
    (tmp_path / "plug.py").write_text(FILE)
    (tmp_path / "broken.py").write_text("class (\n")
    given = str(tmp_path / name) if ".py" in name else name
    result = CliRunner().invoke(app, [f"check-{command}", given])
    assert isinstance(result.exception, HarmbenchError), result.output
    assert re.search(sentence, str(result.exception)), result.exception


@pytest.mark.parametrize(("command", "name"), [("metric", "truth_mae"), ("dataset", "phantom")])
def test_what_ships_passes(command, name):
    result = CliRunner().invoke(app, [f"check-{command}", name])
    assert result.exit_code == 0, result.output
    assert "BROKEN" not in result.output


COUNT = itertools.count()
BROKEN = {
    "fingerprint is stable": {"fingerprint": property(lambda self: str(next(COUNT)))},
    "loads a cohort": {"load": lambda self, progress=None: ToyDataset().load().only({"site"})},
    "rows are valid": {
        "load": lambda self, progress=None: ToyDataset().load().subset([0, 0, 1, 2])
    },
    "sites and reference site": {"reference_site": "nowhere"},
    "a second load is equal": {
        "load": lambda self, progress=None: ToyDataset(seed=next(COUNT)).load()
    },
    "truth is repeatable": {"truth": lambda self, site, keys, **which: np.zeros((5, 16, 16))},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_dataset_check_can_fail(name):
    results = dataset_checks(type("Broken", (ToyDataset,), BROKEN[name]))
    assert not next(result.passed for result in results if result.name == name)


def test_the_toy_data_pass():
    assert all(result.passed for result in dataset_checks(ToyDataset))
