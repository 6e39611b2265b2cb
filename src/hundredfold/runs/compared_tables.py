"""The two tables of a comparison: results of a run, rows of a release, or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..contract import quote
from ..data.outcomes import STATUS_SCHEMA
from ..errors import UsageError
from ..ports.interfaces import RunHome
from ..sql.duckdb import DuckWarehouse
from ..sql.sources.engine import sql_string
from .difference import MAX_EXAMPLES, Difference, Side, Tolerance, compare_rows
from .names import check_run_id
from .run import Run, find_run

READERS = {  # the text of a CSV file is cast to the types of the other table
    ".parquet": "read_parquet({})",
    ".csv": "read_csv({}, all_varchar = true, header = true)",
    ".jsonl": "read_json({}, format = 'newline_delimited')",
    ".ndjson": "read_json({}, format = 'newline_delimited')",
}


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """The options of a comparison.

    model: compare its results, by default those of the last model. published: compare this
    published table instead; "" is the first. key: columns, by default those of the unit.
    """

    model: str | None = None
    published: str | None = None
    key: Sequence[str] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)
    examples: int = MAX_EXAMPLES

    def __post_init__(self) -> None:
        if self.model is not None and self.published is not None:
            raise UsageError(
                f"model {self.model} and published {self.published or 'table'} are both given",
                hint="name the results of a model, or a published table",
            )


@dataclass(frozen=True, slots=True)
class _Table:
    """A table. text: all values are text. key: columns of the key, if known."""

    side: Side
    key: tuple[str, ...] | None = None
    text: bool = False


def compare_tables(
    a: Any, b: Any, home: RunHome | None, options: DiffOptions, warehouse: DuckWarehouse
) -> Difference:
    """Return the difference of two tables, each the id of a run, a Run, a file or a frame.

    home: where the runs are; None if neither is the id of a run.

    Raises:
        UsageError: a table cannot be read or compared, or the key is unknown.
        NoSuchRun: a text is neither a file nor the id of a run.
    """
    one, other = (_table(given, home, options, warehouse) for given in (a, b))
    known = options.key or (one.key if one.key is not None else other.key)
    if known is None:
        raise UsageError(
            "the key of the rows is not known: neither table is the results of a model",
            hint="name its columns: --key shop --key product",
        )
    sides = _with_types(one, other, known, warehouse)
    return compare_rows(*sides, known, warehouse, options.tolerance, options.examples)


def names_run(given: object) -> bool:
    """Return whether a value is the id of a run, and not the path of a file or a table."""
    return isinstance(given, str) and not _is_file(given)


def _is_file(given: object) -> bool:
    return isinstance(given, str | Path) and Path(given).suffix.lower() in READERS


def _table(
    given: Any, home: RunHome | None, options: DiffOptions, warehouse: DuckWarehouse
) -> _Table:
    if _is_file(given):
        return _file(Path(given), warehouse)
    if isinstance(given, Run):
        return _run(given, options)
    if isinstance(given, str):
        if home is None:
            raise UsageError(
                f"{given} is neither a run nor a file; files end with {', '.join(READERS)}"
            )
        return _run(Run(home, find_run(home, check_run_id(given)).id), options)
    from ..sql.sources.frames import frame_to_table

    return _Table(Side("the table", frame_to_table("the table", given)))


def _file(path: Path, warehouse: DuckWarehouse) -> _Table:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    reader = READERS[path.suffix.lower()].format(sql_string(str(path)))
    rows = warehouse.query(f"SELECT * FROM {reader}")
    return _Table(Side(str(path), rows), text=path.suffix.lower() == ".csv")


def _run(run: Run, options: DiffOptions) -> _Table:
    units = run.units(options.model).table.column_names
    key = tuple(name for name in units if name not in STATUS_SCHEMA.names)
    if options.published is None:
        rows = run.results(options.model).table
    else:
        rows = run.published_rows(options.published or None).table
    known = all(name in rows.column_names for name in key)
    return _Table(Side(f"run {run.id}", rows), key if known else None)


def _with_types(
    a: _Table, b: _Table, key: Sequence[str], warehouse: DuckWarehouse
) -> tuple[Side, Side]:
    """Return both tables with the text of a CSV file in the types of the other table."""
    if a.text and b.text:
        numbers = {
            name: "DOUBLE"
            for name in a.side.rows.column_names
            if name not in key
            and all(
                _first_other_value(each.side.rows, name, "DOUBLE", warehouse) is None
                for each in (a, b)
            )
        }
        return _cast(a.side, numbers, warehouse), _cast(b.side, numbers, warehouse)
    if a.text:
        return _cast(a.side, _kinds(b.side.rows, warehouse), warehouse), b.side
    if b.text:
        return a.side, _cast(b.side, _kinds(a.side.rows, warehouse), warehouse)
    return a.side, b.side


def _kinds(rows: pa.Table, warehouse: DuckWarehouse) -> dict[str, str]:
    """Return the DuckDB type of each column."""
    warehouse.register("described", rows)
    return {
        str(name): str(kind) for name, kind, *_ in warehouse.run("DESCRIBE SELECT * FROM described")
    }


def _cast(side: Side, kinds: Mapping[str, str], warehouse: DuckWarehouse) -> Side:
    columns = []
    for name in side.rows.column_names:
        kind = kinds.get(name, "VARCHAR")
        bad = _first_other_value(side.rows, name, kind, warehouse)
        if bad is not None:
            raise UsageError(
                f"{side.name}: {name} is {bad!r}, wanted {kind}, its type in the other table"
            )
        columns.append(f"CAST({quote(name)} AS {kind}) AS {quote(name)}")
    warehouse.register("text_rows", side.rows)
    return Side(side.name, warehouse.query(f"SELECT {', '.join(columns)} FROM text_rows"))


def _first_other_value(
    rows: pa.Table, name: str, kind: str, warehouse: DuckWarehouse
) -> str | None:
    """Return a value of a column of text that is not one of a type; None if all are."""
    if name not in rows.column_names:
        return None
    warehouse.register("text_rows", rows)
    column = quote(name)
    found = warehouse.run(
        f"SELECT {column} FROM text_rows WHERE {column} IS NOT NULL "
        f"AND TRY_CAST({column} AS {kind}) IS NULL LIMIT 1"
    )
    return str(found[0][0]) if found else None
