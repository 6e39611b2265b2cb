"""Of which types the operands of a query are.  DuckDB is asked: it stands beside with empty tables of the same columns.

Each SELECT is asked by itself, with the FROM that its expressions stand in; a column of a query around it is a NULL of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from sqlglot import exp

# the columns of a query in DuckDB's SQL: names and types
Describe = Callable[[str], list[tuple[str, str]]]
Wanted = Callable[[exp.Expr], Sequence[exp.Expr | None] | None]
KINDS = "kinds"  # where a node's own type and those of its operands are kept: (own, *operands)

UNSIGNED = frozenset(["UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"])
INTEGERS = frozenset(["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"]) | UNSIGNED
SUMS = (exp.Add, exp.Sub, exp.Mul)


def sort_of(kind: str) -> str:
    """The sort of a DuckDB type: integer, decimal, float, text, date, timestamp, boolean, blob, list, ..., "" if it is not known."""
    if kind in INTEGERS:
        return "integer"
    if kind.endswith("]"):
        return "list"
    if kind.startswith("TIMESTAMP"):
        return "timestamp"
    name = kind.partition("(")[0]
    plain = {
        "DOUBLE": "float",
        "FLOAT": "float",
        "VARCHAR": "text",
        "ENUM": "text",
        '"NULL"': "null",
    }
    return plain.get(name, name.lower())


def ask(tree: exp.Expr, wanted: Wanted, describe: Describe) -> None:
    """Put into each node the types that it wants to know: `wanted` gives the nodes whose types these are (None for one that is not
    wanted), or None for a node that asks for nothing. `tree` is qualified: every column says of which table it is."""
    for select in list(tree.find_all(exp.Select)):
        asking = [(node, values) for node in _own(select) if (values := wanted(node)) is not None]
        if asking:
            scope = Scope(select, describe)
            scope.learn([value for _, values in asking for value in values if value is not None])
            for node, values in asking:
                node.meta[KINDS] = tuple(
                    scope.kind(value) if value is not None else "" for value in values
                )


def own(node: exp.Expr) -> str:
    """A node's own type; "" where nobody asked."""
    kinds: Sequence[str] = node.meta.get(KINDS, ("",))
    return kinds[0]


def operands(node: exp.Expr) -> tuple[str, ...]:
    """The types of a node's operands; none where nobody asked."""
    kinds: Sequence[str] = node.meta.get(KINDS, ("",))
    return tuple(kinds[1:])


