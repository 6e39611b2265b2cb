"""Comparisons that have another meaning in Athena than in DuckDB: of NaN, of null, and of literals
of another type.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from .casts import call, constant_of
from .expressions import untranslatable
from .types import kind_of_type

TIMES = frozenset(["date", "timestamp"])
NUMBERS = frozenset(["integer", "decimal", "float"])


def compare(node: exp.Binary, kinds: Sequence[str]) -> exp.Expr:
    """Return a comparison in which NaN equals itself and is above all numbers.

    A text literal has the type of the other side.
    """
    if len(kinds) < 2:
        return node
    left, right = (
        _comparable_side(node, node.this, kinds[0], kinds[1]),
        _comparable_side(node, node.expression, kinds[1], kinds[0]),
    )
    plain = type(node)(this=left.copy(), expression=right.copy())
    floats = "float" in map(kind_of_type, kinds)
    if not floats or isinstance(node, exp.NullSafeEQ | exp.NullSafeNEQ):
        return plain
    nan = [_is_nan(value, kind) for value, kind in ((left, kinds[0]), (right, kinds[1]))]
    match node:
        case exp.GT() if nan[0] is not None:
            return _or(
                plain, nan[0], exp.not_(nan[1]) if nan[1] is not None else _is_not_null(right)
            )
        case exp.GTE() if nan[0] is not None:
            return _or(plain, nan[0], _is_not_null(right))
        case exp.LT() if nan[1] is not None:
            return _or(
                plain, nan[1], exp.not_(nan[0]) if nan[0] is not None else _is_not_null(left)
            )
        case exp.LTE() if nan[1] is not None:
            return _or(plain, nan[1], _is_not_null(left))
        case exp.EQ() if None not in nan and not _is_join_condition(node):
            return _or(plain, nan[0], nan[1])
        case exp.NEQ() if None not in nan:
            return exp.not_(_or(exp.EQ(this=left.copy(), expression=right.copy()), nan[0], nan[1]))
    return plain


def _is_join_condition(node: exp.Expr) -> bool:
    """Return whether a condition joins two tables: Athena joins by equal values only."""
    parent = node.parent
    while parent is not None and not isinstance(parent, exp.Query):
        if isinstance(parent, exp.Join):
            return True
        parent = parent.parent
    return False


def _is_nan(value: exp.Expr, kind: str) -> exp.Expr | None:
    """Return the condition that a value is NaN; None if it cannot be."""
    bare = value.unnest()
    return (
        call("is_nan", value)
        if kind_of_type(kind) == "float" and not isinstance(bare, exp.Literal)
        else None
    )


def _is_not_null(value: exp.Expr) -> exp.Expr | None:
    """Return the condition that a value is not null; None if it cannot be null."""
    bare = value.unnest()
    written = isinstance(bare.this if isinstance(bare, exp.Neg) else bare, exp.Literal)
    return (
        None if written else exp.not_(exp.Is(this=exp.paren(value.copy()), expression=exp.Null()))
    )


def _or(plain: exp.Expr, *also: exp.Expr | None) -> exp.Expr:
    return exp.paren(exp.or_(plain, exp.and_(*(each for each in also if each is not None))))


def _comparable_side(node: exp.Expr, value: exp.Expr, kind: str, other: str) -> exp.Expr:
    """Return a side of a comparison, with a type that Athena compares with the other side's."""
    mine, theirs = kind_of_type(kind), kind_of_type(other)
    if (mine in TIMES and theirs in TIMES) or {mine, theirs} & {"", "null"}:
        return value
    if mine == theirs or (mine in NUMBERS and theirs in NUMBERS):
        return value
    bare = value.unnest()
    if mine == "text" and isinstance(bare, exp.Literal):
        there = constant_of(bare.name, exp.DataType.build(other, dialect="duckdb"))
        if there is not None:
            return there
    if theirs == "text" and isinstance(_other_side(node, value).unnest(), exp.Literal):
        return value
    raise untranslatable(node, f"a {kind} is compared with a {other}", "CAST one of them")


def _other_side(node: exp.Expr, value: exp.Expr) -> exp.Expr:
    other: exp.Expr = node.expression if value is node.this else node.this
    return other


def in_list(node: exp.In, kinds: Sequence[str]) -> exp.Expr:
    if node.args.get("query") is not None or not kinds:
        return node
    listed = [
        _comparable_side(exp.EQ(this=each, expression=node.this), each, kind, kinds[0])
        for each, kind in zip(node.expressions, kinds[1:], strict=True)
    ]
    return exp.In(this=node.this.copy(), expressions=[each.copy() for each in listed])


def between(node: exp.Between, kinds: Sequence[str]) -> exp.Expr:
    if len(kinds) < 3:
        return node
    ends = [
        _comparable_side(
            exp.EQ(this=node.args[end], expression=node.this), node.args[end], kind, kinds[0]
        )
        for end, kind in zip(("low", "high"), kinds[1:], strict=True)
    ]
    return exp.Between(this=node.this.copy(), low=ends[0].copy(), high=ends[1].copy())


def is_boolean(node: exp.Is, _: Sequence[str]) -> exp.Expr:
    if isinstance(node.expression, exp.Boolean):
        return exp.NullSafeEQ(this=exp.paren(node.this.copy()), expression=node.expression.copy())
    return node
