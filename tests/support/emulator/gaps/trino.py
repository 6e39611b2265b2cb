"""Trino's SQL on DuckDB: Trino's errors are raised, the rest is translated, and results have
Trino's types.

sqlglot translates; this module adds what it cannot know or leaves out:
- functions that Trino does not have, and comparisons of text with numbers, which DuckDB would
  accept
- integers divide to integers, and doubles by zero to infinity
- a double becomes an integer by rounding half away from zero
- columns without a name are _col0, _col1, ...; `"$path"` exists when named, and is not in `*`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.dialects.trino import Trino
from sqlglot.errors import OptimizeError, SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify
from sqlglot.tokenizer_core import TokenType

from .hive import QueryError, Table, converted, hive_type

FUNCTIONS = frozenset(
    name
    for line in Path(__file__).with_name("trino_functions.txt").read_text().splitlines()
    if not line.startswith("#")
    for name in line.split()
)
FOREIGN_KEYWORDS = frozenset({"left", "right"})  # keywords in Trino, functions elsewhere
MACROS = """
CREATE MACRO is_finite(x) AS isfinite(x);
CREATE MACRO is_infinite(x) AS isinf(x);
CREATE MACRO infinity() AS CAST('inf' AS DOUBLE);
CREATE MACRO nan() AS CAST('nan' AS DOUBLE);
CREATE MACRO from_utf8(x) AS decode(x);
CREATE MACRO at_timezone(x, zone) AS x AT TIME ZONE zone;
CREATE MACRO count_if(x) AS count(*) FILTER (x);
CREATE MACRO to_iso8601(x) AS strftime(x, '%Y-%m-%d');
CREATE MACRO day_of_month(x) AS day(x);
CREATE MACRO ieee_divide(a, b) AS "/"(a, b);
"""
INTEGERS = frozenset({exp.DType.TINYINT, exp.DType.SMALLINT, exp.DType.INT, exp.DType.BIGINT})
FLOATS = frozenset({exp.DType.FLOAT, exp.DType.DOUBLE})
NUMBERS = INTEGERS | FLOATS | {exp.DType.DECIMAL}
TEXTS = frozenset({exp.DType.VARCHAR, exp.DType.CHAR, exp.DType.TEXT})
COMPARISONS = (
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.Add,
    exp.Sub,
    exp.Mul,
    exp.Div,
)
PATH = "$path"
IDLE_DATABASES: list[duckdb.DuckDBPyConnection] = []  # with the macros and without tables
Finds = Callable[[str, str, frozenset[str] | None], Table]


def parse(sql: str) -> exp.Expr:
    """Return a statement as a tree; QueryError with its line for an invalid one."""
    try:
        tree = sqlglot.parse_one(sql, read="athena")
    except SqlglotError as error:
        where: Mapping[str, Any] = next(iter(getattr(error, "errors", None) or ()), {})
        position = f"line {where.get('line', 1)}:{where.get('col', 1)}: "
        near = str(where.get("highlight") or "").strip()
        raise QueryError(
            "SYNTAX_ERROR", f"{position}mismatched input '{near}': {str(error).splitlines()[0]}"
        ) from error
    if isinstance(tree, exp.Command):
        raise QueryError("SYNTAX_ERROR", f"line 1:1: mismatched input '{sql.split()[0]}'")
    _refuse_foreign(sql, tree)
    return tree


def run(
    tree: exp.Expr,
    database: str,
    table: Finds,
    running: Callable[[duckdb.DuckDBPyConnection], None],
) -> tuple[pa.Table, int]:
    """Return the rows of a query, its columns typed as Athena types them, and the bytes that were
    read.

    `table` finds a table by database and name, and the files that the query names, if any;
    `running` gets the connection, so that it can be interrupted.
    """
    tree = tree.copy()
    found = _tables(tree, database, table)
    _name_columns(tree)
    _hide_path(tree, found)
    _typed(tree, found)
    with _connected() as connection:
        running(connection)
        for number, ((schema, name), one) in enumerate(found.items()):
            connection.register(f"rows_{number}", one.rows)
            connection.execute(
                f'CREATE SCHEMA IF NOT EXISTS "{schema}"; CREATE VIEW "{schema}"."{name}" AS '
                f"SELECT * FROM rows_{number}"
            )
        try:
            relation = connection.sql(tree.sql("duckdb"))
            kinds = list(map(str, relation.types))
            rows = relation.to_arrow_table()
        except duckdb.Error as error:
            raise _query_error(error) from error
        for schema, name in found:
            connection.execute(f'DROP VIEW "{schema}"."{name}"')
    columns = [_column(column, kind) for column, kind in zip(rows.columns, kinds, strict=True)]
    return pa.table(columns, rows.column_names), sum(one.scanned for one in found.values())


@contextmanager
def _connected() -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a connection to a database of one's own until the block ends.

    The start of a database takes longer than most queries, so it serves another query after one
    without an error. The connection is new: who stops a query late stops no other one.
    """
    try:
        database = IDLE_DATABASES.pop()
    except IndexError:
        database = duckdb.connect(
            ":memory:", config={"threads": 2, "autoinstall_known_extensions": False}
        )
        database.execute(MACROS)
    try:
        with database.cursor() as connection:
            connection.execute(
                "SET TimeZone = 'UTC'; SET integer_division = true; SET enable_progress_bar = false"
            )
            yield connection
    except BaseException:
        database.close()
        raise
    IDLE_DATABASES.append(database)


