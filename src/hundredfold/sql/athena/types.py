"""The types of a query's operands, as DuckDB determines them with empty tables of the same columns.

Each SELECT is described by itself, with the FROM of its expressions; a column of an outer query is
replaced by a NULL of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from sqlglot import exp

# the columns of a query in DuckDB's SQL: names and types
Describe = Callable[[str], list[tuple[str, str]]]
Operands = Callable[[exp.Expr], Sequence[exp.Expr | None] | None]
TYPES_KEY = "kinds"  # key of the types of a node and its operands: (own, *operands)

UNSIGNED = frozenset(["UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"])
INTEGERS = frozenset(["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"]) | UNSIGNED
ARITHMETIC = (exp.Add, exp.Sub, exp.Mul)


def kind_of_type(kind: str) -> str:
    """Return the kind of a DuckDB type: integer, decimal, float, text, date, ...; "" if unknown."""
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


def annotate_types(tree: exp.Expr, operands_of: Operands, describe: Describe) -> None:
    """Annotate each node with the types that it needs.

    operands_of: returns the nodes whose types a node needs (None for a type that is not needed), or
    None if it needs none.

    `tree` is qualified: every column names its table.
    """
    for select in list(tree.find_all(exp.Select)):
        annotated = [
            (node, values)
            for node in _own_nodes(select)
            if (values := operands_of(node)) is not None
        ]
        if annotated:
            scope = Scope(select, describe)
            scope.add_types(
                [value for _, values in annotated for value in values if value is not None]
            )
            for node, values in annotated:
                node.meta[TYPES_KEY] = tuple(
                    scope.type_of(value) if value is not None else "" for value in values
                )


def own_type(node: exp.Expr) -> str:
    """Return a node's own type; "" if it was not annotated."""
    kinds: Sequence[str] = node.meta.get(TYPES_KEY, ("",))
    return kinds[0]


def operand_types(node: exp.Expr) -> tuple[str, ...]:
    """Return the types of a node's operands; none if it was not annotated."""
    kinds: Sequence[str] = node.meta.get(TYPES_KEY, ("",))
    return tuple(kinds[1:])


class Scope:
    """One SELECT, and the types of values in it."""

    def __init__(self, select: exp.Select, describe: Describe) -> None:
        self.select, self.describe = select, describe
        self.tables = {source.alias_or_name for source in _sources(select)}
        self._kinds: dict[str, str] = {}
        self._texts: dict[int, str] = {}

    def add_types(self, values: Sequence[exp.Expr]) -> None:
        """Determine the types of values; for long sums those of their operands, which usually
        suffice.
        """
        self._describe_values([part for value in values for part in _operands_of(value)])
        self._describe_values([value for value in values if not self._derived_type(value)])

    def type_of(self, value: exp.Expr) -> str:
        """Return the type of a value whose type was determined."""
        return self._kinds.get(self._to_sql(value)) or self._derived_type(value)

    def _derived_type(self, value: exp.Expr) -> str:
        """Return the type of a sum of integers, or of doubles; "" for any other value."""
        parts = list(_operands_of(value))
        if parts == [value]:
            return self._kinds.get(self._to_sql(value), "")
        kinds = {self._kinds[self._to_sql(part)] for part in parts}
        return (
            "BIGINT"
            if kinds <= INTEGERS
            else "DOUBLE"
            if "DOUBLE" in kinds and kinds <= INTEGERS | {"DOUBLE"}
            else ""
        )

    def _describe_values(self, values: Sequence[exp.Expr]) -> None:
        plain: list[str] = []
        grouped: list[str] = []
        for value in values:
            text = self._to_sql(value)
            if text not in self._kinds:
                self._kinds[text] = ""
                (grouped if _aggregates(value) else plain).append(text)
        for texts, group in ((plain, False), (grouped, True)):
            if texts:
                found = self.describe(self._probe(texts, group))
                self._kinds.update(zip(texts, (kind for _, kind in found), strict=True))

    def _to_sql(self, value: exp.Expr) -> str:
        """Return a value in SQL with only columns of this SELECT."""
        if id(value) not in self._texts:
            free = any(
                isinstance(node, exp.Column) and node.table not in self.tables
                for node in value.walk()
            )
            bound = value.copy().transform(self._bind, self._inner_tables(value)) if free else value
            self._texts[id(value)] = bound.sql("duckdb", comments=False)
        return self._texts[id(value)]

    def _bind(self, node: exp.Expr, inner: set[str]) -> exp.Expr:
        """Replace aliases of the SELECT by their expressions, and columns of outer queries by typed
        NULLs.
        """
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return node
        if not node.table:
            return (
                exp.paren(self._aliases[node.name].copy()) if node.name in self._aliases else node
            )
        if node.table in self.tables or node.table in inner or node.table not in self._outer_scopes:
            return node
        outer_scope = self._outer_scopes[node.table]
        outer_scope.add_types([node])
        return exp.cast(exp.Null(), outer_scope.type_of(node), dialect="duckdb")

    def _inner_tables(self, value: exp.Expr) -> set[str]:
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
    def _outer_scopes(self) -> dict[str, Scope]:
        """Return the outer SELECTs by the names of their tables; an inner one hides those further
        out.
        """
        found: dict[str, Scope] = {}
        node = self.select.parent
        while node is not None:
            if isinstance(node, exp.Select):
                scope = Scope(node, self.describe)
                found = dict.fromkeys(scope.tables, scope) | found
            node = node.parent
        return found

    def _probe(self, texts: Sequence[str], group: bool) -> str:
        """Return a query whose columns are these values."""
        columns = ", ".join(f"{text} AS k{number}" for number, text in enumerate(texts))
        parts = ["from_", "joins", *(["group"] if group else []), "windows"]
        rest = exp.Select(
            **{
                part: _copy_part(self.select.args[part])
                for part in parts
                if self.select.args.get(part)
            }
        )
        for column in list(rest.find_all(exp.Column)):
            if column.table and column.find_ancestor(exp.Select) is rest:
                bound = self._bind(column, set())
                if bound is not column:
                    column.replace(bound)
        return (
            f"{with_clauses(self.select)}SELECT {columns}"
            f" {rest.sql('duckdb', comments=False, copy=False).removeprefix('SELECT')}"
        )


