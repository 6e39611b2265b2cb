"""What a slice of units left: result columns and one account for each unit.

A function returns what it likes from unit to unit: a null here, an int there.  So every value is kept, and what type a
column has is decided once, over all units, when they are collected; no first row decides for the others.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .batch import UNIT, from_numpy, nulls_of, numpy_of
from .contract import Contract, accepts
from .errors import ResultError

ACCOUNT = pa.schema(
    [
        ("unit", pa.int64()),
        ("status", pa.string()),  # ok, failed, dead
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("traceback", pa.string()),
        ("round", pa.int64()),
    ]
)
Row = tuple[str, ...]


@dataclass(slots=True)
class Account:
    """One unit that did not end well: why."""

    unit: int
    status: str
    error: str
    message: str
    traceback: str = ""


def account_of(unit: int, error: BaseException) -> Account:
    """A failed unit's account; the traceback begins in the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_HERE)] or list(frames)
    text = "".join(traceback.format_list(own)) + "".join(traceback.format_exception_only(error)) if own and not isinstance(error, ResultError) else ""
    return Account(unit, "failed", type(error).__name__, str(error), text)


_HERE = __file__.rsplit("outcome.py", 1)[0]


@dataclass(slots=True)
class Group:
    """Result rows that have the same columns: one list a column, and the unit of each row."""

    names: Row
    units: list[int] = field(default_factory=list)
    lists: list[list[Any]] = field(default_factory=list)


