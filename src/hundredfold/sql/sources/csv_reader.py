"""Reads CSV files of a source: all values as text, then those without a contract typed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ...contract import Column
from ...errors import QueryError, SourceError
from ...job import Source
from ...ports.interfaces import AttachedSource
from .csv_files import CsvFile, dialect_facts, malformed_lines, prepare_csv, text_to_cast
from .engine import Engine, numbered_rows, store_rows, unchanged
from .files import Files, check_column_names, pattern
from .partition_columns import with_partitions
from .text_types import with_types


def attach_csv(
    db: Engine, source: Source, files: Files, contract_columns: Mapping[str, Column], staged: str
) -> AttachedSource:
    """Read all values as text, and convert those that have no contract.

    A type that DuckDB guesses could change them.
    """
    copies = db.scratch / "csv"
    try:
        with unchanged(db, source.name, files):
            found = _store_csv(db, source, files, contract_columns, staged, copies)
    finally:
        shutil.rmtree(copies, ignore_errors=True)
    select = numbered_rows(db, staged, [file.path for file in found])
    names = [name for name in db.columns(select).names if name not in ("__file", "__row")]
    named = {file.path: {name.lower() for name in file.dialect.names} for file in found}
    if not contract_columns:
        select = with_types(db, select, names, _texts_to_convert(source, found, None))
    select = with_partitions(
        db,
        source.name,
        select,
        files,
        contract_columns,
        as_text=bool(contract_columns),
        has=lambda path, name: name.lower() in named.get(path, ()),
    )
    unread = malformed_lines(found)
    return AttachedSource(
        select,
        db.columns(select),
        text=bool(contract_columns),
        malformed=unread if unread.num_rows else None,
        csv=dialect_facts(found),
    )


def _store_csv(
    db: Engine,
    source: Source,
    files: Files,
    contract_columns: Mapping[str, Column],
    staged: str,
    copies: Path,
) -> list[CsvFile]:
    """Store the rows of CSV files, and check that none is missing.

    Where DuckDB and the scan disagree, read copies of the files in a plain form.
    """
    names = list(contract_columns)
    for rewrite in (False, True):
        found = prepare_csv(
            source.name,
            files.paths,
            source.csv,
            names,
            copies,
            rewrite=rewrite,
            tick=db.tick,
        )
        for file in found:
            check_column_names(source.name, file.dialect.names)
        rows, failed = sum(file.scan.rows for file in found), None
        try:
            readers = (file.sql(pattern, named=len(found) > 1) for file in found)
            count = store_rows(
                db,
                f"({' UNION ALL BY NAME '.join(readers)})",
                staged,
                _texts_to_convert(source, found, contract_columns),
            )
        except QueryError as error:
            count, failed = -1, error
        if count == rows:
            return found
    raise SourceError(
        f"{source.name}: {files.paths[0]} cannot be read as CSV: "
        + (
            failed.message.split("\n")[0]
            if failed
            else f"it has {rows:,} rows, and {count:,} were read"
        ),
        hint="write it as Parquet",
    ) from failed


def _texts_to_convert(
    source: Source, files: Sequence[CsvFile], wanted: Mapping[str, Column] | None
) -> dict[str, str]:
    """Return the SQL of the texts to convert, for columns where it is not the column itself.

    These are all columns, or those that a contract wants in another type and that no `clean`
    computes.
    """
    csv = source.csv
    # empty values and null texts are null by now, except for null texts in quotes
    all_null = csv.null == ("",) or (
        "" in csv.null and not any(file.scan.quoted_null for file in files)
    )
    if all_null and csv.decimal == ".":
        return {}
    names = dict.fromkeys(name for file in files for name in file.dialect.names)
    if wanted is None:
        return {name: text_to_cast(name, csv.decimal, csv.null) for name in names}
    kinds = {
        name: wanted[name].arrow for name in names if name in wanted and name not in source.clean
    }
    return {
        name: text_to_cast(name, csv.decimal if _is_number(kind) else ".", csv.null)
        for name, kind in kinds.items()
        if not pa.types.is_string(kind)
    }


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )
