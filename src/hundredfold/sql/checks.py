"""The checks of a source's rows, compiled to SQL. Nothing here runs a query.

A raw row has its columns, `__file` and `__row`. The query `typed` repairs and casts the values, and
`judged` adds a 0/1 column for each check. The reasons of a rejected row are built from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ..contract import Column, Contract, accepts, literal, quote
from ..errors import SourceError
from ..job import Source

PLACE_COLUMNS = ("__file", "__row")
DESCRIPTIONS = {
    "DOUBLE": "a number",
    "BIGINT": "a whole number",
    "DATE": "a date",
    "TIMESTAMP": "a time of at most 6 decimals",
    "BOOLEAN": "true or false",
    "TIME": "a time of day of at most 6 decimals",
    "VARCHAR": "a text",
    "BLOB": "bytes",
}
BLANKS = r"[ \t\r\n]*"
# so few digits that a double holds each of them exactly
EXPONENT = r"([0-9]{1,15}|[0-9][.][0-9]{0,14})[eE][+-]?[0-9]{1,2}"
WHOLE_NUMBER = rf"{BLANKS}[+-]?([0-9]+([.]0*)?|{EXPONENT}){BLANKS}"
CLOCK_TIME = r"([01]?[0-9]|2[0-3]):[0-5]?[0-9](:[0-5]?[0-9]([.][0-9]{1,6}0*)?)?"
NUMBER_SQL_TYPES = {
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
}
# the types of values in lists and maps
NESTED_SQL_TYPES = NUMBER_SQL_TYPES | {
    "bool": "BOOLEAN",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date32[day]": "DATE",
    "timestamp[s]": "TIMESTAMP_S",
    "timestamp[ms]": "TIMESTAMP_MS",
    "timestamp[us]": "TIMESTAMP",
    "timestamp[ns]": "TIMESTAMP_NS",
    "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
    "timestamp[ns, tz=UTC]": "TIMESTAMPTZ_NS",
    "time64[us]": "TIME",
    "time64[ns]": "TIME_NS",
}
# a fraction that is cut off, or a 24:00 that belongs to the next day
FINER_TIME = r"[.]\d{6}\d*[1-9]|[T ]24:"
JSON_TEXT = r'"([^"\\]|\\.)*"'
FIRST_DAY, LAST_DAY = "DATE '0001-01-01'", "DATE '9999-12-31'"
FIRST_MOMENT = "TIMESTAMP '0001-01-01 00:00:00'"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of a source: its column, its description, and the SQL condition of a bad row."""

    column: str
    words: str
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
        return (
            " + ".join(f"__k{i}" for i in range(len(self.rules))) + " > 0"
            if self.rules
            else "FALSE"
        )

    @property
    def broken(self) -> str:
        """The SQL condition of a row of `typed` that breaks any rule."""
        return " OR ".join(f"({rule.bad})" for rule in self.rules) or "FALSE"

    @property
    def reasons(self) -> str:
        """The SQL text of every rule that a bad row breaks, joined."""
        parts = ", ".join(
            f"CASE WHEN __k{i} = 1 THEN {literal(f'{rule.column} {rule.words}')} END"
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
            f"{' OR '.join(self._differs())}"
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
    source: Source, contract: Contract | None, raw: str, schema: pa.Schema, text: bool, as_of: str
) -> Checks:
    """Compile the checks of a source over the query `raw`, whose columns are `schema`.

    text: whether every value is text. Raises: SourceError for all missing columns and wrong types
    at once.
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
    rules += [
        Rule(
            c,
            f"must not be after {as_of[:10]}",
            f"coalesce(TRY_CAST(t.{quote(c)} AS TIMESTAMP) > TIMESTAMP {literal(as_of)}, FALSE)",
        )
        for c in source.not_future
    ]
    rules += [_reference(column, target) for column, target in source.references.items()]
    cleaned = tuple((name, sql) for name, sql in source.clean.items() if name in found)
    typed = (
        f"SELECT __file, __row, {', '.join(values)}, ({_changed(cleaned)}) AS __repaired "
        f"FROM ({raw}) AS raw"
    )
    return Checks(typed, tuple(order), tuple(rules), "__repaired", cleaned, as_is)


def _changed(cleaned: Sequence[tuple[str, str]]) -> str:
    """Return the condition that cleaning changes a value of a row."""
    return (
        " OR ".join(
            f"CAST({quote(name)} AS VARCHAR) IS DISTINCT FROM CAST(({sql}) AS VARCHAR)"
            for name, sql in cleaned
        )
        or "FALSE"
    )


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
        found == column.arrow or pa.types.is_null(found) or _is_lossless(found, column.arrow)
    )
    cast = (
        _cast(expression, column, found) if found is None or found != column.arrow else expression
    )
    values, rules = [f"{cast} AS {quote(name)}"], list[Rule]()
    if not same:
        uncast = _cast_failure(column, f"__raw_{quote_part(name)}", ref, found)
        rules.append(Rule(name, f"must be {_description(column)}", f"({uncast})"))
        values.append(f"{expression} AS __raw_{quote_part(name)}")
    elif (outside := _out_of_range(column, ref)) != "FALSE":
        years = "" if column.sql_type == "TIME" else " of the years 1 to 9999"
        rules.append(
            Rule(name, f"must be {_description(column)}{years}", f"coalesce({outside}, FALSE)")
        )
    if not column.nullable:
        missing = f"{ref} IS NULL" if same else f"(__raw_{quote_part(name)} IS NULL)"
        rules.append(Rule(name, "must not be null", missing))
    # a null is neither good nor bad
    rules += [Rule(name, check.words, f"NOT ({check.on(ref)})") for check in column.checks]
    return Judged(cast, tuple(values), tuple(rules), same)


def _is_lossless(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether a cast keeps every value of a type, so that it cannot fail and may be
    repeated.
    """
    t = pa.types
    if wanted == pa.int64():
        return bool(t.is_integer(found) and found != pa.uint64())
    return bool(
        wanted == pa.float64()
        and (t.is_floating(found) or (t.is_integer(found) and found.bit_width <= 32))
    )


