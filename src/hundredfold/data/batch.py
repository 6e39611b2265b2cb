"""A batch: its file, its units, and one unit's rows in the form that the user's function requests.

A file holds the rows of many whole units in any order; its reader sorts them into the canonical
order: by unit, inside a unit by `order_by`, and ties by the other columns from left to right. So
the order depends only on the rows, not on threads or on the backend that wrote the file, and no
float sum depends on chance.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..annotations import one_type, unevaluated
from ..errors import ConservationError, ConversionError, JobError
from ..job import Model
from .numpy_columns import UNIT, Array, from_numpy, to_numpy, to_pandas, to_python
from .row_order import canonical_order
from .row_sizes import python_bytes

# errors of a library that converts values which its form cannot hold
CONVERSION_ERRORS = (ValueError, OverflowError, pa.ArrowException)
# a larger column of nested values is converted slice by slice
MAX_WHOLE_COLUMN_BYTES = 2**25
CONVERSION_HINT = (
    "bound the column in the source's contract, cast it in the query, or take the rows as pa.Table"
)


class Unit(Mapping[str, Array]):
    """One unit's rows in the light form: a mapping of column names to NumPy arrays, sliced when
    they are read.

    `key` is the unit's key as a tuple. Nullable integers are float64 with NaN (objects with None if
    one is beyond 2**53); nullable booleans, strings and decimals are objects with None; timestamps
    and dates are datetime64 with NaT (in UTC).
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
            f"the rows of a unit are a mapping of NumPy arrays and have no .{name}; "
            "annotate the parameter with pd.DataFrame, pl.DataFrame or pa.Table to receive such a"
            " table"
        )


class Units(Mapping[str, Array]):
    """All units of a slice at once: whole columns, sorted by unit; `offsets[u]:offsets[u + 1]` are
    the rows of unit u.

    `offsets` has shape (units + 1,), int64. `keys` maps each key column to an array of shape
    (units,).
    """

    __slots__ = ("_columns", "_first", "_last", "keys_table", "offsets")

    def __init__(self, columns: Columns, offsets: NDArray[np.int64], keys: pa.Table) -> None:
        self._columns, self._first, self._last = columns, int(offsets[0]), int(offsets[-1])
        self.offsets = offsets - offsets[0]
        self.keys_table = keys

    @property
    # here `keys` are the keys of the units
    def keys(self) -> Mapping[str, Array]:  # type: ignore[override]
        return {
            name: to_numpy(self.keys_table.column(name), *self._columns.type_facts(name))
            for name in self.keys_table.column_names
        }

    def __getitem__(self, name: str) -> Array:
        return self._columns[name][self._first : self._last]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.offsets) - 1


class Columns(dict[str, Array]):
    """The columns of a sorted batch as NumPy arrays, each converted when it is first read, and
    found as fast as in a dict from then on.
    """

    def __init__(
        self,
        table: pa.Table,
        order: NDArray[np.intp] | None,
        keys: pa.Table,
        sizes: NDArray[np.int64],
        nullable: frozenset[str],
        large: frozenset[str] = frozenset(),
    ) -> None:
        self._table, self._order, self._keys, self._sizes, self._nullable, self._large = (
            table,
            order,
            keys,
            sizes,
            nullable,
            large,
        )
        self.names = (*keys.column_names, *(n for n in table.column_names if n != UNIT))
        # memory ran out while a column of all these units was converted, which is no unit's fault
        self.exhausted = False

    def key(self, unit: int) -> tuple[Any, ...]:
        return tuple(to_python(column[unit]) for column in self._keys.columns)

    def type_facts(self, name: str) -> tuple[bool, bool]:
        """Return whether the column has a null, and an integer beyond 2**53, anywhere in the data
        set.
        """
        return name in self._nullable, name in self._large

    def __missing__(self, name: str) -> Array:
        try:
            array = self._convert(name)
        except MemoryError:
            self.exhausted = True
            raise
        self[name] = array
        return array

    def _convert(self, name: str) -> Array:
        array: Array
        if name not in self.names:
            raise KeyError(f"{name!r} is not among the columns {', '.join(self.names)}")
        facts = self.type_facts(name)
        if name in self._keys.column_names:
            array = np.repeat(to_numpy(self._keys.column(name), *facts), self._sizes)
        else:
            column = self._table.column(name)
            if pa.types.is_nested(column.type) and python_bytes(column) > MAX_WHOLE_COLUMN_BYTES:
                # behaves like an array when it is sliced
                return SlicedColumn(name, column, self._order, facts)  # type: ignore[return-value]
            try:
                array = to_numpy(column, *facts)
            except MemoryError:
                raise
            except CONVERSION_ERRORS:
                # behaves like an array when it is sliced
                array = SlicedColumn(name, column, self._order, facts)  # type: ignore[assignment]
            else:
                # a copy, which the user's function may write to
                array = array.copy() if self._order is None else array.take(self._order)
        return array


