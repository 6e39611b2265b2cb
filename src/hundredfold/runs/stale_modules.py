"""Detects modules that were edited after this process imported them."""

from __future__ import annotations

import ast
import functools
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

from .. import import_times as imported
from .module_closure import ModuleClosure

CLOCK_GRANULARITY_NS = 20_000_000  # by which a file's times may be behind the clock
RECENT_EDIT_NS = 2_000_000_000  # within it, a newer file is compared with the module in memory


def is_stale(name: str, closure: ModuleClosure) -> bool:
    """Return whether a module's file was edited after this process imported it."""
    module, fingerprint = closure.modules[name], closure.modules[name].fingerprint
    if name not in sys.modules or fingerprint is None or module.kind == "namespace":
        return False
    _, mtime, ctime, _ = fingerprint
    earliest, latest = _import_times(name)
    # some file systems store whole seconds only
    grain = RECENT_EDIT_NS if ctime % 1_000_000_000 == 0 else CLOCK_GRANULARITY_NS
    if max(mtime, ctime) < earliest - grain:
        return False
    if mtime > latest + RECENT_EDIT_NS:
        return True
    return module.kind == "source" and _differs(
        sys.modules[name], closure.sources[name], module.origin
    )


def _import_times(name: str) -> tuple[int, int]:
    """Return the earliest and the latest possible time of a module's import."""
    known = imported.TIMES.get(name)
    if known is not None:
        return known, known
    return _started(), imported.SINCE


@functools.cache
def _started() -> int:
    return int(psutil.Process().create_time() * 1e9)


def _differs(module: types.ModuleType, data: bytes, origin: str) -> bool:
    """Return whether a module in memory differs from its source in functions, classes or
    constants.
    """
    if type(module.__loader__).__name__ != "SourceFileLoader":  # an import hook rewrites it
        return False
    try:
        tree = ast.parse(data)
        code = compile(tree, origin, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return True
    known = set(_nested(code))
    if any(
        own.co_filename == origin and own not in known
        for own in _codes(vars(module), module.__name__)
    ):
        return True
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name not in vars(
            module
        ):
            return True
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _constant_changed(
                name, value, module, tree
            ):
                return True
    return False


def _constant_changed(
    name: str, value: ast.expr, module: types.ModuleType, tree: ast.Module
) -> bool:
    """Return whether a constant of the source has another value in memory.

    Names that the program assigns again do not count.
    """
    try:
        wanted = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    stores = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store | ast.Del)
    ]
    if len(stores) != 1 or (isinstance(wanted, list | dict | set) and not wanted):
        return False
    return repr(vars(module).get(name)) != repr(wanted)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield const
            yield from _nested(const)


def _codes(names: Mapping[str, Any], module: str) -> Iterator[types.CodeType]:
    """Yield the code of the functions of a module, methods included."""
    for value in list(names.values()):
        if getattr(value, "__module__", module) != module:
            continue
        if isinstance(value, type):
            yield from _codes(
                {k: v for k, v in vars(value).items() if not isinstance(v, type)}, module
            )
        function = getattr(value, "__func__", getattr(value, "fget", value))
        while function is not None:
            if isinstance(code := getattr(function, "__code__", None), types.CodeType):
                yield code
            function = getattr(function, "__wrapped__", None)