def outputs(tree: exp.Expr) -> list[exp.Expr]:
    """Return the columns that a query selects."""
    select = tree
    while isinstance(select, exp.SetOperation | exp.Subquery):
        select = select.this
    return list(select.expressions) if isinstance(select, exp.Select) else []


def is_ordered(tree: exp.Expr) -> bool:
    return bool(tree.args.get("order"))


def _refuse_foreign(sql: str, tree: exp.Expr) -> None:
    """Raise QueryError for a function that Trino does not have, although DuckDB may."""
    named = {alias.name.lower() for alias in tree.find_all(exp.TableAlias) if alias.name}
    found = Trino().tokenize(sql)
    for before, token, after in zip([None, *found], found, found[1:], strict=False):
        name = token.text.lower()
        call = after.token_type == TokenType.L_PAREN and (
            token.token_type == TokenType.VAR or name in FOREIGN_KEYWORDS
        )
        column = before is not None and before.token_type in (
            TokenType.ALIAS,
            TokenType.DOT,
        )
        if (
            call
            and not column
            and name not in FUNCTIONS
            and name not in named
            and not isinstance(tree, exp.Create | exp.Drop)
        ):
            raise QueryError(
                "FUNCTION_NOT_FOUND",
                f"line {token.line}:{token.col - len(name) + 1}: Function '{name}' not registered",
            )


def _tables(tree: exp.Expr, database: str, table: Finds) -> dict[tuple[str, str], Table]:
    """Return the tables that a query reads; each gets its full name."""
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    paths: dict[tuple[str, str], frozenset[str] | None] = {}
    for node in list(tree.find_all(exp.Table)):
        if not node.name or (not node.db and node.name.lower() in ctes):
            continue
        key = (node.db or database).lower(), node.name.lower()
        named, before = _named_paths(node), paths.get(key, frozenset())
        paths[key] = None if named is None or before is None else before | named
        node.set("catalog", None)
        node.set("db", exp.to_identifier(key[0], quoted=True))
        node.set("this", exp.to_identifier(key[1], quoted=True))
    return {key: table(*key, named) for key, named in paths.items()}


