"""Subqueries that read columns of the query around them, and that Athena cannot turn into joins.

Refused are the forms that Trino's own tests, or measurements on Trino 466 and 483, show to fail.
Subqueries with aggregates, and those of EXISTS and IN, are accepted with any condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlglot import exp

from .planner_limits import (
    PlannerLimit,
    aggregates,
    conditions_of,
    enclosing,
    free_names,
    has_window,
    named_subquery,
    names_of,
    outer_columns,
    sources_of,
)

ROW_COLUMN = "row_id"  # in a rewritten lookup: the number of a row that looks up


def subquery_limits(select: exp.Select, outer: list[exp.Column]) -> Iterator[PlannerLimit]:
    read = ", ".join(dict.fromkeys(column.sql("duckdb") for column in outer))
    reads = f"which reads {read} of the query around it"
    if _is_beside(select, outer):
        problem = f"a subquery in FROM, which reads {read} of a table beside it; join it by ON"
        yield _limit(select, problem, "FROM (")
    elif isinstance(select.parent, exp.SetOperation):
        kind = type(select.parent).__name__.upper()
        yield _limit(select, f"{kind} in a subquery, {reads}; join the result", kind)
    elif select.args.get("limit") or select.args.get("offset"):
        part = "LIMIT" if select.args.get("limit") else "OFFSET"
        problem = f"a subquery with {part}, {reads}; join and take the first by row_number()"
        yield PlannerLimit(select, problem, "LIMIT", part, lambda: _correct_lookup(select))
    elif has_window(select) or select.args.get("qualify"):
        problem = f"a window function in a subquery, {reads}; join the result"
        yield _limit(select, problem, "OVER")
    elif _selects_any(select, outer) and not isinstance(select.parent, exp.Exists):
        problem = f"a subquery that returns {read} of the query around it; use it outside"
        yield _limit(select, problem)
    elif select.args.get("group") and not _only_equal(select, outer):
        problem = f"GROUP BY in a subquery, {reads} other than by =; join the result"
        yield _limit(select, problem, "GROUP BY")
    elif _is_in_outer_join(select):
        problem = f"a subquery in the condition of an outer join, {reads}; join its result before"
        yield _limit(select, problem, "JOIN")
    elif any(_outer_join_of(column, select) for column in outer):
        problem = f"{read} of the query around a subquery, in its outer join; use it in WHERE"
        yield _limit(select, problem, "JOIN")


def _limit(select: exp.Select, problem: str, phrase: str = "") -> PlannerLimit:
    """Return a limit without a rewrite of its own: it depends on the rest of the query."""
    return PlannerLimit(select, problem, "join", phrase, lambda: False)


def _is_beside(select: exp.Select, outer: list[exp.Column]) -> bool:
    """Return whether a subquery in FROM reads the columns of a table in the same FROM."""
    clause = select.parent
    while isinstance(clause, exp.Subquery | exp.SetOperation):
        clause = clause.parent
    if not isinstance(clause, exp.From | exp.Join):
        return False
    around = names_of(next(enclosing(select)))
    return any(column.table.lower() in around for column in outer)


def _selects_any(select: exp.Select, outer: list[exp.Column]) -> bool:
    """Return whether the values that a subquery returns depend on the query around it."""
    return any(
        node in outer and node.find_ancestor(exp.Select) is select
        for value in select.expressions
        for node in value.find_all(exp.Column)
    )


def _only_equal(select: exp.Select, outer: list[exp.Column]) -> bool:
    """Return whether a subquery reads the outer columns in equalities of its WHERE alone."""
    equal = [
        condition.unnest()
        for condition in conditions_of(select)
        if isinstance(condition.unnest(), exp.EQ)
    ]
    inside = {
        id(side.unnest())
        for condition in equal
        for side in (condition.this, condition.expression)
        if isinstance(side.unnest(), exp.Column)
    }
    return all(id(column) in inside for column in outer)


def _outer_join_of(column: exp.Column, select: exp.Select) -> bool:
    join = column.find_ancestor(exp.Join, exp.Select)
    return (
        isinstance(join, exp.Join) and bool(join.side) and join.find_ancestor(exp.Select) is select
    )


def _is_in_outer_join(select: exp.Select) -> bool:
    join = select.find_ancestor(exp.Join, exp.Select)
    return isinstance(join, exp.Join) and bool(join.side)


def _correct_lookup(select: exp.Select) -> bool:
    """Replace a lookup of one value, such as the price that was valid at a time, by a join.

    An EXISTS does not need its LIMIT; one row in no order becomes the smallest.
    """
    limit = select.args.get("limit")
    number = limit.expression if isinstance(limit, exp.Limit) else None
    if not isinstance(number, exp.Literal) or not number.is_int or select.args.get("offset"):
        return False
    if isinstance(select.parent, exp.Exists) and int(number.name) > 0:
        select.set("limit", None)
        select.set("order", None)
        return True
    plain = not any(select.args.get(part) for part in ("group", "having", "distinct", "qualify"))
    if number.name != "1" or not plain or aggregates(select) or len(select.expressions) != 1:
        return False
    if not isinstance(select.parent, exp.Subquery) or select.find(exp.Star, exp.Subquery):
        return False
    value = select.expressions[0].unalias()
    if any(column in outer_columns(select) for column in value.find_all(exp.Column)):
        return False
    if select.args.get("order") is None:
        select.set("limit", None)
        select.set("expressions", [exp.Min(this=value.copy())])
        return True
    return _join_lookup(select, value)


def _join_lookup(select: exp.Select, value: exp.Expr) -> bool:
    """Join the rows that look up with those found, and keep the first of each."""
    outer = outer_columns(select)
    around = next(enclosing(select))
    tables = {column.table.lower() for column in outer}
    source = next((s for s in sources_of(around) if s.alias_or_name.lower() in tables), None)
    clause = select.parent
    if len(tables) != 1 or source is None or clause is None or not _keeps_rows(around, source):
        return False
    if clause.find_ancestor(exp.Join, exp.Select) is not around:
        return False  # in the condition of a join
    if {id(c.find_ancestor(exp.Where, exp.Select)) for c in outer} != {id(select.args["where"])}:
        return False
    names = free_names(around, ("looked_up", "lookup", ROW_COLUMN))
    derived, conditions, keys = _derived(select, value, names)
    table = source.alias_or_name
    numbered = exp.select("*", exp.alias_(_row_number(), names[2])).from_(source.copy())
    inner = (
        exp.select(
            exp.Column(
                this=exp.Star(except_=[exp.to_identifier(names[2])]), table=exp.to_identifier(table)
            ),
            exp.column(names[0], names[1]),
        )
        .from_(named_subquery(numbered, table))
        .join(
            named_subquery(derived, names[1]),
            on=exp.and_(*conditions, copy=False),
            join_type="left",
        )
    )
    first = _row_number([exp.column(names[2], table)], keys)
    inner.set("qualify", exp.Qualify(this=exp.EQ(this=first, expression=exp.Literal.number(1))))
    found: exp.Expr = exp.column(names[0], table)
    if isinstance(clause.parent, exp.Select):  # among the columns, without a name of its own
        found = exp.alias_(found, value.output_name or names[0])
    _hide_from_stars(around, names[0])
    clause.replace(found)
    source.replace(named_subquery(inner, table))
    return True


def _keeps_rows(around: exp.Select, source: exp.Expr) -> bool:
    """Return whether each row of a SELECT has a row of this source, so that it looks up."""
    joins = around.args.get("joins") or ()
    outside = any(join.side in ("RIGHT", "FULL") for join in joins)
    join = source.find_ancestor(exp.Join, exp.Select)
    return not outside and not (isinstance(join, exp.Join) and join.side)


def _derived(
    select: exp.Select, value: exp.Expr, names: Sequence[str]
) -> tuple[exp.Select, list[exp.Expr], list[exp.Ordered]]:
    """Return the table that is searched, the conditions of the join, and the keys of its order."""
    outer = {id(column) for column in outer_columns(select)}
    by_name: dict[str, str] = {}
    columns: list[exp.Expr] = [exp.alias_(value.copy(), names[0])]

    def exposed(node: exp.Expr) -> exp.Expr:
        def replace(part: exp.Expr) -> exp.Expr:
            if not isinstance(part, exp.Column) or part.meta.get("outer"):
                return part
            text = part.sql("duckdb")
            if text not in by_name:
                taken = {names[0], *by_name.values()}
                by_name[text] = part.name if part.name not in taken else f"key_{len(by_name) + 1}"
                columns.append(exp.alias_(part.copy(), by_name[text]))
            return exp.column(by_name[text], names[1])

        return node.copy().transform(replace)

    alias = select.expressions[0].alias
    keys = []
    for key in select.args["order"].expressions:
        is_value = isinstance(key.this, exp.Column) and alias and key.this.name == alias
        this = exp.column(names[0], names[1]) if is_value else exposed(key.this)
        keys.append(exp.Ordered(**{**key.args, "this": this}))
    inside: list[exp.Expr] = []
    conditions: list[exp.Expr] = []
    for condition in conditions_of(select):
        reads = [c for c in condition.find_all(exp.Column) if id(c) in outer]
        for column in reads:
            column.meta["outer"] = True
        (conditions if reads else inside).append(condition)
    on = [exposed(condition) for condition in conditions]
    derived = exp.Select(
        expressions=columns,
        **{part: select.args[part] for part in ("from_", "joins") if select.args.get(part)},
    )
    if inside:
        derived.set("where", exp.Where(this=exp.and_(*inside)))
    return derived.copy(), on, keys


def _row_number(
    partition: Sequence[exp.Expr] = (), order: Sequence[exp.Ordered] = ()
) -> exp.Window:
    keys = exp.Order(expressions=list(order)) if order else None
    return exp.Window(this=exp.RowNumber(), partition_by=list(partition), order=keys)


def _hide_from_stars(select: exp.Select, column: str) -> None:
    """Leave a column that a rewrite adds out of the stars of a SELECT."""
    for value in select.expressions:
        star = value.this if isinstance(value, exp.Column) else value
        if isinstance(star, exp.Star):
            hidden = list(star.args.get("except_") or ())
            star.set("except_", [*hidden, exp.to_identifier(column)])
