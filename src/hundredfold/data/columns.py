"""What sort of thing a column holds: from Python values to one Arrow column, and from several columns' types to one.

What pa.array makes of a mixture depends on which value comes first.  Here it depends on all values alike, so that a
result does not depend on how units were packed.
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
from .arrays import from_numpy, pylist_of, refuse_finer_clocks
from .members import COLLECTIONS, members_of

UNFIT = (
    ValueError,
    TypeError,
    NotImplementedError,
    OverflowError,
    ResultError,
    RecursionError,  # a list that holds itself
)  # what making a column may raise (Arrow's errors are among them)
_PLAIN = frozenset(
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
_SORTS: tuple[tuple[type | tuple[type, ...], str], ...] = (
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


def column_of(values: Any, kind: pa.DataType | None = None) -> pa.Array:
    """A column of Python values: of `kind`, or of the one type that holds them all, in its wide form.

    One of UNFIT if the values are of several sorts, or if being of `kind` would change one: what pa.array makes of such
    a mixture depends on which value comes first, and so on how units were packed. The common cases go around pa.array,
    which imports pandas.
    """
    fast = _fast(values, kind)
    if fast is not None:
        return fast
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biufMm":
        array = _of_array(values)
        return cast(array, wide(array.type)) if kind is None else same_values(array, kind)
    if _is_masked(values) and values.ndim == 1:
        values = values.tolist()  # None where it is masked
    values = [v if type(v) in _PLAIN else _plain(v) for v in values]
    sorts = {_sort(python) for python in set(map(type, values))} - {"null"}
    if (
        "timestamp" in sorts
        and len({_has_zone(v) for v in values if v is not None}) > 1
        and sorts <= {"timestamp"}
    ):
        raise ResultError("a column holds either times with a zone or times without one")
    if "time" in sorts and (
        zoned := next((v for v in values if _has_zone(v) and isinstance(v, dt.time)), None)
    ):
        raise ResultError(
            f"a column holds times of day without a zone, not {zoned}: value.replace(tzinfo=None), or a datetime"
        )
    if kind is not None:
        return _of_kind(values, sorts, kind)
    if len(sorts) > 1:
        raise ResultError(f"a column holds values of one sort, not {' and '.join(sorted(sorts))}")
    array = _of_sort(values, sorts)
    if not holdable(array.type):
        raise ResultError(f"no file can hold a column of {array.type}")
    return cast(array, wide(array.type))


def _of_sort(values: list[Any], sorts: set[str]) -> pa.Array:
    """A column of values of one sort, or of nulls alone."""
    if sorts == {"list"}:
        return _lists(values, None)
    if sorts == {"struct"}:
        return _structs(values, None)
    return _moments(values) if sorts & {"timestamp", "duration"} else pa.array(values)


def _of_array(values: Any) -> pa.Array:
    """A NumPy array of numbers or times as an Arrow array, with nulls where it is masked."""
    if values.dtype.kind in "Mm":
        unit, count = np.datetime_data(values.dtype)
        finest = {"W": "D", "Y": "D", "M": "D", "h": "s", "m": "s"}.get(unit, unit)
        if (count, finest) != (
            1,
            unit,
        ):  # Arrow has no such unit; it raises for months of a timedelta, which have no length
            values = values.astype(f"{values.dtype.kind}8[{finest}]")
        if (
            unit in ("ps", "fs", "as")
            and not (values == (fine := values.astype(f"{values.dtype.kind}8[ns]"))).all()
        ):
            raise ResultError(f"a column holds no {values.dtype}, which is finer than a nanosecond")
        values = fine if unit in ("ps", "fs", "as") else values
    if values.dtype.itemsize > 8:
        raise ResultError(f"a column holds no {values.dtype}")
    return (
        pa.array(np.asarray(values), mask=np.ma.getmaskarray(values))
        if _is_masked(values)
        else pa.array(values)
    )


def _is_masked(values: Any) -> bool:
    """Whether it is an array of numpy.ma, which is not imported where nobody did."""
    return (
        isinstance(values, np.ndarray)
        and type(values) is not np.ndarray
        and hasattr(values, "mask")
    )


def _sort(python: type) -> str:
    """What sort of value a type is, in the words of kind_of."""
    return next((sort for types, sort in _SORTS if issubclass(python, types)), python.__name__)


def _plain(value: Any) -> Any:
    """NumPy's, pandas' and Arrow's single values, and members of an Enum, as Python's own."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else _moment(value)
    if isinstance(value, np.void) and value.dtype.names:
        return {name: value[name] for name in value.dtype.names}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pa.Scalar):
        return _plain_scalar(value)
    if isinstance(value, COLLECTIONS):
        return members_of(value)
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return value


