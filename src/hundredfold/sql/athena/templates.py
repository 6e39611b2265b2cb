"""Translations with marks in place of a run's tables.

The runs of a job ask the same queries about tables of other names. A translation is therefore kept
with a mark for each table, and a run puts the names of its tables, or their queries, in their
places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from sqlglot import exp


def marks_of(select: str, tables: Iterable[str]) -> dict[str, str]:
    """Return a mark for each of these tables, which no text in the query contains."""
    own = hashlib.sha256(select.encode()).hexdigest()
    return {name: f"{own}:{number}" for number, name in enumerate(sorted(tables))}


def mark_tables(tree: exp.Expr, tables: Iterable[exp.Table], marks: Mapping[str, str]) -> exp.Expr:
    """Return a query with the names of its tables replaced by their marks."""
    for table in tables:
        if not table.db and table.name in marks:
            alias = exp.to_identifier(table.alias or table.name, quoted=True)
            mark = exp.to_identifier(marks[table.name], quoted=True)
            table.replace(exp.Table(this=mark, alias=exp.TableAlias(this=alias)))
    return tree


def with_tables(template: str, marks: Mapping[str, str], tables: Mapping[str, str]) -> str:
    """Return a query with each mark replaced by the SQL of its table."""
    for name, mark in marks.items():
        template = template.replace(f'"{mark}"', tables[name])
    return template
