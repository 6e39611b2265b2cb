"""Sources that are tables of a Glue catalog: glue://DATABASE/TABLE, or some of its partitions.

The partitions are named like the folders of Hive: glue://DATABASE/TABLE/month=2026-10/region=n,s
reads those with the month 2026-10 in the regions n and s.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
from botocore.exceptions import ClientError

from ...contract import literal, quote
from ...data.checksums import get_json, put_json
from ...errors import SourceError
from ...job import Csv, Source
from ...ports.interfaces import AttachedSource, Fingerprint
from ...sql.sources.files import check_column_names
from .errors import DENIED, error_code
from .glue_table import PATH_COLUMN, GlueTable
from .glue_types import arrow_type, refuse_unsupported_columns
from .s3_objects import READ_PERMISSION_HINT
from .session import client

if TYPE_CHECKING:
    from .athena import AthenaWarehouse

ADDRESS = re.compile(
    r"glue://(?P<database>[A-Za-z0-9_-]{1,255})/(?P<table>[A-Za-z0-9_-]{1,255})"
    r"(?P<partitions>(/[^/=]+=[^/]+)*)/?"
)
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # the folder of Hive for a null
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,19}")


@dataclass(frozen=True, slots=True)
class GlueAddress:
    """A table, and the values that its partition columns may have; none for all partitions."""

    database: str
    table: str
    partitions: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def name(self) -> str:
        return f"{self.database}.{self.table}"


def parse_address(location: str) -> GlueAddress | None:
    """Parse glue://DATABASE/TABLE and the partitions after it; None for any other location."""
    found = ADDRESS.fullmatch(location)
    if not found:
        return None
    named = (part.partition("=") for part in found["partitions"].split("/")[1:])
    partitions = [
        (unquote(name).lower(), tuple(map(unquote, values.split(",")))) for name, _, values in named
    ]
    return GlueAddress(found["database"], found["table"], tuple(partitions))


def check_table(source: str, location: GlueAddress) -> None:
    """Check that a table exists and can be read, and has the partition columns of an address.

    A table that the caller's credentials may not see is checked by the run.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        found = client("glue").get_table(DatabaseName=location.database, Name=location.table)
    except ClientError as error:
        if error_code(error) == "EntityNotFoundException":
            raise _no_such_table(source, location) from error
        return
    _conditions(source, location, _schema(source, location, found["Table"]), found["Table"])


def refuse_csv(source: Source, location: str) -> None:
    """Raise SourceError if `csv=` would have no effect: Glue describes the files of its tables."""
    if parse_address(location) and source.csv != Csv():
        raise SourceError(
            f"{source.name}: {location} is a Glue table, which describes its own files, but csv= "
            "is declared too",
            hint=(
                f"name the files: --source {source.name}=s3://BUCKET/PREFIX/   or remove csv=, "
                "and set delimiter and nulls in Glue"
            ),
        )


def attach_glue_table(
    warehouse: AthenaWarehouse, source: str, name: str, location: GlueAddress
) -> AttachedSource:
    """Attach a table under a name; SourceError if it cannot be read.

    A later call of the same run finds the table as it was, but reads its description again: the
    columns may have changed since.
    """
    described = _read_table(source, location)
    schema = _schema(source, location, described)
    if name not in warehouse.tables:
        warehouse.attach_table(name, _as_table(location, described, schema))
    attached = warehouse.tables[name]
    if attached.arrow != schema:
        raise SourceError(
            f"{source}: the columns of {location.name} have changed since the run began",
            hint="run the job again: a run reads one state of its sources",
        )
    where = quote(PATH_COLUMN) if attached.paths else literal(location.name)
    plain = ", ".join(map(quote, schema.names))
    conditions = " AND ".join(_conditions(source, location, schema, described))
    select = (
        f"SELECT {plain}, {where} AS __file, CAST(NULL AS BIGINT) AS __row FROM "
        f"{warehouse.with_path(name) if attached.paths else quote(name)}"
        f"{f' WHERE {conditions}' if conditions else ''}"
    )
    return AttachedSource(
        select,
        warehouse.columns(select),
        in_file_order=False,
        fingerprints=_first_fingerprints(warehouse, source, location, described),
    )


def _first_fingerprints(
    warehouse: AthenaWarehouse, source: str, location: GlueAddress, described: Mapping[str, Any]
) -> list[Fingerprint]:
    """Return the state in which an Iceberg table was found first; none for a table whose state has
    no name.
    """
    if not _is_iceberg(described):
        return []
    kept = f"{warehouse.layout.root}/sources/{source}.table.json"
    now = _fingerprint(location, described)
    try:
        found: list[Fingerprint] = get_json(warehouse.store, kept)["fingerprints"]
        if found[0][0] == now[0]:
            return found
    except KeyError:
        pass
    put_json(warehouse.store, kept, {"fingerprints": [now]})
    return [now]


def fingerprint_of_table(address: str) -> Fingerprint:
    """Return the address of an Iceberg table, and the address of its present metadata.

    Raises:
        FileNotFoundError: the table is gone.
    """
    location = parse_address(address)
    assert location is not None
    try:
        return _fingerprint(location, _read_table(location.name, location))
    except SourceError as error:
        raise FileNotFoundError(2, error.message, address) from error


def _fingerprint(location: GlueAddress, described: Mapping[str, Any]) -> Fingerprint:
    address = f"glue://{location.database}/{location.table}"
    return [address, 0, str(described.get("Parameters", {}).get("metadata_location", ""))]


def _read_table(source: str, location: GlueAddress) -> dict[str, Any]:
    try:
        answer = client("glue").get_table(DatabaseName=location.database, Name=location.table)
    except ClientError as error:
        if error_code(error) == "EntityNotFoundException":
            raise _no_such_table(source, location) from error
        raise SourceError(
            f"{source}: the table {location.name} cannot be read: {error}",
            hint=READ_PERMISSION_HINT
            if error_code(error) in DENIED
            else "name it as glue://DATABASE/TABLE",
        ) from error
    found: dict[str, Any] = answer["Table"]
    return found


def _no_such_table(source: str, location: GlueAddress) -> SourceError:
    return SourceError(
        f"{source}: found no table {location.name} in Glue",
        hint="name it as glue://DATABASE/TABLE",
    )


def _as_table(location: GlueAddress, described: Mapping[str, Any], schema: pa.Schema) -> GlueTable:
    is_view = described.get("TableType") == "VIRTUAL_VIEW"
    return GlueTable(
        location.database,
        location.table,
        described["StorageDescriptor"].get("Location", ""),
        schema.serialize().to_pybytes().hex(),
        (),
        not is_view,
    )


def _schema(source: str, location: GlueAddress, described: Mapping[str, Any]) -> pa.Schema:
    """Return the columns of a table, its partition columns last.

    Raises:
        SourceError: it has columns that cannot be read.
    """
    fields, unsupported = [], []
    for column in _columns(described):
        name, kind = column["Name"], column["Type"]
        try:
            fields.append(pa.field(name, arrow_type(kind)))
        except KeyError:
            unsupported.append(f"{name}: {kind}, which cannot be read")
            continue
        if _is_iceberg(described) and "timestamp" in kind:
            unsupported.append(
                f"{name}: {kind} of an Iceberg table has microseconds, and Athena writes "
                f"milliseconds: in the view, CAST({quote(name)} AS timestamp(3)) AS {quote(name)}"
            )
    if unsupported:
        raise SourceError(
            f"{source}: the table {location.name} has columns of unsupported types",
            problems=unsupported,
            hint="create a view in Athena without or with converted columns, and name that: "
            f"--source {source}=glue://{location.database}/VIEW",
        )
    schema = pa.schema(fields)
    check_column_names(source, schema.names)
    refuse_unsupported_columns(source, schema)
    return schema


def _columns(described: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the columns of a table, without those that an Iceberg table had earlier."""
    for column in described["StorageDescriptor"]["Columns"]:
        if column.get("Parameters", {}).get("iceberg.field.current") != "false":
            yield column
    yield from described.get("PartitionKeys", ())


