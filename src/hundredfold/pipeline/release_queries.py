"""The queries of a release: the facts that they may read, their columns, contract and summaries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ..contract import Contract, accepts, literal, quote, read_contract
from ..data.layout import Layout
from ..data.numpy_columns import to_python_rows
from ..data.outcomes import describe
from ..errors import PublishRefused, QueryError
from ..job import Job, Publish
from ..ports.interfaces import Warehouse
from ..sql.checks import Judged, Rule, check_column
from ..sql.queries import check_names, load_query, with_micros

MAX_KEY_COLUMNS = 4  # columns that identify a row in an error


def describe_run(
    job: Job,
    layout: Layout,
    as_of: str,
    version: int | None,
    parent: int | None,
    warehouse: Warehouse,
) -> None:
    """Create the view `run`: one row of facts; its versions are null before there is a release."""
    facts = (
        f"{literal(layout.run)} AS run_id, {literal(job.name)} AS job, CAST({literal(as_of)} AS "
        "TIMESTAMP) AS as_of"
    )
    versions = (
        f"CAST({version or 'NULL'} AS BIGINT) AS table_version, CAST({parent or 'NULL'} AS "
        "BIGINT) AS parent_version"
    )
    warehouse.create_view("run", f"SELECT {facts}, {versions}")


def summary_rows(
    output: Publish, select: str, job: Job, warehouse: Warehouse
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each summary.

    Its query reads the published rows under the output's name.
    """
    if not output.summaries:
        return {}
    warehouse.create_view(output.name, select)
    queries: dict[str, str] = {}
    tables = {}
    title = ""
    try:
        for title, query in output.summaries.items():
            text = load_query(query, job.folder)
            queries[title] = with_micros(text, warehouse.columns(text))[0]
        with suppress(QueryError):  # it is raised again below, with the name of its summary
            warehouse.prefetch(list(queries.values()))
        for title, query in queries.items():
            tables[title] = warehouse.query(query)
    except QueryError as error:
        raise QueryError(
            f"the summary {title!r} of {output.name} cannot run: {error.message}",
            hint=error.hint,
        ) from error
    for title, table in tables.items():
        check_names(f"the summary {title!r} of {output.name}", table.column_names)
    return {title: _json_rows(table) for title, table in tables.items()}


def _json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows for JSON and for people.

    Whole decimals become int, others float; NaN and infinity become text.
    """
    return [
        {name: _json_value(value) for name, value in row.items()} for row in to_python_rows(table)
    ]


def _json_value(value: object) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    if isinstance(value, list):
        return [_json_value(each) for each in value]
    if isinstance(value, dict):
        return {name: _json_value(each) for name, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def checked_query(output: Publish, job: Job, warehouse: Warehouse) -> str:
    """Return the publishing query, with the names and types of the contract.

    Raises: QueryError if it cannot run or has other columns, PublishRefused if rows violate the
    contract.
    """
    select = load_query(output.query, job.folder)
    try:
        schema = warehouse.columns(select)
    except QueryError as error:
        raise QueryError(
            f"the query of {output.name} cannot run: {error.message}", hint=error.hint
        ) from error
    check_names(f"the query of {output.name}", schema.names)
    select, schema = with_micros(select, schema)
    if output.contract is None:
        return select
    contract = read_contract(output.contract)
    missing = [n for n in contract.names if n not in schema.names]
    extra = [n for n in schema.names if n not in contract.names]
    wrong = [
        f"{c.name}: wanted {c.arrow}, found {schema.field(c.name).type}"
        for c in contract.columns
        if c.name in schema.names
        and not pa.types.is_null(schema.field(c.name).type)
        and not accepts(c.arrow, schema.field(c.name).type)
    ]
    problems = (
        [f"{n}: missing" for n in missing] + [f"{n}: not in the contract" for n in extra] + wrong
    )
    if problems:
        raise QueryError(
            f"the columns of the query of {output.name} are not those of {contract.name}",
            problems=problems,
            hint="correct the query or the contract",
        )
    columns = {
        c.name: check_column(c, quote(c.name), schema.field(c.name).type) for c in contract.columns
    }
    casts = ", ".join(
        f"CAST({columns[c.name].value} AS {c.sql_type}) AS {quote(c.name)}"
        for c in contract.columns
    )
    checked = f"SELECT {casts} FROM ({select}) AS q"
    _refuse_violations(output, contract, columns, select, checked, job, warehouse)
    return checked


def _refuse_violations(
    output: Publish,
    contract: Contract,
    columns: Mapping[str, Judged],
    select: str,
    checked: str,
    job: Job,
    warehouse: Warehouse,
) -> None:
    """Raise PublishRefused where a value changes in the contract's type, is null, or breaks a
    constraint.

    `checked`: the query that is published otherwise, which may run at the same time.
    """
    rules = [rule for judged in columns.values() for rule in judged.rules]
    if not rules:
        return
    typed = (
        f"SELECT {', '.join(value for judged in columns.values() for value in judged.values)} "
        f"FROM ({select}) AS q"
    )
    sums = ", ".join(
        f"coalesce(sum(CASE WHEN {rule.bad} THEN 1 ELSE 0 END), 0) AS k{i}"
        for i, rule in enumerate(rules)
    )
    counting = f"SELECT {sums} FROM ({typed}) AS t"
    warehouse.prefetch([counting, checked])
    counts = warehouse.query(counting).to_pylist()[0]
    broken = [(rule, int(counts[f"k{i}"])) for i, rule in enumerate(rules) if counts[f"k{i}"]]
    if broken:
        raise PublishRefused(
            f"{output.name} is not published: its rows break {contract.name}",
            problems=[
                (
                    f"{rule.column} {rule.message}: {rows:,} "
                    f"row{'s' * (rows > 1)}{_first_violation(rule, columns, typed, job, warehouse)}"
                )
                for rule, rows in broken
            ],
            hint="correct the query (round, cast or filter there), the models that it reads, or "
            "the contract",
        )


def _first_violation(
    rule: Rule, columns: Mapping[str, Judged], typed: str, job: Job, warehouse: Warehouse
) -> str:
    """Describe the first row that violates a rule: its value, and the columns that are keys of
    models.
    """
    units = {name for model in job.models for name in model.unit}
    judged, others = columns[rule.column], [name for name in columns if name != rule.column]
    keys = [name for name in others if name in units][:MAX_KEY_COLUMNS] or others[:1]
    shown = [
        f"t.{quote(rule.column)}",
        judged.raw(rule.column),
        *(columns[name].raw(name) for name in keys),
    ]
    texts = ", ".join(f"CAST({sql} AS VARCHAR) AS c{i}" for i, sql in enumerate(shown))
    order = ", ".join(f"c{i}" for i in [*range(2, len(shown)), 1])
    bad = f"SELECT {texts} FROM ({typed}) AS t WHERE {rule.bad}"
    after, before, *key = (
        warehouse.query(f"SELECT * FROM ({bad}) AS b ORDER BY {order} LIMIT 1")
        .to_pylist()[0]
        .values()
    )
    changed = rule is judged.rules[0] and not judged.same and after not in (None, before)
    parts = [f"the first is {_text(before)}"]
    parts += [f"which would become {_text(after)}"] if changed else []
    if keys:
        named = (f"{name} = {_text(text)}" for name, text in zip(keys, key, strict=True))
        parts.append(f"where {', '.join(named)}")
    return "; " + ", ".join(parts)


def _text(value: str | None) -> str:
    return "null" if value is None else describe(value)[:80]
