"""Names to plug-ins: entry points of installed packages, or ``file.py:Name``."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from harmbench.errors import HarmbenchError, unknown

Kind = Literal["method", "metric", "dataset"]


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"harmbench.{kind}s")}


def names(kind: Kind) -> list[str]:
    """Return all registered names of a kind, sorted, without importing any of them."""
    return sorted(_entries(kind))


def load(kind: Kind, name: str) -> Any:
    """Return the plug-in called `name`.

    Parameters
    ----------
    kind : {"method", "metric", "dataset"}
        Methods and data sets are classes or factories, metrics are
        `harmbench.contracts.metric.Metric`.
    name : str
        A registered name, or ``file.py:Name`` for an object in a file.

    Raises
    ------
    HarmbenchError
        For an unknown name (with the nearest), a missing file or object, or a broken package.
    """
    check_name(kind, name)
    if _is_file(name):
        return _load_from_file(name)
    entry = _entries(kind)[name]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise HarmbenchError(f"{kind} '{name}' ({entry.value}) does not load: {error}") from error


def check_name(kind: Kind, name: str) -> None:
    """Raise the error of an unknown name at once, without importing anything heavy."""
    if _is_file(name):
        path = Path(name.rpartition(":")[0])
        if not os.path.isfile(path):
            raise HarmbenchError(f"{kind} '{name}': there is no file {path}")
    elif name.endswith(".py"):
        raise _without_object(kind, Path(name))
    elif name not in _entries(kind):
        raise unknown(kind, name, names(kind))


def absolute(name: str) -> str:
    """Return the name with the path of a ``file.py:Name`` made absolute."""
    if not _is_file(name):
        return name
    path, _, attribute = name.rpartition(":")
    return f"{Path(path).resolve()}:{attribute}"


def home(kind: Kind, name: str) -> tuple[str, str]:
    """Return the module (or the absolute path of the file) and the name of a plug-in."""
    if _is_file(name):
        path, _, attribute = absolute(name).rpartition(":")
        return path, attribute
    entry = _entries(kind)[name]
    return entry.module, entry.attr


@cache
def packages() -> frozenset[str]:
    """Return the names of the packages that register anything."""
    kinds: tuple[Kind, ...] = ("method", "metric", "dataset")
    return frozenset(e.module.partition(".")[0] for kind in kinds for e in _entries(kind).values())


@cache
def source(path: Path) -> bytes:
    """Return what a plug-in's file held when it was first asked for: the key's code is what runs.

    A file that is edited while a run is at work would else be hashed anew and put under the keys
    of what the code before it has made.
    """
    return path.read_bytes()


def refresh() -> None:
    """Read the files of plug-ins anew, at the begin of a run."""
    global _generation
    source.cache_clear()
    _generation += 1


_generation = 0


def generation() -> int:
    """Return how often the files of plug-ins were read anew."""
    return _generation


def _is_file(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _without_object(kind: Kind, path: Path) -> HarmbenchError:
    """Return the error of a file that is named without the object in it."""
    if not os.path.isfile(path):
        return HarmbenchError(f"{kind} '{path}': there is no file {path}")
    try:
        statements = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError) as error:
        return HarmbenchError(f"{path} does not load: {error}")
    if kind == "metric":  # a decorated function
        found = [s.name for s in statements if isinstance(s, ast.FunctionDef) and s.decorator_list]
    else:
        found = [s.name for s in statements if isinstance(s, ast.ClassDef) and s.bases]
    choices = ", ".join(f"{path}:{name}" for name in found) or f"none found in {path}"
    what = {"metric": "function"}.get(kind, "class")
    return HarmbenchError(f"{kind} '{path}' does not name the {what}; give FILE:NAME: {choices}")


def _load_from_file(name: str) -> Any:
    path_text, _, attribute = name.rpartition(":")
    path = Path(path_text).resolve()
    content = source(path)
    # With its content, since a cluster's workers live longer than a version of a file.
    text = str(path).encode() + b"\0" + content
    module_name = f"harmbench_plugin_{hashlib.sha256(text).hexdigest()[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            # Not by the loader, whose bytecode cache takes two versions of one second for the same.
            exec(compile(content, str(path), "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise HarmbenchError(f"{path} does not load: {error!r}") from error
    module = sys.modules[module_name]
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown(f"name in {path.name}", attribute, public)
    return getattr(module, attribute)


def info_of(plugin: Any) -> Any:
    """Return the declaration of a plug-in: a `MethodInfo`, `MetricInfo` or `DatasetInfo`."""
    is_made = hasattr(plugin, "info") and not inspect.isclass(plugin)
    return (plugin if is_made else instance_of(plugin)).info


def instance_of(plugin: Any) -> Any:
    """Return a method or a data set made without arguments, or with stand-ins for paths."""
    named = inspect.signature(plugin).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in named if p.default is p.empty and p.kind not in several]
    return plugin(**dict.fromkeys(required, "FOLDER"))
