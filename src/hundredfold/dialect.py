"""Queries are written once, in DuckDB's SQL.  Here they are put into Athena's, or refused, with their line, where that would change them.

sqlglot translates; what it knows no better is mended in `_mended`, and what would reach Athena as an unknown function is told before
a run begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from .errors import QueryError

LARGEST = "1.7976931348623157E308"  # of a double
TIME_ZONED = (exp.DataType.Type.TIMESTAMPTZ, exp.DataType.Type.TIMESTAMPLTZ)
PLACE = "__place"  # the number of a row in the order of its query
MARGIN = "wanted SQL that DuckDB and Athena (Trino) both have"

# what SQL has beside functions before an opening bracket
WORDS = frozenset(
    [
        "all",
        "and",
        "any",
        "array",
        "as",
        "between",
        "by",
        "case",
        "cast",
        "coalesce",
        "cross",
        "decimal",
        "distinct",
        "else",
        "end",
        "except",
        "exists",
        "extract",
        "filter",
        "following",
        "from",
        "full",
        "group",
        "grouping",
        "having",
        "if",
        "ignore",
        "in",
        "inner",
        "intersect",
        "interval",
        "is",
        "join",
        "lateral",
        "left",
        "like",
        "limit",
        "map",
        "natural",
        "not",
        "nullif",
        "null",
        "nulls",
        "on",
        "or",
        "order",
        "outer",
        "over",
        "partition",
        "position",
        "preceding",
        "range",
        "right",
        "row",
        "rows",
        "select",
        "sets",
        "some",
        "substring",
        "table",
        "then",
        "time",
        "timestamp",
        "trim",
        "try",
        "try_cast",
        "unbounded",
        "union",
        "unnest",
        "using",
        "values",
        "varchar",
        "char",
        "when",
        "where",
        "window",
        "with",
        "within",
        "without",
        "zone",
        "rollup",
        "cube",
    ]
)


def parse(select: str) -> exp.Expr:
    """The syntax tree of a query in DuckDB's SQL; QueryError if it is none."""
    try:
        return sqlglot.parse_one(select, read="duckdb")
    except SqlglotError as error:
        raise QueryError(f"the query cannot be read: {str(error).splitlines()[0]}", hint=MARGIN) from error


def to_athena(select: str, tables: Mapping[str, str], columns: Callable[[str], list[str]]) -> str:
    """The query in Athena's SQL. `tables` maps a name to what stands for it there: a query in brackets, or a table's name in SQL.
    `columns` gives the columns of a query in DuckDB's SQL: what * stands for."""
    tree = _ordered(_spelled_out(parse(select), columns), columns)
    return _written(_placed(_mended(tree), tables))


def refuse_untranslatable(what: str, select: str) -> None:
    """QueryError for what Athena would not understand, or understand otherwise, with its line."""
    tree = parse(select)
    for node in tree.walk():
        words = _only_here(node)
        if words:
            raise _refused(what, words, _line_of(node))
    try:
        written = _written(_mended(tree))
    except QueryError as error:
        raise _refused(what, error.message, 0) from error
    for name in _functions(written):
        if name not in known_functions():
            line = next((n for n, text in enumerate(select.splitlines(), 1) if f"{name}(" in text.lower().replace(" (", "(")), 0)
            raise _refused(what, f"the function {name}, which Athena does not have", line)


def known_functions() -> frozenset[str]:
    """The functions of Athena's engine, version 3."""
    return _KNOWN


def _refused(what: str, words: str, line: int) -> QueryError:
    where = f"line {line}: " if line else ""
    return QueryError(f"{what} cannot run on AWS: {where}{words}", hint=f"{MARGIN}; the job runs here as it is, without --on aws")


