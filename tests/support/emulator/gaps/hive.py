"""Tables as Athena stores them: Hive's types, the files under a location, and how each format is
read and written.

A file is read by its table's declaration, as on AWS: columns by name in any case, a missing one is
NULL, and a type that does not fit is HIVE_BAD_DATA.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ministack.services import glue, s3

from . import need
from .rights import check_glue, check_s3

need(s3, "_buckets", "_get_object_data")
need(glue, "_tables", "_databases", "_partitions")

CACHE = 512 * 2**20  # bytes of rows that stay in memory
SIMPLE = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "real": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "varchar": pa.string(),
    "char": pa.string(),
    "binary": pa.binary(),
    "varbinary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("ms"),
}


class QueryError(Exception):
    """A failed query: Athena's name of the error, and the message."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")


@dataclass(frozen=True)
class Column:
    name: str
    hive: str  # Hive's name of the type

    @property
    def kind(self) -> pa.DataType:
        return arrow_type(self.hive)


@dataclass(frozen=True)
class Table:
    """A table of the Data Catalog: its rows with `"$path"` as the last column, and the bytes that
    were read.
    """

    columns: Sequence[Column]
    rows: pa.Table
    scanned: int


def arrow_type(hive: str) -> pa.DataType:
    """Return Hive's or Trino's type as Arrow's; QueryError for one that Athena does not have."""
    text = hive.strip().lower()
    outer, _, inner = text.rstrip(")>").partition("<" if "<" in text else "(")
    outer, inner = outer.strip(), text[len(outer) + 1 : -1] if inner else ""
    if outer == "decimal":
        precision, scale = (
            ([int(number) for number in inner.split(",")] + [0])[:2] if inner else (10, 0)
        )
        return pa.decimal128(precision, scale)
    if outer == "array":
        return pa.list_(arrow_type(inner))
    if outer == "map":
        key, value = _split(inner)
        return pa.map_(arrow_type(key), arrow_type(value))
    if outer == "struct":
        return pa.struct(
            [
                pa.field(name.strip(), arrow_type(kind))
                for name, _, kind in (f.partition(":") for f in _split(inner))
            ]
        )
    if outer not in SIMPLE:
        raise QueryError("HIVE_INVALID_METADATA", f"Glue table type {hive} is not supported")
    return SIMPLE[outer]


