"""A writer of Parquet files whose bytes depend only on their rows, not on how these arrive or on
which program writes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .row_sizes import row_bytes

ROW_GROUP_ROWS = 131_072
MAX_ROW_GROUP_BYTES = 2**25  # of values, unless a single row is larger


class ParquetWriter:
    """A Parquet file of row groups of a fixed size, written as the rows arrive."""

    def __init__(self, path: Any, schema: pa.Schema) -> None:
        # a Parquet file must have a column: a result without one is given a column of nulls
        self.schema = schema if len(schema) else pa.schema([("nothing", pa.null())])
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")
        self.pending: list[pa.Table] = []
        self.rows = self.bytes = 0

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        table = table if table.schema == self.schema else table.cast(self.schema)
        ends = np.cumsum(row_bytes(table))
        start = 0
        while start < table.num_rows:
            before = int(ends[start - 1]) if start else 0
            fits = int(
                np.searchsorted(ends, before + MAX_ROW_GROUP_BYTES - self.bytes, side="right")
            )
            stop = min(max(fits, start + (self.rows == 0)), start + ROW_GROUP_ROWS - self.rows)
            if stop > start:
                self.pending.append(table.slice(start, stop - start))
                self.rows += stop - start
                self.bytes += int(ends[stop - 1]) - before
            if stop < table.num_rows or self.rows >= ROW_GROUP_ROWS:
                self._write()
            start = stop

    def close(self) -> None:
        if self.rows:
            self._write()
        self.writer.close()

    def _write(self) -> None:
        self.writer.write_table(
            pa.concat_tables(self.pending).combine_chunks(), row_group_size=self.rows
        )
        self.pending, self.rows, self.bytes = [], 0, 0
