"""Errors, seeds, cohort, registry and the lazy package."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import harmbench
from harmbench import code, registry
from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.errors import HarmbenchError, unknown
from harmbench.seeding import rng_from, seed_from


def make_cohort(n: int = 5, shape: tuple[int, ...] = (7, 8, 9)) -> Cohort:
    table = pd.DataFrame(
        {
            "participant_id": [f"p{i}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": ["x", "y"] * (n // 2) + ["x"] * (n % 2),
            "age": np.linspace(20.0, 60.0, n),
            "sex": "F",
        }
    )
    images = np.arange(n * np.prod(shape), dtype=np.float32).reshape(n, *shape)
    return Cohort(images, table, images > 3, "volume")


def test_cohort_subset_keeps_rows_together() -> None:
    cohort = make_cohort()
    part = cohort.subset([4, 1])
    assert [key.participant_id for key in part.keys] == ["p4", "p1"]
    np.testing.assert_array_equal(part.images, cohort.images[[4, 1]])
    np.testing.assert_array_equal(part.mask, cohort.mask[[4, 1]])
    by_mask = cohort.subset(np.array([False, True, False, False, True]))
    assert by_mask.keys == [RowKey("p1", "y", ""), RowKey("p4", "x", "")]


def test_cohort_shows_only_the_declared_columns() -> None:
    seen = make_cohort().only({"site"})
    assert set(seen.participants) == {"participant_id", "session_id", "slice", "site"}
    with pytest.raises(HarmbenchError, match="column 'age' is not there"):
        seen.column("age")


def test_cohort_with_covariates_leaves_the_original_alone() -> None:
    cohort = make_cohort()
    other = cohort.with_covariates(age=np.zeros(5))
    assert other.column("age").tolist() == [0.0] * 5
    assert cohort.column("age")[0] == 20.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": np.zeros((4, 7, 8, 9), np.float32)}, "4 images but 5 rows"),
        ({"mask": np.zeros((5, 7, 8), bool)}, "mask shape"),
        ({"images": np.zeros((5, 7, 8, 9))}, "float64"),
    ],
)
def test_cohort_refuses_what_does_not_fit(change: dict, sentence: str) -> None:
    good = make_cohort()
    fields = {"images": good.images, "participants": good.participants, "mask": good.mask}
    with pytest.raises(HarmbenchError, match=sentence):
        Cohort(**{**fields, **change})


def test_seeds_depend_on_the_named_parts_alone() -> None:
    assert seed_from("method", 1) == seed_from("method", 1)
    assert len({seed_from("a", 1), seed_from("a", 2), seed_from("a1"), seed_from("a", "1")}) == 4
    assert seed_from("phantom", 0) == 3667609273822245635, "seeds must be the same everywhere"
    assert rng_from("x").random() == rng_from("x").random()


def test_unknown_name_is_refused_with_the_nearest() -> None:
    assert "did you mean 'combat'?" in str(unknown("method", "comabt", ["combat", "gan"]))
    with pytest.raises(HarmbenchError, match=r"unknown method 'combatt'; did you mean 'combat'"):
        registry.check_name("method", "combatt")


def test_registry_loads_from_a_file(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    pass\n")
    assert registry.load("method", f"{file}:Mine").__name__ == "Mine"
    before = code.code_id("method", f"{file}:Mine")
    file.write_text("class Mine:\n    x = 1\n")
    assert code.code_id("method", f"{file}:Mine") == before, "kept for a run"
    registry.refresh()
    assert code.code_id("method", f"{file}:Mine") != before
    with pytest.raises(HarmbenchError, match="did you mean 'Mine'"):
        registry.load("method", f"{file}:Mime")
    with pytest.raises(HarmbenchError, match="there is no file"):
        registry.load("method", f"{tmp_path}/none.py:Mine")


def test_every_entry_point_loads_and_carries_its_name() -> None:
    for name in registry.names("metric"):
        assert registry.load("metric", name).info.name == name
    for name in registry.names("method"):
        assert registry.load("method", name)().info.name == name
    for name in ("phantom", "phantom-dev"):
        assert registry.load("dataset", name)().info.name == name


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, harmbench, harmbench.cli.app\n"
        "heavy = {'torch', 'pandas', 'numpy', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there() -> None:
    assert all(hasattr(harmbench, name) for name in harmbench.__all__)
    with pytest.raises(AttributeError):
        harmbench.nothing  # noqa: B018
