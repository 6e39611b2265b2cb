"""The checks of a source's rows, compiled to SQL. Nothing here runs a query.

A raw row has its columns, `__file` and `__row`. The query `typed` repairs and casts the values, and
`judged` adds a 0/1 column for each check. The reasons of a rejected row are built from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ..contract import Column, Contract, accepts, literal, quote
from ..errors import SourceError
from ..job import Source
from .casts import _out_of_range, cast_failure, cast_value, describe_type, is_lossless

NO_TABLES: Mapping[str, str] = {}
MAX_CHAIN = 16  # operands of a chain of one operator
PLACE_COLUMNS = ("__file", "__row")


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of a source: its column, its description, and the SQL condition of a bad row."""

    column: str
    message: str
    bad: str


@dataclass(frozen=True, slots=True)
class Checks:
    """The compiled checks of a source: the query of cleaned and cast rows, and the rules over
    it.
    """

    typed: str
    columns: tuple[str, ...]  # the columns of an accepted row
    rules: tuple[Rule, ...]
    repaired: str  # true of a row that was repaired
    # the source's columns that are cleaned, with the SQL that cleans them
    cleaned: tuple[tuple[str, str], ...]
    # the accepted values are the raw ones, so that they can be read from the source again
    as_is: bool

    @property
    def judged(self) -> str:
        flags = "".join(
            f",\n  CASE WHEN {rule.bad} THEN 1 ELSE 0 END AS __k{i}"
            for i, rule in enumerate(self.rules)
        )
        return f"SELECT *{flags}\nFROM ({self.typed}) AS t"

    @property
    def any_bad(self) -> str:
        return f"{balanced(flags, '+')} > 0" if (flags := self._flags) else "FALSE"

    @property
    def _flags(self) -> list[str]:
        return [f"__k{i}" for i in range(len(self.rules))]

    @property
    def broken(self) -> str:
        """The SQL condition of a row of `typed` that breaks any rule."""
        return balanced([f"({rule.bad})" for rule in self.rules], "OR") or "FALSE"

    @property
    def reasons(self) -> str:
        """The SQL text of every rule that a bad row breaks, joined."""
        parts = ", ".join(
            f"CASE WHEN __k{i} = 1 THEN {literal(f'{rule.column} {rule.message}')} END"
            for i, rule in enumerate(self.rules)
        )
        return f"concat_ws('; ', {parts})" if self.rules else "''"

    def touched(self, raw: str) -> str:
        """Return a query of the raw rows with repaired values.

        `__after0`, `__after1`, ... are the repaired values, as text.
        """
        after = ", ".join(
            f"CAST(({sql}) AS VARCHAR) AS __after{i}" for i, (_, sql) in enumerate(self.cleaned)
        )
        return (
            f"SELECT * FROM (SELECT *, {after} FROM ({raw}) AS raw) AS q WHERE "
            f"{balanced(self._differs(), 'OR')}"
        )

    def repairs(self, touched: str, columns: Sequence[str], key: Sequence[str]) -> str:
        """Return a query with one row for each repaired value, in the order of the files.

        It has the place of the row, the column, the text before and after, and the row as it was
        read (`columns`). `key` orders rows without a number.
        """
        rest = "".join(f", {quote(name)}" for name in columns)
        each = " UNION ALL ".join(
            (
                f"SELECT __file, __row, {literal(name)} AS __column, CAST({quote(name)} AS "
                f"VARCHAR) AS __before, __after{i} AS __after{rest} FROM {touched} WHERE "
                f"{differs}"
            )
            for i, ((name, _), differs) in enumerate(
                zip(self.cleaned, self._differs(), strict=True)
            )
        )
        order = ", ".join(
            ["__file", "__row", *(quote(name) for name in key if name in columns), "__column"]
        )
        return f"SELECT * FROM ({each}) AS x ORDER BY {order}"

    def _differs(self) -> list[str]:
        return [
            f"CAST({quote(name)} AS VARCHAR) IS DISTINCT FROM __after{i}"
            for i, (name, _) in enumerate(self.cleaned)
        ]

    def accepted(self, rejects: str | None) -> str:
        """Return the query of accepted rows: cleaned, cast, and not among `rejects` (__file and
        __row).
        """
        names = ", ".join(map(quote, self.columns))
        if rejects is None:
            return f"SELECT {names} FROM ({self.typed}) AS t"
        return (
            f"SELECT {names} FROM ({self.typed}) AS t WHERE NOT EXISTS (SELECT 1 FROM {rejects} "
            "AS r WHERE r.__file = t.__file AND r.__row = t.__row)"
        )


