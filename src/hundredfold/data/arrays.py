"""Arrow columns as NumPy arrays and back, by ways that import neither pandas nor pyarrow.compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

LONG_TEXT = 64  # bytes, on average
LARGEST_EXACT = 2**53  # among integers without a gap in float64
UNIT = "__unit"  # the column of a batch that tells each row's unit
Array = NDArray[Any]


def nulls_of(values: pa.Array) -> NDArray[np.bool_]:
    return numpy_of(values.is_null(), False)


def numpy_of(column: pa.Array | pa.ChunkedArray, nullable: bool, large: bool = False) -> Array:
    """A column as a NumPy array, by the rules of Unit. `nullable`: whether a null may be anywhere in the data set, and `large`:
    whether an integer that float64 cannot hold is beside it, so that the type does not depend on which rows lie in this batch."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    t, kind = pa.types, values.type
    if t.is_dictionary(kind):
        return _decoded(values)
    if t.is_boolean(kind):
        return (
            _objects(values)
            if nullable or values.null_count
            else stored_numbers(values.cast(pa.uint8()), np.dtype(np.uint8)).astype(bool)
        )
    if t.is_integer(kind):
        if not (nullable or values.null_count):
            return stored_numbers(values, np.dtype(str(kind)))
        return _objects(values) if large or has_large(values) else _floats(values)
    if t.is_floating(kind):
        dtype = np.dtype(
            {"double": "float64", "float": "float32", "halffloat": "float16"}[str(kind)]
        )
        array = stored_numbers(values, dtype)
        return np.where(nulls_of(values), dtype.type(np.nan), array) if values.null_count else array
    if t.is_timestamp(kind) or t.is_date32(kind) or t.is_duration(kind):
        return _times(values)
    if (
        t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind)
    ) and values.nbytes <= LONG_TEXT * len(values):
        return _decoded(
            values.dictionary_encode()
        )  # equal texts are one object; long ones would be copied twice more
    if (t.is_list(kind) or t.is_large_list(kind)) and (
        t.is_integer(kind.value_type) or t.is_floating(kind.value_type)
    ):
        return _lists_of_numbers(values)
    return _objects(values)


def has_large(values: pa.Array) -> bool:
    """Whether it has an integer beyond 2**53: a null beside it must not make floats of them, which would change it."""
    if (
        not pa.types.is_integer(values.type)
        or values.type.bit_width < 64
        or values.null_count == len(values)
    ):
        return False
    numbers = stored_numbers(values, np.dtype(str(values.type)))
    if values.null_count:
        numbers = numbers[~nulls_of(values)]
    return bool(numbers.max() > LARGEST_EXACT or numbers.min() < -LARGEST_EXACT)


def _floats(values: pa.Array) -> Array:
    array = stored_numbers(values, np.dtype(str(values.type))).astype(np.float64)
    if values.null_count:
        array[nulls_of(values)] = np.nan
    return array


def _lists_of_numbers(values: pa.Array) -> Array:
    """Arrays of numbers, None for a null; what _objects gives, without an object for each number."""
    inner = values.values
    if inner.null_count:
        return _objects(values)
    numbers = numpy_of(inner, False)
    numbers = numbers.astype(np.float64) if pa.types.is_floating(inner.type) else numbers
    out = np.empty(len(values), object)
    ends, there = numpy_of(values.offsets, False).tolist(), (~nulls_of(values)).tolist()
    for position, (first, last, valid) in enumerate(zip(ends, ends[1:], there, strict=False)):
        out[position] = numbers[first:last].copy() if valid else None
    return out


def _objects(values: pa.Array) -> Array:
    """Python's values: None for a null, an array for a list. ValueError for a time of day that Python would cut."""
    refuse_finer_clocks(values)
    inner = (
        getattr(values.type, "value_type", None)
        if pa.types.is_nested(values.type) and not pa.types.is_map(values.type)
        else None
    )
    found = values.to_pylist()
    out = np.empty(len(values), object)
    for position, value in enumerate(found):
        out[position] = (
            _array_of(value, inner) if isinstance(value, list) and inner is not None else value
        )
    return out


