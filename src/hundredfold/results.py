"""What the user's function returned, unit by unit, as tables of equal columns.

A function returns what it likes: a null here, an int there, now a row and now a table.  Every value is kept, and what
type a column has is decided once, over all units, when they are collected; no first row decides for the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .arrays import UNIT, from_numpy, nulls_of, numpy_of
from .columns import UNFIT, column_of, same_values, wide
from .contract import Contract
from .errors import ResultError
from .outcome import Account, words_of

Row = tuple[str, ...]


class Group:
    """Result rows that have the same columns: the unit of each, and its values in the order of `names`."""

    __slots__ = ("names", "pick", "rows", "units")

    def __init__(self, names: Row) -> None:
        self.names = names
        self.units: list[int] = []
        self.rows: list[Sequence[Any]] = []
        self.pick = itemgetter(*names, names[0])  # one name alone would give a value and not a tuple

    def columns(self) -> Iterator[Sequence[Any]]:
        return islice(zip(*self.rows, strict=True), len(self.names))


class Gather:
    """Takes what the function returned for each unit, and gives it back as tables of equal columns."""

    def __init__(self, contract: Contract | None, keys: Mapping[str, Callable[[int], Any]]) -> None:
        self.contract = contract
        self.keys = keys
        self.groups: dict[Row, Group] = {}
        self.tables: list[pa.Table] = []
        self.last: Group | None = None

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
                    if type(row[0]) is not array:
                        keep(row)
                        note(unit)
                        return
            self._add(unit, value)
            last = self.last
            if last is not None:
                width, pick, keep, note = len(last.names), last.pick, last.rows.append, last.units.append

        return add

    def _add(self, unit: int, value: Any) -> None:
        if type(value) is dict and not _is_table(value, self.contract):
            self._row(unit, tuple(value), value.values())
            return
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            rows = _aligned([row_of(item) for item in value])
            for names in {names for names, _ in rows}:
                self._check_names(names)  # of all rows before the first is kept: a failed unit leaves none behind
            for names, values in rows:
                self._row(unit, names, values)
            return
        table = table_of(value)
        if table is None:
            self._row(unit, *row_of(value))
        else:
            self._keep(table, np.full(table.num_rows, unit, np.int64))

    def add_many(self, first: int, units: int, value: Any) -> None:
        """Keep the result of `units` units at once, the first of which is `first`.

        One row for each unit, in order; or any number of rows, with a column `unit` that numbers them from 0.
        """
        table = _many_table(value)
        if "unit" not in table.column_names or "unit" in self.keys:
            if table.num_rows != units:
                raise ResultError(
                    f"returned {table.num_rows:,} rows for {units:,} units; wanted one for each, in order, or a column `unit` that numbers them from 0"
                )
            self._keep(table, np.arange(first, first + units))
            return
        if not pa.types.is_integer(table.column("unit").type):
            raise ResultError(f"returned a column `unit` of {table.column('unit').type}, wanted whole numbers from 0")
        unit = np.asarray(table.column("unit").to_pylist(), np.int64)
        strange = unit[(unit < 0) | (unit >= units)]
        if len(strange):
            raise ResultError(f"returned rows for unit {strange[0]}, and the slice has units 0 to {units - 1}")
        order = np.argsort(unit, kind="stable")
        self._keep(table.drop_columns(["unit"]).take(from_numpy(order)), unit[order] + first)

    def _keep(self, table: pa.Table, units: NDArray[np.int64]) -> None:
        self._check_names(tuple(table.column_names))
        odd = [f"{f.name} ({f.type})" for f in table.schema if pa.types.is_interval(f.type) or pa.types.is_union(f.type)]
        if odd:
            raise ResultError(f"returned columns that no file can hold: {', '.join(odd)}")
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
        strange = [words_of(n, repr) for n in names if not isinstance(n, str) or n.startswith("__") or words_of(n) != n]
        if strange:
            raise ResultError(f"returned columns {', '.join(strange)}; wanted names, and none that begins with __")
        if len({n.lower() for n in (*names, *(k for k in self.keys if k not in names))}) < len({*names, *self.keys}) or len(
            set(names)
        ) < len(names):
            raise ResultError(f"returned columns {', '.join(names)}; SQL takes two of them, or one and a key, for the same")
        if not names:
            raise ResultError("returned a row without a column")
        if self.contract is None:
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
            columns = [self._typed(name, values, group.units, bad) for name, values in zip(group.names, group.columns(), strict=True)]
            yield pa.table([*columns, units], [*group.names, UNIT])
            return
        try:
            yield pa.table([*map(column_of, group.columns()), units], [*group.names, UNIT])
        except UNFIT:
            yield from _split(group, bad)

    def _typed(self, name: str, values: Sequence[Any], units: Sequence[int], bad: dict[int, Account]) -> pa.Array:
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
                bad.setdefault(
                    units[row],
                    Account(
                        units[row],
                        "failed",
                        "ResultError",
                        f"{name} is null, and {self.contract.name if self.contract else ''} says that it never is",
                    ),
                )
        return array

    def _or_blame(self, column: Any, value: Any, unit: int, bad: dict[int, Account]) -> Any:
        try:
            return column_of([value], column.arrow)[0].as_py()
        except UNFIT:
            bad.setdefault(
                unit,
                Account(unit, "failed", "ResultError", f"{column.name} is {_short(value)} ({type(value).__name__}), wanted {column.arrow}"),
            )
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
                arrays.append(values.cast(wide(values.type)))
            else:
                try:
                    arrays.append(same_values(values, column.arrow))
                except UNFIT:
                    arrays.append(
                        pa.array([self._or_blame(column, v, u, bad) for v, u in zip(values.to_pylist(), units, strict=True)], column.arrow)
                    )
                if not column.nullable and arrays[-1].null_count:
                    for row in np.flatnonzero(nulls_of(arrays[-1])).tolist():
                        bad.setdefault(
                            units[row],
                            Account(units[row], "failed", "ResultError", f"{name} is null, and its contract says that it never is"),
                        )
        return pa.table(arrays, table.column_names)

    def _without_keys(self, table: pa.Table, bad: dict[int, Account]) -> pa.Table:
        """Key columns in a result must repeat the unit's own key; the engine writes them itself."""
        for name in [n for n in table.column_names if n in self.keys]:
            units = numpy_of(table.column(UNIT), False).tolist()
            for unit, value in zip(units, table.column(name).to_pylist(), strict=True):
                wanted = self.keys[name](unit)
                if value != wanted and not (value != value and (wanted != wanted or wanted is None)):  # a null number is read as NaN
                    bad.setdefault(
                        unit, Account(unit, "failed", "ResultError", f"returned {name} = {value!r}, but the unit's key is {wanted!r}")
                    )
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
    what = "None" if value is None else f"{type(value).__name__} {words_of(value)[:80]!r}"
    raise ResultError(f"returned {what}; wanted a dict, dataclass, NamedTuple or pydantic row, a list of them, or a table")