def _plain_array(value: Any) -> Any:
    if value.dtype.names:  # an array of records
        return _plain(value[()]) if value.ndim == 0 else list(value)
    if value.ndim == 0:
        return (
            None
            if _is_masked(value) and bool(value.mask)
            else _plain(value[()])
            if value.dtype.kind in "Mm"
            else value.item()
        )
    return list(value) if value.ndim > 1 else value


def _plain_scalar(value: pa.Scalar) -> Any:
    if not value.is_valid:
        return None
    refuse_finer_clocks(pa.array([value]))
    kind = (
        "M"
        if pa.types.is_timestamp(value.type)
        else "m"
        if pa.types.is_duration(value.type)
        else ""
    )
    if kind and getattr(value.type, "tz", None) is None:
        return _plain(np.array(value.value, f"{kind}8[{value.type.unit}]")[()])
    return value.as_py()


def _has_zone(value: Any) -> bool:
    return getattr(value, "tzinfo", None) is not None


def _moment(value: np.datetime64 | np.timedelta64) -> Any:
    """Python's own value; NumPy's where that would lose something: what is finer than a microsecond, or beyond the year 9999."""
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


def _is_fine(value: Any) -> bool:
    """Whether it is a time or duration that Python's own types cannot hold: NumPy's, or one of pandas with nanoseconds."""
    return isinstance(value, np.generic) or bool(
        getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)
    )


def _moments(values: list[Any]) -> pa.Array:
    """A column of times or durations, in nanoseconds where one of them needs that."""
    if not any(map(_is_fine, values)):
        return pa.array(values)
    zone = "UTC" if any(map(_has_zone, values)) else None
    durations = any(isinstance(v, dt.timedelta | np.timedelta64) for v in values)
    if durations:  # in microseconds, as SQL and files have them: what they are must not depend on another unit's
        return pa.array([None if v is None else _microseconds(v) for v in values], pa.int64()).cast(
            pa.duration("us")
        )
    try:
        whole = pa.array([None if v is None else _nanoseconds(v) for v in values], pa.int64())
    except OverflowError as error:
        raise ResultError(
            "a column holds nanoseconds, or dates that are far off, but not both"
        ) from error
    return whole.cast(pa.timestamp("ns", zone))


def _microseconds(value: Any) -> int:
    """A duration in microseconds; ResultError for one that is finer."""
    whole, rest = divmod(_nanoseconds(value), 1000)
    if rest:
        raise ResultError(
            f"{value} is finer than a microsecond, in which durations are kept: round it, or return nanoseconds as an int"
        )
    return whole


