"""The warehouse on AWS: Athena over Parquet in S3, told in DuckDB's SQL.

A query may take minutes, and a function that waits for it is paid for waiting. So nothing here
waits: a statement that has not run yet is raised as `Asked`, the state machine runs it, and the
step is called again, finds its answer, and goes on to the next. A step is therefore a program that
asks the same questions in the same order each time it is called.

Types are DuckDB's: empty tables of the same columns stand in a DuckDB beside it, which says what a
query gives before Athena has run it, and in which Athena's answers are put. So a function is handed
the same types here and there.

What has come through this machine's reader, such as a CSV file, is checked here too, where its rows
are at hand: they are `near` for as long as the step takes. All else is Athena's work.

Athena keeps times to the millisecond. What is finer is not rounded in silence: a source that holds
such times is refused, and so is a query that reads them from an earlier model's results.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from ...contract import Column, literal, quote
from ...data.checksums import get_json, put_json
from ...errors import QueryError, SourceError, StateError
from ...job import Layout, Source
from ...ports.interfaces import AttachedSource, Fingerprint, SourcePlace
from ...sql.athena import tables_in, to_answer, to_athena, to_table
from ...sql.duckdb import DuckWarehouse
from ...sql.sources.files import pattern
from ...sql.sources.parquet_files import COPY_AGAIN
from .glue_table import PATH, GlueTable, are_many
from .glue_types import (
    duck_type,
    has_sub_millisecond,
    hive_type,
    is_fine,
    plain_schema,
    refuse_misfits,
    unsupported_columns,
)
from .s3_objects import RIGHT, ObjectFile, fingerprints, split_address
from .s3_store import S3Store
from .session import StackResources, client

PARQUET = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    "SerdeInfo": {
        "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
    },
}
WITH_PATH = "__with_path"  # behind a table's name: the same rows, and that column
# what Athena says of an object that cannot be read; its other words about objects are of types that
# do not fit
UNREAD = re.compile(r"HIVE_CURSOR_ERROR|HIVE_CANNOT_OPEN_SPLIT|(Not valid|Malformed) Parquet file")
MOST = 1_000  # translations that are kept for the next call of a step
BLOCK = 2**26  # bytes of an answer that are read at a time; no row may be longer


class QueryPending(BaseException):
    """A statement that has to run before the step can go on.

    No Exception: nobody but the step's handler may catch it.
    """

    def __init__(self, sql: str, token: str, output: str) -> None:
        super().__init__(sql)
        self.sql, self.token, self.output = sql, token, output


@dataclass(frozen=True, slots=True)
class QueryReply:
    """What came of the statement that was asked last: its query's id, or Athena's words why it
    failed.

    A statement that failed is asked again by the next execution of the run, and not by this one.
    """

    execution: str
    token: str = ""
    id: str = ""
    error: str = ""


class AthenaWarehouse:
    """SQL over a run's tables, by name.

    `scratch` is an empty folder of its own; `heard` answers what was asked last.
    """

    replays = True

    def __init__(
        self,
        store: S3Store,
        layout: Layout,
        place: StackResources,
        scratch: Path,
        *,
        memory: int,
        heard: QueryReply,
        attempt: int = 1,
    ) -> None:
        self.store, self.layout, self.place, self.heard = store, layout, place, heard
        self.scratch, self.memory, self.attempt = scratch, memory, attempt
        self.here = DuckWarehouse(store, scratch / "duckdb", memory=memory, threads=1)
        self.tables: dict[str, GlueTable] = {}
        self.views: dict[str, str] = {}
        self._looked: set[str] = set()
        self._read: dict[str, set[str]] = {}
        self._near: set[str] = set()  # tables whose rows are in the DuckDB here, too
        self._written: set[str] = set()  # objects of the store that were written from such rows
        with suppress(KeyError):
            for name, fields in get_json(store, self._below("tables.json"))["tables"].items():
                table = GlueTable.of_json(fields)
                if table.attempt in (0, self.attempt):
                    self._stand_here(name, table)

    # ---- the door

    def create_view(self, name: str, select: str) -> None:
        self.here.create_view(name, select)
        self.views[name] = select

    def columns(self, select: str) -> pa.Schema:
        return self.here.columns(select)

    def query(self, select: str) -> pa.Table:
        """The rows of a query, in its order.

        One that reads only what is in memory is answered here.
        """
        if not self._reads_afar(select):
            return self.here.query(select)
        batches = list(self._answer(select))
        return pa.Table.from_batches(batches[1:], batches[0].schema)

    def stream(self, select: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query, in its order, a part of its answer after the other."""
        yield from self._answer(select) if self._reads_afar(select) else self.here.stream(select)

    def write(self, select: str, key: str, format: str = "parquet") -> int:
        """One object, written here, so that it is the same to the byte whoever ran the query."""
        if not self._reads_afar(select):
            self._written.add(key)
            return self.here.write(select, key, format)
        path = self.scratch / "answer.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        batches = self._answer(select)
        first = next(batches)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        with pa.memory_map(str(path)) as source:  # on the disk, and not in memory
            self.here.register("__written", pa.ipc.open_file(source).read_all())
            try:
                return self.here.write("SELECT * FROM __written", key, format)
            finally:
                self.here.drop("__written")
                path.unlink()

    def close(self) -> None:
        self.here.close()

    # ---- what steps ask beside

    def attach(
        self,
        source: Source,
        place: SourcePlace,
        folder: Path | None,
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """The raw rows of a source, wherever they are on AWS."""
        from . import sources

        return sources.attach(
            self, source, str(place), contract_columns, self.scratch / "sources", memory=self.memory
        )

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]:
        """Address, size and entity tag of each object: equal prints are taken for equal contents."""
        return fingerprints(paths)

    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None:
        """Return an error that names the object of a source whose damage made a query fail; None if
        it failed for another reason.
        """
        if not UNREAD.search(error.message):
            return None
        named = next((path for path in paths if path in error.message), None)
        if named is None:
            return None
        return SourceError(
            f"{source}: {named} cannot be read by Athena: {error.message.splitlines()[0]}",
            hint=COPY_AGAIN,
        )

    def tables_of(self, select: str) -> set[str]:
        """The names of the tables that a query reads; QueryError if it is no single query."""
        if select not in self._read:
            self.here.tables_of(select)
            self._read[select] = set(tables_in(select))
        return self._read[select]

    def register(self, name: str, table: pa.Table) -> None:
        self.here.register(name, table)

    def materialize(self, name: str, select: str) -> None:
        """Let `name` stand for the rows of a query, computed once."""
        if self._reads_afar(select):
            self.create(name, select)
        else:
            self.here.materialize(name, select)

    def drop(self, name: str) -> None:
        """Let go of what was kept or loaded under that name, if anything was."""
        self.here.drop(name)
        self.here.drop(name + WITH_PATH)
        if self.tables.pop(name, None) is not None:
            self._keep_tables()

    def read_parquet(self, key: str) -> str:
        """A Parquet object of the store, as it is now, or what was settled in its place, as a table
        in SQL.
        """
        settled = _settled(key)
        if settled in self.tables:
            return quote(settled)
        try:
            [[address, _, mark]] = fingerprints([self.store.where(key)])
        except FileNotFoundError:
            raise KeyError(key) from None
        name = f"__at_{_slug(Path(key).stem)}_{_mark(key)}_{_mark(mark)}"
        if name not in self.tables:
            # a table is a folder: an object gets one of its own
            own = f"processing/{self.layout.run}/objects/{name}/rows.parquet"
            self.store.copy(key, own)
            file = pq.ParquetFile(ObjectFile(*split_address(address)))
            self.register_objects(
                name,
                self.store.where(own).rpartition("/")[0] + "/",
                plain_schema(file),
                odd=_odd(file),
                objects=1,
            )
        if key in self._written:
            self.stand_near(name, self.store.fetch(key))
        return quote(name)

    def write_rows(self, select: str, key: str) -> int:
        """Write a query's rows, however many, so that later queries read them by `parquet(key)`;
        how many.
        """
        name = _settled(key)
        if self._reads_afar(select):
            self.create(name, select)
            return int(
                self.query(f"SELECT count(*) AS n FROM {quote(name)}").column("n")[0].as_py()
            )
        own = f"processing/{self.layout.run}/settled/{name}/rows.parquet"
        path = self.scratch / f"{name}.parquet"
        with pq.ParquetWriter(path, self.columns(select), compression="snappy") as file:
            for batch in self.here.stream(select):
                file.write_batch(batch)
        self.store.send(path, own)
        settled = pq.ParquetFile(path)
        self.register_objects(
            name,
            self.store.where(own).rpartition("/")[0] + "/",
            plain_schema(settled),
            odd=_odd(settled),
            objects=1,
        )
        self.stand_near(name, path)
        return int(settled.metadata.num_rows)

    def stand_near(self, name: str, path: Path) -> None:
        """Let the rows of a table be at hand here, from a Parquet file that holds them all."""
        self.here.drop(name)
        self.here.create_view(name, f"SELECT * FROM read_parquet({pattern(str(path))})")
        self._near.add(name)

    def with_path(self, name: str) -> str:
        """A table in SQL that also has the column `$path`: in which object each row lies."""
        return quote(name + WITH_PATH)

    def create(
        self, name: str, select: str, *, buckets: tuple[str, int] | None = None, at: str = ""
    ) -> GlueTable:
        """A table of a query's rows.

        `buckets`: an integer column and how many values it has at most, each of which gets files of
        its own; `at`: where, below processing/ of this run.
        """
        identity = f"{name} {buckets}\n{self._identity(select)}"
        mark = _mark(identity)
        glue = self._glue_name(f"{name}_{mark}")
        there = self.tables.get(name)
        if there is not None and there.name == glue:
            return there
        schema = self.columns(select)
        bad = unsupported_columns(schema)
        if bad:
            raise QueryError(
                "a query gives columns that Athena cannot keep",
                problems=[f"{column!r}: {why}" for column, why in bad.items()],
                hint="name them otherwise, or CAST them to a text, a number or a time",
            )
        key = f"processing/{self.layout.run}/{at or f'tables/{_slug(name)}-{mark}'}"
        options = {
            "format": "'PARQUET'",
            "write_compression": "'SNAPPY'",
            "external_location": literal(self.store.where(key) + "/"),
        }
        if buckets:
            options |= {
                "bucketed_by": f"ARRAY[{literal(buckets[0])}]",
                "bucket_count": str(buckets[1]),
            }
        given = ", ".join(f"{option} = {value}" for option, value in options.items())
        self._run(
            identity,
            lambda: (
                f"CREATE TABLE {quote(self.place.database)}.{quote(glue)} WITH ({given}) "
                f"AS\n{self._translation(select, to_table)}"
            ),
            before=lambda: self._clear(key, glue),
        )
        objects = sum(1 for _ in self.store.list(f"{key}/"))
        table = GlueTable(
            self.place.database,
            glue,
            self.store.where(key) + "/",
            _packed(schema),
            (),
            True,
            self._attempt_of(name),
            objects,
        )
        self.stand(name, table)
        return table

    def register_objects(
        self,
        name: str,
        location: str,
        schema: pa.Schema,
        *,
        only: Sequence[str] = (),
        paths: bool = False,
        odd: Sequence[tuple[str, str]] = (),
        objects: int = -1,
    ) -> GlueTable:
        """Let `name` stand for Parquet objects that are there."""
        if not odd:
            refuse_misfits(name, schema)
        table = GlueTable(
            self.place.database,
            self._glue_name(name),
            location,
            _packed(schema),
            tuple(only),
            paths,
            self._attempt_of(name),
            objects,
            tuple(odd),
        )
        self._drop(table.name)
        self._describe(table)
        self.stand(name, table)
        return table

    def stand(self, name: str, table: GlueTable) -> None:
        """Let `name` stand for a table, here and in later calls."""
        self.here.drop(name)
        self._stand_here(name, table)
        self._keep_tables()

    def failed(self, error: QueryError, words: str) -> bool:
        """Whether a statement failed for what Athena calls by these words."""
        return words in error.message

    def drop_all(self) -> None:
        """Take this run's tables out of the database; their objects stay until they expire."""
        for name in self._in_database():
            with suppress(ClientError):
                client("glue").delete_table(DatabaseName=self.place.database, Name=name)

    def stand_again(self) -> None:
        """Put the tables of a run that goes on back into the database: when it was done, they were
        taken out. StateError if their objects have expired: a table without objects has no rows,
        and Athena does not mind.
        """
        there = self._in_database()
        for table in self.tables.values():
            self._refuse_expired(table)
            if table.database == self.place.database and table.name not in there:
                self._describe(table)

    # ---- how: statements and their answers

    def _run(
        self, identity: str, written: Callable[[], str], before: Callable[[], None] = lambda: None
    ) -> str:
        """The id of the query that ran a statement; Asked if none has; QueryError with Athena's
        words if it failed.

        A statement is known by its `identity`: to write it in Athena's SQL costs more than to find
        its answer.
        """
        token = hashlib.sha256(f"{self.layout.run} {self.attempt}\n{identity}".encode()).hexdigest()
        record = self._below(f"queries/{token}.json")
        if self.heard.token == token and (self.heard.id or self.heard.error):
            put_json(self.store, record, {**asdict(self.heard), "asked": identity})
        with suppress(KeyError):
            found = get_json(self.store, record)
            if found["id"]:
                return str(found["id"])
            if found["execution"] == self.heard.execution:
                denied = "PERMISSION_DENIED" in found["error"] or "Access Denied" in found["error"]
                raise QueryError(
                    found["error"],
                    hint=RIGHT if denied else f"in: {' '.join(identity.split())[:300]}",
                )
        before()
        raise QueryPending(written(), token, self.store.where(f"athena/{self.layout.run}") + "/")

    def _answer(self, select: str) -> Iterator[pa.RecordBatch]:
        """Athena's answer to a query, in the types that DuckDB gives the query; at least one part,
        which may be empty.
        """
        from pyarrow import csv

        schema = self.columns(select)
        found = self._run(self._identity(select), lambda: self._translation(select, to_answer))
        file = ObjectFile(*split_address(self.store.where(f"athena/{self.layout.run}/{found}.csv")))
        names = [f"c{i}" for i in range(len(schema))]
        texts = csv.open_csv(
            file,
            read_options=csv.ReadOptions(
                column_names=names, skip_rows=1, block_size=BLOCK, use_threads=False
            ),
            parse_options=csv.ParseOptions(
                newlines_in_values=True, ignore_empty_lines=False
            ),  # a null in the only column is an empty line
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        with closing(texts):
            yield self._typed(pa.Table.from_batches([], texts.schema), schema)
            for batch in texts:
                yield self._typed(pa.Table.from_batches([batch]), schema)

    def _typed(self, texts: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
        """Texts as Athena writes them, in their types."""
        self.here.register("__texts", texts)
        values = ", ".join(
            f"{_read(name, field.type)} AS {name}"
            for name, field in zip(texts.column_names, schema, strict=True)
        )
        found = self.here.query(f"SELECT {values} FROM __texts")
        self.here.drop("__texts")
        columns = [
            pa.nulls(found.num_rows)
            if pa.types.is_null(field.type)
            else column.combine_chunks().cast(field.type)
            for column, field in zip(found.columns, schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    # ---- how: what names stand for

    def _identity(self, select: str) -> str:
        """A query, and what the names in it stand for."""
        names = sorted(self.tables_of(select))
        return "\n".join([select, *(f"{name}: {self._stands_for(name)}" for name in names)])

    def _stands_for(self, name: str) -> str:
        table = self._table(name)
        if table is not None:
            return table.name
        return self._identity(self.views[name]) if name in self.views else self._sent(name).name

    def _table(self, name: str) -> GlueTable | None:
        """The table that a name stands for: itself, with the paths of its rows, or all that a view
        gives.
        """
        view = re.fullmatch(r'SELECT \* FROM "(\w+)"', self.views.get(name, ""))
        return self.tables.get((view[1] if view else name).removesuffix(WITH_PATH))

    def _sql(self, select: str) -> str:
        """A query in Athena's SQL, with every name that it reads put in its place."""
        identity = self._identity(select)
        if identity not in _translated:
            if len(_translated) > MOST:
                _translated.clear()
            _translated[identity] = self._translation(select, to_athena)
        return _translated[identity]

    def _translation(self, select: str, into: Callable[..., str]) -> str:
        return into(select, self._stand_for(select), self._described, self._odd_of(select))

    def _described(self, select: str) -> list[tuple[str, str]]:
        """The columns of a query: their names, and their types as DuckDB calls them."""
        found = self.here.query(f"DESCRIBE {select}")
        return list(
            zip(
                found.column("column_name").to_pylist(),
                found.column("column_type").to_pylist(),
                strict=True,
            )
        )

    def _stand_for(self, select: str) -> dict[str, str]:
        places: dict[str, str] = {}
        for name in self.tables_of(select):
            table = self._table(name)
            if table is None and name in self.views:
                places[name] = f"({self._sql(self.views[name])})"
            else:
                places[name] = self._place_of(table or self._sent(name))
        return places

    def _odd_of(self, select: str) -> dict[str, dict[str, str]]:
        """The columns that Athena cannot read as they are, of the tables that a query reads."""
        tables = {name: self._table(name) for name in self.tables_of(select)}
        return {
            name: dict(table.odd)
            for name, table in tables.items()
            if table is not None and table.odd
        }

    def _place_of(self, table: GlueTable) -> str:
        """A table in Athena's SQL."""
        self._refuse_expired(table)
        full = f"{quote(table.database)}.{quote(table.name)}"
        nothing = [field.name for field in table.arrow if pa.types.is_null(field.type)]
        if not table.only and not nothing:
            return full
        odd = dict(table.odd)  # which are not in the database
        names = [name for name in table.arrow.names if name not in odd]
        columns = [
            f"CAST(NULL AS INTEGER) AS {quote(n.lower())}" if n in nothing else quote(n.lower())
            for n in names
        ]
        paths = [quote(PATH)] if table.paths else []
        where = f" WHERE {quote(PATH)} IN ({self._named(table.only)})" if table.only else ""
        return f"(SELECT {', '.join([*columns, *paths])} FROM {full}{where})"

    def _named(self, addresses: Sequence[str]) -> str:
        """Addresses in SQL: written out, or, where they are many, in a table of their own."""
        if not are_many(addresses):
            return ", ".join(map(literal, addresses))
        table = self._sent_table(pa.table({"address": pa.array(addresses, pa.string())}))
        return f"SELECT address FROM {quote(table.database)}.{quote(table.name)}"

    def _sent(self, name: str) -> GlueTable:
        """A table in memory that a query reads beside others, as an object that Athena can read."""
        return self._sent_table(self.here.query(f"SELECT * FROM {quote(name)}"))

    def _sent_table(self, rows: pa.Table) -> GlueTable:
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
        """StateError if objects of this run's own are gone: Athena would take what is left for all."""
        if table.objects < 0 or table.name in self._looked:
            return
        prefix = split_address(table.location)[1]
        there = sum(1 for _ in self.store.list(prefix))
        if there < table.objects:
            raise StateError(
                f"run {self.layout.run} cannot go on: of the {table.objects} objects that it kept "
                f"at {table.location} there are {there}",
                hint=(
                    "what lies below processing/ expires: run the job again; how long it is kept: "
                    "hundredfold deploy --keep-days"
                ),
            )
        self._looked.add(table.name)

    def _reads_afar(self, select: str) -> bool:
        """Whether a query reads rows that are not at hand."""
        return any(self._is_afar(name) for name in self.tables_of(select))

    def _is_afar(self, name: str) -> bool:
        if name in self.views:
            return self._reads_afar(self.views[name])
        return self._table(name) is not None and name not in self._near

    def _stand_here(self, name: str, table: GlueTable) -> None:
        self.tables[name] = table
        empty = table.arrow.empty_table()
        self.here.register(name, empty)
        if table.paths:
            self.here.register(
                name + WITH_PATH, empty.append_column(PATH, pa.array([], pa.string()))
            )

    def _attempt_of(self, name: str) -> int:
        """Models may be done again in a later attempt, and what they are made of with them; sources
        may not, and objects go by their content.
        """
        return (
            0
            if name.startswith(("__raw_", "__numbered_", "__settled_", "__at_", "__sent_"))
            else self.attempt
        )

    def _clear(self, key: str, glue: str) -> None:
        """Remove what a query that failed left: Athena deletes nothing."""
        self.store.delete(key)
        self._drop(glue)

    def _describe(self, table: GlueTable) -> None:
        """Let the database know Parquet objects as a table."""
        odd = {column for column, _ in table.odd}
        kept = [
            field
            for field in table.arrow
            if field.name not in odd and not pa.types.is_null(field.type)
        ]
        columns = [{"Name": field.name.lower(), "Type": hive_type(field.type)} for field in kept]
        made = {
            "Name": table.name,
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE"},
            "StorageDescriptor": {"Columns": columns, "Location": table.location, **PARQUET},
        }
        client("glue").create_table(DatabaseName=self.place.database, TableInput=made)

    def _in_database(self) -> set[str]:
        """The names of this run's tables that the database has."""
        own = self._glue_name("")
        pages = (
            client("glue")
            .get_paginator("get_tables")
            .paginate(DatabaseName=self.place.database, Expression=f"{own}*")
        )
        return {
            table["Name"]
            for page in pages
            for table in page["TableList"]
            if table["Name"].startswith(own)
        }

    def _drop(self, glue: str) -> None:
        with suppress(client("glue").exceptions.EntityNotFoundException):
            client("glue").delete_table(DatabaseName=self.place.database, Name=glue)

    def _glue_name(self, name: str) -> str:
        """The name in the database: no two runs have one that begins alike, and Glue takes 255
        letters.
        """
        return f"run_{_slug(self.layout.run)}_{_mark(self.layout.run)}__{_slug(name)}"

    def _keep_tables(self) -> None:
        """What stands for what, for later calls: one object, since no two calls of a run's steps
        are at work at a time.
        """
        put_json(
            self.store,
            self._below("tables.json"),
            {"tables": {name: asdict(table) for name, table in self.tables.items()}},
        )

    def _below(self, key: str) -> str:
        return f"{self.layout.root}/{key}"


_translated: dict[str, str] = {}  # a table's name says what is in it, so a translation stays good


def _odd(file: pq.ParquetFile) -> list[tuple[str, str]]:
    """The columns of an object of ours that Athena cannot read as they are, and why."""
    found = unsupported_columns(plain_schema(file))
    for field in file.schema_arrow:
        if (
            field.name not in found
            and is_fine(field.type)
            and has_sub_millisecond(file.read([field.name]).column(0))
        ):
            found[field.name] = "times finer than a millisecond, which is all that Athena keeps"
    return list(found.items())


def _read(name: str, kind: pa.DataType) -> str:
    """A text of Athena's as a value of a type, in DuckDB's SQL."""
    if pa.types.is_string(kind) or pa.types.is_null(kind):
        return name
    if pa.types.is_binary(kind):
        return f"unhex({name})"
    return (
        f"CAST(CAST({name} AS JSON) AS {duck_type(kind)})"
        if pa.types.is_nested(kind)
        else f"CAST({name} AS {duck_type(kind)})"
    )


def _packed(schema: pa.Schema) -> str:
    return str(schema.remove_metadata().serialize().to_pybytes().hex())


def _settled(key: str) -> str:
    """The name under which the rows that were settled for a key stand in queries."""
    return f"__settled_{_slug(Path(key).stem)}_{_mark(key)}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", text.lower())