def _own_nodes(select: exp.Select) -> Iterator[exp.Expr]:
    """Yield the nodes of a SELECT that are in no SELECT inside it."""
    for node in select.walk(
        prune=lambda node: node is not select and isinstance(node, exp.Select | exp.SetOperation)
    ):
        if not isinstance(node, exp.Query):
            yield node


def _operands_of(value: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the operands of a sum or a product; of any other value the value itself."""
    if isinstance(value, exp.Paren) and isinstance(value.this, ARITHMETIC):
        yield from _operands_of(value.this)
    elif (
        isinstance(value, ARITHMETIC)
        and not isinstance(value.expression, exp.Interval)
        and not isinstance(value.this, exp.Interval)
    ):
        yield from _operands_of(value.this)
        yield from _operands_of(value.expression)
    else:
        yield value


def _sources(select: exp.Expr) -> list[exp.Expr]:
    source = select.args.get("from_")
    return [
        *([source.this] if source is not None else []),
        *(join.this for join in select.args.get("joins") or ()),
    ]


def _aggregates(value: exp.Expr) -> bool:
    """Return whether a value aggregates a group of rows."""
    return any(
        not _is_over_window(node, value) for node in value.find_all(exp.AggFunc, exp.Grouping)
    )


def _is_over_window(node: exp.Expr, value: exp.Expr) -> bool:
    """Return whether an aggregate is a window function, or is in a query inside the value."""
    inside = node
    while inside is not value and inside.parent is not None:
        inside = inside.parent
        if isinstance(inside, exp.Query):
            return True
        if isinstance(inside, exp.Window) and _windowed_function(inside) is node:
            return True
    return False


def _windowed_function(window: exp.Window) -> exp.Expr:
    """Return the function of a window, without FILTER and IGNORE NULLS around it."""
    node: exp.Expr = window.this
    while isinstance(node, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        node = node.this
    return node


def _copy_part(part: exp.Expr | list[exp.Expr]) -> exp.Expr | list[exp.Expr]:
    return [each.copy() for each in part] if isinstance(part, list) else part.copy()


def with_clauses(select: exp.Expr) -> str:
    """Return the WITH clauses that are visible to a query."""
    seen: list[str] = []
    node: exp.Expr | None = select
    inside: exp.Expr | None = None
    while node is not None:
        clause = node.args.get("with_")
        if clause is not None:
            ctes = list(clause.expressions)
            if inside in ctes:
                ctes = ctes[: ctes.index(inside)]  # a query of a WITH sees those before it
            seen = [cte.sql("duckdb", comments=False) for cte in ctes] + seen
        inside = node if isinstance(node, exp.CTE) else inside
        node = node.parent
    return f"WITH {', '.join(seen)} " if seen else ""
