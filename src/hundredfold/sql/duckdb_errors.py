"""What DuckDB cannot do, as errors of this package: with the line of the query, and a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..contract import quote
from ..errors import HomeError, HundredfoldError, QueryError

MAX_FOOTERS_READ = 200  # Parquet footers of a source that are read to explain why memory ran out
# fraction of the warehouse's memory from which a row group is named in the error
LARGE_ROW_GROUP_SHARE = 0.25


# types that would change on the way to Python or a file, and the SQL to write instead
REMEDIES = {
    "uhugeint": "CAST({} AS VARCHAR), or AS DECIMAL(38, 0) where it fits",
    "time with time zone": "CAST({} AS TIME)",
    "bignum": "CAST({} AS VARCHAR)",
    "bit": "CAST({} AS VARCHAR)",
    "union": "CAST({} AS VARCHAR)",
    "interval": "epoch_us(...) of each, which is whole microseconds",
}


def refuse_types(columns: Mapping[str, Any]) -> None:
    """Raise QueryError for columns of types that Arrow changes without an error.

    An interval on its own is kept, in microseconds.
    """
    for name, kind in columns.items():
        odd = next((each for each in _types_in(kind) if each in REMEDIES), None)
        if odd and (odd != "interval" or kind.id != odd):
            remedy = (
                REMEDIES[odd].format(quote(name)) if kind.id == odd else "another type inside of it"
            )
            raise QueryError(
                f"its column {name} is of type {kind}, which would become another value",
                hint=f"write {remedy}",
            )


def _types_in(kind: duckdb.DuckDBPyType) -> Iterator[str]:
    yield kind.id
    if kind.id in ("list", "array", "map", "struct"):
        for _, inner in kind.children:
            if hasattr(inner, "id"):  # the size of an array is a child, too
                yield from _types_in(inner)


def query_error(error: Exception, sql: str) -> HundredfoldError:
    """Return DuckDB's error as one of this package; its text has the line and marks the place."""
    message = str(error)
    if "No space left" in message:
        return HomeError(
            "the disk is full: " + message.split("\n")[0],
            hint="free some space, or move the runs with --home; then resume the run",
        )
    if "Too many open files" in message:
        return HomeError(
            "a query cannot open its files: " + message.split("\n")[0],
            hint="raise the limit of open files (ulimit -n), or use fewer workers with --workers",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return HomeError(
            "the query does not fit the memory limit: " + message.split("\n")[0],
            hint="raise --memory, or use fewer workers with --workers",
        )
    return QueryError(
        message, hint=None if "\n" in message else f"in: {' '.join(sql.split())[:200]}"
    )


def row_group_hint(sources: Mapping[str, Sequence[str]], memory: int) -> str | None:
    """Return a hint about the largest row group of Parquet sources, if it takes much of the
    memory.
    """
    largest, name, file = 0, "", ""
    for source, paths in sources.items():
        for path in paths[:MAX_FOOTERS_READ]:
            with suppress(pa.ArrowException, OSError):
                footer = pq.read_metadata(path)
                size = max(
                    (footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)),
                    default=0,
                )
                if size > largest:
                    largest, name, file = size, source, path
    if largest < LARGE_ROW_GROUP_SHARE * memory:
        return None
    return (
        f"{name} has a row group of {largest / 2**20:,.0f} MiB ({file}), of which all "
        "columns that a query names are read at once: select only the columns that are "
        "needed, or write the file with smaller row groups, or raise --memory"
    )


def line_with_mark(select: str, position: str | int | None) -> str:
    """Return the line of an error, and a mark below it."""
    if position is None:
        return ""
    at = int(position)
    start = select.rfind("\n", 0, at) + 1
    stop = select.find("\n", at)
    number = select.count("\n", 0, at) + 1
    line = select[start : stop if stop >= 0 else None]
    lead = f"line {number}: "
    return f"\n{lead}{line}\n{' ' * (len(lead) + at - start)}^"
