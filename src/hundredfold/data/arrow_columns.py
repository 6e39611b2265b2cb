"""Conversion of Python values to one Arrow column.

pa.array infers the type of a mixture from the value that comes first. This module infers it from
all values alike, so that a result does not depend on how units were batched.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ..contract import accepts
from ..errors import ResultError
from .arrow_types import is_storable, kind_of, widest_type
from .nested_cast import cast
from .numpy_columns import check_time_precision, from_numpy
from .ordered_collections import COLLECTION_TYPES, ordered_members

# errors that the creation of a column may raise (Arrow's errors are among them)
COLUMN_ERRORS = (
    ValueError,
    TypeError,
    NotImplementedError,
    OverflowError,
    ResultError,
    RecursionError,  # a list that contains itself
)
_PLAIN_TYPES = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        str,
        bytes,
        list,
        tuple,
        dict,
        decimal.Decimal,
        dt.date,
        dt.datetime,
        dt.time,
        dt.timedelta,
    }
)
_KIND_BY_TYPE: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "bool"),
    ((int, float), "number"),
    (str, "string"),
    (bytes, "binary"),
    (decimal.Decimal, "decimal"),
    ((dt.datetime, np.datetime64), "timestamp"),
    (dt.date, "date"),
    (dt.time, "time"),
    ((dt.timedelta, np.timedelta64), "duration"),
    ((list, tuple, np.ndarray), "list"),
    (Mapping, "struct"),
)


def to_column(values: Any, kind: pa.DataType | None = None) -> pa.Array:
    """Return a column of Python values: of `kind`, or of the type that holds them all, in its
    widest form.

    Common cases avoid pa.array, which imports pandas.

    Raises:
        One of COLUMN_ERRORS: the values are of several kinds, or `kind` would change one.
    """
    fast = _fast_column(values, kind)
    if fast is not None:
        return fast
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biufMm":
        array = _array_to_arrow(values)
        return cast(array, widest_type(array.type)) if kind is None else cast_exactly(array, kind)
    if _is_masked(values) and values.ndim == 1:
        values = values.tolist()  # None for masked elements
    values = [v if type(v) in _PLAIN_TYPES else _to_plain(v) for v in values]
    kinds = {_kind_of_python(python) for python in set(map(type, values))} - {"null"}
    if (
        "timestamp" in kinds
        and len({_has_zone(v) for v in values if v is not None}) > 1
        and kinds <= {"timestamp"}
    ):
        raise ResultError("a column holds either times with a zone or times without one")
    if "time" in kinds and (
        zoned := next((v for v in values if _has_zone(v) and isinstance(v, dt.time)), None)
    ):
        raise ResultError(
            f"a column holds times of day without a zone, not {zoned}:"
            " value.replace(tzinfo=None), or a datetime"
        )
    if kind is not None:
        return _column_of_type(values, kinds, kind)
    if len(kinds) > 1:
        raise ResultError(f"a column holds values of one kind, not {' and '.join(sorted(kinds))}")
    array = _column_of_kind(values, kinds)
    if not is_storable(array.type):
        raise ResultError(f"no file can hold a column of {array.type}")
    return cast(array, widest_type(array.type))


def _column_of_kind(values: list[Any], kinds: set[str]) -> pa.Array:
    """Return a column of values of one kind, or of nulls alone."""
    if kinds == {"list"}:
        return _list_column(values, None)
    if kinds == {"struct"}:
        return _struct_column(values, None)
    return _time_column(values) if kinds & {"timestamp", "duration"} else pa.array(values)


def _array_to_arrow(values: Any) -> pa.Array:
    """Return a NumPy array of numbers or times as an Arrow array, with nulls where it is masked."""
    if values.dtype.kind in "Mm":
        unit, count = np.datetime_data(values.dtype)
        finest = {"W": "D", "Y": "D", "M": "D", "h": "s", "m": "s"}.get(unit, unit)
        if (count, finest) != (1, unit):
            # Arrow has no such unit; it raises for a timedelta in months, which have no fixed
            # length
            values = values.astype(f"{values.dtype.kind}8[{finest}]")
        if (
            unit in ("ps", "fs", "as")
            and not (values == (fine := values.astype(f"{values.dtype.kind}8[ns]"))).all()
        ):
            raise ResultError(
                f"a column cannot hold {values.dtype}, which is finer than a nanosecond"
            )
        values = fine if unit in ("ps", "fs", "as") else values
    if values.dtype.itemsize > 8:
        raise ResultError(f"a column cannot hold {values.dtype}")
    return (
        pa.array(np.asarray(values), mask=np.ma.getmaskarray(values))
        if _is_masked(values)
        else pa.array(values)
    )


def _is_masked(values: Any) -> bool:
    """Return whether it is an array of numpy.ma, without importing numpy.ma."""
    return (
        isinstance(values, np.ndarray)
        and type(values) is not np.ndarray
        and hasattr(values, "mask")
    )


def _kind_of_python(python: type) -> str:
    """Return the kind of value that a Python type is, as in kind_of."""
    return next(
        (sort for types, sort in _KIND_BY_TYPE if issubclass(python, types)), python.__name__
    )


def _to_plain(value: Any) -> Any:
    """Return single values of NumPy, pandas and Arrow, and Enum members, as Python objects."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.ndarray):
        return _array_to_plain(value)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else _time_to_plain(value)
    if isinstance(value, np.void) and value.dtype.names:
        return {name: value[name] for name in value.dtype.names}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pa.Scalar):
        return _scalar_to_plain(value)
    if isinstance(value, COLLECTION_TYPES):
        return ordered_members(value)
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return value


