"""Casts of columns to the type of all units, also where lists and dicts hold other values.

Arrow's cast drops the fields of a struct that the type lacks, makes text of a number within one,
and makes an invalid array of a list of which a part can only be null (pyarrow 26.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .arrow_types import kind_of
from .numpy_columns import from_numpy, null_mask, to_numpy


def can_hold(kind: pa.DataType, found: pa.DataType) -> bool:
    """Return whether each part of `found` is of the kind of its part of `kind`.

    Integers and floats are of one kind, and a part that is always null fits any.
    """
    t = pa.types
    if t.is_null(found):
        return True
    if t.is_struct(kind) and t.is_struct(found):
        fields = {field.name: field.type for field in kind}
        return all(can_hold(fields.get(field.name, pa.null()), field.type) for field in found)
    if t.is_list(kind) and t.is_list(found):
        return can_hold(kind.value_type, found.value_type)
    return kind_of(kind) == kind_of(found)


def narrowest_type(values: pa.Array) -> pa.DataType:
    """Return the type of a column, with null for the parts that are null in each of its values."""
    t, kind = pa.types, values.type
    if values.null_count == len(values):
        return pa.null()
    if t.is_struct(kind):
        parts = zip(kind, values.flatten(), strict=True)
        return pa.struct([(field.name, narrowest_type(part)) for field, part in parts])
    if t.is_list(kind):
        return pa.list_(narrowest_type(values.flatten()))
    return kind


def count_of_kind(column: pa.ChunkedArray) -> int:
    """Return how many values show the kind of their column.

    A null does not, nor does a list without a value: lists of numbers and of texts have it alike.
    """
    if not pa.types.is_list(column.type):
        return len(column) - int(column.null_count)
    return sum(int(_shows_kind(chunk).sum()) for chunk in column.chunks)


def _shows_kind(values: pa.Array) -> NDArray[np.bool_]:
    if not pa.types.is_list(values.type):
        return ~null_mask(values)
    before = np.concatenate([[0], np.cumsum(_shows_kind(values.flatten()))])
    offsets = _offsets(values)
    return np.asarray(before[offsets[1:]] > before[offsets[:-1]])


def _offsets(values: pa.ListArray) -> NDArray[np.int32]:
    """Return where the elements of each list begin and end in `values.flatten()`."""
    sizes = to_numpy(pc.fill_null(pc.list_value_length(values), 0), False)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def cast(values: Any, kind: pa.DataType) -> Any:
    """Return an array or a chunked array as `kind`.

    Raises: pa.ArrowInvalid or pa.ArrowNotImplementedError for a value that it cannot hold.
    """
    if values.type == kind:
        return values
    if not _has_null_part(kind):
        return values.cast(kind)  # of all chunks at once
    if isinstance(values, pa.ChunkedArray):
        return pa.chunked_array([cast(chunk, kind) for chunk in values.chunks], kind)
    return _cast_parts(values, kind)


def _cast_parts(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return an array as a type with a part that can only be null."""
    t, found = pa.types, values.type
    if values.null_count == len(values):
        return pa.nulls(len(values), kind)
    if t.is_struct(kind) and t.is_struct(found):
        parts = dict(zip((field.name for field in found), values.flatten(), strict=True))
        missing = pa.nulls(len(values))
        return pa.StructArray.from_arrays(
            [_cast_parts(parts.get(field.name, missing), field.type) for field in kind],
            fields=list(kind),
            mask=values.is_null(),
        )
    if t.is_list(kind) and t.is_list(found):
        elements = _cast_parts(values.flatten(), kind.value_type)
        return pa.ListArray.from_arrays(
            from_numpy(_offsets(values)), elements, type=kind, mask=values.is_null()
        )
    if _has_null_part(kind):
        raise pa.ArrowInvalid(f"found {found}, wanted {kind}")
    return values.cast(kind)


def _has_null_part(kind: pa.DataType) -> bool:
    """Return whether a type, or a part of it, can only be null."""
    parts = (kind.field(i).type for i in range(kind.num_fields))
    return bool(pa.types.is_null(kind)) or any(map(_has_null_part, parts))
