"""The difference of two tables by key: added, removed and changed rows, and by how much.

DuckDB joins the tables by key, where a null is a key like any other, and compares every column that
both have. Numbers are equal within a tolerance; without one, only if they have the same value. All
other values are equal or not. Columns have numbers in the queries, since DuckDB does not
distinguish names by their case.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types as t

from ..data.manifest import key_text
from ..data.numpy_columns import from_numpy, to_python_rows
from ..errors import UsageError
from ..sql.duckdb import DuckWarehouse
from .run import Rows

MAX_EXAMPLES = 20  # changed rows in the facts
ADDED, REMOVED, CHANGED = "added", "removed", "changed"
STATUS = "difference"  # the column that has one of these


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two numbers may differ: by `absolute`, or by `relative` times the larger of them."""

    relative: float = 0.0
    absolute: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("relative", self.relative), ("absolute", self.absolute)):
            if not 0 <= value < math.inf:
                raise UsageError(f"the {name} tolerance is {value:g}, wanted 0 or more")


@dataclass(frozen=True, slots=True)
class Side:
    """One of two tables. name: of a run or a file, for messages."""

    name: str
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """The changes of a column. changed: rows. The others are of numbers, else None.

    over the rows in which both
    tables have a finite number: largest, the largest absolute change; relative, the largest change
    / |value in A|; before and after, the sums in A and in B.
    """

    column: str
    changed: int
    largest: float | None = None
    relative: float | None = None
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A row that differs: its key as text, and the values in A and B of the columns that differ."""

    key: str
    difference: str
    values: dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of table B to table A.

    rows: the rows that differ, sorted by key: the key, `difference` (added, removed or changed),
    and for every other column NAME of both the columns `NAME_a` and `NAME_b`.
    only_a, only_b: columns that only one table has, which are not compared.
    types: of columns whose types differ, in A and in B.
    examples: the first of the rows, each as its key, its status and the values that differ.
    """

    a: str
    b: str
    key: tuple[str, ...]
    rows_a: int
    rows_b: int
    added: int
    removed: int
    changed: int
    columns: tuple[ColumnDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    rows: Rows
    types: dict[str, tuple[str, str]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the tables have the same rows, columns and types."""
        rows = self.added + self.removed + self.changed
        return not (rows or self.only_a or self.only_b or self.types)


def compare_rows(
    a: Side,
    b: Side,
    key: Sequence[str],
    warehouse: DuckWarehouse,
    tolerance: Tolerance,
    examples: int = MAX_EXAMPLES,
) -> Difference:
    """Return the difference of two tables by key, with some of its rows as examples.

    Raises:
        UsageError: a column of the key is missing or has another kind of values in the other
            table, or a key is not unique.
    """
    for side in (a, b):
        _check_key(side, key)
    shared = [name for name in a.rows.column_names if name in b.rows.column_names]
    others = [name for name in shared if name not in key]
    _check_key_types(a, b, key)
    comparison = _Comparison(a, b, tuple(key), tuple(others), warehouse, tolerance)
    return comparison.run(examples)


def _check_key(side: Side, key: Sequence[str]) -> None:
    names = side.rows.column_names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"{side.name} has a column more than once: {', '.join(twice)}")
    missing = [name for name in key if name not in names]
    if missing:
        raise UsageError(
            f"{side.name} has no column {', '.join(missing)}; it has {', '.join(names)}",
            hint="name the columns of the key with --key",
        )


def _check_key_types(a: Side, b: Side, key: Sequence[str]) -> None:
    for name in key:
        kinds = [side.rows.schema.field(name).type for side in (a, b)]
        if kinds[0] != kinds[1] and not all(map(_is_number, kinds)):
            raise UsageError(
                f"the key {name} is {kinds[0]} in {a.name} and {kinds[1]} in {b.name}",
                hint="write the file with the types of the run, such as Parquet",
            )


def _is_number(kind: pa.DataType) -> bool:
    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind))


@dataclass(frozen=True, slots=True)
class _Comparison:
    a: Side
    b: Side
    key: tuple[str, ...]
    others: tuple[str, ...]
    warehouse: DuckWarehouse
    tolerance: Tolerance

    def run(self, examples: int) -> Difference:
        for name, side in (("a", self.a), ("b", self.b)):
            self._register(name, side)
            self._check_unique(name, side)
        self.warehouse.materialize("joined", self._join())
        counts = self.warehouse.query(
            f"SELECT count(*) FILTER (WHERE {STATUS} = '{ADDED}') AS added, "
            f"count(*) FILTER (WHERE {STATUS} = '{REMOVED}') AS removed, "
            f"count(*) FILTER (WHERE {STATUS} = '{CHANGED}') AS changed FROM joined"
        ).to_pylist()[0]
        schemas = self.a.rows.schema, self.b.rows.schema
        return Difference(
            self.a.name,
            self.b.name,
            self.key,
            self.a.rows.num_rows,
            self.b.rows.num_rows,
            columns=tuple(map(self._column, range(len(self.others)))),
            only_a=_missing(self.a, self.b),
            only_b=_missing(self.b, self.a),
            rows=self._rows(),
            examples=tuple(self._examples(examples)),
            types={
                name: (str(schemas[0].field(name).type), str(schemas[1].field(name).type))
                for name in self.others
                if schemas[0].field(name).type != schemas[1].field(name).type
            },
            **counts,
        )

    def _register(self, name: str, side: Side) -> None:
        """Register the key as k0, k1, ..., the other columns as c0, c1, ..."""
        rows = side.rows.select([*self.key, *self.others])
        numbers = [f"k{i}" for i in range(len(self.key))] + [
            f"c{i}" for i in range(len(self.others))
        ]
        # not of Python values: from them, pyarrow makes an array with the help of pandas
        present = pa.py_buffer(np.full(-(-rows.num_rows // 8), 0xFF, np.uint8))
        rows = rows.rename_columns(numbers).append_column(
            "present", pa.Array.from_buffers(pa.bool_(), rows.num_rows, [None, present])
        )
        if not self.key:  # a table of one unit: its rows have an order
            rows = rows.append_column("k0", from_numpy(np.arange(rows.num_rows)))
        self.warehouse.register(name, rows)

    @property
    def _keys(self) -> list[str]:
        return [f"k{i}" for i in range(max(len(self.key), 1))]

    def _check_unique(self, name: str, side: Side) -> None:
        keys = ", ".join(self._keys)
        found = self.warehouse.query(
            f"SELECT {keys}, count(*) AS n FROM {name} GROUP BY {keys} HAVING n > 1 "
            f"ORDER BY {keys} LIMIT 1"
        )
        for row in to_python_rows(found):
            key = key_text([row[k] for k in self._keys])
            raise UsageError(
                f"{side.name} has {row['n']:,} rows with the key {key} "
                f"({', '.join(self.key)}), wanted one",
                hint="name further columns with --key, so that a key has one row",
            )

    def _join(self) -> str:
        on = " AND ".join(f"a.{k} IS NOT DISTINCT FROM b.{k}" for k in self._keys)
        keys = ", ".join(
            f"CASE WHEN a.present THEN a.{k} ELSE b.{k} END AS {k}" for k in self._keys
        )
        columns = "".join(
            f", a.c{i} AS a{i}, b.c{i} AS b{i}, "
            f"a.present AND b.present AND {self._differs(i)} AS d{i}"
            for i in range(len(self.others))
        )
        changed = " OR ".join(self._differs(i) for i in range(len(self.others))) or "FALSE"
        return (
            f"SELECT {keys}, CASE WHEN a.present IS NULL THEN '{ADDED}' "
            f"WHEN b.present IS NULL THEN '{REMOVED}' "
            f"WHEN {changed} THEN '{CHANGED}' END AS {STATUS}{columns} FROM a FULL JOIN b ON {on}"
        )

    def _differs(self, i: int) -> str:
        """Return the condition that the values of a column differ; both may be null."""
        a, b = f"a.c{i}", f"b.c{i}"
        kinds = [side.rows.schema.field(self.others[i]).type for side in (self.a, self.b)]
        if kinds[0] != kinds[1] and not all(map(_is_number, kinds)):
            a, b = f"CAST({a} AS VARCHAR)", f"CAST({b} AS VARCHAR)"
        differs = f"{a} IS DISTINCT FROM {b}"
        if not all(map(_is_number, kinds)):
            return f"({differs})"
        if sorted(map(t.is_integer, kinds)) == [False, True]:  # a large integer is no double
            differs = (
                f"({differs} OR TRY_CAST({a} AS HUGEINT) IS DISTINCT FROM TRY_CAST({b} AS HUGEINT))"
            )
        x, y = f"CAST({a} AS DOUBLE)", f"CAST({b} AS DOUBLE)"
        near = (
            f"abs({x} - {y}) <= greatest({self.tolerance.absolute!r}, "
            f"{self.tolerance.relative!r} * greatest(abs({x}), abs({y})))"
        )
        if not self.tolerance.absolute and not self.tolerance.relative:
            return f"({differs})"
        finite = f"isfinite({x}) AND isfinite({y})"
        return f"({differs} AND NOT coalesce({finite} AND {near}, FALSE))"

    def _column(self, i: int) -> ColumnDifference:
        name = self.others[i]
        kinds = [side.rows.schema.field(name).type for side in (self.a, self.b)]
        numbers = ""
        if all(map(_is_number, kinds)):
            x, y = f"CAST(a{i} AS DOUBLE)", f"CAST(b{i} AS DOUBLE)"
            change, both = f"abs({y} - {x})", f"isfinite({x}) AND isfinite({y})"
            numbers = (
                f", max({change}) FILTER (WHERE d{i} AND {both}) AS largest, "
                f"max({change} / nullif(abs({x}), 0)) FILTER (WHERE d{i} AND {both}) AS relative, "
                f"sum({x}) FILTER (WHERE {both}) AS before, "
                f"sum({y}) FILTER (WHERE {both}) AS after"
            )
        found = self.warehouse.query(
            f"SELECT count(*) FILTER (WHERE d{i}) AS changed{numbers} FROM joined"
        ).to_pylist()[0]
        return ColumnDifference(name, **found)

    def _rows(self) -> Rows:
        names, columns = [*self.key, STATUS], [*self._keys[: len(self.key)], STATUS]
        for i, name in enumerate(self.others):
            names += [f"{name}_a", f"{name}_b"]
            columns += [f"a{i}", f"b{i}"]
        found = self.warehouse.query(self._differing(", ".join(columns)))
        return Rows(found.rename_columns(names))

    def _examples(self, count: int) -> Iterator[Example]:
        for row in to_python_rows(self.warehouse.query(f"{self._differing('*')} LIMIT {count}")):
            values = {
                name: (row[f"a{i}"], row[f"b{i}"])
                for i, name in enumerate(self.others)
                if row[f"d{i}"] or row[STATUS] != CHANGED
            }
            yield Example(key_text([row[k] for k in self._keys]), row[STATUS], values)

    def _differing(self, columns: str) -> str:
        order = ", ".join(f"{k} NULLS FIRST" for k in self._keys)
        return f"SELECT {columns} FROM joined WHERE {STATUS} IS NOT NULL ORDER BY {order}"


def _missing(here: Side, there: Side) -> tuple[str, ...]:
    return tuple(name for name in here.rows.column_names if name not in there.rows.column_names)
