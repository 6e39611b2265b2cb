"""The types of DuckDB's SQL for the types of Arrow: the only table of them."""

from __future__ import annotations

import pyarrow as pa

NUMBER_TYPES = {
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
}
SCALAR_TYPES = NUMBER_TYPES | {
    "null": "INTEGER",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
    "large_string": "VARCHAR",
    "binary": "BLOB",
    "large_binary": "BLOB",
    "date32[day]": "DATE",
    "timestamp[s]": "TIMESTAMP_S",
    "timestamp[ms]": "TIMESTAMP_MS",
    "timestamp[us]": "TIMESTAMP",
    "timestamp[ns]": "TIMESTAMP_NS",
    "time64[us]": "TIME",
    "time64[ns]": "TIME_NS",
}


def sql_type(kind: pa.DataType) -> str:
    """Return the SQL type of an Arrow type. Raises: KeyError if DuckDB has none."""
    t = pa.types
    if t.is_timestamp(kind) and kind.tz:
        return "TIMESTAMPTZ_NS" if kind.unit == "ns" else "TIMESTAMPTZ"
    if t.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if t.is_list(kind) or t.is_large_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if t.is_map(kind):
        return f"MAP({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"
    if t.is_struct(kind):
        fields = (f'"{field.name}" {sql_type(field.type)}' for field in kind)
        return f"STRUCT({', '.join(fields)})"
    return SCALAR_TYPES[str(kind)]