class Gather:
    """Takes what the function returned for each unit, and gives it back as tables of equal columns."""

    def __init__(self, contract: Contract | None, keys: Mapping[str, Callable[[int], Any]]) -> None:
        self.contract = contract
        self.keys = keys
        self.groups: dict[Row, Group] = {}
        self.tables: list[pa.Table] = []
        self.last: Group | None = None

    def add(self, unit: int, value: Any) -> int:
        """Keep one unit's result; how many rows it has. ResultError if it is none, or not what the contract says."""
        if type(value) is dict and not _is_table(value, self.contract):
            self._row(unit, tuple(value), value.values())
            return 1
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            rows = _aligned([_row_of(item) for item in value])
            for names in {names for names, _ in rows}:
                self._check_names(names)  # of all rows before the first is kept: a failed unit leaves none behind
            for names, values in rows:
                self._row(unit, names, values)
            return len(rows)
        table = _table_of(value)
        if table is None:
            self._row(unit, *_row_of(value))
            return 1
        self._check_names(tuple(table.column_names))
        odd = [f"{f.name} ({f.type})" for f in table.schema if pa.types.is_interval(f.type) or pa.types.is_union(f.type)]
        if odd:
            raise ResultError(f"returned columns that no file can hold: {', '.join(odd)}")
        self.tables.append(table.append_column(UNIT, from_numpy(np.full(table.num_rows, unit, np.int64))))
        return table.num_rows

    def _row(self, unit: int, names: Row, values: Any) -> None:
        group = self.last
        if group is None or group.names != names:
            known = self.groups.get(names)
            if known is None:
                self._check_names(names)
                known = self.groups[names] = Group(names, [], [[] for _ in names])
            group = self.last = known
        group.units.append(unit)
        for column, value in zip(group.lists, values, strict=True):
            column.append(value)

    def _check_names(self, names: Row) -> None:
        if self.contract is None:
            strange = [name for name in names if not isinstance(name, str)]
            if strange or not names:
                raise ResultError(f"returned columns {strange or 'none'}; wanted names" if strange else "returned a row without a column")
            return
        wanted = self.contract.names
        missing = [n for n in wanted if n not in names]
        extra = [n for n in names if n not in wanted and n not in self.keys]
        if missing or extra:
            parts = [f"{', '.join(missing)} missing"] if missing else []
            parts += [f"{', '.join(map(str, extra))} too much"] if extra else []
            raise ResultError(f"returned other columns than {self.contract.name} has: {' and '.join(parts)}")

    def finish(self) -> tuple[list[pa.Table], list[Account]]:
        """The result tables, each with the column UNIT, and the units whose values fit no column."""
        bad: dict[int, Account] = {}
        tables = [t for group in self.groups.values() for t in self._tables(group, bad)]
        tables += [self._conform(table, bad) for table in _merged(self.tables)]
        tables = [self._without_keys(table, bad) for table in tables]
        if bad:
            tables = [_without(table, bad) for table in tables]
        return [t for t in tables if t.num_rows], list(bad.values())

    def _tables(self, group: Group, bad: dict[int, Account]) -> Iterator[pa.Table]:
        units = from_numpy(np.array(group.units, np.int64))
        if self.contract is not None:
            columns = [self._typed(name, values, group.units, bad) for name, values in zip(group.names, group.lists, strict=True)]
            yield pa.table([*columns, units], [*group.names, UNIT])
            return
        try:
            yield pa.table([*map(column_of, group.lists), units], [*group.names, UNIT])
        except UNFIT:
            yield from _split(group, bad)

    def _typed(self, name: str, values: list[Any], units: Sequence[int], bad: dict[int, Account]) -> pa.Array:
        """A column of the contract's type; where that fails, the units to blame are put to `bad` and their values to null."""
        column = next((c for c in self.contract.columns if c.name == name), None) if self.contract else None
        if column is None:  # a key column that came along
            return column_of(values)
        try:
            array = column_of(values, column.arrow)
        except UNFIT:
            array = pa.array([self._or_blame(column, v, unit, bad) for v, unit in zip(values, units, strict=True)], column.arrow)
        if not column.nullable and array.null_count:
            for row in np.flatnonzero(nulls_of(array)).tolist():
                bad.setdefault(units[row], Account(units[row], "failed", "ResultError", f"{name} is null, and {self.contract.name if self.contract else ''} says that it never is"))
        return array

    def _or_blame(self, column: Any, value: Any, unit: int, bad: dict[int, Account]) -> Any:
        try:
            return column_of([value], column.arrow)[0].as_py()
        except UNFIT:
            bad.setdefault(unit, Account(unit, "failed", "ResultError", f"{column.name} is {_short(value)} ({type(value).__name__}), wanted {column.arrow}"))
            return None

    def _conform(self, table: pa.Table, bad: dict[int, Account]) -> pa.Table:
        """A table that the function returned, in the contract's types or in the wide ones."""
        units = numpy_of(table.column(UNIT), False).tolist()
        arrays = []
        for name in table.column_names:
            values = table.column(name).combine_chunks()
            column = next((c for c in self.contract.columns if c.name == name), None) if self.contract else None
            if name == UNIT:
                arrays.append(values)
            elif column is None:
                arrays.append(values.cast(_wide(values.type)))
            else:
                try:
                    arrays.append(_same_values(values, column.arrow))
                except UNFIT:
                    arrays.append(pa.array([self._or_blame(column, v, u, bad) for v, u in zip(values.to_pylist(), units, strict=True)], column.arrow))
                if not column.nullable and arrays[-1].null_count:
                    for row in np.flatnonzero(nulls_of(arrays[-1])).tolist():
                        bad.setdefault(units[row], Account(units[row], "failed", "ResultError", f"{name} is null, and its contract says that it never is"))
        return pa.table(arrays, table.column_names)

    def _without_keys(self, table: pa.Table, bad: dict[int, Account]) -> pa.Table:
        """Key columns in a result must repeat the unit's own key; the engine writes them itself."""
        for name in [n for n in table.column_names if n in self.keys]:
            units = numpy_of(table.column(UNIT), False).tolist()
            for unit, value in zip(units, table.column(name).to_pylist(), strict=True):
                wanted = self.keys[name](unit)
                if value != wanted and not (value != value and (wanted != wanted or wanted is None)):  # a null number is read as NaN
                    bad.setdefault(unit, Account(unit, "failed", "ResultError", f"returned {name} = {value!r}, but the unit's key is {wanted!r}"))
            table = table.drop_columns([name])
        return table


def _is_table(value: Mapping[Any, Any], contract: Contract | None) -> bool:
    """A dict whose values are all 1-D arrays of one length is several rows, unless the contract says that a value is a list."""
    first = next(iter(value.values()), None)
    if type(first) is not np.ndarray:
        return False
    if contract is not None and any(pa.types.is_nested(c.arrow) for c in contract.columns):
        return False
    return all(type(v) is np.ndarray and v.ndim == 1 and len(v) == len(first) for v in value.values())


def _row_of(value: Any) -> tuple[Row, Any]:
    """Names and values of one result row; ResultError for what is none."""
    if isinstance(value, Mapping):
        return tuple(value), value.values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(f.name for f in dataclasses.fields(value))
        return names, [getattr(value, name) for name in names]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._fields, value
    fields = getattr(type(value), "model_fields", None)
    if fields is not None:
        return tuple(f.alias or n for n, f in fields.items()), [getattr(value, n) for n in fields]
    what = "None" if value is None else f"{type(value).__name__} {str(value)[:80]!r}"
    raise ResultError(f"returned {what}; wanted a dict, dataclass, NamedTuple or pydantic row, a list of them, or a table")


