"""The tables of a job as far as its contracts declare them: empty, in a DuckDB in memory.

They give the types of a query's columns before any data is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import duckdb
import pyarrow as pa

from ...contract import Contract, quote, read_contract
from ...job import Job
from ...sql_types import sql_type

RUN_COLUMNS = {
    "run_id": "VARCHAR",
    "job": "VARCHAR",
    "as_of": "TIMESTAMP",
    "table_version": "BIGINT",
    "parent_version": "BIGINT",
}


class DeclaredTables:
    """Empty tables of a job's sources and results, with the columns of their contracts."""

    def __init__(self, job: Job | None = None) -> None:
        self._engine = duckdb.connect(":memory:", config={"threads": 1})
        if job is not None:
            self.add("run", RUN_COLUMNS)
            for source in job.sources:
                if source.contract is not None:
                    self.add(source.name, _types_of(read_contract(source.contract).schema))

    def describe(self, select: str) -> list[tuple[str, str]]:
        """Return the columns of a query: names and types. Raises: duckdb.Error."""
        with self._engine.cursor() as cursor:
            rows = cursor.execute(f"DESCRIBE {select}").fetchall()
        return [(name, kind) for name, kind, *_ in rows]

    def add(self, name: str, columns: Mapping[str, str]) -> None:
        """Add an empty table; one without known columns stays unknown."""
        if columns:
            listed = ", ".join(f"{quote(column)} {kind}" for column, kind in columns.items())
            self._engine.execute(f"CREATE OR REPLACE TABLE {quote(name)} ({listed})")

    def add_results(
        self, name: str, select: str, unit: Sequence[str], contract: Contract | None
    ) -> None:
        """Add the results of a model: the keys of its query, and the columns that it returns."""
        returned = _types_of(contract.schema) if contract is not None else {}
        if not returned:
            return
        try:
            keys = dict(self.describe(select))
            kinds = {key: keys[key] for key in unit} | returned
        except (duckdb.Error, KeyError):
            return
        self.add(name, kinds)

    def add_rows(self, name: str, select: str) -> None:
        """Add the rows of a query, such as those of a release."""
        try:
            self.add(name, dict(self.describe(select)))
        except duckdb.Error:
            return


def describe_plain(select: str) -> list[tuple[str, str]]:
    """Return the columns of a query that reads no table. Raises: duckdb.Error."""
    return _without_tables().describe(select)


@cache
def _without_tables() -> DeclaredTables:
    return DeclaredTables()


def _types_of(schema: pa.Schema) -> dict[str, str]:
    """Return the types of columns in SQL; none if one of them has no type there."""
    try:
        return {field.name: sql_type(field.type) for field in schema}
    except KeyError:
        return {}
