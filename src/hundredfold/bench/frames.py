"""A model's rows as the user of a loop has them: a frame of pandas or polars, or plain arrays.

There are three kinds with the same methods. `*_once` is the work of such a loop before its first
unit. `filtered` and `grouped` yield the rows of one unit after the other, as the two common loops
do; they also return in advance which units these will be, so that only the loop's own work happens
between two units. `in_form` converts the rows to the form that the function requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from importlib.util import find_spec
from operator import and_
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.batch import Unit, Units
from ..data.manifest import UnitList
from ..data.numpy_columns import UNIT, from_numpy, to_numpy, to_pandas

Numbers = NDArray[np.int64]
Cuts = tuple[Numbers, Iterator[Any]]


class Frame(Protocol):
    library: str
    groups: bool  # it has a groupby to loop over

    def sort_once(self, by: Sequence[str]) -> None: ...
    def filter_once(self) -> None: ...
    def groupby_once(self) -> None: ...
    def filtered(self, units: Numbers) -> Cuts: ...
    def grouped(self, units: Numbers) -> Cuts: ...
    def whole(self) -> Any: ...
    def in_form(self, rows: Any, unit: int) -> Any: ...


def library_of(form: str) -> str:
    """Return the library of a loop around such a function: its own, or the first installed of
    pandas, polars and NumPy.
    """
    if form in ("pandas", "polars"):
        return form
    return next((name for name in ("pandas", "polars") if find_spec(name)), "NumPy")


def frame_of(
    form: str,
    many: bool,
    table: pa.Table,
    numbers: Numbers,
    units: UnitList,
    nullable: frozenset[str],
) -> Frame:
    """Return a frame of all rows, key columns first; `numbers` are the units of the rows."""
    kinds: dict[str, Any] = {"pandas": PandasFrame, "polars": PolarsFrame, "NumPy": NumpyFrame}
    frame: Frame = kinds[library_of(form)](form, many, table, numbers, units, nullable)
    return frame


class UnitSlice(Unit):
    """One unit's rows of a frame, in the light form: a column is read when the function requests
    it.
    """

    __slots__ = ("_key", "_names", "_read", "_rows")

    def __init__(
        self,
        read: Callable[[str], Any],
        names: Sequence[str],
        rows: int,
        key: Callable[[], tuple[Any, ...]],
    ) -> None:
        self._read, self._names, self._rows, self._key = read, names, rows, key

    @property
    def key(self) -> tuple[Any, ...]:
        return self._key()

    @property
    def rows(self) -> int:
        return self._rows

    def __getitem__(self, name: str) -> Any:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class SingleUnit(Units):
    """The same for a function with batched=True, called with one unit."""

    __slots__ = ("_names", "_read")

    def __init__(
        self, read: Callable[[str], Any], names: Sequence[str], rows: int, keys: pa.Table
    ) -> None:
        self._read, self._names = read, names
        self.offsets, self.keys_table = np.array([0, rows]), keys

    def __getitem__(self, name: str) -> Any:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)


class _ColumnConverter:
    """The conversion of a frame's columns to arrays."""

    def __init__(
        self, form: str, many: bool, table: pa.Table, units: UnitList, nullable: frozenset[str]
    ) -> None:
        self.form, self.many, self.units, self.names = form, many, units, table.column_names
        self.keys = units.keys.column_names
        t = pa.types
        self.days = {f.name for f in table.schema if t.is_date32(f.type)}
        self.texts = {
            f.name
            for f in table.schema
            if f.name in nullable and (t.is_string(f.type) or t.is_large_string(f.type))
        }

    def in_light_form(self, read: Callable[[str], Any], rows: int, unit: int) -> Any:
        if self.form == "dict" and not self.many:
            return {name: read(name) for name in self.names}
        if self.many:
            return SingleUnit(read, self.names, rows, self.units.keys.slice(unit, 1))
        return UnitSlice(read, self.names, rows, lambda: self.units.key(unit))


class PandasFrame(_ColumnConverter):
    library, groups = "pandas", True

    def __init__(
        self,
        form: str,
        many: bool,
        table: pa.Table,
        numbers: Numbers,
        units: UnitList,
        nullable: frozenset[str],
    ) -> None:
        super().__init__(form, many, table, units, nullable)
        self.nullable, self.numbers = nullable, numbers  # of the rows by their labels
        self.frame = self._to_frame(table)

    def sort_once(self, by: Sequence[str]) -> None:
        self.frame = self.frame.sort_values(list(by))

    def filter_once(self) -> None:
        self.frame[self.keys].drop_duplicates()

    def groupby_once(self) -> None:
        next(iter(self.frame.groupby(self.keys, dropna=False)))

    def filtered(self, units: Numbers) -> Cuts:
        import pandas as pd

        wanted = self._to_frame(self.units.keys.take(from_numpy(units)))
        keys = list(wanted.itertuples(index=False, name=None))
        nulls = [[bool(pd.isna(part)) for part in key] for key in keys]

        def rows() -> Iterator[Any]:
            frame, names = self.frame, self.keys
            for key, null in zip(keys, nulls, strict=True):
                parts = zip(names, key, null, strict=True)
                yield frame[
                    reduce(
                        and_,
                        [frame[n].isna() if none else frame[n] == part for n, part, none in parts],
                    )
                ]

        return units, rows()

    def grouped(self, units: Numbers) -> Cuts:
        wanted = np.zeros(len(self.units.rows), bool)
        wanted[units] = True
        part = self.frame[wanted[self.numbers[self.frame.index]]]
        groups = part.groupby(self.keys, dropna=False)
        found = np.empty(groups.ngroups, np.int64)
        found[groups.ngroup().to_numpy()] = self.numbers[part.index]
        return found, (rows for _, rows in iter(groups))

    def whole(self) -> Any:
        return self.frame

    def in_form(self, rows: Any, unit: int) -> Any:
        if self.form == "pandas":
            return rows
        if self.form == "arrow":
            return pa.Table.from_pandas(rows, preserve_index=False)
        return self.in_light_form(lambda name: self._array(rows[name], name), len(rows), unit)

    def _to_frame(self, table: pa.Table) -> Any:
        if self.form == "pandas":
            return to_pandas(table, self.nullable)
        for i, f in enumerate(table.schema):
            if f.name in self.days or pa.types.is_timestamp(f.type):
                # as in the light form: dates, and times in UTC
                table = table.set_column(
                    i,
                    f.name,
                    table.column(i).cast(pa.timestamp("s" if f.name in self.days else f.type.unit)),
                )
        return table.to_pandas()

    def _array(self, column: Any, name: str) -> Any:
        array = (
            column.to_numpy(dtype=object, na_value=None)
            if name in self.texts
            else column.to_numpy()
        )
        if name in self.days:
            return array.astype("datetime64[D]")
        return array if array.flags.writeable else array.copy()  # the function may write to it