def _table_of(value: Any) -> pa.Table | None:
    """An Arrow table of a table that a function returned; None if it is no table."""
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, dict):
        return pa.table({name: column_of(v) for name, v in value.items()})
    module = type(value).__module__.split(".")[0]
    if module == "pandas" and hasattr(value, "columns"):
        named = any(name is not None for name in value.index.names)
        return pa.Table.from_pandas(value, preserve_index=named).replace_schema_metadata(None)
    if module == "pandas":
        raise ResultError("returned a pandas Series; wanted a row or a table", hint="return series.to_dict() or series.to_frame().T")
    if module == "polars" and hasattr(value, "to_arrow") and hasattr(value, "columns"):
        return value.to_arrow()
    return None


def column_of(values: Any, kind: pa.DataType | None = None) -> pa.Array:
    """A column of Python values: of `kind`, or of the one type that holds them all, in its wide form.

    One of UNFIT if the values are of several sorts, or if being of `kind` would change one: what pa.array makes of such
    a mixture depends on which value comes first, and so on how units were packed. The common cases go around pa.array,
    which imports pandas.
    """
    fast = _fast(values, kind)
    if fast is not None:
        return fast
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "buMm":
        array = pa.array(values)
        return array.cast(_wide(array.type)) if kind is None else _same_values(array, kind)
    values = [v if type(v) in _PLAIN else _plain(v) for v in values]
    sorts = {_sort(type(v)) for v in values} - {"null"}
    if sorts == {"timestamp"} and len({v.tzinfo is None for v in values if v is not None}) > 1:
        raise ResultError("a column holds either times with a zone or times without one")
    if kind is not None:
        return _of_kind(values, sorts, kind)
    if len(sorts) > 1:
        raise ResultError(f"a column holds values of one sort, not {' and '.join(sorted(sorts))}")
    array = _lists(values, None) if sorts == {"list"} else pa.array(values)
    return array.cast(_wide(array.type))


UNFIT = (ValueError, TypeError, NotImplementedError, OverflowError, ResultError)  # what making a column may raise (Arrow's errors are among them)
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, decimal.Decimal, dt.date, dt.datetime, dt.time, dt.timedelta})
_SORTS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "bool"),
    ((int, float), "number"),
    (str, "string"),
    (bytes, "binary"),
    (decimal.Decimal, "decimal"),
    (dt.datetime, "timestamp"),
    (dt.date, "date"),
    (dt.time, "time"),
    (dt.timedelta, "duration"),
    ((list, tuple, np.ndarray), "list"),
    (Mapping, "struct"),
)


@functools.cache
def _sort(python: type) -> str:
    """What sort of value a type is, in the words of kind_of."""
    return next((sort for types, sort in _SORTS if issubclass(python, types)), python.__name__)


