"""The results of an upstream model, as a parameter of a downstream model's function.

A unit receives the results that belong to it: if the upstream model's key is part of its own, the
rows of its own key; otherwise the whole table. The annotation of the parameter determines the form;
without one, the return annotation of the upstream function does.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from ..annotations import one_type, unevaluated
from ..contract import is_contract, read_column
from ..errors import ConversionError, JobError, ResultError
from ..job import Job, Model
from ..ports.interfaces import Store
from .batch import form_of_annotation
from .checksums import require_listed
from .layout import Layout
from .numpy_columns import has_large, to_numpy, to_pandas, to_python
from .parquet_in_memory import read_row_group
from .result_contract import COLLECTION_ORIGINS
from .upstream_rows import CachedRowGroups, RowsOfUnits

NO_TYPE_FACTS = frozenset[str](), frozenset[str]()
Converter = Callable[[pa.Table], Any]


class UpstreamResults:
    """One parameter of a model's function: created once in a process, queried for each unit.

    If the upstream model's key is part of the unit's own, only the rows of a few units are in
    memory at a time.
    """

    def __init__(
        self, name: str, model: Model, upstream: Model, layout: Layout, store: Store
    ) -> None:
        self.name, self.upstream = name, upstream
        self.matches_key = set(upstream.unit) <= set(model.unit)
        data = require_listed(store, layout.results(upstream.name), layout.collected(upstream.name))
        self.file = pq.ParquetFile(pa.BufferReader(data))
        self.groups = CachedRowGroups(self.file)
        annotation = model.annotations.get(name)
        wanted = _default_annotation(upstream) if annotation is None else annotation
        self.convert = _converter(
            model,
            upstream,
            annotation,
            *(_type_facts(self.file) if form_of_annotation(wanted) == "pandas" else NO_TYPE_FACTS),
        )
        self._whole: list[Any] = []

    def for_units(self, keys: pa.Table) -> Callable[[int], Any]:
        """Return a function from a unit's number, in this list of keys, to the value that it
        receives.
        """
        if not self.matches_key or not self.upstream.unit:
            return lambda _unit: self.whole()
        rows = RowsOfUnits(self.groups, keys, self.upstream.unit)

        def value(unit: int) -> Any:
            found = rows.rows(unit)
            if found is None:
                key = ", ".join(
                    str(to_python(keys.column(name)[unit])) for name in self.upstream.unit
                )
                raise ResultError(
                    f"there is no {self.name} for {key}: that unit of {self.upstream.name} failed,"
                    " or returned no row"
                )
            return self.convert(found)

        return value

    def whole(self) -> Any:
        """Return the whole table in its form.

        It is the same object for all units, so its arrays are read-only.
        """
        if not self._whole:
            self._whole.append(self.convert(self.file.read(use_threads=False)))
        return self._whole[0]

    def for_many(self, keys: pa.Table) -> Any:
        """Return the value for a batch: one for all units if there is one, else a list with one for
        each.
        """
        if not self.matches_key or not self.upstream.unit:
            return self.whole()
        value = self.for_units(keys)
        return [value(unit) for unit in range(keys.num_rows)]


def _type_facts(file: pq.ParquetFile) -> tuple[frozenset[str], frozenset[str]]:
    """Return the columns with a null, and those among them with an integer beyond 2**53.

    The column types of a frame depend on them.
    """
    nullable, large = set[str](), set[str]()
    for group in range(file.num_row_groups):
        table = read_row_group(file, group)
        nullable |= {name for name in table.column_names if table.column(name).null_count}
        large |= {
            name for name in table.column_names if any(map(has_large, table.column(name).chunks))
        }
    return frozenset(nullable), frozenset(large & nullable)


def check_inputs(model: Model, job: Job) -> None:
    """Raise JobError for a parameter whose annotation does not fit the upstream results."""
    for name in model.inputs or ():
        _converter(model, job.model(name), model.annotations.get(name), frozenset(), frozenset())


def _converter(
    model: Model, upstream: Model, annotation: Any, nullable: frozenset[str], large: frozenset[str]
) -> Converter:
    """Return the conversion of upstream rows to the value that the parameter requests.

    The types of a frame's columns depend on all of the rows.
    """
    wanted = _default_annotation(upstream) if annotation is None else annotation
    if form_of_annotation(wanted) == "pandas":
        return lambda table: to_pandas(table, nullable, large)
    make = _converter_of(upstream, wanted)
    if make is None:
        raise JobError(
            f"model {model.name}: a parameter that receives {upstream.name} is annotated with"
            f" {annotation}, which is no form of results",
            hint="wanted dict, a dataclass (or the like), a list of one of these, a single value"
            " (float, ...), pd.DataFrame, pl.DataFrame or pa.Table",
        )
    return make


def _default_annotation(upstream: Model) -> Any:
    """Return the upstream function's return annotation if a parameter can have it, else `dict`."""
    annotation = None if upstream.batched else upstream.annotations["return"]
    return dict if annotation is None or _converter_of(upstream, annotation) is None else annotation