def compile_checks(
    source: Source,
    contract: Contract | None,
    raw: str,
    schema: pa.Schema,
    text: bool,
    as_of: str,
    known: Mapping[str, str] = NO_TABLES,
) -> Checks:
    """Compile the checks of a source over the query `raw`, whose columns are `schema`.

    text: whether every value is text. known: tables of the values, by column, that the referenced
    columns have; a reference without one reads the table that it names. Raises: SourceError for
    all missing columns and wrong types at once.
    """
    found = {f.name: f.type for f in schema if f.name not in PLACE_COLUMNS}
    _refuse_checks(source, contract, found)
    _refuse_columns(source, contract, found, text)
    wanted = {c.name: c for c in contract.columns} if contract else {}
    # a cleaned column may be computed from others
    order = [*found, *(name for name in wanted if name not in found)]
    values: list[str] = []
    rules: list[Rule] = []
    as_is = True
    for name in order:
        expression = f"({source.clean[name]})" if name in source.clean else quote(name)
        column = wanted.get(name)
        if column is None:
            values.append(f"{expression} AS {quote(name)}")
            as_is = as_is and name not in source.clean
            continue
        # an optional column; a required one would have been refused
        if name not in found and name not in source.clean:
            values.append(f"CAST(NULL AS {column.sql_type}) AS {quote(name)}")
            as_is = False
            continue
        kind = None if text or name in source.clean else found[name]
        judged = check_column(column, expression, kind)
        as_is = as_is and judged.same
        values += judged.values
        rules += judged.rules
    rules += _rules_of_source(source, as_of, known)
    cleaned = tuple((name, sql) for name, sql in source.clean.items() if name in found)
    typed = (
        f"SELECT __file, __row, {', '.join(values)}, ({_changed(cleaned)}) AS __repaired "
        f"FROM ({raw}) AS raw"
    )
    return Checks(typed, tuple(order), tuple(rules), "__repaired", cleaned, as_is)


def _rules_of_source(source: Source, as_of: str, known: Mapping[str, str]) -> Iterator[Rule]:
    """Yield the rules that the source declares beside its contract."""
    for c in source.not_future:
        yield Rule(
            c,
            f"must not be after {as_of[:10]}",
            f"coalesce(TRY_CAST(t.{quote(c)} AS TIMESTAMP) > TIMESTAMP {literal(as_of)}, FALSE)",
        )
    for column, target in source.references.items():
        yield _reference(column, target, known.get(column))


def _changed(cleaned: Sequence[tuple[str, str]]) -> str:
    """Return the condition that cleaning changes a value of a row."""
    differ = [
        f"CAST({quote(name)} AS VARCHAR) IS DISTINCT FROM CAST(({sql}) AS VARCHAR)"
        for name, sql in cleaned
    ]
    return balanced(differ, "OR") or "FALSE"


@dataclass(frozen=True, slots=True)
class Judged:
    """A column under its contract: its value, the columns of a query `t` with it, and its rules.

    `same` is true if the value is the raw one, and the contract's type holds every value of the raw
    type.
    """

    value: str
    values: tuple[str, ...]
    rules: tuple[Rule, ...]
    same: bool

    def raw(self, column: str) -> str:
        """Return the SQL of the raw value, in the query `t`."""
        return f"t.{quote(column)}" if len(self.values) == 1 else f"t.__raw_{quote_part(column)}"


def check_column(column: Column, expression: str, found: pa.DataType | None) -> Judged:
    """Compile the contract of one column.

    found: the type of the expression; None if it may be text.
    """
    name, ref = column.name, f"t.{quote(column.name)}"
    same = found is not None and (
        found == column.arrow or pa.types.is_null(found) or is_lossless(found, column.arrow)
    )
    cast = (
        cast_value(expression, column, found)
        if found is None or found != column.arrow
        else expression
    )
    values, rules = [f"{cast} AS {quote(name)}"], list[Rule]()
    if not same:
        uncast = cast_failure(column, f"__raw_{quote_part(name)}", ref, found)
        rules.append(Rule(name, f"must be {describe_type(column)}", f"({uncast})"))
        values.append(f"{expression} AS __raw_{quote_part(name)}")
    elif (outside := _out_of_range(column, ref)) != "FALSE":
        years = "" if column.sql_type == "TIME" else " of the years 1 to 9999"
        rules.append(
            Rule(name, f"must be {describe_type(column)}{years}", f"coalesce({outside}, FALSE)")
        )
    if not column.nullable:
        missing = f"{ref} IS NULL" if same else f"(__raw_{quote_part(name)} IS NULL)"
        rules.append(Rule(name, "must not be null", missing))
    # a null is neither good nor bad
    rules += [Rule(name, check.message, f"NOT ({check.on(ref)})") for check in column.checks]
    return Judged(cast, tuple(values), tuple(rules), same)


def balanced(parts: Sequence[str], operator: str) -> str:
    """Return the parts joined by an operator, in parentheses of even depth.

    A chain of them would be as deep as it is long, and a thousand columns deeper than SQL allows.
    """
    if len(parts) <= MAX_CHAIN:
        return f" {operator} ".join(parts)
    middle = len(parts) // 2
    halves = (balanced(half, operator) for half in (parts[:middle], parts[middle:]))
    return f" {operator} ".join(f"({half})" for half in halves)


