"""A batch: its file, its units, and one unit's rows in the form that the user's function asks for.

A file holds the rows of many whole units in any order; whoever reads it puts them into the one canonical order: by unit,
inside a unit by `order_by`, and ties by the other columns from left to right.  So the order depends on the rows alone,
and neither on threads nor on the backend that wrote the file, and no float sum depends on luck.
"""

from __future__ import annotations

import contextlib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .errors import ConservationError, JobError
from .job import Model

UNIT = "__unit"
Array = NDArray[Any]


class Unit(Mapping[str, Array]):
    """One unit's rows, the light form: a mapping of column names to NumPy arrays, sliced when they are read.

    `key` is the unit's key as a tuple. Nullable integers come as float64 with NaN, nullable booleans, strings and
    decimals as objects with None, timestamps and dates as datetime64 with NaT (in UTC).
    """

    __slots__ = ("_columns", "_number", "_span")

    def __init__(self, columns: Columns, span: slice, number: int) -> None:
        self._columns, self._span, self._number = columns, span, number

    @property
    def key(self) -> tuple[Any, ...]:
        return self._columns.key(self._number)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name][self._span]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        return len(self._columns.names)

    @property
    def rows(self) -> int:
        return int(self._span.stop - self._span.start)

    def __repr__(self) -> str:
        return f"<Unit {self.key}: {self.rows} rows of {', '.join(self)}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"the rows of a unit come as a mapping of NumPy arrays and have no .{name}; "
            "annotate the parameter with pd.DataFrame, pl.DataFrame or pa.Table to be given such a table"
        )


class Units(Mapping[str, Array]):
    """All units of a slice at once: whole columns, sorted by unit; `offsets[u]:offsets[u + 1]` are the rows of unit u.

    `offsets` has shape (units + 1,), int64. `keys` maps each key column to an array of shape (units,).
    """

    __slots__ = ("_columns", "_first", "_last", "keys_table", "offsets")

    def __init__(self, columns: Columns, offsets: NDArray[np.int64], keys: pa.Table) -> None:
        self._columns, self._first, self._last = columns, int(offsets[0]), int(offsets[-1])
        self.offsets = offsets - offsets[0]
        self.keys_table = keys

    @property
    def keys(self) -> Mapping[str, Array]:  # type: ignore[override]  # the units' keys are what a reader means here
        return {name: numpy_of(self.keys_table.column(name), True) for name in self.keys_table.column_names}

    def __getitem__(self, name: str) -> Array:
        return self._columns[name][self._first : self._last]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        """How many units."""
        return len(self.offsets) - 1


class Columns(dict[str, Array]):
    """The columns of a sorted batch as NumPy arrays, each converted when it is first read, and from then on as fast to find as in a dict."""

    def __init__(
        self, table: pa.Table, order: NDArray[np.intp] | None, keys: pa.Table, sizes: NDArray[np.int64], nullable: frozenset[str]
    ) -> None:
        self._table, self._order, self._keys, self._sizes, self._nullable = table, order, keys, sizes, nullable
        self.names = (*keys.column_names, *(n for n in table.column_names if n != UNIT))

    def key(self, unit: int) -> tuple[Any, ...]:
        return tuple(column[unit].as_py() for column in self._keys.columns)

    def __missing__(self, name: str) -> Array:
        if name in self._keys.column_names:
            array = np.repeat(numpy_of(self._keys.column(name), name in self._nullable), self._sizes)
        elif name in self.names:
            array = numpy_of(self._table.column(name), name in self._nullable)
            array = array.copy() if self._order is None else array.take(self._order)  # the user's own: it may be written to
        else:
            raise KeyError(f"{name!r} is not among the columns {', '.join(self.names)}")
        self[name] = array
        return array