class PolarsFrame(_ColumnConverter):
    library, groups = "polars", True

    def __init__(
        self,
        form: str,
        many: bool,
        table: pa.Table,
        numbers: Numbers,
        units: UnitList,
        nullable: frozenset[str],
    ) -> None:
        super().__init__(form, many, table, units, nullable)
        import polars as pl

        frame: Any = pl.from_arrow(table)
        self.frame = frame
        self.numbered: Any = frame.with_columns(pl.Series(UNIT, numbers))
        self.by: list[str] = []  # columns by which the numbered rows are still to be sorted

    def sort_once(self, by: Sequence[str]) -> None:
        self.by = list(by)
        self.frame = self.frame.sort(self.by, maintain_order=True)

    def filter_once(self) -> None:
        self.frame.select(self.keys).unique()

    def groupby_once(self) -> None:
        next(iter(self.frame.group_by(self.keys)))

    def filtered(self, units: Numbers) -> Cuts:
        import polars as pl

        keys = pl.DataFrame(self.units.keys.take(from_numpy(units))).rows()

        def rows() -> Iterator[Any]:
            frame, names = self.frame, self.keys
            for key in keys:
                parts = zip(names, key, strict=True)
                yield frame.filter(
                    reduce(
                        and_,
                        [
                            pl.col(n).is_null() if part is None else pl.col(n) == part
                            for n, part in parts
                        ],
                    )
                )

        return units, rows()

    def grouped(self, units: Numbers) -> Cuts:
        import polars as pl

        if self.by:
            self.numbered, self.by = self.numbered.sort(self.by, maintain_order=True), []
        part = self.numbered.filter(pl.col(UNIT).is_in(units.tolist()))
        found = (
            part.group_by(self.keys, maintain_order=True)
            .agg(pl.col(UNIT).first())
            .get_column(UNIT)
            .to_numpy()
        )
        return found, (rows for _, rows in part.drop(UNIT).group_by(self.keys, maintain_order=True))

    def whole(self) -> Any:
        return self.frame

    def in_form(self, rows: Any, unit: int) -> Any:
        if self.form == "polars":
            return rows
        if self.form == "arrow":
            return rows.to_arrow()
        return self.in_light_form(
            lambda name: rows[name].to_numpy(writable=True), rows.height, unit
        )


class NumpyFrame(_ColumnConverter):
    """Arrays and masks, if neither pandas nor polars is installed; without a groupby."""

    library, groups = "NumPy", False

    def __init__(
        self,
        form: str,
        many: bool,
        table: pa.Table,
        _: Numbers,
        units: UnitList,
        nullable: frozenset[str],
    ) -> None:
        super().__init__(form, many, table, units, nullable)
        self.table, self.nullable = table, nullable
        self.arrays = self._arrays()

    def sort_once(self, by: Sequence[str]) -> None:
        self.table = self.table.sort_by([(name, "ascending") for name in by])
        self.arrays = self._arrays()

    def filter_once(self) -> None:
        self.table.group_by(self.keys).aggregate([])

    def groupby_once(self) -> None:
        raise NotImplementedError

    def filtered(self, units: Numbers) -> Cuts:
        table = self.units.keys.take(from_numpy(units))
        columns = [to_numpy(table.column(name), name in self.nullable) for name in self.keys]

        def rows() -> Iterator[Any]:
            arrays, names = self.arrays, self.keys
            for key in zip(*columns, strict=True):
                parts = zip(names, key, strict=True)
                # NaN and NaT are equal to themselves
                yield reduce(
                    and_,
                    [
                        arrays[n] != arrays[n] if part != part else arrays[n] == part
                        for n, part in parts
                    ],
                )

        return units, rows()

    def grouped(self, units: Numbers) -> Cuts:
        raise NotImplementedError

    def whole(self) -> Any:
        return np.ones(self.table.num_rows, bool)

    def in_form(self, rows: Any, unit: int) -> Any:
        if self.form == "arrow":
            return self.table.filter(pa.array(rows))
        return self.in_light_form(
            lambda name: self.arrays[name][rows], int(np.count_nonzero(rows)), unit
        )

    def _arrays(self) -> Mapping[str, Any]:
        return {
            name: to_numpy(self.table.column(name), name in self.nullable) for name in self.names
        }