class SlicedColumn:
    """A column that is converted slice by slice.

    Either it has a value that NumPy and Python cannot hold, so that only the units with such a
    value fail; or its nested values would together take too much memory as Python objects.
    """

    def __init__(
        self,
        name: str,
        column: pa.ChunkedArray,
        order: NDArray[np.intp] | None,
        facts: tuple[bool, bool],
    ) -> None:
        self.name, self.column, self.order, self.type_facts = name, column, order, facts
        # a function may read its column repeatedly
        self._last: tuple[slice, Array] | None = None

    def __getitem__(self, span: slice) -> Array:
        if self._last is None or self._last[0] != span:
            self._last = None
            self._last = span, self._convert(span)
        return self._last[1]

    def _convert(self, span: slice) -> Array:
        own = (
            self.column[span]
            if self.order is None
            else self.column.take(from_numpy(self.order[span]))
        )
        try:
            return to_numpy(own, *self.type_facts).copy()
        except CONVERSION_ERRORS as error:
            raise conversion_error(pa.table({self.name: own}), "NumPy or Python", error) from error


def conversion_error(rows: pa.Table, form: str, error: Exception) -> ConversionError:
    """Return the error for rows that cannot be converted: the column, the value, and a remedy."""
    for name in rows.column_names:
        found: list[str] = []
        for value in (
            rows.column(name).unique()
            if not pa.types.is_nested(rows.schema.field(name).type)
            else rows.column(name)
        ):
            try:
                to_numpy(pa.chunked_array([pa.array([value], value.type)]), False)
                value.as_py()
            except (*CONVERSION_ERRORS, TypeError):
                found.append(str(to_python(value))[:80])
        if found:
            return ConversionError(
                f"the rows cannot be converted to {form} ({error}): {name} is {found[0]};"
                f" {CONVERSION_HINT}"
            )
    return ConversionError(
        f"the rows cannot be converted to {form}: {type(error).__name__}: {error};"
        f" {CONVERSION_HINT}"
    )


class OpenBatch:
    """A batch in memory, in canonical order; `keys` and `sizes` are those of its units, from the
    manifest.
    """

    def __init__(
        self,
        rows: pa.Table,
        keys: pa.Table,
        sizes: NDArray[np.int64],
        first: int,
        order_by: Sequence[str],
        nullable: frozenset[str],
        large: frozenset[str] = frozenset(),
    ) -> None:
        self.table = rows.combine_chunks()
        self.keys, self.sizes, self.first, self.nullable, self.large = (
            keys,
            sizes,
            first,
            nullable,
            large,
        )
        unit = to_numpy(self.table.column(UNIT), False) - first
        counted = (
            np.bincount(unit, minlength=len(sizes)) if len(unit) else np.zeros(len(sizes), np.int64)
        )
        if len(counted) != len(sizes) or not np.array_equal(counted, sizes):
            raise ConservationError(
                f"a batch file has {len(unit):,} rows, and its manifest lists {int(sizes.sum()):,};"
                " the counts must be equal for each unit",
                hint="run the job again",
            )
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.order = canonical_order(self.table, unit, order_by)
        self.columns = Columns(self.table, self.order, keys, sizes, nullable, large)
        self._sorted: pa.Table | None = None
        self._frames: dict[str, Any] = {}

    @property
    def arrow(self) -> pa.Table:
        """Return all columns, keys first, in canonical order."""
        if self._sorted is None:
            index = from_numpy(np.repeat(np.arange(len(self.sizes)), self.sizes))
            keys, rows = (
                self.keys.take(index),
                self.table.drop_columns([UNIT]).take(from_numpy(self.order)),
            )
            # the schema of both, since a table whose only columns are keys has no number of rows of
            # its own
            schema = pa.schema([*keys.schema, *rows.schema], metadata=rows.schema.metadata)
            self._sorted = pa.table([*keys.columns, *rows.columns], schema=schema).combine_chunks()
        return self._sorted

    def iter_units(self, form: str, first: int, last: int) -> Iterator[Any]:
        """Return the rows of units first..last of the batch, one unit after the other, in that
        form.
        """
        ends = self.offsets[first : last + 2].tolist()
        spans = map(slice, ends, ends[1:])
        if form == "light":
            return map(Unit, repeat(self.columns), spans, range(first, last + 1))
        if form == "dict":
            columns = [(name, self.columns[name]) for name in self.columns.names]
            if any(isinstance(column, SlicedColumn) for _, column in columns):
                raise ConversionError(
                    f"the rows of a unit cannot be converted to NumPy arrays; {CONVERSION_HINT}"
                )
            return ({name: column[span] for name, column in columns} for span in spans)
        if form == "pandas":
            if any(
                pa.types.is_nested(column.type) and python_bytes(column) > MAX_WHOLE_COLUMN_BYTES
                for column in self.table.columns
            ):
                # see calls
                raise ConversionError("all rows at once take too much memory as a frame")
            return map(_frame_slicer(self._pandas()), spans)
        cut = (self._polars() if form == "polars" else self.arrow).slice
        return map(cut, ends, self.sizes[first : last + 1].tolist())

    def units(self, form: str, first: int, last: int) -> Any:
        """Return units first..last of the batch at once, in that form."""
        offsets = self.offsets[first : last + 2]
        if form in ("light", "dict"):
            return Units(self.columns, offsets, self.keys.slice(first, last - first + 1))
        start, stop = int(offsets[0]), int(offsets[-1])
        if form == "arrow":
            return self.arrow.slice(start, stop - start)
        try:
            whole = self._pandas() if form == "pandas" else self._polars()
        except Exception:  # noqa: BLE001
            # a library may raise any error for a value that it cannot hold: these units may have
            # none
            return self._frame(form, self.arrow.slice(start, stop - start))
        return (
            whole.iloc[start:stop].reset_index(drop=True)
            if form == "pandas"
            else whole.slice(start, stop - start)
        )

    def calls(
        self, form: str, first: int, last: int, work: Callable[..., Any]
    ) -> tuple[Callable[..., Any], Iterator[Any]]:
        """Return a function to call for each of units first..last, and its arguments.

        These are `work` itself and the rows of each unit. If the batch as a whole cannot be
        converted to that form, each unit's rows are converted in its own call, so that only the
        units with a value that the form cannot hold fail.
        """
        try:
            return work, self.iter_units(form, first, last)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001
            # a library may raise any error for a value that it cannot hold
            return lambda unit, **given: work(self.unit_rows(form, unit), **given), iter(
                range(first, last + 1)
            )

    def unit_rows(self, form: str, unit: int) -> Any:
        """Return the rows of one unit in that form; ConversionError if it cannot hold one of their
        values.
        """
        start, stop = int(self.offsets[unit]), int(self.offsets[unit + 1])
        if form == "light":
            return Unit(self.columns, slice(start, stop), unit)
        if form == "dict":
            return {name: self.columns[name][start:stop] for name in self.columns.names}
        rows = self.arrow.slice(start, stop - start)
        return rows if form == "arrow" else self._frame(form, rows)

    def _frame(self, form: str, rows: pa.Table) -> Any:
        try:
            return (
                to_pandas(rows, self.nullable, self.large) if form == "pandas" else _to_polars(rows)
            )
        except MemoryError:
            raise
        except Exception as error:  # a library may raise any error for a value that it cannot hold
            raise conversion_error(rows, form, error) from error

    def _pandas(self) -> Any:
        if "pandas" not in self._frames:
            frame = to_pandas(self.arrow, self.nullable, self.large)
            # the index of a unit's rows starts at 0
            frame.index = np.arange(len(frame)) - np.repeat(self.offsets[:-1], self.sizes)
            self._frames["pandas"] = frame
        return self._frames["pandas"]

    def _polars(self) -> Any:
        if "polars" not in self._frames:
            self._frames["polars"] = _to_polars(self.arrow)
        return self._frames["polars"]


