"""The units of a query, their sizes, and the unit of each row: part of step 2.

Where the values of the key have few combinations (a few times the number of rows), a unit is found
by arithmetic: the position of each value in its column is a digit, and the digits are put together
to a number. Rows are then counted and numbered by array look-ups, several times faster than by
GROUP BY and JOIN in SQL, which are used for all other keys. Both ways give the same units in the
same order.
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
COMBINATION_BYTES = 40  # of each combination while rows are counted, rounded up
MAX_DISTINCT_VALUES = 2**16  # of one column that is not an integer
MAX_BUFFERED_CODES = 2**22  # rows whose codes are counted at a time


class UnitIndex(Protocol):
    """The units of a query in the order of their keys, and a query of its rows with their units."""

    @property
    def tables(self) -> Sequence[str]:
        """The names of its tables in the warehouse, to be dropped at the end."""

    def batches_of_units(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the units and their sizes, about `rows` at a time: they may not fit into memory."""

    def set_units(self, units: pa.Table) -> None:
        """Set the list of units, written and read back, before rows are queried."""

    def query(self, columns: Sequence[str]) -> str:
        """Return a query of the rows: first a column of codes that identify units, then these
        columns.
        """

    def unit_numbers(self, codes: pa.Array) -> NDArray[np.int32]:
        """Return the number of each row's unit from its code."""


def number_units(
    model: str,
    unit: Sequence[str],
    select: str,
    schema: pa.Schema,
    warehouse: StreamingWarehouse,
    memory: int | None = None,
) -> UnitIndex:
    """Choose an index for the units of a query. memory: bytes that it may use."""
    if not unit:
        return SingleUnit(select, warehouse)
    most = (
        MAX_COMBINATIONS if memory is None else min(MAX_COMBINATIONS, memory // COMBINATION_BYTES)
    )
    return _dense_index(model, unit, select, schema, warehouse, most) or JoinIndex(
        unit, select, warehouse
    )


def no_rows_error(model: str) -> QueryError:
    """Return the error for a query without rows."""
    return QueryError(
        f"the query of {model} returns no row",
        hint="run the query by itself; is a filter or a join too narrow?",
    )


class SingleUnit:
    """The index of a single unit with all rows: its key is ()."""

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
    """The index for keys of any kind: GROUP BY and JOIN in SQL."""

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
    """One column of a key: the number of its values, the position of a row's value in SQL, and the
    values.
    """

    name: str
    cardinality: int
    sql: str
    values: Values | Range
    # of values and positions in the warehouse, where the position is found by a join
    table: str = ""


@dataclass(frozen=True, slots=True)
class Values:
    """A few values of any kind, by position."""

    values: pa.Array

    def at(self, positions: NDArray[np.int64]) -> pa.Array:
        return take_rows(self.values, positions)


@dataclass(frozen=True, slots=True)
class Range:
    """`count` integers from `lowest` on; then a null, if any key has one."""

    kind: pa.DataType
    lowest: int
    count: int

    def at(self, positions: NDArray[np.int64]) -> pa.Array:
        values = from_numpy((positions + self.lowest).astype(str(self.kind)))
        nulls = positions == self.count
        if not nulls.any():
            return values
        mask = pa.py_buffer(np.packbits(~nulls, bitorder="little"))
        return pa.Array.from_buffers(self.kind, len(values), [mask, values.buffers()[1]])


class DenseIndex:
    """The index for keys with few combinations: a row's code is its position in an array of
    numbers.
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
                rest, position = np.divmod(rest, column.cardinality)
                keys[column.name] = column.values.at(position)
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
        """Count the rows of each combination."""
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
                f"{self._model}: the query returned keys that it did not return a moment before",
                hint="does the query depend on chance or on the time? A query must return the "
                "same rows each time",
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
    """Return the index for keys with few combinations; None for other types or more
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
    for position, name in enumerate(unit):
        lowest, highest, there = ranges.get(name, (0, MAX_COMBINATIONS, 0))
        if highest - lowest < MAX_COMBINATIONS:
            column: KeyColumn | None = _integer_column(
                name, kinds[name], lowest, highest - lowest + 1, there < rows
            )
        else:
            column = _value_column(name, kinds[name], select, f"__places_{position}", warehouse)
        most = most // column.cardinality if column else 0
        if column is None or not most:
            for table in [each.table for each in columns_of_key if each.table]:
                warehouse.drop(table)
            return None
        columns_of_key.append(column)
    return DenseIndex(model, columns_of_key, select, warehouse)


def _integer_column(
    name: str, kind: pa.DataType, lowest: int, positions: int, nulls: bool
) -> KeyColumn:
    """Return a column of integers in a small range: the position is the distance from the lowest.

    Nulls come last.
    """
    sql = f"(CAST(q.{quote(name)} AS BIGINT) - {lowest})"
    if nulls:
        sql = f"coalesce({sql}, {positions})"
    return KeyColumn(name, positions + nulls, sql, Range(kind, lowest, positions))


def _value_column(
    name: str, kind: pa.DataType, select: str, table: str, warehouse: StreamingWarehouse
) -> KeyColumn | None:
    """Return a column of few values, whose positions are in that table; None if they are many."""
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
