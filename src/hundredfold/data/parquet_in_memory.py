"""Reads of Parquet files that are in memory, by the calling thread alone.

Arrow's pool may release the last reference to a file's memory after a read has returned. If that
memory belongs to Python (the bytes of an answer from S3), its thread then needs the interpreter's
lock, and a process that ends just then is aborted: "terminate called without an active exception",
exit status -6.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(data: pa.Buffer, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a file, and of its columns those that are named, in the file's order."""
    names = None if columns is None else list(columns)
    return pq.ParquetFile(pa.BufferReader(data)).read(names, use_threads=False)


def read_row_group(
    file: pq.ParquetFile, group: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows of one row group of a file."""
    names = None if columns is None else list(columns)
    return file.read_row_group(group, columns=names, use_threads=False)