def _named_paths(table: exp.Table) -> frozenset[str] | None:
    """Return the files named by `WHERE "$path" IN ('...')`: Trino opens no other. None for all."""
    select = table.parent_select
    where = (
        select.args.get("where") if select is not None and not select.args.get("joins") else None
    )
    for condition in (
        where.this.flatten()
        if where is not None and isinstance(where.this, exp.And)
        else [where.this]
        if where
        else []
    ):
        if (
            isinstance(condition, exp.In)
            and condition.this.name == PATH
            and all(isinstance(e, exp.Literal) for e in condition.expressions)
        ):
            return (
                frozenset(literal.name for literal in condition.expressions)
                if condition.expressions
                else None
            )
    return None


def _name_columns(tree: exp.Expr) -> None:
    for number, column in enumerate(outputs(tree)):
        if not column.alias and not isinstance(column, exp.Column | exp.Star | exp.Dot):
            column.replace(exp.alias_(column.copy(), f"_col{number}", quoted=True))


def _hide_path(tree: exp.Expr, found: Mapping[tuple[str, str], Table]) -> None:
    """Remove the hidden column from `*`."""
    for select in tree.find_all(exp.Select):
        joined = [join.this for join in select.args.get("joins") or []]
        sources = [
            source.this if isinstance(source, exp.From) else source
            for source in [select.args.get("from_"), *joined]
        ]
        base = {
            source.alias_or_name.lower()
            for source in sources
            if isinstance(source, exp.Table) and source.db
        }
        for column in select.expressions:
            star = (
                column
                if isinstance(column, exp.Star)
                else column.this
                if isinstance(column, exp.Column)
                else None
            )
            if (
                isinstance(star, exp.Star)
                and (not isinstance(column, exp.Column) or column.table.lower() in base)
                and base
            ):
                star.set(
                    "except_",
                    [*(star.args.get("except_") or []), exp.to_identifier(PATH, quoted=True)],
                )


def _typed(tree: exp.Expr, found: Mapping[tuple[str, str], Table]) -> None:
    """Rewrite operators that have another meaning for other types."""
    for cast in tree.find_all(exp.Cast):
        _exact_decimal(cast)
    for division in list(tree.find_all(exp.Div)):  # also if the types of the rest are unknown
        if any(
            isinstance(side, exp.Cast) and side.to.this in FLOATS
            for side in (division.left.unnest(), division.right.unnest())
        ):
            division.replace(
                exp.Anonymous(
                    this="ieee_divide", expressions=[division.left.copy(), division.right.copy()]
                )
            )
    for node, kinds in _hints(tree, found):
        if (
            isinstance(node, COMPARISONS)
            and any(k in TEXTS for k in kinds)
            and any(k in NUMBERS for k in kinds)
        ):
            left, right = (
                "varchar" if kind in TEXTS else str(kind.value).lower() for kind in kinds
            )
            raise QueryError(
                "TYPE_MISMATCH",
                f"Cannot apply operator: {left} {_sign(node)} {right} in {node.sql('athena')}",
            )
        if isinstance(node, exp.Div) and any(kind in FLOATS for kind in kinds):
            node.replace(
                exp.Anonymous(this="ieee_divide", expressions=[node.left.copy(), node.right.copy()])
            )
        if isinstance(node, exp.Cast) and node.to.this in INTEGERS and kinds[0] in FLOATS:
            node.this.replace(exp.Anonymous(this="round", expressions=[node.this.copy()]))


