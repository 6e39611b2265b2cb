"""Conversion of Arrow columns to NumPy arrays and back, without importing pandas or
pyarrow.compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MAX_SHARED_TEXT_BYTES = 64  # on average: equal texts that are longer are not made one object
MAX_EXACT_INTEGER = 2**53  # float64 holds every integer up to it
UNIT = "__unit"  # the column of a batch with the number of each row's unit
Array = NDArray[Any]


def null_mask(values: pa.Array) -> NDArray[np.bool_]:
    return to_numpy(values.is_null(), False)


def to_numpy(column: pa.Array | pa.ChunkedArray, nullable: bool, large: bool = False) -> Array:
    """Return a column as a NumPy array, by the rules of Unit.

    nullable: whether the data set has a null anywhere in this column. large: whether it also has an
    integer there that float64 cannot hold.

    So the type does not depend on which rows are in this batch.
    """
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    t, kind = pa.types, values.type
    if t.is_dictionary(kind):
        return _decode_dictionary(values)
    if t.is_boolean(kind):
        return (
            _to_objects(values)
            if nullable or values.null_count
            else buffer_numbers(values.cast(pa.uint8()), np.dtype(np.uint8)).astype(bool)
        )
    if t.is_integer(kind):
        if not (nullable or values.null_count):
            return buffer_numbers(values, np.dtype(str(kind)))
        return _to_objects(values) if large or has_large(values) else _to_floats(values)
    if t.is_floating(kind):
        dtype = np.dtype(
            {"double": "float64", "float": "float32", "halffloat": "float16"}[str(kind)]
        )
        array = buffer_numbers(values, dtype)
        return (
            np.where(null_mask(values), dtype.type(np.nan), array) if values.null_count else array
        )
    if t.is_timestamp(kind) or t.is_date32(kind) or t.is_duration(kind):
        return _to_times(values)
    if (
        t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind)
    ) and values.nbytes <= MAX_SHARED_TEXT_BYTES * len(values):
        # equal texts become one object; long ones would be copied twice more
        return _decode_dictionary(values.dictionary_encode())
    if (t.is_list(kind) or t.is_large_list(kind)) and (
        t.is_integer(kind.value_type) or t.is_floating(kind.value_type)
    ):
        return _to_number_lists(values)
    return _to_objects(values)


def has_large(values: pa.Array) -> bool:
    """Return whether there is an integer beyond 2**53, which floats would change."""
    if (
        not pa.types.is_integer(values.type)
        or values.type.bit_width < 64
        or values.null_count == len(values)
    ):
        return False
    numbers = buffer_numbers(values, np.dtype(str(values.type)))
    if values.null_count:
        numbers = numbers[~null_mask(values)]
    return bool(numbers.max() > MAX_EXACT_INTEGER or numbers.min() < -MAX_EXACT_INTEGER)


def _to_floats(values: pa.Array) -> Array:
    array = buffer_numbers(values, np.dtype(str(values.type))).astype(np.float64)
    if values.null_count:
        array[null_mask(values)] = np.nan
    return array


def _to_number_lists(values: pa.Array) -> Array:
    """Return arrays of numbers, None for a null: _to_objects without an object for each number."""
    inner = values.values
    if inner.null_count:
        return _to_objects(values)
    numbers = to_numpy(inner, False)
    numbers = numbers.astype(np.float64) if pa.types.is_floating(inner.type) else numbers
    out = np.empty(len(values), object)
    ends, there = to_numpy(values.offsets, False).tolist(), (~null_mask(values)).tolist()
    for position, (first, last, valid) in enumerate(zip(ends, ends[1:], there, strict=False)):
        out[position] = numbers[first:last].copy() if valid else None
    return out


def _to_objects(values: pa.Array) -> Array:
    """Return Python values: None for a null, an array for a list.

    Raises:
        ValueError: a time of day has digits that Python would cut.
    """
    check_time_precision(values)
    inner = (
        getattr(values.type, "value_type", None)
        if pa.types.is_nested(values.type) and not pa.types.is_map(values.type)
        else None
    )
    found = values.to_pylist()
    out = np.empty(len(values), object)
    for position, value in enumerate(found):
        out[position] = (
            _list_to_array(value, inner) if isinstance(value, list) and inner is not None else value
        )
    return out


def check_time_precision(values: pa.Array) -> None:
    """Raise ValueError for a time of day finer than a microsecond, which Arrow silently cuts for
    Python.

    Times in lists and structs are checked too.
    """
    kind = values.type
    if pa.types.is_time64(kind):
        if kind.unit == "ns":
            numbers = buffer_numbers(values, np.dtype(np.int64))
            finer = (
                (numbers % 1000 != 0) & ~null_mask(values)
                if values.null_count
                else numbers % 1000 != 0
            )
            if finer.any():
                raise ValueError(
                    f"{values[int(finer.argmax())].cast(pa.string())} is finer than a microsecond"
                )
    elif pa.types.is_struct(kind) and _has_nanosecond_time(kind):
        for inner in values.flatten():
            check_time_precision(inner)
    elif pa.types.is_map(kind) and _has_nanosecond_time(kind):
        check_time_precision(values.keys)
        check_time_precision(values.items)
    elif pa.types.is_nested(kind) and hasattr(values, "flatten") and _has_nanosecond_time(kind):
        check_time_precision(values.flatten())


def _has_nanosecond_time(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_nanosecond_time(kind.field(n).type) for n in range(kind.num_fields))
    return bool(pa.types.is_time64(kind) and kind.unit == "ns")


def _list_to_array(value: list[Any], kind: pa.DataType) -> Array:
    """Return a list as an array of its element type; as objects if it has nulls or uneven lists."""
    if (pa.types.is_integer(kind) or pa.types.is_boolean(kind)) and None not in value:
        return np.array(value, np.dtype(str(kind)))
    try:
        return np.array(value)
    except ValueError:
        array = np.empty(len(value), object)
        array[:] = value
        return array


def columns_with_infinite_dates(rows: pa.RecordBatch) -> list[str]:
    """Return the columns with a date or time of infinity.

    SQL has that value. As a number it is the largest one, which would be a day in a distant year.
    """
    found = []
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if (
            not (pa.types.is_date32(column.type) or pa.types.is_timestamp(column.type))
            or len(column) == column.null_count
        ):
            continue
        bits = column.type.bit_width
        numbers, last = buffer_numbers(column, np.dtype(f"int{bits}")), 2 ** (bits - 1) - 1
        if numbers.max() == last or numbers.min() == -last:
            own = numbers[~null_mask(column)] if column.null_count else numbers
            found += [name] if own.max() == last or own.min() == -last else []
    return found


def to_python_list(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return a column's values as Python objects.

    A value that Python cannot hold, such as a date beyond the year 9999, is returned as text.
    """
    try:
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            check_time_precision(chunk)
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [to_python(scalar) for scalar in column]


