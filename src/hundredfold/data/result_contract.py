"""The contract of a model's result rows, read from the function's return annotation or
Model(returns=).

Every annotation that could be a contract is either read or rejected: an unknown one stops the job
before it starts, since ignoring it would skip a check that the user relies on.
"""

from __future__ import annotations

import collections.abc
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

from ..annotations import annotations_of, bare, enclosed_functions, unevaluated
from ..contract import Column, Contract, is_contract, read_column, read_contract
from ..errors import JobError
from ..job import Model

VALUE_COLUMN = "value"  # the column of a result that is a single value
COLLECTION_ORIGINS = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.Reversible,
)
MAPPING_ORIGINS = (
    dict,
    collections.OrderedDict,
    collections.defaultdict,
    collections.abc.Mapping,
    collections.abc.MutableMapping,
)
TABLE_CLASSES = {
    "pandas": ("DataFrame", "Series"),
    "polars": ("DataFrame", "LazyFrame", "Series"),
    "pyarrow": ("Table", "RecordBatch", "Scalar"),
    "numpy": ("ndarray", "generic"),
}
# a text of only these words cannot be a contract, whatever its names refer to
NAMES_WITHOUT_CONTRACT = frozenset(
    [
        "None",
        "Any",
        "object",
        "dict",
        "list",
        "tuple",
        "Mapping",
        "Sequence",
        "Iterable",
        "Iterator",
        "Optional",
        "Union",
        "typing",
        "t",
        "str",
        "int",
        "float",
        "bool",
        "bytes",
        "np",
        "numpy",
        "ndarray",
        "NDArray",
        "float64",
        "float32",
        "int64",
        "int32",
        "bool_",
        "str_",
        "pd",
        "pandas",
        "DataFrame",
        "Series",
        "pl",
        "polars",
        "LazyFrame",
        "pa",
        "pyarrow",
        "Table",
        "RecordBatch",
    ]
)
ANNOTATION_HINT = (
    "annotate it with a row (a dataclass, NamedTuple, TypedDict or pydantic model), a list or an"
    " iterator of rows, a single value, dict, a table (pd.DataFrame, pl.DataFrame, pa.Table), or"
    " nothing; or name the row's class with Model(returns=...)"
)


@dataclass(frozen=True, slots=True)
class ReturnType:
    """The declared return type of a function: the contract of its rows, if any, and whether None is
    a result without a row.
    """

    contract: Contract | None = None
    optional: bool = False


def return_type(model: Model) -> ReturnType:
    """Return the declared return type of a model's function.

    It is read once, and pickled with the model.

    Raises:
        JobError: the annotation cannot be read, is no form of results, or differs from `returns`.
    """
    known: ReturnType | None = model.__dict__.get("_returned")
    if known is None:
        known = _read_return_type(model)
        object.__setattr__(model, "_returned", known)
    return known


def result_contract(model: Model) -> Contract | None:
    """Return the contract of a model's result rows; None if none is declared."""
    return return_type(model).contract


def _read_return_type(model: Model) -> ReturnType:
    annotation = model.annotations["return"]
    if model.returns is not None:
        return _with_returns(model, annotation)
    if annotation is None:
        hidden = next((f for f in enclosed_functions(model.work) if _has_contract(f)), None)
        if hidden is not None:
            name = getattr(hidden, "__name__", repr(hidden))
            raise JobError(
                f"model {model.name}: its function declares no return type, and wraps {name},"
                " whose rows have a contract",
                hint="write @functools.wraps(function) in the decorator, annotate its return type"
                " (dict, if no contract applies), or name the row's class with Model(returns=...)",
            )
        return ReturnType()
    returned = _parse_annotation(
        f"model {model.name}: the return annotation of its function", annotation
    )
    return _check_dispatched(model, returned)


