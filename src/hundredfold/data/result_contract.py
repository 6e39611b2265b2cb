"""The return annotation of a user's function (or Model(returns=)) as the contract of its result rows.

Whatever could be a contract is read or refused: an annotation that this file does not know stops the job before it
starts, since ignoring it would skip a check that somebody relies on.
"""

from __future__ import annotations

import collections.abc
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

import annotated_types as at

from ..annotations import annotations_of, bare, enclosed_functions, unevaluated
from ..contract import Column, Contract, is_contract, read_column, read_contract
from ..errors import JobError
from ..job import Model

VALUE = "value"  # the column of a result that is a single value
SEVERAL = (list, tuple, set, frozenset, *(getattr(collections.abc, name) for name in (
    "Sequence", "MutableSequence", "Collection", "Iterable", "Iterator", "Generator", "Reversible")))  # fmt: skip
MAPPINGS = (
    dict,
    collections.OrderedDict,
    collections.defaultdict,
    collections.abc.Mapping,
    collections.abc.MutableMapping,
)
TABLES = {
    "pandas": ("DataFrame", "Series"), "polars": ("DataFrame", "LazyFrame", "Series"),
    "pyarrow": ("Table", "RecordBatch", "Scalar"), "numpy": ("ndarray", "generic"),
}  # fmt: skip
# a text of these words alone can be no contract, whatever its names stand for
HARMLESS = frozenset(re.findall(r"\w+", """
    None Any object dict list tuple Mapping Sequence Iterable Iterator Optional Union typing t str int float bool bytes np
    numpy ndarray NDArray float64 float32 int64 int32 bool_ str_ pd pandas DataFrame Series pl polars LazyFrame pa pyarrow Table RecordBatch"""))  # fmt: skip
HINT = (
    "annotate it with a row (a dataclass, NamedTuple, TypedDict or pydantic model), a list or an iterator of rows, a single value, "
    "dict, a table (pd.DataFrame, pl.DataFrame, pa.Table), or nothing; or name the row's class with Model(returns=...)"
)


@dataclass(frozen=True, slots=True)
class Returned:
    """What a function declares to return: the contract of its rows, if it names one, and whether None is a result without a row."""

    contract: Contract | None = None
    optional: bool = False


def returned_by(model: Model) -> Returned:
    """Return what a model's function declares to return; it is read once, and travels with the model to other processes.

    Raises:
        JobError: the annotation cannot be read, is no form of results, or differs from `returns`.
    """
    known: Returned | None = model.__dict__.get("_returned")
    if known is None:
        known = _read(model)
        object.__setattr__(model, "_returned", known)
    return known


def result_contract(model: Model) -> Contract | None:
    """Return what a result row of a model must hold; None if nothing is declared."""
    return returned_by(model).contract


def _read(model: Model) -> Returned:
    annotation = model.annotations["return"]
    if model.returns is not None:
        return _with_returns(model, annotation)
    if annotation is None:
        hidden = next((f for f in enclosed_functions(model.work) if _has_contract(f)), None)
        if hidden is not None:
            name = getattr(hidden, "__name__", repr(hidden))
            raise JobError(
                f"model {model.name}: its function declares no return type, and holds on to {name}, whose rows have a contract",
                hint="write @functools.wraps(function) in the decorator, annotate what it returns (dict, if no contract applies), "
                "or name the row's class with Model(returns=...)",
            )
        return Returned()
    returned = _declared(f"model {model.name}: the return annotation of its function", annotation)
    return _of_all_dispatched(model, returned)


def _with_returns(model: Model, annotation: Any) -> Returned:
    returned = _declared(f"model {model.name}: returns", model.returns)
    if annotation is None or unevaluated(annotation) is not None:
        return returned
    other = _declared(f"model {model.name}: the return annotation of its function", annotation)
    if other.contract is not None and other.contract != returned.contract:
        mine = returned.contract.name if returned.contract else "no contract"
        raise JobError(
            f"model {model.name}: its function is annotated to return {other.contract.name}, and returns= names {mine}",
            hint="leave one of the two out, or let both name the same class",
        )
    return Returned(returned.contract, returned.optional or other.optional)


def _of_all_dispatched(model: Model, returned: Returned) -> Returned:
    """Return it, if every function that functools.singledispatch can choose declares the same."""
    others = getattr(model.work, "registry", None)
    for function in others.values() if isinstance(others, types.MappingProxyType) else ():
        annotation = annotations_of(function)["return"]
        declared = (
            Returned()
            if annotation is None
            else _declared(
                f"model {model.name}: the return annotation of {function.__name__}", annotation
            )
        )
        if declared.contract != returned.contract:
            raise JobError(
                f"model {model.name}: the functions registered with its singledispatch declare different results",
                hint="name the row's class with Model(returns=...)",
            )
    return returned


def _has_contract(function: Any) -> bool:
    """Whether a function's return annotation names a contract, or could."""
    try:
        annotation = annotations_of(function)["return"]
        return annotation is not None and _declared("it", annotation).contract is not None
    except JobError:
        return True
    except (TypeError, ValueError):  # it has no signature
        return False


