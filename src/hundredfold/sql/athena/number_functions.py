"""Arithmetic and functions of numbers that have another meaning in Athena than in DuckDB."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from .casts import bind_once, call, sql
from .expressions import cast_to_own_type, double, unchanged, untranslatable
from .types import kind_of_type


def divide(node: exp.Div, kinds: Sequence[str]) -> exp.Expr:
    left, right = node.this, node.expression
    if "interval" in map(kind_of_type, kinds):
        raise untranslatable(
            node, "a division of an interval", "divide the number of seconds, days or months"
        )
    # as doubles, since division by 0 would be an error otherwise
    whole = left if kinds[:1] == ("DOUBLE",) and isinstance(left, exp.Column) else double(left)
    return exp.Div(this=whole.copy(), expression=right.copy(), typed=True, safe=False)


def divide_whole(node: exp.IntDiv, kinds: Sequence[str]) -> exp.Expr:
    if any(kind_of_type(kind) not in ("integer", "") for kind in kinds):
        raise untranslatable(node, "// of numbers that are not integers", "use floor(a / b)")
    return exp.Div(this=node.this.copy(), expression=node.expression.copy(), typed=True, safe=False)


def rounded_value(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    return cast_to_own_type(unchanged(node), node)


def sign_of(node: exp.Sign, _: Sequence[str]) -> exp.Expr:
    """Return the sign, which is 0 for NaN: the condition must not depend on how NaN compares."""
    text = (
        "CASE WHEN x > 0 AND x <= infinity() THEN 1 WHEN x < 0 THEN -1 WHEN x IS NOT NULL THEN 0"
        " END"
    )
    return bind_once(node.this, lambda x: sql(text, x=x))


def logarithm(node: exp.Log, _: Sequence[str]) -> exp.Expr:
    if node.expression is None:
        return call("log10", node.this)
    return call("log", double(node.this), double(node.expression))


def extreme(node: exp.Greatest | exp.Least, _: Sequence[str]) -> exp.Expr:
    """Return GREATEST or LEAST without nulls: in Athena the result is null if any argument is."""
    values = [node.this, *node.expressions]
    turned = (
        [
            exp.Coalesce(this=each.copy(), expressions=[v.copy() for v in values if v is not each])
            for each in values
        ]
        if len(values) > 1
        else values
    )
    return type(node)(this=turned[0], expressions=turned[1:], ignore_nulls=False)


def finite(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    return call("is_finite", node.expressions[0] if isinstance(node, exp.Anonymous) else node.this)


def infinite(node: exp.IsInf, _: Sequence[str]) -> exp.Expr:
    return call("is_infinite", node.this)
