"""The results of an earlier model, as a parameter of a later one's function.

A unit is given what belongs to it: where the earlier model's key is part of its own, the rows of its own key; otherwise
the whole table.  The annotation says in which form; without one, the earlier function's own return annotation does.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .arrays import from_numpy, numpy_of, to_pandas
from .batch import annotations_of, form_named
from .checksums import listed_needed
from .contract import is_contract
from .errors import JobError, ResultError
from .job import Layout, Model
from .ports import Store

Make = Callable[[pa.Table], Any]


class Given:
    """One parameter of a model's function: made once in a process, asked for each unit."""

    def __init__(self, name: str, model: Model, earlier: Model, layout: Layout, store: Store) -> None:
        self.name, self.earlier = name, earlier
        self.own = set(earlier.unit) <= set(model.unit)
        self.table = pq.ParquetFile(
            pa.BufferReader(listed_needed(store, layout.results(earlier.name), layout.collected(earlier.name)))
        ).read()
        self.make = _maker(model, earlier, annotations_of(model.work).get(name))
        self._whole: list[Any] = []

    def for_units(self, keys: pa.Table) -> Callable[[int], Any]:
        """A function from a unit's number, in this list of keys, to the value that it is given."""
        if not self.own or not self.earlier.unit:
            return lambda _unit: self.whole()
        spans = self._spans(keys)
        wanted = [keys.column(name).to_pylist() for name in self.earlier.unit]

        def value(unit: int) -> Any:
            key = tuple(column[unit] for column in wanted)
            rows = spans.get(tuple(map(_findable, key)))
            if rows is None:
                raise ResultError(
                    f"there is no {self.name} for {', '.join(map(str, key))}: that unit of {self.earlier.name} failed, or returned no row"
                )
            return self.make(self.table.take(from_numpy(np.array(rows, np.int64))))

        return value

    def whole(self) -> Any:
        """The whole table in its form; the same object for all units, so its arrays cannot be written to."""
        if not self._whole:
            self._whole.append(self.make(self.table))
        return self._whole[0]

    def for_many(self, keys: pa.Table) -> Any:
        """For a batch at once: the value where there is one for all units, else a list with one value for each unit."""
        if not self.own or not self.earlier.unit:
            return self.whole()
        value = self.for_units(keys)
        return [value(unit) for unit in range(keys.num_rows)]

    def _spans(self, keys: pa.Table) -> dict[tuple[Any, ...], list[int]]:
        """The rows of each key that this batch needs."""
        wanted = set(_keys(keys, self.earlier.unit))
        spans: dict[tuple[Any, ...], list[int]] = {}
        for row, key in enumerate(_keys(self.table, self.earlier.unit)):
            if key in wanted:
                spans.setdefault(key, []).append(row)
        return spans


_NAN = object()


def _findable(part: Any) -> Any:
    """A part of a key, equal to itself also where it is NaN."""
    return _NAN if part != part else part


def _keys(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(map(_findable, table.column(name).to_pylist()) for name in names), strict=True)


def _maker(model: Model, earlier: Model, annotation: Any) -> Make:
    """How the rows of the earlier model become what the parameter asks for."""
    if annotation is None:
        annotation = annotations_of(earlier.work)["return"] if not earlier.many else None
        if (
            annotation is not None
            and not _is_row(annotation)
            and form_named(annotation) in (None, "light")
            and get_origin(annotation) is not list
        ):
            annotation = None
    if annotation is None:
        return lambda table: _one(earlier, table, _as_dict)
    if get_origin(annotation) is list:
        inner = (get_args(annotation) or (dict,))[0]
        row = _row_maker(inner) if is_contract(inner) else _as_dict
        return lambda table: [row(table.slice(n, 1)) for n in range(table.num_rows)]
    if is_contract(annotation):
        row = _row_maker(annotation)
        return lambda table: _one(earlier, table, row)
    form = form_named(annotation)
    if form in ("dict", "light"):
        return lambda table: _one(earlier, table, _as_dict)
    if form == "arrow":
        return lambda table: table
    if form == "pandas":
        return lambda table: to_pandas(table, frozenset())
    if form == "polars":
        return _polars
    raise JobError(
        f"model {model.name}: a parameter that is given {earlier.name} is annotated with {annotation}, which is no form of results",
        hint="wanted dict, a dataclass (or the like), list of one of these, pd.DataFrame, pl.DataFrame or pa.Table",
    )


def _is_row(annotation: Any) -> bool:
    return is_contract(annotation) or annotation is dict or get_origin(annotation) is dict


def _one(earlier: Model, table: pa.Table, row: Make) -> Any:
    if table.num_rows != 1:
        raise ResultError(
            f"{earlier.name} has {table.num_rows:,} rows here, and the parameter takes one; annotate it with a table (pd.DataFrame, pl.DataFrame, pa.Table) or a list"
        )
    return row(table)


def _as_dict(table: pa.Table) -> dict[str, Any]:
    return {name: _value(table.column(name), None) for name in table.column_names}


def _row_maker(kind: Any) -> Make:
    """Rows as instances of a dataclass, NamedTuple, TypedDict or pydantic model; the key columns beyond its fields are left out."""
    if hasattr(kind, "model_fields"):
        return lambda table: kind.model_validate(_as_dict(table))
    hints: Mapping[str, Any] = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else list(hints)
    return lambda table: kind(**{name: _value(table.column(name), hints[name]) for name in names if name in table.column_names})


def _value(column: pa.ChunkedArray, hint: Any) -> Any:
    scalar = column[0]
    if scalar.is_valid and pa.types.is_list(column.type) and hint is not list and get_origin(hint) is not list:
        array = numpy_of(scalar.values, False)
        if not pa.types.is_nested(column.type.value_type):
            array.flags.writeable = False
            return array
    value = scalar.as_py()
    return hint(value) if isinstance(hint, type) and issubclass(hint, enum.Enum) and value is not None else value


def _polars(table: pa.Table) -> Any:
    import polars as pl

    return pl.from_arrow(table)
