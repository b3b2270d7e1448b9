"""What a run is: strict, frozen settings, resolved from flags and presets, stored as JSON."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harmbench import registry
from harmbench.contracts.cohort import FOLDS
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import Harmonizer
from harmbench.contracts.metric import Metric
from harmbench.contracts.visits import REPEAT_WITHIN
from harmbench.errors import HarmbenchError, unknown

PROTOCOL_VERSION = 2
PROTOCOLS = ("five", "core", "full")
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"probe": {"images": 6_000}, "inception": "never"},
    "standard": {"probe": {}, "inception": None},
    "paper": {"probe": {}, "inception": None},
}
ANCHORS = ("identity", "shuffle", "oracle")
"""Controls that are always computed: other rows are measured against them."""


Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginSpec(_Strict):
    """A plug-in by name with its parameters (those of the preset filled in)."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class MethodSpec(PluginSpec):
    """A method, or one variant of it under a label of its own."""

    label: str = ""

    @property
    def title(self) -> str:
        """The label of its rows: the variant's own, else the registry name."""
        return self.label or self.name.rpartition(":")[2]


class RunConfig(_Strict):
    """All that decides what a run computes."""

    data: PluginSpec
    preset: Literal["smoke", "standard", "paper"] = "standard"
    methods: tuple[MethodSpec, ...] = ()
    controls: tuple[str, ...] = ()
    protocol: Literal["five", "core", "full"] = "core"
    metrics: tuple[str, ...] = ()
    seeds: int = Field(default=1, ge=1, le=1000)
    folds: int = Field(default=FOLDS, ge=3, le=20)
    subjects: int | None = Field(default=None, ge=5)
    data_seed: int = Field(default=0, ge=0, lt=2**32)
    repeat_within: int = Field(default=REPEAT_WITHIN, ge=0)
    reference_site: str | None = None
    threads: int = Field(default=1, ge=1, le=4096)
    device: str = "cpu"
    probe: dict[str, Any] = Field(default_factory=dict)
    inception: str | None = None
    weights: dict[str, str] = Field(default_factory=dict)
    """By label: ``"auto"``, ``"none"`` or a folder; labels that are not here are ``"auto"``."""


def resolve(
    *,
    data: str = "phantom",
    preset: str = "standard",
    methods: Sequence[str | MethodSpec] = (),
    controls: Sequence[str] = (),
    protocol: str = "core",
    metrics: Sequence[str] = (),
    inception_weights: Path | None = None,
    threads: int | None = None,
    weights: Sequence[str] = (),
    data_options: Mapping[str, Any] | None = None,
    probe: dict[str, Any] | None = None,
    **rest: Any,
) -> RunConfig:
    """Turn what the user typed into a complete `RunConfig`.

    Parameters
    ----------
    data : str
        A data set's name, a BIDS folder, an ``.npz`` file, a ``.csv`` or ``.tsv`` table of
        features, or ``file.py:Name``.
    preset : {"smoke", "standard", "paper"}
        Sizes and budgets.
    methods : sequence of str or MethodSpec
        Registry names or ``file.py:Name``; a spec names a variant's parameters and label.
    controls : sequence of str
        Control names, or ``all`` or ``none``; empty for identity, shuffle and oracle.
    protocol : {"five", "core", "full"}
        Which metrics, unless `metrics` names them.
    metrics : sequence of str
        Metric names; empty for all of the protocol.
    inception_weights : Path or None
        File of the Inception weights.
    threads : int or None
        CPU threads; None for all cores.
    weights : sequence of str
        Each ``auto`` or ``none``, for all methods, or ``LABEL=auto|none|FOLDER`` for one.
    data_options : mapping or None
        Arguments of the data set, above those of the preset.
    probe : dict or None
        The probes' budget, above that of the preset.
    **rest
        Further fields of `RunConfig`.

    Raises
    ------
    HarmbenchError
        For any unknown name, with the known ones and the nearest.
    """
    registry.refresh()
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    specs = [MethodSpec(name=m) if isinstance(m, str) else m for m in methods]
    for spec in specs:
        registry.check_name("method", spec.name)
    settings = dict(PRESETS[preset])
    if probe:
        settings["probe"] = settings["probe"] | probe
    if inception_weights is not None:
        if not os.path.isfile(inception_weights):  # also false for a name that no system accepts
            raise HarmbenchError(f"--inception-weights: there is no file {inception_weights}")
        settings["inception"] = str(Path(inception_weights).resolve())
    full = _unique([method_spec(spec, preset) for spec in specs])
    found = {
        "data": _data_spec(data, preset, data_options or {}),
        "preset": preset,
        "methods": full,
        "controls": _control_names(controls),
        "protocol": protocol,
        "metrics": _metric_names(metrics, protocol),
        "threads": threads or os.cpu_count() or 1,
        "weights": _weights(weights, [spec.title for spec in full]),
    }
    return validated(RunConfig, found | settings | rest, "the settings")


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


def method_spec(spec: MethodSpec, preset: str) -> MethodSpec:
    """Return the spec with the preset's parameters filled in below its own."""
    params = _with_preset("method", spec.name, preset, spec.params)
    return spec.model_copy(update={"name": registry.absolute(spec.name), "params": params})


def _unique(specs: list[MethodSpec]) -> tuple[MethodSpec, ...]:
    return tuple(spec for i, spec in enumerate(specs) if spec not in specs[:i])


def build_method(spec: MethodSpec) -> Harmonizer:
    """Construct a method from its spec."""
    return _construct("method", spec.name, spec.params)