def to_python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return a table's rows, with values as in to_python_list."""
    columns = [to_python_list(column) for column in table.columns]
    return (
        [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
        if columns
        else [{}] * table.num_rows
    )


def to_python(scalar: pa.Scalar) -> Any:
    """Return an Arrow value as a Python object, or as text if Python cannot hold it."""
    try:
        if _has_nanosecond_time(scalar.type):
            check_time_precision(pa.array([scalar]))
        return scalar.as_py()
    except (ValueError, OverflowError):
        return _to_text(scalar)


def _to_text(scalar: pa.Scalar) -> str:
    kind = scalar.type
    unit = "D" if pa.types.is_date32(kind) else getattr(kind, "unit", None)
    if unit is None or not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return str(scalar) if pa.types.is_nested(kind) else str(scalar.cast(pa.string()))
    return str(
        np.array(scalar.cast(pa.int32() if unit == "D" else pa.int64()).as_py(), f"M8[{unit}]")
    )


def _to_times(values: pa.Array) -> Array:
    kind = values.type
    if pa.types.is_date32(kind):
        array = buffer_numbers(values, np.dtype(np.int32)).astype(np.int64).view("datetime64[D]")
    else:
        array = buffer_numbers(values, np.dtype(np.int64)).view(
            f"{'timedelta64' if pa.types.is_duration(kind) else 'datetime64'}[{kind.unit}]"
        )
    if values.null_count:
        array = array.copy()
        array[null_mask(values)] = "NaT"
    return array


def _decode_dictionary(values: pa.DictionaryArray) -> Array:
    texts = np.empty(len(values.dictionary) + 1, object)  # the last entry is for nulls
    texts[:-1] = values.dictionary.to_pylist()
    indices = (
        values.indices.fill_null(len(values.dictionary)) if values.null_count else values.indices
    )
    return texts.take(to_numpy(indices.cast(pa.int64()), False))


def buffer_numbers(values: pa.Array, dtype: np.dtype[Any]) -> Array:
    """Return the values' own memory, with any number under a null (pyarrow's to_numpy imports
    pandas).
    """
    buffer = values.buffers()[1]
    if buffer is None or len(values) == 0:
        return np.zeros(len(values), dtype)
    return np.frombuffer(buffer, dtype, len(values), values.offset * dtype.itemsize)


def from_numpy(array: NDArray[Any]) -> pa.Array:
    """Return an Arrow array that shares the memory of a NumPy array, without importing pandas."""
    array = np.ascontiguousarray(array)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(array.dtype), len(array), [None, pa.py_buffer(array)]
    )