def _nanoseconds(value: Any) -> int:
    """A time or duration in nanoseconds, since 1970 in UTC."""
    if isinstance(value, np.generic):
        return int(value.astype(f"{value.dtype.kind}8[ns]").astype(np.int64))
    if _is_fine(value):
        return int(value.as_unit("ns").value)
    since = (
        value
        if isinstance(value, dt.timedelta)
        else value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC if _has_zone(value) else None)
    )
    return int(since // dt.timedelta(microseconds=1)) * 1000


def _of_kind(values: list[Any], sorts: set[str], kind: pa.DataType) -> pa.Array:
    """A column of just this type; one of UNFIT if a value would not be the same in it."""
    t = pa.types
    fitting = _fitting(kind)
    if not sorts <= fitting:
        raise ResultError(f"found {' and '.join(sorted(sorts - fitting))}, wanted {kind}")
    if t.is_list(kind):
        return _lists(values, kind)
    if t.is_struct(kind):
        return _structs(values, kind)
    if t.is_map(kind):
        return _maps(values, kind)
    if t.is_integer(kind):
        values = [_whole(v) if isinstance(v, float) else v for v in values]
    elif sorts & {"timestamp", "duration"} and any(map(_is_fine, values)):
        return same_values(_moments(values), kind)
    elif t.is_date(kind):
        values = [_day(v) if isinstance(v, dt.datetime) else v for v in values]
    elif t.is_timestamp(kind):
        values = [dt.datetime(v.year, v.month, v.day) if type(v) is dt.date else v for v in values]
    return pa.array(values, kind)


def _fitting(kind: pa.DataType) -> set[str]:
    """The sorts of values that can be of an Arrow type without a change."""
    t = pa.types
    if t.is_integer(kind) or t.is_floating(kind):
        return {"number"}
    if t.is_decimal(kind):
        return {"decimal", "number"}  # pa.array takes whole numbers and refuses floats
    if t.is_date(kind) or t.is_timestamp(kind):
        return {"date", "timestamp"}
    if t.is_time(kind) or t.is_duration(kind):
        return {"time"} if t.is_time(kind) else {"duration"}
    if t.is_struct(kind) or t.is_map(kind):
        return {"struct", "list"} if t.is_map(kind) else {"struct"}
    return {"bool"} if t.is_boolean(kind) else {kind_of(kind).split(" of ")[0]}


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ResultError(f"{value!r} is no whole number")
    return int(value)


def _day(value: dt.datetime) -> dt.date:
    if value.time() != dt.time():
        raise ResultError(f"{value} is no date")
    return value.date()


def _lists(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """A column of lists: one column of all their elements, and where each list begins."""
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
    elements = column_of(inner if len(inner) else [], kind.value_type if kind is not None else None)
    missing = (
        pa.array([v is None for v in values], pa.bool_()) if len(parts) < len(values) else None
    )
    return pa.ListArray.from_arrays(from_numpy(offsets), elements, mask=missing)


def _structs(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """A column of dicts: one column for each of their keys.

    Without a type the fields are in alphabetical order: which dict came first depends on how units were packed.
    """
    names = [f.name for f in kind] if kind is not None else _field_names(values)
    missing = pa.array([v is None for v in values], pa.bool_()) if None in values else None
    if not names:
        return pa.array([None if v is None else {} for v in values], pa.struct([]))
    of = [None if kind is None else kind.field(name).type for name in names]
    columns = [
        column_of([None if v is None else v.get(name) for v in values], each)
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
            f"a dict inside a row has the key {strange[0]!r}, wanted texts as keys: {{str(key): value, ...}}"
        )
    return sorted(names)


def _maps(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column of dicts, or of lists of pairs, as an Arrow map."""
    entries = [
        None if v is None else list(v.items() if isinstance(v, Mapping) else v) for v in values
    ]
    pairs = [pair for each in entries if each is not None for pair in each]
    offsets = np.concatenate(
        [[0], np.cumsum([0 if each is None else len(each) for each in entries])]
    ).astype(np.int32)
    keys = column_of([key for key, _ in pairs], kind.key_type)
    if keys.null_count:
        raise ResultError("a dict inside a row has the key None")
    missing = pa.array([each is None for each in entries], pa.bool_()) if None in entries else None
    items = column_of([item for _, item in pairs], kind.item_type)
    return pa.MapArray.from_arrays(from_numpy(offsets), keys, items, type=kind, mask=missing)


def same_values(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column of a table as `kind`; one of UNFIT if that is another sort of thing, or would change a value."""
    t, found = pa.types, values.type
    if not accepts(kind, found) or (t.is_decimal(kind) and t.is_floating(found)):
        raise ResultError(f"found {found}, wanted {kind}")
    same = cast(values, kind)
    if _may_change(found, kind) and not cast(same, found).equals(values):
        raise ResultError(f"found a {found} that is another value as {kind}")
    return same


def _may_change(found: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a cast of Arrow may change a value without an error: times that are cut, decimals, and these in lists and maps."""
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


def _fast(values: Any, kind: pa.DataType | None) -> pa.Array | None:
    """Numbers without nulls; None for all else."""
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


def kind_of(kind: pa.DataType) -> str:
    """What sort of thing a column holds: int and float are one sort, null is any."""
    t = pa.types
    if t.is_null(kind):
        return "null"
    if t.is_integer(kind) or t.is_floating(kind):
        return "number"
    if t.is_decimal(kind):
        return "decimal"
    if t.is_list(kind):
        return f"list of {kind_of(kind.value_type)}"
    if t.is_timestamp(kind):
        return "timestamp with zone" if kind.tz else "timestamp"
    named = {
        "struct": t.is_struct,
        "date": t.is_date,
        "time": t.is_time,
        "duration": t.is_duration,
        "binary": t.is_binary,
    }
    return next((name for name, is_one in named.items() if is_one(kind)), str(kind))


def is_usable(name: str) -> bool:
    """Whether SQL and files can have a column of this name."""
    return bool(name.strip()) and "\0" not in name


def is_opaque(kind: pa.DataType) -> bool:
    """Whether a column of a polars frame is one of Python objects: what comes of these are addresses in memory."""
    if pa.types.is_nested(kind):
        return any(is_opaque(kind.field(n).type) for n in range(kind.num_fields))
    return bool(
        pa.types.is_fixed_size_binary(kind)
    )  # polars has no type of its own that becomes this one


def has_objects(series: Any) -> bool:
    """Whether a column of a pandas frame holds Python objects, itself or as categories, that are not all texts."""
    kind = series.dtype
    if str(kind) != "category":
        return bool(str(kind) == "object")
    categories = kind.categories
    return bool(
        str(categories.dtype) == "object" and not all(type(value) is str for value in categories)
    )


def holdable(kind: pa.DataType) -> bool:
    """Whether files and queries can hold a column of this type."""
    t = pa.types
    if (
        t.is_interval(kind)
        or t.is_union(kind)
        or (isinstance(kind, pa.BaseExtensionType) and kind.extension_name != "arrow.uuid")
    ):
        return False
    if t.is_decimal256(kind) and kind.precision > 38:
        return False
    inner = kind.value_type if t.is_dictionary(kind) or t.is_run_end_encoded(kind) else None
    if inner is None and t.is_nested(kind):
        return all(holdable(kind.field(n).type) for n in range(kind.num_fields))
    return inner is None or holdable(inner)


def writable(kind: pa.DataType) -> bool:
    """Whether a Parquet file can hold a type: it holds no struct without a field, which another unit's dicts may yet have."""
    if not pa.types.is_nested(kind):
        return True
    fields = [kind.field(n).type for n in range(kind.num_fields)]
    return bool(fields) and all(map(writable, fields))


def agree(sort: str, other: str) -> bool:
    """Whether both can be of one column: equal, or one of them a null, an empty list, ..."""
    if sort.endswith("null") or other.endswith("null"):
        short = sort if sort.endswith("null") else other
        return (other if short is sort else sort).startswith(short.removesuffix("null"))
    return sort == other


def cast(values: Any, kind: pa.DataType) -> Any:
    """An array or a chunked array as `kind`.

    Arrow's own cast makes an invalid array of a list within which something is all null before and after (pyarrow 26.0).
    """
    if values.type == kind:
        return values
    if not _holds_nulls_alone(kind):
        return values.cast(kind)
    if isinstance(values, pa.ChunkedArray):
        return pa.chunked_array([cast(chunk, kind) for chunk in values.chunks], kind)
    return pa.array(pylist_of(values), kind)


def _holds_nulls_alone(kind: pa.DataType) -> bool:
    """Whether a nested type has a part that can only be null."""
    parts = [kind.field(i).type for i in range(kind.num_fields)]
    return any(pa.types.is_null(part) or _holds_nulls_alone(part) for part in parts)


def wide(kind: pa.DataType) -> pa.DataType:
    """The widest type of a sort: what a column of it has without a contract."""
    t = pa.types
    if t.is_unsigned_integer(kind) and kind.bit_width == 64:
        return kind
    if t.is_integer(kind):
        return pa.int64()
    if t.is_floating(kind):
        return pa.float64()
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return wide(kind.value_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if (
        t.is_large_list(kind)
        or t.is_list(kind)
        or t.is_fixed_size_list(kind)
        or t.is_list_view(kind)
        or t.is_large_list_view(kind)
    ):
        return pa.list_(wide(kind.value_type))
    if t.is_struct(kind):
        return pa.struct(sorted((field.name, wide(field.type)) for field in kind))
    if t.is_map(kind):
        return pa.map_(wide(kind.key_type), wide(kind.item_type))
    if t.is_timestamp(kind):
        return pa.timestamp(
            _unit(kind), "UTC" if kind.tz else None
        )  # one zone: which zone came first is chance
    if t.is_duration(kind):
        return pa.duration("us")  # as SQL has it, which knows whole numbers alone
    if t.is_time(kind):
        return pa.time64(_unit(kind))
    if t.is_date64(kind):
        return pa.date32()
    return kind


def _unit(*kinds: pa.DataType) -> str:
    return "ns" if any(kind.unit == "ns" for kind in kinds) else "us"


def merge(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds both; None if there is none."""
    t = pa.types
    if a == b or t.is_null(b):
        return a
    if t.is_null(a):
        return b
    if kind_of(a) == kind_of(b) == "number":
        return (
            pa.float64()
            if t.is_floating(a) or t.is_floating(b)
            else (pa.uint64() if pa.uint64() in (a, b) else pa.int64())
        )
    if t.is_decimal(a) and t.is_decimal(b):
        scale = max(a.scale, b.scale)
        return pa.decimal128(
            min(38, max(a.precision - a.scale, b.precision - b.scale) + scale), scale
        )
    if t.is_timestamp(a) and t.is_timestamp(b) and bool(a.tz) == bool(b.tz):
        return pa.timestamp(_unit(a, b), a.tz)
    if t.is_duration(a) and t.is_duration(b):
        return pa.duration("us")
    if t.is_time(a) and t.is_time(b):
        return pa.time64(_unit(a, b))
    if t.is_list(a) and t.is_list(b):
        inner = merge(a.value_type, b.value_type)
        return pa.list_(inner) if inner is not None else None
    if t.is_struct(a) and t.is_struct(b):
        return _merge_structs(a, b)
    return None


def _merge_structs(a: pa.StructType, b: pa.StructType) -> pa.DataType | None:
    fields = {f.name: f.type for f in a}
    for f in b:
        inner = merge(fields.get(f.name, pa.null()), f.type)
        if inner is None:
            return None
        fields[f.name] = inner
    return pa.struct(sorted(fields.items()))


def text_of_type(kind: pa.DataType) -> str:
    return str(pa.schema([("c", kind)]).serialize().to_pybytes().hex())


def type_of_text(text: str) -> pa.DataType:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))).field(0).type