def _array_to_plain(value: Any) -> Any:
    if value.dtype.names:  # an array of records
        return _to_plain(value[()]) if value.ndim == 0 else list(value)
    if value.ndim == 0:
        return (
            None
            if _is_masked(value) and bool(value.mask)
            else _to_plain(value[()])
            if value.dtype.kind in "Mm"
            else value.item()
        )
    return list(value) if value.ndim > 1 else value


def _scalar_to_plain(value: pa.Scalar) -> Any:
    if not value.is_valid:
        return None
    check_time_precision(pa.array([value]))
    kind = (
        "M"
        if pa.types.is_timestamp(value.type)
        else "m"
        if pa.types.is_duration(value.type)
        else ""
    )
    if kind and getattr(value.type, "tz", None) is None:
        return _to_plain(np.array(value.value, f"{kind}8[{value.type.unit}]")[()])
    return value.as_py()


def _has_zone(value: Any) -> bool:
    return getattr(value, "tzinfo", None) is not None


def _time_to_plain(value: np.datetime64 | np.timedelta64) -> Any:
    """Return a time as a Python object, or as NumPy's if Python's would lose a part of it.

    Such times are finer than a microsecond, or beyond the year 9999.
    """
    kind, unit = value.dtype.kind, np.datetime_data(value.dtype)[0]
    if unit == "generic" or (kind == "m" and unit in ("Y", "M")):
        raise ResultError(f"{value!r} has no length that a column can hold")
    micro = value.astype(
        f"{kind}8[D]" if kind == "M" and unit in ("Y", "M", "W", "D") else f"{kind}8[us]"
    )
    if micro != value:
        nano = value.astype(f"{kind}8[ns]")
        if nano != value:
            raise ResultError(f"{value!r} is finer than a nanosecond")
        return nano
    plain = micro.item()
    if isinstance(plain, int):
        raise ResultError(f"{value!r} is a date that Python cannot hold")
    return plain


def _needs_nanoseconds(value: Any) -> bool:
    """Return whether Python's own types cannot hold a time or duration of NumPy or pandas."""
    return isinstance(value, np.generic) or bool(
        getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)
    )


def _time_column(values: list[Any]) -> pa.Array:
    """Return a column of times or durations, in nanoseconds if one of them needs that."""
    if not any(map(_needs_nanoseconds, values)):
        return pa.array(values)
    zone = "UTC" if any(map(_has_zone, values)) else None
    durations = any(isinstance(v, dt.timedelta | np.timedelta64) for v in values)
    # in microseconds, as in SQL and in files: the unit must not depend on another unit's values
    if durations:
        return pa.array([None if v is None else _microseconds(v) for v in values], pa.int64()).cast(
            pa.duration("us")
        )
    try:
        whole = pa.array([None if v is None else _nanoseconds(v) for v in values], pa.int64())
    except OverflowError as error:
        raise ResultError(
            "a column holds either nanoseconds or very distant dates, not both"
        ) from error
    return whole.cast(pa.timestamp("ns", zone))


