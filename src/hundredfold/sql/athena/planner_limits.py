"""A part of a query that Athena's planner refuses, and the scopes of a query's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlglot import exp


@dataclass(frozen=True, slots=True)
class PlannerLimit:
    """A part of a query that Athena's planner refuses.

    `correct` changes the tree so that the part is accepted; it returns whether it could. `example`
    is a key of EXAMPLES, and `phrase` the keywords that show the place.
    """

    node: exp.Expr
    problem: str
    example: str
    phrase: str
    correct: Callable[[], bool]


def sources_of(select: exp.Expr) -> list[exp.Expr]:
    source = select.args.get("from_")
    joins = (join.this for join in select.args.get("joins") or ())
    return [*([source.this] if source is not None else []), *joins]


def names_of(select: exp.Expr) -> set[str]:
    return {source.alias_or_name.lower() for source in sources_of(select)}


def enclosing(node: exp.Expr) -> Iterator[exp.Select]:
    """Yield the SELECTs around a node, the innermost first."""
    around = node.find_ancestor(exp.Select)
    while around is not None:
        yield around
        around = around.find_ancestor(exp.Select)


def outer_columns(select: exp.Select) -> list[exp.Column]:
    """Return the columns in a SELECT that belong to a query around it, as far as they name it."""
    around = set().union(*(names_of(each) for each in enclosing(select)))
    return [
        column
        for column in select.find_all(exp.Column)
        if column.table
        and column.table.lower() in around
        and not _is_defined_inside(column, select)
    ]


def _is_defined_inside(column: exp.Column, select: exp.Select) -> bool:
    for scope in enclosing(column):
        if column.table.lower() in names_of(scope):
            return True
        if scope is select:
            return False
    return False


def conjuncts(condition: exp.Expr | None) -> list[exp.Expr]:
    if condition is None:
        return []
    bare = condition.unnest()
    if isinstance(bare, exp.And):
        return [*conjuncts(bare.left), *conjuncts(bare.right)]
    return [condition]


def conditions_of(select: exp.Expr) -> list[exp.Expr]:
    where = select.args.get("where")
    return conjuncts(where.this if where is not None else None)


def has_window(select: exp.Select) -> bool:
    return any(node.find_ancestor(exp.Select) is select for node in select.find_all(exp.Window))


def aggregates(select: exp.Select) -> bool:
    return any(node.find_ancestor(exp.Select) is select for node in select.find_all(exp.AggFunc))


def named_subquery(query: exp.Expr, alias: str) -> exp.Subquery:
    return exp.Subquery(this=query, alias=exp.TableAlias(this=exp.to_identifier(alias)))


def free_names(around: exp.Expr, wanted: Sequence[str]) -> list[str]:
    taken = {name.name.lower() for name in around.root().find_all(exp.Identifier)}
    return [
        next(name for name in (each, *(f"{each}_{n}" for n in range(2, 99))) if name not in taken)
        for each in wanted
    ]
