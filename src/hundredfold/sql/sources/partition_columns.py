"""The columns of KEY=VALUE folders, joined to the rows of a source's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...contract import Column, quote
from ...errors import SourceError
from .engine import Engine, column_types, sql_string, sql_strings
from .files import Files, check_column_names
from .listing import partition_types


def with_partitions(
    db: Engine,
    source: str,
    select: str,
    files: Files,
    wanted: Mapping[str, Column],
    *,
    as_text: bool,
    has: Callable[[str, str], bool] | None = None,
) -> str:
    """Return the rows with the columns of KEY=VALUE folders.

    They are text, or of the type that a contract wants or that all values have. A column that
    only some files have gets the value of the folder in the others. has: returns whether a file
    has a column of which it has no value.

    Raises: SourceError if a file has a column of that name with another value.
    """
    if not files.partitions:
        return select
    types = partition_types(files.partitions)
    check_column_names(source, list(types))
    found = column_types(db, select)
    own = {name.lower(): name for name in found}
    rows = _partition_rows(files, list(types))
    joined = (
        f"({select}) AS s JOIN (VALUES {rows}) AS p(__path, {', '.join(map(quote, types))}) "
        "ON p.__path = s.__file"
    )
    filled = []
    for key in types:
        if name := own.get(key.lower()):
            without = _files_without(db, select, name, has)
            _refuse_other_value(db, source, key, name, found[name], joined, without)
            if without:
                value = (
                    f"CASE WHEN s.__file IN ({sql_strings(without)}) THEN CAST(p.{quote(key)} "
                    f"AS {found[name]}) ELSE s.{quote(name)} END"
                )
                filled.append(f"{value} AS {quote(name)}")
    kinds = _partition_kinds(types, wanted, as_text)
    columns = "".join(
        f", CAST(p.{quote(key)} AS {kind}) AS {quote(key)}"
        for key, kind in kinds.items()
        if key.lower() not in own
    )
    replaced = f" REPLACE ({', '.join(filled)})" if filled else ""
    return f"SELECT s.*{replaced}{columns} FROM {joined}"


def _files_without(
    db: Engine, select: str, name: str, has: Callable[[str, str], bool] | None
) -> list[str]:
    """Return the files without a column: it is not in their schema, and no row has a value in
    it.
    """
    empty = (
        f"SELECT __file FROM ({select}) AS s GROUP BY __file HAVING count({quote(name)}) = 0 "
        "ORDER BY __file"
    )
    return [
        path
        for path in db.query(empty).column("__file").to_pylist()
        if has is None or not has(path, name)
    ]


def _refuse_other_value(
    db: Engine, source: str, key: str, own: str, kind: str, joined: str, without: Sequence[str]
) -> None:
    """Raise SourceError where a column differs from the KEY=VALUE folder of its rows."""
    text = f"CAST(s.{quote(own)} AS VARCHAR)"
    same = (
        f"{text} IS NOT DISTINCT FROM p.{quote(key)} OR coalesce(TRY_CAST({text} AS DOUBLE) "
        f"= TRY_CAST(p.{quote(key)} AS DOUBLE), FALSE)"
    )
    if without:
        none = f"p.{quote(key)} IS NOT NULL AND TRY_CAST(p.{quote(key)} AS {kind}) IS NULL"
        same = f"CASE WHEN s.__file IN ({sql_strings(without)}) THEN NOT ({none}) ELSE {same} END"
    found = db.query(
        f"SELECT s.__file AS file, {text} AS value, p.{quote(key)} AS folder FROM {joined} "
        f"WHERE NOT ({same}) LIMIT 1"
    ).to_pylist()
    if not found:
        return
    where = f"{source}: {found[0]['file']} is in a folder {key}={found[0]['folder']}, and"
    if found[0]["file"] in without:
        raise SourceError(
            f"{where} other files have a column {own} of type {kind}, which cannot hold that value",
            hint="write all files with the column",
        )
    raise SourceError(
        f"{where} its own column {own} has the value {found[0]['value']}",
        hint="remove or rename one of them, since either may be correct",
    )


def _partition_rows(files: Files, keys: Sequence[str]) -> str:
    """Return the SQL of the partition values of each file: (path, value, ...), ..."""
    rows = (
        (path, *(partition[key] for key in keys))
        for path, partition in zip(files.paths, files.partitions, strict=True)
    )
    return ", ".join(
        f"({', '.join('NULL' if value is None else sql_string(value) for value in row)})"
        for row in rows
    )


def _partition_kinds(
    types: Mapping[str, str], wanted: Mapping[str, Column], as_text: bool
) -> dict[str, str]:
    """Return the SQL type of each partition column: that of the contract, or of all its values."""
    return {
        key: kind if key not in wanted else "VARCHAR" if as_text else wanted[key].sql_type
        for key, kind in types.items()
    }
