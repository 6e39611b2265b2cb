"""Queries are written once, in DuckDB's SQL.  Here they are put into Athena's, or refused, with their line, where that would change them.

What may be used is listed (refusals); names are resolved by sqlglot; DuckDB says of which types the operands are (kinds); and what means
another thing for these types in Athena is mended (mending, texts, patterns, order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema
from sqlglot.transforms import eliminate_semi_and_anti_joins

from ...errors import QueryError
from .casts import call
from .rewrites import mended, wanted
from .row_order import ordered, without_qualify
from .types import UNSIGNED, Describe, ask, sort_of
from .unsupported import refusals

MARGIN = "wanted SQL that DuckDB and Athena (Trino) both have"
LONGEST = 262_144  # bytes of a statement
NONE: Mapping[str, Mapping[str, str]] = {}
Odd = Mapping[str, Mapping[str, str]]  # table, column, reason
Shown = Callable[[exp.Expr, str], exp.Expr]


def parse(select: str) -> exp.Expr:
    """The syntax tree of a query in DuckDB's SQL; QueryError if it is none."""
    try:
        return sqlglot.parse_one(select, read="duckdb")
    except SqlglotError as error:
        raise QueryError(
            f"the query cannot be read: {str(error).splitlines()[0]}", hint=MARGIN
        ) from error


def refuse_untranslatable(what: str, select: str) -> None:
    """QueryError for what Athena would not understand, or understand otherwise, with its line."""
    try:
        found = refusals(select, parse(select))
    except QueryError as error:
        raise QueryError(f"{what} cannot run on AWS: {error.message}", hint=error.hint) from error
    if found:
        raise QueryError(
            f"{what} cannot run on AWS",
            problems=[f"line {line}: {words}" if line else words for line, words in found],
            hint=f"{MARGIN}; the job runs here as it is, without --backend aws",
        )


def to_athena(select: str, tables: Mapping[str, str], describe: Describe, odd: Odd = NONE) -> str:
    """The query in Athena's SQL. `tables` maps a name to what stands for it there: a query in brackets, or a table's name in SQL.
    `describe` gives the columns of a query in DuckDB's SQL, in which all these names stand too. `odd` says of columns of these tables
    why they cannot be read there. QueryError for what cannot be put so."""
    return _translated(select, tables, describe, odd, lambda value, _: value)


def to_answer(select: str, tables: Mapping[str, str], describe: Describe, odd: Odd = NONE) -> str:
    """The query in Athena's SQL, its lists and the like written as JSON and its bytes in hex: what a file of texts can hold."""
    return _translated(select, tables, describe, odd, _shown)


def to_table(select: str, tables: Mapping[str, str], describe: Describe, odd: Odd = NONE) -> str:
    """The query in Athena's SQL, its numbers of just the types that DuckDB gives them: what is kept will be read as such."""
    return _translated(select, tables, describe, odd, _kept)


def _translated(
    select: str, tables: Mapping[str, str], describe: Describe, odd: Odd, shown: Shown
) -> str:
    tree = _by_position(parse(select), describe)
    found = refusals(select, tree)
    if found:
        raise QueryError(f"a query cannot run on AWS: {found[0][1]}", hint=MARGIN)
    try:
        tree = _qualified(_plain_names(tree), describe)
        _refuse_odd(tree, odd)
        ask(tree, wanted, describe)
        tree = ordered(_named(without_qualify(mended(tree)), describe(select), shown))
        return _written(_placed(tree, tables))
    except SqlglotError as error:
        raise QueryError(
            f"a query cannot be put into Athena's SQL: {str(error).splitlines()[0]}", hint=MARGIN
        ) from error


def _by_position(tree: exp.Expr, describe: Describe) -> exp.Expr:
    """UNION BY NAME with all columns in both halves."""
    for union in list(tree.find_all(exp.SetOperation)):
        if not union.args.get("by_name"):
            continue
        halves = [union.left, union.right]
        names = [[name for name, _ in describe(half.sql("duckdb"))] for half in halves]
        every = list(dict.fromkeys(names[0] + names[1]))
        for half, own in zip(halves, names, strict=True):
            columns = [
                exp.column(name, quoted=True)
                if name in own
                else exp.alias_(exp.Null(), name, quoted=True)
                for name in every
            ]
            half.replace(
                exp.select(*columns).from_(
                    exp.Subquery(
                        this=half.copy(), alias=exp.TableAlias(this=exp.to_identifier("h"))
                    )
                )
            )
        union.set("by_name", False)
    return tree


def _plain_names(tree: exp.Expr) -> exp.Expr:
    """One name for functions that have two, where sqlglot does not know the second."""
    plain = {
        "mean": exp.Avg,
        "every": exp.LogicalAnd,
        "arbitrary": exp.AnyValue,
        "cardinality": exp.ArraySize,
    }
    for node in list(tree.find_all(exp.Anonymous)):
        kind = plain.get(node.name.lower())
        if kind is not None and len(node.expressions) == 1:
            node.replace(kind(this=node.expressions[0].copy()))
    return tree


