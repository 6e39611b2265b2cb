"""Reads Parquet files of a source, as a query of rows with exactly their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...contract import Column, quote
from ...errors import QueryError, SourceError
from ...ports.interfaces import AttachedSource
from .engine import Engine, column_types, refuse_file_column
from .files import Files, check_column_names, pattern
from .parquet_files import exact_times, reject_inexact, without_zone
from .partition_columns import with_partitions


def attach_parquet(
    db: Engine, source: str, files: Files, wanted: Mapping[str, Column], in_place: bool
) -> AttachedSource:
    before = db.fingerprints(files.paths) if in_place else []
    db.parquet_files[source] = files.paths
    select = (
        f"SELECT * FROM read_parquet({files.sql_list}, filename = '__file', file_row_number "
        "= true, union_by_name = true, hive_partitioning = false)"
    )
    types = _parquet_types(db, source, files, select)
    try:
        if len(files.paths) > 1:
            _refuse_mixed_types(db, source, files, select)
        if in_place:
            reject_inexact(source, files.paths, db.query)
        clocks = exact_times(types)
        plain = ", ".join(
            f"{clocks[n]} AS {quote(n)}" if n in clocks else quote(n)
            for n in types
            if n not in ("__file", "file_row_number")
        )
        where = "__file" if in_place else "'(in memory)'"
        select = (
            f"SELECT {plain}, {where} AS __file, file_row_number + 1 AS __row FROM ({select}) AS f"
        )
        kinds = {n: without_zone(kind) for n, kind in types.items() if n not in wanted}
        _refuse_midnight(
            db,
            source,
            select,
            {n: kind for n, kind in kinds.items() if kind in ("TIME", "TIME_NS")},
        )
        select = with_partitions(
            db,
            source,
            select,
            files,
            wanted,
            as_text=False,
            has=lambda path, name: _has_column(db, path, name),
        )
    except QueryError as error:
        raise db.find_damage(source, files.paths, error) or error from error
    return AttachedSource(select, db.columns(select), in_place=in_place, fingerprints=before)


def _parquet_types(db: Engine, source: str, files: Files, select: str) -> dict[str, str]:
    """Return the types of the columns. Raises: SourceError for damage and reserved names."""
    try:
        types = column_types(db, select)
    except QueryError as error:
        refuse_file_column(source, error)
        raise db.find_damage(source, files.paths, error) or SourceError(
            f"{source}: {files.paths[0]} cannot be read as Parquet: "
            f"{error.message.split(chr(10))[0]}",
            hint="is it a complete Parquet file?",
        ) from error
    check_column_names(source, [n for n in types if n != "__file"])
    # DuckDB renames columns without a name, and those whose name differs from another only in
    # case
    if any(re.search(r"_\d+$|^C\d+$", n) for n in types):
        for path in files.paths:
            check_column_names(source, pq.read_schema(path).names)
    return types


def _has_column(db: Engine, path: str, name: str) -> bool:
    """Return whether a Parquet file has a column of that name, in any case."""
    types = column_types(
        db, f"SELECT * FROM read_parquet({pattern(path)}, hive_partitioning = false)"
    )
    return name.lower() in {found.lower() for found in types}


def _refuse_midnight(db: Engine, source: str, select: str, clocks: Mapping[str, str]) -> None:
    """Raise SourceError where a column without a contract has 24:00, which a Python time cannot
    be.
    """
    if not clocks:
        return
    counts = ", ".join(
        f"count(*) FILTER (WHERE {quote(n)} >= CAST('24:00:00' AS {kind})) AS n{i}"
        for i, (n, kind) in enumerate(clocks.items())
    )
    found = dict(
        zip(
            clocks,
            db.query(f"SELECT {counts} FROM ({select}) AS s").to_pylist()[0].values(),
            strict=True,
        )
    )
    bad = {name: rows for name, rows in found.items() if rows}
    if bad:
        raise SourceError(
            f"{source} has the time of day 24:00, but a time in Python ends before it",
            problems=[f"{name}: {rows:,} row(s)" for name, rows in bad.items()],
            hint="declare a contract with this field of type time, so that these rows are "
            "rejected; or write 00:00 of the next day",
        )


def _refuse_mixed_types(db: Engine, source: str, files: Files, select: str) -> None:
    """Refuse Parquet files whose types of a column have no common type that keeps every
    value.
    """
    tops = (
        "SELECT file_name, name, type, logical_type, precision, scale FROM "
        f"parquet_schema({files.sql_list})"
    )
    shape = (
        "SELECT file_name, string_agg(concat_ws(':', name, type, logical_type, precision, "
        f"scale), ';') AS shape FROM ({tops}) GROUP BY file_name"
    )
    firsts = db.query(
        f"SELECT min(file_name) AS first, list(file_name) AS files FROM ({shape}) GROUP BY "
        "shape ORDER BY first"
    ).to_pylist()
    if len(firsts) == 1:
        return
    groups = [
        (
            column_types(
                db,
                f"SELECT * FROM read_parquet({pattern(group['first'])}, hive_partitioning = false)",
            ),
            group,
        )
        for group in firsts
    ]
    common = {name.lower(): kind for name, kind in column_types(db, select).items()}
    for name, kind in common.items():
        own = [
            (types[found], group, found)
            for types, group in groups
            for found in types
            if found.lower() == name
        ]
        if len({found for found, *_ in own}) < 2:
            continue
        valued = [entry for entry in own if _values_of_column(db, entry).column("n")[0].as_py()]
        if len({_kind_of_type(found) for found, *_ in valued}) > 1:
            raise SourceError(
                f"{source}: its files have the column {name} with types that cannot be combined",
                problems=[f"{group['first']}: {found}" for found, group, _ in valued],
                hint="write all files with one type",
            )
        for entry in valued:
            _refuse_loss(db, source, kind, entry)


def _values_of_column(
    db: Engine, entry: tuple[str, dict[str, Any], str], where: str = ""
) -> pa.Table:
    """Return the number of values of a column in a group of files, and the first value.

    where: counts only the values that meet a condition.
    """
    _, group, name = entry
    paths = ", ".join(map(pattern, group["files"]))
    rows = (
        f"SELECT {quote(name)} AS v, filename AS file FROM read_parquet([{paths}], filename "
        "= true, hive_partitioning = false)"
    )
    return db.query(
        "SELECT count(v) AS n, min(file) AS file, min(CAST(v AS VARCHAR)) AS value FROM "
        f"({rows}) AS r{where}"
    )


def _refuse_loss(
    db: Engine, source: str, common: str, entry: tuple[str, dict[str, Any], str]
) -> None:
    """Raise SourceError where the common type of a column changes one of its values."""
    kind, _, name = entry
    if kind == common:
        return
    back = f"TRY_CAST(TRY_CAST(v AS {common}) AS {kind}) IS DISTINCT FROM v"
    if kind.startswith("DECIMAL"):
        back += (
            f" AND TRY_CAST(CAST(TRY_CAST(v AS {common}) AS VARCHAR) AS {kind}) IS DISTINCT FROM v"
        )
    lost = _values_of_column(db, entry, f" WHERE {back}").to_pylist()[0]
    if lost["n"]:
        raise SourceError(
            f"{source}: its files have the column {name} as {kind} and as {common}, and "
            f"{lost['n']:,} value(s) would change",
            problems=[f"{lost['file']}: {lost['value']} is no {common}"],
            hint="write all files with one type",
        )


def _kind_of_type(kind: str) -> str:
    """Return the kind of a DuckDB type: types of one kind may be combined if no value changes."""
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP")):
        return "nested"
    name = kind.partition("(")[0]
    if without_zone(name) in ("TIME", "TIME_NS"):
        return "clock"
    if name in ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        return "time"
    return (
        "number"
        if name in ("DECIMAL", "FLOAT", "DOUBLE") or name.endswith(("INT", "INTEGER"))
        else name
    )
