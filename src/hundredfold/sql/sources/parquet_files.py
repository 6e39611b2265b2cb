"""Parquet files that are read where they are: values that DuckDB would read as others, and files that are damaged.

Theory of operation.  DuckDB reads most Parquet types exactly.  A few it reads as a type that holds less, without an error.
Their columns are found in the files' schemas, and only they are looked at:

    decimals of more than 38 digits              read as doubles: refused
    durations, periods                           Parquet has none, and keeps whole numbers: refused (the schema that
                                                 Arrow's writers add to a file says what the numbers are)
    INT96 times; times of day in nanoseconds     cut to microseconds: refused where a value has nanoseconds; pyarrow,
    that are marked as UTC                       which keeps them, reads these columns for that
    times of day that are marked as UTC          read as TIME WITH TIME ZONE: a cast makes them TIME (the offset is zero)

A damaged page is found when it is read, which can be in any later query.  DuckDB does not always name the file then, so
the files are read once more, one after the other, until one fails.
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
from .csv_dialect import what_is
from .files import pattern

MAGIC = b"PAR1"
ENCRYPTED = b"PARE"
HEAD_BYTES = 4096
MAX_DIGITS = 38
INEXACT = """SELECT DISTINCT file_name FROM parquet_schema({files}) WHERE type = 'INT96' OR precision > {digits}
    OR (logical_type LIKE 'TimeType(isAdjustedToUTC=1%' AND logical_type LIKE '%NANOS=Nano%') ORDER BY file_name"""
LEAVES = "SELECT name, num_children, type, precision, logical_type FROM parquet_schema({files})"
ARROW = """SELECT min(file_name) AS file, value FROM parquet_kv_metadata({files})
    WHERE key = 'ARROW:schema' GROUP BY value ORDER BY file"""
COPY_AGAIN = "copy or write the file again, whole, then run the job again"
SQL_ERRORS = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
    duckdb.OutOfMemoryException,
)
# a text in double quotes is a name; what is outside of them are types
UTC_CLOCK = re.compile(r'"(?:[^"]|"")*"|\bTIME WITH TIME ZONE\b')


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column of a Parquet file as its values are stored, and the column of the table that it belongs to."""

    column: str
    physical: str
    digits: int
    logical: str

    @property
    def is_cut(self) -> bool:
        """Whether DuckDB cuts its values to microseconds."""
        return self.physical == "INT96" or (
            "isAdjustedToUTC=1" in self.logical and "NANOS=Nano" in self.logical
        )


def without_zone(kind: str) -> str:
    """Return a SQL type with times of day as they are without a time zone."""
    return UTC_CLOCK.sub(lambda found: found[0] if found[0].startswith('"') else "TIME", kind)


def exact_times(types: Mapping[str, str]) -> dict[str, str]:
    """Return the SQL of the columns, of these types, that hold times of day marked as UTC: each as a time of day."""
    return {
        n: f"CAST({quote(n)} AS {without_zone(kind)})"
        for n, kind in types.items()
        if without_zone(kind) != kind
    }


def refuse_inexact(source: str, paths: Sequence[str], query: Callable[[str], pa.Table]) -> None:
    """Refuse files with columns that DuckDB would read as other values, without an error.

    Raises:
        SourceError: a column has such a type, or a value of such a type would be cut.
    """
    files = f"[{', '.join(map(pattern, paths))}]"
    for row in query(ARROW.format(files=files)).to_pylist():
        _refuse_unkept(source, row["file"], row["value"])
    for path in (
        query(INEXACT.format(files=files, digits=MAX_DIGITS)).column("file_name").to_pylist()
    ):
        leaves = _leaves(query(LEAVES.format(files=pattern(path))).to_pylist())
        wide = {leaf.column: leaf.digits for leaf in leaves if leaf.digits > MAX_DIGITS}
        if wide:
            raise SourceError(
                f"{source}: {path} has {len(wide)} column(s) with decimals of more than {MAX_DIGITS} digits",
                problems=[f"{name}: {digits} digits" for name, digits in wide.items()],
                hint=f"write them with at most {MAX_DIGITS} digits, or as text",
            )
        cut = [leaf.column for leaf in leaves if leaf.is_cut]
        refuse_finer(source, path, list(dict.fromkeys(cut)), partial(FileIO, path))


