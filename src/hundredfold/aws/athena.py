"""The warehouse on AWS: Athena over Parquet in S3, told in DuckDB's SQL.

A query may take minutes, and a function that waits for it is paid for waiting.  So nothing here waits: a statement that has not run yet
is raised as `Asked`, the state machine runs it, and the step is called again, finds its answer, and goes on to the next.  A step is
therefore a program that asks the same questions in the same order each time it is called.

Types are DuckDB's: empty tables of the same columns stand in a DuckDB beside it, which says what a query gives before Athena has run
it, and in which Athena's answers are put.  So a function is handed the same types here and there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from ..contract import literal, quote
from ..dialect import tables_in, to_answer, to_athena
from ..errors import QueryError, SourceError, StateError
from ..job import Layout
from ..local.warehouse import DuckWarehouse
from .place import Place, client
from .store import S3Store

HIVE = {  # Arrow's types as Glue names them
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "uint8": "smallint",
    "uint16": "int",
    "uint32": "bigint",
    "float": "float",
    "double": "double",
    "bool": "boolean",
    "string": "string",
    "large_string": "string",
    "binary": "binary",
    "date32[day]": "date",
}
PARQUET = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"},
}
PATH = "$path"  # the column in which Athena says in which object a row lies


class Asked(BaseException):
    """A statement that has to run before the step can go on. No Exception: nobody but the step's handler may catch it."""

    def __init__(self, sql: str, token: str, output: str) -> None:
        super().__init__(sql)
        self.sql, self.token, self.output = sql, token, output


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of the statement that was asked last: its query's id, or Athena's words why it failed.

    A statement that failed is asked again by the next execution of the run, and not by this one.
    """

    execution: str
    token: str = ""
    id: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table in the Glue database: objects below a prefix, or (`only`) those of them that are named."""

    database: str
    name: str
    location: str  # s3://bucket/prefix/
    schema: str  # serialized, in hex: how DuckDB sees its columns
    only: tuple[str, ...] = ()  # s3:// addresses
    paths: bool = False  # whether queries may ask in which object a row lies
    round: int = 0  # the round of the run that it belongs to; 0 where it stays as it is, such as a source

    @property
    def arrow(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.schema)))


