"""Digests of the objects that a job pickles by value: functions, classes, constants, arrays."""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

IMMUTABLE_TYPES = (staticmethod, classmethod, property, int, float, str, tuple)
GENERATED_ATTRIBUTES = {
    "__module__",
    "__doc__",
    "__qualname__",
    "__static_attributes__",
    "__firstlineno__",
    "__match_args__",
}


class ValueDigests:
    """Digests of objects that are pickled by value, and the modules of those that are imported by
    name.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.digests: dict[str, str] = {}

    def add(self, name: str, thing: object) -> None:
        self._sum, self._seen = hashlib.sha256(), {}  # type: ignore[var-annotated]
        self._value(thing)
        self.digests[name] = self._sum.hexdigest()

    def _text(self, *parts: object) -> None:
        for part in parts:
            self._sum.update(f"{part!r};".encode("utf-8", "backslashreplace"))

    def _value(self, value: object) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self._text(type(value).__name__, value)
            return
        if id(value) in self._seen:
            self._text("again", self._seen[id(value)][0])
            return
        # keeps the value alive, so that its id stays unique
        self._seen[id(value)] = len(self._seen), value
        match value:
            case list() | tuple():
                self._text(type(value).__name__, len(value))
                for item in value:
                    self._value(item)
            case set() | frozenset():
                self._text(
                    "set",
                    sorted(map(repr, value))
                    if all(isinstance(v, str | int | float) for v in value)
                    else len(value),
                )
            case dict():
                self._text("dict", len(value))
                for key, item in value.items():
                    self._value(key)
                    self._value(item)
            case functools.partial():
                self._value([value.func, list(value.args), dict(value.keywords)])
            case types.MethodType():
                self._value([value.__func__, value.__self__])
            case types.ModuleType():
                self._text("module", value.__name__)
                self.modules.add(value.__name__)
            case staticmethod() | classmethod():
                self._value(value.__func__)
            case property():
                self._value([value.fget, value.fset])
            case types.FunctionType() | type():
                self._named(value)
            case types.CodeType():
                self._code(value)
            case _:
                self._object(value)

    def _named(self, value: type | types.FunctionType) -> None:
        """Add a function or a class: by its name if it can be imported, else by its contents."""
        self._value(getattr(value, "__wrapped__", None))
        self._text(value.__qualname__)
        if value.__module__ and value.__module__ != "__main__":
            self.modules.add(value.__module__)
            if _found(value.__module__, value.__qualname__) is value:
                self._text(value.__module__)
                return
        if isinstance(value, type):
            self._class(value)
        else:
            self._function(value)

    def _function(self, value: types.FunctionType) -> None:
        self._code(value.__code__)
        self._value([list(value.__defaults__ or ()), dict(value.__kwdefaults__ or {})])
        for cell in value.__closure__ or ():
            try:
                self._value(cell.cell_contents)
            except ValueError:  # not bound yet
                self._text("empty")
        for name in sorted(set(_names(value.__code__))):
            if name in value.__globals__:
                self._text(name)
                self._value(value.__globals__[name])
            elif name in sys.modules:
                self.modules.add(name)

    def _class(self, value: type) -> None:
        for base in value.__bases__:
            self._value(base)
        annotations = vars(value).get("__annotations__", {})
        self._text(
            sorted(
                (name, kind if isinstance(kind, str) else getattr(kind, "__qualname__", str(kind)))
                for name, kind in annotations.items()
            )
        )
        for kind in annotations.values():
            for each in (kind, *getattr(kind, "__args__", ())):
                if isinstance(each, type):
                    self._value(each)
        for name, item in sorted(vars(value).items()):
            code = getattr(getattr(item, "__func__", item), "__code__", None)
            own = code is not None and code.co_filename[:1] != "<"  # not made by dataclass
            if (own or isinstance(item, IMMUTABLE_TYPES)) and name not in GENERATED_ATTRIBUTES:
                self._text(name)
                self._value(item)

    def _code(self, code: types.CodeType) -> None:
        self._text(
            code.co_name,
            code.co_code,
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            code.co_cellvars,
            code.co_flags,
        )
        for const in code.co_consts:
            self._value(const)

    def _object(self, value: object) -> None:
        self._value(type(value))
        if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tobytes"):
            array: Any = value
            self._text(str(array.dtype), array.shape)
            if array.dtype != object:
                import numpy as np

                # np.ma.masked has no working tobytes
                self._sum.update(np.asarray(value).tobytes())
                if isinstance(value, np.ma.MaskedArray):
                    self._sum.update(np.ma.getmaskarray(value).tobytes())
        elif isinstance(state := getattr(value, "__dict__", None), dict):
            self._value(state)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _found(module: str, qualname: str) -> Any:
    """Return the object under a name of a module, as an unpickler would find it."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
