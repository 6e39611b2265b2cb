"""Translation of queries, which are written in DuckDB's SQL, to Athena's SQL. A query that would
change its meaning is rejected, with its line.

The parts of SQL that may be used are listed (unsupported), and forms of queries that Athena does
not plan are refused with a rewrite (corrections); sqlglot resolves names; DuckDB
determines the types of the operands (types); and expressions that have another meaning for these
types in Athena are rewritten (rewrites, casts, regex, row_order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema
from sqlglot.transforms import eliminate_semi_and_anti_joins

from ...errors import QueryError
from .casts import call
from .corrections import EXAMPLES, corrected, find_limits
from .declared_tables import describe_plain
from .planner_limits import PlannerLimit
from .rewrites import operands_of, rewrite
from .row_order import with_order_of_subquery, without_qualify
from .templates import mark_tables, marks_of, with_tables
from .types import UNSIGNED, Describe, annotate_types, kind_of_type
from .unsupported import limit_lines, unsupported_parts

DIALECT_HINT = "wanted SQL that DuckDB and Athena (Trino) both have"
MAX_STATEMENT_BYTES = 262_144  # of a statement
MAX_TEMPLATES = 1_000  # translations that are kept, without the tables of a run
NOTHING_UNREADABLE: Mapping[str, Mapping[str, str]] = {}
Unreadable = Mapping[str, Mapping[str, str]]  # table, column, reason
Conversion = Callable[[exp.Expr, str], exp.Expr]


def parse(select: str) -> exp.Expr:
    """Return the syntax tree of a query in DuckDB's SQL; QueryError if it has a syntax error."""
    try:
        return sqlglot.parse_one(select, read="duckdb")
    except SqlglotError as error:
        raise QueryError(
            f"the query cannot be read: {str(error).splitlines()[0]}", hint=DIALECT_HINT
        ) from error


def check_translatable(subject: str, select: str, describe: Describe = describe_plain) -> None:
    """Raise QueryError for parts of a query that Athena would not understand, would misinterpret,
    or would refuse.

    describe: returns the columns of a query over tables as far as their columns are known before
    the run, and raises an exception for other tables.
    """
    try:
        tree = parse(select)
    except QueryError as error:
        raise QueryError(
            f"{subject} cannot run on AWS: {error.message}", hint=error.hint
        ) from error
    limits = list(find_limits(tree, describe))
    found = sorted({*unsupported_parts(select, tree), *limit_lines(select, limits)})
    if found:
        raise QueryError(
            f"{subject} cannot run on AWS",
            problems=[f"line {line}: {problem}" if line else problem for line, problem in found],
            hint=(_correction(tree, limits, describe) if limits else f"{DIALECT_HINT}; ")
            + "without --backend aws, or with --warehouse duckdb, the job runs unchanged",
        )
    _check_typed(subject, select, describe)


def _check_typed(subject: str, select: str, describe: Describe) -> None:
    """Raise QueryError for operands whose types Athena cannot combine, if the types are known."""
    try:
        describe(select)
    except duckdb.Error:
        return
    try:
        to_athena(select, {}, describe)
    except QueryError as error:
        raise QueryError(f"{subject} cannot run on AWS: {error.message}", hint=error.hint) from None


def _correction(tree: exp.Expr, limits: Sequence[PlannerLimit], describe: Describe) -> str:
    """Return the query in a form that both engines run, or else an example of each form."""
    for form in (tree, _with_tables(tree, describe)):
        done = corrected(form, describe) if form is not None else None
        text = done.sql("duckdb", pretty=True) if done is not None else ""
        if text and not unsupported_parts(text, parse(text)):
            return f"this query has the same rows on AWS and here:\n\n{text}\n\n"
    examples = dict.fromkeys(EXAMPLES[limit.example] for limit in limits)
    return "write it in this form:\n\n" + "".join(f"{each}\n\n" for each in examples)


def _with_tables(tree: exp.Expr, describe: Describe) -> exp.Expr | None:
    """Return the query with the table of each column, and without stars, if they are known."""
    try:
        return _qualify(tree.copy(), describe)
    except (duckdb.Error, SqlglotError):
        return None