def build_dataset(config: RunConfig) -> Dataset:
    """Construct the data set of a run, with its data seed."""
    dataset: Dataset = _construct("dataset", config.data.name, config.data.params)
    return dataset.with_data_seed(config.data_seed) if config.data_seed else dataset


def require_unchanged(config: RunConfig, fingerprint: str) -> None:
    """Refuse data whose files were written to since their fingerprint was taken.

    Parameters
    ----------
    config : RunConfig
        Names the data.
    fingerprint : str
        Of the data set, from before its files were read.

    Raises
    ------
    HarmbenchError
        Where the files are others now.
    """
    if build_dataset(config).fingerprint != fingerprint:
        raise HarmbenchError(
            f"the files of {config.data.params.get('path', config.data.name)} changed while they "
            "were read; run again when they are complete"
        )


FILES = {
    "bids": "a BIDS folder",
    "arrays": "an .npz file",
    "table": "a .csv or .tsv file",
}
"""Data sets that need a path."""


def _data_spec(data: str, preset: str, options: Mapping[str, Any]) -> PluginSpec:
    name, params = data, dict(options)
    path = Path(data)
    # What exists wins: a folder may be called as a data set is.
    if data not in registry.names("dataset") or os.path.exists(path):
        if path.suffix == ".npz":
            name, params = "arrays", {"path": str(path.resolve()), **options}
        elif path.suffix in (".csv", ".tsv"):
            name, params = "table", {"path": str(path.resolve()), **options}
        elif os.path.isdir(path):
            name, params = "bids", {"path": str(path.resolve()), **options}
        elif ".py:" not in data:
            known = [n for n in registry.names("dataset") if n not in FILES]
            hint = unknown("data set", data, known)
            raise HarmbenchError(
                f"{hint}; or give a BIDS folder, an .npz file or a .csv or .tsv that exists"
            )
    elif data in FILES:
        raise HarmbenchError(
            f"data set '{data}' is made from {FILES[data]}: give its path instead of the name"
        )
    return PluginSpec(name=name, params=_with_preset("dataset", name, preset, params))


def _control_names(controls: Sequence[str]) -> tuple[str, ...]:
    if not controls:
        return ANCHORS
    if "none" in controls:
        if len(set(controls)) > 1:
            raise HarmbenchError(f"--controls {' '.join(controls)}: 'none' stands alone")
        return ()
    known = [n for n in registry.names("method") if _construct("method", n, {}).info.control]
    for name in controls:
        if name not in (*known, "all"):
            raise unknown("control", name, [*known, "all", "none"])
    chosen = known if "all" in controls else list(dict.fromkeys(controls))
    return tuple(sorted(chosen, key=lambda n: (ANCHORS.index(n) if n in ANCHORS else 9, n)))


def _weights(words: Sequence[str], titles: Sequence[str]) -> dict[str, str]:
    """Return what was said of each method: a word for all first, then those of single ones."""
    general = [word for word in words if word in ("auto", "none")]
    if len(set(general)) > 1:
        raise HarmbenchError(
            "--weights auto none: give one of them for all methods, METHOD=none for a single one"
        )
    chosen = dict.fromkeys(titles, general[0] if general else "auto")
    for word in words:
        if word in general:
            continue
        # A label may hold an equals sign of its own.
        title = max((t for t in titles if word.startswith(f"{t}=")), key=len, default=None)
        if title is None:
            if "=" not in word:
                raise HarmbenchError(f"--weights {word}: give auto, none, or METHOD=FOLDER")
            raise unknown("method in --weights", word.partition("=")[0], titles)
        wish = word[len(title) + 1 :]
        chosen[title] = wish if wish in ("auto", "none") else _existing_folder(wish, word)
    return chosen


def _existing_folder(text: str, word: str) -> str:
    if not os.path.isdir(text):
        raise HarmbenchError(f"--weights {word}: there is no folder '{text}'")
    return str(Path(text).resolve())


def _metric_names(metrics: Sequence[str], protocol: str) -> tuple[str, ...]:
    if metrics:
        for name in metrics:
            registry.check_name("metric", name)
        return tuple(dict.fromkeys(metrics))
    levels = PROTOCOLS[: PROTOCOLS.index(protocol) + 1]
    found: list[Metric] = [registry.load("metric", n) for n in registry.names("metric")]
    return tuple(m.info.name for m in found if m.info.level in levels)


def _with_preset(
    kind: registry.Kind, name: str, preset: str, params: dict[str, Any]
) -> dict[str, Any]:
    presets = type(_construct(kind, name, params)).presets
    return {**presets.get(preset, {}), **params}


def _construct(kind: registry.Kind, name: str, params: Mapping[str, Any]) -> Any:
    factory = registry.load(kind, name)
    known = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for param in params:
            if param not in known:
                if name in FILES:
                    flag = {"z": "slice-z"}.get(param, param.replace("_", "-"))
                    others = ", ".join(other for other in known if other != "path")
                    raise HarmbenchError(
                        f"{FILES[name]} has no data option '{param}' (--{flag}): leave it out. "
                        f"It has: {others}"
                    )
                noun = "option of data set" if kind == "dataset" else f"parameter of {kind}"
                raise unknown(f"{noun} '{name}':", param, known)
    try:
        return factory(**params)
    except TypeError as error:
        text = ", ".join(f"{k}={v!r}" for k, v in params.items()) or "no parameters"
        raise HarmbenchError(f"{kind} '{name}' cannot be made with {text}: {error}") from error
