"""Names to plug-ins: entry points of installed packages, or ``file.py:Name``."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable
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


def code_id(kind: Kind, name: str) -> str:
    """Return a hash of the sources a plug-in comes from: its file, or its package's .py files."""
    if _is_file(name):
        path = Path(name.rpartition(":")[0]).resolve()
        return _hash([(path.name, _source(path))])
    module = _entries(kind)[name].module
    return package_id(module.rpartition(".")[0] or module)


@cache
def package_id(package: str) -> str:
    """Return a hash of a package's (or a module's) sources.

    Raises
    ------
    HarmbenchError
        Where it has none.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise HarmbenchError(f"package '{package}' has no sources to identify it by")
    origin = Path(spec.origin)
    found = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return _hash((path.name, path.read_bytes()) for path in found)


def _hash(sources: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, source in sources:
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()[:16]


@cache
def _source(path: Path) -> bytes:
    """Return what a plug-in's file held when it was first asked for: the key's code is what runs.

    A file that is edited while a run is at work would else be hashed anew and put under the keys
    of what the code before it has made.
    """
    return path.read_bytes()


def refresh() -> None:
    """Read the files of plug-ins anew, at the begin of a run."""
    _source.cache_clear()


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
    source = _source(path)
    # With its content, since a cluster's workers live longer than a version of a file.
    text = str(path).encode() + b"\0" + source
    module_name = f"harmbench_plugin_{hashlib.sha256(text).hexdigest()[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            # Not by the loader, whose bytecode cache takes two versions of one second for the same.
            exec(compile(source, str(path), "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise HarmbenchError(f"{path} does not load: {error!r}") from error
    module = sys.modules[module_name]
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown(f"name in {path.name}", attribute, public)
    return getattr(module, attribute)