def hive_type(kind: pa.DataType) -> str:
    """Return Arrow's type under Hive's name."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return f"array<{hive_type(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{hive_type(kind.key_type)},{hive_type(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{f.name}:{hive_type(f.type)}' for f in kind)}>"
    return next(name for name, simple in SIMPLE.items() if simple == kind)


def split_uri(uri: str) -> tuple[str, str]:
    """Return s3://bucket/prefix as bucket and prefix, with a slash at its end: a location is a
    folder.
    """
    found = re.fullmatch(r"s3a?://([^/]+)/?(.*?)/*", uri)
    if not found:
        raise QueryError("HIVE_METASTORE_ERROR", f"not an S3 location: {uri}")
    return found[1], found[2] + "/" if found[2] else ""


def keys_below(bucket: str, prefix: str) -> list[str]:
    """Yield every key below a prefix, in order."""
    if bucket not in s3._buckets:
        raise QueryError("PERMISSION_DENIED", f"Access denied or no such bucket: {bucket}")
    return sorted(key for key in list(s3._buckets[bucket]["objects"]) if key.startswith(prefix))


def read_table(database: str, name: str, only: frozenset[str] | None = None) -> Table:
    """Return a table's rows, or those in some of its files.

    Raises QueryError if there is no such table, or its files do not fit its declaration.
    """
    check_glue("glue:GetTable", database, name)
    found = glue._tables.get(f"{database}/{name}")
    if not found:
        raise QueryError(
            "TABLE_NOT_FOUND", f"line 1:1: Table 'awsdatacatalog.{database}.{name}' does not exist"
        )
    storage = found["StorageDescriptor"]
    columns = [
        Column(column["Name"].lower(), column["Type"]) for column in storage.get("Columns", [])
    ]
    parts = [
        Column(column["Name"].lower(), column["Type"])
        for column in found.get("PartitionKeys") or []
    ]
    locations: list[tuple[str, Sequence[Any]]] = [(storage["Location"], [])]
    if parts:
        partitions = glue._partitions.get(f"{database}/{name}") or []
        locations = [
            (
                p["StorageDescriptor"]["Location"],
                [parsed(text, part.kind) for text, part in zip(p["Values"], parts, strict=True)],
            )
            for p in partitions
        ]
    reader = _reader(found)
    schema = pa.schema([*((c.name, c.kind) for c in [*columns, *parts]), ("$path", pa.string())])
    pieces, scanned = [schema.empty_table()], 0
    for location, values in locations:
        for uri, size, rows in _objects(location, reader, columns, only):
            for part, value in zip(parts, values, strict=True):
                rows = rows.append_column(
                    part.name, pa.repeat(pa.scalar(value, part.kind), len(rows))
                )
            pieces.append(rows.append_column("$path", pa.repeat(uri, len(rows))))
            scanned += size
    return Table([*columns, *parts], pa.concat_tables(pieces), scanned)


def _objects(
    location: str, reader: Reader, columns: Sequence[Column], only: frozenset[str] | None
) -> Iterator[tuple[str, int, pa.Table]]:
    """Yield each file of a location: its address, size and rows.

    Trino skips empty and hidden files.
    """
    bucket, prefix = split_uri(location)
    check_s3("s3:ListBucket", bucket)
    for key in keys_below(bucket, prefix):
        hidden = any(part.startswith(("_", ".")) for part in key[len(prefix) :].split("/"))
        entry = s3._buckets[bucket]["objects"].get(key)
        if (
            hidden
            or entry is None
            or not entry["size"]
            or (only is not None and f"s3://{bucket}/{key}" not in only)
        ):
            continue
        check_s3("s3:GetObject", bucket, key)
        uri = f"s3://{bucket}/{key}"
        mark = (uri, entry["etag"], reader.mark, tuple(columns))
        rows = KEPT.get(mark)
        if rows is None:
            data = s3._get_object_data(bucket, key)
            rows = reader.read(gzip.decompress(data) if key.endswith(".gz") else data, columns, uri)
            KEPT.put(mark, rows)
        yield uri, entry["size"], rows


@dataclass(frozen=True)
class Reader:
    """Return how a table's files are read, and a mark that distinguishes two formats."""

    read: Callable[[bytes, Sequence[Column], str], pa.Table]
    mark: str


def _reader(table: Mapping[str, Any]) -> Reader:
    storage = table["StorageDescriptor"]
    serde = storage.get("SerdeInfo") or {}
    library = str(serde.get("SerializationLibrary", ""))
    how = {**(table.get("Parameters") or {}), **(serde.get("Parameters") or {})}
    reads = {
        "parquet": read_parquet,
        "json": read_json,
        "opencsv": read_csv,
        "lazysimple": read_text,
    }
    for word, read in reads.items():
        if word in library.lower():
            return Reader(partial(read, how=how), f"{word} {sorted(how.items())}")
    raise QueryError(
        "HIVE_UNSUPPORTED_FORMAT",
        f"Unable to create input format {storage.get('InputFormat')} ({library})",
    )


def read_parquet(
    data: bytes, columns: Sequence[Column], uri: str, how: Mapping[str, str]
) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise QueryError("HIVE_BAD_DATA", f"Not valid Parquet file: {uri} ({error})") from error
    there = {name.lower(): name for name in file.schema_arrow.names}
    try:
        rows = file.read(columns=[there[column.name] for column in columns if column.name in there])
    except (pa.ArrowException, OSError) as error:
        raise QueryError("HIVE_CURSOR_ERROR", f"Failed to read Parquet file: {uri}") from error
    arrays = []
    for column in columns:
        found = (
            rows[there[column.name]]
            if column.name in there
            else pa.chunked_array([pa.nulls(len(rows), column.kind)])
        )
        # as Arrow alone reads it, from its own metadata in the file: for Parquet it is a number
        if pa.types.is_duration(found.type):
            found = found.cast(pa.int64())
        if not _fits(found.type, column.kind):
            raise QueryError(
                "HIVE_BAD_DATA",
                f"Field {column.name}'s type {str(found.type).upper()} in parquet file {uri} is "
                f"incompatible with type {column.hive} defined in table schema",
            )
        arrays.append(converted(found, column.kind))
    return pa.table(arrays, [column.name for column in columns])


