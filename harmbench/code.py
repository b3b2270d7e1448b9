"""The code behind a result: a function or class and all first-party code that it reaches.

A name is followed from its definition through the names in it, across imports, within harmbench
and the package of the plug-in. Comments, docstrings and annotations do not count. So a change
concerns those results only whose code it touches.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from harmbench import registry

WITHOUT_EFFECT = ("harmbench.errors", "harmbench.progress")
"""Modules whose code changes what is said of a result, never the result."""

BINDING = (ast.stmt, ast.expr, ast.excepthandler)
SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
"""Expressions whose names are their own."""

Symbol = tuple[str, str]
"""A module (its dotted name, or the path of a file) and a name in it; ``""`` for all of it."""


@dataclass
class _Module:
    """The top level of a source file.

    Attributes
    ----------
    definitions : dict of str to list of statements
        What binds each name.
    imports : dict of str to Symbol
        What imported names stand for.
    always : list of statements
        What runs at the import and binds no name.
    """

    name: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Symbol] = field(default_factory=dict)
    always: list[ast.stmt] = field(default_factory=list)


class _Stripped(ast.NodeTransformer):
    """Removes docstrings, other bare strings, and annotations of functions."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


def code_id(kind: registry.Kind, name: str) -> str:
    """Return the hash of a plug-in's code.

    Parameters
    ----------
    kind : {"method", "metric", "dataset"}
        What it is.
    name : str
        As in `harmbench.registry.load`.
    """
    return symbol_id(*registry.home(kind, name))


def function_id(function: Callable[..., Any]) -> str:
    """Return the hash of a function's code and of the values that are bound into it.

    Parameters
    ----------
    function : callable
        A function of a module, one that another function has made, or a `functools.partial`.
    """
    if isinstance(function, partial):
        bound = [*function.args, *sorted(function.keywords.items())]
        return _hash([function_id(function.func), *map(_value, bound)])
    cells = getattr(function, "__closure__", None) or ()
    outer = function.__qualname__.partition(".")[0]
    name = "" if outer.startswith("<") else outer
    return _hash([symbol_id(function.__module__, name), *(_value(c.cell_contents) for c in cells)])


def _value(value: Any) -> str:
    return function_id(value) if hasattr(value, "__qualname__") else repr(value)


def symbol_id(module: str, name: str) -> str:
    """Return the hash of one name of a module with all code that it reaches.

    Parameters
    ----------
    module : str
        Its dotted name, or the path of a file.
    name : str
        A name at its top level; ``""`` for the whole module.
    """
    return _symbol_id(module, name, registry.generation())


@cache
def _symbol_id(module: str, name: str, generation: int) -> str:
    packages = registry.packages() | {module.partition(".")[0]}
    seen: dict[Symbol, str] = {}
    waiting: list[Symbol] = [(module, name)]
    while waiting:
        symbol = waiting.pop()
        if symbol not in seen:
            seen[symbol], reached = _read(symbol, packages, generation)
            waiting += reached
    # Without the folder of a plug-in's file, which may be moved.
    return _hash(f"{Path(home).name} {what} {text}" for (home, what), text in sorted(seen.items()))


@cache
def _read(
    symbol: Symbol, packages: frozenset[str], generation: int
) -> tuple[str, frozenset[Symbol]]:
    """Return the text of one symbol, and the first-party symbols that are named in it."""
    parsed = _parse(symbol[0], generation)
    statements = _statements(parsed, symbol[1])
    reached = (_reached(statement, parsed, packages, generation) for statement in statements)
    text = "".join(map(ast.dump, statements))
    return text, frozenset(one for found in reached for one in found)


def _hash(texts: Any) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@cache
def _parse(module: str, generation: int) -> _Module:
    """Return the top level of a module; what a block (if, try, with) binds, the block binds."""
    parsed = _Module(module)
    for statement in ast.parse(_source(module)).body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        for found in ast.walk(statement):
            if isinstance(found, ast.Import | ast.ImportFrom):
                parsed.imports |= _imported(found, module)
        names = set(_bound(statement))
        stripped = _Stripped().visit(statement)
        if stripped is None or isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        for name in names:
            parsed.definitions.setdefault(name, []).append(stripped)
        if not names:
            parsed.always.append(stripped)
    return parsed


def _source(module: str) -> bytes:
    return registry.source(Path(module)) if module.endswith(".py") else _module_source(module)


@cache
def _module_source(module: str) -> bytes:
    """Return the source of a module as it was when this process first asked: what it runs."""
    spec = importlib.util.find_spec(module)
    has_file = spec is not None and spec.origin and spec.origin.endswith(".py")
    return Path(spec.origin).read_bytes() if has_file else b""  # type: ignore[union-attr, arg-type]


def _imported(statement: ast.Import | ast.ImportFrom, module: str) -> dict[str, Symbol]:
    if isinstance(statement, ast.Import):
        pairs = [(alias.asname or alias.name.partition(".")[0], alias) for alias in statement.names]
        return {n: (a.name if a.asname else n, "") for n, a in pairs}
    base = statement.module or ""
    if statement.level:
        package = module.split(".")
        kept = len(package) - statement.level + _is_package(module)
        base = ".".join([*package[:kept], *filter(None, [base])])
    return {alias.asname or alias.name: (base, alias.name) for alias in statement.names}


@cache
def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module) if not module.endswith(".py") else None
    return spec is not None and spec.submodule_search_locations is not None


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds at the top level."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, BINDING) and not isinstance(child, SCOPES):
            yield from _bound(child)  # type: ignore[arg-type]


def _statements(module: _Module, name: str) -> list[ast.stmt]:
    """Return what defines a name, and what runs at the import of its module in any case."""
    if name and name in module.definitions:
        return [*module.definitions[name], *module.always]
    if name and (name in module.imports or "__getattr__" in module.definitions):
        return []
    every = {id(s): s for found in module.definitions.values() for s in found}
    return [*every.values(), *module.always]


def _reached(
    statement: ast.stmt, module: _Module, packages: frozenset[str], generation: int
) -> Iterator[Symbol]:
    """Yield the first-party names in a statement."""
    for node in ast.walk(statement):
        chain = _chain(node)
        if chain and chain[0] in module.imports:
            home, name = module.imports[chain[0]]
            yield from _follow(home, [*filter(None, [name]), *chain[1:]], packages, generation)
        elif chain and chain[0] in module.definitions:
            yield module.name, chain[0]


def _chain(node: ast.AST) -> list[str]:
    """Return ``["a", "b"]`` of the expression ``a.b``, [] of other nodes."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def _follow(
    home: str, names: list[str], packages: frozenset[str], generation: int
) -> Iterator[Symbol]:
    """Yield what ``home.names[0].names[1]...`` stands for, through names that are passed on."""
    while names and home.partition(".")[0] in packages and _is_module(f"{home}.{names[0]}"):
        home, names = f"{home}.{names[0]}", names[1:]
    if home.partition(".")[0] not in packages or home in WITHOUT_EFFECT:
        return
    if not names:
        return  # a module by itself, of which an attribute is named elsewhere
    found = _parse(home, generation)
    if names[0] in found.imports and names[0] not in found.definitions:
        onward, name = found.imports[names[0]]
        yield from _follow(onward, [*filter(None, [name]), *names[1:]], packages, generation)
    else:
        yield home, names[0]
