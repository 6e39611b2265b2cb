"""Arrow columns as NumPy arrays and back, by ways that import neither pandas nor pyarrow.compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

UNIT = "__unit"  # the column of a batch that tells each row's unit
Array = NDArray[Any]


def nulls_of(values: pa.Array) -> NDArray[np.bool_]:
    return numpy_of(values.is_null(), False)


def numpy_of(column: pa.Array | pa.ChunkedArray, nullable: bool) -> Array:
    """A column as a NumPy array, by the rules of Unit. `nullable`: whether a null may be anywhere in the data set, so that
    the type does not depend on which rows lie in this batch."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    t, kind = pa.types, values.type
    if t.is_dictionary(kind):
        return _decoded(values)
    if t.is_boolean(kind):
        return np.array(values.to_pylist(), object) if nullable else _view(values.cast(pa.uint8()), np.dtype(np.uint8)).astype(bool)
    if t.is_integer(kind) or t.is_floating(kind):
        dtype = np.dtype({"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(kind), str(kind)))
        array = _view(values, dtype)
        if values.null_count:
            array = array.astype(np.float64 if t.is_integer(kind) else dtype)
            array[nulls_of(values)] = np.nan
        elif nullable and t.is_integer(kind):
            array = array.astype(np.float64)
        return array
    if t.is_timestamp(kind) or t.is_date32(kind) or t.is_duration(kind):
        return _times(values)
    if t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind):
        return _decoded(values.dictionary_encode())
    out = np.empty(len(values), object)
    out[:] = [np.array(v) if isinstance(v, list) and not t.is_map(kind) else v for v in values.to_pylist()] if len(values) else []
    return out


def _times(values: pa.Array) -> Array:
    kind = values.type
    if pa.types.is_date32(kind):
        array = _view(values, np.dtype(np.int32)).astype(np.int64).view("datetime64[D]")
    else:
        array = _view(values, np.dtype(np.int64)).view(f"{'timedelta64' if pa.types.is_duration(kind) else 'datetime64'}[{kind.unit}]")
    if values.null_count:
        array = array.copy()
        array[nulls_of(values)] = "NaT"
    return array


def _decoded(values: pa.DictionaryArray) -> Array:
    words = np.empty(len(values.dictionary) + 1, object)  # the last one stands for null
    words[:-1] = values.dictionary.to_pylist()
    indices = values.indices.fill_null(len(values.dictionary)) if values.null_count else values.indices
    return words.take(numpy_of(indices.cast(pa.int64()), False))


def _view(values: pa.Array, dtype: np.dtype[Any]) -> Array:
    """The values' own memory (pyarrow's to_numpy would import pandas)."""
    buffer = values.buffers()[1]
    if buffer is None or len(values) == 0:
        return np.zeros(len(values), dtype)
    return np.frombuffer(buffer, dtype, len(values), values.offset * dtype.itemsize)


def from_numpy(array: NDArray[Any]) -> pa.Array:
    """An Arrow array over a NumPy array of numbers, without a copy and without importing pandas."""
    array = np.ascontiguousarray(array)
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), [None, pa.py_buffer(array)])


def taken(values: pa.Array, places: NDArray[Any]) -> pa.Array:
    """What values.take(places) gives. Plain kinds go around it, since it imports pyarrow.compute, which takes a twentieth of a second."""
    t, kind = pa.types, values.type
    if values.null_count == 0 and len(values) and (t.is_integer(kind) or t.is_floating(kind) or t.is_temporal(kind)):
        moved = _view(values, np.dtype(f"V{kind.bit_width // 8}")).take(places)
        return pa.Array.from_buffers(kind, len(moved), [None, pa.py_buffer(moved)])
    if values.null_count == 0 and t.is_string(kind) and len(values) < len(places):
        words = [word.encode() for word in values.to_pylist()]
        longest = max(map(len, words), default=0)
        if longest <= 32:
            return spelled(words, places)
    return values.take(from_numpy(places))


def spelled(words: Sequence[bytes], places: NDArray[Any]) -> pa.Array:
    """A column of a few short words, each many times."""
    longest = max(map(len, words), default=0)
    letters = np.frombuffer(b"".join(word.ljust(longest) for word in words), np.uint8).reshape(len(words), longest)
    lengths = np.array([len(word) for word in words])
    ends = np.zeros(len(places) + 1, np.int32)
    np.cumsum(lengths.take(places), out=ends[1:])
    text = letters.take(places, axis=0)[np.arange(longest) < lengths.take(places)[:, None]]
    return pa.Array.from_buffers(pa.string(), len(places), [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(text))])


def to_pandas(table: pa.Table, nullable: frozenset[str]) -> Any:
    """A pandas frame whose column types depend on the whole data set's nulls, never on this batch's."""
    for position, field in enumerate(table.schema):
        if field.name in nullable and pa.types.is_integer(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.float64(), safe=False))
    frame = table.to_pandas()
    for field in table.schema:
        if field.name in nullable and pa.types.is_boolean(field.type):
            frame[field.name] = frame[field.name].astype(object)
    return frame
