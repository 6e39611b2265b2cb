"""The execution of Athena's statements: queries, CREATE TABLE AS, UNLOAD, and the definitions of
tables, views and databases.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import duckdb
import pyarrow as pa
from ministack.services import athena, glue
from sqlglot import exp

from . import hive, need, setting, trino
from .hive import QueryError, Table, split_uri
from .rights import check_glue, check_s3
from .writing import encoded, file_name, parts_of, shuffled

need(athena, "_parse_ddl", "_CreateTable", "_DropTable", "_create_table_input")
need(glue, "_create_table", "_delete_table", "_create_database", "_delete_database")

UNLOAD = re.compile(
    r"\s*UNLOAD\s*\((?P<query>.*)\)\s*TO\s*'(?P<location>[^']*)'\s*(WITH\s*\((?P<how>.*)\)\s*)?",
    re.I | re.S,
)
VIEW = re.compile(r"/\* Presto View: (?P<text>\S+) \*/")
SERDES = {
    "PARQUET": ("parquet", "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"),
    "JSON": ("text", "org.apache.hive.hcatalog.data.JsonSerDe"),
    "TEXTFILE": ("text", "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe"),
}
FORMATS = {
    "parquet": (
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    ),
    "text": (
        "org.apache.hadoop.mapred.TextInputFormat",
        "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
    ),
}
ORPHANS = 3  # files that a failing statement leaves behind: Athena deletes nothing


@dataclass
class Context:
    """The context of a statement: its database, its id, and access to the rest of the account."""

    database: str
    query: str
    put: Callable[[Sequence[tuple[str, str, bytes]]], None]  # (bucket, key, data), all of them
    call: Callable[[Callable[[], Any]], Any]  # on the server's loop
    enforced: bool  # the workgroup sets the location of results
    running: Callable[[duckdb.DuckDBPyConnection], None]
    stopped: Callable[[], bool]


@dataclass(frozen=True)
class Outcome:
    """The result of a statement: rows of a query, or the files that it wrote."""

    rows: pa.Table = field(default_factory=lambda: pa.table({}))
    scanned: int = 0
    written: Sequence[str] = ()


class Statement(Protocol):
    @property
    def kind(self) -> str: ...  # DML or DDL

    @property
    def result(self) -> str: ...  # name of the result's object: "{}.csv", with the query's id

    def run(self, context: Context) -> Outcome: ...


def parse(sql: str) -> Statement:
    """Parse a statement; QueryError for an invalid one."""
    text = sql.strip().removesuffix(";").strip()
    ddl = athena._parse_ddl(text)
    if isinstance(ddl, athena._CreateTable):
        return CreateExternal(ddl)
    if isinstance(ddl, athena._DropTable):
        return DropTable(ddl.database, ddl.table.lower(), ddl.if_exists)
    if unload := UNLOAD.fullmatch(text):
        how = dict(re.findall(r"(\w+)\s*=\s*'([^']*)'", unload["how"] or ""))
        return Unload(
            trino.parse(unload["query"]),
            unload["location"],
            {name.lower(): value for name, value in how.items()},
        )
    tree = trino.parse(text)
    if isinstance(tree, exp.Query):
        return Query(tree)
    if isinstance(tree, exp.Create) and tree.kind == "TABLE" and tree.expression:
        _refuse_in_query(text, tree)
        return CreateAs(tree)
    if isinstance(tree, exp.Create) and tree.kind == "VIEW":
        return CreateView(tree)
    if isinstance(tree, exp.Create | exp.Drop) and tree.kind in ("SCHEMA", "DATABASE"):
        return Database(
            tree.this.db or tree.this.name,
            isinstance(tree, exp.Create),
            bool(tree.args.get("exists")),
            bool(tree.args.get("cascade")),
        )
    if isinstance(tree, exp.Drop) and tree.kind == "VIEW":
        return DropTable(
            tree.this.db or None, tree.this.name.lower(), bool(tree.args.get("exists"))
        )
    raise QueryError("NOT_SUPPORTED", f"the emulator does not know this statement: {text[:80]}")


def _refuse_in_query(text: str, tree: exp.Create) -> None:
    """Check the query inside a CREATE TABLE AS like any other."""
    body = re.search(r"\)\s*AS\s+(?=\(|SELECT\b|WITH\b|VALUES\b)", text, re.I)
    if body:
        trino.parse(text[body.end() :])


@dataclass(frozen=True)
class Query:
    tree: exp.Expr
    kind: str = "DML"
    result: str = "{}.csv"

    def run(self, context: Context) -> Outcome:
        rows, scanned = _rows(self.tree, context)
        return Outcome(rows if trino.is_ordered(self.tree) else shuffled(rows), scanned)


@dataclass(frozen=True)
class CreateAs:
    """Execute CREATE TABLE AS: the files first, then the table; files stay if the statement fails
    after them.
    """

    tree: exp.Create
    kind: str = "DDL"
    result: str = "tables/{}"

    def run(self, context: Context) -> Outcome:
        how = _properties(self.tree)
        database, name = (
            (self.tree.this.db or context.database).lower(),
            self.tree.this.name.lower(),
        )
        location = str(how.get("external_location") or "")
        if location and context.enforced:
            raise QueryError(
                "INVALID_TABLE_PROPERTY",
                "The Create Table As Select query failed because it was submitted with an "
                "'external_location' property to an Athena Workgroup that enforces a centralized "
                "output location for all queries. Please remove the 'external_location' property "
                "and resubmit",
            )
        if not location:
            raise QueryError("NOT_SUPPORTED", "the emulator wants external_location")
        _refuse_taken(database, name, location)
        rows, scanned = _rows(self.tree.expression, context)
        _refuse_types(self.tree.expression, rows)
        rows = rows.rename_columns([column.lower() for column in rows.column_names])
        buckets = [column.lower() for column in how.get("bucketed_by", [])]
        count = int(how.get("bucket_count", 0))
        _refuse_buckets(buckets, count, rows)
        format, compression = _form(how)
        check_glue("glue:CreateTable", database, name)
        written = _write(rows, location, format, compression, buckets, count, context)
        context.call(
            lambda: _register(
                database, name, rows.schema, location, format, compression, buckets, count
            )
        )
        return Outcome(scanned=scanned, written=written)


@dataclass(frozen=True)
class Unload:
    tree: exp.Expr
    location: str
    how: dict[str, str]
    kind: str = "DML"
    result: str = "{}.csv"

    def run(self, context: Context) -> Outcome:
        bucket, prefix = split_uri(self.location)
        if hive.keys_below(bucket, prefix):
            raise QueryError(
                "HIVE_PATH_ALREADY_EXISTS",
                f"Target directory for table already exists: {self.location}",
            )
        rows, scanned = _rows(self.tree, context)
        _refuse_types(self.tree, rows)
        format, compression = _form(
            {"format": self.how.get("format"), "write_compression": self.how.get("compression")}
        )
        return Outcome(
            scanned=scanned,
            written=_write(rows, self.location, format, compression, [], 0, context),
        )


@dataclass(frozen=True)
class CreateExternal:
    """Execute CREATE EXTERNAL TABLE, as MiniStack parses it."""

    ddl: Any
    kind: str = "DDL"
    result: str = "{}.txt"

    def run(self, context: Context) -> Outcome:
        database, name = (self.ddl.database or context.database).lower(), self.ddl.table.lower()
        if not self.ddl.external:
            raise QueryError(
                "FAILED", "SemanticException: external keyword is required for table type HIVE"
            )
        if database not in glue._databases:
            raise QueryError(
                "FAILED", f"SemanticException [Error 10072]: Database does not exist: {database}"
            )
        check_glue("glue:CreateTable", database, name)
        if f"{database}/{name}" in glue._tables:
            if self.ddl.if_not_exists:
                return Outcome()
            raise QueryError(
                "FAILED",
                "Execution Error, return code 1 from DDLTask. "
                f"AlreadyExistsException(message:Table {name} already exists.)",
            )
        table = {**athena._create_table_input(self.ddl), "Name": name}
        context.call(lambda: glue._create_table({"DatabaseName": database, "TableInput": table}))
        return Outcome()


@dataclass(frozen=True)
class DropTable:
    """Execute DROP TABLE and DROP VIEW: the facts is removed, the files stay."""

    database: str | None
    table: str
    if_exists: bool
    kind: str = "DDL"
    result: str = "{}.txt"

    def run(self, context: Context) -> Outcome:
        database = (self.database or context.database).lower()
        if f"{database}/{self.table}" not in glue._tables:
            if self.if_exists:
                return Outcome()
            raise QueryError(
                "FAILED",
                f"SemanticException [Error 10001]: Table not found {database}.{self.table}",
            )
        check_glue("glue:DeleteTable", database, self.table)
        context.call(lambda: glue._delete_table({"DatabaseName": database, "Name": self.table}))
        return Outcome()


@dataclass(frozen=True)
class Database:
    name: str
    create: bool
    lenient: bool  # IF NOT EXISTS, IF EXISTS
    cascade: bool
    kind: str = "DDL"
    result: str = "{}.txt"

    def run(self, context: Context) -> Outcome:
        name = self.name.lower()
        check_glue("glue:CreateDatabase" if self.create else "glue:DeleteDatabase", name)
        if (name in glue._databases) == self.create:
            if self.lenient:
                return Outcome()
            message = (
                f"Database {name} already exists"
                if self.create
                else f"SemanticException [Error 10072]: Database does not exist: {name}"
            )
            raise QueryError("FAILED", message)
        if self.create:
            context.call(lambda: glue._create_database({"DatabaseInput": {"Name": name}}))
            return Outcome()
        if not self.cascade and any(key.startswith(f"{name}/") for key in glue._tables):
            raise QueryError(
                "FAILED",
                f"InvalidOperationException(message:Database {name} is not empty. One or more "
                "tables exist.)",
            )
        context.call(lambda: glue._delete_database({"Name": name}))
        return Outcome()


@dataclass(frozen=True)
class CreateView:
    """Store a view as Athena does: its text in Base64, in the Data Catalog."""

    tree: exp.Create
    kind: str = "DDL"
    result: str = "{}.txt"

    def run(self, context: Context) -> Outcome:
        database, name = (
            (self.tree.this.db or context.database).lower(),
            self.tree.this.name.lower(),
        )
        check_glue("glue:CreateTable", database, name)
        if f"{database}/{name}" in glue._tables:
            if not self.tree.args.get("replace"):
                raise QueryError(
                    "TABLE_ALREADY_EXISTS",
                    f"line 1:1: View already exists: 'awsdatacatalog.{database}.{name}'",
                )
            context.call(lambda: glue._delete_table({"DatabaseName": database, "Name": name}))
        rows, _ = _rows(self.tree.expression, context)
        facts = json.dumps({"originalSql": self.tree.expression.sql("trino"), "schema": database})
        view = {
            "Name": name,
            "TableType": "VIRTUAL_VIEW",
            "ViewOriginalText": f"/* Presto View: {base64.b64encode(facts.encode()).decode()} */",
            "Parameters": {"presto_view": "true"},
            "StorageDescriptor": {"Columns": _glue_columns(rows.schema), "Location": ""},
        }
        context.call(lambda: glue._create_table({"DatabaseName": database, "TableInput": view}))
        return Outcome()


def _rows(tree: exp.Expr, context: Context) -> tuple[pa.Table, int]:
    return trino.run(
        tree,
        context.database,
        lambda database, name, only: _table(database, name, only, context),
        context.running,
    )


def _table(database: str, name: str, only: frozenset[str] | None, context: Context) -> Table:
    """Return a table's rows, or a view's; `only`: those of some of a table's files."""
    found = glue._tables.get(f"{database}/{name}") or {}
    view = VIEW.match(found.get("ViewOriginalText") or "")
    if not view:
        return hive.read_table(database, name, only)
    check_glue("glue:GetTable", database, name)
    facts = json.loads(base64.b64decode(view["text"]))
    rows, scanned = trino.run(
        trino.parse(facts["originalSql"]),
        facts["schema"],
        lambda d, n, o: _table(d, n, o, context),
        context.running,
    )
    columns = [hive.Column(f.name.lower(), hive.hive_type(f.type)) for f in rows.schema]
    return Table(
        columns,
        rows.rename_columns([c.name for c in columns]).append_column(
            "$path", pa.nulls(len(rows), pa.string())
        ),
        scanned,
    )


