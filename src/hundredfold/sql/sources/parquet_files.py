"""Parquet files that are read in place: values that DuckDB would change, and damaged files.

Theory of operation. DuckDB reads most Parquet types exactly. A few it silently reads as a type that
holds less. Their columns are found in the files' schemas, and only they are examined:

    decimals of more than 38 digits              read as doubles: rejected
    durations, periods                           stored as integers, since Parquet has no such type:
                                                 rejected (the schema that Arrow's writers add to a
                                                 file has the original type)
    INT96 times; times of day in nanoseconds     cut to microseconds: rejected if a value has
    that are marked as UTC                       nanoseconds, which pyarrow can read
    times of day that are marked as UTC          read as TIME WITH TIME ZONE: a cast makes them TIME
                                                 (the offset is zero)

A damaged page is found when it is read, which can be in any later query. DuckDB does not always
name the file then, so the files are read again, one after the other, until one fails.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...contract import quote
from ...errors import SourceError
from .files import pattern

MAGIC = b"PAR1"
ENCRYPTED_MAGIC = b"PARE"
HEAD_BYTES = 4096
MAX_DIGITS = 38
INEXACT_QUERY = """SELECT DISTINCT file_name FROM parquet_schema({files})
    WHERE type = 'INT96' OR precision > {digits}
    OR (logical_type LIKE 'TimeType(isAdjustedToUTC=1%' AND logical_type LIKE '%NANOS=Nano%')
    ORDER BY file_name"""
LEAVES_QUERY = (
    "SELECT name, num_children, type, precision, logical_type FROM parquet_schema({files})"
)
ARROW_SCHEMA_QUERY = """SELECT min(file_name) AS file, value FROM parquet_kv_metadata({files})
    WHERE key = 'ARROW:schema' GROUP BY value ORDER BY file"""
COPY_HINT = "copy or write the file again completely, then run the job again"
SQL_ERRORS = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
    duckdb.OutOfMemoryException,
)
# a text in double quotes is a name; the rest are types
UTC_CLOCK = re.compile(r'"(?:[^"]|"")*"|\bTIME WITH TIME ZONE\b')


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf of a Parquet schema, which stores values, and the column that it belongs to."""

    column: str
    physical: str
    digits: int
    logical: str

    @property
    def is_cut(self) -> bool:
        """Return whether DuckDB cuts its values to microseconds."""
        return self.physical == "INT96" or (
            "isAdjustedToUTC=1" in self.logical and "NANOS=Nano" in self.logical
        )


def without_zone(kind: str) -> str:
    """Return a SQL type with times of day without a time zone."""
    return UTC_CLOCK.sub(lambda found: found[0] if found[0].startswith('"') else "TIME", kind)


def exact_times(types: Mapping[str, str]) -> dict[str, str]:
    """Return SQL that reads times of day marked as UTC as plain ones, for the columns that have
    them.
    """
    return {
        n: f"CAST({quote(n)} AS {without_zone(kind)})"
        for n, kind in types.items()
        if without_zone(kind) != kind
    }


def reject_inexact(source: str, paths: Sequence[str], query: Callable[[str], pa.Table]) -> None:
    """Reject files with columns that DuckDB would silently read as other values.

    Raises:
        SourceError: a column has such a type, or a value of such a type would be cut.
    """
    files = f"[{', '.join(map(pattern, paths))}]"
    for row in query(ARROW_SCHEMA_QUERY.format(files=files)).to_pylist():
        _reject_unsupported(source, row["file"], row["value"])
    for path in (
        query(INEXACT_QUERY.format(files=files, digits=MAX_DIGITS)).column("file_name").to_pylist()
    ):
        leaves = _leaves(query(LEAVES_QUERY.format(files=pattern(path))).to_pylist())
        wide = {leaf.column: leaf.digits for leaf in leaves if leaf.digits > MAX_DIGITS}
        if wide:
            raise SourceError(
                f"{source}: {path} has {len(wide)} column(s) with decimals of more than"
                f" {MAX_DIGITS} digits",
                problems=[f"{name}: {digits} digits" for name, digits in wide.items()],
                hint=f"write them with at most {MAX_DIGITS} digits, or as text",
            )
        cut = [leaf.column for leaf in leaves if leaf.is_cut]
        reject_finer_times(source, path, list(dict.fromkeys(cut)), partial(FileIO, path))