def _plain(value: Any) -> Any:
    """NumPy's and pandas' single values, and members of an Enum, as Python's own."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else _moment(value)
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return list(value)
    return None if type(value).__name__ in ("NaTType", "NAType") else value


def _moment(value: np.datetime64 | np.timedelta64) -> Any:
    kind, unit = value.dtype.kind, np.datetime_data(value.dtype)[0]
    micro = value.astype(f"{kind}8[D]" if kind == "M" and unit == "D" else f"{kind}8[us]")
    if micro != value:
        raise ResultError(f"{value!r} is finer than a microsecond; a table or an array of datetime64[ns] can hold it")
    return micro.item()


def _of_kind(values: list[Any], sorts: set[str], kind: pa.DataType) -> pa.Array:
    """A column of just this type; one of UNFIT if a value would not be the same in it."""
    t = pa.types
    fitting = _fitting(kind)
    if not sorts <= fitting:
        raise ResultError(f"found {' and '.join(sorted(sorts - fitting))}, wanted {kind}")
    if t.is_list(kind):
        return _lists(values, kind)
    if t.is_integer(kind):
        values = [_whole(v) if isinstance(v, float) else v for v in values]
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
    offsets = np.concatenate([[0], np.cumsum([0 if v is None else len(v) for v in values])]).astype(np.int32)
    alike = len({v.dtype if isinstance(v, np.ndarray) else None for v in parts}) == 1 and isinstance(parts[0], np.ndarray)
    inner = np.concatenate(parts) if alike else [item for part in parts for item in part]
    elements = column_of(inner if len(inner) else [], kind.value_type if kind is not None else None)
    missing = pa.array([v is None for v in values], pa.bool_()) if len(parts) < len(values) else None
    return pa.ListArray.from_arrays(from_numpy(offsets), elements, mask=missing)


def _same_values(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column of a table as `kind`; one of UNFIT if that is another sort of thing, or would change a value."""
    t, found = pa.types, values.type
    if not accepts(kind, found) or (t.is_decimal(kind) and t.is_floating(found)):
        raise ResultError(f"found {found}, wanted {kind}")
    same = values.cast(kind)
    if t.is_date(kind) and t.is_timestamp(found) and not same.cast(found).equals(values):
        raise ResultError(f"found times, wanted {kind}")
    return same


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _fast(values: Any, kind: pa.DataType | None) -> pa.Array | None:
    """Numbers without nulls; None for all else."""
    if isinstance(values, list):
        if not values or type(values[0]) not in (float, int, np.float64, np.int64):
            return None
        kinds = set(map(type, values))
        if not kinds <= {float, int, np.float64, np.int64}:
            return None
        whole = kinds <= {int, np.int64}
        if not whole and not kinds <= {float, np.float64} and any(abs(v) > 2**53 for v in values if isinstance(v, int | np.int64)):
            return None
        try:
            array = np.array(values, np.int64 if whole else np.float64)
        except OverflowError:
            return None
    elif isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "if":
        array = values.astype(np.int64 if values.dtype.kind == "i" else np.float64, copy=True)
    else:
        return None
    found = from_numpy(array)
    if kind is None or kind == found.type:
        return found
    return found.cast(kind) if pa.types.is_floating(kind) else None


def _aligned(rows: list[tuple[Row, Any]]) -> list[tuple[Row, Any]]:
    """Rows of one unit with equal columns in another order, in the order of the first: they must stay beside each other."""
    if len({names for names, _ in rows}) < 2:
        return rows
    first = rows[0][0]
    same = [names != first and len(names) == len(first) and set(names) == set(first) for names, _ in rows]
    return [(first, [dict(zip(names, values, strict=True))[n] for n in first]) if turn else (names, values) for turn, (names, values) in zip(same, rows, strict=True)]


def _split(group: Group, bad: dict[int, Account]) -> Iterator[pa.Table]:
    """A group whose columns mix sorts from unit to unit, as one table for each combination of types (slow, and rare).

    A unit's rows stay together, so that their order does not depend on who its neighbours were.
    """
    units = np.array(group.units, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]])).tolist()
    by_type: dict[tuple[str, ...], list[list[Any]]] = {}
    for start, stop in zip(starts, [*starts[1:], len(units)], strict=True):
        columns = []
        for name, values in zip(group.names, group.lists, strict=True):
            try:
                columns.append(column_of(values[start:stop]))
            except UNFIT as error:
                why = f"returned as {name} what no column can hold: {_short(values[start:stop] if stop - start > 1 else values[start])} ({error})"
                bad.setdefault(group.units[start], Account(group.units[start], "failed", "ResultError", why))
        if len(columns) == len(group.names):
            by_type.setdefault(tuple(str(c.type) for c in columns), []).append([*columns, from_numpy(units[start:stop])])
    for pieces in by_type.values():
        yield pa.table([pa.concat_arrays(column) for column in zip(*pieces, strict=True)], [*group.names, UNIT])