class Scope:
    """One SELECT, and the types of values that stand in it."""

    def __init__(self, select: exp.Select, describe: Describe) -> None:
        self.select, self.describe = select, describe
        self.tables = {source.alias_or_name for source in _sources(select)}
        self._kinds: dict[str, str] = {}
        self._texts: dict[int, str] = {}

    def learn(self, values: Sequence[exp.Expr]) -> None:
        """Ask for the types of values: of long sums for those of their parts, from which most of them follow."""
        self._ask([part for value in values for part in _parts(value)])
        self._ask([value for value in values if not self._follows(value)])

    def kind(self, value: exp.Expr) -> str:
        """The type of a value that was learnt."""
        return self._kinds.get(self._text(value)) or self._follows(value)

    def _follows(self, value: exp.Expr) -> str:
        """The type of a sum of integers, or of doubles; "" for all else."""
        parts = list(_parts(value))
        if parts == [value]:
            return self._kinds.get(self._text(value), "")
        kinds = {self._kinds[self._text(part)] for part in parts}
        return (
            "BIGINT"
            if kinds <= INTEGERS
            else "DOUBLE"
            if "DOUBLE" in kinds and kinds <= INTEGERS | {"DOUBLE"}
            else ""
        )

    def _ask(self, values: Sequence[exp.Expr]) -> None:
        plain: list[str] = []
        grouped: list[str] = []
        for value in values:
            text = self._text(value)
            if text not in self._kinds:
                self._kinds[text] = ""
                (grouped if _sums_up(value) else plain).append(text)
        for texts, group in ((plain, False), (grouped, True)):
            if texts:
                found = self.describe(self._probe(texts, group))
                self._kinds.update(zip(texts, (kind for _, kind in found), strict=True))

    def _text(self, value: exp.Expr) -> str:
        """A value in SQL whose columns are all those of this SELECT."""
        if id(value) not in self._texts:
            free = any(
                isinstance(node, exp.Column) and node.table not in self.tables
                for node in value.walk()
            )
            bound = value.copy().transform(self._bind, self._inner(value)) if free else value
            self._texts[id(value)] = bound.sql("duckdb", comments=False)
        return self._texts[id(value)]

    def _bind(self, node: exp.Expr, inner: set[str]) -> exp.Expr:
        """Names of the SELECT's own columns are what they stand for, and columns of queries around it are NULLs of their types."""
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return node
        if not node.table:
            return (
                exp.paren(self._aliases[node.name].copy()) if node.name in self._aliases else node
            )
        if node.table in self.tables or node.table in inner or node.table not in self._outer:
            return node
        around = self._outer[node.table]
        around.learn([node])
        return exp.cast(exp.Null(), around.kind(node), dialect="duckdb")

    def _inner(self, value: exp.Expr) -> set[str]:
        return {
            source.alias_or_name
            for select in value.find_all(exp.Select)
            for source in _sources(select)
        }

    @cached_property
    def _aliases(self) -> dict[str, exp.Expr]:
        return {
            column.alias: column.this
            for column in self.select.expressions
            if isinstance(column, exp.Alias)
        }

    @cached_property
    def _outer(self) -> dict[str, Scope]:
        """The SELECTs around by the names of their tables, the nearest first."""
        found: dict[str, Scope] = {}
        node = self.select.parent
        while node is not None:
            if isinstance(node, exp.Select):
                scope = Scope(node, self.describe)
                found = dict.fromkeys(scope.tables, scope) | found
            node = node.parent
        return found

    def _probe(self, texts: Sequence[str], group: bool) -> str:
        """A query whose columns are these values."""
        columns = ", ".join(f"{text} AS k{number}" for number, text in enumerate(texts))
        parts = ["from_", "joins", *(["group"] if group else []), "windows"]
        rest = exp.Select(
            **{
                part: _copied(self.select.args[part])
                for part in parts
                if self.select.args.get(part)
            }
        )
        for column in list(rest.find_all(exp.Column)):
            if column.table and column.find_ancestor(exp.Select) is rest:
                bound = self._bind(column, set())
                if bound is not column:
                    column.replace(bound)
        return f"{_with(self.select)}SELECT {columns} {rest.sql('duckdb', comments=False).removeprefix('SELECT')}"


def _own(select: exp.Select) -> Iterator[exp.Expr]:
    """The nodes of a SELECT that are in no SELECT inside of it."""
    for node in select.walk(
        prune=lambda node: node is not select and isinstance(node, exp.Select | exp.SetOperation)
    ):
        if not isinstance(node, exp.Query):
            yield node


def _parts(value: exp.Expr) -> Iterator[exp.Expr]:
    """What a sum or a product is made of; of all else itself."""
    if isinstance(value, exp.Paren) and isinstance(value.this, SUMS):
        yield from _parts(value.this)
    elif (
        isinstance(value, SUMS)
        and not isinstance(value.expression, exp.Interval)
        and not isinstance(value.this, exp.Interval)
    ):
        yield from _parts(value.this)
        yield from _parts(value.expression)
    else:
        yield value


def _sources(select: exp.Expr) -> list[exp.Expr]:
    source = select.args.get("from_")
    return [
        *([source.this] if source is not None else []),
        *(join.this for join in select.args.get("joins") or ()),
    ]


def _sums_up(value: exp.Expr) -> bool:
    """Whether a value is made of a group of rows."""
    return any(
        not _is_over_window(node, value) for node in value.find_all(exp.AggFunc, exp.Grouping)
    )


def _is_over_window(node: exp.Expr, value: exp.Expr) -> bool:
    """Whether an aggregate is one of a window, or stands in a query inside of the value."""
    inside = node
    while inside is not value and inside.parent is not None:
        inside = inside.parent
        if isinstance(inside, exp.Query):
            return True
        if isinstance(inside, exp.Window) and _called(inside) is node:
            return True
    return False


def _called(window: exp.Window) -> exp.Expr:
    """What a window is of, without FILTER and IGNORE NULLS around it."""
    node: exp.Expr = window.this
    while isinstance(node, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        node = node.this
    return node


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
