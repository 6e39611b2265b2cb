"""The results of an earlier model, as a parameter of a later one's function.

A unit is given what belongs to it: where the earlier model's key is part of its own, the rows of its own key; otherwise
the whole table.  The annotation says in which form; without one, the earlier function's own return annotation does.
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
from ..job import Job, Layout, Model
from ..ports.interfaces import Store
from .arrays import has_large, numpy_of, to_pandas, value_of
from .batch import form_named
from .checksums import listed_needed
from .result_contract import SEVERAL
from .upstream_rows import Groups, RowsOfUnits

NO_FACTS = frozenset[str](), frozenset[str]()
Make = Callable[[pa.Table], Any]


class UpstreamResults:
    """One parameter of a model's function: made once in a process, asked for each unit.

    Of an earlier model whose key is part of the unit's own, only the rows of a few units are in memory at a time.
    """

    def __init__(
        self, name: str, model: Model, earlier: Model, layout: Layout, store: Store
    ) -> None:
        self.name, self.earlier = name, earlier
        self.own = set(earlier.unit) <= set(model.unit)
        data = listed_needed(store, layout.results(earlier.name), layout.collected(earlier.name))
        self.file = pq.ParquetFile(pa.BufferReader(data))
        self.groups = Groups(self.file)
        annotation = model.annotations.get(name)
        wanted = _as_declared(earlier) if annotation is None else annotation
        self.make = _maker(
            model,
            earlier,
            annotation,
            *(_facts(self.file) if form_named(wanted) == "pandas" else NO_FACTS),
        )
        self._whole: list[Any] = []

    def for_units(self, keys: pa.Table) -> Callable[[int], Any]:
        """A function from a unit's number, in this list of keys, to the value that it is given."""
        if not self.own or not self.earlier.unit:
            return lambda _unit: self.whole()
        rows = RowsOfUnits(self.groups, keys, self.earlier.unit)

        def value(unit: int) -> Any:
            found = rows.of(unit)
            if found is None:
                key = ", ".join(
                    str(value_of(keys.column(name)[unit])) for name in self.earlier.unit
                )
                raise ResultError(
                    f"there is no {self.name} for {key}: that unit of {self.earlier.name} failed, or returned no row"
                )
            return self.make(found)

        return value

    def whole(self) -> Any:
        """The whole table in its form; the same object for all units, so its arrays cannot be written to."""
        if not self._whole:
            self._whole.append(self.make(self.file.read()))
        return self._whole[0]

    def for_many(self, keys: pa.Table) -> Any:
        """For a batch at once: the value where there is one for all units, else a list with one value for each unit."""
        if not self.own or not self.earlier.unit:
            return self.whole()
        value = self.for_units(keys)
        return [value(unit) for unit in range(keys.num_rows)]


def _facts(file: pq.ParquetFile) -> tuple[frozenset[str], frozenset[str]]:
    """The columns that hold a null, and those of them that hold an integer beyond 2**53, on which the types of a frame depend."""
    nullable, large = set[str](), set[str]()
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        nullable |= {name for name in table.column_names if table.column(name).null_count}
        large |= {
            name for name in table.column_names if any(map(has_large, table.column(name).chunks))
        }
    return frozenset(nullable), frozenset(large & nullable)


def check_inputs(model: Model, job: Job) -> None:
    """Raise JobError where a parameter that is given an earlier model's results asks for what they cannot be."""
    for name in model.inputs or ():
        _maker(model, job.model(name), model.annotations.get(name), frozenset(), frozenset())


def _maker(
    model: Model, earlier: Model, annotation: Any, nullable: frozenset[str], large: frozenset[str]
) -> Make:
    """How the rows of the earlier model become what the parameter asks for; the types of a frame's columns depend on all of its rows."""
    wanted = _as_declared(earlier) if annotation is None else annotation
    if form_named(wanted) == "pandas":
        return lambda table: to_pandas(table, nullable, large)
    make = _make_of(earlier, wanted)
    if make is None:
        raise JobError(
            f"model {model.name}: a parameter that is given {earlier.name} is annotated with {annotation}, which is no form of results",
            hint="wanted dict, a dataclass (or the like), list of one of these, a single value (float, ...), pd.DataFrame, pl.DataFrame or pa.Table",
        )
    return make


def _as_declared(earlier: Model) -> Any:
    """What the earlier function declares to return, where a parameter can be that; else one row as a dict."""
    annotation = None if earlier.batched else earlier.annotations["return"]
    return dict if annotation is None or _make_of(earlier, annotation) is None else annotation


def _make_of(earlier: Model, annotation: Any) -> Make | None:
    form = form_named(annotation)
    if unevaluated(annotation) is None:
        try:
            annotation = one_type(annotation)
        except TypeError:
            return None
        if annotation is list or get_origin(annotation) in SEVERAL:
            inner = (get_args(annotation) or (dict,))[0]
            row = _row_maker(inner) if is_contract(inner) else _as_dict
            return lambda table: [row(table.slice(n, 1)) for n in range(table.num_rows)]
        if is_contract(annotation):
            row = _row_maker(annotation)
            return lambda table: _one(earlier, table, row)
        if form is None and _is_value(annotation):
            return lambda table: _one(earlier, table, _single(earlier, annotation))
    if form in ("dict", "light"):
        return lambda table: _one(earlier, table, _as_dict)
    if form == "arrow":
        return lambda table: table
    if form == "pandas":
        return lambda table: to_pandas(table, frozenset())  # _maker knows what is null
    return _polars if form == "polars" else None


def _is_value(annotation: Any) -> bool:
    """Whether a single value can be of this type: float, str, an Enum, ..."""
    try:
        read_column("value", annotation)
    except TypeError:
        return False
    return True


def _single(earlier: Model, annotation: Any) -> Make:
    def single(table: pa.Table) -> Any:
        names = [name for name in table.column_names if name not in earlier.unit]
        if len(names) != 1:
            raise ResultError(
                f"{earlier.name} has the columns {', '.join(names)}, and the parameter takes a single value; annotate it with dict"
            )
        return _value(table.column(names[0]), annotation)

    return single


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
    names = (
        [f.name for f in dataclasses.fields(kind)]
        if dataclasses.is_dataclass(kind)
        else list(hints)
    )
    return lambda table: kind(
        **{
            name: _value(table.column(name), hints[name])
            for name in names
            if name in table.column_names
        }
    )


def _value(column: pa.ChunkedArray, hint: Any) -> Any:
    scalar = column[0]
    if (
        scalar.is_valid
        and pa.types.is_list(column.type)
        and hint is not list
        and get_origin(hint) is not list
    ):
        array = numpy_of(scalar.values, False)
        if not pa.types.is_nested(column.type.value_type):
            array.flags.writeable = False
            return array
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError) as error:
        raise ConversionError(
            f"an earlier result cannot come as a Python value ({error}): it is {value_of(scalar)}; take it as pa.Table"
        ) from error
    return (
        hint(value)
        if isinstance(hint, type) and issubclass(hint, enum.Enum) and value is not None
        else value
    )


def _polars(table: pa.Table) -> Any:
    import polars as pl

    return pl.from_arrow(table)