class AthenaWarehouse:
    """SQL over a run's tables, by name. `scratch` is an empty folder of its own; `heard` answers what was asked last."""

    replays = True

    def __init__(self, store: S3Store, layout: Layout, place: Place, scratch: Path, *, memory: int, heard: Heard, round_: int = 1) -> None:
        self.store, self.layout, self.place, self.heard = store, layout, place, heard
        self.scratch, self.memory, self.round = scratch, memory, round_
        self.here = DuckWarehouse(store, scratch / "duckdb", memory=memory, threads=1)
        self.tables: dict[str, Table] = {}
        self.views: dict[str, str] = {}
        with suppress(KeyError):
            for name, fields in json.loads(store.get(self._below("tables.json")).to_pybytes()).items():
                table = Table(**{**fields, "only": tuple(fields["only"])})
                if table.round in (0, self.round):
                    self.stand(name, table, keep=False)

    # ---- the door

    def define(self, name: str, select: str) -> None:
        self.here.define(name, select)
        self.views[name] = select

    def columns(self, select: str) -> pa.Schema:
        return self.here.columns(select)

    def query(self, select: str) -> pa.Table:
        """The rows of a query, in its order. One that reads only what is in memory is answered here."""
        if not self._reads_afar(select):
            return self.here.query(select)
        schema = self.columns(select)
        found = self._run(self._identity(select), lambda: to_answer(select, self._stand_for(select), self._described))
        return self._typed(self.store.get(self._answer(found)), schema)

    def stream(self, select: str) -> Iterator[pa.RecordBatch]:
        yield from self.query(select).to_batches()

    def write(self, select: str, key: str, format: str = "parquet") -> int:
        """One object, written here, so that it is the same to the byte whoever ran the query."""
        if not self._reads_afar(select):
            return self.here.write(select, key, format)
        rows = self.query(select)
        self.here.load("__written", rows)
        try:
            return self.here.write("SELECT * FROM __written", key, format)
        finally:
            self.here.forget("__written")

    def close(self) -> None:
        self.here.close()

    # ---- what steps ask beside

    def attach(self, source: str, place: Any, folder: Any, contract_columns: Any, staged: str) -> Any:
        """The raw rows of a source, wherever they are on AWS."""
        from . import sources

        return sources.attach(self, source, str(place), contract_columns, self.scratch / "sources", memory=self.memory)

    def prints(self, paths: Sequence[str]) -> list[list[Any]]:
        """Address, size and entity tag of each object: equal prints are taken for equal contents."""
        from . import sources

        return sources.prints(paths)

    def tables_of(self, select: str) -> set[str]:
        """The names of the tables that a query reads; QueryError if it is no single query."""
        self.here.tables_of(select)
        return tables_in(select)

    def load(self, name: str, table: pa.Table) -> None:
        self.here.load(name, table)

    def keep(self, name: str, select: str) -> None:
        """Let `name` stand for the rows of a query, computed once."""
        self.create(name, select)

    def forget(self, name: str) -> None:
        table = self.tables.pop(name, None)
        if table is None:
            self.here.forget(name)
            return
        self.here.forget(name)
        self._keep_tables()

    def parquet(self, key: str) -> str:
        """A Parquet object of the store as a table in SQL."""
        name = _name_of(key)
        if name not in self.tables:
            own = f"processing/{self.layout.run}/objects/{name}/rows.parquet"  # a table is a folder: an object gets one of its own
            self.store.copy(key, own)
            self.register(name, self.store.where(own).rpartition("/")[0] + "/", self.schema_of(key))
        return quote(name)

    def settle(self, select: str, key: str) -> int:
        """Write a query's rows, however many, so that later queries read them by `parquet(key)`; how many."""
        name = _name_of(key)
        self.create(name, select)
        return int(self.query(f"SELECT count(*) AS n FROM {quote(name)}").column("n")[0].as_py())

    def create(self, name: str, select: str, *, buckets: tuple[str, int] | None = None, at: str = "") -> Table:
        """A table of a query's rows. `buckets`: an integer column and how many values it has at most, each of which gets files of its
        own; `at`: where, below processing/ of this run."""
        there = self.tables.get(name)
        if there is not None:
            return there
        schema = self.columns(select)
        identity = f"{self._identity(select)} {buckets}"
        mark = hashlib.sha256(identity.encode()).hexdigest()[:12]
        key = f"processing/{self.layout.run}/{at or f'tables/{_slug(name)}-{mark}'}"
        glue = self._glue_name(f"{name}_{mark}")
        options = {"format": "'PARQUET'", "write_compression": "'SNAPPY'", "external_location": literal(self.store.where(key) + "/")}
        if buckets:
            options |= {"bucketed_by": f"ARRAY[{literal(buckets[0])}]", "bucket_count": str(buckets[1])}
        given = ", ".join(f"{option} = {value}" for option, value in options.items())
        self._run(
            identity,
            lambda: f'CREATE TABLE "{self.place.database}"."{glue}" WITH ({given}) AS\n{self._sql(select)}',
            before=lambda: self._clear(key, glue),
        )
        table = Table(self.place.database, glue, self.store.where(key) + "/", _packed(schema), (), True, self._round_of(name))
        self.stand(name, table)
        return table

    def register(self, name: str, location: str, schema: pa.Schema, *, only: Sequence[str] = (), paths: bool = False) -> Table:
        """Let `name` stand for Parquet objects that are there."""
        glue = self._glue_name(name)
        refuse_types(name, schema)
        self._drop(glue)
        self._describe(glue, location, schema)
        table = Table(self.place.database, glue, location, _packed(schema), tuple(only), paths, self._round_of(name))
        self.stand(name, table)
        return table

    def schema_of(self, key: str) -> pa.Schema:
        """The columns of a Parquet object, from its end."""
        return pq.read_schema(
            ObjectFile(self.store.bucket, self.store.where(key).removeprefix(f"s3://{self.store.bucket}/"))
        ).remove_metadata()

    def failed(self, error: QueryError, words: str) -> bool:
        """Whether a statement failed for what Athena calls by these words."""
        return words in error.message

    def drop_all(self) -> None:
        """Take this run's tables out of the database; their objects stay until they expire."""
        for name in self._in_database():
            with suppress(ClientError):
                client("glue").delete_table(DatabaseName=self.place.database, Name=name)

    def stand_again(self) -> None:
        """Put the tables of a run that goes on back into the database: when it was done, they were taken out. StateError if their
        objects have expired: a table without objects has no rows, and Athena does not mind."""
        mark = f"processing/{self.layout.run}/begun"  # older than all else there, so that it expires first
        if not self.tables:
            self.store.put(mark, b"{}")
        elif mark not in self.store.list(f"processing/{self.layout.run}/"):
            raise StateError(
                f"run {self.layout.run} cannot go on: its tables in s3://{self.store.bucket}/processing/ have expired",
                hint="run the job again; how long they are kept: hundredfold deploy --keep-days",
            )
        there = self._in_database()
        for table in self.tables.values():
            if table.database == self.place.database and table.name not in there:
                self._describe(table.name, table.location, table.arrow)

    # ---- how

    def _run(self, identity: str, written: Callable[[], str], before: Callable[[], None] = lambda: None) -> str:
        """The id of the query that ran a statement; Asked if none has; QueryError with Athena's words if it failed.

        A statement is known by its `identity`: to write it in Athena's SQL costs more than to find its answer.
        """
        token = hashlib.sha256(f"{self.layout.run} {self.round}\n{identity}".encode()).hexdigest()
        record = self._below(f"queries/{token}.json")
        if self.heard.token == token and (self.heard.id or self.heard.error):
            self.store.put(record, json.dumps({**asdict(self.heard), "asked": identity}).encode())
        with suppress(KeyError):
            found = json.loads(self.store.get(record).to_pybytes())
            if found["id"]:
                return str(found["id"])
            if found["execution"] == self.heard.execution:
                raise QueryError(found["error"], hint=f"in: {' '.join(identity.split())[:300]}")
        before()
        raise Asked(written(), token, self.store.where(f"athena/{self.layout.run}") + "/")

    def _identity(self, select: str) -> str:
        """A query, and what the names in it stand for."""
        names = sorted(self.tables_of(select))
        return "\n".join([select, *(f"{name}: {self._stands_for(name)}" for name in names)])

    def _stands_for(self, name: str) -> str:
        if name in self.tables:
            return self.tables[name].name
        return self._identity(self.views[name]) if name in self.views else self._sent(name).name

    def _answer(self, query: str) -> str:
        return f"athena/{self.layout.run}/{query}.csv"

    def _sql(self, select: str) -> str:
        """A query in Athena's SQL, with every name that it reads put in its place."""
        return to_athena(select, self._stand_for(select), self._described)

    def _described(self, select: str) -> list[tuple[str, str]]:
        """The columns of a query: their names, and their types as DuckDB calls them."""
        found = self.here.query(f"DESCRIBE {select}")
        return list(zip(found.column("column_name").to_pylist(), found.column("column_type").to_pylist(), strict=True))

    def _stand_for(self, select: str) -> dict[str, str]:
        places: dict[str, str] = {}
        for name in self.tables_of(select):
            if name in self.tables:
                places[name] = self._place_of(self.tables[name])
            elif name in self.views:
                places[name] = f"({self._sql(self.views[name])})"
            else:
                places[name] = self._place_of(self._sent(name))
        return places

    def _place_of(self, table: Table) -> str:
        full = f'"{table.database}"."{table.name}"'
        if not table.only:
            return full
        named = ", ".join(map(literal, table.only))
        columns = ", ".join(quote(name.lower()) for name in table.arrow.names)
        return f'(SELECT {columns}, "{PATH}" FROM {full} WHERE "{PATH}" IN ({named}))'

    def _sent(self, name: str) -> Table:
        """A table in memory that a query reads beside others, as an object that Athena can read."""
        rows = self.here.query(f"SELECT * FROM {quote(name)}")
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="snappy")
        data = sink.getvalue()
        sent = f"__sent_{hashlib.sha256(data).hexdigest()[:16]}"
        if sent not in self.tables:
            key = f"processing/{self.layout.run}/sent/{sent}/rows.parquet"
            self.store.put(key, data)
            self.register(sent, self.store.where(key).rpartition("/")[0] + "/", rows.schema)
        return self.tables[sent]

    def _reads_afar(self, select: str) -> bool:
        return any(name in self.tables or (name in self.views and self._reads_afar(self.views[name])) for name in self.tables_of(select))

    def _typed(self, text: pa.Buffer, schema: pa.Schema) -> pa.Table:
        """Athena's answer, a CSV file, in the types that DuckDB gives the query."""
        from pyarrow import csv

        names = [f"c{i}" for i in range(len(schema))]
        read = csv.read_csv(
            pa.BufferReader(text),
            read_options=csv.ReadOptions(column_names=names, skip_rows=1),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),  # a null in the only column is an empty line
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
        columns = [self._column(column, field) for column, field in zip(read.columns, schema, strict=True)]
        return pa.Table.from_arrays(columns, names=schema.names)

    def _column(self, texts: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
        kind = field.type
        if pa.types.is_string(kind):
            return texts
        if pa.types.is_null(kind):
            return pa.chunked_array([pa.nulls(len(texts))])
        self.here.load("__texts", pa.table({"x": texts}))
        value = (
            f"CAST(CAST(x AS JSON) AS {_duck(kind)})"
            if pa.types.is_nested(kind)
            else "unhex(x)"
            if pa.types.is_binary(kind)
            else f"CAST(x AS {_duck(kind)})"
        )
        found = self.here.query(f"SELECT {value} AS x FROM __texts").column("x")
        self.here.forget("__texts")
        return found if found.type == kind else found.cast(kind)

    def stand(self, name: str, table: Table, *, keep: bool = True) -> None:
        """Let `name` stand for a table: here, and (`keep`) in later calls."""
        self.tables[name] = table
        empty = table.arrow.empty_table()
        if table.paths:
            empty = empty.append_column(PATH, pa.array([], pa.string()))
        self.here.forget(name)
        self.here.load(name, empty)
        if keep:
            self._keep_tables()

    def _round_of(self, name: str) -> int:
        """Models may be done again in a later round, and what they are made of with them; sources may not."""
        return 0 if name.startswith(("__raw_", "__numbered_")) or "_sources_" in name or "_rejects_" in name else self.round

    def _clear(self, key: str, glue: str) -> None:
        """Remove what a query that failed left: Athena deletes nothing."""
        self.store.delete(key)
        self._drop(glue)

    def _describe(self, glue: str, location: str, schema: pa.Schema) -> None:
        """Let the database know Parquet objects as a table."""
        columns = [{"Name": field.name.lower(), "Type": hive_type(field.type)} for field in schema]
        made = {
            "Name": glue,
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE"},
            "StorageDescriptor": {"Columns": columns, "Location": location, **PARQUET},
        }
        client("glue").create_table(DatabaseName=self.place.database, TableInput=made)

    def _in_database(self) -> set[str]:
        """The names of this run's tables that the database has."""
        own = self._glue_name("")
        pages = client("glue").get_paginator("get_tables").paginate(DatabaseName=self.place.database, Expression=f"{own}*")
        return {table["Name"] for page in pages for table in page["TableList"] if table["Name"].startswith(own)}

    def _drop(self, glue: str) -> None:
        with suppress(client("glue").exceptions.EntityNotFoundException):
            client("glue").delete_table(DatabaseName=self.place.database, Name=glue)

    def _glue_name(self, name: str) -> str:
        return f"run_{_slug(self.layout.run)}__{_slug(name)}"

    def _keep_tables(self) -> None:
        """What stands for what, for later calls: one object, since no two calls of a run's steps are at work at a time."""
        self.store.put(self._below("tables.json"), json.dumps({name: asdict(table) for name, table in self.tables.items()}).encode())

    def _below(self, key: str) -> str:
        return f"{self.layout.root}/{key}"


class ObjectFile(io.RawIOBase):
    """An object of S3 as a file that can be sought in: only what is read is fetched."""

    def __init__(self, bucket: str, key: str) -> None:
        self._bucket, self._key, self._at = bucket, key, 0
        try:
            self._size = int(client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"])
        except ClientError as error:
            raise FileNotFoundError(2, f"cannot be read: {error}", f"s3://{bucket}/{key}") from error

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        data = client("s3").get_object(Bucket=self._bucket, Key=self._key, Range=f"bytes={self._at}-{stop - 1}")["Body"].read()
        self._at = stop
        return bytes(data)

    def size(self) -> int:
        return self._size


def hive_type(kind: pa.DataType) -> str:
    """An Arrow type as Glue names it; KeyError if Athena has none for it."""
    t = pa.types
    if t.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if t.is_timestamp(kind):
        return "timestamp"
    if t.is_list(kind) or t.is_large_list(kind):
        return f"array<{hive_type(kind.value_type)}>"
    if t.is_map(kind):
        return f"map<{hive_type(kind.key_type)},{hive_type(kind.item_type)}>"
    if t.is_struct(kind):
        return f"struct<{','.join(f'{field.name}:{hive_type(field.type)}' for field in kind)}>"
    if t.is_dictionary(kind):
        return hive_type(kind.value_type)
    return HIVE[str(kind)]


def refuse_types(name: str, schema: pa.Schema) -> None:
    """SourceError for columns that Athena cannot read."""
    bad = []
    for field in schema:
        try:
            hive_type(field.type)
        except KeyError:
            bad.append(f"{field.name}: {field.type}")
    if bad:
        raise SourceError(
            f"{name} has columns of types that Athena does not have", problems=bad, hint="write them as text, a number or a timestamp"
        )


def _duck(kind: pa.DataType) -> str:
    """The type in DuckDB's SQL."""
    t = pa.types
    if t.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if t.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else {"ns": "TIMESTAMP_NS", "ms": "TIMESTAMP_MS", "s": "TIMESTAMP_S"}.get(kind.unit, "TIMESTAMP")
    if t.is_list(kind):
        return f"{_duck(kind.value_type)}[]"
    if t.is_map(kind):
        return f"MAP({_duck(kind.key_type)}, {_duck(kind.item_type)})"
    if t.is_struct(kind):
        return f"STRUCT({', '.join(f'{quote(f.name)} {_duck(f.type)}' for f in kind)})"
    plain = {
        "double": "DOUBLE",
        "float": "FLOAT",
        "bool": "BOOLEAN",
        "date32[day]": "DATE",
        "string": "VARCHAR",
        "time64[us]": "TIME",
        "null": "INTEGER",
    }
    integer = {"int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT"}
    return (
        plain.get(str(kind))
        or integer.get(str(kind))
        or {"uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER"}.get(str(kind), "UBIGINT")
    )


def _packed(schema: pa.Schema) -> str:
    return str(schema.remove_metadata().serialize().to_pybytes().hex())


def _name_of(key: str) -> str:
    """The name under which an object stands in queries."""
    return f"__at_{_slug(key)}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", text.lower())
