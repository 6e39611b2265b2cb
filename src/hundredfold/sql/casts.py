"""SQL for casts of raw values to the types of a contract, and for the values that a cast loses.

A value that a cast would change, such as 1.5 in a column of integers, is not a value of its column.
"""

from __future__ import annotations

import pyarrow as pa

from ..contract import Column, literal
from ..sql_types import NUMBER_TYPES, sql_type

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
# a fraction that is cut off, or a 24:00 that belongs to the next day
FINER_TIME = r"[.]\d{6}\d*[1-9]|[T ]24:"
JSON_TEXT = r'"([^"\\]|\\.)*"'
FIRST_DAY, LAST_DAY = "DATE '0001-01-01'", "DATE '9999-12-31'"
FIRST_MOMENT = "TIMESTAMP '0001-01-01 00:00:00'"


def is_lossless(found: pa.DataType, wanted: pa.DataType) -> bool:
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


def cast_value(expression: str, column: Column, found: pa.DataType | None) -> str:
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
        value = cast_value(x, _value_column(kind.value_type), None)
        return f"list_transform({values}, lambda {x}: {value})"
    key, item = (
        cast_value(f"{x}.key", _value_column(kind.key_type), None),
        cast_value(f"{x}.value", _value_column(kind.item_type), None),
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
        (
            part,
            cast_failure(_value_column(inner), x, cast_value(x, _value_column(inner), None), None),
        )
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


def cast_failure(column: Column, raw: str, cast: str, found: pa.DataType | None) -> str:
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


def _sql_type_of(kind: pa.DataType) -> str:
    """Return the SQL type of an Arrow type of numbers, or of lists and maps without structs; "" for
    all others.
    """
    t = pa.types
    if t.is_decimal(kind) or str(kind) in NUMBER_TYPES:
        return sql_type(kind)
    nested = t.is_list(kind) or t.is_large_list(kind) or t.is_map(kind)
    try:
        found = sql_type(kind) if nested else ""
    except KeyError:
        return ""
    return "" if "STRUCT(" in found else found


def _unless_same_text(cast: str, text: str, bad: str) -> str:
    return f"CASE WHEN {_written(cast)} = {text} THEN FALSE ELSE {bad} END"


def _written(value: str) -> str:
    return f"CAST({value} AS VARCHAR)"


def _like(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {literal(pattern)})"


def _contains(text: str, pattern: str) -> str:
    return f"regexp_matches({text}, {literal(pattern)})"


def describe_type(column: Column) -> str:
    """Return the description of a valid value of a column."""
    if pa.types.is_decimal(column.arrow):
        return f"a decimal of at most {column.arrow.scale} places"
    if pa.types.is_list(column.arrow):
        return f"a list, each value {describe_type(_value_column(column.arrow.value_type))}"
    if pa.types.is_map(column.arrow):
        return f"an object, each value {describe_type(_value_column(column.arrow.item_type))}"
    return DESCRIPTIONS.get(column.sql_type, column.sql_type)