def _cast(expression: str, column: Column, found: pa.DataType | None) -> str:
    """Return the SQL of a value as another type, or null.

    A time without an offset is UTC; one with an offset is converted to UTC.
    """
    if found is None and pa.types.is_nested(column.arrow):
        return _nested_cast(expression, column.arrow)
    if column.sql_type == "TIMESTAMP":
        return f"CAST(TRY_CAST({expression} AS TIMESTAMPTZ) AS TIMESTAMP)"
    if pa.types.is_decimal(column.arrow) and (found is None or pa.types.is_floating(found)):
        # a double with the digits of its text
        expression = f"CAST({expression} AS VARCHAR)"
    return f"TRY_CAST({expression} AS {column.sql_type})"


def _as_texts(expression: str, kind: pa.DataType) -> str:
    """Return the SQL of the values of a list or a map as texts, from the text of the whole.

    The text may be JSON.
    """
    text, is_map = f"CAST({expression} AS VARCHAR)", pa.types.is_map(kind)
    texts = "MAP(VARCHAR, VARCHAR)" if is_map else "VARCHAR[]"
    # DuckDB reads its own form of a list from JSON too, except for escapes; its form of a map
    # differs
    is_json = (
        f"json_valid({text})" if is_map else f"strpos({text}, '\\') > 0 AND json_valid({text})"
    )
    # JSON's reader would write such a number differently
    if rewritten := _numbers_to_keep(kind):
        is_json += (
            f" AND NOT regexp_matches(regexp_replace({text}, {literal(JSON_TEXT)}, '', 'g'), "
            f"{literal(rewritten)})"
        )
    return (
        f"CASE WHEN {is_json} THEN TRY_CAST(TRY_CAST({text} AS JSON) AS {texts}) ELSE "
        f"TRY_CAST({text} AS {texts}) END"
    )


def _numbers_to_keep(kind: pa.DataType) -> str:
    """Return a pattern for numbers in JSON whose digits may change through a double; "" for any
    digits.
    """
    if pa.types.is_map(kind):
        return _numbers_to_keep(kind.item_type)
    if pa.types.is_list(kind):
        return _numbers_to_keep(kind.value_type)
    if keeps_digits(kind):
        return r"[0-9][.eE][0-9+-]|[0-9]{17}"
    return "[0-9.]{17}" if pa.types.is_integer(kind) else ""


def keeps_digits(kind: pa.DataType) -> bool:
    """Return whether a type holds numbers as they are written: texts and decimals, at any depth."""
    if pa.types.is_map(kind):
        return keeps_digits(kind.item_type)
    return (
        keeps_digits(kind.value_type)
        if pa.types.is_list(kind)
        else bool(pa.types.is_string(kind) or pa.types.is_decimal(kind))
    )