def _declared(what: str, annotation: Any) -> Returned:
    text = unevaluated(annotation)
    if text is not None:
        if set(re.findall(r"[^\W\d]\w*", text)) <= HARMLESS:
            return Returned()
        raise JobError(
            f"{what} is {text!r}, in which a name cannot be found",
            hint="import the name where the function is defined, not under TYPE_CHECKING or inside a function; "
            "or name the row's class with Model(returns=...)",
        )
    try:
        return _rows(annotation)
    except TypeError as error:
        raise JobError(f"{what} cannot be read: {error}", hint=HINT) from error


def _rows(annotation: Any) -> Returned:
    """Return what an annotation declares; TypeError if it is none that a result can have, or if a check in it would be skipped."""
    inner, constraints, optional = _unwrapped(annotation)
    if inner is None:
        if constraints or any(map(_checks, _members(annotation))):
            raise TypeError(
                f"{_name_of(annotation)} can be several types, and their contracts would not be checked"
            )
        return Returned(None, optional)
    origin = get_origin(inner) or inner
    if is_contract(inner):
        if constraints:
            raise TypeError(
                f"{_name_of(annotation)} has constraints on a whole row, which cannot be checked in SQL"
            )
        if (
            isinstance(inner, type)
            and issubclass(inner, tuple)
            and not getattr(inner, "__annotations__", None)
        ):
            return Returned(None, optional)  # collections.namedtuple, which declares no type
        return Returned(_with_columns(read_contract(inner)), optional)
    if origin in SEVERAL:
        return Returned(_of_items(inner, constraints), optional)
    if origin in MAPPINGS or _is_table(origin):
        if constraints or any(_checks(part, strange=_is_table(origin)) for part in get_args(inner)):
            raise TypeError(
                f"{_name_of(annotation)} names a contract inside of it, which would not be checked"
            )
        return Returned(None, optional)
    if inner in (Any, object):
        return Returned(None, optional)
    if inner in (type(None), NoReturn) or getattr(inner, "_name", None) == "Never":
        raise TypeError("it says that nothing is returned, and a unit needs a result")
    column = read_column(VALUE, annotation)
    return Returned(Contract(_name_of(inner), (column,)), False)


def _of_items(inner: Any, constraints: list[Any]) -> Contract | None:
    """Return the contract of the rows of a list, an iterator, ..."""
    arguments = get_args(inner)
    if get_origin(inner) is collections.abc.Generator:
        arguments = arguments[:1]
    items = {item for item in map(bare, arguments) if item is not Ellipsis} if arguments else set()
    if constraints or len(items) > 1 or any(get_origin(item) in SEVERAL for item in items):
        if constraints or any(map(_checks, items)):
            raise TypeError(
                f"{_name_of(inner)} has checks that cannot be done for rows of one contract"
            )
        return None
    item = next(iter(items), Any)
    if not is_contract(_unwrapped(item)[0]):
        if _checks(item):
            raise TypeError(
                f"{_name_of(inner)} has checks on single values; a list holds rows, each with named columns"
            )
        return None
    return _rows(item).contract


def _with_columns(contract: Contract) -> Contract:
    if not contract.columns:
        raise TypeError(f"{contract.name} declares no column")
    return contract


def _unwrapped(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Return the one type that an annotation stands for (None: there are several), the constraints on it, and whether it can be None."""
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
            annotation = annotation.__bound__ or (
                Union[annotation.__constraints__] if annotation.__constraints__ else Any  # noqa: UP007
            )  # made here
        else:
            return annotation, constraints, optional


def _members(annotation: Any) -> Iterator[Any]:
    annotation = bare(annotation)
    if get_origin(annotation) in (Union, types.UnionType, Annotated) or isinstance(
        annotation, TypeVar
    ):
        for part in get_args(annotation) or getattr(annotation, "__constraints__", ()):
            yield from _members(part)
    else:
        yield annotation


def _checks(annotation: Any, strange: bool = True) -> bool:
    """Whether there is a contract, a constraint or (`strange`) a class that is unknown here, anywhere in an annotation."""
    inner, constraints, _ = _unwrapped(annotation)
    if constraints or is_contract(inner):
        return True
    parts = get_args(bare(annotation) if inner is None else inner)
    if parts:
        return any(_checks(part, strange) for part in parts if not isinstance(part, list | tuple))
    return strange and _foreign(inner)


def _foreign(annotation: Any) -> bool:
    """Whether it is a class that is neither Python's own nor of the libraries that rows come from."""
    module = (
        getattr(annotation, "__module__", "").partition(".")[0]
        if isinstance(annotation, type)
        else ""
    )
    return bool(module) and module not in (
        *TABLES,
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
    return any(kind.__name__ in TABLES.get(kind.__module__.partition(".")[0], ()) for kind in kinds)


def _is_constraint(metadata: Any) -> bool:
    """Whether metadata of Annotated limits the values: what a contract would check."""
    known = isinstance(metadata, at.BaseMetadata | at.GroupedMetadata | re.Pattern)
    return (
        known
        or isinstance(getattr(metadata, "pattern", None), str)
        or hasattr(metadata, "metadata")
    )


def _name_of(annotation: Any) -> str:
    return (
        annotation.__name__
        if isinstance(annotation, type) and not get_args(annotation)
        else str(annotation)
    )


def value_column(contract: Contract | None) -> Column | None:
    """Return the column of a contract that a single value fills: its only one."""
    return contract.columns[0] if contract is not None and len(contract.columns) == 1 else None