def converted(array: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Convert a column; an instant is rounded to milliseconds, as Athena stores it, and loses its
    zone.
    """
    if pa.types.is_timestamp(array.type) and pa.types.is_timestamp(kind):
        bare = array.cast(pa.timestamp(array.type.unit))
        return (
            bare if array.type.unit == "s" else pc.round_temporal(bare, unit="millisecond")
        ).cast(kind)
    if pa.types.is_nested(kind):
        return pa.chunked_array(
            [pa.array([_in_small_letters(value) for value in array.to_pylist()], kind)]
        )
    return array.cast(kind)


def _in_small_letters(value: Any) -> Any:
    """Find fields of a struct in any case."""
    if isinstance(value, dict):
        return {name.lower(): _in_small_letters(field) for name, field in value.items()}
    return [_in_small_letters(item) for item in value] if isinstance(value, list) else value


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether Athena reads a Parquet column of that type as a column of this declaration."""
    types = pa.types
    if types.is_integer(wanted):
        small = types.is_integer(found) and found.bit_width <= 32
        unsigned = small and types.is_uint32(found)
        return bool(
            (small and not unsigned)
            or (wanted == pa.int64() and (unsigned or types.is_int64(found)))
        )
    if types.is_floating(wanted):
        return bool(types.is_float32(found) or found == wanted)
    if types.is_string(wanted) or types.is_binary(wanted):
        plain = found.value_type if types.is_dictionary(found) else found
        return any(
            same(plain)
            for same in (
                types.is_string,
                types.is_large_string,
                types.is_binary,
                types.is_large_binary,
            )
        )
    for same in (
        types.is_boolean,
        types.is_decimal,
        types.is_date,
        types.is_timestamp,
        types.is_list,
        types.is_map,
        types.is_struct,
    ):
        if same(wanted):
            return (
                bool(same(found))
                or (same is types.is_list and types.is_large_list(found))
                or types.is_null(found)
            )
    return False


class Raw(str):
    """Keep a JSON number as it was written, for columns declared as strings."""

    __slots__ = ()


def read_json(data: bytes, columns: Sequence[Column], uri: str, how: Mapping[str, str]) -> pa.Table:
    """Read one object per line, with keys in any case."""
    lists: list[list[Any]] = [[] for _ in columns]
    for line in data.decode().splitlines():
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_float=Raw, parse_int=Raw)
            row = {key.lower(): value for key, value in found.items()}
        except (ValueError, AttributeError) as error:
            if how.get("ignore.malformed.json", "").lower() != "true":
                raise QueryError(
                    "HIVE_CURSOR_ERROR",
                    f"Row is not a valid JSON Object - JSONException: {error} [in {uri}]",
                ) from error
            row = {}
        for values, column in zip(lists, columns, strict=True):
            values.append(_typed(row.get(column.name), column, uri))
    return _columnar(lists, columns)


def read_csv(data: bytes, columns: Sequence[Column], uri: str, how: Mapping[str, str]) -> pa.Table:
    """Read OpenCSVSerde: every line is a row, also inside quotes; only a missing value is NULL."""
    style = {
        "delimiter": how.get("separatorChar", ","),
        "quotechar": how.get("quoteChar", '"'),
        "escapechar": how.get("escapeChar", "\\"),
    }
    lines = _lines(data, how)
    rows = (
        next(csv.reader([line], doublequote=True, **style), [])  # type: ignore[arg-type]
        for line in lines
    )
    return _rows(rows, columns, lambda text, column: _open_csv(text, column, uri))


def read_text(data: bytes, columns: Sequence[Column], uri: str, how: Mapping[str, str]) -> pa.Table:
    """Read LazySimpleSerDe: no quotes; `\\N` and values that do not match the type are NULL."""
    separator = how.get("field.delim") or how.get("serialization.format") or "\x01"
    null = how.get("serialization.null.format", "\\N")
    return _rows(
        (line.split("\x01" if separator == "1" else separator) for line in _lines(data, how)),
        columns,
        lambda text, column: None if text == null else _or_none(text, column.kind),
    )


def _lines(data: bytes, how: Mapping[str, str]) -> list[str]:
    lines = data.decode().split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)][
        int(how.get("skip.header.line.count", 0)) :
    ]


