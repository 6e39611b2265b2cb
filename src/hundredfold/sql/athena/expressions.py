"""Small expressions that the rewrites build, and the refusal of one that has no rewrite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from ...errors import QueryError
from .types import kind_of_type, own_type

Rewrite = Callable[[Any, Sequence[str]], exp.Expr]


def without_distinct(value: exp.Expr) -> exp.Expr:
    """Return the value in an aggregate's argument, without DISTINCT and ORDER BY."""
    if isinstance(value, exp.Order):
        return without_distinct(value.this)
    if isinstance(value, exp.Distinct) and len(value.expressions) == 1:
        return without_distinct(value.expressions[0])
    return value


def double(value: exp.Expr) -> exp.Expr:
    return exp.cast(value.copy(), "double")


def cast_to_own_type(value: exp.Expr, node: exp.Expr) -> exp.Expr:
    """Return a value cast to the type that DuckDB gives a node, if Athena's could differ."""
    kind = own_type(node)
    return (
        exp.cast(value, exp.DataType.build(kind, dialect="duckdb"))
        if kind_of_type(kind) in ("float", "decimal", "integer") and kind != "HUGEINT"
        else value
    )


def literal_integer(value: exp.Expr) -> int | None:
    """Return the integer of a literal; None for anything else."""
    bare = value.unnest()
    if isinstance(bare, exp.Neg):
        above = literal_integer(bare.this)
        return None if above is None else -above
    return int(bare.name) if isinstance(bare, exp.Literal) and bare.is_int else None


def replace_type(old: type[exp.Expr], new: type[exp.Expr]) -> Callable[[exp.Expr], exp.Expr]:
    return lambda node: new(this=node.this) if isinstance(node, old) else node


def replace_argument(node: exp.Expr, made: Callable[[exp.Expr], exp.Expr]) -> None:
    value = without_distinct(node.this)
    value.replace(made(value))


def unchanged(node: exp.Expr) -> exp.Expr:
    return node.copy()


def paren(value: exp.Expr) -> exp.Expr:
    return (
        exp.paren(value.copy())
        if isinstance(value, exp.Binary | exp.Connector | exp.Case)
        else value.copy()
    )


def untranslatable(node: exp.Expr, problem: str, hint: str) -> QueryError:
    return QueryError(f"{problem}, in {' '.join(node.sql('duckdb').split())[:80]}", hint=hint)