def _properties(tree: exp.Create) -> dict[str, Any]:
    """The WITH options of a CREATE TABLE AS."""
    found: dict[str, Any] = {}
    for one in tree.args["properties"].expressions if tree.args.get("properties") else []:
        if isinstance(one, exp.FileFormatProperty):
            found["format"] = one.this.name
        elif isinstance(one, exp.PartitionedByProperty):
            found["partitioned_by"] = [part.name for part in one.this.expressions]
        else:
            value = one.args["value"]
            found[one.name.lower()] = (
                [part.name for part in value.expressions]
                if isinstance(value, exp.Array)
                else value.name
            )
    known = {
        "format",
        "external_location",
        "bucketed_by",
        "bucket_count",
        "write_compression",
        "parquet_compression",
        "table_type",
        "is_external",
    }
    if unknown := sorted(set(found) - known):
        raise QueryError(
            "NOT_SUPPORTED", f"the emulator does not know the table property {unknown[0]}"
        )
    return found


def _form(how: dict[str, Any]) -> tuple[str, str]:
    """Return format and compression; GZIP is Athena's default for both formats."""
    compression = how.get("write_compression") or how.get("parquet_compression") or "GZIP"
    return (how.get("format") or "PARQUET").upper(), compression.upper()


def _refuse_taken(database: str, name: str, location: str) -> None:
    if database not in glue._databases:
        raise QueryError("SCHEMA_NOT_FOUND", f"line 1:1: Schema '{database}' does not exist")
    if f"{database}/{name}" in glue._tables:
        raise QueryError(
            "TABLE_ALREADY_EXISTS",
            f"line 1:1: Destination table 'awsdatacatalog.{database}.{name}' already exists",
        )
    bucket, prefix = split_uri(location)
    check_s3("s3:ListBucket", bucket)
    if hive.keys_below(bucket, prefix):
        raise QueryError(
            "HIVE_PATH_ALREADY_EXISTS",
            f"Target directory for table '{database}.{name}' already exists: {location}. You may "
            f"need to manually clean the data at location '{location}' before retrying. Athena "
            "will not delete data in your account.",
        )