def to_athena(
    select: str,
    tables: Mapping[str, str],
    describe: Describe,
    unreadable: Unreadable = NOTHING_UNREADABLE,
) -> str:
    """Return the query in Athena's SQL.

    tables: maps each name to its replacement: a query in brackets, or a table's name in SQL.
    describe: returns the columns of a query in DuckDB's SQL, which can use all these names too.
    unreadable: the reasons why columns of these tables cannot be read by Athena.

    Raises:
        QueryError: it cannot be translated.
    """
    return _translate(select, tables, describe, unreadable, _unchanged)


def to_answer(
    select: str,
    tables: Mapping[str, str],
    describe: Describe,
    unreadable: Unreadable = NOTHING_UNREADABLE,
) -> str:
    """Return the query in Athena's SQL, with columns that a text file can hold.

    Its lists and other nested values are JSON, and its bytes are hex.
    """
    return _translate(select, tables, describe, unreadable, _as_text)


def to_table(
    select: str,
    tables: Mapping[str, str],
    describe: Describe,
    unreadable: Unreadable = NOTHING_UNREADABLE,
) -> str:
    """Return the query in Athena's SQL, with numbers of exactly the types that DuckDB gives them.

    Its result is stored, and will be read with these types.
    """
    return _translate(select, tables, describe, unreadable, _with_declared_type)


# by query and columns of its tables: runs of one job differ in the names of their tables alone
_templates: dict[object, str] = {}


def _translate(
    select: str,
    tables: Mapping[str, str],
    describe: Describe,
    unreadable: Unreadable,
    convert: Conversion,
) -> str:
    tree = parse(select)
    columns = [
        (name, tuple(describe(f'SELECT * FROM "{name}"')))
        for name in sorted({table.name for table in _tables(tree)})
    ]
    reasons = [(name, tuple(reasons.items())) for name, reasons in unreadable.items()]
    key = (select, tuple(columns), tuple(sorted(reasons)), tuple(sorted(tables)), convert)
    template = _templates.get(key)
    if template is None:
        template = _template(select, tree, tables, describe, unreadable, convert)
        if len(_templates) >= MAX_TEMPLATES:
            _templates.clear()
        _templates[key] = template
    return _in_limits(with_tables(template, marks_of(select, tables), tables))


def _template(
    select: str,
    tree: exp.Expr,
    tables: Mapping[str, str],
    describe: Describe,
    unreadable: Unreadable,
    convert: Conversion,
) -> str:
    """Return the query in Athena's SQL, with a mark in place of each of these tables."""
    tree = _union_by_position(tree, describe)
    found = unsupported_parts(select, tree)
    if found:
        raise QueryError(f"a query cannot run on AWS: {found[0][1]}", hint=DIALECT_HINT)
    try:
        tree = _qualify(_canonical_functions(tree), describe)
        limits = list(find_limits(tree, describe))
        if limits:
            raise QueryError(
                f"a query cannot run on AWS: {limits[0].problem}",
                hint=_correction(tree, limits, describe).strip(),
            )
        _check_readable(tree, unreadable)
        annotate_types(tree, operands_of, describe)
        tree = with_order_of_subquery(
            _name_columns(without_qualify(rewrite(tree)), describe(select), convert)
        )
        return _to_sql(mark_tables(tree, _tables(tree), marks_of(select, tables)))
    except SqlglotError as error:
        raise QueryError(
            f"a query cannot be translated to Athena's SQL: {str(error).splitlines()[0]}",
            hint=DIALECT_HINT,
        ) from error


def _union_by_position(tree: exp.Expr, describe: Describe) -> exp.Expr:
    """Return UNION BY NAME with all columns in both halves."""
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


def _canonical_functions(tree: exp.Expr) -> exp.Expr:
    """Return the tree with one name for functions that have two, if sqlglot does not know the
    second.
    """
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


