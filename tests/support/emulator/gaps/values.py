"""Values as Athena writes them: texts of a result's fields, and its CSV file.

Every field is quoted except NULL, which is nothing between two commas; an empty string is `""`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

Text = str | None


def texts(column: pa.ChunkedArray) -> list[Text]:
    """Return a column's values as Athena prints them; None for NULL."""
    text = text_of(column.type)
    return [None if value is None else text(value) for value in column.to_pylist()]


def text_of(kind: pa.DataType) -> Callable[[Any], str]:
    """Return the formatter for values of this type."""
    if pa.types.is_boolean(kind):
        return lambda value: "true" if value else "false"
    if pa.types.is_float64(kind):
        return java_double
    if pa.types.is_float32(kind):
        return java_float
    if pa.types.is_decimal(kind):
        return lambda value: f"{value:.{kind.scale}f}"
    if pa.types.is_timestamp(kind):
        zone = " UTC" if kind.tz else ""
        return lambda value: (
            value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03d}{zone}"
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return lambda value: value.hex(" ")
    if pa.types.is_list(kind):
        return lambda value: f"[{', '.join(_inner(item, kind.value_type) for item in value)}]"
    if pa.types.is_map(kind):
        return lambda value: _braces(
            f"{_inner(k, kind.key_type)}={_inner(v, kind.item_type)}" for k, v in value
        )
    if pa.types.is_struct(kind):
        return lambda value: _braces(
            f"{field.name}={_inner(value[field.name], field.type)}" for field in kind
        )
    return str


def _braces(entries: Iterable[str]) -> str:
    return f"{{{', '.join(entries)}}}"


def java_double(value: float) -> str:
    """Format as Java's Double.toString: the shortest digits that read back exactly, an exponent
    below 0.001 and from ten million on.
    """
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "-0.0" if str(value).startswith("-") else "0.0"
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).rstrip("0") or "0"
    point = len(digits) + exponent  # position of the decimal point, counted from the first digit
    minus = "-" if sign else ""
    if not 1e-3 <= abs(value) < 1e7:
        return f"{minus}{text[0]}.{text[1:] or '0'}E{point - 1}"
    if point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    return f"{minus}{text[:point].ljust(point, '0')}.{text[point:] or '0'}"


def java_float(value: float) -> str:
    """Format 32-bit values: fewer digits already read back exactly."""
    if value != value or value in (float("inf"), float("-inf")):
        return java_double(value)
    shortest = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return java_double(next(short for short in shortest if _float32(short) == value))


def csv(names: Sequence[str], rows: Iterable[Sequence[Text]]) -> bytes:
    """Return a result file: a line of names, then a line for each row."""
    lines = [
        ",".join("" if field is None else '"' + field.replace('"', '""') + '"' for field in row)
        for row in (names, *rows)
    ]
    return ("\n".join(lines) + "\n").encode()


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float("inf")


def _inner(value: Any, kind: pa.DataType) -> str:
    return "null" if value is None else text_of(kind)(value)
