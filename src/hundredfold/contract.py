"""Row contracts: a dataclass or pydantic model, compiled to SQL checks and an Arrow schema.

Values are never checked row by row in Python: a check is a condition that the warehouse evaluates
over all rows. Constraints are those of annotated-types; there are none of our own.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa

from .annotations import bare, without_metadata
from .errors import JobError
from .sql_types import sql_type


@dataclass(frozen=True, slots=True)
class Check:
    """A condition on one column: `message` describes it, `sql` has {c} for the column.

    Nulls pass.
    """

    message: str
    sql: str
    inside: bool = False  # applies to the values in a list or a dict

    def on(self, column: str) -> str:
        """Return the condition in SQL on a column (a quoted name or an expression)."""
        return self.sql.format(c=column)


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    python: Any  # the bare Python type: float, str, list[float], ...
    arrow: pa.DataType
    nullable: bool
    checks: tuple[Check, ...] = ()
    optional: bool = False  # can be missing from a file, and is null then
    infinite: bool = False  # floats: inf and NaN are allowed

    @property
    def sql_type(self) -> str:
        return sql_type(self.arrow)


@dataclass(frozen=True, slots=True)
class Contract:
    name: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.arrow, c.nullable) for c in self.columns])


def read_contract(declared: type) -> Contract:
    """Return the contract of a dataclass, NamedTuple, TypedDict or pydantic model.

    Raises:
        JobError: with all fields whose annotation cannot be a column.
    """
    columns, problems, optional = [], [], _optional(declared)
    for name, annotation, extra in _fields(declared):
        try:
            columns.append(read_column(name, annotation, extra, name in optional))
        except TypeError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise JobError(
            f"{declared.__name__} cannot be a contract",
            problems=problems,
            hint="use str, int, float, bool, Decimal, date, datetime, bytes, Literal, an Enum, "
            "list[...] or dict[str, ...], and X | None",
        )
    return Contract(declared.__name__, tuple(columns))


def is_contract(declared: Any) -> bool:
    """Return whether a type is a dataclass, NamedTuple, TypedDict or pydantic model."""
    return isinstance(declared, type) and (
        dataclasses.is_dataclass(declared)
        or hasattr(declared, "model_fields")
        or (issubclass(declared, tuple) and hasattr(declared, "_fields"))
        # a TypedDict, of typing or of typing_extensions
        or (issubclass(declared, dict) and hasattr(declared, "__required_keys__"))
    )


def _fields(declared: type) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield each field's name, annotation, and constraints outside of it (pydantic has such)."""
    if not is_contract(declared):
        raise JobError(
            f"{declared!r} cannot be a contract",
            hint="wanted a dataclass, NamedTuple, TypedDict or pydantic model with a field for "
            "each column",
        )
    model_fields: Mapping[str, Any] | None = getattr(declared, "model_fields", None)
    if model_fields is not None:
        _refuse_validators(declared)
        for name, field in model_fields.items():
            yield field.alias or name, field.annotation, tuple(field.metadata)
        return
    try:
        hints = get_type_hints(declared, include_extras=True)
    except NameError as error:
        raise JobError(
            f"{declared.__name__} cannot be read: {error}",
            hint="import the name in the module of the contract, not under TYPE_CHECKING",
        ) from error
    names = (
        [f.name for f in dataclasses.fields(declared)]
        if dataclasses.is_dataclass(declared)
        else list(hints)
    )
    for name in names:
        yield name, hints[name], ()


def _refuse_validators(declared: type) -> None:
    """Raise JobError for a pydantic model with checks in Python, which SQL would skip."""
    kept = getattr(declared, "__pydantic_decorators__", None)
    kinds = ("validators", "field_validators", "root_validators", "model_validators")
    found = [name for kind in kinds for name in getattr(kept, kind, {})]
    if found:
        raise JobError(
            f"{declared.__name__} cannot be a contract: it has validators in Python, which cannot "
            "be checked in SQL",
            problems=found,
            hint="use bounds, Literal or a pattern, and check the rest in the function; or use a "
            "model without validators",
        )


def _optional(declared: type) -> set[str]:
    """Return the fields of a dataclass with the default None: files older than them stay valid."""
    return (
        {f.name for f in dataclasses.fields(declared) if f.default is None}
        if dataclasses.is_dataclass(declared)
        else set()
    )


def read_column(
    name: str, annotation: Any, extra: tuple[Any, ...] = (), optional: bool = False
) -> Column:
    annotation, constraints, nullable, allowed = _unfolded(annotation, list(extra))
    constraints = list(_flat(constraints))
    checks = (
        []
        if allowed is None
        else [
            Check(
                f"must be one of {', '.join(map(str, allowed))}",
                f"{{c}} IN ({', '.join(map(_fixed, allowed))})",
            )
        ]
    )
    checks += [check for constraint in constraints for check in _check(constraint, annotation)]
    infinite = next(
        (c.allow_inf_nan for c in constraints if getattr(c, "allow_inf_nan", None) is not None),
        None,
    )
    if annotation is float and (infinite is False or (checks and not infinite)):
        # not isnan(): DuckDB 2.0 reads its result from Parquet statistics, which ignore NaN
        checks.insert(0, Check("must not be NaN or infinite", "isfinite({c})"))
    kind, inside = _kind(annotation, constraints)
    return Column(
        name, annotation, kind, nullable, (*checks, *inside), optional and nullable, bool(infinite)
    )


