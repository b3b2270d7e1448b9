"""A study file: the settings of a run in TOML, or the ``config.json`` that an earlier run left."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from harmbench import registry
from harmbench.config import MethodSpec, PluginSpec, RunConfig, resolve, validated
from harmbench.errors import HarmbenchError, unknown
from harmbench.files.foreign import at_home, mebibytes, parse_json

MOST_BYTES = {".toml": 2**16, ".json": 2**24}
"""Longer files can take minutes to be parsed."""


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
    folds: int | None = None
    subjects: int | None = None
    repeat_within: int | None = None
    reference_site: str | None = None
    threads: int | None = None
    device: str | None = None
    probe: dict[str, Any] | None = None
    inception_weights: Path | None = None
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
        most = MOST_BYTES.get(path.suffix, MOST_BYTES[".toml"])
        with path.open("rb") as stream:
            held = stream.read(most + 1)
        if len(held) > most:
            raise HarmbenchError(f"--config {path} is no study file: it exceeds {mebibytes(most)}")
        text = held.decode("utf-8")
        content = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise HarmbenchError(f"--config {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HarmbenchError(f"--config {path} is not valid {path.suffix[1:]}: {error}") from error
    if path.suffix == ".json":
        return _from_run(path, content)
    study = validated(Study, content, f"--config {path}")
    stated = study.model_dump(exclude_none=True) | _methods(study)
    return {name: at_home(value) for name, value in stated.items()}


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
        "inception_weights": run.inception if run.inception != "never" else None,
    }
    same = (
        "preset",
        "protocol",
        "metrics",
        "seeds",
        "data_seed",
        "folds",
        "reference_site",
        "threads",
    )
    more = ("device", "probe", "repeat_within", "subjects")
    return settings | {name: getattr(run, name) for name in (*same, *more)}


OF_DATA = (
    *("data", "data_options", "preset", "data_seed", "folds"),
    *("reference_site", "threads", "device"),
)
"""Settings that every command reads; the others are for `harmbench run`."""
OF_TRAINING = (*OF_DATA, "methods", "seeds")


def combined(
    study: Path | None, given: Mapping[str, Any], reads: Collection[str] = ()
) -> dict[str, Any]:
    """Return settings for `harmbench.config.resolve`: those given, above those of a study file.

    Parameters
    ----------
    study : Path or None
        File with further settings.
    given : mapping
        Settings by name, None where not given.
    reads : collection of str
        What is read of the file; empty for everything.
    """
    said = read_study(study) if study else {}
    said = {name: value for name, value in said.items() if not reads or name in reads}
    options = {**said.get("data_options", {}), **(given.get("data_options") or {})}
    settings = said | {name: value for name, value in given.items() if value is not None}
    return settings | {"data_options": options}


def resolve_method(
    study: Path | None, given: Mapping[str, Any], method: str, weights: str = "auto"
) -> RunConfig:
    """Return the settings of one method on some data.

    Parameters
    ----------
    study : Path or None
        File with further settings.
    given : mapping
        Settings by name, None where not given.
    method : str
        A method's name, or the label of a variant that the study file declares.
    weights : str
        ``auto``, ``none``, or a folder of the method's weights.

    Raises
    ------
    HarmbenchError
        For unknown names.
    """
    settings = combined(study, given, (*OF_DATA, "methods"))
    spec = _chosen(method, settings.pop("methods", ()))
    wish = weights if weights in ("auto", "none") else f"{spec.title}={weights}"
    return resolve(**settings, methods=[spec], controls=("none",), weights=[wish])


def _chosen(name: str, declared: Sequence[str | MethodSpec]) -> MethodSpec:
    specs = [MethodSpec(name=one) if isinstance(one, str) else one for one in declared]
    by_title = {spec.title: spec for spec in specs}
    if name not in by_title and ".py:" not in name and name not in registry.names("method"):
        raise unknown("method", name, {*by_title, *registry.names("method")})
    return by_title.get(name, MethodSpec(name=name))


def data_title(spec: PluginSpec) -> str:
    """Return the short name that stands in the default output folder."""
    path = spec.params.get("path")
    return Path(path).resolve().stem if path else spec.name.rpartition(":")[2]


def default_folder(
    root: str, config: RunConfig, study: Path | None, data_options: Mapping[str, Any]
) -> Path:
    """Return the folder of a run that names none: the same for what one folder can hold.

    Parameters
    ----------
    root : str
        ``"results"`` or ``"weights"``.
    config : RunConfig
        The settings.
    study : Path or None
        The study file, or the config.json of a run, whose folder it is then.
    data_options : mapping
        Those stated.

    Returns
    -------
    Path
        ``root/[<study>-]<data>-<preset>``, with a short hash where data options, the data seed or
        the reference site make it another run.
    """
    if study is not None and study.suffix == ".json":
        return study.parent
    apart = [dict(data_options), config.data_seed, config.reference_site, config.subjects]
    mark = hashlib.sha256(json.dumps(apart, sort_keys=True, default=str).encode()).hexdigest()[:6]
    names = [study.stem] if study else []
    names += [data_title(config.data), config.preset, *([mark] if any(apart) else [])]
    return Path(root) / "-".join(names)


def run_settings(
    config: str | Path | None, out: str | Path | None, *, alone: bool = True, **given: Any
) -> tuple[RunConfig, Path]:
    """Return the settings of a run and its folder.

    Parameters
    ----------
    config, out : path or None
        Study file, run folder.
    alone : bool
        Whether one process does everything; several have one thread each unless stated.
    **given
        Settings of `harmbench.config.resolve`, None where not given.
    """
    study = None if config is None else Path(config)
    settings = combined(study, given)
    if not alone:
        settings.setdefault("threads", 1)
    if not settings.get("methods") and not settings.get("controls"):
        raise HarmbenchError(
            "nothing to judge: give --methods NAME... (see `harmbench methods`), or --controls"
        )
    resolved = resolve(**settings)
    if out is not None:
        return resolved, Path(out)
    return resolved, default_folder("results", resolved, study, settings["data_options"])