def _nested_cast(expression: str, kind: pa.DataType) -> str:
    """Return the SQL of a list or map from its text, with null for each text that is not a
    value.
    """
    values, x = _as_texts(expression, kind), _lambda_variable(kind)
    if pa.types.is_list(kind):
        value = _cast(x, _value_column(kind.value_type), None)
        return f"list_transform({values}, lambda {x}: {value})"
    key, item = (
        _cast(f"{x}.key", _value_column(kind.key_type), None),
        _cast(f"{x}.value", _value_column(kind.item_type), None),
    )
    return (
        f"map_from_entries(list_transform(map_entries({values}), lambda {x}: {{'key': {key}, "
        f"'value': {item}}}))"
    )


def _nested_cast_failure(raw: str, kind: pa.DataType) -> str:
    """Return the condition that the text of a list or map is invalid, or has an invalid or changed
    value.
    """
    values, x = _as_texts(raw, kind), _lambda_variable(kind)
    parts = (
        [(values, kind.value_type)]
        if pa.types.is_list(kind)
        else [(f"map_keys({values})", kind.key_type), (f"map_values({values})", kind.item_type)]
    )
    bad = (
        (part, _cast_failure(_value_column(inner), x, _cast(x, _value_column(inner), None), None))
        for part, inner in parts
    )
    inside = " OR ".join(
        f"coalesce(len(list_filter({part}, lambda {x}: coalesce({is_bad}, FALSE))) > 0, FALSE)"
        for part, is_bad in bad
    )
    return f"({raw} IS NOT NULL AND ({values}) IS NULL) OR {inside}"


def _lambda_variable(kind: pa.DataType) -> str:
    """Return the name of a value in a list or map, different at each depth."""
    depth = 0
    while pa.types.is_nested(kind):
        kind, depth = kind.item_type if pa.types.is_map(kind) else kind.value_type, depth + 1
    return f"x{depth}"


def _value_column(kind: pa.DataType) -> Column:
    """Return a value in a list or map as a column."""
    return Column("", None, kind, nullable=True)


def _cast_failure(column: Column, raw: str, cast: str, found: pa.DataType | None) -> str:
    """Return the condition that the cast to its column loses or changes a value.

    found: the type of the expression; None if it may be text. Expensive conditions are in a CASE
    after the usual form of the text, since DuckDB evaluates all of an AND.
    """
    text, t = f"CAST({raw} AS VARCHAR)", pa.types
    lost = f"({raw} IS NOT NULL AND {cast} IS NULL)"
    if found is None and t.is_nested(column.arrow):
        return _nested_cast_failure(raw, column.arrow)
    if t.is_decimal(column.arrow):
        return f"{lost} OR {_loses_digits(column.arrow.scale, raw, cast, found)}"
    match column.sql_type:
        case "BIGINT" if found is None:
            exact = f"{_like(text, WHOLE_NUMBER)} AND TRY_CAST({raw} AS DOUBLE) = {cast}"
            return f"{lost} OR {_unless_same_text(cast, text, f'NOT ({exact})')}"
        case "BIGINT" if t.is_floating(found):
            return f"{lost} OR TRY_CAST({raw} AS DOUBLE) <> {cast}"
        case "DOUBLE" if found is None:
            return f"{lost} OR {_inexact_double(column, text, cast)}"
        case "DOUBLE" if t.is_decimal(found):
            back = f"TRY_CAST({{}} AS {_sql_type_of(found)}) IS DISTINCT FROM {raw}"
            return f"{lost} OR ({back.format(cast)} AND {back.format(_written(cast))})"
        case "DATE":  # a time of day would be cut off
            moment = f"CAST(TRY_CAST({raw} AS TIMESTAMPTZ) AS TIMESTAMP)"
            return (
                f"{lost} OR {_out_of_range(column, cast)} OR "
                f"{_unless_same_text(cast, text, f'{moment} <> {cast}')}"
            )
        case "TIMESTAMP" if found is None:
            return (
                f"{lost} OR {_out_of_range(column, cast)} OR "
                f"{_unless_same_text(cast, text, _contains(text, FINER_TIME))}"
            )
        case "TIMESTAMP":
            finer = (
                f" OR epoch_ns({raw}) % 1000 <> 0"
                if found is not None and t.is_timestamp(found) and found.unit == "ns"
                else ""
            )
            return f"{lost} OR {_out_of_range(column, cast)}{finer}"
        case "TIME":
            return (
                f"{lost} OR {_out_of_range(column, cast)} OR "
                f"{_unless_same_text(cast, text, f'NOT {_like(text, CLOCK_TIME)}')}"
            )
    if found is not None and (back := _sql_type_of(found)):
        return f"{lost} OR TRY_CAST({cast} AS {back}) IS DISTINCT FROM {raw}"
    return lost