def _merged(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Tables of equal columns put together."""
    by_schema: dict[str, list[pa.Table]] = {}
    for table in tables:
        by_schema.setdefault(str([(f.name, str(f.type)) for f in table.schema]), []).append(table)
    return [pa.concat_tables([t.replace_schema_metadata(None) for t in same]) for same in by_schema.values()]


def _without(table: pa.Table, bad: Mapping[int, Account]) -> pa.Table:
    units = numpy_of(table.column(UNIT), False)
    return table.filter(pa.array((~np.isin(units, list(bad))).tolist(), pa.bool_()))


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
    named = {"struct": t.is_struct, "date": t.is_date, "time": t.is_time, "duration": t.is_duration, "binary": t.is_binary}
    return next((name for name, is_one in named.items() if is_one(kind)), str(kind))


def agree(sort: str, other: str) -> bool:
    """Whether both can be of one column: equal, or one of them a null, an empty list, ..."""
    if sort.endswith("null") or other.endswith("null"):
        short = sort if sort.endswith("null") else other
        return (other if short is sort else sort).startswith(short.removesuffix("null"))
    return sort == other


def _wide(kind: pa.DataType) -> pa.DataType:
    """The widest type of a sort: what a column of it has without a contract."""
    t = pa.types
    if t.is_unsigned_integer(kind) and kind.bit_width == 64:
        return kind
    if t.is_integer(kind):
        return pa.int64()
    if t.is_floating(kind):
        return pa.float64()
    if t.is_dictionary(kind):
        return _wide(kind.value_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if t.is_large_list(kind) or t.is_list(kind) or t.is_fixed_size_list(kind):
        return pa.list_(_wide(kind.value_type))
    if t.is_timestamp(kind):
        return pa.timestamp(_unit(kind), "UTC" if kind.tz else None)  # one zone: which zone came first is chance
    if t.is_duration(kind) or t.is_time(kind):
        return (pa.duration if t.is_duration(kind) else pa.time64)(_unit(kind))
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
        return pa.float64() if t.is_floating(a) or t.is_floating(b) else (pa.uint64() if pa.uint64() in (a, b) else pa.int64())
    if t.is_decimal(a) and t.is_decimal(b):
        scale = max(a.scale, b.scale)
        return pa.decimal128(min(38, max(a.precision - a.scale, b.precision - b.scale) + scale), scale)
    if t.is_timestamp(a) and t.is_timestamp(b) and bool(a.tz) == bool(b.tz):
        return pa.timestamp(_unit(a, b), a.tz)
    if (t.is_duration(a) and t.is_duration(b)) or (t.is_time(a) and t.is_time(b)):
        return (pa.duration if t.is_duration(a) else pa.time64)(_unit(a, b))
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


def accounts_table(units: NDArray[np.int64], rows_in: NDArray[np.int64], rows_out: NDArray[np.int64], seconds: NDArray[np.float64], bad: Sequence[Account], round_: int) -> pa.Table:
    """One row for each unit of a slice, in their order."""
    by_unit = {account.unit: account for account in bad}
    if by_unit:
        rows = [by_unit.get(u) for u in units.tolist()]
        texts = [[None if r is None else getattr(r, name) for r in rows] for name in ("error", "message", "traceback")]
        status = pa.array(["ok" if r is None else r.status for r in rows], pa.string())
        words = [pa.array(text, pa.string()) for text in texts]
    else:
        status = pa.DictionaryArray.from_arrays(from_numpy(np.zeros(len(units), np.int32)), _OK).cast(pa.string())
        words = [pa.nulls(len(units), pa.string())] * 3
    columns = [from_numpy(units), status, from_numpy(rows_in), from_numpy(rows_out), from_numpy(seconds), *words, from_numpy(np.full(len(units), round_, np.int64))]
    return pa.Table.from_arrays(columns, schema=ACCOUNT)


_OK = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"ok")])


def pack_results(tables: Sequence[pa.Table]) -> bytes:
    """Tables of different columns as one object: Arrow streams one after the other."""
    sink = pa.BufferOutputStream()
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpack_results(data: pa.Buffer) -> list[pa.Table]:
    reader = pa.BufferReader(data)
    tables = []
    while reader.tell() < data.size:
        tables.append(pa.ipc.open_stream(reader).read_all())
    return tables


def pack_accounts(accounts: pa.Table, tables: Sequence[pa.Table]) -> bytes:
    """The unit ledger, with a summary of the result tables in its metadata, so that types are settled without reading them."""
    summary = [{"units": _units_of(t), "rows": t.num_rows, "columns": [[f.name, _type_text(f.type), len(t) - t.column(f.name).null_count] for f in t.schema if f.name != UNIT]} for t in tables]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, accounts.schema.with_metadata({"results": json.dumps(summary)})) as writer:
        writer.write_table(accounts.replace_schema_metadata({"results": json.dumps(summary)}))
    return sink.getvalue().to_pybytes()


def _units_of(table: pa.Table) -> list[int]:
    """First unit and how many different ones."""
    units = numpy_of(table.column(UNIT), False)
    return [int(units.min()), len(np.unique(units))]


def unpack_accounts(data: pa.Buffer) -> tuple[pa.Table, list[dict[str, Any]]]:
    table = pa.ipc.open_stream(data).read_all()
    return table.replace_schema_metadata(None), json.loads(table.schema.metadata[b"results"])


def _type_text(kind: pa.DataType) -> str:
    return pa.schema([("c", kind)]).serialize().to_pybytes().hex()


def type_of_text(text: str) -> pa.DataType:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))).field(0).type