def table_of(value: Any) -> pa.Table | None:
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


def _many_table(value: Any) -> pa.Table:
    """What was returned for a whole slice, as a table; ResultError for what is none."""
    if isinstance(value, dict):
        lengths = {name: len(v) if hasattr(v, "__len__") and not isinstance(v, str | bytes) else None for name, v in value.items()}
        if None in lengths.values() or len(set(lengths.values())) > 1:
            raise ResultError(f"returned columns of different lengths: {lengths}")
        return pa.table({name: column_of(v) for name, v in value.items()})
    if isinstance(value, list):
        gather = Gather(None, {})
        for number, item in enumerate(value):
            gather._row(number, *row_of(item))
        tables, _ = gather.finish()
        if len(tables) != 1:
            raise ResultError(f"returned rows of {len(tables)} different shapes; wanted one")
        return tables[0].drop_columns([UNIT])
    table = table_of(value)
    if table is None:
        row_of(value)  # says what is wrong with it
        raise ResultError(f"returned one {type(value).__name__} for a whole batch; wanted a dict of arrays, a list of rows or a table")
    return table


def _aligned(rows: list[tuple[Row, Any]]) -> list[tuple[Row, Any]]:
    """Rows of one unit with equal columns in another order, in the order of the first: they must stay beside each other."""
    if len({names for names, _ in rows}) < 2:
        return rows
    first = rows[0][0]
    same = [names != first and len(names) == len(first) and set(names) == set(first) for names, _ in rows]
    return [
        (first, [dict(zip(names, values, strict=True))[n] for n in first]) if turn else (names, values)
        for turn, (names, values) in zip(same, rows, strict=True)
    ]


def _split(group: Group, bad: dict[int, Account]) -> Iterator[pa.Table]:
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


def _short(value: Any, most: int = 80) -> str:
    text = words_of(value, repr)
    return text if len(text) <= most else f"{text[:most]}..."