def _only_here(node: exp.Expr) -> str:
    """What of DuckDB's SQL has no like in Athena's, in words; "" if the node is none of it."""
    if isinstance(node, exp.SetOperation) and node.args.get("by_name"):
        return "UNION BY NAME; name the columns in both halves"
    if isinstance(node, exp.Group) and node.args.get("all"):
        return "GROUP BY ALL; name the columns"
    if isinstance(node, exp.Order) and any(isinstance(e.this, exp.Column) and e.this.name.upper() == "ALL" for e in node.expressions):
        return "ORDER BY ALL; name the columns"
    if isinstance(node, exp.Join) and str(node.args.get("method") or node.args.get("kind") or "").upper() in ("ASOF", "POSITIONAL"):
        return "ASOF JOIN; use a window function"
    if isinstance(node, exp.TableSample):
        return "USING SAMPLE; it gives other rows each time"
    if isinstance(node, exp.Pivot):
        return "PIVOT; use CASE and GROUP BY"
    if isinstance(node, exp.Columns):
        return "COLUMNS(...); name the columns"
    return ""


def _spelled_out(tree: exp.Expr, columns: Callable[[str], list[str]]) -> exp.Expr:
    """`* EXCLUDE` and `* REPLACE` with the columns that they stand for: Athena knows the plain star alone."""
    for select in list(tree.find_all(exp.Select)):
        stars = [
            e
            for e in select.expressions
            if isinstance(e, exp.Star) and (e.args.get("except_") or e.args.get("except") or e.args.get("replace"))
        ]
        for star in stars:
            plain = select.copy()
            plain.set("expressions", [exp.Star()])
            for name in ("group", "having", "order", "limit", "distinct", "qualify"):
                plain.set(name, None)
            gone = {e.name for e in star.args.get("except_") or star.args.get("except") or ()}
            other = {e.alias: e for e in star.args.get("replace") or ()}
            names = [name for name in columns(plain.sql("duckdb")) if name not in gone]
            at = select.expressions.index(star)
            spelled = [other[name].copy() if name in other else exp.column(name, quoted=True) for name in names]
            select.set("expressions", [*select.expressions[:at], *spelled, *select.expressions[at + 1 :]])
    return tree


def _ordered(tree: exp.Expr, columns: Callable[[str], list[str]]) -> exp.Expr:
    """The query with the order of the subquery that it reads as its own: Trino forgets the order of a subquery, DuckDB does not."""
    outer: list[exp.Select] = []
    node = tree
    while isinstance(node, exp.Select) and not node.args.get("order"):
        if node.args.get("joins") or _sums_up(node):
            return tree
        source = node.args.get("from_") or node.args.get("from")
        if source is None or not isinstance(source.this, exp.Subquery):
            return tree
        outer.append(node)
        node = source.this.this
    order = node.args.get("order")
    if not outer or order is None:
        return tree
    names = [name.lower() for name in columns(node.sql("duckdb"))]
    keys = [_bare(key.copy(), names) for key in order.expressions]
    if node.args.get("limit") is None:
        node.set("order", None)
    numbered = exp.Window(this=exp.RowNumber(), order=exp.Order(expressions=keys))
    inner = node.parent
    assert isinstance(inner, exp.Subquery)
    whole = exp.select(exp.Star(), exp.alias_(numbered, PLACE)).from_(
        exp.Subquery(this=node.copy(), alias=exp.TableAlias(this=exp.to_identifier("o")))
    )
    node.replace(whole)
    for select in outer[1:]:  # those between pass it on; the outermost only orders by it
        if not any(isinstance(e, exp.Star) for e in select.expressions):
            select.append("expressions", exp.column(PLACE))
    outer[0].set("order", exp.Order(expressions=[exp.Ordered(this=exp.column(PLACE))]))
    return tree


def _sums_up(select: exp.Select) -> bool:
    """Whether a query makes fewer rows of those that it reads."""
    if any(select.args.get(part) for part in ("group", "distinct", "having")):
        return True
    sums = (node for column in select.expressions for node in column.find_all(exp.AggFunc))
    return any(node.find_ancestor(exp.Window) is None for node in sums)


def _bare(key: exp.Expr, names: Sequence[str]) -> exp.Expr:
    """A key of an order, by the names of the columns that the query gives; QueryError for one that it does not give."""
    number = key.this if isinstance(key, exp.Ordered) else None
    if isinstance(number, exp.Literal) and number.is_int and 0 < int(number.name) <= len(names):
        number.replace(exp.column(names[int(number.name) - 1], quoted=True))
    for column in list(key.find_all(exp.Column)):
        if column.name.lower() not in names:
            raise QueryError(
                f"its order asks for {column.sql('duckdb')}, which the query does not give",
                hint="select the column, or order by one that is selected",
            )
        column.set("table", None)
    return key


