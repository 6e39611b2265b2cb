"""FULL JOIN, SELECT DISTINCT and UNION in forms that Athena refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
from sqlglot import exp

from ...errors import HundredfoldError
from .planner_limits import (
    PlannerLimit,
    aggregates,
    conjuncts,
    free_names,
    has_window,
    named_subquery,
    names_of,
    sources_of,
)
from .types import Describe, kind_of_type, with_clauses

MATCHED_COLUMN = "is_matched"  # in a rewritten FULL JOIN: set in rows of the left table


def full_joins(select: exp.Select) -> Iterator[PlannerLimit]:
    for join in select.args.get("joins") or ():
        if join.side != "FULL" or join.args.get("using"):
            continue
        right = join.this.alias_or_name.lower()
        if not all(_joins_by_equality(c, right) for c in conjuncts(join.args.get("on"))):
            problem = (
                "FULL JOIN by another condition than = between a column of each table; use two"
                " LEFT JOINs and UNION ALL"
            )
            yield PlannerLimit(
                join,
                problem,
                "FULL JOIN",
                "FULL",
                lambda join=join: _correct_full_join(select, join),  # type: ignore[misc]
            )


def _joins_by_equality(condition: exp.Expr, right: str) -> bool:
    """Return whether a condition equates a value of the left tables with one of the right."""
    bare = condition.unnest()
    if not isinstance(bare, exp.EQ):
        return False
    sides = [
        {column.table.lower() for column in side.find_all(exp.Column)}
        for side in (bare.this, bare.expression)
    ]
    if any("" in side for side in sides):  # as far as the columns name their tables
        return all(sides)
    return all(sides) and any(side == {right} for side in sides) and sides[0] != sides[1]


def _correct_full_join(select: exp.Select, join: exp.Join) -> bool:
    """Replace two fully joined tables by the rows with a left row, and those without."""
    joins = select.args.get("joins") or ()
    left, right = sources_of(select)[0], join.this
    tables = {left.alias_or_name.lower(), right.alias_or_name.lower()}
    aliases = {value.alias.lower() for value in select.expressions if value.alias}
    every = [
        c
        for c in select.find_all(exp.Column)
        if c.table.lower() in tables or not (c.table or _is_alias(c, aliases))
    ]
    if len(joins) != 1 or len(tables) != 2 or any(not c.table for c in every):
        return False
    if select.find(exp.Star) and any(isinstance(v.unalias(), exp.Star) for v in select.expressions):
        return False
    inner_scopes = [s for s in select.find_all(exp.Select) if s is not select]
    if any(tables & names_of(s) for s in inner_scopes) or select.args.get("distinct"):
        return False
    names = {
        (c.table.lower(), c.name.lower()): (f"{c.table}_{c.name}", c)
        for c in every
        if c.find_ancestor(exp.Join) is not join
    }
    if len({name for name, _ in names.values()}) != len(names) or not names:
        return False
    columns = [exp.alias_(column.copy(), name) for name, column in names.values()]
    on = join.args["on"] if join.args.get("on") is not None else exp.true()
    matched = exp.select(*columns).from_(left.copy())
    matched = matched.join(right.copy(), on=on.copy(), join_type="left")
    marked = exp.select("*", exp.alias_(exp.true(), MATCHED_COLUMN)).from_(left.copy())
    alone = (
        exp.select(*(column.copy() for column in columns))
        .from_(right.copy())
        .join(named_subquery(marked, left.alias_or_name), on=on.copy(), join_type="left")
        .where(exp.Is(this=exp.column(MATCHED_COLUMN, left.alias_or_name), expression=exp.null()))
    )
    (alias,) = free_names(select, ("joined",))
    for column in every:
        if column.find_ancestor(exp.Join) is not join:
            name, _ = names[column.table.lower(), column.name.lower()]
            renamed: exp.Expr = exp.column(name, alias)
            if column.parent is select and column in select.expressions:
                renamed = exp.alias_(renamed, column.name)
            column.replace(renamed)
    select.set("joins", [])
    select.set(
        "from_", exp.From(this=named_subquery(exp.union(matched, alone, distinct=False), alias))
    )
    return True


def _is_alias(column: exp.Column, aliases: set[str]) -> bool:
    """Return whether a name without a table is that of a result column."""
    clause = column.find_ancestor(exp.Order, exp.Having, exp.Group, exp.Qualify, exp.Select)
    return column.name.lower() in aliases and not isinstance(clause, exp.Select)


def ordered_distinct(select: exp.Select) -> Iterator[PlannerLimit]:
    distinct, order = select.args.get("distinct"), select.args.get("order")
    if distinct is None or distinct.args.get("on") or order is None:
        return
    other = [key for key in order.expressions if not _is_selected(key.this, select)]
    if other:
        text = other[0].this.sql("duckdb")
        yield PlannerLimit(
            order,
            f"SELECT DISTINCT with ORDER BY {text}, which it does not select; select it too, or"
            " use GROUP BY",
            "DISTINCT",
            "ORDER BY",
            lambda: _correct_distinct(select),
        )


def _is_selected(key: exp.Expr, select: exp.Select) -> bool:
    """Return whether a key of an order is a column of the result, by name, number or value."""
    if isinstance(key, exp.Literal):
        return True
    if any(
        isinstance(value, exp.Star) or (isinstance(value, exp.Column) and value.is_star)
        for value in select.expressions
    ):
        return isinstance(key, exp.Column)
    names = {value.alias_or_name.lower() for value in select.expressions}
    if isinstance(key, exp.Column) and not key.table and key.name.lower() in names:
        return True
    return any(_same_value(key, value.unalias()) for value in select.expressions)


def _same_value(left: exp.Expr, right: exp.Expr) -> bool:
    """Return whether two expressions are equal, if a column may leave out its table."""
    if left == right:
        return True

    def bare(node: exp.Expr) -> exp.Expr:
        return exp.column(node.name.lower()) if isinstance(node, exp.Column) else node

    tables = {c.table.lower() for side in (left, right) for c in side.find_all(exp.Column)}
    if len(tables - {""}) > 1:
        return False
    same: bool = left.copy().transform(bare) == right.copy().transform(bare)
    return same


def _correct_distinct(select: exp.Select) -> bool:
    """Group by the selected values, and order the groups by their first row."""
    starred = any(value.is_star for value in select.expressions)
    if starred or select.args.get("group") or aggregates(select) or has_window(select):
        return False
    for key in select.args["order"].expressions:
        if not _is_selected(key.this, select):
            first = exp.Max if key.args.get("desc") else exp.Min
            key.set("this", first(this=key.this.copy()))
    values = [value.unalias().copy() for value in select.expressions]
    select.set("distinct", None)
    select.set("group", exp.Group(expressions=values))
    return True


def mixed_types(union: exp.SetOperation, describe: Describe) -> Iterator[PlannerLimit]:
    """Yield a UNION, EXCEPT or INTERSECT of columns that Athena cannot convert to one type."""
    before = with_clauses(union)
    try:
        left, right, whole = (
            describe(f"{before}{part.sql('duckdb', comments=False)}")
            for part in (union.left, union.right, _bare_union(union))
        )
    except (duckdb.Error, HundredfoldError):
        return  # a part that cannot be described alone is not compared
    pairs = zip(left, right, strict=False)
    mixed = [number for number, (one, other) in enumerate(pairs) if not _unite(one[1], other[1])]
    if mixed:
        (name, one), (_, other) = left[mixed[0]], right[mixed[0]]
        problem = (
            f"{type(union).__name__.upper()} of {one} and {other} in the column {name}, which only"
            " DuckDB converts; CAST one of them"
        )
        yield PlannerLimit(
            union.right,
            problem,
            "UNION",
            type(union).__name__,
            lambda: _correct_types(union, [left, right, whole], mixed),
        )


def mixed_rows(values: exp.Values, describe: Describe) -> Iterator[PlannerLimit]:
    """Yield a VALUES whose rows have columns that Athena cannot convert to one type."""
    shapes: dict[tuple[str, ...], exp.Tuple] = {}
    for row in values.expressions:
        if isinstance(row, exp.Tuple) and not row.find(exp.Column, exp.Query):
            shapes.setdefault(tuple(map(_shape, row.expressions)), row)
    try:
        rows = [
            describe("SELECT " + ", ".join(value.sql("duckdb") for value in row.expressions))
            for row in shapes.values()
        ]
    except (duckdb.Error, HundredfoldError):
        return
    for row, columns in zip(list(shapes.values())[1:], rows[1:], strict=True):
        for number, ((_, one), (_, other)) in enumerate(zip(rows[0], columns, strict=False), 1):
            if not _unite(one, other):
                problem = (
                    f"VALUES of {one} and {other} in the column {number}, which only DuckDB"
                    " converts; CAST one of them"
                )
                yield PlannerLimit(row, problem, "UNION", "VALUES", lambda: False)
                return


def _shape(value: exp.Expr) -> str:
    """Return what literals of one type have in common, and of other expressions the text."""
    if isinstance(value, exp.Literal):
        return "text" if value.is_string else "integer" if value.is_int else "number"
    return value.sql("duckdb")


def _bare_union(union: exp.SetOperation) -> exp.Expr:
    """Return a UNION without the WITH clause before it."""
    bare = union.copy()
    bare.set("with_", None)
    return bare


def _unite(one: str, other: str) -> bool:
    """Return whether Athena finds a type for two columns of these types of DuckDB."""
    kinds = {kind_of_type(one), kind_of_type(other)}
    return (
        len(kinds) == 1
        or not kinds.isdisjoint({"", "null"})
        or kinds <= {"integer", "decimal", "float"}
        or kinds <= {"date", "timestamp"}
    )


def _correct_types(
    union: exp.SetOperation, columns: Sequence[list[tuple[str, str]]], mixed: Sequence[int]
) -> bool:
    """Cast the mixed columns of both halves to the types that DuckDB gives them."""
    *halves, whole = columns
    for half, own in zip((union.left, union.right), halves, strict=True):
        values = []
        for number, ((name, kind), (_, wanted)) in enumerate(zip(own, whole, strict=True)):
            value: exp.Expr = exp.column(name, "half", quoted=not name.isidentifier())
            if number in mixed and kind != wanted:
                value = exp.cast(value, exp.DataType.build(wanted, dialect="duckdb"))
            values.append(exp.alias_(value, name, quoted=not name.isidentifier()))
        if any(own[number][1] != whole[number][1] for number in mixed):
            _cast_half(half, values)
    return True


def _cast_half(half: exp.Expr, values: list[exp.Expr]) -> None:
    """Cast values of a half where it lists them itself, or else in a SELECT around it."""
    listed = isinstance(half, exp.Select) and len(half.expressions) == len(values)
    plain = listed and not any(half.args.get(part) for part in ("distinct", "order", "qualify"))
    if plain and not any(value.is_star for value in half.expressions):
        for own, value in zip(list(half.expressions), values, strict=True):
            cast = value.this
            if isinstance(cast, exp.Cast):
                kept = exp.cast(own.unalias().copy(), cast.to.copy())
                own.replace(exp.alias_(kept, value.alias, quoted=value.args["alias"].quoted))
        return
    inner = half.this if isinstance(half, exp.Subquery) else half
    half.replace(
        exp.Select(expressions=values, from_=exp.From(this=named_subquery(inner.copy(), "half")))
    )
