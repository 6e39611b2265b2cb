"""Queries that Athena's grammar accepts and its planner refuses, and the same queries in a form
that both engines run.

Each refused form has a rewrite, as far as the query names the tables of its columns, and an
example.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from .mixed_queries import full_joins, mixed_rows, mixed_types, ordered_distinct
from .planner_limits import PlannerLimit, outer_columns
from .subqueries import subquery_limits
from .types import Describe

MAX_CORRECTIONS = 20  # of one query
# of each form: a query in a form that both engines run
EXAMPLES = {
    "LIMIT": (
        "SELECT t.id, p.price\n"
        "FROM (SELECT *, row_number() OVER () AS row_id FROM t) AS t\n"
        "LEFT JOIN prices AS p ON p.sku = t.sku AND p.valid_from <= t.day\n"
        "QUALIFY row_number() OVER (PARTITION BY t.row_id ORDER BY p.valid_from DESC) = 1"
    ),
    "FULL JOIN": (
        "SELECT a.id, b.x FROM a LEFT JOIN b ON a.x < b.x\n"
        "UNION ALL\n"
        "SELECT a.id, b.x FROM b\n"
        "LEFT JOIN (SELECT *, TRUE AS is_matched FROM a) AS a ON a.x < b.x\n"
        "WHERE a.is_matched IS NULL"
    ),
    "DISTINCT": "SELECT g FROM t GROUP BY g ORDER BY min(x)",
    "UNION": "SELECT s FROM t UNION ALL SELECT CAST(x AS VARCHAR) AS s FROM u",
    "join": (
        "SELECT t.id, q.total\n"
        "FROM t LEFT JOIN (SELECT g, sum(x) AS total FROM u GROUP BY g) AS q ON q.g = t.g"
    ),
}


def find_limits(tree: exp.Expr, describe: Describe | None = None) -> Iterator[PlannerLimit]:
    """Yield the parts of a query that Athena's planner refuses.

    `describe` returns the columns of a query; without it, types are not compared.
    """
    if describe is not None:
        for union in tree.find_all(exp.SetOperation):
            yield from mixed_types(union, describe)
        for values in tree.find_all(exp.Values):
            yield from mixed_rows(values, describe)
    for select in tree.find_all(exp.Select):
        yield from full_joins(select)
        yield from ordered_distinct(select)
        outer = outer_columns(select)
        if outer:
            yield from subquery_limits(select, outer)


def corrected(tree: exp.Expr, describe: Describe | None = None) -> exp.Expr | None:
    """Return the query without the parts that Athena refuses; None where no rewrite is known."""
    holder = exp.Paren(this=tree.copy())
    for _ in range(MAX_CORRECTIONS):
        found = next(find_limits(holder, describe), None)
        if found is None:
            done: exp.Expr = holder.this
            done.parent = None
            return done
        if not found.correct():
            return None
    return None