def refuse_finer_clocks(values: pa.Array) -> None:
    """ValueError for a time of day finer than a microsecond, which Arrow cuts for Python without a word; also in lists and structs."""
    kind = values.type
    if pa.types.is_time64(kind):
        if kind.unit == "ns":
            numbers = stored_numbers(values, np.dtype(np.int64))
            finer = (
                (numbers % 1000 != 0) & ~nulls_of(values)
                if values.null_count
                else numbers % 1000 != 0
            )
            if finer.any():
                raise ValueError(
                    f"{values[int(finer.argmax())].cast(pa.string())} is finer than a microsecond"
                )
    elif pa.types.is_struct(kind) and _has_fine_clock(kind):
        for inner in values.flatten():
            refuse_finer_clocks(inner)
    elif pa.types.is_map(kind) and _has_fine_clock(kind):
        refuse_finer_clocks(values.keys)
        refuse_finer_clocks(values.items)
    elif pa.types.is_nested(kind) and hasattr(values, "flatten") and _has_fine_clock(kind):
        refuse_finer_clocks(values.flatten())


def _has_fine_clock(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_fine_clock(kind.field(n).type) for n in range(kind.num_fields))
    return bool(pa.types.is_time64(kind) and kind.unit == "ns")


def _array_of(value: list[Any], kind: pa.DataType) -> Array:
    """A list as an array of its element's type; of objects where it holds a null, or lists of different lengths."""
    if (pa.types.is_integer(kind) or pa.types.is_boolean(kind)) and None not in value:
        return np.array(value, np.dtype(str(kind)))
    try:
        return np.array(value)
    except ValueError:
        array = np.empty(len(value), object)
        array[:] = value
        return array


def infinite_dates(rows: pa.RecordBatch) -> list[str]:
    """Return the columns with a date or time of infinity, which SQL has: as a number it is the largest one, some day in a year far off."""
    found = []
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if (
            not (pa.types.is_date32(column.type) or pa.types.is_timestamp(column.type))
            or len(column) == column.null_count
        ):
            continue
        bits = column.type.bit_width
        numbers, last = stored_numbers(column, np.dtype(f"int{bits}")), 2 ** (bits - 1) - 1
        if numbers.max() == last or numbers.min() == -last:
            own = numbers[~nulls_of(column)] if column.null_count else numbers
            found += [name] if own.max() == last or own.min() == -last else []
    return found


