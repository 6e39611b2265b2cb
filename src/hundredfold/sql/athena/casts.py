"""Casts from text and to text, with the texts that DuckDB reads and writes.

Athena reads fewer forms of numbers and times than DuckDB, and some that DuckDB does not; and it
writes doubles and times differently. So a text is checked before it is cast, and the result of a
cast to text is converted to DuckDB's form.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from functools import lru_cache

from sqlglot import exp

from ...errors import QueryError
from .types import kind_of_type

WHITESPACE = "\t\n\v\f\r "  # skipped by DuckDB around a number or a time
DIGITS = "[0-9]+(?:_[0-9]+)*"
WHOLE = rf"[+-]?{DIGITS}"
NUMBER = rf"[+-]?(?:{DIGITS}[.]?(?:{DIGITS})?|[.]{DIGITS})(?:[eE][+-]?[0-9]+)?"
DAY = "([0-9]{4})(?:-([0-9]{1,2})-|/([0-9]{1,2})/| ([0-9]{1,2}) )([0-9]{1,2})"
TIME = (
    rf"{DAY}(?:(?:T| +)([0-9]{{1,2}}:[0-9]{{1,2}}(?::[0-9]{{1,2}}(?:[.][0-9]{{1,3}}0*)?)?)(Z|"
    r" UTC|([+-][0-9]{2})(?::?([0-9]{2}))?)?)?"
)
# groups of TIME
YEAR, MONTH, MONTH_2, MONTH_3, DAY_OF_MONTH, CLOCK, ZONE, HOURS, MINUTES = range(1, 10)
TRUE, FALSE = ("true", "t", "1", "yes", "y"), ("false", "f", "0", "no", "n")


def call(name: str, *arguments: exp.Expr | str | int) -> exp.Expr:
    """Return a call of one of Athena's functions; a str argument is a text, an int a number."""
    return exp.Anonymous(
        this=name, expressions=[_to_expression(argument) for argument in arguments]
    )


def sql(text: str, **values: exp.Expr) -> exp.Expr:
    """Return an expression of Athena's SQL, with values in place of the names in it."""

    def put(node: exp.Expr) -> exp.Expr:
        return (
            _parenthesised(values[node.name])
            if isinstance(node, exp.Column) and node.name in values
            else node
        )

    done: exp.Expr = _parsed(text).copy().transform(put, copy=False)
    return done


@lru_cache(1000)
def _parsed(text: str) -> exp.Expr:
    tree: exp.Expr = exp.maybe_parse(text, dialect="athena")
    return tree


def bind_once(value: exp.Expr, body: Callable[[exp.Expr], exp.Expr]) -> exp.Expr:
    """Return the expression that `body` builds from a value, which is evaluated only once."""
    if isinstance(value.unnest(), exp.Column | exp.Literal):
        return exp.paren(body(value.unnest()))
    name = exp.to_identifier("_v")
    made = exp.Lambda(this=body(exp.column("_v")), expressions=[name])
    return call("element_at", call("transform", exp.Array(expressions=[value.copy()]), made), 1)


def to_text(value: exp.Expr, kind: str) -> exp.Expr:
    """Return a value as text, in DuckDB's form; lists and other nested values as JSON."""
    sort = kind_of_type(kind)
    if sort == "text":
        return value
    plain = exp.cast(value.copy(), "varchar")
    if sort == "float":
        return bind_once(plain, _float_text)
    if sort == "timestamp":
        return bind_once(
            plain,
            lambda t: sql(
                "CASE WHEN strpos(t, '.') > 0 THEN trim(TRAILING '.' FROM trim(TRAILING '0' FROM"
                " t)) ELSE t END",
                t=t,
            ),
        )
    if sort in ("list", "struct", "map"):
        return call("json_format", exp.cast(value.copy(), "json"))
    if sort in ("blob", "interval", "time"):
        raise QueryError(
            f"{value.sql('duckdb')} is a {kind}, whose text differs on AWS",
            hint="do not convert it to text",
        )
    return plain


def _float_text(text: exp.Expr) -> exp.Expr:
    """Return DuckDB's text of a number from Java's.

    DuckDB's has an exponent below 0.0001 and from 10^16 on; Java's at other limits, or always.
    """
    parts = {
        "t": text,
        "sign": sql("CASE WHEN t LIKE '-%' THEN '-' ELSE '' END", t=text),
        "power": sql("CAST(regexp_extract(t, '[eE][+]?(-?[0-9]+)', 1) AS INTEGER)", t=text),
        "digits": sql(
            "trim(TRAILING '0' FROM replace(regexp_extract(t, '([0-9.]+)[eE]', 1), '.', ''))",
            t=text,
        ),
    }
    return sql(
        r"""CASE
        WHEN lower(t) LIKE '%nan%' THEN 'nan'
        WHEN lower(t) LIKE '%inf%' THEN sign || 'inf'
        WHEN NOT regexp_like(t, '[eE]') THEN t
        WHEN power BETWEEN -4 AND -1 THEN sign || '0.' || substr('000', 1, -1 - power) || digits
        WHEN power BETWEEN 0 AND 15 AND length(digits) > power + 1
            THEN sign || substr(digits, 1, power + 1) || '.' || substr(digits, power + 2)
        WHEN power BETWEEN 0 AND 15 THEN sign || rpad(digits, power + 1, '0') || '.0'
        ELSE sign || substr(digits, 1, 1)
            || CASE WHEN length(digits) > 1 THEN '.' || substr(digits, 2) ELSE '' END
            || CASE WHEN power < 0 THEN 'e-' ELSE 'e+' END
            || CASE WHEN abs(power) < 10 THEN '0' ELSE '' END || CAST(abs(power) AS VARCHAR)
        END""",
        **parts,
    )


