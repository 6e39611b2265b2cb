"""The order of rows, and which of them are kept: what Trino does at other places of a query than DuckDB."""

from __future__ import annotations

from sqlglot import exp

PLACE = "__place"  # the number of a row in the order of its query
KEPT = "__kept"  # whether a row passes QUALIFY
PARTS = ("order", "limit", "offset")


def without_qualify(tree: exp.Expr) -> exp.Expr:
    """QUALIFY as a WHERE around: Athena has none. The order and the limit, which count what is kept, move out with it."""
    for select in list(tree.find_all(exp.Select)):
        qualify = select.args.get("qualify")
        if qualify is None:
            continue
        names = [column.alias_or_name for column in select.expressions]
        inner = select.copy()
        for part in ("qualify", "with_", *PARTS):
            inner.set(part, None)
        inner.append("expressions", exp.alias_(_spelled(qualify.this, select), KEPT, quoted=True))
        order = select.args.get("order")
        keys = [key.copy() for key in order.expressions] if order is not None else []
        for number, key in enumerate(keys):
            inner.append(
                "expressions",
                exp.alias_(_spelled(key.this, select), f"{PLACE}_{number}", quoted=True),
            )
            key.set("this", exp.column(f"{PLACE}_{number}", quoted=True))
        outer = exp.select(*(exp.column(name, quoted=True) for name in names)).from_(
            _subquery(inner, "q")
        )
        outer.set("where", exp.Where(this=exp.column(KEPT, quoted=True)))
        for part in ("limit", "offset", "with_"):
            outer.set(part, select.args.get(part))
        if keys:
            outer.set("order", exp.Order(expressions=keys))
        tree = _put(tree, select, outer)
    return tree


def ordered(tree: exp.Expr) -> exp.Expr:
    """The query with the order of the subquery that it reads as its own: Trino forgets the order of a subquery, DuckDB does not."""
    outer: list[exp.Select] = []
    node = tree
    while isinstance(node, exp.Select) and not node.args.get("order"):
        source = node.args.get("from_")
        if (
            node.args.get("joins")
            or _sums_up(node)
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
    for select in outer[1:]:  # those between pass it on
        select.append("expressions", exp.column(PLACE, quoted=True))
    for select in outer:
        if select is outer[0] or select.args.get("limit") or select.args.get("offset"):
            select.set(
                "order", exp.Order(expressions=[exp.Ordered(this=exp.column(PLACE, quoted=True))])
            )
    return tree


def _numbered(node: exp.Expr, order: exp.Order) -> exp.Expr:
    """A query with the place of each row as one more column."""
    if isinstance(node, exp.Select) and not node.args.get("distinct"):
        keys = [
            exp.Ordered(**{**key.args, "this": _spelled(key.this, node)})
            for key in order.expressions
        ]
        numbered = node.copy()
        numbered.append("expressions", _place(keys))
    else:  # its keys are columns of its own
        assert isinstance(node, exp.Query)
        names = [column.alias_or_name for column in node.selects]
        keys = [exp.Ordered(**{**key.args, "this": key.this.copy()}) for key in order.expressions]
        numbered = exp.select(
            *(exp.column(name, quoted=True) for name in names), _place(keys)
        ).from_(_subquery(node.copy(), "o"))
        node = numbered
    if node.args.get("limit") is None and node.args.get("offset") is None:
        numbered.set("order", None)
    return numbered


def _place(keys: list[exp.Ordered]) -> exp.Expr:
    return exp.alias_(
        exp.Window(this=exp.RowNumber(), order=exp.Order(expressions=keys)), PLACE, quoted=True
    )


def _spelled(value: exp.Expr, select: exp.Select) -> exp.Expr:
    """A value without names of the SELECT's own columns, which a window cannot see."""
    own = {
        column.alias: column.this for column in select.expressions if isinstance(column, exp.Alias)
    }

    def spell(node: exp.Expr) -> exp.Expr:
        return (
            exp.paren(own[node.name].copy())
            if isinstance(node, exp.Column) and not node.table and node.name in own
            else node
        )

    done: exp.Expr = value.copy().transform(spell)
    return done


def _sums_up(select: exp.Select) -> bool:
    """Whether a query makes fewer rows of those that it reads."""
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
