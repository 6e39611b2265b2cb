"""Rows of a release as items of DynamoDB: exact, or refused with the row.

    text          S, the empty text too
    boolean       BOOL
    integer       N
    decimal       N, up to 38 digits
    float         N, the shortest number that is the same float again; NaN and infinity are refused
    date, time    S: ISO 8601, with microseconds if there are any; with a time zone in UTC
    binary        B
    list, struct  L, M
    null          no attribute; inside of a list or a struct, NULL

DynamoDB keeps 38 digits, from 1E-130 to 9.99E+125; a value outside is refused. -0.0 becomes 0.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from typing import Any, TypeAlias

import pyarrow as pa

Attribute: TypeAlias = dict[str, Any]
Item: TypeAlias = dict[str, Attribute]
MAX_ITEM_BYTES, MAX_KEY_BYTES = 400 * 1024, (2048, 1024)
MAX_DIGITS, MIN_EXPONENT, MAX_EXPONENT = 38, -130, 125
_WIDE = Context(prec=100)  # more digits than any decimal of Arrow: it rounds nothing
SOURCE, ORDER, RELEASE, RUN = "hf_source", "hf_order", "hf_release", "hf_run"
REMOVED, EXPIRES = "hf_removed", "hf_expires"
OWN_NAMES = frozenset({SOURCE, ORDER, RELEASE, RUN, REMOVED, EXPIRES})


class NoItem(ValueError):
    """A value or a row that DynamoDB cannot hold exactly. Its text is the reason."""


def to_items(rows: pa.Table) -> Iterator[tuple[Item, str]]:
    """Yield each row as an item with "", or as far as it can be one, with the reason against it."""
    converted: list[tuple[str, list[Any]]] = []
    refused = ""
    for name in rows.column_names:
        try:
            converted.append((name, _values(rows.column(name))))
        except NoItem as error:
            refused = refused or f"{name}: {error}"
    for number in range(rows.num_rows):
        item: Item = {}
        reason = refused
        for name, values in converted:
            value = values[number]
            if value is None:
                continue
            try:
                item[name] = to_attribute(value)
            except NoItem as error:
                reason = reason or f"{name}: {error}"
        yield item, reason


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as Python objects."""
    _refuse_types(column.type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        column = column.cast(pa.float64())
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError) as error:  # nanoseconds, years after 9999
        raise NoItem(f"a value of type {column.type} has no text without loss: {error}") from None


def _refuse_types(type_: pa.DataType) -> None:
    if pa.types.is_duration(type_) or pa.types.is_map(type_) or pa.types.is_interval(type_):
        raise NoItem(f"the type {type_} has no counterpart: convert it in the query")
    if (pa.types.is_timestamp(type_) or pa.types.is_time64(type_)) and type_.unit == "ns":
        raise NoItem(f"the type {type_} has nanoseconds: convert it to microseconds in the query")
    for number in range(type_.num_fields):
        _refuse_types(type_.field(number).type)


def to_attribute(value: Any) -> Attribute:
    """Return a value as DynamoDB's JSON. Raises: NoItem."""
    convert = _CONVERSIONS.get(type(value))
    if convert is None:
        raise NoItem(f"a value of type {type(value).__name__} has no counterpart")
    return convert(value)


def number_text(value: Decimal) -> str:
    """Return a number as DynamoDB accepts it. Raises: NoItem if it is out of range."""
    if not value.is_finite():
        raise NoItem(f"{value} is no number of DynamoDB")
    value = value.normalize(_WIDE)
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    if not any(digits):
        return "0"
    if len(digits) > MAX_DIGITS:
        raise NoItem(f"{value} has {len(digits)} digits, DynamoDB keeps {MAX_DIGITS}")
    if not MIN_EXPONENT <= len(digits) - 1 + exponent <= MAX_EXPONENT:
        raise NoItem(f"{value} is outside of 1E{MIN_EXPONENT} to 9.99E+{MAX_EXPONENT}")
    return str(value)


def _float(value: float) -> Attribute:
    if not math.isfinite(value):
        raise NoItem(f"{value} is no number of DynamoDB")
    return {"N": number_text(Decimal(repr(value)))}


def _time(value: dt.datetime) -> Attribute:
    if value.tzinfo is not None:
        return {"S": value.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"}
    return {"S": value.isoformat()}


def _list(values: Sequence[Any]) -> Attribute:
    return {"L": [{"NULL": True} if v is None else to_attribute(v) for v in values]}


def _map(values: Mapping[str, Any]) -> Attribute:
    return {"M": {k: {"NULL": True} if v is None else to_attribute(v) for k, v in values.items()}}


_CONVERSIONS: dict[type, Callable[[Any], Attribute]] = {
    str: lambda value: {"S": value},
    bool: lambda value: {"BOOL": value},
    int: lambda value: {"N": number_text(Decimal(value))},
    float: _float,
    Decimal: lambda value: {"N": number_text(value)},
    bytes: lambda value: {"B": value},
    uuid.UUID: lambda value: {"S": str(value)},
    dt.date: lambda value: {"S": value.isoformat()},
    dt.time: lambda value: {"S": value.isoformat()},
    dt.datetime: _time,
    list: _list,
    dict: _map,
}


def refusal(item: Item, key: Sequence[str], types: Mapping[str, str]) -> str:
    """Return why DynamoDB would refuse an item, "" if it does not.

    types: S, N or B of each key attribute.
    """
    for name, most in zip(key, MAX_KEY_BYTES, strict=False):
        if name not in item:
            return f"{name} is null, and it is a key of the table"
        kind = next(iter(item[name]))
        if kind != types[name]:
            return f"{name} is {kind}, and the key of the table is {types[name]}"
        size = value_bytes(item[name])
        if kind != "N" and not size:
            return f"{name} is empty, and it is a key of the table"
        if size > most:
            return f"{name} has {size:,} bytes, a key has at most {most:,}"
    size = item_bytes(item)
    return (
        f"the item has {size:,} bytes, at most {MAX_ITEM_BYTES:,}" if size > MAX_ITEM_BYTES else ""
    )


def item_bytes(item: Mapping[str, Attribute]) -> int:
    """Return the size of an item, as DynamoDB counts it, never less."""
    return sum(len(name.encode()) + value_bytes(value) for name, value in item.items())


def value_bytes(attribute: Attribute) -> int:
    """Return the size of an attribute's value."""
    ((kind, value),) = attribute.items()
    match kind:
        case "S":
            return len(value.encode())
        case "B":
            return len(value)
        case "N":
            return (len(value) + 1) // 2 + 2
        case "L":
            return 3 + sum(1 + value_bytes(each) for each in value)
        case "M":
            return 3 + len(value) + item_bytes(value)
        case _:
            return 1


def key_text(item: Item, key: Sequence[str]) -> str:
    """Return the key of an item, for messages."""
    return ", ".join(f"{name}={next(iter(item[name].values()))!r}" for name in key if name in item)