def _inexact_double(column: Column, text: str, cast: str) -> str:
    """Return the condition that a double is not the number of its text, or is not finite."""
    inexact = (
        f"strpos({text}, '_') > 0 OR CASE WHEN {cast} = 0 THEN "
        f"{_contains(text, '^[^eE]*[1-9]')} ELSE FALSE END"
    )
    other = (
        f"isinf({cast}) AND {_contains(text, '[0-9]')}"
        if column.infinite
        else f"NOT isfinite({cast})"
    )
    return f"{inexact} OR ({other})"


def _loses_digits(scale: int, raw: str, cast: str, found: pa.DataType | None) -> str:
    """Return the condition that a decimal does not keep all digits of a value."""
    if found is not None and not pa.types.is_floating(found):
        return f"TRY_CAST({cast} AS {_sql_type_of(found)}) IS DISTINCT FROM {raw}"
    text = f"CAST({raw} AS VARCHAR)"
    plain = (
        rf"{BLANKS}[+-]?([0-9]+[.]?[0-9]{{0,{scale}}}0*|[.][0-9]{{1,{max(scale, 1)}}}0*){BLANKS}"
    )
    short = (
        f"({_like(text, f'{BLANKS}[+-]?{EXPONENT}{BLANKS}')} AND TRY_CAST({raw} AS DOUBLE) = "
        f"CAST({cast} AS DOUBLE))"
    )
    return f"CASE WHEN {_like(text, plain)} THEN FALSE ELSE NOT {short} END"


def _out_of_range(column: Column, value: str) -> str:
    """Return the condition of a date or time that Python lacks: before year 1, after 9999,
    infinity, 24:00.
    """
    match column.sql_type:
        case "DATE":
            return f"{value} NOT BETWEEN {FIRST_DAY} AND {LAST_DAY}"
        case "TIMESTAMP":
            return f"({value} < {FIRST_MOMENT} OR CAST({value} AS DATE) > {LAST_DAY})"
        case "TIME":
            return f"{value} >= TIME '24:00:00'"
    return "FALSE"


def _sql_type_of(kind: pa.DataType, known: Mapping[str, str] = NUMBER_SQL_TYPES) -> str:
    """Return the SQL type of an Arrow type of numbers, or of lists and maps of them; "" for all
    others.
    """
    t = pa.types
    if t.is_list(kind) or t.is_large_list(kind):
        inner = _sql_type_of(kind.value_type, NESTED_SQL_TYPES)
        return f"{inner}[]" if inner else ""
    if t.is_map(kind):
        key, item = (
            _sql_type_of(kind.key_type, NESTED_SQL_TYPES),
            _sql_type_of(kind.item_type, NESTED_SQL_TYPES),
        )
        return f"MAP({key}, {item})" if key and item else ""
    if t.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    return known.get(str(kind), "")


def _unless_same_text(cast: str, text: str, bad: str) -> str:
    return f"CASE WHEN {_written(cast)} = {text} THEN FALSE ELSE {bad} END"


def _written(value: str) -> str:
    return f"CAST({value} AS VARCHAR)"


def _like(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {literal(pattern)})"


def _contains(text: str, pattern: str) -> str:
    return f"regexp_matches({text}, {literal(pattern)})"


def _description(column: Column) -> str:
    """Return the description of a valid value of a column."""
    if pa.types.is_decimal(column.arrow):
        return f"a decimal of at most {column.arrow.scale} places"
    if pa.types.is_list(column.arrow):
        return f"a list, each value {_description(_value_column(column.arrow.value_type))}"
    if pa.types.is_map(column.arrow):
        return f"an object, each value {_description(_value_column(column.arrow.item_type))}"
    return DESCRIPTIONS.get(column.sql_type, column.sql_type)


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


def _reference(column: str, target: str) -> Rule:
    table, other = target.split(".")
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
