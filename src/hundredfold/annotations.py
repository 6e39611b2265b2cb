"""Annotations reduced to the types that they denote, on every supported version of Python.

A type can be written as an alias (`type X = ...`, such as NDArray of NumPy 2.5), a NewType, an
Annotated, a string or a forward reference. Every reader of annotations uses this module, so that
all of these mean the same everywhere.

A function can be a method, a partial, a callable object or decorated: its signature is read through
all of these, and strings in it are evaluated in the module of the written function. A string that
cannot be evaluated is returned as it is, and the reader decides whether it can be ignored.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

MAX_NESTING = 50  # aliases of aliases; an alias of itself exceeds any limit
QUALIFIERS = ("Required", "ReadOnly", "Final")  # describe a field, not its type


def bare(annotation: Any) -> Any:
    """Return the type of an annotation without aliases, NewTypes and qualifiers around it.

    Annotated is kept, since its metadata is for the reader.

    Raises:
        TypeError: the alias cannot be evaluated, or is defined by itself.
    """
    for _ in range(MAX_NESTING):
        origin = get_origin(annotation)
        if _is_alias(annotation):
            annotation = _value_of(annotation)
        elif _is_alias(origin):
            annotation = _with_arguments(origin, get_args(annotation))
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif getattr(origin, "_name", None) in QUALIFIERS:
            annotation = get_args(annotation)[0]
        else:
            return annotation
    raise TypeError(f"{annotation} is defined by itself")


def without_metadata(annotation: Any) -> Any:
    """Return the type of an annotation without the metadata of Annotated."""
    annotation = bare(annotation)
    while get_origin(annotation) is Annotated:
        annotation = bare(get_args(annotation)[0])
    return annotation


def one_type(annotation: Any) -> Any:
    """Return the one type of an annotation, without None; for a TypeVar, that of its bound.

    Raises:
        TypeError: the annotation allows several types.
    """
    annotation = without_metadata(annotation)
    if isinstance(annotation, TypeVar):
        return one_type(annotation.__bound__ or Any)
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    members = [member for member in get_args(annotation) if member is not type(None)]
    if len(members) != 1:
        raise TypeError(f"{annotation} can be several types, wanted one")
    return one_type(members[0])


def _is_alias(annotation: Any) -> bool:
    """Return whether it is a `type X = ...`, of typing or of typing_extensions."""
    return type(annotation).__name__ == "TypeAliasType"


def _value_of(alias: Any) -> Any:
    try:
        value = alias.__value__
        if isinstance(value, str):
            value = evaluated(value, vars(sys.modules.get(alias.__module__, typing)), {})
    except Exception as error:  # code of the user
        raise TypeError(f"the alias {alias} cannot be evaluated ({error})") from error
    return value


def _with_arguments(alias: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the value of a generic alias: tuple[int, int] for Pair[int], `type Pair[T] = ...`."""
    value, parameters = _value_of(alias), alias.__type_params__
    defaults = [
        getattr(parameter, "__default__", Any) for parameter in parameters[len(arguments) :]
    ]
    given = dict(zip(parameters, (*arguments, *defaults), strict=False))
    if value in parameters:
        return given.get(value, Any)
    wanted = getattr(value, "__parameters__", ())
    try:
        return value[tuple(given.get(parameter, Any) for parameter in wanted)] if wanted else value
    except TypeError as error:
        raise TypeError(f"the alias {alias} does not take {arguments}") from error


