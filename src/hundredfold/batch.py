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

from .arrays import UNIT, Array, from_numpy, numpy_of, to_pandas
from .errors import ConservationError, JobError
from .job import Model
from .order import canonical_order


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
        self, rows: pa.Table, keys: pa.Table, sizes: NDArray[np.int64], first: int, order_by: Sequence[str], nullable: frozenset[str]
    ) -> None:
        self.table = rows.combine_chunks()
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
            keys, rows = self.keys.take(index), self.table.drop_columns([UNIT]).take(from_numpy(self.order))
            # from the columns of both: a table that has no column but its key knows no number of rows
            schema = pa.schema([*keys.schema, *rows.schema], metadata=rows.schema.metadata)
            self._sorted = pa.table([*keys.columns, *rows.columns], schema=schema).combine_chunks()
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
