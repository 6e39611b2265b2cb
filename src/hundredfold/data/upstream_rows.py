"""The upstream rows that belong to each unit of a batch, read from their Parquet file for a few
units at a time.

So a worker holds neither all results nor those of a whole batch: MAX_CACHED_BYTES limits its
memory, unless a single unit or row group is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .numpy_columns import from_numpy, to_numpy, to_python_list
from .parquet_in_memory import read_row_group

MAX_CACHED_BYTES = 2**25  # of row groups that are cached for the next units
MAX_WINDOW_BYTES = 2**22  # of rows that are taken out of them at a time, approximately
FIRST_WINDOW_UNITS, MAX_WINDOW_UNITS = 16, 4096


class CachedRowGroups:
    """The row groups of a Parquet file, with a cache of those read last."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.file, self.count = file, file.num_row_groups
        self._cached: dict[int, pa.Table] = {}

    def columns(self, group: int, names: Sequence[str]) -> pa.Table:
        kept = self._cached.get(group)
        return (
            kept.select(list(names))
            if kept is not None
            else read_row_group(self.file, group, names)
        )

    def rows(self, group: int) -> pa.Table:
        found = self._cached.pop(group, None)
        if found is None:
            while (
                self._cached
                and sum(table.nbytes for table in self._cached.values()) > MAX_CACHED_BYTES // 2
            ):
                del self._cached[next(iter(self._cached))]
            found = read_row_group(self.file, group)
            while (
                self._cached
                and sum(table.nbytes for table in self._cached.values()) + found.nbytes
                > MAX_CACHED_BYTES
            ):
                del self._cached[next(iter(self._cached))]
        self._cached[group] = found  # as the last: the least recently used group is dropped first
        return found


class RowsOfUnits:
    """The rows that belong to each unit of a list of keys: those with equal values in the columns
    `unit`.
    """

    def __init__(self, groups: CachedRowGroups, keys: pa.Table, unit: Sequence[str]) -> None:
        self._groups = groups
        self._keys = list(keys_of(keys, unit))
        self._positions = _row_positions(groups, keys, unit, set(self._keys))
        # of the units in memory: the position and number of their rows
        self._first, self._window = (0, list[tuple[int, int]]())
        self._table: pa.Table | None = None
        self._window_units = FIRST_WINDOW_UNITS

    def rows(self, unit: int) -> pa.Table | None:
        """Return the rows of one unit; None if there are none."""
        if not self._first <= unit < self._first + len(self._window):
            self._read(unit)
        start, count = self._window[unit - self._first]
        return self._table.slice(start, count) if count and self._table is not None else None

    def _read(self, unit: int) -> None:
        self._table = None
        self._first, keys = unit, self._keys[unit : unit + self._window_units]
        spans: dict[tuple[Any, ...], tuple[int, int]] = {}
        by_group: dict[int, list[int]] = {}
        begins = 0
        for key in sorted(
            {key for key in keys if key in self._positions}, key=lambda key: self._positions[key][0]
        ):
            positions = self._positions[key]  # consecutive, since results are sorted by their keys
            spans[key] = begins, len(positions)
            begins += len(positions)
            for group, row in positions:
                by_group.setdefault(group, []).append(row)
        tables = [
            self._groups.rows(group).take(from_numpy(np.array(rows, np.int64)))
            for group, rows in by_group.items()
        ]
        self._table = pa.concat_tables(tables).combine_chunks() if tables else None
        self._window = [spans.get(key, (0, 0)) for key in keys]
        each = (self._table.nbytes if self._table is not None else 0) // len(keys)
        self._window_units = max(
            1, min(4 * len(keys), MAX_WINDOW_UNITS, MAX_WINDOW_BYTES // max(each, 1))
        )


def keys_of(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Return the keys of rows; each part is equal to itself even if it is NaN."""
    return zip(
        *(map(_comparable_part, to_python_list(table.column(name))) for name in names), strict=True
    )


_NAN = object()


def _comparable_part(part: Any) -> Any:
    return _NAN if part != part else part


def _row_positions(
    groups: CachedRowGroups, keys: pa.Table, unit: Sequence[str], wanted: set[tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[tuple[int, int]]]:
    """Return the row group, and the row in it, of each row of a wanted key, in the order of the
    file.
    """
    positions: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for group in range(groups.count):
        found = groups.columns(group, unit)
        rows = _candidate_rows(found, keys, unit)
        if len(rows) < found.num_rows:
            found = found.take(from_numpy(rows))
        for row, key in zip(rows.tolist(), keys_of(found, unit), strict=True):
            if key in wanted:
                positions.setdefault(key, []).append((group, row))
    return positions


def _candidate_rows(found: pa.Table, keys: pa.Table, unit: Sequence[str]) -> NDArray[np.int64]:
    """Return the rows each part of whose key occurs in the keys of the units."""
    import pyarrow.compute as pc

    keep = np.ones(found.num_rows, bool)
    for name in unit:
        column, some = found.column(name), keys.column(name)
        if column.type == some.type and not pa.types.is_floating(column.type):
            keep &= to_numpy(pc.is_in(column, value_set=some.combine_chunks().unique()), False)
    return np.flatnonzero(keep)