def evaluated(annotation: Any, names: Mapping[str, Any], local_names: Mapping[str, Any]) -> Any:
    """Return an annotation with its strings evaluated; exceptions of the evaluation are raised."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, dict(names), dict(local_names), include_extras=True)["it"]


def signature_of(work: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a callable, with its annotations as they were written.

    Raises:
        TypeError, ValueError: Python cannot read a signature.
    """
    # Python 3.14 evaluates annotations when they are read, and a name can be missing then
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(work, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(work)


def annotations_of(work: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotation of each parameter, and of `return` last.

    None without an annotation, and a string if it cannot be evaluated.
    """
    signature = signature_of(work)
    names, local_names = _names_around(work)
    found = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    found["return"] = work if isinstance(work, type) else signature.return_annotation
    return {
        name: None if hint is inspect.Parameter.empty else _evaluated(hint, names, local_names)
        for name, hint in found.items()
    }


def unevaluated(annotation: Any) -> str | None:
    """Return a string of an annotation that was not evaluated; None if all of it was."""
    if isinstance(annotation, str):
        return annotation
    reference = getattr(annotation, "__forward_arg__", None)
    if isinstance(reference, str):
        return reference
    origin, parts = get_origin(annotation), get_args(annotation)
    # strings in Literal and in the metadata of Annotated are values
    parts = () if origin is Literal else parts[:1] if origin is Annotated else parts
    return next((text for part in parts if (text := unevaluated(part))), None)


def is_async(work: Callable[..., Any]) -> bool:
    """Return whether a call returns an awaitable or an asynchronous iterator instead of a value."""
    while isinstance(work, functools.partial):
        work = work.func
    if not inspect.isroutine(work) and not isinstance(work, type):
        work = getattr(type(work), "__call__", work)  # noqa: B004  # the method itself
    return inspect.iscoroutinefunction(work) or inspect.isasyncgenfunction(work)


def written_function(work: Callable[..., Any]) -> types.FunctionType | None:
    """Return the innermost function of methods, partials, callable objects and decorators.

    Decorators are followed if they set `__wrapped__`, as functools.wraps does.
    """
    for layer in _layers(work):
        if isinstance(layer, types.FunctionType) and not hasattr(layer, "__wrapped__"):
            return layer
    return None


def enclosed_functions(work: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield the functions that a callable holds and can call.

    A decorator without functools.wraps holds its function in this way.
    """
    for layer in _layers(work):
        held: list[Any] = []
        if isinstance(layer, functools.partial):
            held = [*layer.args, *layer.keywords.values()]
        elif isinstance(layer, types.FunctionType):
            held = list(_closure(layer).values())
        elif not inspect.isroutine(layer) and not isinstance(layer, type):
            held = list(getattr(layer, "__dict__", {}).values())
        yield from (thing for thing in held if callable(thing) and not isinstance(thing, type))


def _layers(work: Any) -> Iterator[Any]:
    """Yield a callable, then the callable that it wraps, and so on down to a plain function."""
    for _ in range(MAX_NESTING):
        yield work
        partial_method = getattr(work, "__partialmethod__", None) or getattr(
            work, "_partialmethod", None
        )
        if isinstance(work, functools.partial | functools.partialmethod):
            work = work.func
        elif isinstance(partial_method, functools.partialmethod):
            work = partial_method.func
        elif isinstance(work, types.MethodType | staticmethod | classmethod):
            work = work.__func__
        elif isinstance(work, type):
            own_init = isinstance(work.__init__, types.FunctionType)  # type: ignore[misc]
            work = work.__init__ if own_init else work.__new__  # type: ignore[misc]
        elif hasattr(work, "__wrapped__"):
            work = work.__wrapped__
        elif not inspect.isroutine(work) and isinstance(
            getattr(type(work), "__call__", None),  # noqa: B004
            types.FunctionType,
        ):
            work = type(work).__call__
        else:
            return


def _names_around(work: Callable[..., Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return the names that an annotation of a callable can use: global ones and local ones."""
    function = written_function(work)
    if function is None:
        return {}, {}
    owners = [layer.__self__ for layer in _layers(work) if isinstance(layer, types.MethodType)]
    generic = [function, *(owner if isinstance(owner, type) else type(owner) for owner in owners)]
    parameters = {p.__name__: p for thing in generic for p in getattr(thing, "__type_params__", ())}
    return function.__globals__, parameters | _closure(function)


def _closure(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _evaluated(annotation: Any, names: Mapping[str, Any], local_names: Mapping[str, Any]) -> Any:
    try:
        return evaluated(annotation, names, local_names)
    except Exception:  # noqa: BLE001  # code of the user; the string remains
        return unevaluated(annotation) or annotation