def _microseconds(value: Any) -> int:
    """Return a duration in microseconds; ResultError for one that is finer."""
    whole, rest = divmod(_nanoseconds(value), 1000)
    if rest:
        raise ResultError(
            f"{value} is finer than a microsecond, the unit in which durations are stored: round"
            " it,"
            " or return nanoseconds as an int"
        )
    return whole


def _nanoseconds(value: Any) -> int:
    """Return a time or duration in nanoseconds, since 1970 in UTC."""
    if isinstance(value, np.generic):
        return int(value.astype(f"{value.dtype.kind}8[ns]").astype(np.int64))
    if _needs_nanoseconds(value):
        return int(value.as_unit("ns").value)
    since = (
        value
        if isinstance(value, dt.timedelta)
        else value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC if _has_zone(value) else None)
    )
    return int(since // dt.timedelta(microseconds=1)) * 1000


def _column_of_type(values: list[Any], kinds: set[str], kind: pa.DataType) -> pa.Array:
    """Return a column of exactly this type; one of COLUMN_ERRORS if that would change a value."""
    t = pa.types
    fitting = _accepted_kinds(kind)
    if not kinds <= fitting:
        raise ResultError(f"found {' and '.join(sorted(kinds - fitting))}, wanted {kind}")
    if t.is_list(kind):
        return _list_column(values, kind)
    if t.is_struct(kind):
        return _struct_column(values, kind)
    if t.is_map(kind):
        return _map_column(values, kind)
    if t.is_integer(kind):
        values = [_to_integer(v) if isinstance(v, float) else v for v in values]
    elif kinds & {"timestamp", "duration"} and any(map(_needs_nanoseconds, values)):
        return cast_exactly(_time_column(values), kind)
    elif t.is_date(kind):
        values = [_to_date(v) if isinstance(v, dt.datetime) else v for v in values]
    elif t.is_timestamp(kind):
        values = [dt.datetime(v.year, v.month, v.day) if type(v) is dt.date else v for v in values]
    return pa.array(values, kind)


def _accepted_kinds(kind: pa.DataType) -> set[str]:
    """Return the kinds of values that an Arrow type can hold unchanged."""
    t = pa.types
    if t.is_integer(kind) or t.is_floating(kind):
        return {"number"}
    if t.is_decimal(kind):
        return {"decimal", "number"}  # pa.array accepts whole numbers and rejects floats
    if t.is_date(kind) or t.is_timestamp(kind):
        return {"date", "timestamp"}
    if t.is_time(kind) or t.is_duration(kind):
        return {"time"} if t.is_time(kind) else {"duration"}
    if t.is_struct(kind) or t.is_map(kind):
        return {"struct", "list"} if t.is_map(kind) else {"struct"}
    return {"bool"} if t.is_boolean(kind) else {kind_of(kind).split(" of ")[0]}


def _to_integer(value: float) -> int:
    if not value.is_integer():
        raise ResultError(f"{value!r} is no whole number")
    return int(value)


def _to_date(value: dt.datetime) -> dt.date:
    if value.time() != dt.time():
        raise ResultError(f"{value} is no date")
    return value.date()


def _list_column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Return a column of lists: a column of all their elements, and the offset of each list."""
    parts = [v for v in values if v is not None]
    offsets = np.concatenate([[0], np.cumsum([0 if v is None else len(v) for v in values])]).astype(
        np.int32
    )
    alike = len(
        {v.dtype if isinstance(v, np.ndarray) else None for v in parts}
    ) == 1 and isinstance(parts[0], np.ndarray)
    if alike and any(map(_is_masked, parts)):
        inner = np.ma.concatenate(parts)  # type: ignore[no-untyped-call]
    else:
        inner = np.concatenate(parts) if alike else [item for part in parts for item in part]
    elements = to_column(inner if len(inner) else [], kind.value_type if kind is not None else None)
    missing = (
        pa.array([v is None for v in values], pa.bool_()) if len(parts) < len(values) else None
    )
    return pa.ListArray.from_arrays(from_numpy(offsets), elements, mask=missing)


def _struct_column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Return a column of dicts: one column for each of their keys.

    Without a type the fields are in alphabetical order, since which dict comes first depends on how
    units were batched.
    """
    names = [f.name for f in kind] if kind is not None else _field_names(values)
    missing = pa.array([v is None for v in values], pa.bool_()) if None in values else None
    if not names:
        return pa.array([None if v is None else {} for v in values], pa.struct([]))
    of = [None if kind is None else kind.field(name).type for name in names]
    columns = [
        to_column([None if v is None else v.get(name) for v in values], each)
        for name, each in zip(names, of, strict=True)
    ]
    fields = (
        list(kind)
        if kind is not None
        else [pa.field(name, c.type) for name, c in zip(names, columns, strict=True)]
    )
    return pa.StructArray.from_arrays(columns, fields=fields, mask=missing)


def _field_names(values: list[Any]) -> list[str]:
    names = dict.fromkeys(name for v in values if v is not None for name in v)
    strange = [name for name in names if not isinstance(name, str) or "\0" in name or not name]
    if strange:
        raise ResultError(
            f"a dict inside a row has the key {strange[0]!r}, wanted strings as keys:"
            " {str(key): value, ...}"
        )
    return sorted(names)


def _map_column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return a column of dicts, or of lists of pairs, as an Arrow map."""
    entries = [
        None if v is None else list(v.items() if isinstance(v, Mapping) else v) for v in values
    ]
    pairs = [pair for each in entries if each is not None for pair in each]
    offsets = np.concatenate(
        [[0], np.cumsum([0 if each is None else len(each) for each in entries])]
    ).astype(np.int32)
    keys = to_column([key for key, _ in pairs], kind.key_type)
    if keys.null_count:
        raise ResultError("a dict inside a row has the key None")
    missing = pa.array([each is None for each in entries], pa.bool_()) if None in entries else None
    items = to_column([item for _, item in pairs], kind.item_type)
    return pa.MapArray.from_arrays(from_numpy(offsets), keys, items, type=kind, mask=missing)


def cast_exactly(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as `kind`; one of COLUMN_ERRORS if it is of another kind, or would change a
    value.
    """
    t, found = pa.types, values.type
    if not accepts(kind, found) or (t.is_decimal(kind) and t.is_floating(found)):
        raise ResultError(f"found {found}, wanted {kind}")
    same = cast(values, kind)
    if _may_change(found, kind) and not cast(same, found).equals(values):
        raise ResultError(f"found a {found} that is another value as {kind}")
    return same


def _may_change(found: pa.DataType, kind: pa.DataType) -> bool:
    """Return whether Arrow's cast may silently change a value.

    It cuts times and decimals, also those in lists and maps.
    """
    t = pa.types
    if found == kind or t.is_null(found):
        return False
    if t.is_map(kind):
        return _may_change(found.key_type, kind.key_type) or _may_change(
            found.item_type, kind.item_type
        )
    if t.is_nested(kind):
        return _may_change(found.value_type, kind.value_type)
    return bool(t.is_temporal(found) or t.is_decimal(found))


def _fast_column(values: Any, kind: pa.DataType | None) -> pa.Array | None:
    """Return a column of numbers without nulls; None for any other values."""
    if isinstance(values, list | tuple):
        if not values or type(values[0]) not in (float, int, np.float64, np.int64):
            return None
        kinds = set(map(type, values))
        if not kinds <= {float, int, np.float64, np.int64}:
            return None
        whole = kinds <= {int, np.int64}
        if (
            not whole
            and not kinds <= {float, np.float64}
            and any(abs(int(v)) > 2**53 for v in values if isinstance(v, int | np.int64))
        ):
            return None
        try:
            array = np.array(values, np.int64 if whole else np.float64)
        except OverflowError:
            return None
    elif (
        isinstance(values, np.ndarray)
        and values.ndim == 1
        and values.dtype.kind in "if"
        and values.dtype.itemsize <= 8
        and not _is_masked(values)
    ):
        array = values.astype(np.int64 if values.dtype.kind == "i" else np.float64, copy=True)
    else:
        return None
    found = from_numpy(array)
    if kind is None or kind == found.type:
        return found
    return found.cast(kind) if pa.types.is_floating(kind) else None


def is_valid_name(name: str) -> bool:
    """Return whether SQL and files can have a column of this name."""
    return bool(name.strip()) and "\0" not in name


def has_objects(series: Any) -> bool:
    """Return whether a pandas column, or its categories, has objects that are not texts."""
    kind = series.dtype
    if str(kind) != "category":
        return bool(str(kind) == "object")
    categories = kind.categories
    return bool(
        str(categories.dtype) == "object" and not all(type(value) is str for value in categories)
    )
