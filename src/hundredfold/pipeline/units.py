"""Which units a query has, how many rows each, and how to tell from a row which unit it belongs to:
part of step 2.

Where the key's values span no more combinations than a few times the rows, a unit is told by
arithmetic: the place of each value among those of its column, put together like the digits of a
number. Rows are then counted and numbered by looking up an array, several times faster than by
grouping and joining in SQL, which is left for all other keys. Both give the same units in the same
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import quote
from ..data.manifest import ROWS_COLUMN
from ..data.numpy_columns import UNIT, from_numpy, take_rows, to_numpy
from ..errors import ConservationError, QueryError
from ..ports.interfaces import StreamingWarehouse
from ..sql.queries import rows_with_unit_number, unit_sizes

MAX_COMBINATIONS = 2**24  # combinations of key values
COMBINATION_BYTES = 40  # what is kept of each while rows are counted, with room to spare
MAX_DISTINCT_VALUES = 2**16  # different values of one column that is no number
MAX_BUFFERED_CODES = 2**22  # rows whose codes are counted at once


class UnitIndex(Protocol):
    """The units of a query in the order of their keys, with their sizes; a query of its rows; and
    their units' numbers.
    """

    @property
    def tables(self) -> Sequence[str]:
        """What of it lies in the warehouse, until it is forgotten."""

    def batches_of_units(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The units and their sizes, about `rows` of them at a time: there may be more than fit
        into memory.
        """

    def set_units(self, units: pa.Table) -> None:
        """Take the list of units, as it was written and read again, before rows are queried."""

    def query(self, columns: Sequence[str]) -> str:
        """The rows, with these columns, and before them one that tells the unit."""

    def unit_numbers(self, codes: pa.Array) -> NDArray[np.int32]:
        """The number of each row's unit, from what that first column tells."""


