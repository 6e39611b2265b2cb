"""How many bytes rows and values take, counted without copying them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .arrays import nulls_of, numpy_of
from .members import COLLECTIONS

OBJECT = 64  # bytes, about, of a value of a kind that is not looked into
DICT = 232  # bytes, about, of a small dict
_EMPTY = 4  # bytes of a value beside what it holds: where it begins
ELEMENTS = 16  # of a list of Python values that are looked at


def row_bytes(rows: pa.RecordBatch | pa.Table) -> NDArray[np.int64]:
    """Return how many bytes each row takes in Arrow, shape (rows,). It depends on the values alone, not on how they are stored."""
    size = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        size += _value_bytes(column)
    return size


def _value_bytes(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Return how many bytes each value takes; a null what an empty value takes, whatever is stored under it."""
    if isinstance(column, pa.ChunkedArray):
        return np.concatenate([np.zeros(0, np.int64), *map(_value_bytes, column.chunks)])
    t, kind = pa.types, column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _value_bytes(column.storage)
    if t.is_boolean(kind) or t.is_null(kind):
        return np.ones(len(column), np.int64)
    if t.is_primitive(kind) or t.is_decimal(kind) or t.is_fixed_size_binary(kind):
        return np.full(len(column), kind.bit_width // 8, np.int64)
    if t.is_run_end_encoded(kind) or t.is_string_view(kind) or t.is_binary_view(kind):
        plain = (
            kind.value_type
            if t.is_run_end_encoded(kind)
            else pa.string()
            if t.is_string_view(kind)
            else pa.binary()
        )
        return _value_bytes(column.cast(plain))
    size = _varied_bytes(column)
    if column.null_count and not t.is_dictionary(kind):
        size[nulls_of(column)] = _EMPTY
    return size


def _varied_bytes(column: pa.Array) -> NDArray[np.int64]:
    """Return how many bytes the values of a type take whose values differ in length, and _EMPTY for each."""
    t, kind = pa.types, column.type
    if t.is_string(kind) or t.is_binary(kind) or t.is_large_string(kind) or t.is_large_binary(kind):
        return (
            _lengths(column, np.int32 if t.is_string(kind) or t.is_binary(kind) else np.int64)
            + _EMPTY
        )
    if t.is_list(kind) or t.is_large_list(kind) or t.is_map(kind):
        inner = (
            _value_bytes(column.values)
            if not t.is_map(kind)
            else row_bytes(pa.RecordBatch.from_arrays([column.keys, column.items], ["k", "v"]))
        )
        ends = np.concatenate([[0], np.cumsum(inner)])
        offsets = numpy_of(column.offsets, False)
        return (
            ends.take(offsets[1:]) - ends.take(offsets[:-1]) + _EMPTY
            if len(column)
            else np.zeros(0, np.int64)
        )
    if t.is_struct(kind):
        size = np.full(len(column), _EMPTY, np.int64)
        for field in column.flatten():
            size += _value_bytes(field)
        return size
    if t.is_fixed_size_list(kind):
        size = np.full(len(column), _EMPTY, np.int64)
        size += (
            _value_bytes(
                column.values.slice(column.offset * kind.list_size, len(column) * kind.list_size)
            )
            .reshape(len(column), kind.list_size)
            .sum(axis=1)
        )
        return size
    if t.is_dictionary(kind):
        words = np.append(_value_bytes(column.dictionary), _EMPTY)
        return words.take(
            numpy_of(column.indices.cast(pa.int64()).fill_null(len(words) - 1), False)
        )
    return np.full(len(column), OBJECT, np.int64)


def _lengths(column: pa.Array, offset: Any) -> NDArray[np.int64]:
    """Return the length in bytes of each text, from where it begins and ends in the column's memory."""
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros(len(column), np.int64)
    ends = np.frombuffer(buffer, offset, len(column) + 1, column.offset * np.dtype(offset).itemsize)
    return np.diff(ends).astype(np.int64)


def objects_bytes(column: pa.Array | pa.ChunkedArray) -> int:
    """Return about how many bytes a column's values take as Python's own."""
    if isinstance(column, pa.ChunkedArray):
        return sum(map(objects_bytes, column.chunks))
    t, kind = pa.types, column.type
    if t.is_struct(kind):
        return DICT * len(column) + sum(map(objects_bytes, column.flatten()))
    if (t.is_list(kind) or t.is_large_list(kind)) and (
        t.is_integer(kind.value_type) or t.is_floating(kind.value_type)
    ):
        return OBJECT * len(column) + int(column.flatten().nbytes)  # as arrays
    if t.is_map(kind):
        return (
            OBJECT * len(column)
            + OBJECT * len(column.keys)
            + objects_bytes(column.keys)
            + objects_bytes(column.items)
        )
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return OBJECT * len(column) + objects_bytes(column.flatten())
    return OBJECT * len(column) + int(column.nbytes)


def value_bytes(value: Any) -> int:
    """Return about how many bytes a value that a function returned takes in a column."""
    if value is None or isinstance(value, float | int):
        return 8
    if isinstance(value, str | bytes):
        return len(value) + 4
    if isinstance(value, np.ndarray):
        return (
            int(value.nbytes) if value.dtype != object else _elements_bytes(value.ravel().tolist())
        )
    if isinstance(value, list | tuple):
        return _elements_bytes(value)
    if isinstance(value, Mapping):
        return sum(map(value_bytes, value.values()))
    if isinstance(value, COLLECTIONS):
        return _elements_bytes(list(value))
    return OBJECT


def _elements_bytes(values: list[Any] | tuple[Any, ...]) -> int:
    if len(values) <= ELEMENTS:
        return 4 + sum(map(value_bytes, values))
    step = len(values) // ELEMENTS
    some = values[::step]
    return 4 + sum(map(value_bytes, some)) * len(values) // len(some)
