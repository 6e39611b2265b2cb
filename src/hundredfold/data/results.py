"""Results of the user's function, collected unit by unit into tables of equal columns.

A function may return values of different types: a null for one unit and an int for another,
sometimes a row and sometimes a table. Every value is kept. The type of a column is determined once,
from all units, when the results are collected; no first row decides for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import Column
from ..errors import ResultError
from .arrow_columns import COLUMN_ERRORS, cast_exactly, is_valid_name, to_column
from .arrow_types import is_storable, widest_type
from .nested_cast import cast
from .numpy_columns import UNIT, from_numpy, null_mask, to_numpy, to_python_list
from .ordered_collections import COLLECTION_TYPES, ORDERED_TYPES, UNORDERED_TYPES, ordered_members
from .outcomes import UnitStatus, describe
from .result_contract import VALUE_COLUMN, ReturnType
from .returned_values import (
    ROW_COLLECTIONS,
    Row,
    is_scalar,
    is_table,
    pandas_to_table,
    series_to_frame,
    to_row,
    to_table,
)
from .row_sizes import value_bytes

SAMPLED_ROWS = 8  # of rows of numbers, to estimate their size


class UnusableBatchResult(ResultError):
    """A result of many units that is unusable for all of them: a call with fewer units would not
    help.
    """


class RowGroup:
    """Result rows with the same columns: units, and values in the order of `names`."""

    __slots__ = ("names", "pick_row", "rows", "sampled", "units")

    def __init__(self, names: Row) -> None:
        self.names = names
        self.units: list[int] = []
        self.rows: list[Sequence[Any]] = []
        self.sampled = 0  # rows whose size is part of the estimate
        # with one name alone, itemgetter would return a value instead of a tuple
        self.pick_row = itemgetter(*names, names[0])

    def without(self, units: Container[int]) -> RowGroup:
        rest = RowGroup(self.names)
        kept = [position for position, unit in enumerate(self.units) if unit not in units]
        rest.units = [self.units[position] for position in kept]
        rest.rows = [self.rows[position] for position in kept]
        return rest

    def columns(self) -> Iterator[Sequence[Any]]:
        return islice(zip(*self.rows, strict=True), len(self.names))


class ResultBuilder:
    """Collects the results of units into tables of equal columns."""

    def __init__(self, returned: ReturnType, keys: Mapping[str, Callable[[int], Any]]) -> None:
        self.contract, self.optional = returned.contract, returned.optional
        self.keys = keys
        self.groups: dict[Row, RowGroup] = {}
        self.tables: list[pa.Table] = []
        self.none_units: list[int] = []
        self.last_group: RowGroup | None = None
        self.only_numbers = True  # as far as results were sampled
        # tables that were sampled, and the estimated bytes of all results so far
        self._sampled_tables, self._estimated_bytes = (0, 0)

    def estimate_bytes(self) -> int:
        """Return about how many bytes the results take as columns.

        Of rows of numbers, and of tables, a few are sampled.
        """
        for group in self.groups.values():
            new = group.rows[group.sampled :]
            if new:
                some = new[:: len(new) // SAMPLED_ROWS + 1]
                sizes = [sum(map(value_bytes, row[:-1])) for row in some]
                if max(sizes) > 8 * len(group.names):
                    self.only_numbers = False
                    sizes = [sum(map(value_bytes, row[:-1])) for row in new]
                self._estimated_bytes += sum(sizes) * len(new) // len(sizes)
                group.sampled = len(group.rows)
        tables = self.tables[self._sampled_tables :]
        if tables:
            self.only_numbers = False
            some_tables = tables[:: len(tables) // SAMPLED_ROWS + 1]
            rows = sum(table.num_rows for table in some_tables)
            self._estimated_bytes += (
                sum(table.nbytes for table in some_tables)
                * sum(table.num_rows for table in tables)
                // max(rows, 1)
            )
            self._sampled_tables = len(self.tables)
        return self._estimated_bytes

    def appender(self) -> Callable[[int, Any], None]:
        """Return a function that keeps one unit's result.

        It is called for every unit, so everything that it needs for a row like the last one is in
        its closure. It raises ResultError for a value that is no result, or violates the contract.
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
            last = self.last_group
            if last is not None:
                width, pick, keep, note = (
                    len(last.names),
                    last.pick_row,
                    last.rows.append,
                    last.units.append,
                )

        return add

    def _add(self, unit: int, value: Any) -> None:
        if isinstance(value, dict) and not is_table(value, self.contract):
            self._add_row(unit, tuple(value), value.values())
            return
        if value is None:
            self._add_none(unit)
            return
        if is_scalar(value):
            self._add_row(unit, (VALUE_COLUMN,), (value,))
            return
        table = to_table(value)
        if table is not None:
            self._keep_table(table, np.full(table.num_rows, unit, np.int64))
        elif isinstance(value, ROW_COLLECTIONS) and not hasattr(value, "_fields"):
            rows = _align_rows(
                [
                    to_row(item)
                    for item in (
                        ordered_members(value) if isinstance(value, COLLECTION_TYPES) else value
                    )
                ]
            )
            for names in dict.fromkeys(names for names, _ in rows):
                # check all rows before any is kept: a failed unit must leave none behind
                self._check_names(names)
            for names, values in rows:
                self._add_row(unit, names, values)
        else:
            self._add_row(unit, *to_row(value))

    def _add_none(self, unit: int) -> None:
        """Keep a None.

        It is no row if the annotation allows that, and a null if a result is a single value;
        without a contract that is decided when all units are known.
        """
        if self.contract is None:
            self.none_units.append(unit)
        elif self.contract.names == (VALUE_COLUMN,):
            self._add_row(unit, (VALUE_COLUMN,), (None,))
        elif not self.optional:
            raise ResultError(
                f"returned None, wanted {self.contract.name}; write `| None` in the return"
                " annotation if a unit may have no row"
            )

    def add_batched(self, first: int, units: int, value: Any) -> None:
        """Keep the result of `units` units at once, the first of which is `first`.

        Rows belong to the unit that their column `unit` numbers from 0, or whose key they have.
        Otherwise they are in the order of the units, except in a table.

        Raises:
            ResultError: there is not one row for each unit, or a row belongs to no unit.
        """
        table, ordered = _batched_to_table(value)
        present = [name for name in self.keys if name in table.column_names]
        if "unit" in table.column_names and "unit" not in self.keys:
            self._add_numbered(first, units, table)
            return
        wanted = (
            f"wanted one for each, with the key ({', '.join(self.keys)}), or rows with a column"
            " `unit`"
            " that numbers the units from 0"
        )
        if self.keys and len(present) == len(self.keys):
            positions = self._match_keys(first, units, table)
        elif present:
            missing = ", ".join(name for name in self.keys if name not in present)
            raise ResultError(
                f"returned rows for {units:,} units with {', '.join(present)} and without"
                f" {missing},"
                f" so it is unknown which units they belong to; {wanted}"
            )
        elif not ordered and self.keys:
            raise UnusableBatchResult(
                f"returned a table for {units:,} units without their keys, and the order of a"
                " table's"
                f" rows does not prove which units they belong to; {wanted}, "
                "or one dict of arrays in the order of the units"
            )
        elif table.num_rows != units:
            raise ResultError(
                f"returned {table.num_rows:,} rows for {units:,} units; {wanted},"
                " or one dict of arrays in the order of the units"
            )
        else:
            positions = np.arange(units)
        self._keep_sorted(table.drop_columns(present), positions + first)

    def _add_numbered(self, first: int, units: int, table: pa.Table) -> None:
        if not pa.types.is_integer(table.column("unit").type):
            raise ResultError(
                f"returned a column `unit` of {table.column('unit').type}, wanted whole numbers"
                " from 0"
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
        """Keep rows sorted by their units; those of one unit keep their order."""
        if (units[1:] < units[:-1]).any():
            order = np.argsort(units, kind="stable")
            table, units = table.take(from_numpy(order)), units[order]
        self._keep_table(table, units)

    def _match_keys(self, first: int, units: int, table: pa.Table) -> NDArray[np.int64]:
        """Return the unit of each row by its key, as a number in the slice.

        Raises:
            ResultError: a unit has not exactly one row.
        """
        names = tuple(self.keys)
        whose: dict[tuple[Any, ...], int] = {}
        for unit in range(units):
            key = tuple(self.keys[name](first + unit) for name in names)
            whose.setdefault(tuple(map(_comparable_part, key)), unit)
        found = [
            tuple(map(_comparable_part, key))
            for key in zip(*(to_python_list(table.column(name)) for name in names), strict=True)
        ]
        strange = [key for key in found if key not in whose]
        if strange:
            raise ResultError(
                f"returned {len(strange):,} rows whose key belongs to no unit of this call,"
                f" such as {_key_text(strange[0])}"
            )
        positions = np.array([whose[key] for key in found], np.int64)
        counts = np.bincount(positions, minlength=units)
        if (counts == 1).all():
            return positions
        keys = {position: key for key, position in whose.items()}
        twice, without = np.flatnonzero(counts > 1), np.flatnonzero(counts == 0)
        parts = (
            [f"{len(twice):,} units have several rows, such as {_key_text(keys[int(twice[0])])}"]
            if len(twice)
            else []
        )
        parts += (
            [f"{len(without):,} have none, such as {_key_text(keys[int(without[0])])}"]
            if len(without)
            else []
        )
        raise ResultError(
            f"returned {len(found):,} rows for {units:,} units by their keys:"
            f" {' and '.join(parts)};"
            " wanted one for each (a column `unit` that numbers the units from 0 allows any number)"
        )

    def _keep_table(self, table: pa.Table, units: NDArray[np.int64]) -> None:
        self._check_names(tuple(table.column_names))
        odd = [f"{f.name} ({f.type})" for f in table.schema if not is_storable(f.type)]
        if odd:
            raise ResultError(f"returned columns that no file can hold: {', '.join(odd)}")
        if self.contract is None:
            table = _widen(table)
        self.tables.append(table.append_column(UNIT, from_numpy(units)))

    def _add_row(self, unit: int, names: Row, values: Any) -> None:
        group = self.last_group
        if group is None or group.names != names:
            known = self.groups.get(names)
            if known is None:
                self._check_names(names)
                known = self.groups[names] = RowGroup(names)
            group = self.last_group = known
        row = (*values,)
        if len(row) != len(names):
            raise ResultError(f"returned {len(row)} values for the columns {', '.join(names)}")
        group.units.append(unit)
        group.rows.append((*row, row[0]))

    def _check_names(self, names: Row) -> None:
        strange = [
            describe(n, repr)
            for n in names
            if not isinstance(n, str)
            or n.startswith("__")
            or describe(n) != n
            or not is_valid_name(n)
        ]
        if strange:
            raise ResultError(
                f"returned columns {', '.join(strange)}; wanted names that SQL can use,"
                " and none that begins with __"
            )
        if len({n.lower() for n in (*names, *(k for k in self.keys if k not in names))}) < len(
            {*names, *self.keys}
        ) or len(set(names)) < len(names):
            raise ResultError(
                f"returned columns {', '.join(names)}; in SQL two of them, or one and a key, are"
                " the same"
            )
        if not names:
            raise ResultError(
                "returned an empty dict; wanted one with at least one column, such as {'price':"
                " 1.5}"
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

    def build(self) -> tuple[list[pa.Table], list[UnitStatus]]:
        """Return the result tables, each with the column UNIT, and the units whose values fit no
        column.
        """
        not_ok: dict[int, UnitStatus] = {}
        tables = [t for group in self.groups.values() for t in self._tables(group, not_ok)]
        tables += [self._conform(table, not_ok) for table in _merge_tables(self.tables)]
        tables = [self._without_keys(table, not_ok) for table in tables]
        if not_ok and self.contract is None:
            # values of a failed unit must not decide the types of its neighbours' columns
            groups = [group.without(not_ok) for group in self.groups.values()]
            tables = [t for group in groups if group.rows for t in self._tables(group, {})]
            tables += [
                _drop_units(self._conform(table, {}), not_ok)
                for table in _merge_tables(self.tables)
            ]
            tables = [self._without_keys(table, {}) for table in tables]
        elif not_ok:
            tables = [_drop_units(table, not_ok) for table in tables]
        if self.none_units:
            # a table without a column: the meaning of a None depends on the other units
            units = [unit for unit in self.none_units if unit not in not_ok]
            tables.append(pa.table({UNIT: from_numpy(np.array(units, np.int64))}))
        return [t for t in tables if t.num_rows], list(not_ok.values())

    def _tables(self, group: RowGroup, not_ok: dict[int, UnitStatus]) -> Iterator[pa.Table]:
        units = from_numpy(np.array(group.units, np.int64))
        if self.contract is not None:
            columns = [
                self._typed_columns(name, values, group.units, not_ok)
                for name, values in zip(group.names, group.columns(), strict=True)
            ]
            yield pa.table([*columns, units], [*group.names, UNIT])
            return
        try:
            yield pa.table([*map(to_column, group.columns()), units], [*group.names, UNIT])
        except COLUMN_ERRORS:
            yield from _split_by_types(group, not_ok)

    def _typed_columns(
        self, name: str, values: Sequence[Any], units: Sequence[int], not_ok: dict[int, UnitStatus]
    ) -> pa.Array:
        """Return a column of the contract's type.

        If that fails, the units at fault are added to `not_ok` and their values become null.
        """
        column = self._declared(name)
        if column is None:  # a key column that was returned too
            return to_column(values)
        try:
            array = to_column(values, column.arrow)
        except COLUMN_ERRORS:
            array = pa.array(
                [
                    self._check_value(column, v, unit, not_ok)
                    for v, unit in zip(values, units, strict=True)
                ],
                column.arrow,
            )
        self._refuse_nulls(column, array, units, not_ok)
        return array

    def _declared(self, name: str) -> Column | None:
        """Return the contract's column of this name, if there is one."""
        columns = self.contract.columns if self.contract else ()
        return next((column for column in columns if column.name == name), None)

    def _refuse_nulls(
        self,
        column: Column,
        values: pa.Array,
        units: Sequence[int],
        not_ok: dict[int, UnitStatus],
    ) -> None:
        """Add the units that have a null where their contract allows none to `not_ok`."""
        if column.nullable or not values.null_count:
            return
        contract = self.contract.name if self.contract else ""
        why = f"{column.name} is null, and {contract} does not allow null"
        for row in np.flatnonzero(null_mask(values)).tolist():
            status = UnitStatus(units[row], "failed", "ResultError", why)
            not_ok.setdefault(units[row], status)

    def _check_value(
        self, column: Any, value: Any, unit: int, not_ok: dict[int, UnitStatus]
    ) -> Any:
        try:
            return to_column([value], column.arrow)[0].as_py()
        except COLUMN_ERRORS:
            not_ok.setdefault(
                unit,
                UnitStatus(
                    unit,
                    "failed",
                    "ResultError",
                    f"{column.name} is {_shorten(value)} ({type(value).__name__}), wanted"
                    f" {column.arrow}",
                ),
            )
            return None

    def _conform(self, table: pa.Table, not_ok: dict[int, UnitStatus]) -> pa.Table:
        """Return a table of the function in the contract's types, or in the widest ones."""
        units = to_numpy(table.column(UNIT), False).tolist()
        arrays = []
        for name in table.column_names:
            values = table.column(name).combine_chunks()
            column = self._declared(name)
            if name == UNIT:
                arrays.append(values)
            elif column is None:
                arrays.append(cast(values, widest_type(values.type)))
            else:
                try:
                    arrays.append(cast_exactly(values, column.arrow))
                except COLUMN_ERRORS:
                    arrays.append(
                        pa.array(
                            [
                                self._check_value(column, v, u, not_ok)
                                for v, u in zip(to_python_list(values), units, strict=True)
                            ],
                            column.arrow,
                        )
                    )
                self._refuse_nulls(column, arrays[-1], units, not_ok)
        return pa.table(arrays, table.column_names)

    def _without_keys(self, table: pa.Table, not_ok: dict[int, UnitStatus]) -> pa.Table:
        """Check that key columns in a result repeat the unit's own key, and drop them: the engine
        adds keys.
        """
        for name in [n for n in table.column_names if n in self.keys]:
            units = to_numpy(table.column(UNIT), False).tolist()
            for unit, value in zip(units, to_python_list(table.column(name)), strict=True):
                wanted = self.keys[name](unit)
                if value != wanted and not (
                    value != value and (wanted != wanted or wanted is None)
                ):
                    # a null number is read as NaN
                    not_ok.setdefault(
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


def _batched_to_table(value: Any) -> tuple[pa.Table, bool]:
    """Return the result of a slice as a table, and whether its rows are in the units' order."""
    if isinstance(value, dict):
        frame = series_to_frame(value)
        if frame is not None:
            return pandas_to_table(frame), False
        lengths = {
            name: len(v) if hasattr(v, "__len__") and not isinstance(v, str | bytes) else None
            for name, v in value.items()
        }
        unordered = [
            name
            for name, v in value.items()
            if isinstance(v, Mapping)
            or (isinstance(v, UNORDERED_TYPES) and not isinstance(v, ORDERED_TYPES))
        ]
        if unordered:
            raise ResultError(
                f"returned as {unordered[0]} a {type(value[unordered[0]]).__name__} for a whole"
                " batch,"
                " so it is unknown which unit each value belongs to;"
                " wanted an array or a list in the order of the units"
            )
        if None in lengths.values() or len(set(lengths.values())) > 1:
            raise ResultError(f"returned columns of different lengths: {lengths}")
        return pa.table({name: to_column(v) for name, v in value.items()}), True
    table = to_table(value)
    if table is not None:
        return table, isinstance(value, np.ndarray)
    if isinstance(value, list | Iterator):
        gather = ResultBuilder(ReturnType(), {})
        for number, item in enumerate(value):
            gather._add_row(number, *to_row(item))
        tables, not_ok = gather.build()
        if not_ok:
            raise ResultError(not_ok[0].message)
        if len(tables) != 1:
            raise ResultError(f"returned rows of {len(tables)} different shapes; wanted one")
        return tables[0].drop_columns([UNIT]), True
    if not is_scalar(value):
        to_row(value)  # raises the error for it
    raise ResultError(
        f"returned {type(value).__name__} {describe(value)[:80]!r} for a whole batch;"
        " wanted a dict of arrays, a list of rows or a table"
    )


def _comparable_part(part: Any) -> Any:
    """Return a part of a key for comparison: the function may have converted a null to NaN."""
    return None if part != part else part


def _key_text(key: Sequence[Any]) -> str:
    return ", ".join(describe(part)[:80] for part in key)


def _widen(table: pa.Table) -> pa.Table:
    """Return a table in the widest types of its columns.

    Raises:
        ResultError: a column has a value that its widest type cannot hold.
    """
    for position, field in enumerate(table.schema):
        kind = widest_type(field.type)
        if kind == field.type:
            continue
        try:
            table = table.set_column(position, field.name, cast(table.column(position), kind))
        except COLUMN_ERRORS as error:
            raise ResultError(
                f"returned as {field.name} ({field.type}) a value that no column can hold: {error}"
            ) from error
    return table


def _align_rows(rows: list[tuple[Row, Any]]) -> list[tuple[Row, Any]]:
    """Return the rows of one unit with their columns in the order of the first row's.

    Rows with the same columns in another order must remain next to each other.
    """
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


def _split_by_types(group: RowGroup, not_ok: dict[int, UnitStatus]) -> Iterator[pa.Table]:
    """Split a group whose columns mix kinds into a table for each combination of types.

    A unit's rows stay together, so that their order does not depend on its neighbours. This is
    slow, and rare.
    """
    units = np.array(group.units, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]])).tolist()
    by_type: dict[tuple[str, ...], list[list[Any]]] = {}
    lists = list(group.columns())
    for start, stop in zip(starts, [*starts[1:], len(units)], strict=True):
        columns = []
        for name, values in zip(group.names, lists, strict=True):
            try:
                columns.append(to_column(values[start:stop]))
            except COLUMN_ERRORS as error:
                value = values[start:stop] if stop - start > 1 else values[start]
                why = (
                    f"returned as {name} a value that no column can hold:"
                    f" {_shorten(value)} ({error}){_pickle_hint(value)}"
                )
                not_ok.setdefault(
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


def _pickle_hint(value: Any) -> str:
    """Return how to store an object that is no value, such as a fitted model."""
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
        else "; store an object as bytes: pickle.dumps(...), and read it with pickle.loads(...)"
    )


def _merge_tables(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Return tables of equal columns concatenated."""
    by_schema: dict[str, list[pa.Table]] = {}
    for table in tables:
        by_schema.setdefault(str([(f.name, str(f.type)) for f in table.schema]), []).append(table)
    return [
        pa.concat_tables([t.replace_schema_metadata(None) for t in same])
        for same in by_schema.values()
    ]


def _drop_units(table: pa.Table, not_ok: Mapping[int, UnitStatus]) -> pa.Table:
    units = to_numpy(table.column(UNIT), False)
    return table.filter(pa.array((~np.isin(units, list(not_ok))).tolist(), pa.bool_()))


def _shorten(value: Any, max_characters: int = 80) -> str:
    text = describe(value, repr)
    return text if len(text) <= max_characters else f"{text[:max_characters]}..."