def refuse_finer(
    source: str,
    path: str,
    columns: Sequence[str],
    opened: Callable[[], RawIOBase],
    step_ns: int = 1000,
) -> None:
    """Refuse a file whose INT96 times, or times of day, in these columns are no multiple of so many nanoseconds."""
    if not columns or not any(
        (_whole(leaf) % step_ns).any() for _, leaf in _read(opened, columns, "ns")
    ):
        return
    # 64 bits of nanoseconds end in the year 2262, and INT96 does not: microseconds show which values are only cut to 64 bits
    for (name, fine), (_, coarse) in zip(
        _read(opened, columns, "ns"), _read(opened, columns, "us"), strict=True
    ):
        if pa.types.is_time(fine.type):
            bad = _whole(fine) % step_ns != 0
        elif coarse.type != fine.type:
            bad = (_whole(coarse) * 1000 != _whole(fine)) | (
                _whole(coarse) % (step_ns // 1000) != 0
            )
        else:
            continue  # not stored as INT96
        if bad.any():
            raise SourceError(
                f"{source}: {path} holds times finer than a {'microsecond' if step_ns == 1000 else 'millisecond'} in {name}, and they would be cut",
                hint="write them as timestamps in nanoseconds (no INT96), or times of day without a time zone; or rounded, or as text",
            )


def _read(
    opened: Callable[[], RawIOBase], columns: Sequence[str], unit: str
) -> Iterator[tuple[str, pa.Array]]:
    """Yield the times of columns, each with its column; INT96 in that unit."""
    with opened() as file:
        for batch in pq.ParquetFile(file, coerce_int96_timestamp_unit=unit).iter_batches(
            columns=list(columns)
        ):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                for leaf in _times(column):
                    yield name, leaf


def _whole(leaf: pa.Array) -> NDArray[np.int64]:
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


def _refuse_unkept(source: str, path: str, encoded: Any) -> None:
    """SourceError where the Arrow schema kept in a file has a type that Parquet has no type for."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded)))
    except (ValueError, pa.ArrowException):
        return  # of another writer, or newer: the columns' Parquet types are what counts
    refuse_durations(source, path, schema)


def refuse_durations(source: str, path: str, schema: pa.Schema) -> None:
    """Refuse a file with columns of durations or periods, which Parquet keeps as whole numbers of some unit."""
    bad = {f.name: str(f.type) for f in schema if _has_duration(f.type)}
    bad |= {
        f.name: "period"
        for f in schema
        if (f.metadata or {}).get(b"ARROW:extension:name") == b"pandas.period"
    }
    if bad:
        raise SourceError(
            f"{source}: {path} has {len(bad)} column(s) of a type that Parquet does not have: it keeps whole numbers",
            problems=[f"{name}: {kind}" for name, kind in bad.items()],
            hint="write a duration as seconds (float), a period as a date or text",
        )


def _has_duration(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return any(_has_duration(kind.field(n).type) for n in range(kind.num_fields))
    return bool(pa.types.is_duration(kind))


def _leaves(rows: Sequence[Mapping[str, Any]]) -> list[Leaf]:
    """The columns of values of a schema, which is a tree written from the root on."""
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
    """Return an error that names the first file that cannot be read to its end, and what is wrong with it; None if all can be."""
    for path in paths:
        if not Path(path).is_file():
            continue  # that it is gone is another error
        if problem := _problem(path, memory):
            words, columns = problem
            return SourceError(
                f"{source}: {path} cannot be read as Parquet: {words}",
                problems=columns,
                hint=COPY_AGAIN,
            )
    return None


def what_is_no_parquet(head: bytes, tail: bytes, size: int) -> str:
    """Return what a file is, from its ends, if it is no Parquet file; "" if it may be one."""
    if not size:
        return "it has no byte"
    if head.startswith(MAGIC):
        return (
            ""
            if tail == MAGIC and size >= 12
            else "its end is missing: it was cut short, or is still being written"
        )
    if head.startswith(ENCRYPTED):
        return "it is encrypted"
    known = what_is(head)
    if known:
        return f"it is {known}"
    text = head[:60].split(b"\n")[0]
    return f"it is no Parquet file: it begins with {text.decode(errors='replace')!r}"


def _problem(path: str, memory: int) -> tuple[str, list[str]] | None:
    """What is wrong with a file, and in which columns."""
    with Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, 2)
        file.seek(max(size - 4, 0))
        words = what_is_no_parquet(head, file.read(), size)
    if words:
        return words, []
    with duckdb.connect(
        ":memory:", config={"memory_limit": f"{max(memory // 2**20, 96)}MiB", "threads": 1}
    ) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = f"read_parquet({pattern(path)}, hive_partitioning = false)"
        error = _error(connection, f"SELECT * FROM {rows}")
        if error is None:
            return None
        columns = []
        try:
            names = connection.sql(f"SELECT * FROM {rows}").columns
        except duckdb.Error:
            names = []
    for name in names:  # each on a connection of its own: an error can leave the other one unusable
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            if own := _error(connection, f"SELECT {quote(name)} FROM {rows}"):
                columns.append(f"column {name}: {own}")
    return error, columns


def _error(connection: duckdb.DuckDBPyConnection, select: str) -> str | None:
    """The first line of the error that reading all rows of a query ends with."""
    try:
        for _ in connection.sql(select).to_arrow_reader(100_000):
            pass
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        return str(error).split("\n")[0]
    return None
