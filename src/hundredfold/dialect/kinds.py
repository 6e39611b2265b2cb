"""Of which types the operands of a query are.  DuckDB is asked: it stands beside with empty tables of the same columns.

Each SELECT is asked by itself, with the FROM that its expressions stand in; a column of a query around it is a NULL of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sqlglot import exp

Describe = Callable[[str], list[tuple[str, str]]]  # the columns of a query in DuckDB's SQL: names and types
KINDS = "kinds"  # where a node's own type and those of its operands are kept: (own, *operands)

UNSIGNED = frozenset(["UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"])
INTEGERS = frozenset(["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"]) | UNSIGNED


def sort_of(kind: str) -> str:
    """The sort of a DuckDB type: integer, decimal, float, text, date, timestamp, boolean, blob, list, ..., "" if it is not known."""
    if kind in INTEGERS:
        return "integer"
    if kind.endswith("]"):
        return "list"
    if kind.startswith("TIMESTAMP"):
        return "timestamp"
    name = kind.partition("(")[0]
    plain = {"DOUBLE": "float", "FLOAT": "float", "VARCHAR": "text", "ENUM": "text", '"NULL"': "null"}
    return plain.get(name, name.lower())


def ask(tree: exp.Expr, wanted: Callable[[exp.Expr], Sequence[exp.Expr | None] | None], describe: Describe) -> None:
    """Put into each node the types that it wants to know: `wanted` gives the nodes whose types these are (None for one that is not
    wanted), or None for a node that asks for nothing. `tree` is qualified: every column says of which table it is."""
    for select in list(tree.find_all(exp.Select)):
        asking = [(node, values) for node in _own(select) if (values := wanted(node)) is not None]
        flat = [value for _, values in asking for value in values if value is not None]
        kinds = iter(_kinds(select, flat, describe))
        for node, values in asking:
            node.meta[KINDS] = tuple(next(kinds) if value is not None else "" for value in values)


def own(node: exp.Expr) -> str:
    """A node's own type; "" where nobody asked."""
    kinds: Sequence[str] = node.meta.get(KINDS, ("",))
    return kinds[0]


def operands(node: exp.Expr) -> tuple[str, ...]:
    """The types of a node's operands; none where nobody asked."""
    kinds: Sequence[str] = node.meta.get(KINDS, ("",))
    return tuple(kinds[1:])


def _own(select: exp.Select) -> Iterator[exp.Expr]:
    """The nodes of a SELECT that are in no SELECT inside of it."""
    for node in select.walk(prune=lambda node: node is not select and isinstance(node, exp.Select | exp.SetOperation)):
        if not isinstance(node, exp.Query):
            yield node


def _kinds(select: exp.Select, values: Sequence[exp.Expr], describe: Describe) -> list[str]:
    """The types of values that stand in a SELECT."""
    plain: dict[str, str] = {}
    grouped: dict[str, str] = {}
    texts = []
    for value in values:
        bound = _bound(select, value, describe)
        text = bound.sql("duckdb", comments=False)
        texts.append(text)
        (grouped if _sums_up(bound) else plain)[text] = ""
    for found, group in ((plain, False), (grouped, True)):
        if found:
            described = describe(_probe(select, list(found), group, describe))
            found.update(zip(found, (kind for _, kind in described), strict=True))
    return [plain.get(text) or grouped[text] for text in texts]


def _bound(select: exp.Select, value: exp.Expr, describe: Describe) -> exp.Expr:
    """A value whose columns are all those of its SELECT: names of the SELECT's own columns are what they stand for, and columns of
    queries around it are NULLs."""
    aliases = {column.alias: column.this for column in select.expressions if isinstance(column, exp.Alias)}

    def bind(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return node
        if not node.table:
            return exp.paren(aliases[node.name].copy()) if node.name in aliases else node
        return node if node.table in tables or node.table not in outer else _null(select, node, describe)

    tables = {source.alias_or_name for source in _sources(select)} | {
        source.alias_or_name for inner in value.find_all(exp.Select) for source in _sources(inner)
    }
    outer = {source.alias_or_name for around in _around(select) for source in _sources(around)}
    return value.copy().transform(bind)


def _null(select: exp.Select, column: exp.Column, describe: Describe) -> exp.Expr:
    """A NULL of the type that a column of a query around has."""
    around = next(around for around in _around(select) if column.table in {s.alias_or_name for s in _sources(around)})
    kind = _kinds(around, [column], describe)[0]
    return exp.cast(exp.Null(), kind, dialect="duckdb")


def _around(select: exp.Expr) -> Iterator[exp.Select]:
    """The SELECTs around, the nearest first."""
    node = select.parent
    while node is not None:
        if isinstance(node, exp.Select):
            yield node
        node = node.parent


def _sources(select: exp.Select) -> list[exp.Expr]:
    source = select.args.get("from_")
    return [*([source.this] if source is not None else []), *(join.this for join in select.args.get("joins") or ())]


def _sums_up(value: exp.Expr) -> bool:
    """Whether a value is made of a group of rows."""
    sums = value.find_all(exp.AggFunc, exp.Grouping)
    return any(not isinstance(_caller(node), exp.Window) and node.find_ancestor(exp.Query) is None for node in sums)


def _caller(node: exp.Expr) -> exp.Expr | None:
    parent = node.parent
    while isinstance(parent, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        parent = parent.parent
    return parent


def _probe(select: exp.Select, texts: Sequence[str], group: bool, describe: Describe) -> str:
    """A query whose columns are these values."""
    columns = ", ".join(f"{text} AS k{number}" for number, text in enumerate(texts))
    parts = ["from_", "joins", *(["group"] if group else []), "windows"]
    rest = exp.Select(**{part: _copied(select.args[part]) for part in parts if select.args.get(part)})
    for column in [*rest.find_all(exp.Column)]:
        if column.table and column.find_ancestor(exp.Select) is rest:
            bound = _bound(select, column, describe)
            if not isinstance(bound, exp.Column):
                column.replace(bound)
    return f"{_with(select)}SELECT {columns} {rest.sql('duckdb', comments=False).removeprefix('SELECT')}"


def _copied(part: exp.Expr | list[exp.Expr]) -> exp.Expr | list[exp.Expr]:
    return [each.copy() for each in part] if isinstance(part, list) else part.copy()


def _with(select: exp.Select) -> str:
    """The WITH clauses that a SELECT can see."""
    seen: list[str] = []
    node: exp.Expr | None = select
    inside: exp.Expr | None = None
    while node is not None:
        clause = node.args.get("with_")
        if clause is not None:
            ctes = list(clause.expressions)
            if inside in ctes:
                ctes = ctes[: ctes.index(inside)]  # one of a WITH sees those before it
            seen = [cte.sql("duckdb", comments=False) for cte in ctes] + seen
        inside = node if isinstance(node, exp.CTE) else inside
        node = node.parent
    return f"WITH {', '.join(seen)} " if seen else ""