def reject_finer_times(
    source: str,
    path: str,
    columns: Sequence[str],
    opened: Callable[[], RawIOBase],
    step_ns: int = 1000,
) -> None:
    """Reject a file with times in these columns that are no multiple of `step_ns`.

    The times are INT96, or times of day.
    """
    if not columns or not any(
        (_as_integers(leaf) % step_ns).any() for _, leaf in _read_times(opened, columns, "ns")
    ):
        return
    # 64 bits of nanoseconds end in the year 2262, and INT96 does not: microseconds show which
    # values are only cut to 64 bits
    for (name, fine), (_, coarse) in zip(
        _read_times(opened, columns, "ns"), _read_times(opened, columns, "us"), strict=True
    ):
        if pa.types.is_time(fine.type):
            bad = _as_integers(fine) % step_ns != 0
        elif coarse.type != fine.type:
            bad = (_as_integers(coarse) * 1000 != _as_integers(fine)) | (
                _as_integers(coarse) % (step_ns // 1000) != 0
            )
        else:
            continue  # not stored as INT96
        if bad.any():
            raise SourceError(
                f"{source}: {path} has times finer than a"
                f" {'microsecond' if step_ns == 1000 else 'millisecond'} in {name}, and they would"
                " be cut",
                hint=(
                    "write them as timestamps in nanoseconds (no INT96), or times of day without a"
                    " time zone; or rounded, or as text"
                ),
            )


def _read_times(
    opened: Callable[[], RawIOBase], columns: Sequence[str], unit: str
) -> Iterator[tuple[str, pa.Array]]:
    """Yield the times of columns, each with its column; INT96 in that unit."""
    with opened() as file:
        for batch in pq.ParquetFile(file, coerce_int96_timestamp_unit=unit).iter_batches(
            columns=list(columns), use_threads=False
        ):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                for leaf in _times(column):
                    yield name, leaf


def _as_integers(leaf: pa.Array) -> NDArray[np.int64]:
    return np.asarray(leaf.drop_null().view(pa.int64()))


def _times(column: pa.Array) -> Iterator[pa.Array]:
    """Yield the times of a column, also those inside lists, maps and structs."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        yield column
    elif pa.types.is_struct(kind):
        for inner in column.flatten():
            yield from _times(inner)
    elif pa.types.is_map(kind):
        yield from _times(column.keys)
        yield from _times(column.items)
    elif pa.types.is_nested(kind) and hasattr(column, "flatten"):
        yield from _times(column.flatten())


def _reject_unsupported(source: str, path: str, encoded: Any) -> None:
    """Raise SourceError if a file's Arrow schema has a type that Parquet does not have."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded)))
    except (ValueError, pa.ArrowException):
        return  # of another or newer writer: then only the columns' Parquet types count
    reject_durations(source, path, schema)


def reject_durations(source: str, path: str, schema: pa.Schema) -> None:
    """Reject a file with columns of durations or periods, which Parquet stores as integers."""
    bad = {f.name: str(f.type) for f in schema if _has_duration(f.type)}
    bad |= {
        f.name: "period"
        for f in schema
        if (f.metadata or {}).get(b"ARROW:extension:name") == b"pandas.period"
    }
    if bad:
        raise SourceError(
            f"{source}: {path} has {len(bad)} column(s) of a type that Parquet does not have: it"
            " stores integers",
            problems=[f"{name}: {kind}" for name, kind in bad.items()],
            hint="write a duration as seconds (float), a period as a date or text",
        )


def _has_duration(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return any(_has_duration(kind.field(n).type) for n in range(kind.num_fields))
    return bool(pa.types.is_duration(kind))


def _leaves(rows: Sequence[Mapping[str, Any]]) -> list[Leaf]:
    """Return the leaves of a schema, which is a tree written from the root on."""
    found: list[Leaf] = []
    rest = iter(rows[1:])

    def read(column: str | None) -> None:
        row = next(rest)
        column = column or str(row["name"])
        for _ in range(row["num_children"] or 0):
            read(column)
        if not row["num_children"]:
            found.append(
                Leaf(column, row["type"] or "", row["precision"] or 0, row["logical_type"] or "")
            )

    for _ in range(rows[0]["num_children"] or 0):
        read(None)
    return found


# ---- damaged files


def find_damage(source: str, paths: Sequence[str], memory: int) -> SourceError | None:
    """Return an error for the first unreadable file, with its damage; None if all can be read."""
    for path in paths:
        if not Path(path).is_file():
            continue  # another error reports a missing file
        if problem := _find_problem(path, memory):
            description, columns = problem
            return SourceError(
                f"{source}: {path} cannot be read as Parquet: {description}",
                problems=columns,
                hint=COPY_HINT,
            )
    return None


def not_parquet_reason(head: bytes, tail: bytes, size: int) -> str:
    """Return the reason why a file is no Parquet file, from its ends; "" if it may be one."""
    if not size:
        return "it is empty"
    if head.startswith(MAGIC):
        return (
            ""
            if tail == MAGIC and size >= 12
            else "its end is missing: it was truncated, or is still being written"
        )
    if head.startswith(ENCRYPTED_MAGIC):
        return "it is encrypted"
    from .csv_dialect import identify_format

    known = identify_format(head)
    if known:
        return f"it is {known}"
    text = head[:60].split(b"\n")[0]
    return f"it is no Parquet file: it begins with {text.decode(errors='replace')!r}"


def _find_problem(path: str, memory: int) -> tuple[str, list[str]] | None:
    """Return the problem of a file, and the columns that have it."""
    with Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, 2)
        file.seek(max(size - 4, 0))
        description = not_parquet_reason(head, file.read(), size)
    if description:
        return description, []
    with duckdb.connect(
        ":memory:", config={"memory_limit": f"{max(memory // 2**20, 96)}MiB", "threads": 1}
    ) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = f"read_parquet({pattern(path)}, hive_partitioning = false)"
        error = _first_error(connection, f"SELECT * FROM {rows}")
        if error is None:
            return None
        columns = []
        try:
            names = connection.sql(f"SELECT * FROM {rows}").columns
        except duckdb.Error:
            names = []
    for name in names:  # on separate connections, since an error can make a connection unusable
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            if own := _first_error(connection, f"SELECT {quote(name)} FROM {rows}"):
                columns.append(f"column {name}: {own}")
    return error, columns


def _first_error(connection: duckdb.DuckDBPyConnection, select: str) -> str | None:
    """Return the first line of the error that reading all rows of a query raises; None if it
    succeeds.
    """
    try:
        for _ in connection.sql(select).to_arrow_reader(100_000):
            pass
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        return str(error).split("\n")[0]
    return None
