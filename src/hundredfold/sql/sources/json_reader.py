"""Reads JSON lines of a source: by DuckDB where it keeps every value, else line by line."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from ...contract import Column, quote
from ...errors import QueryError, SourceError
from ...ports.interfaces import AttachedSource
from ..casts import keeps_digits
from . import json_lines
from .engine import (
    Engine,
    escape_path,
    numbered_rows,
    refuse_file_column,
    sql_string,
    store_rows,
)
from .files import Files, check_column_names
from .partition_columns import with_partitions

UNNAMED_FIELD = r'[{,]\s*""\s*:'  # in a line of JSON


def attach_json(
    db: Engine, source: str, files: Files, wanted: Mapping[str, Column], staged: str
) -> AttachedSource:
    """Read JSON lines with the types of their values; the fields of a contract as text."""
    out: Path = db.store.path(staged)
    out.parent.mkdir(parents=True, exist_ok=True)
    columns = None
    try:
        columns = _json_types(db, files, wanted)
        if columns is not None:
            check_column_names(source, list(columns))
            listed = ", ".join(f"{sql_string(name)}: '{kind}'" for name, kind in columns.items())
            named = "filename = '__file', " if len(files.paths) > 1 else ""
            reader = (
                f"read_json({files.sql_list}, format = 'newline_delimited', {named}columns = "
                f"{{{listed}}}, hive_partitioning = false)"
            )
            store_rows(db, reader, staged)
            if _has_large_double(db, staged, columns) and _any_line_matches(
                db, files, json_lines.INEXACT_NUMBER
            ):
                columns = None
    except QueryError as error:
        raise text_file_error(source, files, error) from error
    if columns is not None:
        select = numbered_rows(db, staged, files.paths)
    else:
        texts = {name: column.arrow for name, column in wanted.items()}
        nested = json_lines.read_lines(source, files.paths, texts, out)
        select = f"SELECT * FROM read_parquet('{escape_path(out)}')"
        values = "".join(f", CAST({quote(name)} AS JSON) AS {quote(name)}" for name in nested)
        select = f"SELECT * REPLACE ({values[2:]}) FROM ({select}) AS s" if values else select
    if (
        columns is not None
        and _has_empty_row(db, select, columns)
        and (bad := json_lines.first_invalid_line(files.paths))
    ):
        raise SourceError(f"{source}: {bad}", hint=json_lines.hint_for(bad))
    check_column_names(
        source,
        [name for name in db.columns(select).names if name not in ("__file", "__row")],
    )
    select = with_partitions(db, source, select, files, wanted, as_text=bool(wanted))
    return AttachedSource(select, db.columns(select), text=bool(wanted))


def _json_types(db: Engine, files: Files, wanted: Mapping[str, Column]) -> dict[str, str] | None:
    """Return the types with which DuckDB reads JSON lines without changing a value, or None."""
    reader = (
        f"read_json({files.sql_list}, format = 'newline_delimited', filename = '__file', "
        "sample_size = -1, union_by_name = true, hive_partitioning = false)"
    )
    fields = _json_fields(db, reader)
    if fields is None or _has_invented_names(db, files, fields):
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
            and _is_null(db, files, name)
        ):
            read = "VARCHAR"
        if read is None and not (column and nested):
            return None
        if column is None:
            plain[name] = str(read)
            scan = scan or (json_lines.INEXACT_NUMBER if nested and "DOUBLE" in str(read) else "")
        elif nested:
            if not pa.types.is_nested(column.arrow) or (
                keeps_digits(column.arrow) and re.search("DOUBLE|JSON", str(kind))
            ):
                return None  # [1.10] would be written as [1.1]
            plain[name], scan = "JSON", json_lines.INEXACT_DIGITS
        else:
            plain[name] = "VARCHAR"
            if read == "DOUBLE" and pa.types.is_string(column.arrow):
                return None  # 1.10 would be written as 1.1
            if read == "DOUBLE" and not pa.types.is_floating(column.arrow):
                scan = json_lines.INEXACT_DIGITS
    return None if scan and _any_line_matches(db, files, scan) else plain


def _has_invented_names(db: Engine, files: Files, names: Collection[str]) -> bool:
    """Return whether DuckDB has invented a name of a field.

    It does for a field without one, for lines that are not objects, and for names that differ only
    in case.
    """
    if any(re.fullmatch(r"C\d+", name) for name in names) and _any_line_matches(
        db, files, UNNAMED_FIELD
    ):
        return True
    small = {name.lower() for name in names}
    return list(names) == ["json"] or any(
        small & {re.sub(r"_\d+$", "", name)} for name in small if re.search(r"_\d+$", name)
    )


def _json_fields(db: Engine, reader: str) -> dict[str, duckdb.DuckDBPyType] | None:
    """Return the fields of JSON lines with the types that DuckDB detects.

    Returns None if an object has a name twice, which a contract may declare as a dict.
    """
    try:
        found = db.call(lambda: db.connection.sql(f"SELECT * FROM {reader}"))
    except duckdb.Error as error:
        if "Duplicate name" in str(error):
            return None
        raise db.query_error(error, reader) from error
    return {
        name: kind
        for name, kind in zip(found.columns, found.types, strict=True)
        if name != "__file"
    }


def _any_line_matches(db: Engine, files: Files, pattern: str) -> bool:
    """Return whether a line of the files matches a pattern."""
    lines = f"read_json_objects({files.sql_list}, format = 'newline_delimited')"
    return bool(
        db.query(
            f"SELECT bool_or(regexp_matches(json, {sql_string(pattern)})) AS is_so FROM {lines}"
        )
        .column(0)[0]
        .as_py()
    )


def _has_large_double(db: Engine, staged: str, columns: Mapping[str, str]) -> bool:
    """Return whether a column of doubles may have lost digits, or has a value beyond its
    range.
    """
    doubles = [
        f"max(abs({quote(name)})) >= 1e15" for name, kind in columns.items() if kind == "DOUBLE"
    ]
    rows = (
        f"SELECT {' OR '.join(doubles)} AS is_so FROM "
        f"read_parquet('{escape_path(db.store.path(staged))}')"
    )
    return bool(doubles and db.query(rows).column(0)[0].as_py())


def _is_null(db: Engine, files: Files, name: str) -> bool:
    """Return whether a field of JSON lines has no value anywhere."""
    reader = (
        f"read_json({files.sql_list}, format = 'newline_delimited', columns = "
        f"{{{sql_string(name)}: 'JSON'}}, hive_partitioning = false)"
    )
    return not db.query(f"SELECT count({quote(name)}) AS n FROM {reader}").column(0)[0].as_py()


def _has_empty_row(db: Engine, select: str, columns: Mapping[str, str]) -> bool:
    """Return whether a row has no value: its line may not be an object, such as null."""
    empty = " AND ".join(f"{quote(name)} IS NULL" for name in columns) or "TRUE"
    return bool(
        db.query(f"SELECT count(*) AS n FROM ({select}) AS s WHERE {empty}").column(0)[0].as_py()
    )


def text_file_error(source: str, files: Files, error: QueryError) -> SourceError:
    """Return the error for text files that cannot be read, with the line if it can be found."""
    refuse_file_column(source, error)
    bad = json_lines.first_invalid_line(files.paths) if files.kind == "json" else None
    message = bad or error.message.split("\n")[0]  # the rest is a query of the engine
    hint = json_lines.hint_for(bad) if bad else "correct the file, or name another"
    return SourceError(
        f"{source}: {files.paths[0]} cannot be read as {files.kind}: {message}", hint=hint
    )