def _unfolded(
    annotation: Any, constraints: list[Any]
) -> tuple[Any, list[Any], bool, list[Any] | None]:
    """Return the type of an annotation, its constraints, whether it can be None, and its values.

    The values are those of a Literal or an Enum; None for other types.
    """
    nullable = False
    allowed: list[Any] | None = None
    while True:
        annotation = bare(annotation)
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            constraints += more
        elif origin in (Union, types.UnionType):
            inner = [a for a in get_args(annotation) if a is not type(None)]
            nullable = nullable or len(inner) < len(get_args(annotation))
            if len(inner) != 1:
                raise TypeError(f"{annotation} can be several types, wanted one")
            annotation = inner[0]
        elif origin is Literal:
            allowed = list(get_args(annotation))
            nullable = nullable or None in allowed
            allowed = [a for a in allowed if a is not None]
            annotation = _one_type(allowed)
        elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            allowed = [member.value for member in annotation]
            annotation = _one_type(allowed)
        else:
            return annotation, constraints, nullable, allowed


def _one_type(allowed: Sequence[Any]) -> Any:
    kinds = {type(value) for value in allowed}
    if len(kinds) != 1:
        raise TypeError(
            f"the values {', '.join(map(repr, allowed))} are of {len(kinds)} types, wanted one"
        )
    return kinds.pop()


def _kind(
    annotation: Any, constraints: Sequence[Any] = ()
) -> tuple[pa.DataType, tuple[Check, ...]]:
    """Return the Arrow type of a type, and the checks of values in a list or a dict."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (list, tuple, Sequence) and arguments:
        members = [argument for argument in arguments if argument is not Ellipsis]
        if any(member != members[0] for member in members):
            raise TypeError(f"{annotation} holds several types, wanted one")
        value = read_column("", members[0])
        return pa.list_(value.arrow), _each(value, "value", "{c}")
    if origin is dict and len(arguments) == 2:
        key, item = (read_column("", argument) for argument in arguments)
        if key.nullable:
            raise TypeError(f"{annotation} has keys that can be None, and an Arrow map has none")
        return pa.map_(key.arrow, item.arrow), (
            *_each(key, "key", "map_keys({c})"),
            *_each(item, "value", "map_values({c})"),
        )
    return arrow_type(annotation, constraints), ()


def _each(inner: Column, kind_of_value: str, values: str) -> tuple[Check, ...]:
    """Return checks of the values in a list as checks of the column of lists; nulls pass."""
    depth, kind = 0, inner.arrow
    while pa.types.is_nested(kind):
        kind, depth = kind.item_type if pa.types.is_map(kind) else kind.value_type, depth + 1
    x = f"e{depth}"  # another name at each depth
    return tuple(
        Check(
            f"must hold {kind_of_value}s that {check.message}",
            f"len(list_filter({values}, lambda {x}: NOT ({_braced(check.on(x))}))) = 0",
            inside=True,
        )
        for check in inner.checks
    )


def _braced(text: str) -> str:
    """Return text for the SQL of a check, with its braces escaped."""
    return text.replace("{", "{{").replace("}", "}}")


def _flat(constraints: Sequence[Any]) -> Iterator[Any]:
    for constraint in constraints:
        import annotated_types as at  # only jobs with constraints need it, and import it anyway

        if isinstance(constraint, at.GroupedMetadata):
            yield from _flat(list(constraint))
        elif type(constraint).__name__ == "FieldInfo":  # pydantic's Field(...) inside of Annotated
            yield from _flat(constraint.metadata)
        else:
            yield constraint


def _fixed(value: Any) -> str:
    """Return a value as SQL for a check, with its braces escaped."""
    return _braced(literal(value))


# pydantic's validators in Python
VALIDATORS = ("AfterValidator", "BeforeValidator", "PlainValidator", "WrapValidator")
IN_PYTHON = "cannot be checked in SQL; use bounds, Literal or re.compile(...)"


def _check(constraint: Any, python: Any) -> Iterator[Check]:
    import annotated_types as at

    size = "length({c})" if python is str else "len({c})"
    match constraint:
        case at.Gt(bound):
            yield Check(f"must be > {bound}", f"{{c}} > {_fixed(bound)}")
        case at.Ge(bound):
            yield Check(f"must be >= {bound}", f"{{c}} >= {_fixed(bound)}")
        case at.Lt(bound):
            yield Check(f"must be < {bound}", f"{{c}} < {_fixed(bound)}")
        case at.Le(bound):
            yield Check(f"must be <= {bound}", f"{{c}} <= {_fixed(bound)}")
        case at.MultipleOf(step):
            yield Check(f"must be a multiple of {step}", f"{{c}} % {_fixed(step)} = 0")
        case at.MinLen(shortest):
            yield Check(f"must be at least {shortest} long", f"{size} >= {shortest:d}")
        case at.MaxLen(longest):
            yield Check(f"must be at most {longest} long", f"{size} <= {longest:d}")
        case re.Pattern(pattern=pattern):
            yield Check(f"must match {pattern}", f"regexp_full_match({{c}}, {_fixed(pattern)})")
        case _:
            pattern = getattr(constraint, "pattern", None)
            if type(constraint).__name__ in VALIDATORS:
                raise TypeError(f"{type(constraint).__name__} is Python and {IN_PYTHON}")
            if isinstance(pattern, str):  # pydantic's pattern, which searches
                yield Check(f"must match {pattern}", f"regexp_matches({{c}}, {_fixed(pattern)})")
            elif isinstance(constraint, at.Predicate):
                raise TypeError(f"a Predicate is Python and {IN_PYTHON}")
            elif getattr(constraint, "allow_inf_nan", None) is False:  # pydantic's
                yield Check("must be finite", "isfinite({c})")
            elif type(constraint).__module__ == at.__name__ and not isinstance(constraint, at.Unit):
                raise TypeError(f"{constraint} {IN_PYTHON}")


SIMPLE: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    dt.date: pa.date32(),
    dt.datetime: pa.timestamp("us"),
    dt.time: pa.time64("us"),
}


def arrow_type(annotation: Any, constraints: Sequence[Any] = ()) -> pa.DataType:
    """Return the Arrow type of a Python annotation; TypeError if there is none."""
    annotation = without_metadata(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if annotation is decimal.Decimal:
        digits = next((c.max_digits for c in constraints if getattr(c, "max_digits", None)), 38)
        scale = next(
            (
                c.decimal_places
                for c in constraints
                if getattr(c, "decimal_places", None) is not None
            ),
            9,
        )
        return pa.decimal128(digits, scale)
    array = _numpy_element(annotation)
    if array is not None:
        return pa.list_(array)
    raise TypeError(f"{getattr(annotation, '__name__', annotation)} has no column type")


def _numpy_element(annotation: Any) -> pa.DataType | None:
    """Return the element type of np.ndarray (floats) or NDArray[...]; None if it is no array."""
    if getattr(get_origin(annotation) or annotation, "__name__", "") != "ndarray":
        return None
    scalar = next(
        (
            part
            for part in _parts(annotation)
            if isinstance(part, type) and issubclass(part, np.generic)
        ),
        np.float64,
    )
    if scalar is np.object_:
        return pa.string()
    kinds = {
        np.bool_: pa.bool_(),
        np.integer: pa.int64(),
        np.floating: pa.float64(),
        np.str_: pa.string(),
        np.bytes_: pa.binary(),
    }
    known = next((arrow for kind, arrow in kinds.items() if issubclass(scalar, kind)), None)
    if known is None and not issubclass(np.float64, scalar):  # np.number, np.generic: any
        raise TypeError(f"an array of {scalar.__name__} has no column type")
    return known or pa.float64()


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the types in a generic type, without aliases."""
    arguments = get_args(without_metadata(annotation))
    if not arguments:
        yield without_metadata(annotation)
    for argument in arguments:
        yield from _parts(argument)


