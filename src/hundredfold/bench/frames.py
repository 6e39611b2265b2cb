"""A model's rows as somebody has them who writes a loop: a frame of pandas or polars, or plain arrays.

Three kinds with the same methods.  `once_*` is what such a loop does before its first unit; `filtered` and `grouped` give
the rows of one unit after the other, as the two loops that people write do, and beforehand which units they will be, so that
only what a loop does happens between one unit and the next; `handed` gives the rows the form that the function asks for.
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
    groups: bool  # whether it has a groupby to loop over

    def once_sorted(self, by: Sequence[str]) -> None: ...
    def once_filter(self) -> None: ...
    def once_groupby(self) -> None: ...
    def filtered(self, units: Numbers) -> Cuts: ...
    def grouped(self, units: Numbers) -> Cuts: ...
    def whole(self) -> Any: ...
    def handed(self, rows: Any, unit: int) -> Any: ...


def library_of(form: str) -> str:
    """What a loop around such a function is written with: its own library, else pandas, polars or NumPy, whichever is installed."""
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
    """table: all rows, the key's columns first; numbers: the unit of each row."""
    kinds: dict[str, Any] = {"pandas": PandasFrame, "polars": PolarsFrame, "NumPy": NumpyFrame}
    frame: Frame = kinds[library_of(form)](form, many, table, numbers, units, nullable)
    return frame


class Slice(Unit):
    """One unit's rows of a frame, as the light form: a column is read when the function asks for it."""

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


class One(Units):
    """The same for a function that takes many units at once: this is one."""

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


class _Light:
    """How a column of a frame becomes an array."""

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

    def handed_light(self, read: Callable[[str], Any], rows: int, unit: int) -> Any:
        if self.form == "dict" and not self.many:
            return {name: read(name) for name in self.names}
        if self.many:
            return One(read, self.names, rows, self.units.keys.slice(unit, 1))
        return Slice(read, self.names, rows, lambda: self.units.key(unit))


class PandasFrame(_Light):
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
        self.nullable, self.numbers = nullable, numbers  # of the rows as they are labelled
        self.frame = self._made(table)

    def once_sorted(self, by: Sequence[str]) -> None:
        self.frame = self.frame.sort_values(list(by))

    def once_filter(self) -> None:
        self.frame[self.keys].drop_duplicates()

    def once_groupby(self) -> None:
        next(iter(self.frame.groupby(self.keys, dropna=False)))

    def filtered(self, units: Numbers) -> Cuts:
        import pandas as pd

        wanted = self._made(self.units.keys.take(from_numpy(units)))
        keys = list(wanted.itertuples(index=False, name=None))
        nulls = [[bool(pd.isna(part)) for part in key] for key in keys]

        def rows() -> Iterator[Any]:
            frame, names = self.frame, self.keys
            for key, null in zip(keys, nulls, strict=True):
                told = zip(names, key, null, strict=True)
                yield frame[
                    reduce(
                        and_,
                        [frame[n].isna() if none else frame[n] == part for n, part, none in told],
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

    def handed(self, rows: Any, unit: int) -> Any:
        if self.form == "pandas":
            return rows
        if self.form == "arrow":
            return pa.Table.from_pandas(rows, preserve_index=False)
        return self.handed_light(lambda name: self._array(rows[name], name), len(rows), unit)

    def _made(self, table: pa.Table) -> Any:
        if self.form == "pandas":
            return to_pandas(table, self.nullable)
        for i, f in enumerate(table.schema):
            if f.name in self.days or pa.types.is_timestamp(f.type):
                # as the light form has them: dates and UTC
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


class PolarsFrame(_Light):
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
        self.by: list[str] = []  # what the numbered rows are still to be sorted by

    def once_sorted(self, by: Sequence[str]) -> None:
        self.by = list(by)
        self.frame = self.frame.sort(self.by, maintain_order=True)

    def once_filter(self) -> None:
        self.frame.select(self.keys).unique()

    def once_groupby(self) -> None:
        next(iter(self.frame.group_by(self.keys)))

    def filtered(self, units: Numbers) -> Cuts:
        import polars as pl

        keys = pl.DataFrame(self.units.keys.take(from_numpy(units))).rows()

        def rows() -> Iterator[Any]:
            frame, names = self.frame, self.keys
            for key in keys:
                told = zip(names, key, strict=True)
                yield frame.filter(
                    reduce(
                        and_,
                        [
                            pl.col(n).is_null() if part is None else pl.col(n) == part
                            for n, part in told
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

    def handed(self, rows: Any, unit: int) -> Any:
        if self.form == "polars":
            return rows
        if self.form == "arrow":
            return rows.to_arrow()
        return self.handed_light(lambda name: rows[name].to_numpy(writable=True), rows.height, unit)


class NumpyFrame(_Light):
    """Arrays and masks: what is left where neither pandas nor polars is installed. It has no groupby."""

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

    def once_sorted(self, by: Sequence[str]) -> None:
        self.table = self.table.sort_by([(name, "ascending") for name in by])
        self.arrays = self._arrays()

    def once_filter(self) -> None:
        self.table.group_by(self.keys).aggregate([])

    def once_groupby(self) -> None:
        raise NotImplementedError

    def filtered(self, units: Numbers) -> Cuts:
        table = self.units.keys.take(from_numpy(units))
        columns = [to_numpy(table.column(name), name in self.nullable) for name in self.keys]

        def rows() -> Iterator[Any]:
            arrays, names = self.arrays, self.keys
            for key in zip(*columns, strict=True):
                told = zip(names, key, strict=True)
                # NaN, NaT
                yield reduce(
                    and_,
                    [
                        arrays[n] != arrays[n] if part != part else arrays[n] == part
                        for n, part in told
                    ],
                )

        return units, rows()

    def grouped(self, units: Numbers) -> Cuts:
        raise NotImplementedError

    def whole(self) -> Any:
        return np.ones(self.table.num_rows, bool)

    def handed(self, rows: Any, unit: int) -> Any:
        if self.form == "arrow":
            return self.table.filter(pa.array(rows))
        return self.handed_light(
            lambda name: self.arrays[name][rows], int(np.count_nonzero(rows)), unit
        )

    def _arrays(self) -> Mapping[str, Any]:
        return {
            name: to_numpy(self.table.column(name), name in self.nullable) for name in self.names
        }
