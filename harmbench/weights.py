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
from harmbench.foreign import parse_json

ARRAYS = "weights.safetensors"
CONFIG = "model.json"


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
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / ARRAYS)
    text = json.dumps(dict(config), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


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
