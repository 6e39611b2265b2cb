"""Parquet files whose bytes depend on their rows alone, and neither on how these came nor on who wrote them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .row_sizes import row_bytes

ROW_GROUP = 131_072  # rows
GROUP_BYTES = 2**25  # of a row group's values at most, but of a single row that is larger


class ParquetWriter:
    """A Parquet file of row groups of a fixed size, written as the rows come."""

    def __init__(self, path: Any, schema: pa.Schema) -> None:
        # a result of no column cannot be a Parquet file: it is given one that is always null
        self.schema = schema if len(schema) else pa.schema([("nothing", pa.null())])
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")
        self.waiting: list[pa.Table] = []
        self.rows = self.bytes = 0

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        table = table if table.schema == self.schema else table.cast(self.schema)
        ends = np.cumsum(row_bytes(table))
        start = 0
        while start < table.num_rows:
            before = int(ends[start - 1]) if start else 0
            fits = int(np.searchsorted(ends, before + GROUP_BYTES - self.bytes, side="right"))
            stop = min(max(fits, start + (self.rows == 0)), start + ROW_GROUP - self.rows)
            if stop > start:
                self.waiting.append(table.slice(start, stop - start))
                self.rows += stop - start
                self.bytes += int(ends[stop - 1]) - before
            if stop < table.num_rows or self.rows >= ROW_GROUP:
                self._write()
            start = stop

    def close(self) -> None:
        if self.rows:
            self._write()
        self.writer.close()

    def _write(self) -> None:
        self.writer.write_table(
            pa.concat_tables(self.waiting).combine_chunks(), row_group_size=self.rows
        )
        self.waiting, self.rows, self.bytes = [], 0, 0