def _rows(
    rows: Iterator[list[str]], columns: Sequence[Column], value: Callable[[str, Column], Any]
) -> pa.Table:
    """Return fields as columns: surplus ones are dropped, missing ones are NULL."""
    lists: list[list[Any]] = [[] for _ in columns]
    for row in rows:
        for number, (values, column) in enumerate(zip(lists, columns, strict=True)):
            values.append(value(row[number], column) if number < len(row) else None)
    return _columnar(lists, columns)


def _columnar(lists: Sequence[list[Any]], columns: Sequence[Column]) -> pa.Table:
    return pa.table(
        [pa.array(values, c.kind) for values, c in zip(lists, columns, strict=True)],
        [c.name for c in columns],
    )


def parsed(text: str, kind: pa.DataType) -> Any:
    """Parse a text as a value of that type; ValueError if it does not match."""
    if pa.types.is_string(kind):
        return str(text)
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}[text.lower()]
    if pa.types.is_integer(kind):
        value = int(text)
        return pa.scalar(value, kind).as_py()
    if pa.types.is_floating(kind):
        return float(text)
    if pa.types.is_decimal(kind):
        return pa.scalar(Decimal(text), pa.decimal128(38, kind.scale)).cast(kind).as_py()
    if pa.types.is_date(kind):
        return dt.date.fromisoformat(text)
    if pa.types.is_timestamp(kind):
        moment = dt.datetime.fromisoformat(text)
        return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment
    if pa.types.is_binary(kind):
        return text.encode()
    raise ValueError(f"{kind} cannot be read from text")


def _typed(value: Any, column: Column, uri: str, kind: pa.DataType | None = None) -> Any:
    """Convert a JSON value to the column's type."""
    kind = kind or column.kind
    if value is None:
        return None
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_typed(item, column, uri, kind.value_type) for item in value]
    if pa.types.is_struct(kind) and isinstance(value, dict):
        lower = {key.lower(): item for key, item in value.items()}
        return {part.name: _typed(lower.get(part.name), column, uri, part.type) for part in kind}
    if pa.types.is_map(kind) and isinstance(value, dict):
        return [
            (parsed(key, kind.key_type), _typed(item, column, uri, kind.item_type))
            for key, item in value.items()
        ]
    text = value if isinstance(value, str) else json.dumps(value)
    return _or_bad(text, column, uri, kind)


def _open_csv(text: str, column: Column, uri: str) -> Any:
    """Parse OpenCSVSerde's dates and instants: days and milliseconds since 1970."""
    if pa.types.is_date(column.kind):
        return dt.date(1970, 1, 1) + dt.timedelta(days=_or_bad(text, column, uri, pa.int64()))
    if pa.types.is_timestamp(column.kind):
        return dt.datetime(1970, 1, 1) + dt.timedelta(
            milliseconds=_or_bad(text, column, uri, pa.int64())
        )
    return _or_bad(text, column, uri, column.kind)


def _or_bad(text: str, column: Column, uri: str, kind: pa.DataType) -> Any:
    try:
        return parsed(text, kind)
    except (ValueError, KeyError, ArithmeticError, pa.ArrowException) as error:
        raise QueryError(
            "HIVE_BAD_DATA",
            f"Error parsing field value '{text}' for field {column.name} ({column.hive}) in {uri}",
        ) from error


def _or_none(text: str, kind: pa.DataType) -> Any:
    try:
        return parsed(text, kind)
    except (ValueError, KeyError, ArithmeticError, pa.ArrowException):
        return None


def _split(inner: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for character in inner:
        depth += (character in "<(") - (character in ">)")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


@dataclass
class Kept:
    """Rows of files that were read before: every query on a batch table reads it again.

    The oldest are dropped first.
    """

    size: int = 0
    rows: OrderedDict[tuple[Any, ...], pa.Table] = field(default_factory=OrderedDict)

    def get(self, mark: tuple[Any, ...]) -> pa.Table | None:
        return self.rows.get(mark)

    def put(self, mark: tuple[Any, ...], rows: pa.Table) -> None:
        self.rows[mark] = rows
        self.size += rows.nbytes
        while self.size > CACHE and len(self.rows) > 1:
            self.size -= self.rows.popitem(last=False)[1].nbytes


KEPT = Kept()
