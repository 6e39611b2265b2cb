"""Which units a query has, how many rows each, and how to tell from a row which unit it belongs to: part of step 2.

Where the key's values span no more combinations than a few times the rows, a unit is told by arithmetic: the place of each value
among those of its column, put together like the digits of a number.  Rows are then counted and numbered by looking up an array,
several times faster than by grouping and joining in SQL, which is left for all other keys.  Both give the same units in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import quote
from ..data.arrays import UNIT, from_numpy, numpy_of, taken
from ..data.manifest import ROWS
from ..errors import ConservationError, QueryError
from ..ports.interfaces import Warehouse
from ..sql.queries import numbered, sizes

MOST_CELLS = 2**24  # combinations of key values: what is kept of each takes 12 bytes
MOST_PLACES = 2**16  # different values of one column that is no number
COUNTED = 2**22  # rows whose codes are counted at once


class Counting(Warehouse, Protocol):
    def load(self, name: str, table: pa.Table) -> None: ...
    def forget(self, name: str) -> None: ...


class Numbering(Protocol):
    """The units of a query in the order of their keys, with their sizes; a query of its rows; and their units' numbers."""

    units: pa.Table

    @property
    def tables(self) -> Sequence[str]:
        """What of it lies in the warehouse, until it is forgotten."""

    def query(self, columns: Sequence[str]) -> str:
        """The rows, with these columns, and before them one that tells the unit."""

    def numbers(self, told: pa.Array) -> NDArray[np.int32]:
        """The number of each row's unit, from what that first column tells."""


def number(model: str, unit: Sequence[str], select: str, schema: pa.Schema, warehouse: Counting) -> Numbering:
    """Count the units of a query; QueryError if it has no row."""
    found = (_dense(model, unit, select, schema, warehouse) or Joined(unit, select, warehouse)) if unit else Whole(select, warehouse)
    if not sum(numpy_of(found.units.column(ROWS), False)[:1]):
        raise QueryError(f"the query of {model} gives no row", hint="run the query by itself; is a filter or a join too narrow?")
    return found


class Whole:
    """One unit of all rows: the key is ()."""

    tables = ()

    def __init__(self, select: str, warehouse: Counting) -> None:
        self._select = select
        self.units = _with_rows(warehouse.query(f"SELECT count(*) AS {ROWS} FROM ({select}) AS q"))

    def query(self, columns: Sequence[str]) -> str:
        return numbered(self._select, (), columns, "")

    def numbers(self, told: pa.Array) -> NDArray[np.int32]:
        return np.zeros(len(told), np.int32)


class Joined:
    """Keys of any kind: grouped, and then joined, in SQL."""

    tables = ("__units",)

    def __init__(self, unit: Sequence[str], select: str, warehouse: Counting) -> None:
        self._unit, self._select = unit, select
        self.units = _with_rows(warehouse.query(sizes(select, unit)))
        numbers = from_numpy(np.arange(self.units.num_rows, dtype=np.int32))
        warehouse.load("__units", self.units.drop_columns([ROWS]).append_column(UNIT, numbers))

    def query(self, columns: Sequence[str]) -> str:
        return numbered(self._select, self._unit, columns, "__units")

    def numbers(self, told: pa.Array) -> NDArray[np.int32]:
        return numpy_of(told, False)


@dataclass(frozen=True, slots=True)
class Digit:
    """One column of a key: how many places it has, the place of a row's value in SQL, and the value of each place."""

    name: str
    places: int
    sql: str
    values: pa.Array
    table: str = ""  # of values and places in the warehouse, where the place is found by a join