class OpenBatch:
    """A batch in memory, in canonical order. `keys` and `sizes` are those of its units, from the manifest's list."""

    def __init__(
        self, file: pa.Buffer, keys: pa.Table, sizes: NDArray[np.int64], first: int, order_by: Sequence[str], nullable: frozenset[str]
    ) -> None:
        self.table = pa.ipc.open_stream(file).read_all().combine_chunks()
        self.keys, self.sizes, self.first, self.nullable = keys, sizes, first, nullable
        unit = numpy_of(self.table.column(UNIT), False) - first
        counted = np.bincount(unit, minlength=len(sizes)) if len(unit) else np.zeros(len(sizes), np.int64)
        if len(counted) != len(sizes) or not np.array_equal(counted, sizes):
            raise ConservationError(
                f"a batch file holds other rows than its manifest says: {len(unit):,} for {int(sizes.sum()):,}", hint="run the job again"
            )
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.order = canonical_order(self.table, unit, order_by)
        self.columns = Columns(self.table, self.order, keys, sizes, nullable)
        self._sorted: pa.Table | None = None
        self._frames: dict[str, Any] = {}

    @property
    def arrow(self) -> pa.Table:
        """All columns, keys first, in canonical order."""
        if self._sorted is None:
            index = from_numpy(np.repeat(np.arange(len(self.sizes)), self.sizes))
            rows = self.table.drop_columns([UNIT]).take(from_numpy(self.order))
            for position, field in enumerate(self.keys.schema):
                rows = rows.add_column(position, field, self.keys.column(position).take(index))
            self._sorted = rows.combine_chunks()
        return self._sorted

    def each(self, form: str, first: int, last: int) -> Iterator[Any]:
        """The rows of units first..last of the batch, one unit after the other, in that form."""
        ends = self.offsets[first : last + 2].tolist()
        spans = map(slice, ends, ends[1:])
        if form == "light":
            return map(Unit, repeat(self.columns), spans, range(first, last + 1))
        if form == "dict":
            columns = [(name, self.columns[name]) for name in self.columns.names]
            return ({name: column[span] for name, column in columns} for span in spans)
        if form == "pandas":
            return map(self._pandas().iloc.__getitem__, spans)
        cut = (self._polars() if form == "polars" else self.arrow).slice
        return map(cut, ends, self.sizes[first : last + 1].tolist())

    def units(self, form: str, first: int, last: int) -> Any:
        """Units first..last of the batch at once, in that form."""
        offsets = self.offsets[first : last + 2]
        if form in ("light", "dict"):
            return Units(self.columns, offsets, self.keys.slice(first, last - first + 1))
        start, stop = int(offsets[0]), int(offsets[-1])
        if form == "pandas":
            return self._pandas().iloc[start:stop].reset_index(drop=True)
        return self.arrow.slice(start, stop - start) if form == "arrow" else self._polars().slice(start, stop - start)

    def _pandas(self) -> Any:
        if "pandas" not in self._frames:
            frame = to_pandas(self.arrow, self.nullable)
            frame.index = np.arange(len(frame)) - np.repeat(self.offsets[:-1], self.sizes)  # a unit's rows count from 0
            self._frames["pandas"] = frame
        return self._frames["pandas"]

    def _polars(self) -> Any:
        if "polars" not in self._frames:
            import polars as pl

            self._frames["polars"] = pl.from_arrow(self.arrow)
        return self._frames["polars"]


def form_of(model: Model) -> str:
    """Which form the function's first parameter asks for; the light one if it does not say."""
    name, annotation = next(iter(annotations_of(model.work).items()))
    form = form_named(annotation)
    if form is None:
        raise JobError(
            f"model {model.name}: its parameter {name} is annotated with {annotation}, which is no form of rows",
            hint="wanted pandas.DataFrame, polars.DataFrame, pyarrow.Table, dict[str, np.ndarray], hundredfold.Unit (or Units with many=True), or no annotation",
        )
    return form


def form_named(annotation: Any) -> str | None:
    """The form that an annotation stands for, also where it is only text; None if for none."""
    if annotation is None or annotation is Any:
        return "light"
    if isinstance(annotation, str):
        words = re.sub(r"\[.*", "", annotation).split(".")
        annotation, module = words[-1], words[0]
        return {"DataFrame": "polars" if module in ("pl", "polars") else "pandas", "Table": "arrow", "dict": "dict"}.get(annotation) or (
            "light" if annotation in ("Unit", "Units", "Mapping", "Any") else None
        )
    origin = typing.get_origin(annotation) or annotation
    module = getattr(origin, "__module__", "").split(".")[0]
    name = getattr(origin, "__name__", "")
    if name == "DataFrame" and module in ("pandas", "polars"):
        return module
    if name == "Table" and module == "pyarrow":
        return "arrow"
    if origin is dict:
        return "dict"
    return "light" if name in ("Unit", "Units", "Mapping", "MutableMapping") else None


def annotations_of(work: Callable[..., Any]) -> dict[str, Any]:
    """Each parameter of a function, and `return` last, with its annotation (None without one); text where a name in it is only known to a type checker."""
    import inspect

    function = work if isinstance(work, types.FunctionType) else getattr(work, "__call__", work)  # noqa: B004  # an object that can be called keeps its annotations there
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001  # whatever the user's annotations raise, their text is left
        hints = dict(getattr(function, "__annotations__", {}))
    found = {name: hints.get(name) for name in inspect.signature(work).parameters}
    return {**found, "return": hints.get("return")}


def settle_annotations(work: Callable[..., Any]) -> None:
    """Let annotations that are only text be what they name: a function that travels by value to another process leaves the
    names around it behind, unless its body uses them."""
    texts = getattr(work, "__annotations__", {})
    if isinstance(work, types.FunctionType) and any(isinstance(text, str) for text in texts.values()):
        with contextlib.suppress(Exception):  # whatever the user's annotations raise, their text is left
            work.__annotations__ = typing.get_type_hints(work, include_extras=True)


