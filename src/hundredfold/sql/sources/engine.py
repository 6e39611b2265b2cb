"""The parts of the warehouse that readers of sources need, and SQL that several formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa

from ...contract import quote
from ...errors import HundredfoldError, QueryError, SourceError
from ...ports.interfaces import Fingerprint
from .changes import check_unchanged
from .files import Files, check_column_names

T = TypeVar("T")


class WritableStore(Protocol):
    """A store that takes files which DuckDB writes, such as one in S3."""

    def writing(self, key: str) -> AbstractContextManager[Path]:
        """Return a path to write to, which becomes the object when the block ends."""


class DiskStore(WritableStore, Protocol):
    """A store whose objects are files that DuckDB can open."""

    def path(self, key: str) -> Path:
        """Return the file of an object."""


class Engine(Protocol):
    """The warehouse, as the readers of sources use it."""

    connection: duckdb.DuckDBPyConnection
    scratch: Path
    parquet_files: dict[str, Sequence[str]]
    tick: Callable[[], None]

    @property
    def store(self) -> DiskStore: ...
    def query(self, select: str) -> pa.Table: ...
    def columns(self, select: str) -> pa.Schema: ...
    def run(self, sql: str) -> list[tuple[Any, ...]]: ...
    def call(self, call: Callable[[], T]) -> T: ...
    def query_error(self, error: Exception, select: str) -> HundredfoldError: ...
    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]: ...
    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None: ...


def column_types(db: Engine, select: str) -> dict[str, str]:
    """Return the DuckDB type of each column of a query."""
    found = db.query(f"DESCRIBE {select}")
    return dict(
        zip(
            found.column("column_name").to_pylist(),
            found.column("column_type").to_pylist(),
            strict=True,
        )
    )


@contextmanager
def unchanged(db: Engine, source: str, files: Files) -> Iterator[None]:
    """Check that no file changes within the block.

    Raises: SourceError, also in place of an error that the change caused.
    """
    before = db.fingerprints(files.paths)
    try:
        yield
    finally:
        check_unchanged(source, before, db)


def store_rows(
    db: Engine, reader: str, staged: str, replaced: Mapping[str, str] | None = None
) -> int:
    """Store the rows of a reader with numbers, and return how many there are."""
    changes = ", ".join(f"{sql} AS {quote(name)}" for name, sql in (replaced or {}).items())
    columns = f"* REPLACE ({changes})" if changes else "*"
    path: Path = db.store.path(staged)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = db.run(
        f"COPY (SELECT row_number() OVER () AS __row, {columns} FROM {reader}) TO "
        f"'{escape_path(path)}' (FORMAT parquet)"
    )
    return int(count[0][0])


def numbered_rows(db: Engine, staged: str, paths: Sequence[str]) -> str:
    """Return stored rows with their files and numbers, those of each file from 1.

    Rows of a single file have no column `__file`.
    """
    select = f"SELECT * FROM read_parquet('{escape_path(db.store.path(staged))}')"
    if len(paths) == 1:
        return f"SELECT *, {sql_string(paths[0])} AS __file FROM ({select}) AS s"
    first = f"SELECT __file, min(__row) AS first FROM ({select}) AS s GROUP BY __file"
    return (
        f"SELECT s.* REPLACE (s.__row - f.first + 1 AS __row) FROM ({select}) AS s JOIN "
        f"({first}) AS f ON s.__file = f.__file"
    )


def refuse_file_column(source: str, error: QueryError) -> None:
    """Refuse a column with a reserved name, which breaks DuckDB's reader before its names are
    known.
    """
    if "filename adds column" in error.message:
        check_column_names(source, ["__file"])
    if "file_row_number adds column" in error.message:
        raise SourceError(
            f"{source} has a column file_row_number, a name that is reserved for the numbers of "
            "rows in Parquet files",
            hint="rename the column in the file, or pass the rows as a frame",
        ) from error


def escape_path(path: Path) -> str:
    return str(path).replace("'", "''")


def sql_strings(texts: Sequence[str]) -> str:
    return ", ".join(map(sql_string, texts))


def sql_string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
