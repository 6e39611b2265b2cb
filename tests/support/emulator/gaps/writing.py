"""The output of CREATE TABLE AS and UNLOAD: which rows go into which file, and the files' bytes.

File names carry no information and rows have no order, so that no caller can rely on either.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .hive import QueryError
from .values import text_of

WRITERS = 3  # files of a table without buckets: several, so that no caller expects a single one
MASK = 0x7FFFFFFF


def shuffled(rows: pa.Table) -> pa.Table:
    """Return the rows in no order: SQL promises none without ORDER BY."""
    return rows.take(pc.sort_indices(pc.random(len(rows)))) if len(rows) > 1 else rows


def parts_of(rows: pa.Table, bucketed_by: Sequence[str], bucket_count: int) -> list[pa.Table]:
    """Return the rows of each file: of each bucket that has any, or of a few writers."""
    rows = shuffled(rows)
    if not bucketed_by:
        edges = sorted({len(rows) * number // WRITERS for number in range(WRITERS + 1)})
        return [rows.slice(first, last - first) for first, last in pairwise(edges)]
    numbers = bucket_numbers([rows[name] for name in bucketed_by], bucket_count)
    order = pc.sort_indices(numbers)
    rows, parts, first = rows.take(order), [], 0
    for _, same in groupby(numbers.take(order).to_pylist()):
        size = sum(1 for _ in same)
        parts.append(rows.slice(first, size))
        first += size
    return parts


def bucket_numbers(columns: Sequence[pa.ChunkedArray], count: int) -> pa.Array:
    """Return Hive's bucket of each row, version 1: an int hashes to itself, a bigint to its halves,
    a text to 31 h + byte.
    """
    if (
        len(columns) == 1
        and pa.types.is_integer(columns[0].type)
        and columns[0].type.bit_width <= 32
    ):
        hashes = columns[0].combine_chunks().cast(pa.int64()).fill_null(0)
        positive = pc.bit_wise_and(hashes, MASK)
        return pc.subtract(positive, pc.multiply(pc.divide(positive, count), count))
    rows = zip(
        *([hive_hash(value, column.type) for value in column.to_pylist()] for column in columns),
        strict=True,
    )
    return pa.array([(_folded(row) & MASK) % count for row in rows], pa.int64())


def hive_hash(value: Any, kind: pa.DataType) -> int:
    """Return Java's hashCode as Hive uses it, 32 bits without sign."""
    if value is None:
        return 0
    if pa.types.is_boolean(kind):
        return int(value)
    if pa.types.is_integer(kind):
        return int(value ^ (value >> 32) if kind.bit_width == 64 else value) & 0xFFFFFFFF
    if pa.types.is_date(kind):
        return int(pa.scalar(value, pa.date32()).cast(pa.int32()).as_py()) & 0xFFFFFFFF
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        total = 0
        for byte in value.encode() if isinstance(value, str) else value:
            total = (31 * total + (byte - 256 if byte > 127 else byte)) & 0xFFFFFFFF
        return total
    raise QueryError("NOT_SUPPORTED", f"the emulator does not bucket by {kind}")


def encoded(rows: pa.Table, format: str, compression: str) -> bytes:
    """Return a file's bytes."""
    if format == "PARQUET":
        return _parquet(rows, compression)
    lines = {"JSON": _json_lines, "TEXTFILE": _text_lines}.get(format)
    if lines is None:
        raise QueryError("NOT_SUPPORTED", f"the emulator does not write {format}")
    data = "".join(lines(rows)).encode()
    return gzip.compress(data, 1) if compression == "GZIP" else data


def file_name(query: str, format: str, compression: str) -> str:
    return f"{query}_{uuid4()}" + (".gz" if format != "PARQUET" and compression == "GZIP" else "")


def _parquet(rows: pa.Table, compression: str) -> bytes:
    """Write as Trino's writer does: an instant is an INT96."""
    buffer = io.BytesIO()
    try:
        pq.write_table(
            rows,
            buffer,
            compression=compression,
            use_deprecated_int96_timestamps=True,
            store_schema=False,
        )
    except (pa.ArrowException, OSError) as error:
        raise QueryError(
            "INVALID_TABLE_PROPERTY", f"write_compression {compression}: {error}"
        ) from error
    return buffer.getvalue()


def _json_lines(rows: pa.Table) -> Iterator[str]:
    """Leave out NULL; instants and decimals are texts and numbers as Athena prints them."""
    for row in rows.to_pylist():
        yield (
            json.dumps(
                {name: value for name, value in row.items() if value is not None},
                default=str,
                ensure_ascii=False,
            )
            + "\n"
        )


def _text_lines(rows: pa.Table) -> Iterator[str]:
    texts = [text_of(kind) for kind in rows.schema.types]
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        yield (
            "\x01".join(
                "\\N" if value is None else text(value)
                for text, value in zip(texts, row, strict=True)
            )
            + "\n"
        )


def _folded(hashes: Sequence[int]) -> int:
    total = 0
    for one in hashes:
        total = (31 * total + one) & 0xFFFFFFFF
    return total