def with_nulls(values: pa.Array, nulls: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """Return an array without nulls as one of type `kind`, which has nulls where `nulls` is true.

    kind: a type with the same buffers.
    """
    valid = pa.py_buffer(np.packbits(~nulls, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [valid, *values.buffers()[1:]])


def take_rows(values: pa.Array, indices: NDArray[Any]) -> pa.Array:
    """Return values.take(places).

    Plain types do not use it, since it imports pyarrow.compute, which takes 50 ms.
    """
    t, kind = pa.types, values.type
    if (
        values.null_count == 0
        and len(values)
        and (t.is_integer(kind) or t.is_floating(kind) or t.is_temporal(kind))
    ):
        moved = buffer_numbers(values, np.dtype(f"V{kind.bit_width // 8}")).take(indices)
        return pa.Array.from_buffers(kind, len(moved), [None, pa.py_buffer(moved)])
    if values.null_count == 0 and t.is_string(kind) and len(values) < len(indices):
        texts = [value.encode() for value in values.to_pylist()]
        longest = max(map(len, texts), default=0)
        if longest <= 32:
            return repeat_texts(texts, indices)
    return values.take(from_numpy(indices))


def repeat_texts(texts: Sequence[bytes], indices: NDArray[Any]) -> pa.Array:
    """Return a column of a few short texts, each many times."""
    longest = max(map(len, texts), default=0)
    characters = np.frombuffer(b"".join(value.ljust(longest) for value in texts), np.uint8).reshape(
        len(texts), longest
    )
    lengths = np.array([len(value) for value in texts])
    ends = np.zeros(len(indices) + 1, np.int32)
    np.cumsum(lengths.take(indices), out=ends[1:])
    text = characters.take(indices, axis=0)[np.arange(longest) < lengths.take(indices)[:, None]]
    return pa.Array.from_buffers(
        pa.string(),
        len(indices),
        [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(text))],
    )


def to_pandas(
    table: pa.Table, nullable: frozenset[str], large: frozenset[str] = frozenset()
) -> Any:
    """Return a pandas frame whose column types depend on the whole data set, not on a batch."""
    exact = [f.name for f in table.schema if f.name in large and f.name in nullable]
    for position, field in enumerate(table.schema):
        if field.name in nullable and pa.types.is_integer(field.type) and field.name not in exact:
            table = table.set_column(
                position, field.name, table.column(position).cast(pa.float64(), safe=False)
            )
    frame = table.to_pandas()
    for field in table.schema:
        if field.name in exact:
            frame[field.name] = _masked_integers(table.column(field.name))
        elif field.name in nullable and pa.types.is_boolean(field.type):
            frame[field.name] = frame[field.name].astype(object)
        elif pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type):
            column = table.column(field.name)
            if any(chunk.flatten().null_count for chunk in column.chunks):
                frame[field.name] = _lists_with_nulls(column)
        elif _has_integers_in_fields(field.type):
            frame[field.name] = to_numpy(table.column(field.name), False)
    return frame


def _has_integers_in_fields(kind: pa.DataType) -> bool:
    """Return whether a type has integers in the fields of a struct or the entries of a map.

    pandas converts all integers of such a field to floats in a batch where one of them is null.
    """
    if not pa.types.is_nested(kind):
        return False
    inside = [kind.field(i).type for i in range(kind.num_fields)]
    if not pa.types.is_list(kind) and any(pa.types.is_integer(each) for each in inside):
        return True
    return any(map(_has_integers_in_fields, inside))


def _masked_integers(column: pa.ChunkedArray) -> Any:
    """Return a column of integers as pandas' Int64 or UInt64, which has nulls and is exact."""
    import pandas as pd

    return column.to_pandas(
        types_mapper={pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}.get
    ).array


def _lists_with_nulls(column: pa.ChunkedArray) -> Array:
    """Return lists of integers as arrays, each of a type that depends on its own values.

    pandas would convert all to floats if one has a null.
    """
    out = np.empty(len(column), object)
    for row, value in enumerate(column):
        out[row] = to_numpy(value.values, False).copy() if value.is_valid else None
    return out
