"""The warehouse of this machine: DuckDB, out of core and within a memory limit.

Nothing here leans on the order of rows that no ORDER BY asks for.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..contract import Column, quote
from ..errors import HomeError, HundredfoldError, QueryError, SourceError
from ..job import Source
from ..ports.interfaces import AttachedSource, Fingerprint, SourcePlace, Store
from .checks import keeps_digits
from .json_values import json_rows
from .sources import json_lines
from .sources.changes import refuse_other_files
from .sources.csv_files import CsvFile, facts_of, malformed, prepare_csv, typed
from .sources.files import (
    Files,
    as_table,
    find_files,
    pattern,
    possible,
    refuse_ours,
    settling,
    still_open,
)
from .sources.listing import partition_types
from .sources.parquet_files import (
    SQL_ERRORS,
    exact_times,
    find_damage,
    refuse_inexact,
    without_zone,
)

STREAMED = 250_000  # rows of a streamed batch
# of CSV files, at a time, for their types: planning such a query takes more than in proportion
COLUMNS_ASKED = 50
COLUMNS_SEEN = 500  # of which one value is read at a time: each takes a buffer
FIRST = 2_000  # rows of a CSV file that are asked for every type
UNNAMED = r'[{,]\s*""\s*:'  # in a line of JSON
MAX_FOOTERS = 200  # of a source's files that are looked at for what made memory run out
LARGE_SHARE = 0.25  # of the warehouse's memory: a row group beyond it is named then
TICK = 0.5  # seconds between looks at whether to go on
T = TypeVar("T")


@runtime_checkable
class WritableStore(Protocol):
    """A store that takes files which DuckDB writes, such as one in S3."""

    def writing(self, key: str) -> AbstractContextManager[Path]:
        """Return a path to write to, which becomes the object when the block ends."""


@runtime_checkable
class DiskStore(WritableStore, Protocol):
    """A store whose objects are files that DuckDB can open."""

    def path(self, key: str) -> Path:
        """Return the file of an object."""


class DuckWarehouse:
    """SQL over files, by name. `store` is a FileStore, or another kind where no place on disk is
    asked for. `scratch` is its own folder, emptied at its end; `memory` in bytes. `tick` is called
    while a query runs, and may raise to end it.
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
        self._tick = tick
        self._in_place: dict[str, Sequence[str]] = {}  # the Parquet files of each source
        self._beside = ThreadPoolExecutor(1)
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed driver left
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
        except (duckdb.Error, RuntimeError) as error:  # no file or no thread more is allowed
            raise HomeError(
                f"DuckDB cannot be started: {error}",
                hint="raise the limits of open files (ulimit -n) and processes (ulimit -u), or "
                "lower --workers",
            ) from error
        self._run(
            "SET TimeZone = 'UTC'"
        )  # not in the configuration: DuckDB 1 loads icu only once it is connected
        self._hide_progress_bar()

    @property
    def store(self) -> DiskStore:
        """The store, where a query reads or writes its files; TypeError for one that has none."""
        if not isinstance(self._store, DiskStore):
            raise TypeError(f"{type(self._store).__name__} has no files that DuckDB can open")
        return self._store

    def _hide_progress_bar(self) -> None:
        """DuckDB draws it on stdout, which belongs to the result.

        It is on by default only in an interactive session, and in a notebook without ipywidgets,
        where it is off, DuckDB refuses to set it at all. So it is set only where it is on.
        """
        if self._run("SELECT current_setting('enable_progress_bar')") != [(False,)]:
            self._run("SET enable_progress_bar = false")

    def create_view(self, name: str, select: str) -> None:
        self._run(f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS {select}")

    def materialize(self, name: str, select: str) -> None:
        """Let `name` stand for the rows of a query, computed once."""
        self._run(f"CREATE OR REPLACE TEMP TABLE {quote(name)} AS {select}")

    def drop(self, name: str) -> None:
        """Let go of what was kept or loaded under that name, if anything was."""
        self.connection.unregister(name)
        self._run(f"DROP TABLE IF EXISTS {quote(name)}")

    def register(self, name: str, table: pa.Table) -> None:
        """Let `name` stand for a table in memory."""
        self.connection.register(name, table)

    def release_memory(self) -> None:
        """Return to the system the memory that DuckDB holds and does not use: the workers need it
        now.

        DuckDB does so only where its limit is set.
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
            names = own.columns  # a subquery's columns are renamed where two of them have one name
            _refuse_types(dict(zip(names, own.types, strict=True)))
            return pa.schema(
                [field.with_name(name) for field, name in zip(schema, names, strict=True)]
            )
        except duckdb.Error as error:
            raise self._failed(self._placed(error, select), select) from error

    def query(self, select: str) -> pa.Table:
        try:
            return self._called(lambda: self.connection.sql(select).to_arrow_table())
        except duckdb.Error as error:
            raise self._failed(self._placed(error, select), select) from error

    def stream(self, select: str, rows: int = STREAMED) -> Iterator[pa.RecordBatch]:
        """The rows as they come, about so many at a time; the next ones are read while those before
        are looked at.
        """
        try:
            reader = self._called(lambda: self.connection.sql(select).to_arrow_reader(rows))
        except duckdb.Error as error:
            raise self._failed(error, select) from error
        coming = self._beside.submit(reader.read_next_batch)
        try:
            while True:
                try:
                    batch = self._heard(coming)
                except StopIteration:
                    return
                except (pa.ArrowException, OSError, duckdb.Error) as error:
                    raise self._failed(error, select) from error
                coming = self._beside.submit(reader.read_next_batch)
                yield batch
        finally:
            wait([coming])

    def write(self, select: str, key: str, format: str = "parquet") -> int:
        select = json_rows(select, self.columns(select)) if format == "jsonl" else select
        options = {
            "parquet": "FORMAT parquet, COMPRESSION zstd",
            "csv": "FORMAT csv, HEADER",
            "jsonl": "FORMAT json",
        }[format]
        if not isinstance(self._store, WritableStore):
            raise TypeError(f"{type(self._store).__name__} takes no files")
        with self._store.writing(key) as path:
            count = self._run(f"COPY ({select}) TO '{_text(path)}' ({options})")
        return int(count[0][0])

    def write_rows(self, select: str, key: str) -> int:
        """Write a query's rows so that `parquet(key)` reads them; how many."""
        return self.write(select, key)

    def read_parquet(self, key: str) -> str:
        """A Parquet object of the store as a table in SQL."""
        return f"read_parquet('{_text(self.store.path(key))}')"

    def read(self, path: Path) -> pa.Table:
        """The rows of a file that `write` wrote."""
        reader = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_json"}[
            path.suffix
        ]
        return self.query(f"SELECT * FROM {reader}('{_text(path)}')")

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]:
        """Return name, size, times and inode of each file: equal prints are taken for equal
        contents.
        """
        return fingerprints(paths)

    def tables_of(self, select: str) -> set[str]:
        """The names of the tables that a query reads; QueryError if it is no single query."""
        tree = json.loads(self._run(f"SELECT json_serialize_sql({_string(select)})")[0][0])
        if tree.get("error") and "Only SELECT" in str(tree.get("error_message")):
            raise QueryError(
                f"not a query that reads: {' '.join(select.split())[:80]}",
                hint="wanted one SELECT (or WITH ... SELECT)",
            )
        if tree.get("error"):
            raise QueryError(
                f"not a query: {tree.get('error_message')}"
                + _pointer(select, tree.get("position")),
                hint="wanted one SELECT, without a semicolon inside",
            )
        if len(tree["statements"]) != 1:
            raise QueryError(
                f"wanted one query, found {len(tree['statements'])} statements",
                hint="keep the last SELECT, and move the rest into WITH",
            )
        return set(_tables(tree, frozenset()))

    def is_plain(self, select: str) -> bool:
        """Whether reading the query twice costs two scans and no more."""
        plan = json.loads(self._run(f"EXPLAIN (FORMAT json) {select}")[-1][-1])
        names = _operators(plan if isinstance(plan, list) else [plan])
        return all(
            name.strip() in {"PROJECTION", "FILTER"} or "SCAN" in name or "READ_PARQUET" in name
            for name in names
        )

    def attach(
        self,
        source: Source,
        place: SourcePlace,
        folder: Path | None,
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """The raw rows of a source, wherever they are; text where the format has no types and a
        contract will give them.
        """
        name = source.name
        if not isinstance(place, str | Path):
            with self.store.writing(staged) as path:
                pq.write_table(as_table(name, place), path)
            return self._parquet(
                name,
                Files((str(self.store.path(staged)),), "parquet"),
                contract_columns,
                in_place=False,
            )
        files = find_files(name, str(place), folder or Path())
        if files.kind == "parquet":
            return self._parquet(name, files, contract_columns, in_place=True)
        if not any(Path(p).stat().st_size for p in files.paths):
            raise SourceError(
                f"{name} is empty: {files.paths[0]} has no byte",
                hint=f"name another place with --source {name}=PATH",
            )
        if files.kind == "csv":
            return self._csv(source, files, contract_columns, staged)
        with self._unchanged(name, files):
            return self._json(name, files, contract_columns, staged)

    def __enter__(self) -> DuckWarehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()
        self._beside.shutdown()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _parquet(
        self, source: str, files: Files, wanted: Mapping[str, Column], in_place: bool
    ) -> AttachedSource:
        before = self.fingerprints(files.paths) if in_place else []
        self._in_place[source] = files.paths
        select = (
            f"SELECT * FROM read_parquet({files.sql_list}, filename = '__file', file_row_number "
            "= true, union_by_name = true, hive_partitioning = false)"
        )
        try:
            types = self._types(select)
        except QueryError as error:
            _refuse_file_column(source, error)
            raise self.find_damage(source, files.paths, error) or SourceError(
                f"{source}: {files.paths[0]} cannot be read as Parquet: "
                f"{error.message.split(chr(10))[0]}",
                hint="is it a Parquet file, whole?",
            ) from error
        names = list(types)
        refuse_ours(source, [n for n in names if n != "__file"])
        # DuckDB renames a column whose name, but for its case, is there already, and one without a
        # name
        if any(re.search(r"_\d+$|^C\d+$", n) for n in names):
            for path in files.paths:
                refuse_ours(source, pq.read_schema(path).names)
        try:
            if len(files.paths) > 1:
                self._refuse_unlike(source, files, select)
            if in_place:
                refuse_inexact(source, files.paths, self.query)
            clocks = exact_times(types)
            plain = ", ".join(
                f"{clocks[n]} AS {quote(n)}" if n in clocks else quote(n)
                for n in names
                if n not in ("__file", "file_row_number")
            )
            where = "__file" if in_place else "'(in memory)'"
            select = (
                f"SELECT {plain}, {where} AS __file, file_row_number + 1 AS __row FROM "
                f"({select}) AS f"
            )
            kinds = {n: without_zone(kind) for n, kind in types.items() if n not in wanted}
            self._refuse_midnight(
                source,
                select,
                {n: kind for n, kind in kinds.items() if kind in ("TIME", "TIME_NS")},
            )
            select = self._parted(
                source, select, files, wanted, as_text=False, has=self._has_column
            )
        except QueryError as error:
            raise self.find_damage(source, files.paths, error) or error from error
        return AttachedSource(select, self.columns(select), in_place=in_place, fingerprints=before)

    def _has_column(self, path: str, name: str) -> bool:
        """Whether a Parquet file has a column of that name, whatever its case."""
        types = self._types(
            f"SELECT * FROM read_parquet({pattern(path)}, hive_partitioning = false)"
        )
        return name.lower() in {found.lower() for found in types}

    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None:
        """Return an error that names the file of a source whose damage made a query fail; None if
        it failed for another reason.
        """
        cause: BaseException | None = error
        while isinstance(cause, QueryError):
            cause = cause.__cause__
        if cause is None or isinstance(cause, SQL_ERRORS):
            return None
        return self._called(lambda: find_damage(source, paths, self._memory))

    def _refuse_midnight(self, source: str, select: str, clocks: Mapping[str, str]) -> None:
        """SourceError where a column that no contract checks holds 24:00, which a time of day in
        Python cannot be.
        """
        if not clocks:
            return
        counts = ", ".join(
            f"count(*) FILTER (WHERE {quote(n)} >= CAST('24:00:00' AS {kind})) AS n{i}"
            for i, (n, kind) in enumerate(clocks.items())
        )
        found = dict(
            zip(
                clocks,
                self.query(f"SELECT {counts} FROM ({select}) AS s").to_pylist()[0].values(),
                strict=True,
            )
        )
        bad = {name: rows for name, rows in found.items() if rows}
        if bad:
            raise SourceError(
                f"{source} holds the time of day 24:00, and a time in Python ends before it",
                problems=[f"{name}: {rows:,} row(s)" for name, rows in bad.items()],
                hint="declare a contract with such a field of type time: these rows are rejected "
                "then; or write 00:00 of the next day",
            )

    def _refuse_unlike(self, source: str, files: Files, select: str) -> None:
        """Refuse Parquet files with a column of types that no one type holds: text beside numbers,
        or a value that the common type changes.
        """
        tops = (
            "SELECT file_name, name, type, logical_type, precision, scale FROM "
            f"parquet_schema({files.sql_list})"
        )
        shape = (
            "SELECT file_name, string_agg(concat_ws(':', name, type, logical_type, precision, "
            f"scale), ';') AS shape FROM ({tops}) GROUP BY file_name"
        )
        firsts = self.query(
            f"SELECT min(file_name) AS first, list(file_name) AS files FROM ({shape}) GROUP BY "
            "shape ORDER BY first"
        ).to_pylist()
        if len(firsts) == 1:
            return
        groups = [
            (
                self._types(
                    f"SELECT * FROM read_parquet({pattern(group['first'])}, hive_partitioning = "
                    "false)"
                ),
                group,
            )
            for group in firsts
        ]
        common = {name.lower(): kind for name, kind in self._types(select).items()}
        for name, kind in common.items():
            own = [
                (types[found], group, found)
                for types, group in groups
                for found in types
                if found.lower() == name
            ]
            if len({found for found, *_ in own}) < 2:
                continue
            valued = [entry for entry in own if self._column(entry).column("n")[0].as_py()]
            if len({_sort(found) for found, *_ in valued}) > 1:
                raise SourceError(
                    f"{source}: its files have the column {name} with types that are not of one "
                    "kind",
                    problems=[f"{group['first']}: {found}" for found, group, _ in valued],
                    hint="write all files with one type",
                )
            for entry in valued:
                self._refuse_loss(source, kind, entry)

    def _types(self, select: str) -> dict[str, str]:
        found = self.query(f"DESCRIBE {select}")
        return dict(
            zip(
                found.column("column_name").to_pylist(),
                found.column("column_type").to_pylist(),
                strict=True,
            )
        )

    def _column(self, entry: tuple[str, dict[str, Any], str], where: str = "") -> pa.Table:
        """The count of values of a column in a group of files, and the first of them; those alone
        for which a condition is true.
        """
        _, group, name = entry
        paths = ", ".join(map(pattern, group["files"]))
        rows = (
            f"SELECT {quote(name)} AS v, filename AS file FROM read_parquet([{paths}], filename "
            "= true, hive_partitioning = false)"
        )
        return self.query(
            "SELECT count(v) AS n, min(file) AS file, min(CAST(v AS VARCHAR)) AS value FROM "
            f"({rows}) AS r{where}"
        )

    def _refuse_loss(
        self, source: str, common: str, entry: tuple[str, dict[str, Any], str]
    ) -> None:
        """SourceError where the common type of a column changes one of its values."""
        kind, _, name = entry
        if kind == common:
            return
        back = f"TRY_CAST(TRY_CAST(v AS {common}) AS {kind}) IS DISTINCT FROM v"
        if kind.startswith("DECIMAL"):
            back += (
                f" AND TRY_CAST(CAST(TRY_CAST(v AS {common}) AS VARCHAR) AS {kind}) IS DISTINCT "
                "FROM v"
            )
        lost = self._column(entry, f" WHERE {back}").to_pylist()[0]
        if lost["n"]:
            raise SourceError(
                f"{source}: its files have the column {name} as {kind} and as {common}, and "
                f"{lost['n']:,} value(s) would change",
                problems=[f"{lost['file']}: {lost['value']} is no {common}"],
                hint="write all files with one type",
            )

    def _parted(
        self,
        source: str,
        select: str,
        files: Files,
        wanted: Mapping[str, Column],
        *,
        as_text: bool,
        has: Callable[[str, str], bool] | None = None,
    ) -> str:
        """Rows with the columns that folders KEY=VALUE give them: as text, or of the type that a
        contract wants or that all values have.

        A column that some files have themselves gets its folder's value in the files that do not:
        `has` says whether a file has a column of which it holds no value.

        Raises:
            SourceError: a file has a column of that name with another value.
        """
        if not files.partitions:
            return select
        types = partition_types(files.partitions)
        refuse_ours(source, list(types))
        found = self._types(select)
        own = {name.lower(): name for name in found}
        rows = ", ".join(
            f"({', '.join('NULL' if value is None else _string(value) for value in (path, *(part[key] for key in types)))})"
            for path, part in zip(files.paths, files.partitions, strict=True)
        )
        joined = (
            f"({select}) AS s JOIN (VALUES {rows}) AS p(__path, {', '.join(map(quote, types))}) "
            "ON p.__path = s.__file"
        )
        filled = []
        for key in types:
            if name := own.get(key.lower()):
                without = self._files_without(select, name, has)
                self._refuse_other(source, key, name, found[name], joined, without)
                if without:
                    value = (
                        f"CASE WHEN s.__file IN ({_strings(without)}) THEN CAST(p.{quote(key)} "
                        f"AS {found[name]}) ELSE s.{quote(name)} END"
                    )
                    filled.append(f"{value} AS {quote(name)}")
        kinds = {
            key: "VARCHAR"
            if as_text and key in wanted
            else wanted[key].sql_type
            if key in wanted
            else kind
            for key, kind in types.items()
        }
        columns = "".join(
            f", CAST(p.{quote(key)} AS {kind}) AS {quote(key)}"
            for key, kind in kinds.items()
            if key.lower() not in own
        )
        replaced = f" REPLACE ({', '.join(filled)})" if filled else ""
        return f"SELECT s.*{replaced}{columns} FROM {joined}"

    def _files_without(
        self, select: str, name: str, has: Callable[[str, str], bool] | None
    ) -> list[str]:
        """The files that do not have a column of the rows: none of their rows has a value in it,
        and their schema, if any, does not name it.
        """
        empty = (
            f"SELECT __file FROM ({select}) AS s GROUP BY __file HAVING count({quote(name)}) = 0 "
            "ORDER BY __file"
        )
        return [
            path
            for path in self.query(empty).column("__file").to_pylist()
            if has is None or not has(path, name)
        ]

    def _refuse_other(
        self, source: str, key: str, own: str, kind: str, joined: str, without: Sequence[str]
    ) -> None:
        """SourceError where rows have another value in a column than their folder KEY=VALUE has, or
        could not have that value.
        """
        text = f"CAST(s.{quote(own)} AS VARCHAR)"
        same = (
            f"{text} IS NOT DISTINCT FROM p.{quote(key)} OR coalesce(TRY_CAST({text} AS DOUBLE) "
            f"= TRY_CAST(p.{quote(key)} AS DOUBLE), FALSE)"
        )
        if without:
            none = f"p.{quote(key)} IS NOT NULL AND TRY_CAST(p.{quote(key)} AS {kind}) IS NULL"
            same = f"CASE WHEN s.__file IN ({_strings(without)}) THEN NOT ({none}) ELSE {same} END"
        found = self.query(
            f"SELECT s.__file AS file, {text} AS value, p.{quote(key)} AS folder FROM {joined} "
            f"WHERE NOT ({same}) LIMIT 1"
        ).to_pylist()
        if not found:
            return
        where = f"{source}: {found[0]['file']} lies in a folder {key}={found[0]['folder']}, and"
        if found[0]["file"] in without:
            raise SourceError(
                f"{where} other files have a column {own} of type {kind}, which cannot hold that",
                hint="write all files with the column",
            )
        raise SourceError(
            f"{where} its own column {own} holds {found[0]['value']}",
            hint="drop or rename one of them: which is right cannot be known",
        )

    def _csv(
        self, source: Source, files: Files, contract_columns: Mapping[str, Column], staged: str
    ) -> AttachedSource:
        """All values as text, then those of a contract's columns as it wants them: a type that
        DuckDB guesses may change them.
        """
        copies = self.scratch / "csv"
        try:
            with self._unchanged(source.name, files):
                found = self._put_csv(source, files, contract_columns, staged, copies)
        finally:
            shutil.rmtree(copies, ignore_errors=True)
        select = self._numbered(staged, [file.path for file in found])
        names = [name for name in self.columns(select).names if name not in ("__file", "__row")]
        named = {file.path: {name.lower() for name in file.dialect.names} for file in found}
        if not contract_columns:
            select = self._settled(select, names, _typing(source, found, None))
        select = self._parted(
            source.name,
            select,
            files,
            contract_columns,
            as_text=bool(contract_columns),
            has=lambda path, name: name.lower() in named.get(path, ()),
        )
        unread = malformed(found)
        return AttachedSource(
            select,
            self.columns(select),
            text=bool(contract_columns),
            malformed=unread if unread.num_rows else None,
            csv=facts_of(found),
        )

    def _put_csv(
        self,
        source: Source,
        files: Files,
        contract_columns: Mapping[str, Column],
        staged: str,
        copies: Path,
    ) -> list[CsvFile]:
        """Store the rows of CSV files, and see that none is missing.

        Where DuckDB disagrees with the scan, once more from copies.
        """
        names = list(contract_columns)
        for rewrite in (False, True):
            found = prepare_csv(
                source.name,
                files.paths,
                source.csv,
                names,
                copies,
                rewrite=rewrite,
                tick=self._tick,
            )
            for file in found:
                refuse_ours(source.name, file.dialect.names)
            rows, failed = sum(file.scan.rows for file in found), None
            try:
                count = self._put(
                    f"({' UNION ALL BY NAME '.join(file.sql(pattern, named=len(found) > 1) for file in found)})",
                    staged,
                    _typing(source, found, contract_columns),
                )
            except QueryError as error:
                count, failed = -1, error
            if count == rows:
                return found
        raise SourceError(
            f"{source.name}: {files.paths[0]} cannot be read as CSV: "
            + (
                failed.message.split("\n")[0]
                if failed
                else f"it has {rows:,} rows, and {count:,} were read"
            ),
            hint="write it as Parquet",
        ) from failed

    def _put(self, reader: str, staged: str, replaced: Mapping[str, str] | None = None) -> int:
        """Store the rows of a reader, numbered; how many."""
        changes = ", ".join(f"{sql} AS {quote(name)}" for name, sql in (replaced or {}).items())
        columns = f"* REPLACE ({changes})" if changes else "*"
        path: Path = self.store.path(staged)
        path.parent.mkdir(parents=True, exist_ok=True)
        count = self._run(
            f"COPY (SELECT row_number() OVER () AS __row, {columns} FROM {reader}) TO "
            f"'{_text(path)}' (FORMAT parquet)"
        )
        return int(count[0][0])

    def _numbered(self, staged: str, paths: Sequence[str]) -> str:
        """Stored rows with their files and numbers, those of each file from 1.

        Those of a single file have no column `__file`.
        """
        select = f"SELECT * FROM read_parquet('{_text(self.store.path(staged))}')"
        if len(paths) == 1:
            return f"SELECT *, {_string(paths[0])} AS __file FROM ({select}) AS s"
        first = f"SELECT __file, min(__row) AS first FROM ({select}) AS s GROUP BY __file"
        return (
            f"SELECT s.* REPLACE (s.__row - f.first + 1 AS __row) FROM ({select}) AS s JOIN "
            f"({first}) AS f ON s.__file = f.__file"
        )

    def _settled(self, select: str, names: Sequence[str], typing: Mapping[str, str]) -> str:
        """Columns of texts, each as the first type that all its values are of; text where there is
        none, or no value. `typing` is the SQL of the texts from which types are made, where these
        are not the texts themselves.
        """
        texts = (
            (
                "SELECT * REPLACE "
                f"({', '.join(f'{sql} AS {quote(n)}' for n, sql in typing.items())}) FROM "
                f"({select}) AS s"
            )
            if typing
            else select
        )
        first = f"{texts} LIMIT {FIRST}"
        values = self._some_value(names, first)
        values |= self._some_value([name for name, value in values.items() if value is None], texts)
        kinds = {name: possible(value) for name, value in values.items()}
        valued = {name for name, value in values.items() if value is not None}
        few = (
            self.query(f"SELECT count(*) AS n FROM ({select}) AS s").column("n")[0].as_py() <= FIRST
        )
        if not few:  # what the first rows rule out need not be asked of all
            kinds = self._still_open(kinds, first)
        asked = {name: open_[:1] for name, open_ in kinds.items() if open_}
        while asked:  # of all rows, one type at a time: it is nearly always the first
            answers = self._still_open(asked, texts)
            wrong = [name for name, open_ in answers.items() if not open_]
            kinds |= {name: kinds[name][1:] for name in wrong}
            asked = {name: kinds[name][:1] for name in wrong if kinds[name]}
        each = ", ".join(
            f"CAST({typing.get(n, quote(n))} AS {kinds[n][0]}) AS {quote(n)}"
            if n in valued and kinds[n]
            else quote(n)
            for n in names
        )
        return f"SELECT __file, __row, {each} FROM ({select}) AS s"

    def _some_value(self, names: Sequence[str], rows: str) -> dict[str, str | None]:
        """A value of each column of texts; None where it has none."""
        values: dict[str, str | None] = {}
        for some in _groups(names, COLUMNS_SEEN):
            found = self.query(
                "SELECT "
                f"{', '.join(f'any_value({quote(name)}) AS v{i}' for i, name in enumerate(some))} "
                f"FROM ({rows}) AS s"
            )
            values |= zip(some, found.to_pylist()[0].values(), strict=True)
        return values

    def _still_open(self, kinds: Mapping[str, Sequence[str]], rows: str) -> dict[str, list[str]]:
        """The types of columns of texts that no row speaks against."""
        found: dict[str, list[str]] = {name: [] for name in kinds}
        for some in _groups([name for name, open_ in kinds.items() if open_], COLUMNS_ASKED):
            asked = {name: kinds[name] for name in some}
            found |= still_open(
                asked,
                list(
                    self.query(f"SELECT {settling(asked)} FROM ({rows}) AS s")
                    .to_pylist()[0]
                    .values()
                ),
            )
        return found

    def _json(
        self, source: str, files: Files, wanted: Mapping[str, Column], staged: str
    ) -> AttachedSource:
        """JSON lines with the types that JSON gives their values; what a contract names comes as
        text.
        """
        out: Path = self.store.path(staged)
        out.parent.mkdir(parents=True, exist_ok=True)
        columns = None
        try:
            columns = self._plain_json(files, wanted)
            if columns is not None:
                refuse_ours(source, list(columns))
                listed = ", ".join(f"{_string(name)}: '{kind}'" for name, kind in columns.items())
                named = "filename = '__file', " if len(files.paths) > 1 else ""
                reader = (
                    f"read_json({files.sql_list}, format = 'newline_delimited', {named}columns = "
                    f"{{{listed}}}, hive_partitioning = false)"
                )
                self._put(reader, staged)
                if self._has_large(staged, columns) and self._holds(files, json_lines.LONG):
                    columns = None
        except QueryError as error:
            raise _unread(source, files, error) from error
        if columns is not None:
            select = self._numbered(staged, files.paths)
        else:
            texts = {name: column.arrow for name, column in wanted.items()}
            nested = json_lines.read_lines(source, files.paths, texts, out)
            select = f"SELECT * FROM read_parquet('{_text(out)}')"
            values = "".join(f", CAST({quote(name)} AS JSON) AS {quote(name)}" for name in nested)
            select = f"SELECT * REPLACE ({values[2:]}) FROM ({select}) AS s" if values else select
        if (
            columns is not None
            and self._has_empty_row(select, columns)
            and (bad := json_lines.bad_line(files.paths))
        ):
            raise SourceError(f"{source}: {bad}", hint=json_lines.hint_for(bad))
        refuse_ours(
            source, [name for name in self.columns(select).names if name not in ("__file", "__row")]
        )
        select = self._parted(source, select, files, wanted, as_text=bool(wanted))
        return AttachedSource(select, self.columns(select), text=bool(wanted))

    def _plain_json(self, files: Files, wanted: Mapping[str, Column]) -> dict[str, str] | None:
        """The types as which DuckDB reads the fields of JSON lines without changing a value; None
        if it would change one.
        """
        reader = (
            f"read_json({files.sql_list}, format = 'newline_delimited', filename = '__file', "
            "sample_size = -1, union_by_name = true, hive_partitioning = false)"
        )
        try:
            found = self._called(lambda: self.connection.sql(f"SELECT * FROM {reader}"))
        except duckdb.Error as error:
            if "Duplicate name" in str(
                error
            ):  # inside an object, perhaps one that a contract takes for a dict
                return None
            raise self._failed(error, reader) from error
        fields = {
            name: kind
            for name, kind in zip(found.columns, found.types, strict=True)
            if name != "__file"
        }
        if any(re.fullmatch(r"C\d+", name) for name in fields) and self._holds(files, UNNAMED):
            return None  # DuckDB names a field without a name itself
        small = {name.lower() for name in fields}
        if list(fields) == ["json"] or any(
            small & {re.sub(r"_\d+$", "", name)} for name in small if re.search(r"_\d+$", name)
        ):
            # lines that are no objects, or names that differ in case alone, come under names of
            # DuckDB's
            return None
        plain: dict[str, str] = {}
        scan = ""
        for name, kind in fields.items():
            column, nested = wanted.get(name), kind.id in ("list", "struct", "map")
            read = json_lines.sql_type(kind)
            if (
                read is None
                and not nested
                and str(kind) in ("JSON", '"NULL"')
                and self._is_null(files, name)
            ):
                read = "VARCHAR"
            if read is None and not (column and nested):
                return None
            if column is None:
                plain[name] = str(read)
                scan = scan or (json_lines.LONG if nested and "DOUBLE" in str(read) else "")
            elif nested:
                if not pa.types.is_nested(column.arrow) or (
                    keeps_digits(column.arrow) and re.search("DOUBLE|JSON", str(kind))
                ):
                    return None  # [1.10] is written again as [1.1]
                plain[name], scan = "JSON", json_lines.LONGER
            else:
                plain[name] = "VARCHAR"
                if read == "DOUBLE" and pa.types.is_string(column.arrow):
                    return None  # 1.10 is written again as 1.1
                if read == "DOUBLE" and not pa.types.is_floating(column.arrow):
                    scan = json_lines.LONGER
        return None if scan and self._holds(files, scan) else plain

    def _holds(self, files: Files, pattern: str) -> bool:
        """Whether a line of the files matches a pattern."""
        lines = f"read_json_objects({files.sql_list}, format = 'newline_delimited')"
        return bool(
            self.query(
                f"SELECT bool_or(regexp_matches(json, {_string(pattern)})) AS is_so FROM {lines}"
            )
            .column(0)[0]
            .as_py()
        )

    def _has_large(self, staged: str, columns: Mapping[str, str]) -> bool:
        """Whether a column of doubles has a value that may have been written with more digits than
        it holds, or beyond it.
        """
        doubles = [
            f"max(abs({quote(name)})) >= 1e15" for name, kind in columns.items() if kind == "DOUBLE"
        ]
        rows = (
            f"SELECT {' OR '.join(doubles)} AS is_so FROM "
            f"read_parquet('{_text(self.store.path(staged))}')"
        )
        return bool(doubles and self.query(rows).column(0)[0].as_py())

    def _is_null(self, files: Files, name: str) -> bool:
        """Whether a field of JSON lines has no value anywhere."""
        reader = (
            f"read_json({files.sql_list}, format = 'newline_delimited', columns = "
            f"{{{_string(name)}: 'JSON'}}, hive_partitioning = false)"
        )
        return (
            not self.query(f"SELECT count({quote(name)}) AS n FROM {reader}").column(0)[0].as_py()
        )

    def _has_empty_row(self, select: str, columns: Mapping[str, str]) -> bool:
        """Whether a row has no value: its line may be none, such as null."""
        empty = " AND ".join(f"{quote(name)} IS NULL" for name in columns) or "TRUE"
        return bool(
            self.query(f"SELECT count(*) AS n FROM ({select}) AS s WHERE {empty}")
            .column(0)[0]
            .as_py()
        )

    @contextmanager
    def _unchanged(self, source: str, files: Files) -> Iterator[None]:
        """Check that no file changes within the block.

        Raises: SourceError, also instead of an error that the change caused.
        """
        before = self.fingerprints(files.paths)
        try:
            yield
        finally:
            refuse_other_files(source, before, self)

    def _failed(self, error: Exception, select: str) -> HundredfoldError:
        """DuckDB's error as one of ours; where memory ran out, with the row groups that are too
        large for it.
        """
        found = _told(error, select)
        if isinstance(error, duckdb.OutOfMemoryException):
            found.hint = _about_row_groups(self._in_place, self._memory) or found.hint
        return found

    def _placed(self, error: duckdb.Error, select: str) -> duckdb.Error:
        """A mistake in SQL again with its line, which sql() leaves out."""
        if isinstance(
            error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException
        ):
            try:
                self.connection.execute(select)
            except duckdb.Error as placed:
                return placed
        return error

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        """A statement, to its end; the rows that it answers with."""
        try:
            return self._called(lambda: self.connection.execute(sql).fetchall())
        except duckdb.Error as error:
            raise self._failed(error, sql) from error

    def _called(self, call: Callable[[], T]) -> T:
        """What a call of DuckDB gives.

        It runs in a thread beside this one: DuckDB itself may not hear a Ctrl-C for minutes.
        """
        return self._heard(self._beside.submit(call))

    def _heard(self, future: Future[T]) -> T:
        try:
            while not wait([future], TICK).done:
                self._tick()
        except BaseException:
            self.connection.interrupt()
            wait([future])
            raise
        return future.result()


def fingerprints(paths: Sequence[str]) -> list[Fingerprint]:
    """Return name, size, times and inode of each file.

    The time of the last status change shows a file that was replaced or rewritten under its old
    size and modification time.
    """
    stats = [(path, Path(path).stat()) for path in paths]
    return [[path, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for path, s in stats]


REMEDIES = {
    "uhugeint": "CAST({} AS VARCHAR), or AS DECIMAL(38, 0) where it fits",
    "time with time zone": "CAST({} AS TIME)",
    "bignum": "CAST({} AS VARCHAR)",
    "bit": "CAST({} AS VARCHAR)",
    "union": "CAST({} AS VARCHAR)",
    "interval": "epoch_us(...) of each, which is whole microseconds",
}  # types that would reach Python or a file as another value, and what to write in their place


def _refuse_types(columns: Mapping[str, Any]) -> None:
    """QueryError for columns of types that Arrow gives as other values, without an error.

    An interval alone is kept as microseconds.
    """
    for name, kind in columns.items():
        odd = next((each for each in _types_in(kind) if each in REMEDIES), None)
        if odd and (odd != "interval" or kind.id != odd):
            remedy = (
                REMEDIES[odd].format(quote(name)) if kind.id == odd else "another type inside of it"
            )
            raise QueryError(
                f"its column {name} is of type {kind}, which would come out as another value",
                hint=f"write {remedy}",
            )


def _types_in(kind: duckdb.DuckDBPyType) -> Iterator[str]:
    yield kind.id
    if kind.id in ("list", "array", "map", "struct"):
        for _, inner in kind.children:
            if hasattr(inner, "id"):  # an array's size is a child, too
                yield from _types_in(inner)


def _sort(kind: str) -> str:
    """The sort of a DuckDB type: types of one sort may be put together where no value changes."""
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP")):
        return "nested"
    name = kind.partition("(")[0]
    if without_zone(name) in ("TIME", "TIME_NS"):
        return "clock"
    if name in ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        return "time"
    return (
        "number"
        if name in ("DECIMAL", "FLOAT", "DOUBLE") or name.endswith(("INT", "INTEGER"))
        else name
    )


def _groups(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Columns, so many at a time."""
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _typing(
    source: Source, files: Sequence[CsvFile], wanted: Mapping[str, Column] | None
) -> dict[str, str]:
    """The SQL of the texts of which values of other types are made, where these are not the texts
    as they came: for all columns, or for those that a contract wants as another type (and that no
    `clean` makes).
    """
    csv = source.csv
    # what is empty, or a null text, is null by now, but for null texts in quotes
    all_null = csv.null == ("",) or (
        "" in csv.null and not any(file.scan.quoted_null for file in files)
    )
    if all_null and csv.decimal == ".":
        return {}
    names = dict.fromkeys(name for file in files for name in file.dialect.names)
    if wanted is None:
        return {name: typed(name, csv.decimal, csv.null) for name in names}
    kinds = {
        name: wanted[name].arrow for name in names if name in wanted and name not in source.clean
    }
    return {
        name: typed(name, csv.decimal if _is_number(kind) else ".", csv.null)
        for name, kind in kinds.items()
        if not pa.types.is_string(kind)
    }


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _unread(source: str, files: Files, error: QueryError) -> SourceError:
    """Why text files cannot be read: the line, where it can be found."""
    _refuse_file_column(source, error)
    bad = json_lines.bad_line(files.paths) if files.kind == "json" else None
    words = bad or error.message.split("\n")[0]  # below it stands a query of ours
    hint = json_lines.hint_for(bad) if bad else "mend the file, or name another"
    return SourceError(
        f"{source}: {files.paths[0]} cannot be read as {files.kind}: {words}", hint=hint
    )


def _refuse_file_column(source: str, error: QueryError) -> None:
    """A column named as ours, or as one of DuckDB's, breaks the reader before its names are known."""
    if "filename adds column" in error.message:
        refuse_ours(source, ["__file"])
    if "file_row_number adds column" in error.message:
        raise SourceError(
            f"{source} has a column file_row_number, a name that DuckDB gives to the numbers of "
            "rows in Parquet files",
            hint="rename the column in the file, or pass the rows as a frame",
        ) from error


def _told(error: Exception, sql: str) -> HundredfoldError:
    """DuckDB's error as one of ours; its own text says the line and points at the place."""
    words = str(error)
    if "No space left" in words:
        return HomeError(
            "the disk is full: " + words.split("\n")[0],
            hint="free some space, or move the runs with --home; then resume the run",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return HomeError(
            "the query does not fit the memory limit: " + words.split("\n")[0],
            hint="raise --memory, or use fewer workers with --workers",
        )
    return QueryError(words, hint=None if "\n" in words else f"in: {' '.join(sql.split())[:200]}")


def _about_row_groups(sources: Mapping[str, Sequence[str]], memory: int) -> str | None:
    """What to do about the largest row group of Parquet sources, where reading it takes much of the
    memory; None where none does.
    """
    largest, name, file = 0, "", ""
    for source, paths in sources.items():
        for path in paths[:MAX_FOOTERS]:
            with suppress(pa.ArrowException, OSError):
                footer = pq.read_metadata(path)
                size = max(
                    (footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)),
                    default=0,
                )
                if size > largest:
                    largest, name, file = size, source, path
    if largest < LARGE_SHARE * memory:
        return None
    return (
        f"{name} has a row group of {largest / 2**20:,.0f} MiB ({file}), of which all "
        "columns that a query names are read at once: select only the columns that are "
        "needed, or write the file with smaller row groups, or raise --memory"
    )


def _tables(node: object, named: frozenset[str]) -> Iterator[str]:
    """The tables in a syntax tree that are not named by a WITH around them."""
    if isinstance(node, list):
        for item in node:
            yield from _tables(item, named)
    elif isinstance(node, dict):
        named = named | {entry["key"] for entry in (node.get("cte_map") or {}).get("map", [])}
        if (
            node.get("type") == "BASE_TABLE"
            and not node.get("schema_name")
            and node["table_name"] not in named
        ):
            yield node["table_name"]
        for value in node.values():
            yield from _tables(value, named)


def _pointer(select: str, position: str | int | None) -> str:
    """The line of a mistake, and a mark below it."""
    if position is None:
        return ""
    at = int(position)
    start = select.rfind("\n", 0, at) + 1
    stop = select.find("\n", at)
    number = select.count("\n", 0, at) + 1
    line = select[start : stop if stop >= 0 else None]
    lead = f"line {number}: "
    return f"\n{lead}{line}\n{' ' * (len(lead) + at - start)}^"


def _operators(plan: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the names of the operators of a query plan."""
    for node in plan:
        yield str(node.get("name", ""))
        yield from _operators(node.get("children", []))


def _text(path: Path) -> str:
    return str(path).replace("'", "''")


def _strings(texts: Sequence[str]) -> str:
    return ", ".join(map(_string, texts))


def _string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