def accepts(wanted: pa.DataType, found: pa.DataType) -> bool:
    """Return whether a column of type `found` can be read as `wanted` without an explicit cast.

    It can if nothing is lost, or if a check of each row finds a loss.
    """
    t = pa.types
    number = t.is_integer(found) or t.is_floating(found) or t.is_decimal(found)
    if t.is_floating(wanted) or t.is_decimal(wanted) or t.is_integer(wanted):
        return bool(number)  # a float where an int is wanted is checked to be whole, row by row
    if t.is_string(wanted):
        plain = t.is_string(found) or t.is_large_string(found) or t.is_string_view(found)
        return bool(plain or (t.is_dictionary(found) and accepts(wanted, found.value_type)))
    if t.is_date(wanted) or t.is_timestamp(wanted):
        return bool(t.is_date(found) or t.is_timestamp(found))
    if t.is_list(wanted):
        return bool(
            (t.is_list(found) or t.is_large_list(found))
            and _accepts_inside(wanted.value_type, found.value_type)
        )
    if t.is_map(wanted) and t.is_map(found):
        return _accepts_inside(wanted.key_type, found.key_type) and _accepts_inside(
            wanted.item_type, found.item_type
        )
    return bool(wanted.id == found.id)


def _accepts_inside(wanted: pa.DataType, found: pa.DataType) -> bool:
    return pa.types.is_null(found) or accepts(wanted, found)


def literal(value: Any) -> str:
    """Return a Python value as an SQL literal."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float | decimal.Decimal):
        return repr(value) if not isinstance(value, decimal.Decimal) else str(value)
    if isinstance(value, dt.datetime):
        return f"TIMESTAMP '{value.isoformat(' ')}'"
    if isinstance(value, dt.date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise JobError(
        f"{value!r} cannot be written in SQL",
        hint="bounds and allowed values are numbers, texts and dates",
    )


def quote(name: str) -> str:
    """Return the name of a column or table as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
