"""Aggregates that have another meaning in Athena than in DuckDB."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from .casts import call, sql, to_text
from .expressions import Rewrite, double, replace_argument, replace_type, untranslatable
from .types import kind_of_type, operand_types


def average(node: exp.Avg, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) not in ("integer", "decimal") and kinds[0] != "DOUBLE":
        replace_argument(node, double)
    return node


def exact_averages(tree: exp.Expr) -> None:
    """Rewrite averages of decimals, which DuckDB sums exactly and returns as a double.

    Athena returns a decimal of the same scale.
    """
    for node in list(tree.find_all(exp.Avg)):
        kind = next(iter(operand_types(node)), "")
        if kind_of_type(kind) != "decimal":
            continue
        whole: exp.Expr = node
        while isinstance(whole.parent, exp.Filter | exp.Window) and whole.parent.this is whole:
            whole = whole.parent
        total, count = (
            whole.copy().transform(replace_type(exp.Avg, other)) for other in (exp.Sum, exp.Count)
        )
        # over a window DuckDB divides once
        scale = (
            10 ** int(kind.rstrip(")").rpartition(",")[2]) if isinstance(whole, exp.Window) else 1
        )
        digits = (
            total if scale == 1 else sql(f"CAST(total * {scale} AS DECIMAL(38, 0))", total=total)
        )
        whole.replace(
            exp.paren(
                sql(f"CAST(digits AS DOUBLE) / (count * {scale})", digits=digits, count=count)
            )
        )


def sum_of(node: exp.Sum, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) == "boolean":
        replace_argument(node, lambda value: exp.cast(value.copy(), "bigint"))
    if kinds and kinds[0] == "FLOAT":
        replace_argument(node, double)
    return node


def min_max_by(name: str) -> Rewrite:
    """Return the rewrite of max_by or min_by: DuckDB skips rows whose first value is null."""

    def rewrite_node(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
        return call(
            name,
            node.this,
            sql("CASE WHEN x IS NOT NULL THEN y END", x=node.this, y=node.expression),
        )

    return rewrite_node


def any_value(node: exp.AnyValue, _: Sequence[str]) -> exp.Expr:
    return call("arbitrary", node.this)


def without_ignore_nulls(node: exp.IgnoreNulls, _: Sequence[str]) -> exp.Expr:
    """Return arbitrary() alone, which skips nulls anyway."""
    inner = node.this
    return inner if isinstance(inner, exp.Anonymous) and inner.name == "arbitrary" else node


def string_agg(node: exp.GroupConcat, kinds: Sequence[str]) -> exp.Expr:
    """Return the texts of a group joined in order, without nulls; null if there are none."""
    order = node.this
    value = order.this
    if isinstance(value, exp.Distinct):
        raise untranslatable(
            node,
            "the distinct values of a group as one text",
            "take them in a subquery with SELECT DISTINCT",
        )
    listed = exp.ArrayAgg(
        this=exp.Order(
            this=to_text(value, kinds[0] if kinds else "VARCHAR").copy(),
            expressions=[key.copy() for key in order.expressions],
        )
    )
    there = exp.not_(exp.Is(this=exp.paren(value.copy()), expression=exp.Null()))
    filtered = node.parent if isinstance(node.parent, exp.Filter) else None
    if filtered is not None:
        raise untranslatable(node, "FILTER of a joined text", "use CASE inside the brackets")
    return call(
        "array_join",
        exp.Filter(this=listed, expression=exp.Where(this=there)),
        node.args.get("separator") or exp.Literal.string(","),
    )
