"""The canonical order of a batch's rows: by unit, inside a unit by `order_by`, and ties by the
other columns.

It depends only on the rows, not on threads or on the backend that wrote the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .numpy_columns import UNIT, Array, buffer_numbers, from_numpy, null_mask, to_numpy

MIN_WIDE_VALUE_BYTES = 64  # on average: longer values are first compared by their prefixes
MAX_BLOCK_BYTES = 2**20  # of wide values that are compared at a time
Ranking = Callable[[pa.ChunkedArray, NDArray[np.intp]], list[Array]]


def canonical_order(
    table: pa.Table, unit: NDArray[np.int64], order_by: Sequence[str]
) -> NDArray[np.intp]:
    """Return the permutation that sorts a batch into canonical order.

    A further column is examined only for rows that still tie.
    """
    # a column of the key is the same in all rows of a unit
    further = [n for n in order_by if n in table.column_names]
    further += [n for n in table.column_names if n not in order_by and n != UNIT]
    order, group, settled = _first_order(unit, table, further)
    tied = np.arange(len(order))
    for column, ranking in (
        (table.column(name), ranking)
        for name in further[settled:]
        for ranking in _rankings(table.column(name))
    ):
        same = group[1:] == group[:-1]
        keep = np.concatenate([[False], same]) | np.concatenate([same, [False]])
        if not keep.any():
            break
        tied, group = tied[keep], group[keep]
        rows = order.take(tied)
        ranks = ranking(column, rows)
        within = np.lexsort((*reversed(ranks), group))
        order[tied] = rows.take(within)
        group = _regroup(group, [rank.take(within) for rank in ranks])
    return order


def _rankings(column: pa.ChunkedArray) -> list[Ranking]:
    """Return the rankings of a column's values, each applied to the rows that still tie.

    Wide values are first ranked by their prefixes, since comparing them in full takes several
    copies.
    """
    return [prefix_ranks, ranks_of] if _is_wide(column) else [ranks_of]


def _is_wide(column: pa.ChunkedArray) -> bool:
    """Return whether values take too much memory to be compared in full at once."""
    t, kind = pa.types, column.type
    varied = (
        t.is_string(kind)
        or t.is_binary(kind)
        or t.is_large_string(kind)
        or t.is_large_binary(kind)
        or t.is_nested(kind)
    )
    return bool(varied and column.nbytes > MIN_WIDE_VALUE_BYTES * len(column))


def _first_order(
    unit: NDArray[np.int64], table: pa.Table, further: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[Any], int]:
    """Return the rows sorted by unit and, as far as bits are left, by the first column.

    Return also the groups of rows that still tie, and how many columns were compared in full (0 or
    1). Unit, value and row number are packed into one integer, since NumPy sorts integers tens of
    times faster than it sorts rows by several columns.
    """
    units, rows = int(unit.max(initial=0)), len(unit)
    free = 64 - units.bit_length() - max(rows - 1, 0).bit_length()
    packed, settled = unit.astype(np.uint64), 0
    if further and rows:
        value, settled = _coarse_keys(table.column(further[0]), max(free, 0))
        packed = (packed << np.uint64(max(free, 0))) | value
    low = np.uint64(max(rows - 1, 0).bit_length())
    packed = (packed << low) | np.arange(rows, dtype=np.uint64)
    packed.sort()
    order = (packed & ((np.uint64(1) << low) - np.uint64(1))).astype(np.intp)
    return order, packed >> low, settled


def _coarse_keys(column: pa.ChunkedArray, bits: int) -> tuple[NDArray[np.uint64], int]:
    """Return integers below 2**bits in the order of the column's values, and whether they are
    distinct.

    They never fall where the values rise. The second result is 1 if they distinguish all values,
    else 0.
    """
    wide = _is_wide(column)
    if wide and pa.types.is_nested(column.type):  # their texts begin alike
        return np.zeros(len(column), np.uint64), 0
    *special, value = prefix_ranks(column, count=1) if wide else ranks_of(column)
    special = [rank for rank in special if rank.any()]  # NaN and nulls: the two largest numbers
    plain = value[~np.any(special, axis=0)] if special else value
    if bits < 3 or not len(plain):
        return np.zeros(len(value), np.uint64), 0
    lowest = int(plain.min())
    over = max((int(plain.max()) - lowest + 2 * len(special)).bit_length() - bits, 0)
    # modulo 2**64, so without overflow
    coarse = (value.astype(np.uint64) - np.uint64(lowest % 2**64)) >> np.uint64(over)
    for position, rank in reversed(list(enumerate(special, 1))):
        # nulls last: a null may also count as NaN
        coarse[rank] = 2**bits - position
    return coarse, int(over == 0 and not special and not wide)


def _regroup(group: NDArray[Any], ranks: Sequence[Array]) -> NDArray[np.int64]:
    """Return group numbers that rise wherever the group or one of the ranks changes."""
    changes = group[1:] != group[:-1]
    for rank in ranks:
        changes = changes | (rank[1:] != rank[:-1])
    return np.concatenate([[0], np.cumsum(changes)])


def prefix_ranks(
    column: pa.ChunkedArray, rows: NDArray[np.intp] | None = None, count: int = 8
) -> list[Array]:
    """Return arrays whose joint order is that of the first 7 * count bytes of each value as text.

    Nulls are last. Values with equal prefixes have equal numbers. A few rows are processed at a
    time.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    positions = np.arange(len(whole)) if rows is None else rows
    step = max(1, MAX_BLOCK_BYTES * len(whole) // max(whole.nbytes, 1))
    found = [np.zeros((0, count), np.int64)]
    missing = [np.zeros(0, bool)]
    for start in range(0, len(positions), step):
        part = whole.take(from_numpy(positions[start : start + step]))
        found.append(
            _first_bytes(
                pa.array(_sortable_texts(part), pa.string())
                if pa.types.is_nested(part.type)
                else part,
                count,
            )
        )
        missing.append(null_mask(part))
    nulls, numbers = np.concatenate(missing), np.concatenate(found)
    numbers[nulls] = 0
    return [*([nulls] if nulls.any() else []), *numbers.T]


def _first_bytes(texts: pa.Array, count: int) -> NDArray[np.int64]:
    """Return the first bytes of each text, seven in a number, shape (rows, count)."""
    wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    offset = np.dtype(np.int64 if wide else np.int32)
    _, ends_buffer, data = texts.buffers()
    ends = np.frombuffer(
        ends_buffer, offset, len(texts) + 1, texts.offset * offset.itemsize
    ).astype(np.int64)
    letters = (
        np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    )
    found = np.zeros((len(texts), count), np.int64)
    for position in range(7 * count):
        at = ends[:-1] + position
        byte = np.where(at < ends[1:], letters.take(at, mode="clip"), 0)
        found[:, position // 7] = (found[:, position // 7] << 8) | byte
    return found


def ranks_of(column: pa.ChunkedArray, rows: NDArray[np.intp] | None = None) -> list[Array]:
    """Return arrays whose joint order is the order of the column's values (those at `rows`).

    Nulls are last, NaN before them, and -0.0 before 0.0.
    """
    t = pa.types
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if t.is_dictionary(whole.type) or t.is_run_end_encoded(whole.type):
        whole = whole.cast(whole.type.value_type)
    values = whole if rows is None or len(whole) == 0 else whole.take(from_numpy(rows))
    missing = [] if values.null_count == 0 else [null_mask(values)]
    if t.is_floating(values.type):
        array = to_numpy(values, True).astype(np.float64)
        bits = array.view(np.int64)
        # of a negative number, invert all bits except the sign
        rising = bits ^ ((bits >> 63) & np.int64(2**63 - 1))
        return [*missing, np.isnan(array), rising]
    whole_numbers = _as_integers(values)
    if whole_numbers is not None:
        return [
            *missing,
            np.where(missing[0], whole_numbers.dtype.type(0), whole_numbers)
            if missing
            else whole_numbers,
        ]
    codes, distinct = _dictionary_codes(values)
    rank = np.empty(len(distinct), np.int64)
    rank[_sorted_positions(distinct)] = np.arange(len(distinct))
    return [*missing, rank.take(codes) if len(distinct) else codes]


def _sorted_positions(distinct: list[Any] | pa.Array) -> Sequence[int] | Array:
    """Return the positions that sort distinct values, texts by their bytes."""
    if isinstance(distinct, pa.Array):
        if distinct.nbytes > MAX_BLOCK_BYTES and (
            pa.types.is_string(distinct.type) or pa.types.is_binary(distinct.type)
        ):
            import pyarrow.compute as pc  # it creates no Python values

            return to_numpy(pc.sort_indices(distinct.view(pa.binary())).cast(pa.int64()), False)
        distinct = distinct.to_pylist()
    values = distinct
    return sorted(range(len(values)), key=lambda i: _sortable(values[i]))


def _as_integers(values: pa.Array) -> Array | None:
    """Return the numbers that store integers, booleans, dates and times; None for other types."""
    t, kind = pa.types, values.type
    if t.is_null(kind):
        return np.zeros(len(values), np.int8)
    if t.is_boolean(kind):
        return to_numpy(values.cast(pa.uint8()).fill_null(0), False)
    if t.is_integer(kind):
        return buffer_numbers(values, np.dtype(str(kind)))
    if t.is_temporal(kind) and not t.is_interval(kind):
        return buffer_numbers(values, np.dtype(f"int{kind.bit_width}"))
    return None


def _dictionary_codes(values: pa.Array) -> tuple[NDArray[np.int64], list[Any] | pa.Array]:
    """Return the values as indices into a list of the distinct ones (0 for a null)."""
    try:
        encoded = (
            values if _is_plain(values.type) else pa.array(_sortable_texts(values), pa.string())
        ).dictionary_encode()
        return to_numpy(encoded.indices.fill_null(0), False).astype(np.int64), encoded.dictionary
    except pa.ArrowNotImplementedError:  # a rare type
        found = values.to_pylist()
        numbers = {
            value: number
            for number, value in enumerate(dict.fromkeys(v for v in found if v is not None))
        }
        return np.array([numbers.get(value, 0) for value in found], np.int64), list(numbers)


def _is_plain(kind: pa.DataType) -> bool:
    return not (
        pa.types.is_nested(kind)
        or pa.types.is_interval(kind)
        or isinstance(kind, pa.BaseExtensionType)
    )


def _sortable_texts(values: pa.Array) -> list[str | None]:
    """Return a text for each nested value; equal values have equal texts."""
    with contextlib.suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):
        # Python has no date beyond the year 9999
        values = values.cast(_with_plain_numbers(values.type))
    return [repr(value) for value in values.to_pylist()]


def _with_plain_numbers(kind: pa.DataType) -> pa.DataType:
    """Return a nested type with the numbers that store its dates and times."""
    t = pa.types
    if t.is_temporal(kind) and not t.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if t.is_struct(kind):
        return pa.struct([field.with_type(_with_plain_numbers(field.type)) for field in kind])
    if t.is_map(kind):
        return pa.map_(_with_plain_numbers(kind.key_type), _with_plain_numbers(kind.item_type))
    if t.is_large_list(kind):
        return pa.large_list(_with_plain_numbers(kind.value_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(_with_plain_numbers(kind.value_type), kind.list_size)
    return pa.list_(_with_plain_numbers(kind.value_type)) if t.is_list(kind) else kind


def _sortable(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
