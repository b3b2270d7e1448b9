"""A study file: the settings of a run in TOML, or the ``config.json`` that an earlier run left."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harmbench.config import MethodSpec, RunConfig
from harmbench.errors import HarmbenchError, unknown


class Study(BaseModel):
    """The keys of a study file; each means what the flag of the same name means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str | None = None
    data_options: dict[str, Any] | None = None
    preset: str | None = None
    methods: tuple[str | MethodSpec, ...] | None = None
    controls: tuple[str, ...] | None = None
    protocol: str | None = None
    metrics: tuple[str, ...] | None = None
    seeds: int | None = None
    data_seed: int | None = None
    reference_site: str | None = None
    threads: int | None = None
    device: str | None = None
    probe: dict[str, Any] | None = None
    inception: Path | None = None
    weights: tuple[str, ...] | None = None


def read_study(path: Path) -> dict[str, Any]:
    """Return the settings that a file states, for `harmbench.config.resolve`.

    Parameters
    ----------
    path : Path
        A ``.toml`` file with the keys of `Study`, or a run folder's ``config.json``.

    Returns
    -------
    dict
        Only the keys that are stated.

    Raises
    ------
    HarmbenchError
        For a missing or broken file, an unknown key (with the nearest), or a value of a wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise HarmbenchError(f"--config {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise HarmbenchError(f"--config {path} is not valid {path.suffix[1:]}: {error}") from error
    if path.suffix == ".json":
        return _from_run(path, content)
    study = validated(Study, content, f"--config {path}")
    return study.model_dump(exclude_none=True) | _methods(study)


def _methods(study: Study) -> dict[str, Any]:
    """Return the methods as they were parsed: names, or specs of variants."""
    return {} if study.methods is None else {"methods": study.methods}


def _from_run(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or "run" not in content:
        raise HarmbenchError(
            f"--config {path} is not a run's config.json: it has no 'run'; give that or a .toml"
        )
    run = validated(RunConfig, content["run"], f"--config {path}")
    data = dict(run.data.params)
    settings = {
        "data": data.pop("path", run.data.name),
        "data_options": data,
        "methods": run.methods,
        "controls": run.controls or ("none",),
        "weights": tuple(f"{title}={wish}" for title, wish in run.weights.items()),
        "inception": Path(run.inception) if run.inception not in (None, "never") else None,
    }
    same = ("preset", "protocol", "metrics", "seeds", "data_seed", "reference_site", "threads")
    return settings | {name: getattr(run, name) for name in (*same, "device", "probe")}


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], content: Any, where: str) -> Model:
    """Return the content as `model`, turning what pydantic says into one clear sentence."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        extra = next((e for e in found if e["type"] == "extra_forbidden"), None)
        if extra is not None:
            *path, key = extra["loc"]
            known = MethodSpec.model_fields if "methods" in path else model.model_fields
            raise HarmbenchError(f"{where}: {unknown('key', str(key), known)}") from error
        place = ".".join(str(part) for part in found[0]["loc"])
        raise HarmbenchError(f"{where}: '{place}': {found[0]['msg']}") from error