def _hints(
    tree: exp.Expr, found: Mapping[tuple[str, str], Table]
) -> list[tuple[exp.Expr, list[Any]]]:
    """Yield the operators and casts of a tree with the types of their operands, inner ones first;
    none if they are unknown.
    """
    schema: dict[str, Any] = {}
    for (database, name), table in found.items():
        schema.setdefault(database, {})[name] = {c.name: c.hive for c in table.columns} | {
            PATH: "string"
        }
    wanted = (*COMPARISONS, exp.Cast)
    try:
        qualified = qualify(
            tree.copy(),
            schema=schema,
            dialect="athena",
            expand_stars=False,
            validate_qualify_columns=False,
        )
        typed = annotate_types(qualified, schema=schema, dialect="athena")
    except (OptimizeError, SqlglotError, AttributeError, KeyError, ValueError, TypeError):
        return []
    plain, typed_nodes = list(tree.find_all(*wanted)), list(typed.find_all(*wanted))
    if [type(node) for node in plain] != [type(node) for node in typed_nodes]:
        return []
    hints: list[tuple[exp.Expr, list[Any]]] = [
        (node, [_kind(part) for part in _operands(twin)])
        for node, twin in zip(plain, typed_nodes, strict=True)
    ]
    return hints[::-1]


def _operands(node: exp.Expr) -> list[exp.Expr]:
    """Return the operand of a cast, or both operands of a comparison or an operator."""
    return [node.this] if isinstance(node, exp.Cast) else [node.this, node.expression]


def _kind(node: exp.Expr) -> Any:
    return node.type.this if node.type else None


def _sign(node: exp.Expr) -> str:
    signs: dict[type[exp.Expr], str] = {
        exp.EQ: "=",
        exp.NEQ: "<>",
        exp.GT: ">",
        exp.GTE: ">=",
        exp.LT: "<",
        exp.LTE: "<=",
        exp.Add: "+",
        exp.Sub: "-",
        exp.Mul: "*",
    }
    return signs.get(type(node), "/")


def _exact_decimal(cast: exp.Cast) -> None:
    """DECIMAL '1.50' has the written digits; CAST(x AS decimal) has none after the point."""
    if cast.to.this != exp.DType.DECIMAL or cast.to.expressions:
        return
    text = cast.this.name if isinstance(cast.this, exp.Literal) and cast.this.is_string else None
    if text is None:
        cast.set("to", exp.DataType.build("decimal(38, 0)", dialect="duckdb"))
        return
    digits = text.lstrip("+-")
    scale = len(digits.partition(".")[2])
    cast.set(
        "to",
        exp.DataType.build(
            f"decimal({max(len(digits.replace('.', '')), 1)}, {scale})", dialect="duckdb"
        ),
    )


def _column(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """Return a column of DuckDB's in Trino's type: no 128 bits, nothing unsigned, milliseconds."""
    if kind in ("HUGEINT", "UHUGEINT", "UBIGINT", "UINTEGER", "USMALLINT", "UTINYINT"):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise QueryError("NUMERIC_VALUE_OUT_OF_RANGE", f"bigint overflow: {error}") from error
    if kind.startswith("TIMESTAMP") and "ZONE" not in kind:
        return converted(column, pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", "UTC"))
    if pa.types.is_null(column.type) or not _is_known(column.type):
        return column.cast(pa.string())
    return column


def _is_known(kind: pa.DataType) -> bool:
    try:
        hive_type(kind)
    except StopIteration:
        return False
    return True


def _query_error(error: duckdb.Error) -> QueryError:
    """Return DuckDB's error under Athena's name."""
    message = str(error)
    if isinstance(error, duckdb.InterruptException):
        return QueryError("USER_CANCELED", "Query was canceled")
    if "Division by zero" in message:
        return QueryError("DIVISION_BY_ZERO", "Division by zero")
    names: dict[type[duckdb.Error], str] = {
        duckdb.BinderException: "COLUMN_NOT_FOUND"
        if "column" in message.lower()
        else "TYPE_MISMATCH",
        duckdb.CatalogException: "FUNCTION_NOT_FOUND",
        duckdb.ConversionException: "INVALID_CAST_ARGUMENT",
        duckdb.OutOfRangeException: "NUMERIC_VALUE_OUT_OF_RANGE",
        duckdb.ParserException: "SYNTAX_ERROR",
    }
    name = next(
        (name for kind, name in names.items() if isinstance(error, kind)), "GENERIC_INTERNAL_ERROR"
    )
    return QueryError(name, message)