def from_text(value: exp.Expr, kind: exp.DataType, *, lenient: bool) -> exp.Expr:
    """Return a text cast to another type. Unreadable text is NULL if `lenient`, else an error."""
    bare = value.unnest()
    if isinstance(bare, exp.Literal) and bare.is_string:
        constant = constant_of(bare.name, kind)
        if constant is not None:
            return constant
    read = _READERS.get(_kind_name(kind))
    if read is None:
        raise QueryError(
            f"{value.sql('duckdb')} as {kind.sql('duckdb')}: DuckDB and Athena read such texts"
            " differently",
            hint="give the column this type",
        )
    if _kind_name(kind) == "boolean":
        return bind_once(value, lambda text: _or_error(read(text, kind), text, kind, lenient))
    trimmed = exp.Trim(
        this=value.copy(), expression=exp.Literal.string(WHITESPACE), position="BOTH"
    )
    return bind_once(trimmed, lambda text: _or_error(read(text, kind), text, kind, lenient))


def constant_of(text: str, kind: exp.DataType) -> exp.Expr | None:
    """Return a text literal as a value of a type; None if it has none, or must be checked at run
    time.
    """
    sort, bare = _kind_name(kind), text.strip(WHITESPACE)
    if sort in ("float", "decimal") and re.fullmatch(NUMBER, bare):
        return exp.cast(exp.Literal.string(bare.replace("_", "")), kind.copy())
    if sort == "integer" and re.fullmatch(WHOLE, bare):
        return exp.cast(exp.Literal.string(bare.replace("_", "")), kind.copy())
    if sort == "boolean" and text.lower() in TRUE + FALSE:
        return exp.Boolean(this=text.lower() in TRUE)
    if sort == "blob" and bare.isalnum():  # DuckDB has escapes in such texts
        return call("to_utf8", bare)
    if sort == "blob" and not text:
        return call("to_utf8", "")
    if sort not in ("date", "timestamp"):
        return None
    found = re.fullmatch(TIME, bare)
    try:
        moment = _parse_time(found, applied=kind.this in ZONED_TYPES) if found else None
    except ValueError:
        return None
    if moment is None:
        return None
    if sort == "date":
        return exp.cast(exp.Literal.string(moment.date().isoformat()), "date")
    if moment.microsecond % 1000:
        raise QueryError(
            f"the time {text!r} is finer than a millisecond, which is Athena's precision",
            hint="round it",
        )
    return exp.cast(exp.Literal.string(moment.isoformat(" ", "milliseconds")), "timestamp")


ZONED_TYPES = (exp.DataType.Type.TIMESTAMPTZ, exp.DataType.Type.TIMESTAMPLTZ)
TIMESTAMP_TYPES = (*ZONED_TYPES, exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPNTZ)


def _kind_name(kind: exp.DataType) -> str:
    """Return the kind of a type in a cast."""
    name = kind.sql("duckdb")
    return (
        "timestamp"
        if kind.this in TIMESTAMP_TYPES
        else kind_of_type({"INT": "INTEGER", "REAL": "FLOAT", "TEXT": "VARCHAR"}.get(name, name))
    )


def _parse_time(found: re.Match[str], *, applied: bool) -> dt.datetime:
    """Return the time that a text denotes, in UTC if its offset is `applied`.

    Raises:
        ValueError: there is no such time.
    """
    year, day = int(found[YEAR]), int(found[DAY_OF_MONTH])
    month = int(found[MONTH] or found[MONTH_2] or found[MONTH_3])
    hour, minute, second = [*(found[CLOCK] or "0:0").split(":"), "0"][:3]
    whole, _, fraction = second.partition(".")
    moment = dt.datetime(
        year, month, day, int(hour), int(minute), int(whole), int(fraction[:6].ljust(6, "0"))
    )
    if not applied or not found[HOURS]:
        return moment
    minutes = 60 * int(found[HOURS][1:]) + int(found[MINUTES] or 0)
    return moment - dt.timedelta(minutes=minutes if found[HOURS][0] == "+" else -minutes)


def _or_error(read: exp.Case, text: exp.Expr, kind: exp.DataType, lenient: bool) -> exp.Expr:
    """Return the value that was read; if there is none, NULL, or an error with the text."""
    if not lenient:
        read.append(
            "ifs",
            exp.If(
                this=sql("t IS NOT NULL", t=text),
                true=exp.cast(sql("'cannot be read: ' || t", t=text), _athena_type(kind)),
            ),
        )
    return read