def _is_iceberg(described: Mapping[str, Any]) -> bool:
    return str(described.get("Parameters", {}).get("table_type", "")).upper() == "ICEBERG"


def _conditions(
    source: str, location: GlueAddress, schema: pa.Schema, described: Mapping[str, Any]
) -> list[str]:
    """Return the conditions in SQL for the partitions of an address.

    Raises:
        SourceError: the table has no such partition column, or a value is not of its type.
    """
    known = {
        column["Name"].lower(): column["Name"] for column in described.get("PartitionKeys", ())
    }
    conditions = []
    for name, values in location.partitions:
        if name not in known:
            raise SourceError(
                f"{source}: the table {location.name} has no partition column {name!r}",
                problems=[f"its partition columns: {', '.join(known) or 'none'}"],
                hint="name a partition column, or filter in the model's query",
            )
        kind = schema.field(known[name]).type
        found = [_literal(source, name, value, kind) for value in values if value != NULL_PARTITION]
        tests = [f"{quote(known[name])} IN ({', '.join(found)})"] if found else []
        tests += [f"{quote(known[name])} IS NULL"] * (NULL_PARTITION in values)
        conditions.append(f"({' OR '.join(tests)})")
    return conditions


def _literal(source: str, name: str, value: str, kind: pa.DataType) -> str:
    """Return the value of a partition column in SQL, of its type, so that Athena reads no other
    partition.
    """
    if pa.types.is_string(kind):
        return literal(value)
    if pa.types.is_integer(kind) and WHOLE_NUMBER.fullmatch(value):
        return str(int(value))
    if pa.types.is_date(kind):
        try:
            return f"DATE {literal(dt.date.fromisoformat(value).isoformat())}"
        except ValueError:
            pass
    raise SourceError(
        f"{source}: {name}={value} is not a value of the partition column {name}, of type {kind}",
        hint="write a whole number as 7, a date as 2026-10-31; filter columns of other types in "
        "the model's query",
    )
