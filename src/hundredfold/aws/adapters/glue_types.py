"""Types in Arrow, Glue and DuckDB, and the column names that a table on AWS can have.

Athena stores times to the millisecond and column names in lower case. It has no time of day, no
duration, and no unsigned type above 32 bits.
"""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from ...data.numpy_columns import to_numpy
from ...errors import SourceError

GLUE_TYPES = {  # Arrow type to Glue type
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
    "large_binary": "binary",
    "date32[day]": "date",
}
ARROW_TYPES = {
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}


def glue_type(kind: pa.DataType) -> str:
    """Return the Glue type of an Arrow type; KeyError if Athena has none for it."""
    t = pa.types
    if t.is_decimal128(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if t.is_timestamp(kind):
        return "timestamp"
    if t.is_list(kind) or t.is_large_list(kind):
        return f"array<{glue_type(kind.value_type)}>"
    if t.is_map(kind):
        return f"map<{glue_type(kind.key_type)},{glue_type(kind.item_type)}>"
    if t.is_struct(kind):
        return (
            f"struct<{','.join(f'{field.name.lower()}:{glue_type(field.type)}' for field in kind)}>"
        )
    if t.is_dictionary(kind):
        return glue_type(kind.value_type)
    return GLUE_TYPES[str(kind)]


def arrow_type(hive: str) -> pa.DataType:
    """Return the Arrow type of a Glue type; KeyError if there is none."""
    decimal = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", hive)
    if decimal:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    nested = re.fullmatch(r"(array|map|struct)<(.+)>", hive)
    if not nested:
        return ARROW_TYPES["string" if re.fullmatch(r"(var)?char(\(\d+\))?", hive) else hive]
    parts = _parts_of(nested[2])
    if nested[1] == "struct":
        fields = [part.partition(":") for part in parts]
        return pa.struct([pa.field(name.strip(), arrow_type(kind)) for name, _, kind in fields])
    kinds = [arrow_type(part) for part in parts]
    if len(kinds) != (2 if nested[1] == "map" else 1):
        raise KeyError(hive)
    return pa.map_(*kinds) if nested[1] == "map" else pa.list_(*kinds)


def _parts_of(inner: str) -> list[str]:
    """Split the types within a nested type at the commas that are not in a type of their own."""
    parts, depth = [""], 0
    for letter in inner:
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def duckdb_schema(file: pq.ParquetFile) -> pa.Schema:
    """Return the columns of a Parquet file, in the types in which DuckDB reads them."""
    physical = {
        file.schema.column(i).path: file.schema.column(i).physical_type
        for i in range(len(file.schema))
    }
    fields = [
        pa.field(
            f.name,
            pa.timestamp("us")
            if physical.get(f.name) == "INT96"
            else _duckdb_type_as_arrow(f.type),
        )
        for f in file.schema_arrow
    ]
    return pa.schema(fields)


def _duckdb_type_as_arrow(kind: pa.DataType) -> pa.DataType:
    t = pa.types
    if t.is_dictionary(kind):
        return _duckdb_type_as_arrow(kind.value_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if t.is_duration(kind):
        return pa.int64()
    if t.is_time(kind):
        return pa.time64("us")
    if t.is_timestamp(kind):
        return pa.timestamp("ns" if kind.unit == "ns" else "us", "UTC" if kind.tz else None)
    if t.is_date64(kind):
        return pa.date32()
    if t.is_list(kind) or t.is_large_list(kind):
        return pa.list_(_duckdb_type_as_arrow(kind.value_type))
    return kind


def has_sub_millisecond(column: pa.ChunkedArray) -> bool:
    """Return whether a column holds a time finer than a millisecond."""
    if pa.types.is_list(column.type):
        return any(
            has_sub_millisecond(pa.chunked_array([chunk.flatten()])) for chunk in column.chunks
        )
    if not may_have_sub_millisecond(column.type):
        return False
    step = 1_000 if column.type.unit == "us" else 1_000_000
    return any(
        bool((to_numpy(chunk.drop_null().view(pa.int64()), False) % step).any())
        for chunk in column.chunks
    )


def may_have_sub_millisecond(kind: pa.DataType) -> bool:
    """Return whether a type can hold times finer than Athena's millisecond."""
    if pa.types.is_list(kind):
        return may_have_sub_millisecond(kind.value_type)
    return bool(pa.types.is_timestamp(kind) and kind.unit in ("us", "ns"))


def unsupported_columns(schema: pa.Schema) -> dict[str, str]:
    """Return the columns that a table on AWS cannot have, each with the reason."""
    found = {}
    lower_case = Counter(name.lower() for name in schema.names)
    for field in schema:
        try:
            if not pa.types.is_null(field.type):  # Athena reads it as NULL, whatever the file holds
                glue_type(field.type)
        except KeyError:
            found[field.name] = f"{field.type}, which Athena does not have"
        if lower_case[field.name.lower()] > 1:
            found[field.name] = (
                "Athena converts column names to lower case, and another column has the same name "
                "there"
            )
        elif (
            "," in field.name
            or field.name != field.name.strip()
            or not field.name.isprintable()
            or not field.name
        ):
            found[field.name] = (
                "such a name cannot be stored: it is empty, contains a comma or a control "
                "character, or begins or ends with a blank"
            )
    return found


def refuse_unsupported_columns(owner: str, schema: pa.Schema) -> None:
    """Raise SourceError for columns that a table on AWS cannot have."""
    bad = unsupported_columns(schema)
    if bad:
        raise SourceError(
            f"{owner} has columns that Athena does not support",
            problems=[f"{name!r}: {reason}" for name, reason in bad.items()],
            hint="rename them, or write them as text, a number or a timestamp",
        )