def _refuse_types(tree: exp.Expr, rows: pa.Table) -> None:
    """Refuse types that Hive's files cannot store."""
    for number, (column, kind) in enumerate(
        zip(trino.outputs(tree), rows.schema.types, strict=False), 1
    ):
        if not column.alias_or_name and not isinstance(column, exp.Star):
            raise QueryError(
                "MISSING_COLUMN_NAME", f"line 1:1: Column name not specified at position {number}"
            )
        inner = column.unalias()
        if (
            isinstance(inner, exp.Cast)
            and inner.to.this == exp.DType.TIMESTAMP
            and any(int(p.name) > 3 for p in inner.to.expressions)
        ):
            precise = inner.to.sql("trino").lower()
            raise QueryError(
                "NOT_SUPPORTED",
                f"Incorrect timestamp precision for {precise}; the configured precision is "
                "MILLISECONDS",
            )
        if pa.types.is_timestamp(kind) and kind.tz:
            raise QueryError("NOT_SUPPORTED", "Unsupported Hive type: timestamp(3) with time zone")
        if pa.types.is_null(kind):
            raise QueryError("NOT_SUPPORTED", "Unsupported Hive type: unknown")
    lower = [name.lower() for name in rows.column_names]
    if twice := {name for name in lower if lower.count(name) > 1}:
        raise QueryError(
            "DUPLICATE_COLUMN_NAME",
            f"line 1:1: Column name '{min(twice)}' specified more than once",
        )