def _converter_of(upstream: Model, annotation: Any) -> Converter | None:
    form = form_of_annotation(annotation)
    if unevaluated(annotation) is None:
        try:
            annotation = one_type(annotation)
        except TypeError:
            return None
        if annotation is list or get_origin(annotation) in COLLECTION_ORIGINS:
            inner = (get_args(annotation) or (dict,))[0]
            row = _row_converter(inner) if is_contract(inner) else _to_dict
            return lambda table: [row(table.slice(n, 1)) for n in range(table.num_rows)]
        if is_contract(annotation):
            row = _row_converter(annotation)
            return lambda table: _single_row(upstream, table, row)
        if form is None and _is_scalar_type(annotation):
            return lambda table: _single_row(
                upstream, table, _scalar_converter(upstream, annotation)
            )
    if form in ("dict", "light"):
        return lambda table: _single_row(upstream, table, _to_dict)
    if form == "arrow":
        return lambda table: table
    if form == "pandas":
        return lambda table: to_pandas(table, frozenset())  # _converter knows the nullable columns
    return _to_polars if form == "polars" else None


def _is_scalar_type(annotation: Any) -> bool:
    """Return whether a single value can be of this type: float, str, an Enum, ..."""
    try:
        read_column("value", annotation)
    except TypeError:
        return False
    return True


def _scalar_converter(upstream: Model, annotation: Any) -> Converter:
    def single(table: pa.Table) -> Any:
        names = [name for name in table.column_names if name not in upstream.unit]
        if len(names) != 1:
            raise ResultError(
                f"{upstream.name} has the columns {', '.join(names)}, and the parameter takes a"
                " single value; annotate it with dict"
            )
        return _to_value(table.column(names[0]), annotation)

    return single


def _single_row(upstream: Model, table: pa.Table, row: Converter) -> Any:
    if table.num_rows != 1:
        raise ResultError(
            f"{upstream.name} has {table.num_rows:,} rows for this unit, and the parameter takes"
            " one; annotate it with a table (pd.DataFrame, pl.DataFrame, pa.Table) or a list"
        )
    return row(table)


def _to_dict(table: pa.Table) -> dict[str, Any]:
    return {name: _to_value(table.column(name), None) for name in table.column_names}


def _row_converter(kind: Any) -> Converter:
    """Return the conversion of a row to a dataclass, NamedTuple, TypedDict or pydantic model.

    Key columns that are no fields of it are left out.
    """
    if hasattr(kind, "model_fields"):
        return lambda table: kind.model_validate(_to_dict(table))
    hints: Mapping[str, Any] = get_type_hints(kind)
    names = (
        [f.name for f in dataclasses.fields(kind)]
        if dataclasses.is_dataclass(kind)
        else list(hints)
    )
    return lambda table: kind(
        **{
            name: _to_value(table.column(name), hints[name])
            for name in names
            if name in table.column_names
        }
    )


def _to_value(column: pa.ChunkedArray, hint: Any) -> Any:
    scalar = column[0]
    if (
        scalar.is_valid
        and pa.types.is_list(column.type)
        and hint is not list
        and get_origin(hint) is not list
    ):
        array = to_numpy(scalar.values, False)
        if not pa.types.is_nested(column.type.value_type):
            array.flags.writeable = False
            return array
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError) as error:
        raise ConversionError(
            f"an upstream result cannot be converted to a Python value ({error}):"
            f" it is {to_python(scalar)}; annotate the parameter with pa.Table"
        ) from error
    return (
        hint(value)
        if isinstance(hint, type) and issubclass(hint, enum.Enum) and value is not None
        else value
    )


def _to_polars(table: pa.Table) -> Any:
    import polars as pl

    return pl.from_arrow(table)
