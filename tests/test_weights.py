"""Saved models: exact round trips, and errors instead of unpickling."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from harmbench.errors import HarmbenchError
from harmbench.files.models import ARRAYS, CONFIG, load_model, save_model


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_arrays_come_back_bit_for_bit(tmp_path, dtype):
    values = (np.random.default_rng(0).standard_normal((7, 8, 9)) * 3).astype(dtype)
    save_model(tmp_path / "new" / "folder", {"values": values, "turned": values.T}, {})
    arrays, _ = load_model(tmp_path / "new" / "folder")
    assert arrays["values"].dtype == dtype
    assert_array_equal(arrays["values"], values)
    assert_array_equal(arrays["turned"], values.T)  # not contiguous in memory


def test_config_comes_back_and_does_not_depend_on_the_order_of_keys(tmp_path):
    config = {"sites": ["b", "a"], "sigma": 0.1, "eb": True, "none": None, "name": "Zürich"}
    save_model(tmp_path / "one", {}, config)
    save_model(tmp_path / "two", {}, dict(reversed(config.items())))
    assert load_model(tmp_path / "one") == ({}, config)
    assert (tmp_path / "one" / CONFIG).read_bytes() == (tmp_path / "two" / CONFIG).read_bytes()


def test_same_content_same_bytes(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.ones(4, dtype=np.float32)}
    save_model(tmp_path / "one", arrays, {})
    save_model(tmp_path / "two", dict(reversed(arrays.items())), {})
    assert (tmp_path / "one" / ARRAYS).read_bytes() == (tmp_path / "two" / ARRAYS).read_bytes()


def test_only_safetensors_and_json_are_written(tmp_path):
    save_model(tmp_path, {"a": np.ones(3)}, {"b": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ARRAYS, CONFIG])
    assert json.loads((tmp_path / CONFIG).read_text()) == {"b": 1}


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", [ARRAYS, CONFIG])
def test_a_pickle_is_an_error_and_is_never_opened(tmp_path, name):
    save_model(tmp_path, {"a": np.ones(3)}, {})
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(HarmbenchError, match="does not hold a saved model"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", [ARRAYS, CONFIG])
def test_a_missing_or_cut_file_is_an_error_that_names_what_is_needed(tmp_path, name):
    save_model(tmp_path, {"a": np.ones(300)}, {"b": 1})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HarmbenchError, match=f"{ARRAYS} and {CONFIG}"):
        load_model(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(HarmbenchError, match=f"{ARRAYS} and {CONFIG}"):
        load_model(tmp_path)
