"""What the key of a result stands for: code, settings, and what it was made of."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harmbench.data.toy
from harmbench import code, registry
from harmbench.config import MethodSpec, RunConfig, resolve
from harmbench.data.splits import Split
from harmbench.engine.keys import Cell, Keys, make_cells
from harmbench.engine.run import open_graph, run
from harmbench.protocol import PRODUCTS

HELPERS = """
LIMIT = 3


def used(x):
    return min(x, LIMIT)


def unused(x):
    return x
"""
PLUGIN = """
from {package} import helpers
from {package}.helpers import used as limited
from harmbench.contracts.metric import metric
from harmbench import Estimate, MetricResult


def own(x: float) -> float:
    return limited(x)


@metric(label="One", axis="quality", level="five", direction="higher", needs=("harmonized.test",))
def one(inputs, rng):
    '''One.'''
    return MetricResult(Estimate(own(float(inputs.cohort("harmonized.test").images.mean())), n=9))


@metric(label="Two", axis="quality", level="five", direction="higher", needs=("harmonized.test",))
def two(inputs, rng):
    '''Two.'''
    return MetricResult(Estimate(float(inputs.cohort("harmonized.test").images.max()), n=9))
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a plug-in whose helpers lie in a package that is installed."""
    package = f"helpers_{tmp_path.name}".replace("-", "_")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / "helpers.py").write_text(HELPERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "packages", lambda: frozenset({"harmbench", package}))
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(package=package))
    return file


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    code._module_source.cache_clear()
    registry.refresh()


def ids(file: Path) -> list[str]:
    return [code.code_id("metric", f"{file}:{name}") for name in ("one", "two")]


@pytest.mark.parametrize(
    ("where", "old", "new", "changed"),
    [
        ("mine.py", "x: float) -> float", "x: int) -> int", []),
        ("mine.py", "    return limited(x)", "    # why\n    return limited(x)", []),
        ("mine.py", "'''One.'''", "'''The first.'''", []),
        ("helpers.py", "return x\n", "return -x\n", []),
        ("mine.py", "limited(x)", "limited(x) + 1", ["one"]),
        ("mine.py", "n=9))\n\n", "n=8))\n\n", ["one"]),
        ("mine.py", ".max()", ".min()", ["two"]),
        ("helpers.py", "min(x", "max(x", ["one"]),
        ("helpers.py", "LIMIT = 3", "LIMIT = 4", ["one"]),
    ],
)
def test_a_key_holds_the_code_that_is_reached(
    plugin: Path, where: str, old: str, new: str, changed: list[str]
) -> None:
    file = next(plugin.parent.rglob(where))
    before = dict(zip(("one", "two"), ids(plugin), strict=True))
    edited(file, old, new)
    after = dict(zip(("one", "two"), ids(plugin), strict=True))
    assert [name for name in before if before[name] != after[name]] == changed


def test_an_edited_metric_is_one_node(plugin: Path, tmp_path: Path) -> None:
    toy = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
    asked = {"metrics": [f"{plugin}:one", f"{plugin}:two"], "controls": ["none"], "threads": 1}
    run(resolve(data=toy, methods=["combat"], **asked), tmp_path / "out")
    edited(plugin, ".max()", ".min()")
    missing = open_graph(tmp_path / "out").missing()
    assert {node.name for node in missing} == {"two"}
    assert Counter(node.cell.spec.title for node in missing)["combat"] == 1


@pytest.mark.parametrize(
    ("module", "name", "reached"),
    [
        ("harmbench.protocol.site.accuracy", "site_excess", "harmbench/stats"),
        ("baselines.combat", "Combat", "baselines/covariates.py"),
        ("ddae.method", "DDAE", "harmbench/training/loop.py"),
        ("harmbench.engine.fitting", "fit", "harmbench/data/splits.py"),
    ],
)
def test_code_of_the_suite_is_reached(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, reached: str
) -> None:
    read: set[str] = set()
    parse = code._parse

    def spy(module: str, generation: int) -> Any:
        read.add(module.replace(".", "/"))
        return parse(module, generation)

    monkeypatch.setattr(code, "_parse", spy)
    code._symbol_id.cache_clear()
    code.symbol_id(module, name)
    assert any(one.startswith(reached.removesuffix(".py")) for one in read), sorted(read)


def test_values_bound_into_a_function_are_in_its_key() -> None:
    def maker(value: int) -> Any:
        return lambda: value

    assert code.function_id(maker(1)) == code.function_id(maker(1))
    assert code.function_id(maker(1)) != code.function_id(maker(2))
    assert code.function_id(partial(ids, 1)) != code.function_id(partial(ids, 2))


def test_an_edited_plugin_is_loaded_again_by_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    found = set()
    for value in ("1", "2"):
        file.write_text(f"THING = {value}")
        registry.refresh()
        assert int(value) == registry.load("method", f"{file}:THING")
        found.add(code.code_id("method", f"{file}:THING"))
        file.write_text("THING = 3")
        assert int(value) == registry.load("method", f"{file}:THING"), "edited during the run"
        found.add(code.code_id("method", f"{file}:THING"))
    assert len(found) == 2, "what is loaded and its hash are not of one text"


THREE_PARTS = Split(np.array(["fit", "probe", "test"]))


def keys(**settings: object) -> tuple[Keys, Cell]:
    config: RunConfig = resolve(
        **{"data": "phantom", "methods": [MethodSpec(name="blur")], "threads": 1, **settings}
    )
    cells = make_cells(config, has_truth=True)
    anchors = {cell.spec.name: cell for cell in cells}
    products = {product.name: product for product in PRODUCTS}
    return Keys(config, "data", "a", products, anchors, THREE_PARTS), cells[-1]


@pytest.mark.parametrize("name", ["features.random-conv.raw_test", "features.random-conv.test"])
def test_features_hang_on_threads_and_the_kind_of_device(name: str) -> None:
    def key(**settings: object) -> str:
        found, cell = keys(**settings)
        return found.product(cell, name)

    assert key() == key()
    assert len({key(), key(threads=2), key(device="cuda")}) == 3
    assert key(device="cuda:1") == key(device="cuda")
