"""What the user's function returned, unit by unit, as tables of equal columns.

A function returns what it likes: a null here, an int there, now a row and now a table.  Every value is kept, and what
type a column has is decided once, over all units, when they are collected; no first row decides for the others.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import Contract
from ..errors import ResultError
from .arrays import UNIT, from_numpy, nulls_of, numpy_of, pylist_of
from .columns import (
    UNFIT,
    cast,
    column_of,
    has_objects,
    holdable,
    is_opaque,
    is_usable,
    same_values,
    wide,
)
from .members import COLLECTIONS, IN_ORDER, UNORDERED, members_of
from .outcomes import UnitStatus, describe
from .result_contract import VALUE, Returned
from .row_sizes import value_bytes

SAMPLED = 8  # rows of numbers that are looked at for their size
Row = tuple[str, ...]
ROWS = (list, tuple, Iterator, *COLLECTIONS)  # what holds several rows
VALUES = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    decimal.Decimal,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    enum.Enum,
    np.generic,
)


class WrongShape(ResultError):
    """A result of many units that cannot be used, whichever units it is of: the call need not be tried with fewer of them."""


class Group:
    """Result rows that have the same columns: the unit of each, and its values in the order of `names`."""

    __slots__ = ("names", "pick", "rows", "units", "weighed")

    def __init__(self, names: Row) -> None:
        self.names = names
        self.units: list[int] = []
        self.rows: list[Sequence[Any]] = []
        self.weighed = 0  # rows whose size was looked at
        self.pick = itemgetter(
            *names, names[0]
        )  # one name alone would give a value and not a tuple

    def without(self, units: Container[int]) -> Group:
        rest = Group(self.names)
        kept = [place for place, unit in enumerate(self.units) if unit not in units]
        rest.units = [self.units[place] for place in kept]
        rest.rows = [self.rows[place] for place in kept]
        return rest

    def columns(self) -> Iterator[Sequence[Any]]:
        return islice(zip(*self.rows, strict=True), len(self.names))


class ResultBuilder:
    """Takes what the function returned for each unit, and gives it back as tables of equal columns."""

    def __init__(self, returned: Returned, keys: Mapping[str, Callable[[int], Any]]) -> None:
        self.contract, self.optional = returned.contract, returned.optional
        self.keys = keys
        self.groups: dict[Row, Group] = {}
        self.tables: list[pa.Table] = []
        self.nones: list[int] = []
        self.last: Group | None = None
        self.only_numbers = True  # as far as was looked
        self._weighed, self._bytes = (
            0,
            0,
        )  # tables that were looked at, and about how many bytes all that was looked at takes

    def weigh(self) -> int:
        """Return about how many bytes the kept results take as columns. Of rows of numbers, and of tables, a few are looked at."""
        for group in self.groups.values():
            new = group.rows[group.weighed :]
            if new:
                some = new[:: len(new) // SAMPLED + 1]
                sizes = [sum(map(value_bytes, row[:-1])) for row in some]
                if max(sizes) > 8 * len(group.names):
                    self.only_numbers = False
                    sizes = [sum(map(value_bytes, row[:-1])) for row in new]
                self._bytes += sum(sizes) * len(new) // len(sizes)
                group.weighed = len(group.rows)
        tables = self.tables[self._weighed :]
        if tables:
            self.only_numbers = False
            some_tables = tables[:: len(tables) // SAMPLED + 1]
            rows = sum(table.num_rows for table in some_tables)
            self._bytes += (
                sum(table.nbytes for table in some_tables)
                * sum(table.num_rows for table in tables)
                // max(rows, 1)
            )
            self._weighed = len(self.tables)
        return self._bytes

    def adder(self) -> Callable[[int, Any], None]:
        """A function that keeps one unit's result, and raises ResultError if it is none, or not what the contract says.

        It is called for every unit: what it needs for a row like the last one, it has at hand.
        """
        width, array = -1, np.ndarray
        pick: Callable[[Any], tuple[Any, ...]] = tuple
        keep: Callable[[Any], None] = id  # type: ignore[assignment]  # set with the first row
        note: Callable[[int], None] = id  # type: ignore[assignment]

        def add(unit: int, value: Any) -> None:
            nonlocal width, pick, keep, note
            if type(value) is dict and len(value) == width:
                try:
                    row = pick(value)
                except KeyError:
                    pass
                else:
                    if not isinstance(row[0], array):
                        keep(row)
                        note(unit)
                        return
            self._add(unit, value)
            last = self.last
            if last is not None:
                width, pick, keep, note = (
                    len(last.names),
                    last.pick,
                    last.rows.append,
                    last.units.append,
                )

        return add

    def _add(self, unit: int, value: Any) -> None:
        if isinstance(value, dict) and not _is_table(value, self.contract):
            self._row(unit, tuple(value), value.values())
            return
        if value is None:
            self._add_none(unit)
            return
        if is_value(value):
            self._row(unit, (VALUE,), (value,))
            return
        table = table_of(value)
        if table is not None:
            self._keep(table, np.full(table.num_rows, unit, np.int64))
        elif isinstance(value, ROWS) and not hasattr(value, "_fields"):
            rows = _aligned(
                [
                    row_of(item)
                    for item in (members_of(value) if isinstance(value, COLLECTIONS) else value)
                ]
            )
            for names in dict.fromkeys(names for names, _ in rows):
                self._check_names(
                    names
                )  # of all rows before the first is kept: a failed unit leaves none behind
            for names, values in rows:
                self._row(unit, names, values)
        else:
            self._row(unit, *row_of(value))

    def _add_none(self, unit: int) -> None:
        """Keep a None: no row where the annotation says so, a null where a result is a single value; which of them is settled with all units."""
        if self.contract is None:
            self.nones.append(unit)
        elif self.contract.names == (VALUE,):
            self._row(unit, (VALUE,), (None,))
        elif not self.optional:
            raise ResultError(
                f"returned None, wanted {self.contract.name}; write `| None` in the return annotation if a unit may have no row"
            )

    def add_many(self, first: int, units: int, value: Any) -> None:
        """Keep the result of `units` units at once, the first of which is `first`.

        Rows belong to the unit that their column `unit` numbers from 0, or whose key they bring, or else, but not in a table, to
        the unit in whose place they are. Raises ResultError where that is not one row for each unit, or a row is nobody's.
        """
        table, ordered = _many_table(value)
        present = [name for name in self.keys if name in table.column_names]
        if "unit" in table.column_names and "unit" not in self.keys:
            self._add_numbered(first, units, table)
            return
        wanted = f"wanted one for each, with the key ({', '.join(self.keys)}), or rows with a column `unit` that numbers the units from 0"
        if self.keys and len(present) == len(self.keys):
            places = self._places(first, units, table)
        elif present:
            missing = ", ".join(name for name in self.keys if name not in present)
            raise ResultError(
                f"returned rows for {units:,} units with {', '.join(present)} and without {missing}: whose they are is unknown; {wanted}"
            )
        elif not ordered and self.keys:
            raise WrongShape(
                f"returned a table for {units:,} units without their keys, and the order of a table's rows is no proof of whose they are; {wanted}, "
                "or one dict of arrays in the order of the units"
            )
        elif table.num_rows != units:
            raise ResultError(
                f"returned {table.num_rows:,} rows for {units:,} units; {wanted}, or one dict of arrays in the order of the units"
            )
        else:
            places = np.arange(units)
        self._keep_sorted(table.drop_columns(present), places + first)

    def _add_numbered(self, first: int, units: int, table: pa.Table) -> None:
        if not pa.types.is_integer(table.column("unit").type):
            raise ResultError(
                f"returned a column `unit` of {table.column('unit').type}, wanted whole numbers from 0"
            )
        if table.column("unit").null_count:
            raise ResultError("returned a null in the column `unit`, wanted whole numbers from 0")
        unit = np.asarray(table.column("unit").to_pylist(), np.int64)
        strange = unit[(unit < 0) | (unit >= units)]
        if len(strange):
            raise ResultError(
                f"returned rows for unit {strange[0]}, and the slice has units 0 to {units - 1}"
            )
        self._keep_sorted(table.drop_columns(["unit"]), unit + first)

    def _keep_sorted(self, table: pa.Table, units: NDArray[np.int64]) -> None:
        """Keep rows by their units; those of one unit stay as they are."""
        if (units[1:] < units[:-1]).any():
            order = np.argsort(units, kind="stable")
            table, units = table.take(from_numpy(order)), units[order]
        self._keep(table, units)

    def _places(self, first: int, units: int, table: pa.Table) -> NDArray[np.int64]:
        """For each row, the number in the slice of the unit whose key it brings; ResultError unless each unit has just one row."""
        names = tuple(self.keys)
        whose: dict[tuple[Any, ...], int] = {}
        for unit in range(units):
            key = tuple(self.keys[name](first + unit) for name in names)
            whose.setdefault(tuple(map(_same_key, key)), unit)
        found = [
            tuple(map(_same_key, key))
            for key in zip(*(pylist_of(table.column(name)) for name in names), strict=True)
        ]
        strange = [key for key in found if key not in whose]
        if strange:
            raise ResultError(
                f"returned {len(strange):,} rows whose key is no unit's of this call, such as {_key_words(strange[0])}"
            )
        places = np.array([whose[key] for key in found], np.int64)
        counts = np.bincount(places, minlength=units)
        if (counts == 1).all():
            return places
        keys = {place: key for key, place in whose.items()}
        twice, without = np.flatnonzero(counts > 1), np.flatnonzero(counts == 0)
        parts = (
            [f"{len(twice):,} units have several rows, such as {_key_words(keys[int(twice[0])])}"]
            if len(twice)
            else []
        )
        parts += (
            [f"{len(without):,} have none, such as {_key_words(keys[int(without[0])])}"]
            if len(without)
            else []
        )
        raise ResultError(
            f"returned {len(found):,} rows for {units:,} units by their keys: {' and '.join(parts)}; wanted one for each "
            "(a column `unit` that numbers the units from 0 allows any number)"
        )

    def _keep(self, table: pa.Table, units: NDArray[np.int64]) -> None:
        self._check_names(tuple(table.column_names))
        odd = [f"{f.name} ({f.type})" for f in table.schema if not holdable(f.type)]
        if odd:
            raise ResultError(f"returned columns that no file can hold: {', '.join(odd)}")
        if self.contract is None:
            table = _widened(table)
        self.tables.append(table.append_column(UNIT, from_numpy(units)))

    def _row(self, unit: int, names: Row, values: Any) -> None:
        group = self.last
        if group is None or group.names != names:
            known = self.groups.get(names)
            if known is None:
                self._check_names(names)
                known = self.groups[names] = Group(names)
            group = self.last = known
        row = (*values,)
        if len(row) != len(names):
            raise ResultError(f"returned {len(row)} values for the columns {', '.join(names)}")
        group.units.append(unit)
        group.rows.append((*row, row[0]))

    def _check_names(self, names: Row) -> None:
        strange = [
            describe(n, repr)
            for n in names
            if not isinstance(n, str) or n.startswith("__") or describe(n) != n or not is_usable(n)
        ]
        if strange:
            raise ResultError(
                f"returned columns {', '.join(strange)}; wanted names that SQL can use, and none that begins with __"
            )
        if len({n.lower() for n in (*names, *(k for k in self.keys if k not in names))}) < len(
            {*names, *self.keys}
        ) or len(set(names)) < len(names):
            raise ResultError(
                f"returned columns {', '.join(names)}; SQL takes two of them, or one and a key, for the same"
            )
        if not names:
            raise ResultError(
                "returned an empty dict; wanted one with at least one column, such as {'price': 1.5}"
            )
        if self.contract is None:
            return
        wanted = self.contract.names
        missing = [n for n in wanted if n not in names]
        extra = [n for n in names if n not in wanted and n not in self.keys]
        if missing or extra:
            parts = [f"{', '.join(missing)} missing"] if missing else []
            parts += [f"{', '.join(map(str, extra))} too much"] if extra else []
            raise ResultError(
                f"returned other columns than {self.contract.name} has: {' and '.join(parts)}"
            )

    def finish(self) -> tuple[list[pa.Table], list[UnitStatus]]:
        """The result tables, each with the column UNIT, and the units whose values fit no column."""
        bad: dict[int, UnitStatus] = {}
        tables = [t for group in self.groups.values() for t in self._tables(group, bad)]
        tables += [self._conform(table, bad) for table in _merged(self.tables)]
        tables = [self._without_keys(table, bad) for table in tables]
        if (
            bad and self.contract is None
        ):  # values of a failed unit must not decide the types of its neighbours' columns
            groups = [group.without(bad) for group in self.groups.values()]
            tables = [t for group in groups if group.rows for t in self._tables(group, {})]
            tables += [_without(self._conform(table, {}), bad) for table in _merged(self.tables)]
            tables = [self._without_keys(table, {}) for table in tables]
        elif bad:
            tables = [_without(table, bad) for table in tables]
        if (
            self.nones
        ):  # a table without a column: what a None stands for depends on the other units
            units = [unit for unit in self.nones if unit not in bad]
            tables.append(pa.table({UNIT: from_numpy(np.array(units, np.int64))}))
        return [t for t in tables if t.num_rows], list(bad.values())

    def _tables(self, group: Group, bad: dict[int, UnitStatus]) -> Iterator[pa.Table]:
        units = from_numpy(np.array(group.units, np.int64))
        if self.contract is not None:
            columns = [
                self._typed(name, values, group.units, bad)
                for name, values in zip(group.names, group.columns(), strict=True)
            ]
            yield pa.table([*columns, units], [*group.names, UNIT])
            return
        try:
            yield pa.table([*map(column_of, group.columns()), units], [*group.names, UNIT])
        except UNFIT:
            yield from _split(group, bad)

    def _typed(
        self, name: str, values: Sequence[Any], units: Sequence[int], bad: dict[int, UnitStatus]
    ) -> pa.Array:
        """A column of the contract's type; where that fails, the units to blame are put to `bad` and their values to null."""
        column = (
            next((c for c in self.contract.columns if c.name == name), None)
            if self.contract
            else None
        )
        if column is None:  # a key column that came along
            return column_of(values)
        try:
            array = column_of(values, column.arrow)
        except UNFIT:
            array = pa.array(
                [
                    self._or_blame(column, v, unit, bad)
                    for v, unit in zip(values, units, strict=True)
                ],
                column.arrow,
            )
        if not column.nullable and array.null_count:
            for row in np.flatnonzero(nulls_of(array)).tolist():
                bad.setdefault(
                    units[row],
                    UnitStatus(
                        units[row],
                        "failed",
                        "ResultError",
                        f"{name} is null, and {self.contract.name if self.contract else ''} says that it never is",
                    ),
                )
        return array

    def _or_blame(self, column: Any, value: Any, unit: int, bad: dict[int, UnitStatus]) -> Any:
        try:
            return column_of([value], column.arrow)[0].as_py()
        except UNFIT:
            bad.setdefault(
                unit,
                UnitStatus(
                    unit,
                    "failed",
                    "ResultError",
                    f"{column.name} is {_short(value)} ({type(value).__name__}), wanted {column.arrow}",
                ),
            )
            return None

    def _conform(self, table: pa.Table, bad: dict[int, UnitStatus]) -> pa.Table:
        """A table that the function returned, in the contract's types or in the wide ones."""
        units = numpy_of(table.column(UNIT), False).tolist()
        arrays = []
        for name in table.column_names:
            values = table.column(name).combine_chunks()
            column = (
                next((c for c in self.contract.columns if c.name == name), None)
                if self.contract
                else None
            )
            if name == UNIT:
                arrays.append(values)
            elif column is None:
                arrays.append(cast(values, wide(values.type)))
            else:
                try:
                    arrays.append(same_values(values, column.arrow))
                except UNFIT:
                    arrays.append(
                        pa.array(
                            [
                                self._or_blame(column, v, u, bad)
                                for v, u in zip(pylist_of(values), units, strict=True)
                            ],
                            column.arrow,
                        )
                    )
                if not column.nullable and arrays[-1].null_count:
                    for row in np.flatnonzero(nulls_of(arrays[-1])).tolist():
                        bad.setdefault(
                            units[row],
                            UnitStatus(
                                units[row],
                                "failed",
                                "ResultError",
                                f"{name} is null, and its contract says that it never is",
                            ),
                        )
        return pa.table(arrays, table.column_names)

    def _without_keys(self, table: pa.Table, bad: dict[int, UnitStatus]) -> pa.Table:
        """Key columns in a result must repeat the unit's own key; the engine writes them itself."""
        for name in [n for n in table.column_names if n in self.keys]:
            units = numpy_of(table.column(UNIT), False).tolist()
            for unit, value in zip(units, pylist_of(table.column(name)), strict=True):
                wanted = self.keys[name](unit)
                if value != wanted and not (
                    value != value and (wanted != wanted or wanted is None)
                ):  # a null number is read as NaN
                    bad.setdefault(
                        unit,
                        UnitStatus(
                            unit,
                            "failed",
                            "ResultError",
                            f"returned {name} = {value!r}, but the unit's key is {wanted!r}",
                        ),
                    )
            table = table.drop_columns([name])
        return table


