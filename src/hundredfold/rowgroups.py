"""Parquet files whose bytes depend on their rows alone, and neither on how these came nor on who wrote them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 131_072  # rows


class RowGroups:
    """A Parquet file of row groups of a fixed size, written as the rows come."""

    def __init__(self, path: Any, schema: pa.Schema) -> None:
        # a result of no column cannot be a Parquet file: it is given one that is always null
        self.schema = schema if len(schema) else pa.schema([("nothing", pa.null())])
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")
        self.waiting: list[pa.Table] = []
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        self.waiting.append(table if table.schema == self.schema else table.cast(self.schema))
        self.rows += table.num_rows
        while self.rows >= ROW_GROUP:
            self._write(ROW_GROUP)

    def close(self) -> None:
        if self.rows:
            self._write(self.rows)
        self.writer.close()

    def _write(self, rows: int) -> None:
        whole = pa.concat_tables(self.waiting)
        self.writer.write_table(whole.slice(0, rows).combine_chunks(), row_group_size=rows)
        rest = whole.slice(rows)
        self.waiting, self.rows = ([rest] if rest.num_rows else []), rest.num_rows