def canonical_order(table: pa.Table, unit: NDArray[np.int64], order_by: Sequence[str]) -> NDArray[np.intp]:
    """The permutation that puts a batch into canonical order. Each further column is looked at only where rows still tie."""
    further = [n for n in order_by if n in table.column_names]  # a column of the key is the same in all rows of a unit
    further += [n for n in table.column_names if n not in order_by and n != UNIT]
    order, group, settled = _first_order(unit, table, further)
    tied = np.arange(len(order))
    for name in further[settled:]:
        same = group[1:] == group[:-1]
        keep = np.concatenate([[False], same]) | np.concatenate([same, [False]])
        if not keep.any():
            break
        tied, group = tied[keep], group[keep]
        rows = order.take(tied)
        ranks = ranks_of(table.column(name), rows)
        within = np.lexsort((*reversed(ranks), group))
        order[tied] = rows.take(within)
        group = _regroup(group, [rank.take(within) for rank in ranks])
    return order


def _first_order(unit: NDArray[np.int64], table: pa.Table, further: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[Any], int]:
    """Rows by unit and then by the first column, as far as it fits into the bits that are left; groups of rows that still tie; and
    how many columns have been looked at in full (0 or 1).

    Unit, value and row number are packed into one integer, since NumPy sorts integers tens of times faster than it sorts
    rows by several columns.
    """
    units, rows = int(unit.max(initial=0)), len(unit)
    free = 64 - units.bit_length() - max(rows - 1, 0).bit_length()
    packed, settled = unit.astype(np.uint64), 0
    if further and rows:
        value, settled = _coarse(table.column(further[0]), max(free, 0))
        packed = (packed << np.uint64(max(free, 0))) | value
    low = np.uint64(max(rows - 1, 0).bit_length())
    packed = (packed << low) | np.arange(rows, dtype=np.uint64)
    packed.sort()
    order = (packed & ((np.uint64(1) << low) - np.uint64(1))).astype(np.intp)
    return order, packed >> low, settled


def _coarse(column: pa.ChunkedArray, bits: int) -> tuple[NDArray[np.uint64], int]:
    """Whole numbers below 2**bits that never fall where the column's values rise, and 1 if they tell all of them apart, else 0."""
    *special, value = ranks_of(column)
    special = [rank for rank in special if rank.any()]  # NaN and nulls: the two largest numbers
    plain = value[~np.any(special, axis=0)] if special else value
    if bits < 3 or not len(plain):
        return np.zeros(len(value), np.uint64), 0
    lowest = int(plain.min())
    over = max((int(plain.max()) - lowest + 2 * len(special)).bit_length() - bits, 0)
    coarse = (value.astype(np.uint64) - np.uint64(lowest % 2**64)) >> np.uint64(over)  # modulo 2**64, and so without overflow
    for place, rank in reversed(list(enumerate(special, 1))):  # nulls last: a null may count as NaN too
        coarse[rank] = 2**bits - place
    return coarse, int(over == 0 and not special)


def _regroup(group: NDArray[Any], ranks: Sequence[Array]) -> NDArray[np.int64]:
    """Numbers that rise wherever the group or one of the ranks changes."""
    changes = group[1:] != group[:-1]
    for rank in ranks:
        changes = changes | (rank[1:] != rank[:-1])
    return np.concatenate([[0], np.cumsum(changes)])


def ranks_of(column: pa.ChunkedArray, rows: NDArray[np.intp] | None = None) -> list[Array]:
    """Arrays whose joint order is the order of the column's values (those at `rows`): nulls last, NaN before them, -0.0 before 0.0."""
    t = pa.types
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = whole if rows is None or len(whole) == 0 else whole.take(from_numpy(rows))
    missing = [] if values.null_count == 0 else [nulls_of(values)]
    if t.is_floating(values.type):
        array = numpy_of(values if values.type == pa.float64() else values.cast(pa.float64()), True)
        bits = array.view(np.int64)
        return [
            *missing,
            np.isnan(array),
            bits ^ ((bits >> 63) & np.int64(2**63 - 1)),
        ]  # of a negative number all but the sign turned round
    if t.is_integer(values.type) or t.is_temporal(values.type) or t.is_boolean(values.type):
        array = numpy_of(values.fill_null(_zero(values.type)) if missing else values, False)
        return [*missing, array.view(np.int64) if array.dtype.kind in "mM" else array]
    codes, distinct = _codes(values)
    rank = np.empty(len(distinct), np.int64)
    rank[sorted(range(len(distinct)), key=lambda i: _sortable(distinct[i]))] = np.arange(len(distinct))
    return [*missing, rank.take(codes) if len(distinct) else codes]


def _codes(values: pa.Array) -> tuple[NDArray[np.int64], list[Any]]:
    """The values as numbers into a list of those that differ (0 for a null)."""
    if pa.types.is_nested(values.type):
        texts = [repr(v) for v in values.to_pylist()]
        values = pa.array(texts, pa.string())
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    return numpy_of(encoded.indices.fill_null(0), False).astype(np.int64), encoded.dictionary.to_pylist()


def _sortable(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _zero(kind: pa.DataType) -> pa.Scalar:
    return (
        pa.scalar(False)
        if pa.types.is_boolean(kind)
        else pa.scalar(0, pa.int64()).cast(kind)
        if not pa.types.is_date32(kind)
        else pa.scalar(0, pa.int32()).cast(kind)
    )


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