def _is_table(value: Mapping[Any, Any], contract: Contract | None) -> bool:
    """A dict whose values are all 1-D arrays of one length is several rows, unless the contract says that a value is a list."""
    first = next(iter(value.values()), None)
    if not isinstance(first, np.ndarray) or first.ndim != 1:
        return False
    if contract is not None and any(pa.types.is_nested(c.arrow) for c in contract.columns):
        return False
    return all(
        isinstance(v, np.ndarray) and v.ndim == 1 and len(v) == len(first) for v in value.values()
    )


def is_value(value: Any) -> bool:
    """Whether a result is a single value: a number, a text, a date, ..., but neither a row nor a table."""
    if isinstance(value, VALUES):
        return not isinstance(value, np.void)
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and not value.dtype.names
    return isinstance(value, pa.Scalar) or type(value).__name__ in ("NaTType", "NAType")


def row_of(value: Any) -> tuple[Row, Any]:
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
    if isinstance(value, np.void) and value.dtype.names:
        return value.dtype.names, [value[name] for name in value.dtype.names]
    raise _no_row(value)


def _no_row(value: Any) -> ResultError:
    """What is wrong with a result that is no row, and what to return in its place."""
    kind = type(value)
    what = "None" if value is None else f"{kind.__name__} {describe(value)[:80]!r}"
    wanted = "wanted a dict, dataclass, NamedTuple or pydantic row, a list of them, a table, or a single value"
    if isinstance(value, Awaitable):
        getattr(value, "close", lambda: None)()  # or Python warns that nobody awaited it
        return ResultError(
            f"returned {what}: the function is asynchronous, and its result was not awaited; {wanted}"
        )
    if isinstance(value, np.ndarray):
        return ResultError(
            f"returned an array of shape {value.shape}; {wanted}: {{'value': array}} is a row for each element, {{'value': array.tolist()}} is one"
        )
    if is_value(value) or value is None:
        return ResultError(
            f"returned {what} in a list; a list holds rows, each with named columns: {{'value': ...}}"
        )
    if isinstance(value, ROWS):
        return ResultError(f"returned {what}; {wanted}")
    module = kind.__module__.partition(".")[0]
    if module == "pandas":
        return ResultError(
            f"returned a pandas {kind.__name__}; {wanted}: series.to_dict() is a row, series.to_frame() a table"
        )
    if module in ("polars", "pyarrow"):
        return ResultError(f"returned a {module} {kind.__name__}; {wanted}")
    return ResultError(
        f"returned a {kind.__module__}.{kind.__qualname__} object; {wanted}. An object, such as a fitted model, is kept as bytes: "
        'return {"model": pickle.dumps(model)}, and pickle.loads(...) gives it back'
    )