def number_units(
    model: str,
    unit: Sequence[str],
    select: str,
    schema: pa.Schema,
    warehouse: StreamingWarehouse,
    memory: int | None = None,
) -> UnitIndex:
    """Find how to tell the units of a query. memory: bytes that it may take for itself."""
    if not unit:
        return SingleUnit(select, warehouse)
    most = (
        MAX_COMBINATIONS if memory is None else min(MAX_COMBINATIONS, memory // COMBINATION_BYTES)
    )
    return _dense_index(model, unit, select, schema, warehouse, most) or JoinIndex(
        unit, select, warehouse
    )


def no_rows_error(model: str) -> QueryError:
    """The error for a query without a unit."""
    return QueryError(
        f"the query of {model} gives no row",
        hint="run the query by itself; is a filter or a join too narrow?",
    )


class SingleUnit:
    """One unit of all rows: the key is ()."""

    tables = ()

    def __init__(self, select: str, warehouse: StreamingWarehouse) -> None:
        self._select, self._warehouse = select, warehouse

    def batches_of_units(self, rows: int) -> Iterator[pa.RecordBatch]:  # noqa: ARG002  # one unit
        counted = self._warehouse.query(
            f"SELECT count(*) AS {ROWS_COLUMN} FROM ({self._select}) AS q"
        )
        if sum(to_numpy(counted.column(ROWS_COLUMN), False)):
            yield from map(_with_int64_sizes, counted.combine_chunks().to_batches())

    def set_units(self, units: pa.Table) -> None: ...

    def query(self, columns: Sequence[str]) -> str:
        return rows_with_unit_number(self._select, (), columns, "")

    def unit_numbers(self, codes: pa.Array) -> NDArray[np.int32]:
        return np.zeros(len(codes), np.int32)


class JoinIndex:
    """Keys of any kind: grouped, and then joined, in SQL."""

    tables = ("__units",)

    def __init__(self, unit: Sequence[str], select: str, warehouse: StreamingWarehouse) -> None:
        self._unit, self._select, self._warehouse = unit, select, warehouse

    def batches_of_units(self, rows: int) -> Iterator[pa.RecordBatch]:
        return map(
            _with_int64_sizes, self._warehouse.stream(unit_sizes(self._select, self._unit), rows)
        )

    def set_units(self, units: pa.Table) -> None:
        numbers = from_numpy(np.arange(units.num_rows, dtype=np.int32))
        self._warehouse.register(
            "__units", units.drop_columns([ROWS_COLUMN]).append_column(UNIT, numbers)
        )

    def query(self, columns: Sequence[str]) -> str:
        return rows_with_unit_number(self._select, self._unit, columns, "__units")

    def unit_numbers(self, codes: pa.Array) -> NDArray[np.int32]:
        return to_numpy(codes, False)


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One column of a key: how many places it has, the place of a row's value in SQL, and the value
    of each place.
    """

    name: str
    cardinality: int
    sql: str
    values: Values | Range
    table: str = ""  # of values and places in the warehouse, where the place is found by a join


@dataclass(frozen=True, slots=True)
class Values:
    """Few values of any order, each at its place."""

    values: pa.Array

    def at(self, places: NDArray[np.int64]) -> pa.Array:
        return take_rows(self.values, places)


@dataclass(frozen=True, slots=True)
class Range:
    """Whole numbers from `lowest` on, so many; then a null, if any key has one."""

    kind: pa.DataType
    lowest: int
    count: int

    def at(self, places: NDArray[np.int64]) -> pa.Array:
        values = from_numpy((places + self.lowest).astype(str(self.kind)))
        nulls = places == self.count
        if not nulls.any():
            return values
        mask = pa.py_buffer(np.packbits(~nulls, bitorder="little"))
        return pa.Array.from_buffers(self.kind, len(values), [mask, values.buffers()[1]])


class DenseIndex:
    """Keys of few combinations:

    `digits` make a code of a row's key, and an array makes the unit's number of the code.
    """

    def __init__(
        self,
        model: str,
        columns_of_key: Sequence[KeyColumn],
        select: str,
        warehouse: StreamingWarehouse,
    ) -> None:
        self._model, self._digits, self._select = model, columns_of_key, select
        self.tables = [column.table for column in columns_of_key if column.table]
        self._cells = int(np.prod([column.cardinality for column in columns_of_key], dtype=object))
        self._rows: NDArray[np.int64] | None = self._count(warehouse)
        self._number = np.full(self._cells, -1, np.int32)

    def batches_of_units(self, rows: int) -> Iterator[pa.RecordBatch]:
        counts = self._rows if self._rows is not None else np.zeros(0, np.int64)
        number = 0
        for start in range(0, len(counts), rows):
            part = counts[start : start + rows]
            there = np.flatnonzero(part)
            codes = there + start
            self._number[codes] = np.arange(number, number + len(codes), dtype=np.int32)
            number += len(codes)
            keys: dict[str, pa.Array] = {}
            rest = codes
            for column in reversed(self._digits):
                rest, place = np.divmod(rest, column.cardinality)
                keys[column.name] = column.values.at(place)
            if len(codes):
                columns = {column.name: keys[column.name] for column in self._digits}
                yield pa.RecordBatch.from_pydict({**columns, ROWS_COLUMN: from_numpy(part[there])})
        self._rows = None

    def set_units(self, units: pa.Table) -> None: ...

    def query(self, columns: Sequence[str]) -> str:
        code = ""
        for column in self._digits:
            code = f"({code}) * {column.cardinality} + {column.sql}" if code else column.sql
        joins = "".join(
            (
                f" JOIN {column.table} ON q.{quote(column.name)} IS NOT DISTINCT FROM "
                f"{column.table}.value"
            )
            for column in self._digits
            if column.table
        )
        rest = "".join(f", q.{quote(name)}" for name in columns)
        return f"SELECT CAST({code} AS INTEGER) AS {UNIT}{rest} FROM ({self._select}) AS q{joins}"

    def unit_numbers(self, codes: pa.Array) -> NDArray[np.int32]:
        return self._number.take(self._codes(codes))

    def _count(self, warehouse: StreamingWarehouse) -> NDArray[np.int64]:
        """How many rows each combination has."""
        rows = np.zeros(self._cells, np.int64)
        waiting: list[NDArray[Any]] = []
        for chunk in warehouse.stream(self.query(())):
            waiting.append(self._codes(chunk.column(0)))
            if sum(map(len, waiting)) > MAX_BUFFERED_CODES:
                rows += np.bincount(np.concatenate(waiting), minlength=self._cells)
                waiting = []
        if waiting:
            rows += np.bincount(np.concatenate(waiting), minlength=self._cells)
        return rows

    def _codes(self, column: pa.Array) -> NDArray[np.int32]:
        codes = to_numpy(column, False) if column.null_count == 0 else np.array([-1])
        if len(codes) and (codes.min() < 0 or codes.max() >= self._cells):
            raise ConservationError(
                f"{self._model}: the query gave keys that it had not given a moment before",
                hint="does the query depend on chance or on time? A query must give the same rows "
                "each time",
            )
        return codes


def _dense_index(
    model: str,
    unit: Sequence[str],
    select: str,
    schema: pa.Schema,
    warehouse: StreamingWarehouse,
    cells: int,
) -> DenseIndex | None:
    """The units told by arithmetic; None where their keys are of other types, or of too many
    combinations.
    """
    t = pa.types
    kinds = {name: schema.field(name).type for name in unit}
    whole = [name for name, kind in kinds.items() if t.is_integer(kind) and kind != pa.uint64()]
    other = [name for name in unit if name not in whole]
    if not all(
        t.is_string(kinds[name]) or t.is_date(kinds[name]) or t.is_boolean(kinds[name])
        for name in other
    ):
        return None
    bounds = "".join(f", min({quote(n)}), max({quote(n)}), count({quote(n)})" for n in whole)
    rows, *ends = (
        column[0].as_py()
        for column in warehouse.query(f"SELECT count(*){bounds} FROM ({select}) AS q").columns
    )
    ranges = dict(zip(whole, zip(ends[::3], ends[1::3], ends[2::3], strict=True), strict=True))
    if not rows or any(lowest is None for lowest, _, _ in ranges.values()):
        return None
    most, columns_of_key = min(cells, 4 * rows + 2**16), list[KeyColumn]()
    for place, name in enumerate(unit):
        lowest, highest, there = ranges.get(name, (0, MAX_COMBINATIONS, 0))
        if highest - lowest < MAX_COMBINATIONS:
            column: KeyColumn | None = _integer_column(
                name, kinds[name], lowest, highest - lowest + 1, there < rows
            )
        else:
            column = _value_column(name, kinds[name], select, f"__places_{place}", warehouse)
        most = most // column.cardinality if column else 0
        if column is None or not most:
            for table in [each.table for each in columns_of_key if each.table]:
                warehouse.drop(table)
            return None
        columns_of_key.append(column)
    return DenseIndex(model, columns_of_key, select, warehouse)


def _integer_column(
    name: str, kind: pa.DataType, lowest: int, places: int, nulls: bool
) -> KeyColumn:
    """Whole numbers that lie close to one another: the place is the distance from the least of
    them; nulls come last.
    """
    sql = f"(CAST(q.{quote(name)} AS BIGINT) - {lowest})"
    if nulls:
        sql = f"coalesce({sql}, {places})"
    return KeyColumn(name, places + nulls, sql, Range(kind, lowest, places))


def _value_column(
    name: str, kind: pa.DataType, select: str, table: str, warehouse: StreamingWarehouse
) -> KeyColumn | None:
    """Few values of any order: each has its place in that table; None if they are many."""
    distinct = (
        f"SELECT DISTINCT {quote(name)} AS value FROM ({select}) AS q LIMIT "
        f"{MAX_DISTINCT_VALUES + 1}"
    )
    values = (
        warehouse.query(f"SELECT value FROM ({distinct}) AS d ORDER BY value ASC NULLS LAST")
        .column("value")
        .combine_chunks()
    )
    if len(values) > MAX_DISTINCT_VALUES:
        return None
    warehouse.register(
        table, pa.table({"value": values, "place": from_numpy(np.arange(len(values)))})
    )
    typed = values if values.type == kind else values.cast(kind)
    return KeyColumn(name, len(values), f"{table}.place", Values(typed), table)


def _with_int64_sizes(units: pa.RecordBatch) -> pa.RecordBatch:
    rows = to_numpy(units.column(ROWS_COLUMN), False).astype(np.int64)
    return units.set_column(units.num_columns - 1, ROWS_COLUMN, from_numpy(rows))
