"""Relations of Arrow types: the kind of a column, the widest and the common type, and which
types files can hold.
"""

from __future__ import annotations

import pyarrow as pa


def kind_of(kind: pa.DataType) -> str:
    """Return the kind of value that a column holds: int and float are one kind, null fits any."""
    t = pa.types
    if t.is_null(kind):
        return "null"
    if t.is_integer(kind) or t.is_floating(kind):
        return "number"
    if t.is_decimal(kind):
        return "decimal"
    if t.is_list(kind):
        return f"list of {kind_of(kind.value_type)}"
    if t.is_timestamp(kind):
        return "timestamp with zone" if kind.tz else "timestamp"
    named = {
        "struct": t.is_struct,
        "date": t.is_date,
        "time": t.is_time,
        "duration": t.is_duration,
        "binary": t.is_binary,
    }
    return next((name for name, is_one in named.items() if is_one(kind)), str(kind))


def is_opaque(kind: pa.DataType) -> bool:
    """Return whether a polars column holds Python objects, which would become addresses."""
    if pa.types.is_nested(kind):
        return any(is_opaque(kind.field(n).type) for n in range(kind.num_fields))
    # no type of polars' own becomes this one
    return bool(pa.types.is_fixed_size_binary(kind))


def is_storable(kind: pa.DataType) -> bool:
    """Return whether files and queries can hold a column of this type."""
    t = pa.types
    if (
        t.is_interval(kind)
        or t.is_union(kind)
        or (isinstance(kind, pa.BaseExtensionType) and kind.extension_name != "arrow.uuid")
    ):
        return False
    if t.is_decimal256(kind) and kind.precision > 38:
        return False
    inner = kind.value_type if t.is_dictionary(kind) or t.is_run_end_encoded(kind) else None
    if inner is None and t.is_nested(kind):
        return all(is_storable(kind.field(n).type) for n in range(kind.num_fields))
    return inner is None or is_storable(inner)


def is_parquet_type(kind: pa.DataType) -> bool:
    """Return whether a Parquet file can hold a type.

    It cannot hold a struct without a field; the dicts of another unit may still add one.
    """
    if not pa.types.is_nested(kind):
        return True
    fields = [kind.field(n).type for n in range(kind.num_fields)]
    return bool(fields) and all(map(is_parquet_type, fields))


def are_compatible(sort: str, other: str) -> bool:
    """Return whether both kinds fit one column: equal, or one of them a null, an empty list, ..."""
    if sort.endswith("null") or other.endswith("null"):
        short = sort if sort.endswith("null") else other
        return (other if short is sort else sort).startswith(short.removesuffix("null"))
    return sort == other


def widest_type(kind: pa.DataType) -> pa.DataType:
    """Return the widest type of a kind, which a column has without a contract."""
    t = pa.types
    if t.is_unsigned_integer(kind) and kind.bit_width == 64:
        return kind
    if t.is_integer(kind):
        return pa.int64()
    if t.is_floating(kind):
        return pa.float64()
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return widest_type(kind.value_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if (
        t.is_large_list(kind)
        or t.is_list(kind)
        or t.is_fixed_size_list(kind)
        or t.is_list_view(kind)
        or t.is_large_list_view(kind)
    ):
        return pa.list_(widest_type(kind.value_type))
    if t.is_struct(kind):
        return pa.struct(sorted((field.name, widest_type(field.type)) for field in kind))
    if t.is_map(kind):
        return pa.map_(widest_type(kind.key_type), widest_type(kind.item_type))
    if t.is_timestamp(kind):
        # always UTC, since it is chance which zone comes first
        return pa.timestamp(_finest_unit(kind), "UTC" if kind.tz else None)
    if t.is_duration(kind):
        return pa.duration("us")  # as in SQL, which has only whole microseconds
    if t.is_time(kind):
        return pa.time64(_finest_unit(kind))
    if t.is_date64(kind):
        return pa.date32()
    return kind


def _finest_unit(*kinds: pa.DataType) -> str:
    return "ns" if any(kind.unit == "ns" for kind in kinds) else "us"


def common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Return the type that holds both; None if there is none."""
    t = pa.types
    if a == b or t.is_null(b):
        return a
    if t.is_null(a):
        return b
    if kind_of(a) == kind_of(b) == "number":
        return (
            pa.float64()
            if t.is_floating(a) or t.is_floating(b)
            else (pa.uint64() if pa.uint64() in (a, b) else pa.int64())
        )
    if t.is_decimal(a) and t.is_decimal(b):
        scale = max(a.scale, b.scale)
        return pa.decimal128(
            min(38, max(a.precision - a.scale, b.precision - b.scale) + scale), scale
        )
    if t.is_timestamp(a) and t.is_timestamp(b) and bool(a.tz) == bool(b.tz):
        return pa.timestamp(_finest_unit(a, b), a.tz)
    if t.is_duration(a) and t.is_duration(b):
        return pa.duration("us")
    if t.is_time(a) and t.is_time(b):
        return pa.time64(_finest_unit(a, b))
    if t.is_list(a) and t.is_list(b):
        inner = common_type(a.value_type, b.value_type)
        return pa.list_(inner) if inner is not None else None
    if t.is_struct(a) and t.is_struct(b):
        return _common_struct(a, b)
    return None


def _common_struct(a: pa.StructType, b: pa.StructType) -> pa.DataType | None:
    fields = {f.name: f.type for f in a}
    for f in b:
        inner = common_type(fields.get(f.name, pa.null()), f.type)
        if inner is None:
            return None
        fields[f.name] = inner
    return pa.struct(sorted(fields.items()))


def type_to_hex(kind: pa.DataType) -> str:
    return str(pa.schema([("c", kind)]).serialize().to_pybytes().hex())


def type_from_hex(text: str) -> pa.DataType:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))).field(0).type
