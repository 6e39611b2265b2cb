"""The rows of an earlier model's results that belong to each unit of a batch, read from its Parquet file for a few units at a time.

So a worker holds neither all results nor those of a whole batch: what it keeps at a time is bounded by KEPT_BYTES, but for
the rows of a single unit, or a single row group, that is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .arrays import from_numpy, numpy_of, pylist_of

KEPT_BYTES = 2**25  # of row groups that are kept for the next units
WINDOW_BYTES = 2**22  # of rows that are taken out of them at a time, about
FIRST_WINDOW, LONGEST_WINDOW = 16, 4096  # units


class Groups:
    """The row groups of a Parquet file; those read last are kept."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.file, self.count = file, file.num_row_groups
        self._kept: dict[int, pa.Table] = {}

    def columns(self, group: int, names: Sequence[str]) -> pa.Table:
        kept = self._kept.get(group)
        return (
            kept.select(list(names))
            if kept is not None
            else self.file.read_row_group(group, columns=list(names))
        )

    def rows(self, group: int) -> pa.Table:
        found = self._kept.pop(group, None)
        if found is None:
            while (
                self._kept and sum(table.nbytes for table in self._kept.values()) > KEPT_BYTES // 2
            ):
                del self._kept[next(iter(self._kept))]
            found = self.file.read_row_group(group)
            while (
                self._kept
                and sum(table.nbytes for table in self._kept.values()) + found.nbytes > KEPT_BYTES
            ):
                del self._kept[next(iter(self._kept))]
        self._kept[group] = found  # the last: whichever was not asked for the longest goes first
        return found


class RowsOfUnits:
    """For each unit of a list of keys, the rows that have the same values in the columns `unit`."""

    def __init__(self, groups: Groups, keys: pa.Table, unit: Sequence[str]) -> None:
        self._groups = groups
        self._keys = list(keys_of(keys, unit))
        self._places = _places(groups, keys, unit, set(self._keys))
        self._first, self._window = (
            0,
            list[tuple[int, int]](),
        )  # of the units that are in memory: where their rows begin, and how many
        self._table: pa.Table | None = None
        self._step = FIRST_WINDOW

    def of(self, unit: int) -> pa.Table | None:
        """The rows of one unit; None if there are none."""
        if not self._first <= unit < self._first + len(self._window):
            self._read(unit)
        start, count = self._window[unit - self._first]
        return self._table.slice(start, count) if count and self._table is not None else None

    def _read(self, unit: int) -> None:
        self._table = None
        self._first, keys = unit, self._keys[unit : unit + self._step]
        spans: dict[tuple[Any, ...], tuple[int, int]] = {}
        by_group: dict[int, list[int]] = {}
        begins = 0
        for key in sorted(
            {key for key in keys if key in self._places}, key=lambda key: self._places[key][0]
        ):
            places = self._places[key]  # one after the other: results are sorted by their keys
            spans[key] = begins, len(places)
            begins += len(places)
            for group, row in places:
                by_group.setdefault(group, []).append(row)
        tables = [
            self._groups.rows(group).take(from_numpy(np.array(rows, np.int64)))
            for group, rows in by_group.items()
        ]
        self._table = pa.concat_tables(tables).combine_chunks() if tables else None
        self._window = [spans.get(key, (0, 0)) for key in keys]
        each = (self._table.nbytes if self._table is not None else 0) // len(keys)
        self._step = max(1, min(4 * len(keys), LONGEST_WINDOW, WINDOW_BYTES // max(each, 1)))


def keys_of(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The keys of rows, each part equal to itself also where it is NaN."""
    return zip(*(map(_findable, pylist_of(table.column(name))) for name in names), strict=True)


_NAN = object()


def _findable(part: Any) -> Any:
    return _NAN if part != part else part


def _places(
    groups: Groups, keys: pa.Table, unit: Sequence[str], wanted: set[tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[tuple[int, int]]]:
    """The row group and the row in it of each row of a wanted key, in the order of the file."""
    places: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for group in range(groups.count):
        found = groups.columns(group, unit)
        rows = _candidates(found, keys, unit)
        if len(rows) < found.num_rows:
            found = found.take(from_numpy(rows))
        for row, key in zip(rows.tolist(), keys_of(found, unit), strict=True):
            if key in wanted:
                places.setdefault(key, []).append((group, row))
    return places


def _candidates(found: pa.Table, keys: pa.Table, unit: Sequence[str]) -> NDArray[np.int64]:
    """The rows each part of whose key is among those of the units."""
    import pyarrow.compute as pc

    keep = np.ones(found.num_rows, bool)
    for name in unit:
        column, some = found.column(name), keys.column(name)
        if column.type == some.type and not pa.types.is_floating(column.type):
            keep &= numpy_of(pc.is_in(column, value_set=some.combine_chunks().unique()), False)
    return np.flatnonzero(keep)
