"""The number of bytes that rows and values take, determined without copying them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .numpy_columns import null_mask, to_numpy
from .ordered_collections import COLLECTION_TYPES

OBJECT_BYTES = 64  # estimate for a value of any other type
DICT_BYTES = 232  # estimate for a small dict
_OFFSET_BYTES = 4  # of a value beside its content: the offset at which it begins
SAMPLED_ELEMENTS = 16  # of a list of Python values


def row_bytes(rows: pa.RecordBatch | pa.Table) -> NDArray[np.int64]:
    """Return how many bytes each row takes in Arrow, by its values alone; shape (rows,)."""
    size = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        size += _value_bytes(column)
    return size


def _value_bytes(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Return how many bytes each value takes; a null counts as an empty value."""
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
    size = _variable_bytes(column)
    if column.null_count and not t.is_dictionary(kind):
        size[null_mask(column)] = _OFFSET_BYTES
    return size


def _variable_bytes(column: pa.Array) -> NDArray[np.int64]:
    """Return how many bytes values of variable length take, including _OFFSET_BYTES for each."""
    t, kind = pa.types, column.type
    if t.is_string(kind) or t.is_binary(kind) or t.is_large_string(kind) or t.is_large_binary(kind):
        return (
            _lengths(column, np.int32 if t.is_string(kind) or t.is_binary(kind) else np.int64)
            + _OFFSET_BYTES
        )
    if t.is_list(kind) or t.is_large_list(kind) or t.is_map(kind):
        inner = (
            _value_bytes(column.values)
            if not t.is_map(kind)
            else row_bytes(pa.RecordBatch.from_arrays([column.keys, column.items], ["k", "v"]))
        )
        ends = np.concatenate([[0], np.cumsum(inner)])
        offsets = to_numpy(column.offsets, False)
        return (
            ends.take(offsets[1:]) - ends.take(offsets[:-1]) + _OFFSET_BYTES
            if len(column)
            else np.zeros(0, np.int64)
        )
    if t.is_struct(kind):
        size = np.full(len(column), _OFFSET_BYTES, np.int64)
        for field in column.flatten():
            size += _value_bytes(field)
        return size
    if t.is_fixed_size_list(kind):
        size = np.full(len(column), _OFFSET_BYTES, np.int64)
        size += (
            _value_bytes(
                column.values.slice(column.offset * kind.list_size, len(column) * kind.list_size)
            )
            .reshape(len(column), kind.list_size)
            .sum(axis=1)
        )
        return size
    if t.is_dictionary(kind):
        sizes = np.append(_value_bytes(column.dictionary), _OFFSET_BYTES)
        return sizes.take(
            to_numpy(column.indices.cast(pa.int64()).fill_null(len(sizes) - 1), False)
        )
    return np.full(len(column), OBJECT_BYTES, np.int64)


def _lengths(column: pa.Array, offset: Any) -> NDArray[np.int64]:
    """Return the length of each text in bytes, from its offsets."""
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros(len(column), np.int64)
    ends = np.frombuffer(buffer, offset, len(column) + 1, column.offset * np.dtype(offset).itemsize)
    return np.diff(ends).astype(np.int64)


def python_bytes(column: pa.Array | pa.ChunkedArray) -> int:
    """Return about how many bytes a column's values take as Python objects."""
    if isinstance(column, pa.ChunkedArray):
        return sum(map(python_bytes, column.chunks))
    t, kind = pa.types, column.type
    if t.is_struct(kind):
        return DICT_BYTES * len(column) + sum(map(python_bytes, column.flatten()))
    if (t.is_list(kind) or t.is_large_list(kind)) and (
        t.is_integer(kind.value_type) or t.is_floating(kind.value_type)
    ):
        return OBJECT_BYTES * len(column) + int(column.flatten().nbytes)  # as arrays
    if t.is_map(kind):
        return (
            OBJECT_BYTES * len(column)
            + OBJECT_BYTES * len(column.keys)
            + python_bytes(column.keys)
            + python_bytes(column.items)
        )
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return OBJECT_BYTES * len(column) + python_bytes(column.flatten())
    return OBJECT_BYTES * len(column) + int(column.nbytes)


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
    if isinstance(value, COLLECTION_TYPES):
        return _elements_bytes(list(value))
    return OBJECT_BYTES


def _elements_bytes(values: list[Any] | tuple[Any, ...]) -> int:
    if len(values) <= SAMPLED_ELEMENTS:
        return 4 + sum(map(value_bytes, values))
    step = len(values) // SAMPLED_ELEMENTS
    some = values[::step]
    return 4 + sum(map(value_bytes, some)) * len(values) // len(some)