def _with_returns(model: Model, annotation: Any) -> ReturnType:
    returned = _parse_annotation(f"model {model.name}: returns", model.returns)
    if annotation is None or unevaluated(annotation) is not None:
        return returned
    other = _parse_annotation(
        f"model {model.name}: the return annotation of its function", annotation
    )
    if other.contract is not None and other.contract != returned.contract:
        mine = returned.contract.name if returned.contract else "no contract"
        raise JobError(
            f"model {model.name}: its function is annotated to return {other.contract.name},"
            f" and returns= names {mine}",
            hint="leave one of the two out, or let both name the same class",
        )
    return ReturnType(returned.contract, returned.optional or other.optional)


def _check_dispatched(model: Model, returned: ReturnType) -> ReturnType:
    """Return it, if every function that functools.singledispatch can choose declares the same."""
    others = getattr(model.work, "registry", None)
    for function in others.values() if isinstance(others, types.MappingProxyType) else ():
        annotation = annotations_of(function)["return"]
        declared = (
            ReturnType()
            if annotation is None
            else _parse_annotation(
                f"model {model.name}: the return annotation of {function.__name__}", annotation
            )
        )
        if declared.contract != returned.contract:
            raise JobError(
                f"model {model.name}: the functions registered with its singledispatch"
                " declare different results",
                hint="name the row's class with Model(returns=...)",
            )
    return returned


def _has_contract(function: Any) -> bool:
    """Return whether a function's return annotation names a contract, or could."""
    try:
        annotation = annotations_of(function)["return"]
        return annotation is not None and _parse_annotation("it", annotation).contract is not None
    except JobError:
        return True
    except (TypeError, ValueError):  # it has no signature
        return False


def _parse_annotation(subject: str, annotation: Any) -> ReturnType:
    text = unevaluated(annotation)
    if text is not None:
        if set(re.findall(r"[^\W\d]\w*", text)) <= NAMES_WITHOUT_CONTRACT:
            return ReturnType()
        raise JobError(
            f"{subject} is {text!r}, and a name in it is not defined",
            hint="import the name where the function is defined, not under TYPE_CHECKING or inside"
            " a function; or name the row's class with Model(returns=...)",
        )
    try:
        return _parse_rows(annotation)
    except TypeError as error:
        raise JobError(f"{subject} cannot be read: {error}", hint=ANNOTATION_HINT) from error


def _parse_rows(annotation: Any) -> ReturnType:
    """Return the return type that an annotation declares.

    Raises:
        TypeError: a result cannot have it, or a check in it would be skipped.
    """
    inner, constraints, optional = _unwrap(annotation)
    if inner is None:
        if constraints or any(map(_has_checks, _union_members(annotation))):
            raise TypeError(
                f"{_annotation_name(annotation)} can be several types,"
                " and their contracts would not be checked"
            )
        return ReturnType(None, optional)
    origin = get_origin(inner) or inner
    if is_contract(inner):
        if constraints:
            raise TypeError(
                f"{_annotation_name(annotation)} has constraints on a whole row,"
                " which cannot be checked in SQL"
            )
        if (
            isinstance(inner, type)
            and issubclass(inner, tuple)
            and not getattr(inner, "__annotations__", None)
        ):
            return ReturnType(None, optional)  # collections.namedtuple, which declares no type
        return ReturnType(_require_columns(read_contract(inner)), optional)
    if origin in COLLECTION_ORIGINS:
        return ReturnType(_parse_items(inner, constraints), optional)
    if origin in MAPPING_ORIGINS or _is_table(origin):
        if constraints or any(
            _has_checks(part, strange=_is_table(origin)) for part in get_args(inner)
        ):
            raise TypeError(
                f"{_annotation_name(annotation)} has a contract in it, which would not be checked"
            )
        return ReturnType(None, optional)
    if inner in (Any, object):
        return ReturnType(None, optional)
    if inner in (type(None), NoReturn) or getattr(inner, "_name", None) == "Never":
        raise TypeError("it declares that nothing is returned, and a unit needs a result")
    column = read_column(VALUE_COLUMN, annotation)
    return ReturnType(Contract(_annotation_name(inner), (column,)), False)


