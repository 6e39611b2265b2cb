"""Rewrites of expressions that have another meaning in Athena than in DuckDB.

REWRITES names the function for each kind of node that needs one: casts and elements of lists here,
the others in a module for each subject (numbers, dates, text, comparisons, aggregates). It receives
the node and the types of its operands. Its result has the type that DuckDB gives the node, since
the rewrites of the outer nodes rely on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from . import aggregates, comparisons, date_functions, number_functions, text_functions
from .casts import bind_once, call, from_text, sql, to_text
from .expressions import Rewrite, literal_integer, untranslatable, without_distinct
from .letter_case import like_any_case, lower, upper
from .types import kind_of_type, operand_types


def operands_of(node: exp.Expr) -> Sequence[exp.Expr | None] | None:
    """Return the nodes whose types the rewrite of a node needs; None if it needs no type.

    The first is the node itself (None if its own type is not needed), then its operands.
    """
    kind = type(node)
    if kind not in TYPED_NODES:
        return None
    values = [
        value
        for part, found in node.args.items()
        if part != "query"
        for value in (found if isinstance(found, list) else [found])
    ]
    bare = [without_distinct(value) for value in values if isinstance(value, exp.Expr)]
    return [
        node if kind in NODES_WITH_OWN_TYPE else None,
        *(value for value in bare if _is_value(value)),
    ]


def rewrite(tree: exp.Expr) -> exp.Expr:
    """Return the tree with every node rewritten, inner ones first."""
    holder = exp.Paren(this=tree)
    aggregates.exact_averages(holder)
    for node in reversed(list(tree.walk())):
        rewrite_node = (
            REWRITES_BY_NAME.get(node.name.lower())
            if isinstance(node, exp.Anonymous)
            else REWRITES.get(type(node))
        )
        if rewrite_node is not None:
            node.replace(rewrite_node(node, operand_types(node)))
    whole: exp.Expr = holder.this
    whole.parent = None
    return whole


def _is_value(value: exp.Expr) -> bool:
    return isinstance(value, exp.Condition | exp.Subquery) and not isinstance(
        value, exp.Star | exp.Interval | exp.Var | exp.Tuple | exp.Any | exp.All
    )


def _cast(node: exp.Cast, kinds: Sequence[str]) -> exp.Expr:
    value, kind = node.this, node.to
    source, lenient = kind_of_type(kinds[0]) if kinds else "", isinstance(node, exp.TryCast)
    name = kind.this
    types = exp.DataType.Type
    if name in (types.VARCHAR, types.TEXT, types.CHAR):
        return to_text(value, kinds[0]) if kinds else node
    if source == "text":
        return from_text(value, kind, lenient=lenient)
    if source == "float" and name in (types.TINYINT, types.SMALLINT, types.INT, types.BIGINT):
        # round half to even
        rounded = bind_once(
            value,
            lambda x: sql(
                "CASE WHEN abs(x) % 1 = 0.5 THEN 2e0 * round(x / 2e0) ELSE round(x) END", x=x
            ),
        )
        return type(node)(this=rounded, to=kind.copy())
    if source == "float" and name == types.DECIMAL:
        return _decimal_of_float(node, value, kind)
    if name in (types.TIMESTAMP, types.TIMESTAMPNTZ, types.TIMESTAMPTZ, types.TIMESTAMPLTZ):
        # all times are UTC
        return exp.cast(value.copy(), "timestamp")
    if name in (types.ARRAY, types.LIST, types.MAP, types.BLOB, types.VARBINARY) and source not in (
        "list",
        "map",
        "blob",
        "bytes",
        "null",
        "",
    ):
        raise untranslatable(
            node,
            f"a {kinds[0]} as {kind.sql('duckdb')}",
            "give the column this type where it is defined",
        )
    return node


def _decimal_of_float(node: exp.Cast, value: exp.Expr, kind: exp.DataType) -> exp.Expr:
    """Return a rounded number: by the number times a power of ten, as in DuckDB, not its exact
    value.
    """
    scale = int(kind.expressions[1].name) if len(kind.expressions) > 1 else 0
    digits = exp.DataType.build("decimal(38, 0)", dialect="athena")
    smallest = exp.cast(
        exp.Literal.string(f"0.{'1'.zfill(scale)}" if scale else "1"),
        exp.DataType.build(f"decimal({max(scale, 1)}, {scale})", dialect="athena"),
    )
    whole = type(node)(this=sql(f"round(x * 1e{scale})", x=value), to=digits)
    return type(node)(
        this=exp.Mul(this=whole, expression=smallest) if scale else whole, to=kind.copy()
    )


def _element(node: exp.Bracket, kinds: Sequence[str]) -> exp.Expr:
    """Return an element of a list; in sqlglot, literal positions count from 0."""
    index = node.expressions[0] if len(node.expressions) == 1 else None
    bare = index.unnest() if index is not None else None
    if isinstance(bare, exp.Literal) and bare.is_string:
        return call("element_at", node.this, bare)
    number = literal_integer(bare) if bare is not None else None
    number = number + 1 if number is not None else None
    if not number:
        raise untranslatable(
            node,
            "an element of a list whose position is no integer literal",
            "use list[1], or join unnest(list)",
        )
    if kinds and kind_of_type(kinds[0]) == "text":
        return text_functions.substring_from(
            node.this, exp.Literal.number(number), exp.Literal.number(1)
        )
    return call("element_at", node.this, exp.Literal.number(number))


REWRITES: dict[type[exp.Expr], Rewrite] = {
    exp.Div: number_functions.divide,
    exp.IntDiv: number_functions.divide_whole,
    exp.Floor: number_functions.rounded_value,
    exp.Ceil: number_functions.rounded_value,
    exp.Round: number_functions.rounded_value,
    exp.Trunc: number_functions.rounded_value,
    exp.Abs: number_functions.rounded_value,
    exp.Sign: number_functions.sign_of,
    exp.Log: number_functions.logarithm,
    exp.Greatest: number_functions.extreme,
    exp.Least: number_functions.extreme,
    exp.IsInf: number_functions.infinite,
    exp.Add: date_functions.add,
    exp.Sub: date_functions.add,
    exp.Interval: date_functions.interval_literal,
    exp.EQ: comparisons.compare,
    exp.NEQ: comparisons.compare,
    exp.GT: comparisons.compare,
    exp.GTE: comparisons.compare,
    exp.LT: comparisons.compare,
    exp.LTE: comparisons.compare,
    exp.NullSafeEQ: comparisons.compare,
    exp.NullSafeNEQ: comparisons.compare,
    exp.In: comparisons.in_list,
    exp.Between: comparisons.between,
    exp.Is: comparisons.is_boolean,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.DPipe: text_functions.join,
    exp.Concat: text_functions.concat,
    exp.ConcatWs: text_functions.concat_with,
    exp.Length: text_functions.length_of,
    exp.ArraySize: text_functions.length_of,
    exp.Trim: text_functions.trim,
    exp.Upper: upper,
    exp.Lower: lower,
    exp.ILike: like_any_case,
    exp.Substring: text_functions.substring,
    exp.Left: text_functions.left_part,
    exp.Right: text_functions.right_part,
    exp.Replace: text_functions.replace_text,
    exp.Contains: text_functions.contains,
    exp.EndsWith: text_functions.ends_with,
    exp.StartsWith: text_functions.starts_with,
    exp.SplitPart: text_functions.split_part,
    exp.MD5: text_functions.md5,
    exp.RegexpLike: text_functions.matches_pattern,
    exp.RegexpFullMatch: text_functions.matches_whole,
    exp.RegexpExtract: text_functions.extracted,
    exp.RegexpReplace: text_functions.replaced,
    exp.TimestampTrunc: date_functions.truncated,
    exp.DateTrunc: date_functions.truncated,
    exp.Extract: date_functions.extract,
    exp.DayOfWeek: date_functions.time_part_function("dow"),
    exp.DayOfWeekIso: date_functions.time_part_function("isodow"),
    exp.DayOfYear: date_functions.time_part_function("doy"),
    exp.DayOfMonth: date_functions.time_part_function("day"),
    exp.WeekOfYear: date_functions.time_part_function("week"),
    exp.TimeToUnix: date_functions.time_part_function("epoch"),
    exp.DateDiff: date_functions.difference,
    exp.Avg: aggregates.average,
    exp.Sum: aggregates.sum_of,
    exp.ArgMax: aggregates.min_max_by("max_by"),
    exp.ArgMin: aggregates.min_max_by("min_by"),
    exp.AnyValue: aggregates.any_value,
    exp.IgnoreNulls: aggregates.without_ignore_nulls,
    exp.GroupConcat: aggregates.string_agg,
    exp.Bracket: _element,
}
REWRITES_BY_NAME: dict[str, Rewrite] = {
    "isfinite": number_functions.finite,
    "prefix": text_functions.starts_with,
    "suffix": text_functions.ends_with,
    "date_part": date_functions.date_part,
    "datepart": date_functions.date_part,
    "weekday": date_functions.time_part_function("dow"),
    "epoch_ns": date_functions.nanoseconds,
}
NODES_WITH_OWN_TYPE = frozenset(
    [exp.Floor, exp.Ceil, exp.Round, exp.Trunc, exp.Abs, exp.TimestampTrunc, exp.DateTrunc]
)
TYPED_NODES = NODES_WITH_OWN_TYPE | {
    exp.Div,
    exp.IntDiv,
    exp.Add,
    exp.Sub,
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.In,
    exp.Between,
    exp.Cast,
    exp.TryCast,
    exp.DPipe,
    exp.Concat,
    exp.ConcatWs,
    exp.Length,
    exp.ArraySize,
    exp.Contains,
    exp.DateDiff,
    exp.Avg,
    exp.Sum,
    exp.GroupConcat,
    exp.Bracket,
}
