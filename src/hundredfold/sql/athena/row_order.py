"""The order of rows, and which of them are kept: rewrites of queries in which Trino and DuckDB
differ.
"""

from __future__ import annotations

from sqlglot import exp

ROW_NUMBER_COLUMN = "__row_number"  # the number of a row in the order of its query
QUALIFIES_COLUMN = "__qualifies"  # whether a row passes QUALIFY
ORDER_PARTS = ("order", "limit", "offset")


def without_qualify(tree: exp.Expr) -> exp.Expr:
    """Return the query with QUALIFY, which Athena lacks, as a WHERE of an outer query.

    The order and the limit, which count the rows that are kept, move to the outer query too.
    """
    for select in list(tree.find_all(exp.Select)):
        qualify = select.args.get("qualify")
        if qualify is None:
            continue
        names = [column.alias_or_name for column in select.expressions]
        inner = select.copy()
        for part in ("qualify", "with_", *ORDER_PARTS):
            inner.set(part, None)
        inner.append(
            "expressions",
            exp.alias_(_without_aliases(qualify.this, select), QUALIFIES_COLUMN, quoted=True),
        )
        order = select.args.get("order")
        keys = [key.copy() for key in order.expressions] if order is not None else []
        for number, key in enumerate(keys):
            inner.append(
                "expressions",
                exp.alias_(
                    _without_aliases(key.this, select), f"{ROW_NUMBER_COLUMN}_{number}", quoted=True
                ),
            )
            key.set("this", exp.column(f"{ROW_NUMBER_COLUMN}_{number}", quoted=True))
        outer = exp.select(*(exp.column(name, quoted=True) for name in names)).from_(
            _subquery(inner, "q")
        )
        outer.set("where", exp.Where(this=exp.column(QUALIFIES_COLUMN, quoted=True)))
        for part in ("limit", "offset", "with_"):
            outer.set(part, select.args.get(part))
        if keys:
            outer.set("order", exp.Order(expressions=keys))
        tree = _put(tree, select, outer)
    return tree


def with_order_of_subquery(tree: exp.Expr) -> exp.Expr:
    """Return the query with the order of the subquery that it reads as its own.

    Trino discards the order of a subquery, DuckDB keeps it.
    """
    outer: list[exp.Select] = []
    node = tree
    while isinstance(node, exp.Select) and not node.args.get("order"):
        source = node.args.get("from_")
        if (
            node.args.get("joins")
            or _aggregates(node)
            or source is None
            or not isinstance(source.this, exp.Subquery)
        ):
            return tree
        outer.append(node)
        node = source.this.this
    order = node.args.get("order")
    if not outer or order is None:
        return tree
    numbered = _numbered(node, order)
    node.replace(numbered)
    for select in outer[1:]:  # those in between pass it on
        select.append("expressions", exp.column(ROW_NUMBER_COLUMN, quoted=True))
    for select in outer:
        if select is outer[0] or select.args.get("limit") or select.args.get("offset"):
            select.set(
                "order",
                exp.Order(
                    expressions=[exp.Ordered(this=exp.column(ROW_NUMBER_COLUMN, quoted=True))]
                ),
            )
    return tree


def _numbered(node: exp.Expr, order: exp.Order) -> exp.Expr:
    """Return a query with the number of each row as one more column."""
    if isinstance(node, exp.Select) and not node.args.get("distinct"):
        keys = [
            exp.Ordered(**{**key.args, "this": _without_aliases(key.this, node)})
            for key in order.expressions
        ]
        numbered = node.copy()
        numbered.append("expressions", _row_number(keys))
    else:  # its keys are its own columns
        assert isinstance(node, exp.Query)
        names = [column.alias_or_name for column in node.selects]
        keys = [exp.Ordered(**{**key.args, "this": key.this.copy()}) for key in order.expressions]
        numbered = exp.select(
            *(exp.column(name, quoted=True) for name in names), _row_number(keys)
        ).from_(_subquery(node.copy(), "o"))
        node = numbered
    if node.args.get("limit") is None and node.args.get("offset") is None:
        numbered.set("order", None)
    return numbered


def _row_number(keys: list[exp.Ordered]) -> exp.Expr:
    return exp.alias_(
        exp.Window(this=exp.RowNumber(), order=exp.Order(expressions=keys)),
        ROW_NUMBER_COLUMN,
        quoted=True,
    )


def _without_aliases(value: exp.Expr, select: exp.Select) -> exp.Expr:
    """Return a value with aliases of the SELECT replaced, since a window cannot use them."""
    own = {
        column.alias: column.this for column in select.expressions if isinstance(column, exp.Alias)
    }

    def replace(node: exp.Expr) -> exp.Expr:
        return (
            exp.paren(own[node.name].copy())
            if isinstance(node, exp.Column) and not node.table and node.name in own
            else node
        )

    done: exp.Expr = value.copy().transform(replace)
    return done


def _aggregates(select: exp.Select) -> bool:
    """Return whether a query returns fewer rows than it reads."""
    if any(select.args.get(part) for part in ("group", "distinct", "having")):
        return True
    sums = (node for column in select.expressions for node in column.find_all(exp.AggFunc))
    return any(node.find_ancestor(exp.Window) is None for node in sums)


def _subquery(query: exp.Expr, alias: str) -> exp.Subquery:
    return exp.Subquery(
        this=query, alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True))
    )


def _put(tree: exp.Expr, old: exp.Expr, new: exp.Expr) -> exp.Expr:
    if old is tree:
        return new
    old.replace(new)
    return tree