def _refuse_buckets(buckets: Sequence[str], count: int, rows: pa.Table) -> None:
    if bool(buckets) != bool(count):
        raise QueryError(
            "INVALID_TABLE_PROPERTY",
            "Bucketing columns and bucket count must be specified together",
        )
    if missing := [name for name in buckets if name not in rows.column_names]:
        raise QueryError(
            "INVALID_TABLE_PROPERTY", f"Bucketing columns {missing} not present in schema"
        )
    if count > 1_000_000:
        raise QueryError("INVALID_TABLE_PROPERTY", "bucket_count should be no more than 1000000")


def _write(
    rows: pa.Table,
    location: str,
    format: str,
    compression: str,
    buckets: Sequence[str],
    count: int,
    context: Context,
) -> list[str]:
    """Write the rows as files; return their addresses.

    They are stored a few at a time, and each is visible to others at once.
    """
    bucket, prefix = split_uri(location)
    parts = parts_of(rows, buckets, count)
    if parts:
        check_s3("s3:PutObject", bucket, prefix + "file")
    limit = setting("open_writers", None)
    refused = bool(buckets) and limit is not None and len(parts) > limit
    written: list[str] = []
    for group in _grouped(parts[:ORPHANS] if refused else parts, 20):
        if context.stopped():
            break
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%d_%H%M%S_00000_") + context.query[:5]
        files = [
            (
                bucket,
                prefix + file_name(stamp, format, compression),
                encoded(part, format, compression),
            )
            for part in group
        ]
        context.put(files)
        written += [f"s3://{bucket}/{key}" for _, key, _ in files]
    if refused:
        raise QueryError(
            "HIVE_TOO_MANY_OPEN_PARTITIONS",
            f"Exceeded limit of {limit} open writers for partitions/buckets",
        )
    return written


def _grouped(parts: Sequence[pa.Table], size: int) -> Iterator[Sequence[pa.Table]]:
    return (parts[first : first + size] for first in range(0, len(parts), size))


def _register(
    database: str,
    name: str,
    schema: pa.Schema,
    location: str,
    format: str,
    compression: str,
    buckets: Sequence[str],
    count: int,
) -> None:
    kind, serde = SERDES[format]
    table = {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {
            "EXTERNAL": "TRUE",
            "has_encrypted_data": "false",
            "write.compression": compression,
        },
        "StorageDescriptor": {
            "Columns": _glue_columns(schema),
            "Location": location,
            "InputFormat": FORMATS[kind][0],
            "OutputFormat": FORMATS[kind][1],
            "SerdeInfo": {
                "SerializationLibrary": serde,
                "Parameters": {"serialization.format": "1"},
            },
            "BucketColumns": list(buckets),
            "NumberOfBuckets": count or -1,
        },
        "PartitionKeys": [],
    }
    glue._create_table({"DatabaseName": database, "TableInput": table})


def _glue_columns(schema: pa.Schema) -> list[dict[str, str]]:
    return [{"Name": f.name.lower(), "Type": hive.hive_type(f.type)} for f in schema]
