"""Digests of rows: equal if and only if all values are equal to the last bit.

A digest depends on the values, their order, and the names and types of the columns. It does not
depend on the chunks that the rows come in, nor on the bytes that Arrow keeps below a null.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .numpy_columns import buffer_numbers, null_mask

DIGEST_BYTES = 16
# errors of values that have no Python form, such as a date in a list beyond the year 9999
CONVERSION_ERRORS = (ValueError, OverflowError, pa.ArrowException)


class NoDigest(Exception):
    """A value whose bits cannot be read."""


class RowDigest:
    """A digest to which rows are added, a table at a time; all tables have the same columns.

    Each column has a digest of its own for each kind of its bytes (nulls, lengths, values), so that
    it does not matter where a table ends.
    """

    def __init__(self) -> None:
        self._parts: dict[str, hashlib.blake2b] = {}

    def add(self, rows: pa.Table) -> None:
        """Add rows. Raises: NoDigest for a value whose bits cannot be read."""
        for number, field in enumerate(rows.schema):
            for chunk in rows.column(number).chunks:
                try:
                    self._add_values(f"{number} {field.name!r}", chunk)
                except CONVERSION_ERRORS as error:
                    raise NoDigest(f"{field.name}: {error}") from error

    def add_numbers(self, part: str, numbers: NDArray[np.generic]) -> None:
        """Add numbers to a named part of the digest."""
        self._part(part).update(np.ascontiguousarray(numbers).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Return the digest of all rows so far, as hexadecimal digits."""
        whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for name, part in sorted(self._parts.items()):
            whole.update(f"{len(name.encode())} {name} {part.hexdigest()};".encode())
        return whole.hexdigest()

    def _part(self, name: str) -> hashlib.blake2b:
        return self._parts.setdefault(name, hashlib.blake2b(digest_size=DIGEST_BYTES))

    def _add_values(self, name: str, values: pa.Array) -> None:
        name = f"{name} {values.type}"
        nulls = null_mask(values) if values.null_count else np.zeros(len(values), bool)
        self.add_numbers(f"{name} null", nulls)
        t, kind = pa.types, values.type
        if t.is_null(kind):
            return
        if isinstance(values, pa.DictionaryArray):
            self._add_values(name, values.dictionary_decode())
        elif t.is_run_end_encoded(kind):
            self._add_values(name, values.cast(kind.value_type))
        elif t.is_string_view(kind) or t.is_binary_view(kind):
            plain = pa.large_string() if t.is_string_view(kind) else pa.large_binary()
            self._add_values(name, values.cast(plain))
        elif isinstance(values, pa.ExtensionArray):
            self._add_values(name, values.storage)
        elif t.is_boolean(kind):
            self.add_numbers(name, buffer_numbers(values.cast(pa.uint8()), np.dtype("u1"))[~nulls])
        elif _has_fixed_width(kind):
            self.add_numbers(name, buffer_numbers(values, np.dtype(f"V{_width(kind)}"))[~nulls])
        else:
            self._add_varied(name, values.drop_null() if values.null_count else values)

    def _add_varied(self, name: str, values: pa.Array) -> None:
        """Add values of variable length, none of them null."""
        t, kind = pa.types, values.type
        if (
            t.is_string(kind)
            or t.is_binary(kind)
            or t.is_large_string(kind)
            or t.is_large_binary(kind)
        ):
            offsets = _offsets(values)
            self.add_numbers(f"{name} lengths", np.diff(offsets).astype(np.int64))
            data = values.buffers()[2]
            if data is not None and len(offsets):
                self._part(name).update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
        elif t.is_list(kind) or t.is_large_list(kind):
            self.add_numbers(f"{name} lengths", np.diff(_offsets(values)).astype(np.int64))
            self._add_values(f"{name} item", values.flatten())
        elif t.is_struct(kind):
            for field, child in zip(kind, values.flatten(), strict=True):
                self._add_values(f"{name} {field.name!r}", child)
        else:
            texts = [repr(value) for value in values.to_pylist()]
            self._add_values(f"{name} text", pa.array(texts, pa.large_string()))


def _has_fixed_width(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_primitive(kind) or t.is_decimal(kind) or t.is_fixed_size_binary(kind))


def _width(kind: pa.DataType) -> int:
    return int(kind.bit_width) // 8


def _offsets(values: pa.Array) -> NDArray[np.signedinteger]:
    """Return where each value begins in the data, and where the last one ends."""
    wide = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    wide = wide or pa.types.is_large_list(values.type)
    dtype = np.dtype(np.int64 if wide else np.int32)
    buffer = values.buffers()[1]
    if buffer is None or not len(values):
        return np.zeros(1, dtype)
    return np.frombuffer(buffer, dtype, len(values) + 1, values.offset * dtype.itemsize)