def quote_part(name: str) -> str:
    """Return a column's name as part of an internal name."""
    return "".join(ch if ch.isalnum() else f"_{ord(ch):x}_" for ch in name)


def duplicates(source: Source, checks: Checks, good: str) -> str:
    """Return the query of rows that are dropped or rejected since another row has their key.

    It has the reason, and whether the row counts against the limit. Of exact copies the first
    stays; of the others the latest; if the latest is not unique, none of them.
    """
    key = ", ".join(map(quote, source.unique))
    everything = ", ".join(map(quote, checks.columns))
    latest = f"{quote(source.latest)} DESC NULLS LAST" if source.latest else "1"
    name = literal(", ".join(source.unique))
    same_key = " AND ".join(
        f"g.{quote(k)} IS NOT DISTINCT FROM d.{quote(k)}" for k in source.unique
    )
    return f"""
WITH good AS ({good}),
doubled AS (SELECT {key} FROM good GROUP BY {key} HAVING count(*) > 1),
again AS (SELECT g.* FROM good AS g JOIN doubled AS d ON {same_key}),
copies AS (
    SELECT *, row_number() OVER (PARTITION BY {everything} ORDER BY __file, __row) AS __copy
    FROM again
),
ranked AS (
    SELECT *, rank() OVER (PARTITION BY {key} ORDER BY {latest}) AS __rank
    FROM copies WHERE __copy = 1
),
judged AS (
    SELECT *, sum(CASE WHEN __rank = 1 THEN 1 ELSE 0 END) OVER (PARTITION BY {key}) AS __first
    FROM ranked
)
SELECT __file, __row, 'copy of another row' AS reason, FALSE AS counts
FROM copies WHERE __copy > 1
UNION ALL
SELECT __file, __row, 'superseded by a later row' AS reason, FALSE AS counts
FROM judged WHERE __first = 1 AND __rank > 1
UNION ALL
SELECT __file, __row, {name} || ' must be unique' AS reason, TRUE AS counts
FROM judged WHERE __first > 1
""".strip()


def _reference(column: str, target: str, known: str | None) -> Rule:
    table, other = (known, "value") if known else target.split(".")
    exists = (
        f"EXISTS (SELECT 1 FROM {quote(table)} AS r WHERE r.{quote(other)} = t.{quote(column)})"
    )
    return Rule(column, f"must be in {target}", f"(t.{quote(column)} IS NOT NULL AND NOT {exists})")


def _refuse_checks(
    source: Source, contract: Contract | None, found: Mapping[str, pa.DataType]
) -> None:
    """Refuse checks that could never apply."""
    known = [*found, *(name for name in (contract.names if contract else ()) if name not in found)]
    problems = [
        f"clean: {name!r} is neither a column of the source nor a field of its contract"
        for name in source.clean
        if name not in known
    ]
    if source.latest and not source.unique:
        problems.append(
            f"latest: {source.latest!r} chooses among rows with one key, but unique names no key"
        )
    if problems:
        raise SourceError(
            f"{source.name} cannot be checked as it is declared; its columns are {_list(known)}",
            problems=problems,
            hint="correct the name; or name the columns that identify a row: unique=(...)"
            if source.latest and not source.unique
            else "correct the name",
        )


def refuse_timeless(source: Source, typed: pa.Schema) -> None:
    """Raise SourceError where `not_future` names a column that is not a date or time after
    `clean`.
    """
    kinds = {name: typed.field(name).type for name in source.not_future}
    problems = [
        f"{name}: {kind}"
        for name, kind in kinds.items()
        if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind))
    ]
    if problems:
        raise SourceError(
            f"{source.name}: not_future names a column that is neither date nor time",
            problems=problems,
            hint="give it the type date or datetime in the contract, or make it one with clean",
        )


def _refuse_columns(
    source: Source, contract: Contract | None, found: Mapping[str, pa.DataType], text: bool
) -> None:
    problems: list[str] = []
    named = dict.fromkeys(
        (
            *source.unique,
            *source.not_future,
            *source.references,
            *([source.latest] if source.latest else []),
        ),
        "a check of the source",
    )
    for name, wanted in ({c.name: c for c in contract.columns} if contract else {}).items():
        named.pop(name, None)
        if name not in found:
            if name not in source.clean and not wanted.optional:
                problems.append(f"{name}: wanted {wanted.arrow}, and there is no such column")
        elif (
            not text
            and name not in source.clean
            and not (pa.types.is_null(found[name]) or accepts(wanted.arrow, found[name]))
        ):
            problems.append(f"{name}: wanted {wanted.arrow}, found {found[name]}")
    problems += [
        f"{name}: named by {why}, and there is no such column"
        for name, why in named.items()
        if name not in found
    ]
    if problems:
        raise SourceError(
            f"{source.name} does not have the columns that its contract wants; it has "
            f"{_list(list(found))}",
            problems=problems,
            hint="correct the file or the contract, or define how a column is computed: "
            f'Source("{source.name}", clean={{"{problems[0].split(":")[0]}": "... SQL ..."}})',
        )


def _list(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