def pylist_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column's values as Python's own; the text of one that Python cannot hold, such as a date beyond the year 9999."""
    try:
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            refuse_finer_clocks(chunk)
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [value_of(scalar) for scalar in column]


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """A table's rows, their values as in pylist_of."""
    columns = [pylist_of(column) for column in table.columns]
    return (
        [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
        if columns
        else [{}] * table.num_rows
    )


def value_of(scalar: pa.Scalar) -> Any:
    """An Arrow value as Python's own, or its text where Python cannot hold it."""
    try:
        if _has_fine_clock(scalar.type):
            refuse_finer_clocks(pa.array([scalar]))
        return scalar.as_py()
    except (ValueError, OverflowError):
        return _text_of(scalar)


def _text_of(scalar: pa.Scalar) -> str:
    kind = scalar.type
    unit = "D" if pa.types.is_date32(kind) else getattr(kind, "unit", None)
    if unit is None or not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return str(scalar) if pa.types.is_nested(kind) else str(scalar.cast(pa.string()))
    return str(
        np.array(scalar.cast(pa.int32() if unit == "D" else pa.int64()).as_py(), f"M8[{unit}]")
    )


def _times(values: pa.Array) -> Array:
    kind = values.type
    if pa.types.is_date32(kind):
        array = stored_numbers(values, np.dtype(np.int32)).astype(np.int64).view("datetime64[D]")
    else:
        array = stored_numbers(values, np.dtype(np.int64)).view(
            f"{'timedelta64' if pa.types.is_duration(kind) else 'datetime64'}[{kind.unit}]"
        )
    if values.null_count:
        array = array.copy()
        array[nulls_of(values)] = "NaT"
    return array


def _decoded(values: pa.DictionaryArray) -> Array:
    words = np.empty(len(values.dictionary) + 1, object)  # the last one stands for null
    words[:-1] = values.dictionary.to_pylist()
    indices = (
        values.indices.fill_null(len(values.dictionary)) if values.null_count else values.indices
    )
    return words.take(numpy_of(indices.cast(pa.int64()), False))


def stored_numbers(values: pa.Array, dtype: np.dtype[Any]) -> Array:
    """The values' own memory, whatever lies under a null (pyarrow's to_numpy would import pandas)."""
    buffer = values.buffers()[1]
    if buffer is None or len(values) == 0:
        return np.zeros(len(values), dtype)
    return np.frombuffer(buffer, dtype, len(values), values.offset * dtype.itemsize)


def from_numpy(array: NDArray[Any]) -> pa.Array:
    """An Arrow array over a NumPy array of numbers, without a copy and without importing pandas."""
    array = np.ascontiguousarray(array)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(array.dtype), len(array), [None, pa.py_buffer(array)]
    )


def taken(values: pa.Array, places: NDArray[Any]) -> pa.Array:
    """What values.take(places) gives. Plain kinds go around it, since it imports pyarrow.compute, which takes a twentieth of a second."""
    t, kind = pa.types, values.type
    if (
        values.null_count == 0
        and len(values)
        and (t.is_integer(kind) or t.is_floating(kind) or t.is_temporal(kind))
    ):
        moved = stored_numbers(values, np.dtype(f"V{kind.bit_width // 8}")).take(places)
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
    letters = np.frombuffer(b"".join(word.ljust(longest) for word in words), np.uint8).reshape(
        len(words), longest
    )
    lengths = np.array([len(word) for word in words])
    ends = np.zeros(len(places) + 1, np.int32)
    np.cumsum(lengths.take(places), out=ends[1:])
    text = letters.take(places, axis=0)[np.arange(longest) < lengths.take(places)[:, None]]
    return pa.Array.from_buffers(
        pa.string(),
        len(places),
        [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(text))],
    )


def to_pandas(
    table: pa.Table, nullable: frozenset[str], large: frozenset[str] = frozenset()
) -> Any:
    """A pandas frame whose column types depend on the whole data set's nulls and integers, never on this batch's."""
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
            frame[field.name] = numpy_of(table.column(field.name), False)
    return frame


def _has_integers_in_fields(kind: pa.DataType) -> bool:
    """Whether integers are somewhere in the fields of a struct, or the entries of a map, of a type.

    pandas makes floats of all integers of such a field in a batch where one of them is null.
    """
    if not pa.types.is_nested(kind):
        return False
    inside = [kind.field(i).type for i in range(kind.num_fields)]
    if not pa.types.is_list(kind) and any(pa.types.is_integer(each) for each in inside):
        return True
    return any(map(_has_integers_in_fields, inside))


def _masked_integers(column: pa.ChunkedArray) -> Any:
    """A column of integers as pandas' Int64 (or the like), which has nulls and loses no digit."""
    import pandas as pd

    return column.to_pandas(
        types_mapper={pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}.get
    ).array


def _lists_with_nulls(column: pa.ChunkedArray) -> Array:
    """Lists of integers as arrays, each of a type that depends on its own values: pandas makes floats of all where one has a null."""
    out = np.empty(len(column), object)
    for row, value in enumerate(column):
        out[row] = numpy_of(value.values, False).copy() if value.is_valid else None
    return out