def table_of(value: Any) -> pa.Table | None:
    """An Arrow table of a table that a function returned; None if it is no table."""
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.RecordBatchReader):
        return value.read_all()
    if isinstance(value, dict):
        return pa.table({name: column_of(v) for name, v in value.items()})
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.names:
        return pa.table({name: column_of(value[name]) for name in value.dtype.names})
    module = type(value).__module__.split(".")[0]
    if hasattr(value, "iloc") and hasattr(value, "columns"):  # pandas, and what is derived from it
        return _of_pandas(value)
    if module == "polars" and hasattr(value, "collect") and hasattr(value, "collect_schema"):
        value = value.collect()
    if module == "polars" and hasattr(value, "to_arrow") and hasattr(value, "columns"):
        return _of_polars(value)
    return None


def _of_polars(frame: Any) -> pa.Table:
    try:
        table = frame.to_arrow()
    except pa.ArrowException as error:
        raise ResultError(
            f"returned a polars frame that Arrow cannot hold: {error}; its types are {frame.dtypes}"
        ) from error
    if opaque := [f.name for f in table.schema if is_opaque(f.type)]:
        raise ResultError(
            f"returned a polars frame with Python objects as {', '.join(opaque)}; cast these columns, or return them as bytes"
        )
    return table


def _of_pandas(frame: Any) -> pa.Table:
    """A pandas frame as an Arrow table, with the columns of its index where these have names.

    A column of objects holds values of one sort, as everywhere: what Arrow makes of a mixture depends on the first of them.
    """
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = list(frame.columns)
    strange = [describe(name, repr) for name in names if not isinstance(name, str)]
    if strange:
        raise ResultError(
            f"returned a frame with the columns {', '.join(strange)}; wanted names (frame.rename(columns=...))"
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ResultError(f"returned a frame that has a column more than once: {', '.join(twice)}")
    objects = [name for name in names if has_objects(frame[name])]
    table = pa.Table.from_pandas(
        frame.drop(columns=objects), preserve_index=False
    ).replace_schema_metadata(None)
    made = {
        name: column_of(
            [None if isinstance(v, float) and v != v else v for v in frame[name].tolist()]
        )
        for name in objects
    }
    return (
        pa.table({name: made[name] if name in made else table.column(name) for name in names})
        if names
        else table
    )


def _many_table(value: Any) -> tuple[pa.Table, bool]:
    """What was returned for a whole slice, as a table, and whether its rows are in the order of the units by what it is."""
    if isinstance(value, dict):
        frame = _of_series(value)
        if frame is not None:
            return _of_pandas(frame), False
        lengths = {
            name: len(v) if hasattr(v, "__len__") and not isinstance(v, str | bytes) else None
            for name, v in value.items()
        }
        unordered = [
            name
            for name, v in value.items()
            if isinstance(v, Mapping) or (isinstance(v, UNORDERED) and not isinstance(v, IN_ORDER))
        ]
        if unordered:
            raise ResultError(
                f"returned as {unordered[0]} a {type(value[unordered[0]]).__name__} for a whole batch: whose each value is, it does not say;"
                " wanted an array or a list in the order of the units"
            )
        if None in lengths.values() or len(set(lengths.values())) > 1:
            raise ResultError(f"returned columns of different lengths: {lengths}")
        return pa.table({name: column_of(v) for name, v in value.items()}), True
    table = table_of(value)
    if table is not None:
        return table, isinstance(value, np.ndarray)
    if isinstance(value, list | Iterator):
        gather = ResultBuilder(Returned(), {})
        for number, item in enumerate(value):
            gather._row(number, *row_of(item))
        tables, bad = gather.finish()
        if bad:
            raise ResultError(bad[0].message)
        if len(tables) != 1:
            raise ResultError(f"returned rows of {len(tables)} different shapes; wanted one")
        return tables[0].drop_columns([UNIT]), True
    if not is_value(value):
        row_of(value)  # says what is wrong with it
    raise ResultError(
        f"returned {type(value).__name__} {describe(value)[:80]!r} for a whole batch; wanted a dict of arrays, a list of rows or a table"
    )


def _of_series(value: Mapping[Any, Any]) -> Any:
    """A dict of pandas Series with a named index, which says whose each value is, as a frame; None for any other dict."""
    series = [
        v
        for v in value.values()
        if hasattr(v, "to_frame") and any(getattr(getattr(v, "index", None), "names", ()))
    ]
    if not series or len(series) < len(value):
        return None
    if any(not s.index.equals(series[0].index) for s in series):
        raise ResultError(
            "returned Series with different indexes; wanted one index, with the units' keys"
        )
    return series[0].to_frame().set_axis([next(iter(value))], axis=1).assign(**dict(value))


def _same_key(part: Any) -> Any:
    """A part of a key as it is looked for: a null may have become NaN on its way through the function."""
    return None if part != part else part


def _key_words(key: Sequence[Any]) -> str:
    return ", ".join(describe(part)[:80] for part in key)


def _widened(table: pa.Table) -> pa.Table:
    """A table in the wide types of its columns; ResultError names the column that has a value which its wide type cannot hold."""
    for position, field in enumerate(table.schema):
        kind = wide(field.type)
        if kind == field.type:
            continue
        try:
            table = table.set_column(position, field.name, cast(table.column(position), kind))
        except UNFIT as error:
            raise ResultError(
                f"returned as {field.name} ({field.type}) a value that no column can hold: {error}"
            ) from error
    return table


def _aligned(rows: list[tuple[Row, Any]]) -> list[tuple[Row, Any]]:
    """Rows of one unit with equal columns in another order, in the order of the first: they must stay beside each other."""
    if len({names for names, _ in rows}) < 2:
        return rows
    first = rows[0][0]
    same = [
        names != first and len(names) == len(first) and set(names) == set(first)
        for names, _ in rows
    ]
    return [
        (first, [dict(zip(names, values, strict=True))[n] for n in first])
        if turn
        else (names, values)
        for turn, (names, values) in zip(same, rows, strict=True)
    ]


def _split(group: Group, bad: dict[int, UnitStatus]) -> Iterator[pa.Table]:
    """A group whose columns mix sorts from unit to unit, as one table for each combination of types (slow, and rare).

    A unit's rows stay together, so that their order does not depend on who its neighbours were.
    """
    units = np.array(group.units, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]])).tolist()
    by_type: dict[tuple[str, ...], list[list[Any]]] = {}
    lists = list(group.columns())
    for start, stop in zip(starts, [*starts[1:], len(units)], strict=True):
        columns = []
        for name, values in zip(group.names, lists, strict=True):
            try:
                columns.append(column_of(values[start:stop]))
            except UNFIT as error:
                value = values[start:stop] if stop - start > 1 else values[start]
                why = f"returned as {name} what no column can hold: {_short(value)} ({error}){_kept_as_bytes(value)}"
                bad.setdefault(
                    group.units[start], UnitStatus(group.units[start], "failed", "ResultError", why)
                )
        if len(columns) == len(group.names):
            by_type.setdefault(tuple(str(c.type) for c in columns), []).append(
                [*columns, from_numpy(units[start:stop])]
            )
    for pieces in by_type.values():
        yield pa.table(
            [pa.concat_arrays(column) for column in zip(*pieces, strict=True)], [*group.names, UNIT]
        )


def _kept_as_bytes(value: Any) -> str:
    """How to keep an object that is no value, such as a fitted model."""
    known = type(value).__module__.partition(".")[0] in (
        "builtins",
        "numpy",
        "pandas",
        "pyarrow",
        "polars",
        "decimal",
        "datetime",
    )
    return (
        ""
        if known
        else "; an object is kept as bytes: pickle.dumps(...), and pickle.loads(...) gives it back"
    )


def _merged(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Tables of equal columns put together."""
    by_schema: dict[str, list[pa.Table]] = {}
    for table in tables:
        by_schema.setdefault(str([(f.name, str(f.type)) for f in table.schema]), []).append(table)
    return [
        pa.concat_tables([t.replace_schema_metadata(None) for t in same])
        for same in by_schema.values()
    ]


def _without(table: pa.Table, bad: Mapping[int, UnitStatus]) -> pa.Table:
    units = numpy_of(table.column(UNIT), False)
    return table.filter(pa.array((~np.isin(units, list(bad))).tolist(), pa.bool_()))


def _short(value: Any, most: int = 80) -> str:
    text = describe(value, repr)
    return text if len(text) <= most else f"{text[:most]}..."