def _qualify(tree: exp.Expr, describe: Describe) -> exp.Expr:
    """Return the tree with qualified columns, and without stars, positions and aliases as
    references.
    """
    names = {table.name for table in _tables(tree)}
    columns: dict[str, object] = {
        name.lower(): {
            column.lower(): "unknown" for column, _ in describe(f'SELECT * FROM "{name}"')
        }
        for name in names
    }
    # normalizing would change the name `$path`; the schema's dialect orders the columns of a star
    schema = MappingSchema(columns, normalize=False, dialect="duckdb")
    qualified = qualify(tree, schema=schema, dialect="duckdb")
    for select in list(qualified.find_all(exp.Select)):
        eliminate_semi_and_anti_joins(select)
    return qualified


def _check_readable(tree: exp.Expr, unreadable: Unreadable) -> None:
    """Raise QueryError if the query reads columns that Athena cannot read."""
    named = {table.alias_or_name: table.name for table in _tables(tree) if table.name in unreadable}
    read = {
        (named[column.table], column.name)
        for column in tree.find_all(exp.Column)
        if column.table in named
    }
    problems = [
        f"{table}.{column}: {why}"
        for table, columns in unreadable.items()
        for column, why in columns.items()
        if (table, column.lower()) in read
    ]
    if problems:
        raise QueryError(
            "a query reads what Athena cannot",
            problems=problems,
            hint="name the columns that are needed, or change the columns where they are defined",
        )


def _tables(tree: exp.Expr) -> list[exp.Table]:
    """Return the tables that a query reads, without names that a WITH defines."""
    return [
        table
        for table in tree.find_all(exp.Table)
        if isinstance(table.this, exp.Identifier) and table.name not in _cte_names_around(table)
    ]


def _cte_names_around(table: exp.Expr) -> set[str]:
    """Return the names that the WITH clauses around a table define for it.

    A query of a WITH sees those before it, but not itself.
    """
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


def _name_columns(tree: exp.Expr, columns: list[tuple[str, str]], convert: Conversion) -> exp.Expr:
    """Return the query with the column names that DuckDB gives it, and typed NULLs."""
    if isinstance(tree, exp.SetOperation):
        for half in (tree.this, tree.expression):
            half.replace(_name_columns(half, columns, convert))
    if isinstance(tree, exp.Subquery):
        tree.this.replace(_name_columns(tree.this, columns, convert))
    if isinstance(tree, exp.Select) and len(tree.expressions) == len(columns):
        for column, (name, kind) in zip(tree.expressions, columns, strict=True):
            value = column.unalias()
            if isinstance(value, exp.Null):
                value = exp.cast(
                    value.copy(),
                    exp.DataType.build("INTEGER" if '"' in kind else kind, dialect="duckdb"),
                )
            column.replace(exp.alias_(convert(value, kind).copy(), name.lower(), quoted=True))
    return tree


def _unchanged(value: exp.Expr, _: str) -> exp.Expr:
    return value


def _as_text(value: exp.Expr, kind: str) -> exp.Expr:
    if kind_of_type(kind) in ("list", "struct", "map"):
        return call("json_format", exp.cast(value.copy(), "json"))
    return call("to_hex", value) if kind_of_type(kind) == "blob" else value


def _with_declared_type(value: exp.Expr, kind: str) -> exp.Expr:
    """Return a number with DuckDB's type: Athena's sums of integers are DECIMAL(38, 0)."""
    if (
        isinstance(value, exp.Column)
        or kind_of_type(kind) not in ("integer", "decimal", "float")
        or kind in UNSIGNED
    ):
        return value
    return exp.cast(
        value.copy(),
        exp.DataType.build("DECIMAL(38, 0)" if kind == "HUGEINT" else kind, dialect="duckdb"),
    )


def _to_sql(tree: exp.Expr) -> str:
    return str(
        tree.sql("athena", unsupported_level=sqlglot.ErrorLevel.RAISE, comments=False, copy=False)
    )


def _in_limits(text: str) -> str:
    if len(text.encode()) > MAX_STATEMENT_BYTES:
        raise QueryError(
            f"a statement has {len(text.encode()):,} bytes, and Athena accepts"
            f" {MAX_STATEMENT_BYTES:,}",
            hint="clean and check fewer columns of one source, or read it in parts",
        )
    return text