def _athena_type(kind: exp.DataType) -> exp.DataType:
    return exp.DataType.build("timestamp") if kind.this in TIMESTAMP_TYPES else kind.copy()


def _like(pattern: str) -> str:
    return "regexp_like(t, '\\A(?:" + pattern + ")\\z')"


def _case(text: exp.Expr, *whens: tuple[str, str], **values: exp.Expr) -> exp.Case:
    made = sql(
        "CASE " + " ".join(f"WHEN {condition} THEN {value}" for condition, value in whens) + " END",
        t=text,
        **values,
    )
    assert isinstance(made, exp.Case)
    return made


def _float(text: exp.Expr, kind: exp.DataType) -> exp.Case:
    name = "REAL" if kind.this == exp.DataType.Type.FLOAT else "DOUBLE"
    special = [
        ("[+-]?(?i:nan)", "nan()"),
        ("[+]?(?i:inf(?:inity)?)", "infinity()"),
        ("-(?i:inf(?:inity)?)", "-infinity()"),
    ]
    return _case(
        text,
        (_like(NUMBER), f"TRY_CAST(replace(t, '_', '') AS {name})"),
        *((_like(texts), f"CAST({value} AS {name})") for texts, value in special),
    )


def _integer(text: exp.Expr, kind: exp.DataType) -> exp.Case:
    name = kind.sql("athena")
    return _case(
        text,
        (_like(WHOLE), f"TRY_CAST(replace(t, '_', '') AS {name})"),
        (
            _like(NUMBER),
            f"TRY_CAST(round(TRY_CAST(replace(t, '_', '') AS DECIMAL(38, 18))) AS {name})",
        ),
    )


def _decimal(text: exp.Expr, kind: exp.DataType) -> exp.Case:
    return _case(text, (_like(NUMBER), f"TRY_CAST(replace(t, '_', '') AS {kind.sql('athena')})"))


def _boolean(text: exp.Expr, _: exp.DataType) -> exp.Case:
    return _case(
        text,
        *(
            (f"lower(t) IN ({', '.join(map(repr, texts))})", value)
            for texts, value in ((TRUE, "TRUE"), (FALSE, "FALSE"))
        ),
    )


def _day(text: exp.Expr) -> exp.Expr:
    """Return the day in a text, as YYYY-MM-DD."""
    month, day = (
        rf"lpad(regexp_extract(t, '\A[0-9]{{4}}[-/ ]{skipped}([0-9]{{1,2}})', 1), 2, '0')"
        for skipped in ("", "[0-9]{1,2}[-/ ]")
    )
    return sql(f"concat(substr(t, 1, 4), '-', {month}, '-', {day})", t=text)


def _date(text: exp.Expr, _: exp.DataType) -> exp.Case:
    return _case(text, (_like(TIME), "TRY_CAST(day AS DATE)"), day=_day(text))


def _timestamp(text: exp.Expr, kind: exp.DataType) -> exp.Case:
    clock = sql(f"coalesce(nullif(regexp_extract(t, '{TIME}', {CLOCK}), ''), '00:00')", t=text)
    stamp = sql("TRY_CAST(day || ' ' || clock AS TIMESTAMP)", day=_day(text), clock=clock)
    if kind.this not in ZONED_TYPES:
        return _case(text, (_like(TIME), "stamp"), stamp=stamp)
    hours = sql(f"nullif(regexp_extract(t, '{TIME}', {HOURS}), '')", t=text)
    minutes = sql(
        f"coalesce(TRY_CAST(nullif(regexp_extract(t, '{TIME}', {MINUTES}), '') AS BIGINT), 0)",
        t=text,
    )
    moved = sql(
        "date_add('minute', CASE WHEN hours LIKE '-%' THEN minutes - 60 * CAST(hours AS BIGINT)"
        " ELSE -60 * CAST(hours AS BIGINT) - minutes END, stamp)",
        hours=hours,
        minutes=minutes,
        stamp=stamp,
    )
    return _case(
        text,
        (_like(TIME) + " AND hours IS NOT NULL", "moved"),
        (_like(TIME), "stamp"),
        hours=hours,
        moved=moved,
        stamp=stamp,
    )


_READERS: dict[str, Callable[[exp.Expr, exp.DataType], exp.Case]] = {
    "float": _float,
    "integer": _integer,
    "decimal": _decimal,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
}


def _parenthesised(value: exp.Expr) -> exp.Expr:
    """Return a value for use inside another expression: a copy of one that has a parent."""
    loose = isinstance(
        value, exp.Binary | exp.Connector | exp.Not | exp.Neg | exp.Between | exp.Is | exp.In
    ) and not isinstance(value, exp.Dot)
    free = _free(value)
    return exp.paren(free, copy=False) if loose else free


def _to_expression(argument: exp.Expr | str | int) -> exp.Expr:
    if isinstance(argument, exp.Expr):
        return _free(argument)
    return (
        exp.Literal.string(argument) if isinstance(argument, str) else exp.Literal.number(argument)
    )


def _free(value: exp.Expr) -> exp.Expr:
    """Return a value that is no part of an expression: itself, or else a copy."""
    return value if value.parent is None else value.copy()
