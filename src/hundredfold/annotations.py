"""Annotations as Python gives them, on every supported version, reduced to the types that they stand for.

A type can be written as an alias (`type X = ...`, which NumPy 2.5's NDArray is too), a NewType, an Annotated, a text, or
a forward reference.  Whoever reads an annotation asks here first, so that all of these mean the same everywhere.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

MAX_NESTING = 50  # aliases of aliases; one that names itself is longer than any limit
QUALIFIERS = ("Required", "ReadOnly", "Final")  # which say something about a field, and nothing about its type


def bare(annotation: Any) -> Any:
    """Return the type that an annotation stands for, without aliases, NewTypes and qualifiers around it.

    Annotated stays, since its metadata belongs to the reader. Raises:
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
    """Return the type that an annotation stands for, without what Annotated adds to it."""
    annotation = bare(annotation)
    while get_origin(annotation) is Annotated:
        annotation = bare(get_args(annotation)[0])
    return annotation


def _is_alias(annotation: Any) -> bool:
    """Whether it is a `type X = ...`: typing's, or that of typing_extensions."""
    return type(annotation).__name__ == "TypeAliasType"


def _value_of(alias: Any) -> Any:
    try:
        value = alias.__value__
        if isinstance(value, str):
            value = evaluated(value, vars(sys.modules.get(alias.__module__, typing)), {})
    except Exception as error:  # whatever evaluating the user's alias raises
        raise TypeError(f"the alias {alias} cannot be evaluated ({error})") from error
    return value


def _with_arguments(alias: Any, arguments: tuple[Any, ...]) -> Any:
    """Return a generic alias' value for these arguments: `type Pair[T] = tuple[T, T]`, Pair[int]."""
    value, parameters = _value_of(alias), alias.__type_params__
    defaults = [getattr(parameter, "__default__", Any) for parameter in parameters[len(arguments) :]]
    given = dict(zip(parameters, (*arguments, *defaults), strict=False))
    if value in parameters:
        return given.get(value, Any)
    wanted = getattr(value, "__parameters__", ())
    try:
        return value[tuple(given.get(parameter, Any) for parameter in wanted)] if wanted else value
    except TypeError as error:
        raise TypeError(f"the alias {alias} does not take {arguments}") from error


def evaluated(annotation: Any, names: Mapping[str, Any], local_names: Mapping[str, Any]) -> Any:
    """Return an annotation with the texts in it evaluated; raises what evaluating them raises."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, dict(names), dict(local_names), include_extras=True)["it"]