def _mended(tree: exp.Expr) -> exp.Expr:
    """What sqlglot leaves as it is, or makes another thing of."""
    mended: exp.Expr = tree.copy().transform(_mend)
    return mended


def _mend(node: exp.Expr) -> exp.Expr:
    if (
        isinstance(node, exp.Cast)
        and not isinstance(node, exp.TryCast)
        and node.to.this in (exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPNTZ)
    ):
        inner = node.this
        if isinstance(inner, exp.Cast) and inner.to.this in TIME_ZONED:  # Trino would keep the clock of that zone
            moved = exp.AtTimeZone(this=inner.copy(), zone=exp.Literal.string("UTC"))
            return exp.Cast(this=moved, to=node.to.copy())
    if isinstance(node, exp.IsInf):
        return exp.paren(sqlglot.parse_one("x IN (CAST('Infinity' AS DOUBLE), CAST('-Infinity' AS DOUBLE))").transform(_put(node.this)))
    if isinstance(node, exp.IgnoreNulls) and isinstance(node.this, exp.AnyValue):
        return exp.Anonymous(this="any_value", expressions=[node.this.this.copy()])
    if isinstance(node, exp.RegexpFullMatch) and isinstance(node.expression, exp.Literal):
        return exp.RegexpLike(this=node.this.copy(), expression=exp.Literal.string(rf"\A(?:{node.expression.name})\z"))
    if isinstance(node, exp.Anonymous):
        name, arguments = node.name.lower(), node.expressions
        if name == "isfinite" and len(arguments) == 1:
            return exp.LTE(this=exp.Abs(this=arguments[0].copy()), expression=sqlglot.parse_one(f"CAST({LARGEST} AS DOUBLE)"))
    return node


def _put(value: exp.Expr) -> Callable[[exp.Expr], exp.Expr]:
    return lambda node: value.copy() if isinstance(node, exp.Column) and node.name == "x" else node


def _placed(tree: exp.Expr, tables: Mapping[str, str]) -> exp.Expr:
    """Names of sources and models as what stands for them; a name that a WITH gives is left."""
    for table in list(tree.find_all(exp.Table)):
        if table.db or table.name not in tables or table.name in _named_around(table):
            continue
        stands = tables[table.name]
        alias = table.alias or table.name
        if stands.startswith("("):
            inner: exp.Expr = exp.Subquery(
                this=sqlglot.parse_one(stands[1:-1], read="athena"), alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True))
            )
        else:
            inner = exp.alias_(exp.to_table(stands, dialect="athena"), exp.to_identifier(alias, quoted=True), table=True)
        for name in ("joins", "pivots", "laterals"):
            if table.args.get(name):
                inner.set(name, [part.copy() for part in table.args[name]])
        if table is tree:
            return inner
        table.replace(inner)
    return tree


def _named_around(table: exp.Expr) -> set[str]:
    """The names that the WITH clauses around a table give."""
    names: set[str] = set()
    node = table.parent
    while node is not None:
        with_ = node.args.get("with_") or node.args.get("with")
        if with_ is not None:
            names |= {cte.alias for cte in with_.expressions}
        node = node.parent
    return names


def _written(tree: exp.Expr) -> str:
    try:
        return tree.sql("athena", unsupported_level=sqlglot.ErrorLevel.RAISE)
    except SqlglotError as error:
        raise QueryError(str(error).splitlines()[0], hint=MARGIN) from error


def _functions(sql: str) -> list[str]:
    """The names of all functions that a query in Athena's SQL calls."""
    tokens = sqlglot.tokenize(sql, read="athena")
    return [
        token.text.lower()
        for token, following in pairwise(tokens)
        if following.token_type.name == "L_PAREN"
        and token.token_type.name not in ("IDENTIFIER", "STRING", "NUMBER")
        and token.text.replace("_", "").isalnum()
        and token.text.lower() not in WORDS
    ]


def _line_of(node: exp.Expr) -> int:
    """The line of the first name below a node that tells one."""
    return min((int(part.meta["line"]) for part in node.walk() if "line" in part.meta), default=0)


_KNOWN = frozenset(Path(__file__).with_name("athena_functions.txt").read_text(encoding="utf-8").split())
