"""The warehouse on AWS: Athena over Parquet in S3, queried in DuckDB's SQL.

No method waits for a query: a statement that has not run yet is raised as pending
(`statements.py`), and the step is called again when it has run. A step is therefore a program that
sends the same queries in the same order each time it is called.

Types are DuckDB's: a local DuckDB holds empty tables of the same columns. It gives the columns of a
query before Athena has run it, and converts Athena's answers. So a job's function gets the same
types on both backends.

A source that went through the local reader, such as a CSV file, is also validated locally, where
its rows are cached for the duration of the step. Athena does all other work.

Athena stores times to the millisecond. Finer times are never rounded silently: a source that holds
such times is rejected, and so is a query that reads them from an earlier model's results.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from ...contract import Column, literal, quote
from ...data.checksums import get_json, put_json
from ...data.layout import Layout
from ...errors import QueryError, SourceError, StateError
from ...job import Source
from ...ports.interfaces import AttachedSource, Fingerprint, SourceLocation
from ...sql.athena import to_answer, to_athena, to_table
from ...sql.duckdb import DuckWarehouse
from ...sql.sources.files import pattern
from ...sql.sources.parquet_files import COPY_HINT
from ...sql_types import sql_type
from .glue_sources import fingerprint_of_table
from .glue_table import PATH_COLUMN, GlueTable, exceed_inline_limit
from .glue_types import (
    duckdb_schema,
    glue_type,
    has_sub_millisecond,
    may_have_sub_millisecond,
    refuse_unsupported_columns,
    unsupported_columns,
)
from .s3_objects import REQUEST_THREADS, ObjectFile, fingerprints, split_address
from .s3_store import S3Store
from .session import StackResources, client
from .statements import PendingBlocks, QueryReply, Statement, Statements

PARQUET_STORAGE = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    "SerdeInfo": {
        "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
    },
}
WITH_PATH = "__with_path"  # suffix of a table's name: the same rows, with the column `$path`
# Athena's errors for an unreadable object; its other errors about objects are about types
UNREADABLE_OBJECT = re.compile(
    r"HIVE_CURSOR_ERROR|HIVE_CANNOT_OPEN_SPLIT|(Not valid|Malformed) Parquet file"
)
MAX_CACHED_TRANSLATIONS = 1_000  # translations kept for the next call of a step
ANSWER_BLOCK_BYTES = 2**26  # bytes of an answer that are read at a time; no row may be longer


@dataclass(frozen=True, slots=True)
class NewTable:
    """A table to be created of a query's rows.

    `buckets`: an integer column and its maximum number of values, each of which gets files of its
    own; `at`: the location, below processing/ of this run.
    """

    name: str
    select: str
    buckets: tuple[str, int] | None = None
    at: str = ""


class AthenaWarehouse:
    """SQL over a run's tables, by name.

    `scratch` is an empty folder for this warehouse; `reply` answers the last pending statement.
    Objects of the store up to `local_bytes` are read locally.
    """

    replays = True

    def __init__(
        self,
        store: S3Store,
        layout: Layout,
        resources: StackResources,
        scratch: Path,
        *,
        memory: int,
        reply: QueryReply,
        attempt: int = 1,
        local_bytes: int = 0,
    ) -> None:
        self.store, self.layout, self.resources = store, layout, resources
        self.scratch, self.memory, self.attempt = scratch, memory, attempt
        self.local_bytes = local_bytes
        self.statements = Statements(store, layout, attempt, reply)
        self.duckdb = DuckWarehouse(store, scratch / "duckdb", memory=memory, threads=1)
        self.tables: dict[str, GlueTable] = {}
        self.views: dict[str, str] = {}
        self._verified_tables: set[str] = set()
        self._tables_by_query: dict[str, set[str]] = {}
        self._cached: set[str] = set()  # tables whose rows the local DuckDB has too
        self._written_locally: set[str] = set()  # keys of objects written from such rows
        with suppress(KeyError):
            for name, fields in get_json(store, self._run_key("tables.json"))["tables"].items():
                table = GlueTable.of_json(fields)
                if table.attempt in (0, self.attempt):
                    self._declare_locally(name, table)

    # ---- the port

    def create_view(self, name: str, select: str) -> None:
        self.duckdb.create_view(name, select)
        self.views[name] = select

    def columns(self, select: str) -> pa.Schema:
        return self.duckdb.columns(select)

    def query(self, select: str) -> pa.Table:
        """Return the rows of a query, in its order.

        The local DuckDB answers a query that reads only rows in memory.
        """
        if not self._needs_athena(select):
            return self.duckdb.query(select)
        batches = list(self._answer(select))
        return pa.Table.from_batches(batches[1:], batches[0].schema)

    def stream(self, select: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query, in its order, in parts."""
        yield from (
            self._answer(select) if self._needs_athena(select) else self.duckdb.stream(select)
        )

    def prefetch(self, selects: Sequence[str]) -> None:
        """Run queries at the same time, whose rows are read afterwards."""
        self.statements.execute_together(
            self._question(select) for select in selects if self._needs_athena(select)
        )

    @contextmanager
    def together(self) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Run the queries of independent blocks at the same time."""
        blocks = PendingBlocks()
        yield blocks
        blocks.raise_pending()

    def write(self, select: str, key: str, format: str = "parquet") -> int:
        """Write one object, locally, so that its bytes do not depend on the engine of the query."""
        if not self._needs_athena(select):
            self._written_locally.add(key)
            return self.duckdb.write(select, key, format)
        path = self.scratch / "answer.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        batches = self._answer(select)
        first = next(batches)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        with pa.memory_map(str(path)) as source:  # on disk, to save memory
            self.duckdb.register("__written", pa.ipc.open_file(source).read_all())
            try:
                return self.duckdb.write("SELECT * FROM __written", key, format)
            finally:
                self.duckdb.drop("__written")
                path.unlink()

    def close(self) -> None:
        self.duckdb.close()

    # ---- more methods of the port

    def attach(
        self,
        source: Source,
        location: SourceLocation,
        folder: Path | None,
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """Attach the raw rows of a source on AWS."""
        from . import sources

        return sources.attach(
            self,
            source,
            str(location),
            contract_columns,
            self.scratch / "sources",
            memory=self.memory,
        )

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]:
        """Return address, size and entity tag of each object, or the state of an Iceberg table:
        equal values are taken for equal contents.
        """
        objects = iter(fingerprints([path for path in paths if path.startswith("s3://")]))
        return [
            next(objects) if path.startswith("s3://") else fingerprint_of_table(path)
            for path in paths
        ]

    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None:
        """Return an error that names the damaged object of a source that made a query fail.

        None if the query failed for another reason.
        """
        if not UNREADABLE_OBJECT.search(error.message):
            return None
        named = next((path for path in paths if path in error.message), None)
        if named is None:
            return None
        return SourceError(
            f"{source}: Athena cannot read {named}: {error.message.splitlines()[0]}",
            hint=COPY_HINT,
        )

    def tables_of(self, select: str) -> set[str]:
        """Return the names of the tables that a query reads; QueryError unless it is a single
        query.
        """
        if select not in self._tables_by_query:
            self._tables_by_query[select] = self.duckdb.tables_of(select)
        return self._tables_by_query[select]

    def register(self, name: str, table: pa.Table) -> None:
        self.duckdb.register(name, table)

    def materialize(self, name: str, select: str) -> None:
        """Run a query once, and give its rows a name."""
        if self._needs_athena(select):
            self.create(name, select)
        else:
            self.duckdb.materialize(name, select)

    def drop(self, name: str) -> None:
        """Drop the rows of that name, if there are any."""
        self.duckdb.drop(name)
        self.duckdb.drop(name + WITH_PATH)
        if self.tables.pop(name, None) is not None:
            self._save_tables()

    def read_parquet(self, key: str) -> str:
        """Return a Parquet object of the store, or the rows written in its place, as a table in
        SQL.
        """
        settled = _written_name(key)
        if settled in self.tables:
            return quote(settled)
        try:
            [[address, size, mark]] = fingerprints([self.store.where(key)])
        except FileNotFoundError:
            raise KeyError(key) from None
        name = f"__at_{_slug(Path(key).stem)}_{_short_hash(key)}_{_short_hash(mark)}"
        if name not in self.tables:
            # a Glue table is a folder: the object gets one of its own
            own = f"processing/{self.layout.run}/objects/{name}/rows.parquet"
            self.store.copy(key, own)
            file = pq.ParquetFile(ObjectFile(*split_address(address)))
            self.register_objects(
                name,
                self.store.where(own).rpartition("/")[0] + "/",
                duckdb_schema(file),
                unreadable_columns=_unreadable_columns(file),
                objects=1,
            )
        if key in self._written_locally or size <= self.local_bytes:
            self.cache_locally(name, self.store.fetch(key))
        return quote(name)

    def write_rows(self, select: str, key: str) -> int:
        """Write a query's rows for later `read_parquet(key)`; return their number."""
        name = _written_name(key)
        if self._needs_athena(select):
            return self._count_rows(self.create(name, select))
        own = f"processing/{self.layout.run}/written/{name}/rows.parquet"
        path = self.scratch / f"{name}.parquet"
        with pq.ParquetWriter(path, self.columns(select), compression="snappy") as file:
            for batch in self.duckdb.stream(select):
                file.write_batch(batch)
        self.store.send(path, own)
        settled = pq.ParquetFile(path)
        self.register_objects(
            name,
            self.store.where(own).rpartition("/")[0] + "/",
            duckdb_schema(settled),
            unreadable_columns=_unreadable_columns(settled),
            objects=1,
        )
        self.cache_locally(name, path)
        return int(settled.metadata.num_rows)

    def _count_rows(self, table: GlueTable) -> int:
        """Return the number of rows of a table from its objects, which takes no query."""
        sizes = self.store.sizes(split_address(table.location)[1])

        def count(key: str) -> int:
            file = ObjectFile(self.store.bucket, key)
            return int(pq.ParquetFile(file).metadata.num_rows)

        with ThreadPoolExecutor(REQUEST_THREADS) as pool:
            return sum(pool.map(count, [key for key, size in sizes.items() if size]))

    def cache_locally(self, name: str, path: Path) -> None:
        """Make the rows of a table available locally, from a Parquet file with all of them."""
        self.duckdb.drop(name)
        self.duckdb.create_view(name, f"SELECT * FROM read_parquet({pattern(str(path))})")
        self._cached.add(name)

    def find_known(self, name: str, values: str, table: str, column: str) -> str | None:
        """Return a local table, whose name begins with `name`, of the values that a column has.

        `values`: a query of local rows, whose only column is `value`. None for a local table.
        """
        if not self._is_remote(table):
            return None
        of = f"{name}_{_short_hash(f'{values} {table} {column}')}"
        given = f"__values{of}"
        self.duckdb.register(given, self.duckdb.query(values))
        known = self.query(
            f"SELECT DISTINCT v.value FROM {quote(given)} AS v JOIN {quote(table)} AS r "
            f"ON r.{quote(column)} = v.value"
        )
        self.duckdb.register(of, known)
        return of

    def with_path(self, name: str) -> str:
        """Return a table in SQL that also has the column `$path`: the object of each row."""
        return quote(name + WITH_PATH)

    def create(
        self, name: str, select: str, *, buckets: tuple[str, int] | None = None, at: str = ""
    ) -> GlueTable:
        """Create a table of a query's rows; see NewTable."""
        return self.create_all([NewTable(name, select, buckets, at)])[0]

    def create_all(self, tables: Sequence[NewTable]) -> list[GlueTable]:
        """Create tables of the rows of queries, at the same time."""
        planned = [(new, self._glue_name_of(new)) for new in tables]
        missing = [
            (new, glue)
            for new, glue in planned
            if (existing := self.tables.get(new.name)) is None or existing.name != glue
        ]
        if len(missing) > 1:
            self.statements.execute_together(self._creation(*each) for each in missing)
        for new, glue in missing:
            self._create(new, glue)
        if missing:
            self._save_tables()
        return [self.tables[new.name] for new in tables]

    def create_in_one_folder(self, name: str, parts: Sequence[NewTable], folder: str) -> None:
        """Create tables of the same columns at the same time, and one table of all their rows.

        `folder`: below processing/ of this run; Athena also reads the folders below it.
        """
        created = self.create_all(parts)
        if name not in self.tables:
            self.register_objects(
                name,
                self.store.where(f"processing/{self.layout.run}/{folder}") + "/",
                created[0].arrow,
                paths=True,
                objects=sum(table.objects for table in created),
            )

    def reads_rows_once(self, select: str) -> bool:
        """Return whether running a query twice gives the same rows, and costs no more than two
        scans of its tables.
        """
        return self._needs_athena(select) and self.duckdb.is_plain(select)

    def _glue_name_of(self, new: NewTable) -> str:
        return self._glue_name(f"{new.name}_{_short_hash(self._identity_of(new))}")

    def _identity_of(self, new: NewTable) -> str:
        return f"{new.name} {new.buckets}\n{self._identity(new.select)}"

    def _key_of(self, new: NewTable) -> str:
        own = f"tables/{_slug(new.name)}-{_short_hash(self._identity_of(new))}"
        return f"processing/{self.layout.run}/{new.at or own}"

    def _creation(self, new: NewTable, glue: str) -> Statement:
        """Return the statement that creates a table."""
        _refuse_unstorable(self.columns(new.select))
        key = self._key_of(new)
        options = _table_options(self.store.where(key) + "/", new.buckets)
        return Statement(
            self._identity_of(new),
            lambda: (
                f"CREATE TABLE {quote(self.resources.database)}.{quote(glue)} WITH ({options}) "
                f"AS\n{self._translate(new.select, to_table)}"
            ),
            before=lambda: self._remove_leftovers(key, glue),
        )

    def _create(self, new: NewTable, glue: str) -> None:
        self.statements.execute(self._creation(new, glue))
        key = self._key_of(new)
        table = GlueTable(
            self.resources.database,
            glue,
            self.store.where(key) + "/",
            _serialize(self.columns(new.select)),
            (),
            True,
            self._attempt_of(new.name),
            sum(1 for _ in self.store.list(f"{key}/")),
        )
        self.duckdb.drop(new.name)
        self._declare_locally(new.name, table)

    def register_objects(
        self,
        name: str,
        location: str,
        schema: pa.Schema,
        *,
        only: Sequence[str] = (),
        paths: bool = False,
        unreadable_columns: Sequence[tuple[str, str]] = (),
        objects: int = -1,
    ) -> GlueTable:
        """Register existing Parquet objects as a table under `name`."""
        if not unreadable_columns:
            refuse_unsupported_columns(name, schema)
        table = GlueTable(
            self.resources.database,
            self._glue_name(name),
            location,
            _serialize(schema),
            tuple(only),
            paths,
            self._attempt_of(name),
            objects,
            tuple(unreadable_columns),
        )
        self._drop_glue_table(table.name)
        self._create_glue_table(table)
        self.attach_table(name, table)
        return table

    def attach_table(self, name: str, table: GlueTable) -> None:
        """Attach a table under `name`, for this call and later ones."""
        self.duckdb.drop(name)
        self._declare_locally(name, table)
        self._save_tables()

    def drop_tables(self) -> None:
        """Remove this run's tables from the database; their objects stay until they expire."""
        for name in self._tables_in_database():
            with suppress(ClientError):
                client("glue").delete_table(DatabaseName=self.resources.database, Name=name)

    def restore_tables(self) -> None:
        """Restore the tables of a resumed run in the database: they were removed when it ended.

        Raises:
            StateError: objects have expired. Athena would read a table without objects as empty.
        """
        existing = self._tables_in_database()
        for table in self.tables.values():
            self._refuse_expired(table)
            if table.database == self.resources.database and table.name not in existing:
                self._create_glue_table(table)

    # ---- internals: statements and their answers

    def _answer(self, select: str) -> Iterator[pa.RecordBatch]:
        """Yield Athena's answer to a query, in the types that DuckDB gives the query.

        There is at least one part, which may be empty.
        """
        from pyarrow import csv

        schema = self.columns(select)
        found = self.statements.execute(self._question(select))
        file = ObjectFile(*split_address(self.store.where(f"athena/{self.layout.run}/{found}.csv")))
        names = [f"c{i}" for i in range(len(schema))]
        # a null in the only column is an empty line
        texts = csv.open_csv(
            file,
            read_options=csv.ReadOptions(
                column_names=names, skip_rows=1, block_size=ANSWER_BLOCK_BYTES, use_threads=False
            ),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        with closing(texts):
            yield self._with_types(pa.Table.from_batches([], texts.schema), schema)
            for batch in texts:
                yield self._with_types(pa.Table.from_batches([batch]), schema)

    def _question(self, select: str) -> Statement:
        return Statement(self._identity(select), lambda: self._translate(select, to_answer))

    def _with_types(self, texts: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
        """Convert texts, as Athena writes them, to the types of the schema."""
        self.duckdb.register("__texts", texts)
        values = ", ".join(
            f"{_convert_sql(name, field.type)} AS {name}"
            for name, field in zip(texts.column_names, schema, strict=True)
        )
        found = self.duckdb.query(f"SELECT {values} FROM __texts")
        self.duckdb.drop("__texts")
        columns = [
            pa.nulls(found.num_rows)
            if pa.types.is_null(field.type)
            else column.combine_chunks().cast(field.type)
            for column, field in zip(found.columns, schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    # ---- internals: the tables of a query

    def _identity(self, select: str) -> str:
        """Return a query, and the table of each name in it."""
        names = sorted(self.tables_of(select))
        return "\n".join([select, *(f"{name}: {self._resolve(name)}" for name in names)])

    def _resolve(self, name: str) -> str:
        table = self._table(name)
        if table is not None:
            return table.name
        return (
            self._identity(self.views[name])
            if name in self.views
            else self._upload_table(name).name
        )

    def _table(self, name: str) -> GlueTable | None:
        """Return the table of a name: the table itself, with its paths, or all rows of a view."""
        view = re.fullmatch(r'SELECT \* FROM "(\w+)"', self.views.get(name, ""))
        return self.tables.get((view[1] if view else name).removesuffix(WITH_PATH))

    def _sql(self, select: str) -> str:
        """Return a query in Athena's SQL, with every name replaced by its table."""
        identity = self._identity(select)
        if identity not in _translated:
            if len(_translated) > MAX_CACHED_TRANSLATIONS:
                _translated.clear()
            _translated[identity] = self._translate(select, to_athena)
        return _translated[identity]

    def _translate(self, select: str, into: Callable[..., str]) -> str:
        return into(
            select,
            self._replacements(select),
            self._describe_columns,
            self._unreadable_columns_of(select),
        )

    def _describe_columns(self, select: str) -> list[tuple[str, str]]:
        """Return the columns of a query: their names, and their types in DuckDB."""
        found = self.duckdb.query(f"DESCRIBE {select}")
        return list(
            zip(
                found.column("column_name").to_pylist(),
                found.column("column_type").to_pylist(),
                strict=True,
            )
        )

    def _replacements(self, select: str) -> dict[str, str]:
        replacements: dict[str, str] = {}
        for name in self.tables_of(select):
            table = self._table(name)
            if table is None and name in self.views:
                replacements[name] = f"({self._sql(self.views[name])})"
            else:
                replacements[name] = self._table_sql(table or self._upload_table(name))
        return replacements

    def _unreadable_columns_of(self, select: str) -> dict[str, dict[str, str]]:
        """Return the columns of a query's tables that Athena cannot read as stored."""
        tables = {name: self._table(name) for name in self.tables_of(select)}
        return {
            name: dict(table.unreadable_columns)
            for name, table in tables.items()
            if table is not None and table.unreadable_columns
        }

    def _table_sql(self, table: GlueTable) -> str:
        """Return a table in Athena's SQL."""
        self._refuse_expired(table)
        full = f"{quote(table.database)}.{quote(table.name)}"
        nothing = [field.name for field in table.arrow if pa.types.is_null(field.type)]
        if not table.only and not nothing:
            return full
        unreadable_columns = dict(table.unreadable_columns)  # these are not in the database
        names = [name for name in table.arrow.names if name not in unreadable_columns]
        columns = [
            f"CAST(NULL AS INTEGER) AS {quote(n.lower())}" if n in nothing else quote(n.lower())
            for n in names
        ]
        paths = [quote(PATH_COLUMN)] if table.paths else []
        where = (
            f" WHERE {quote(PATH_COLUMN)} IN ({self._addresses_sql(table.only)})"
            if table.only
            else ""
        )
        return f"(SELECT {', '.join([*columns, *paths])} FROM {full}{where})"

    def _addresses_sql(self, addresses: Sequence[str]) -> str:
        """Return addresses in SQL: a list, or a table of their own if they are too long for a
        statement.
        """
        if not exceed_inline_limit(addresses):
            return ", ".join(map(literal, addresses))
        table = self._upload_rows(pa.table({"address": pa.array(addresses, pa.string())}))
        return f"SELECT address FROM {quote(table.database)}.{quote(table.name)}"

    def _upload_table(self, name: str) -> GlueTable:
        """Upload a table in memory that a query reads together with others, so that Athena can read
        it.
        """
        return self._upload_rows(self.duckdb.query(f"SELECT * FROM {quote(name)}"))

    def _upload_rows(self, rows: pa.Table) -> GlueTable:
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="snappy")
        data = sink.getvalue()
        sent = f"__sent_{hashlib.sha256(data).hexdigest()[:16]}"
        if sent not in self.tables:
            key = f"processing/{self.layout.run}/sent/{sent}/rows.parquet"
            self.store.put(key, data)
            self.register_objects(
                sent, self.store.where(key).rpartition("/")[0] + "/", rows.schema, objects=1
            )
        return self.tables[sent]

    def _refuse_expired(self, table: GlueTable) -> None:
        """Raise StateError if objects of this run are gone: Athena would take the rest for all of
        them.
        """
        if table.objects < 0 or table.name in self._verified_tables:
            return
        prefix = split_address(table.location)[1]
        existing = sum(1 for _ in self.store.list(prefix))
        if existing < table.objects:
            raise StateError(
                f"run {self.layout.run} cannot continue: of the {table.objects} objects that it "
                f"stored at {table.location}, found {existing}",
                hint=(
                    "objects below processing/ expire: run the job again; the retention is set "
                    "with hundredfold deploy --keep-days"
                ),
            )
        self._verified_tables.add(table.name)

    def _needs_athena(self, select: str) -> bool:
        """Return whether a query reads rows that only Athena can read."""
        return any(self._is_remote(name) for name in self.tables_of(select))

    def _is_remote(self, name: str) -> bool:
        if name in self.views:
            return self._needs_athena(self.views[name])
        return self._table(name) is not None and name not in self._cached

    def _declare_locally(self, name: str, table: GlueTable) -> None:
        self.tables[name] = table
        empty = table.arrow.empty_table()
        self.duckdb.register(name, empty)
        if table.paths:
            self.duckdb.register(
                name + WITH_PATH, empty.append_column(PATH_COLUMN, pa.array([], pa.string()))
            )

    def _attempt_of(self, name: str) -> int:
        """Return the attempt that a table belongs to; 0 for one that all attempts share.

        A later attempt may execute models again, and recomputes their inputs. Sources stay the
        same, and objects are identified by their content.
        """
        return (
            0
            if name.startswith(("__raw_", "__numbered_", "__written_", "__at_", "__sent_"))
            else self.attempt
        )

    def _remove_leftovers(self, key: str, glue: str) -> None:
        """Remove the leftovers of a failed query: Athena deletes nothing."""
        self.store.delete(key)
        self._drop_glue_table(glue)

    def _create_glue_table(self, table: GlueTable) -> None:
        """Create a Glue table of Parquet objects."""
        unreadable_columns = {column for column, _ in table.unreadable_columns}
        kept = [
            field
            for field in table.arrow
            if field.name not in unreadable_columns and not pa.types.is_null(field.type)
        ]
        columns = [{"Name": field.name.lower(), "Type": glue_type(field.type)} for field in kept]
        made = {
            "Name": table.name,
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE"},
            "StorageDescriptor": {
                "Columns": columns,
                "Location": table.location,
                **PARQUET_STORAGE,
            },
        }
        client("glue").create_table(DatabaseName=self.resources.database, TableInput=made)

    def _tables_in_database(self) -> set[str]:
        """Return the names of this run's tables in the database."""
        own = self._glue_name("")
        pages = (
            client("glue")
            .get_paginator("get_tables")
            .paginate(DatabaseName=self.resources.database, Expression=f"{own}*")
        )
        return {
            table["Name"]
            for page in pages
            for table in page["TableList"]
            if table["Name"].startswith(own)
        }

    def _drop_glue_table(self, glue: str) -> None:
        with suppress(client("glue").exceptions.EntityNotFoundException):
            client("glue").delete_table(DatabaseName=self.resources.database, Name=glue)

    def _glue_name(self, name: str) -> str:
        """Return the name of a table in the database.

        The names of no two runs have the same prefix, and Glue allows 255 characters.
        """
        return f"run_{_slug(self.layout.run)}_{_short_hash(self.layout.run)}__{_slug(name)}"

    def _save_tables(self) -> None:
        """Store the table of each name, for later calls.

        One object holds them all, since no two calls of a run's steps execute at the same time.
        """
        put_json(
            self.store,
            self._run_key("tables.json"),
            {"tables": {name: asdict(table) for name, table in self.tables.items()}},
        )

    def _run_key(self, key: str) -> str:
        return f"{self.layout.root}/{key}"


def _table_options(location: str, buckets: tuple[str, int] | None) -> str:
    """Return the options of CREATE TABLE AS for a table at this location."""
    options = {
        "format": "'PARQUET'",
        "write_compression": "'SNAPPY'",
        "external_location": literal(location),
    }
    if buckets:
        options |= {
            "bucketed_by": f"ARRAY[{literal(buckets[0])}]",
            "bucket_count": str(buckets[1]),
        }
    return ", ".join(f"{option} = {value}" for option, value in options.items())


def _refuse_unstorable(schema: pa.Schema) -> None:
    """Raise QueryError for columns that a table on AWS cannot have."""
    unsupported = unsupported_columns(schema)
    if unsupported:
        raise QueryError(
            "a query returns columns that Athena cannot store",
            problems=[f"{column!r}: {reason}" for column, reason in unsupported.items()],
            hint="rename them, or CAST them to a text, a number or a time",
        )


# a table's name identifies its content, so a translation stays valid
_translated: dict[str, str] = {}


def _unreadable_columns(file: pq.ParquetFile) -> list[tuple[str, str]]:
    """Return the columns of our object that Athena cannot read as stored, and why."""
    found = unsupported_columns(duckdb_schema(file))
    for field in file.schema_arrow:
        if (
            field.name not in found
            and may_have_sub_millisecond(field.type)
            and has_sub_millisecond(file.read([field.name]).column(0))
        ):
            found[field.name] = "times finer than a millisecond, which Athena cannot store"
    return list(found.items())


def _convert_sql(name: str, kind: pa.DataType) -> str:
    """Return the value of one of Athena's texts as a type, in DuckDB's SQL."""
    if pa.types.is_string(kind) or pa.types.is_null(kind):
        return name
    if pa.types.is_binary(kind):
        return f"unhex({name})"
    return (
        f"CAST(CAST({name} AS JSON) AS {sql_type(kind)})"
        if pa.types.is_nested(kind)
        else f"CAST({name} AS {sql_type(kind)})"
    )


def _serialize(schema: pa.Schema) -> str:
    return str(schema.remove_metadata().serialize().to_pybytes().hex())


def _written_name(key: str) -> str:
    """Return the name in queries of the rows written in place of the object `key`."""
    return f"__written_{_slug(Path(key).stem)}_{_short_hash(key)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", text.lower())
