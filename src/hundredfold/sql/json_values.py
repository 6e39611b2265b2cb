"""Rows as JSON lines, with NaN and the infinities as the texts "NaN", "Infinity" and "-Infinity".

JSON lacks these values. The JSON of protobuf, Spark and BigQuery reads the texts, and so do DuckDB
and pandas where the column is a float. A null would differ from the value in the Parquet and CSV
files of the same release.
"""

from __future__ import annotations

import pyarrow as pa

from ..contract import literal, quote

TEXTS = {"Infinity": "CAST('Infinity' AS DOUBLE)", "-Infinity": "CAST('-Infinity' AS DOUBLE)"}


def json_rows(select: str, schema: pa.Schema) -> str:
    """Return the query with its floats, at every depth, as JSON values."""
    if not any(_has_floats(field.type) for field in schema):
        return select
    values = (
        f"{_json(quote(f.name), f.type)} AS {quote(f.name)}"
        if _has_floats(f.type)
        else quote(f.name)
        for f in schema
    )
    return f"SELECT {', '.join(values)} FROM ({select}) AS q"


def _has_floats(kind: pa.DataType) -> bool:
    if pa.types.is_map(kind):
        return _has_floats(kind.item_type)
    if pa.types.is_nested(kind):
        return any(_has_floats(kind.field(n).type) for n in range(kind.num_fields))
    return bool(pa.types.is_floating(kind))


def _json(value: str, kind: pa.DataType, depth: int = 0) -> str:
    """Return the SQL of a value as JSON, or as a list, map or struct of JSON."""
    if not _has_floats(kind):
        return value
    x = f"v{depth}"
    if pa.types.is_map(kind):
        entry = f"{{'key': {x}.key, 'value': {_json(f'{x}.value', kind.item_type, depth + 1)}}}"
        return f"map_from_entries(list_transform(map_entries({value}), lambda {x}: {entry}))"
    if pa.types.is_struct(kind):
        parts = (
            (
                f"{quote(f.name)} := "
                f"{_json(f'struct_extract({value}, {literal(f.name)})', f.type, depth)}"
            )
            for f in kind
        )
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({', '.join(parts)}) END"
    if pa.types.is_nested(kind):
        return f"list_transform({value}, lambda {x}: {_json(x, kind.value_type, depth + 1)})"
    texts = " ".join(
        f"WHEN {value} = {number} THEN CAST({literal(f'{chr(34)}{text}{chr(34)}')} AS JSON)"
        for text, number in TEXTS.items()
    )
    nan = """CAST('"NaN"' AS JSON)"""
    # not isnan(): DuckDB 2.0 evaluates it with a Parquet file's statistics, which do not count NaN
    return (
        f"CASE WHEN isfinite({value}) THEN to_json({value}) {texts} WHEN {value} IS NOT NULL "
        f"THEN {nan} END"
    )
