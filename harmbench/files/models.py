"""What was learned, on disk: safetensors for arrays, JSON for the rest; nothing unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from harmbench.errors import HarmbenchError
from harmbench.files.foreign import parse_json

ARRAYS = "weights.safetensors"
CONFIG = "model.json"
ARRAY = "<array>"
"""Key of the name of an array where it stood in a saved state."""


def save_model(folder: Path, arrays: Mapping[str, NDArray], config: Mapping[str, Any]) -> None:
    """Write arrays and a JSON-able description of a fitted method into `folder`.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    arrays : mapping of str to ndarray
        Numbers and booleans only; strings belong into `config`.
    config : mapping
        What JSON can say: parameters, names of sites, ...
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, folder / ARRAYS)
    text = json.dumps(dict(config), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def save_state(folder: Path, state: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Write the attributes of a fitted method: arrays and plain values, also in lists and dicts.

    Parameters
    ----------
    folder : Path
    state : mapping
        Attributes by name.
    params : mapping
        Arguments of the constructor.

    Raises
    ------
    HarmbenchError
        For a value that would not come back as it is.
    """
    arrays: dict[str, NDArray] = {}

    def plain(value: Any, place: str) -> Any:
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
            arrays[place] = np.asarray(value)
            return {ARRAY: place}
        if type(value) is list:
            return [plain(one, f"{place}.{i}") for i, one in enumerate(value)]
        if type(value) is dict and all(type(key) is str for key in value) and ARRAY not in value:
            return {key: plain(one, f"{place}.{key}") for key, one in value.items()}
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise HarmbenchError(
            f"the attribute {place} is a {type(value).__name__}, which is not saved by itself; "
            "keep arrays, numbers, text, and lists and dicts of these, or write `save` and `load`"
        )

    named = {name: plain(value, name) for name, value in state.items()}
    save_model(folder, arrays, {"params": dict(params), "state": named})


def load_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read back what `save_state` wrote.

    Returns
    -------
    state, params

    Raises
    ------
    HarmbenchError
        Where a file is missing or damaged.
    """
    arrays, config = load_model(folder)

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(one) for one in value]
        if isinstance(value, dict):
            if set(value) == {ARRAY}:
                return arrays[value[ARRAY]][()]  # an array without dimensions is a number again
            return {key: whole(one) for key, one in value.items()}
        return value

    try:
        return whole(config["state"]), config["params"]
    except (KeyError, TypeError) as error:
        raise HarmbenchError(f"{folder} does not hold a saved method (no {error})") from error


def load_model(folder: Path) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Read back what `save_model` wrote.

    Returns
    -------
    arrays, config

    Raises
    ------
    HarmbenchError
        Where a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        config = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} is not a JSON object")
        return load_file(folder / ARRAYS), config
    except (OSError, ValueError, SafetensorError) as error:
        raise HarmbenchError(
            f"{folder} does not hold a saved model ({error}); it needs {ARRAYS} and {CONFIG}"
        ) from error