def _parse_items(inner: Any, constraints: list[Any]) -> Contract | None:
    """Return the contract of the rows of a list, an iterator, ..."""
    arguments = get_args(inner)
    if get_origin(inner) is collections.abc.Generator:
        arguments = arguments[:1]
    items = {item for item in map(bare, arguments) if item is not Ellipsis} if arguments else set()
    if (
        constraints
        or len(items) > 1
        or any(get_origin(item) in COLLECTION_ORIGINS for item in items)
    ):
        if constraints or any(map(_has_checks, items)):
            raise TypeError(
                f"{_annotation_name(inner)} has checks that cannot be done for rows of one contract"
            )
        return None
    item = next(iter(items), Any)
    if not is_contract(_unwrap(item)[0]):
        if _has_checks(item):
            raise TypeError(
                f"{_annotation_name(inner)} has checks on single values;"
                " a list holds rows, each with named columns"
            )
        return None
    return _parse_rows(item).contract


def _require_columns(contract: Contract) -> Contract:
    if not contract.columns:
        raise TypeError(f"{contract.name} declares no column")
    return contract


def _unwrap(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Return the type that an annotation denotes, its constraints, and whether it can be None.

    The type is None if there are several.
    """
    constraints: list[Any] = []
    optional = False
    while True:
        annotation = bare(annotation)
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            constraints += [c for c in more if _is_constraint(c)]
        elif origin in (Union, types.UnionType):
            members = [a for a in get_args(annotation) if a is not type(None)]
            optional = optional or len(members) < len(get_args(annotation))
            if len(members) != 1:
                return None, constraints, optional
            annotation = members[0]
        elif isinstance(annotation, TypeVar):
            # created at run time
            choices = annotation.__constraints__
            annotation = annotation.__bound__ or (Union[choices] if choices else Any)  # noqa: UP007
        else:
            return annotation, constraints, optional


def _union_members(annotation: Any) -> Iterator[Any]:
    annotation = bare(annotation)
    if get_origin(annotation) in (Union, types.UnionType, Annotated) or isinstance(
        annotation, TypeVar
    ):
        for part in get_args(annotation) or getattr(annotation, "__constraints__", ()):
            yield from _union_members(part)
    else:
        yield annotation


def _has_checks(annotation: Any, strange: bool = True) -> bool:
    """Return whether an annotation has a contract, a constraint or (`strange`) an unknown class in
    it.
    """
    inner, constraints, _ = _unwrap(annotation)
    if constraints or is_contract(inner):
        return True
    parts = get_args(bare(annotation) if inner is None else inner)
    if parts:
        return any(
            _has_checks(part, strange) for part in parts if not isinstance(part, list | tuple)
        )
    return strange and _is_unknown_class(inner)


def _is_unknown_class(annotation: Any) -> bool:
    """Return whether it is a class neither of Python nor of the libraries that rows come from."""
    module = (
        getattr(annotation, "__module__", "").partition(".")[0]
        if isinstance(annotation, type)
        else ""
    )
    return bool(module) and module not in (
        *TABLE_CLASSES,
        "builtins",
        "typing",
        "datetime",
        "decimal",
        "collections",
        "types",
        "enum",
        "uuid",
    )


def _is_table(origin: Any) -> bool:
    kinds = getattr(origin, "__mro__", ())
    return any(
        kind.__name__ in TABLE_CLASSES.get(kind.__module__.partition(".")[0], ()) for kind in kinds
    )


def _is_constraint(metadata: Any) -> bool:
    """Return whether metadata of Annotated constrains the values, as a contract would."""
    import annotated_types as at  # only functions with Annotated in their types need it

    known = isinstance(metadata, at.BaseMetadata | at.GroupedMetadata | re.Pattern)
    return (
        known
        or isinstance(getattr(metadata, "pattern", None), str)
        or hasattr(metadata, "metadata")
    )


def _annotation_name(annotation: Any) -> str:
    return (
        annotation.__name__
        if isinstance(annotation, type) and not get_args(annotation)
        else str(annotation)
    )


def value_column(contract: Contract | None) -> Column | None:
    """Return the column of a contract that a single value fills: its only one."""
    return contract.columns[0] if contract is not None and len(contract.columns) == 1 else None