def _to_polars(rows: pa.Table) -> Any:
    import polars as pl

    return pl.from_arrow(rows)


def _frame_slicer(frame: Any) -> Callable[[slice], Any]:
    """Return a function that takes rows out of a frame, which the user's function may write to.

    Since pandas 3 such rows are copied on write. Before, they are copied at once, since pandas 2
    warns of each write to a part of a frame.
    """
    import pandas as pd

    rows: Callable[[slice], Any] = frame.iloc.__getitem__
    if int(pd.__version__.partition(".")[0]) >= 3:
        return rows
    return lambda span: rows(span).copy()


def row_form(model: Model) -> str:
    """Return the form that the function's first parameter requests; the light one by default."""
    name, annotation = next(iter(model.annotations.items()))
    form = form_of_annotation(annotation)
    if form is None:
        raise JobError(
            f"model {model.name}: its parameter {name} is annotated with {annotation},"
            " which is no form of rows",
            hint="wanted pandas.DataFrame, polars.DataFrame, pyarrow.Table, dict[str, np.ndarray],"
            " hundredfold.Unit (or Units with batched=True), or no annotation",
        )
    return form


def form_of_annotation(annotation: Any) -> str | None:
    """Return the form that an annotation requests, even as text; None if there is none."""
    if annotation is None or annotation is Any:
        return "light"
    text = unevaluated(annotation)
    if text is not None:
        parts = re.sub(r"\[.*", "", text).split(".")
        name, module = parts[-1], parts[0]
        return {
            "DataFrame": "polars" if module in ("pl", "polars") else "pandas",
            "Table": "arrow",
            "dict": "dict",
        }.get(name) or ("light" if name in ("Unit", "Units", "Mapping", "Any") else None)
    try:
        annotation = one_type(annotation)
    except TypeError:
        return None
    origin = typing.get_origin(annotation) or annotation
    module = getattr(origin, "__module__", "").split(".")[0]
    name = getattr(origin, "__name__", "")
    if name == "DataFrame" and module in ("pandas", "polars"):
        return module
    if name == "Table" and module == "pyarrow":
        return "arrow"
    if origin is dict:
        return "dict"
    return (
        "light"
        if annotation is Any or name in ("Unit", "Units", "Mapping", "MutableMapping")
        else None
    )
