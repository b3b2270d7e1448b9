"""What the key of a result stands for: code, settings, and what it was made of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import harmbench
from harmbench.config import MethodSpec, RunConfig, resolve
from harmbench.engine.keys import SHARED_ROOMS, Cell, Keys, make_cells
from harmbench.protocol import PRODUCTS

ROOT = Path(harmbench.__file__).parents[1]
NOT_RESULTS = {
    *("errors", "files", "progress", "memory", "worklog"),  # what is said and kept, not computed
    *("method", "contracts.metric", "product", "dataset", "registry"),  # contracts: no numbers
    *("config", "data.toy", "weights", "imaging", "foreign"),  # settings, checks, formats
    "precision",  # the precision that it chooses stands in the key itself
}
"""Rooms that methods and the protocol import and whose code changes no result."""


def imported(package: str) -> set[str]:
    """Return the rooms of the suite that a package's files import."""
    found = set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
                if node.module in ("harmbench", "harmbench.data"):
                    modules = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {m.removeprefix("harmbench.") for m in modules if "harmbench." in m}
    return {room for room in found if not room.startswith("protocol")}


@pytest.mark.parametrize("package", ["baselines", "ddae", "harmbench/protocol"])
def test_all_code_that_makes_results_is_in_their_keys(package: str) -> None:
    rooms = imported(package)
    assert rooms
    behind = {r for r in rooms if any(f"{r}.".startswith(f"{shared}.") for shared in SHARED_ROOMS)}
    strangers = rooms - behind - NOT_RESULTS - {name for name in rooms if name[0].isupper()}
    assert not strangers, "decide whether these belong to the keys"


def keys(**settings: object) -> tuple[Keys, Cell]:
    config: RunConfig = resolve(
        **{"data": "phantom", "methods": [MethodSpec(name="blur")], "threads": 1, **settings}
    )
    cells = make_cells(config, [""], has_truth=True)
    anchors = {cell.spec.name: {"": cell} for cell in cells}
    products = {product.name: product for product in PRODUCTS}
    return Keys(config, "data", "a", products, anchors), cells[-1]


@pytest.mark.parametrize("name", ["features.random-conv.raw_test", "features.random-conv.test"])
def test_features_hang_on_threads_and_the_kind_of_device(name: str) -> None:
    def key(**settings: object) -> str:
        found, cell = keys(**settings)
        return found.product(cell, name)

    assert key() == key()
    assert len({key(), key(threads=2), key(device="cuda")}) == 3
    assert key(device="cuda:1") == key(device="cuda")