class Dense:
    """Keys of few combinations: `digits` make a code of a row's key, and an array makes the unit's number of the code."""

    def __init__(self, model: str, digits: Sequence[Digit], select: str, warehouse: Counting) -> None:
        self._model, self._digits, self._select = model, digits, select
        self.tables = [digit.table for digit in digits if digit.table]
        self._cells = int(np.prod([digit.places for digit in digits], dtype=object))
        rows = self._count(warehouse)
        codes = np.flatnonzero(rows)
        self._number = np.full(self._cells, -1, np.int32)
        self._number[codes] = np.arange(len(codes), dtype=np.int32)
        keys: dict[str, pa.Array] = {}
        rest = codes
        for digit in reversed(digits):
            rest, place = np.divmod(rest, digit.places)
            keys[digit.name] = taken(digit.values, place)
        self.units = pa.table({**{digit.name: keys[digit.name] for digit in digits}, ROWS: from_numpy(rows[codes])})

    def query(self, columns: Sequence[str]) -> str:
        code = ""
        for digit in self._digits:
            code = f"({code}) * {digit.places} + {digit.sql}" if code else digit.sql
        joins = "".join(
            f" JOIN {digit.table} ON q.{quote(digit.name)} IS NOT DISTINCT FROM {digit.table}.value"
            for digit in self._digits
            if digit.table
        )
        rest = "".join(f", q.{quote(name)}" for name in columns)
        return f"SELECT CAST({code} AS INTEGER) AS {UNIT}{rest} FROM ({self._select}) AS q{joins}"

    def numbers(self, told: pa.Array) -> NDArray[np.int32]:
        return self._number.take(self._codes(told))

    def _count(self, warehouse: Counting) -> NDArray[np.int64]:
        """How many rows each combination has."""
        rows = np.zeros(self._cells, np.int64)
        waiting: list[NDArray[Any]] = []
        for chunk in warehouse.stream(self.query(())):
            waiting.append(self._codes(chunk.column(0)))
            if sum(map(len, waiting)) > COUNTED:
                rows += np.bincount(np.concatenate(waiting), minlength=self._cells)
                waiting = []
        return rows + np.bincount(np.concatenate(waiting), minlength=self._cells) if waiting else rows

    def _codes(self, told: pa.Array) -> NDArray[np.int32]:
        codes = numpy_of(told, False) if told.null_count == 0 else np.array([-1])
        if len(codes) and (codes.min() < 0 or codes.max() >= self._cells):
            raise ConservationError(
                f"{self._model}: the query gave keys that it had not given a moment before",
                hint="does the query depend on chance or on time? A query must give the same rows each time",
            )
        return codes


def _dense(model: str, unit: Sequence[str], select: str, schema: pa.Schema, warehouse: Counting) -> Dense | None:
    """The units told by arithmetic; None where their keys are of other types, or of too many combinations."""
    t = pa.types
    kinds = {name: schema.field(name).type for name in unit}
    whole = [name for name, kind in kinds.items() if t.is_integer(kind) and kind != pa.uint64()]
    other = [name for name in unit if name not in whole]
    if not all(t.is_string(kinds[name]) or t.is_date(kinds[name]) or t.is_boolean(kinds[name]) for name in other):
        return None
    bounds = "".join(f", min({quote(n)}), max({quote(n)}), count({quote(n)})" for n in whole)
    rows, *ends = (column[0].as_py() for column in warehouse.query(f"SELECT count(*){bounds} FROM ({select}) AS q").columns)
    ranges = dict(zip(whole, zip(ends[::3], ends[1::3], ends[2::3], strict=True), strict=True))
    if not rows or any(lowest is None for lowest, _, _ in ranges.values()):
        return None
    most, digits = min(MOST_CELLS, 4 * rows + 2**16), list[Digit]()
    for place, name in enumerate(unit):
        lowest, highest, there = ranges.get(name, (0, MOST_CELLS, 0))
        if highest - lowest < MOST_CELLS:
            digit: Digit | None = _of_numbers(name, kinds[name], lowest, highest - lowest + 1, there < rows)
        else:
            digit = _of_values(name, kinds[name], select, f"__places_{place}", warehouse)
        most = most // digit.places if digit else 0
        if digit is None or not most:
            for table in [each.table for each in digits if each.table]:
                warehouse.forget(table)
            return None
        digits.append(digit)
    return Dense(model, digits, select, warehouse)


def _of_numbers(name: str, kind: pa.DataType, lowest: int, places: int, nulls: bool) -> Digit:
    """Whole numbers that lie close to one another: the place is the distance from the least of them; nulls come last."""
    sql = f"(CAST(q.{quote(name)} AS BIGINT) - {lowest})"
    values = from_numpy(np.arange(lowest, lowest + places).astype(str(kind)))
    if nulls:
        values = pa.concat_arrays([values, pa.nulls(1, kind)])
        sql = f"coalesce({sql}, {places})"
    return Digit(name, places + nulls, sql, values)


def _of_values(name: str, kind: pa.DataType, select: str, table: str, warehouse: Counting) -> Digit | None:
    """Few values of any order: each has its place in that table; None if they are many."""
    distinct = f"SELECT DISTINCT {quote(name)} AS value FROM ({select}) AS q LIMIT {MOST_PLACES + 1}"
    values = warehouse.query(f"SELECT value FROM ({distinct}) AS d ORDER BY value ASC NULLS LAST").column("value").combine_chunks()
    if len(values) > MOST_PLACES:
        return None
    warehouse.load(table, pa.table({"value": values, "place": from_numpy(np.arange(len(values)))}))
    return Digit(name, len(values), f"{table}.place", values if values.type == kind else values.cast(kind), table)


def _with_rows(units: pa.Table) -> pa.Table:
    rows = numpy_of(units.column(ROWS), False).astype(np.int64)
    return units.set_column(units.num_columns - 1, ROWS, from_numpy(rows))