def _qualified(tree: exp.Expr, describe: Describe) -> exp.Expr:
    """The tree with every column under its table's name, and stars, positions and names of other columns written out."""
    names = {table.name for table in _tables(tree)}
    columns: dict[str, object] = {
        name.lower(): {
            column.lower(): "unknown" for column, _ in describe(f'SELECT * FROM "{name}"')
        }
        for name in names
    }
    # which would make `$path` another name
    qualified = qualify(tree, schema=MappingSchema(columns, normalize=False), dialect="duckdb")
    for select in list(qualified.find_all(exp.Select)):
        eliminate_semi_and_anti_joins(select)
    return qualified


def _refuse_odd(tree: exp.Expr, odd: Odd) -> None:
    """QueryError for columns that are read and cannot be."""
    named = {table.alias_or_name: table.name for table in _tables(tree) if table.name in odd}
    read = {
        (named[column.table], column.name)
        for column in tree.find_all(exp.Column)
        if column.table in named
    }
    problems = [
        f"{table}.{column}: {why}"
        for table, columns in odd.items()
        for column, why in columns.items()
        if (table, column.lower()) in read
    ]
    if problems:
        raise QueryError(
            "a query reads what Athena cannot",
            problems=problems,
            hint="name the columns that are needed, or make them otherwise where they are made",
        )


@lru_cache(1000)  # it is asked for again and again, and parsing takes its time
def tables_in(select: str) -> frozenset[str]:
    """The names of the tables that a query reads."""
    return frozenset(table.name for table in _tables(parse(select)) if not table.db)


def _tables(tree: exp.Expr) -> list[exp.Table]:
    """The tables that a query reads; a name that a WITH gives is none."""
    return [
        table
        for table in tree.find_all(exp.Table)
        if isinstance(table.this, exp.Identifier) and table.name not in _named_around(table)
    ]


def _named_around(table: exp.Expr) -> set[str]:
    """The names that the WITH clauses around a table give there: a query of a WITH sees those before it, and not its own."""
    names: set[str] = set()
    inside, node = table, table.parent
    while node is not None:
        clause = node.args.get("with_")
        if isinstance(node, exp.With):
            names |= {cte.alias for cte in node.expressions[: node.expressions.index(inside)]}
        elif clause is not None and clause is not inside:
            names |= {cte.alias for cte in clause.expressions}
        inside, node = node, node.parent
    return names


def _named(tree: exp.Expr, columns: list[tuple[str, str]], shown: Shown) -> exp.Expr:
    """The query's columns under the names that DuckDB gives them, and of its types where they are written as NULL."""
    if isinstance(tree, exp.SetOperation):
        for half in (tree.this, tree.expression):
            half.replace(_named(half, columns, shown))
    if isinstance(tree, exp.Subquery):
        tree.this.replace(_named(tree.this, columns, shown))
    if isinstance(tree, exp.Select) and len(tree.expressions) == len(columns):
        for column, (name, kind) in zip(tree.expressions, columns, strict=True):
            value = column.unalias()
            if isinstance(value, exp.Null):
                value = exp.cast(
                    value.copy(),
                    exp.DataType.build("INTEGER" if '"' in kind else kind, dialect="duckdb"),
                )
            column.replace(exp.alias_(shown(value, kind).copy(), name.lower(), quoted=True))
    return tree


def _shown(value: exp.Expr, kind: str) -> exp.Expr:
    if sort_of(kind) in ("list", "struct", "map"):
        return call("json_format", exp.cast(value.copy(), "json"))
    return call("to_hex", value) if sort_of(kind) == "blob" else value


def _kept(value: exp.Expr, kind: str) -> exp.Expr:
    """Sums of integers are decimals of 38 digits to whoever reads them as Arrow."""
    if (
        isinstance(value, exp.Column)
        or sort_of(kind) not in ("integer", "decimal", "float")
        or kind in UNSIGNED
    ):
        return value
    return exp.cast(
        value.copy(),
        exp.DataType.build("DECIMAL(38, 0)" if kind == "HUGEINT" else kind, dialect="duckdb"),
    )


def _placed(tree: exp.Expr, tables: Mapping[str, str]) -> exp.Expr:
    """Names of sources and models as what stands for them."""
    for table in _tables(tree):
        if table.db or table.name not in tables:
            continue
        stands, alias = (
            tables[table.name],
            exp.TableAlias(this=exp.to_identifier(table.alias or table.name, quoted=True)),
        )
        if stands.startswith("("):
            inner: exp.Expr = exp.Subquery(
                this=sqlglot.parse_one(stands[1:-1], read="athena"), alias=alias
            )
        else:
            inner = exp.to_table(stands, dialect="athena")
            inner.set("alias", alias)
        table.replace(inner)
    return tree


def _written(tree: exp.Expr) -> str:
    text = tree.sql("athena", unsupported_level=sqlglot.ErrorLevel.RAISE, comments=False)
    if len(text.encode()) > LONGEST:
        raise QueryError(
            f"a statement has {len(text.encode()):,} bytes, and Athena takes {LONGEST:,}",
            hint="clean and check fewer columns of one source, or read it in parts",
        )
    return str(text)
