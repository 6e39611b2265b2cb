"""The DuckDB warehouse: SQL out of core, within a memory limit.

Nothing here depends on the order of rows without an ORDER BY.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb
import pyarrow as pa

from ..contract import Column, quote
from ..errors import HomeError, HundredfoldError, QueryError, SourceError
from ..job import Source
from ..ports.interfaces import AttachedSource, Fingerprint, SourceLocation, Store
from .duckdb_errors import line_with_mark, query_error, refuse_types, row_group_hint
from .json_values import json_rows
from .source_reader import attach_source
from .sources.engine import DiskStore, WritableStore, escape_path, sql_string
from .sources.parquet_files import SQL_ERRORS, find_damage

STREAM_ROWS = 250_000  # rows of a batch of a stream
# functions whose values differ from call to call, names that have the time as their value, samples
VOLATILE = re.compile(
    r"\b(random|uuid\w*|gen_random\w*|rand|now|today|current_\w+|get_current_\w+|localtime\w*"
    r"|transaction_timestamp|nextval|tablesample|using\s+sample)\b",
    re.IGNORECASE,
)
TICK_S = 0.5  # between calls of `tick` during a query
T = TypeVar("T")


class DuckWarehouse:
    """SQL over files and named tables.

    store: a FileStore, or any store where no query uses its files. scratch: a folder of its own,
    deleted when it is closed. memory: in bytes. tick: is called during queries, and may raise to
    interrupt one.
    """

    replays = False

    def __init__(
        self,
        store: Store | WritableStore,
        scratch: Path,
        *,
        memory: int,
        threads: int,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self.scratch = scratch
        self._memory = memory
        self.tick = tick
        # the Parquet files of each source, for the hint about memory
        self.parquet_files: dict[str, Sequence[str]] = {}
        self._background = ThreadPoolExecutor(1)
        shutil.rmtree(scratch, ignore_errors=True)  # files of a killed driver
        scratch.mkdir(parents=True, exist_ok=True)
        self._memory_limit = f"{max(memory // 2**20, 96)}MiB"
        config: dict[str, Any] = {
            "memory_limit": self._memory_limit,
            "threads": threads,
            "temp_directory": str(scratch),
            "autoinstall_known_extensions": False,
        }
        try:
            self.connection = duckdb.connect(":memory:", config=config)
        except (duckdb.Error, RuntimeError) as error:  # the limit of files or threads is reached
            raise HomeError(
                f"DuckDB cannot be started: {error}",
                hint="raise the limits of open files (ulimit -n) and processes (ulimit -u), or "
                "lower --workers",
            ) from error
        # not in the configuration: DuckDB 1 loads icu only after it has connected
        self.run("SET TimeZone = 'UTC'")
        self._hide_progress_bar()

    @property
    def store(self) -> DiskStore:
        """The store, where a query reads or writes its files; TypeError for one that has none."""
        # isinstance of a Protocol does not see the methods that a wrapper passes on
        if not hasattr(self._store, "path"):
            raise TypeError(f"{type(self._store).__name__} has no files that DuckDB can open")
        return cast(DiskStore, self._store)

    def _hide_progress_bar(self) -> None:
        """Hide the progress bar of DuckDB, which is drawn on stdout, the place of the result.

        It is on by default only in an interactive session. In a notebook without ipywidgets it is
        off, and DuckDB refuses to set it at all, so it is set only where it is on.
        """
        if self.run("SELECT current_setting('enable_progress_bar')") != [(False,)]:
            self.run("SET enable_progress_bar = false")

    def create_view(self, name: str, select: str) -> None:
        self.run(f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS {select}")

    def materialize(self, name: str, select: str) -> None:
        """Run a query and store its rows as a table."""
        self.run(f"CREATE OR REPLACE TEMP TABLE {quote(name)} AS {select}")

    def drop(self, name: str) -> None:
        """Drop a view or table, with its rows. It need not exist."""
        self.connection.unregister(name)
        self.run(f"DROP TABLE IF EXISTS {quote(name)}")

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table available to queries under a name."""
        self.connection.register(name, table)

    def release_memory(self) -> None:
        """Return unused memory of DuckDB to the system, since the workers need it.

        DuckDB does so only when its limit is set.
        """
        with suppress(duckdb.Error):
            self.connection.execute(f"SET memory_limit = '{self._memory_limit}'")

    def columns(self, select: str) -> pa.Schema:
        try:
            schema = (
                self.connection.sql(f"SELECT * FROM ({select}) AS q LIMIT 0")
                .to_arrow_table()
                .schema
            )
            own = self.connection.sql(select)
            names = own.columns  # a subquery's columns are renamed if two of them have one name
            refuse_types(dict(zip(names, own.types, strict=True)))
            return pa.schema(
                [field.with_name(name) for field, name in zip(schema, names, strict=True)]
            )
        except duckdb.Error as error:
            raise self.query_error(self._with_line(error, select), select) from error

    def query(self, select: str) -> pa.Table:
        try:
            return self.call(lambda: self.connection.sql(select).to_arrow_table())
        except duckdb.Error as error:
            raise self.query_error(self._with_line(error, select), select) from error

    def stream(self, select: str, rows: int = STREAM_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query, about `rows` at a time; the next ones are read in the
        background.
        """
        try:
            reader = self.call(lambda: self.connection.sql(select).to_arrow_reader(rows))
        except duckdb.Error as error:
            raise self.query_error(error, select) from error
        coming = self._background.submit(reader.read_next_batch)
        try:
            while True:
                try:
                    batch = self._wait(coming)
                except StopIteration:
                    return
                except (pa.ArrowException, OSError, duckdb.Error) as error:
                    raise self.query_error(error, select) from error
                coming = self._background.submit(reader.read_next_batch)
                yield batch
        finally:
            wait([coming])

    def prefetch(self, selects: Sequence[str]) -> None:
        """Do nothing: a query runs when its rows are read."""

    @contextmanager
    def together(self) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Run the blocks one after the other."""
        yield nullcontext

    def write(self, select: str, key: str, format: str = "parquet") -> int:
        select = json_rows(select, self.columns(select)) if format == "jsonl" else select
        options = {
            "parquet": "FORMAT parquet, COMPRESSION zstd",
            "csv": "FORMAT csv, HEADER",
            "jsonl": "FORMAT json",
        }[format]
        if not hasattr(self._store, "writing"):
            raise TypeError(f"{type(self._store).__name__} takes no files")
        with cast(WritableStore, self._store).writing(key) as path:
            count = self.run(f"COPY ({select}) TO '{escape_path(path)}' ({options})")
        return int(count[0][0])

    def write_rows(self, select: str, key: str) -> int:
        """Write the rows of a query for `read_parquet(key)`, and return their number."""
        return self.write(select, key)

    def read_parquet(self, key: str) -> str:
        """Return the SQL table function that reads a Parquet object of the store."""
        return f"read_parquet('{escape_path(self.store.path(key))}')"

    def read(self, path: Path) -> pa.Table:
        """Return the rows of a file that `write` wrote."""
        reader = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_json"}[
            path.suffix
        ]
        return self.query(f"SELECT * FROM {reader}('{escape_path(path)}')")

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]:
        """Return name, size, times and inode of each file; equal fingerprints mean equal
        contents.
        """
        return fingerprints(paths)

    def tables_of(self, select: str) -> set[str]:
        """Return the names of the tables that a query reads.

        Raises: QueryError if it is not one query.
        """
        tree = json.loads(self.run(f"SELECT json_serialize_sql({sql_string(select)})")[0][0])
        if tree.get("error") and "Only SELECT" in str(tree.get("error_message")):
            raise QueryError(
                f"not a query that reads: {' '.join(select.split())[:80]}",
                hint="wanted one SELECT (or WITH ... SELECT)",
            )
        if tree.get("error"):
            raise QueryError(
                f"not a query: {tree.get('error_message')}"
                + line_with_mark(select, tree.get("position")),
                hint="wanted one SELECT, without a semicolon inside",
            )
        if len(tree["statements"]) != 1:
            raise QueryError(
                f"wanted one query, found {len(tree['statements'])} statements",
                hint="keep the last SELECT, and move the rest into WITH",
            )
        return set(_table_names(tree, frozenset()))

    def is_plain(self, select: str) -> bool:
        """Return whether reading the query twice gives the same rows, and costs no more than two
        scans.
        """
        if VOLATILE.search(select):
            return False
        plan = json.loads(self.run(f"EXPLAIN (FORMAT json) {select}")[-1][-1])
        names = _operators(plan if isinstance(plan, list) else [plan])
        return all(
            name.strip() in {"PROJECTION", "FILTER"} or "SCAN" in name or "READ_PARQUET" in name
            for name in names
        )

    def attach(
        self,
        source: Source,
        location: SourceLocation,
        folder: Path | None,
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """Return the raw rows of a source; as text where the format has no types and a contract
        has.
        """
        return attach_source(self, source, location, folder, contract_columns, staged)

    def __enter__(self) -> DuckWarehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()
        self._background.shutdown()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None:
        """Return an error that names the damaged file of a source which made a query fail.

        Returns None if the query failed for another reason.
        """
        cause: BaseException | None = error
        while isinstance(cause, QueryError):
            cause = cause.__cause__
        if cause is None or isinstance(cause, SQL_ERRORS):
            return None
        return self.call(lambda: find_damage(source, paths, self._memory))

    def query_error(self, error: Exception, select: str) -> HundredfoldError:
        """Return DuckDB's error as one of this package; if memory ran out, with the large row
        groups.
        """
        found = query_error(error, select)
        if isinstance(error, duckdb.OutOfMemoryException):
            found.hint = row_group_hint(self.parquet_files, self._memory) or found.hint
        return found

    def _with_line(self, error: duckdb.Error, select: str) -> duckdb.Error:
        """Return an error in SQL with its line, which sql() omits."""
        if isinstance(
            error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException
        ):
            try:
                self.connection.execute(select)
            except duckdb.Error as placed:
                return placed
        return error

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement to its end, and return its rows."""
        try:
            return self.call(lambda: self.connection.execute(sql).fetchall())
        except duckdb.Error as error:
            raise self.query_error(error, sql) from error

    def call(self, call: Callable[[], T]) -> T:
        """Return the result of a call of DuckDB, which runs in a background thread.

        DuckDB itself may not react to Ctrl-C for minutes.
        """
        return self._wait(self._background.submit(call))

    def _wait(self, future: Future[T]) -> T:
        try:
            while not wait([future], TICK_S).done:
                self.tick()
        except BaseException:
            self.connection.interrupt()
            wait([future])
            raise
        return future.result()


def fingerprints(paths: Sequence[str]) -> list[Fingerprint]:
    """Return name, size, times and inode of each file.

    The time of the last status change reveals a file that was replaced or rewritten with its old
    size and modification time.
    """
    stats = [(path, Path(path).stat()) for path in paths]
    return [[path, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for path, s in stats]


def _table_names(node: object, named: frozenset[str]) -> Iterator[str]:
    """Yield the tables in a syntax tree that no WITH around them defines.

    A query of a WITH sees those before it, and itself only where it is recursive.
    """
    if isinstance(node, list):
        for item in node:
            yield from _table_names(item, named)
    elif isinstance(node, dict):
        for entry in (node.get("cte_map") or {}).get("map", []):
            yield from _table_names(entry["value"], named)
            named = named | {entry["key"].lower()}
        if node.get("type") == "RECURSIVE_CTE_NODE":
            named = named | {str(node["cte_name"]).lower()}
        if (
            node.get("type") == "BASE_TABLE"
            and not node.get("schema_name")
            and node["table_name"].lower() not in named
        ):
            yield node["table_name"]
        for key, value in node.items():
            if key != "cte_map":
                yield from _table_names(value, named)


def _operators(plan: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the names of the operators of a query plan."""
    for node in plan:
        yield str(node.get("name", ""))
        yield from _operators(node.get("children", []))
