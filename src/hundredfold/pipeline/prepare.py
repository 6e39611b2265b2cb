"""Step 2. Runs a model's query once for all units, and packs the units into batches.

The batches have about the same cost, and a manifest lists them. Rows are only routed here: each
goes to the file of its batch, with the number of its unit. The reader of a batch sorts it into
canonical order (data/row_order.py), so that sorting uses all cores and gives the same rows on every
backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import quote
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList
from ..data.messages import Batch
from ..data.numpy_columns import UNIT, from_numpy, has_large, take_rows
from ..data.outcomes import STATUS_SCHEMA
from ..data.row_sizes import row_bytes
from ..errors import ConservationError, HomeError, QueryError, StateError
from ..job import Job, Model
from ..ports.interfaces import AppendFiles, AppendStore, Store, StreamingWarehouse
from ..sql.queries import (
    UNIT_COST,
    make_batches,
    plain_columns,
    query_of,
    split_batches,
    with_micros,
)
from .measured_costs import CostFunction, UnitCosts, costs_by_rows
from .units import UnitIndex, no_rows_error, number_units

# few enough to cost nothing; idle workers share the last ones
BATCHES_PER_WORKER = 12
# the minimum, unless a worker would get no batch: a message costs a few milliseconds
MIN_BATCH_COST = 20_000.0
MIN_BATCH_S = 0.5  # the same in measured seconds, where there are any
ROW_COPIES = 3  # copies of a row's columns while it is sorted and passed to the function
ROW_OVERHEAD_BYTES = 24  # of each row, in addition
UNKNOWN_VALUE_BYTES = 48  # of a value whose length is not known
# rows that are read to estimate the lengths of values
MIN_SAMPLE_ROWS, MAX_SAMPLE_ROWS, MAX_SAMPLE_BYTES = 20, 2_000, 2**23
# rows that are routed at a time, and their approximate bytes
MIN_STREAM_ROWS, MAX_STREAM_ROWS, STREAM_BATCH_BYTES = 64, 250_000, 2**24
# of each unit, in the driver: its rows, its batch, its bytes, its outcome
UNIT_STATE_BYTES = 32
# where the function takes a whole batch: fewer, since it has a cost per call
BATCHED_BATCHES_PER_WORKER = 3


class QueryDescriber(Protocol):
    """A warehouse that returns the columns of a query."""

    def columns(self, select: str) -> pa.Schema: ...


def prepare(
    model: Model,
    job: Job,
    layout: Layout,
    warehouse: StreamingWarehouse,
    store: AppendStore,
    *,
    workers: int,
    batch_bytes: int,
    memory: int | None = None,
    batches: int = 0,
    cores: int = 1,
    costs: CostFunction = costs_by_rows,
    defer: Callable[[Callable[[], None]], object] = lambda commit: commit(),
) -> Manifest:
    """Split the rows of a model into batches of whole units, or return the manifest that exists.

    batch_bytes: the approximate maximum of a batch. memory: bytes for the state of all units.
    batches: their approximate number; 0 for the default. cores: of each worker. costs: of units.
    defer: is passed a function that waits for the disk and then commits. Workers may start
    before it: a driver that finds no commit repeats this step, and they their work.
    Raises: HomeError where there are too many units for `memory`.
    """
    if (existing := read_prepared(model, job, layout, store)) is not None:
        return existing
    store.delete(layout.model(model.name))
    query = _query_of_rows(model, job, warehouse)
    index = number_units(model.name, model.unit, query.select, query.schema, warehouse, memory)
    listed = store.append_files(layout.model(model.name))
    units = _list_units(query, index, layout, warehouse, store, listed)
    _refuse_too_many(model, len(units), memory)
    index.set_units(units.table)
    query = _with_width(query, warehouse)
    packing = Packing(model, workers, cores, batches, costs)
    planned = packing.pack(units.keys, units.rows, max(1, batch_bytes // query.width))
    files = store.append_files(layout.model(model.name))
    with closing(files):
        nullable, large, size = _write_batches(
            query, index, units.keys, planned, layout, warehouse, files
        )
        planned = split_batches(planned, size, batch_bytes) if query.varied else planned
        manifest = manifest_of(model, query_of(model, job), units.rows, planned, nullable, large)
        _end_with_draft(manifest, layout, model, files)
    for name in (*index.tables, "__prepared"):
        warehouse.drop(name)
    defer(_commit_of(manifest, layout, (listed, files), store))
    return manifest


def manifest_of(
    model: Model,
    query: str,
    rows: NDArray[np.int64],
    batches: Sequence[Batch],
    nullable: Iterable[str],
    large: Iterable[str],
) -> Manifest:
    """Return the manifest of batches. rows: of each unit. nullable, large: columns of Manifest."""
    return Manifest(
        model.name,
        tuple(model.unit),
        tuple(model.order_by),
        len(rows),
        int(rows.sum()),
        tuple(sorted(nullable)),
        tuple(batches),
        query,
        large=tuple(sorted(large)),
    )


@dataclass(frozen=True, slots=True)
class Packing:
    """How units are packed into batches. batches: their approximate number; 0 for the default."""

    model: Model
    workers: int
    cores: int
    batches: int
    costs: CostFunction

    def pack(self, keys: pa.Table, rows: NDArray[np.int64], most_rows: int) -> list[Batch]:
        """Return batches of even cost. keys, rows: of the units, in order."""
        measured = self.costs(keys, rows)
        parts = self.batches or target_batches(self.model, rows, self.workers, self.cores, measured)
        in_rows = measured.in_rows(rows) if measured else None
        return make_batches(rows, parts=parts, most_rows=most_rows, costs=in_rows)


def _end_with_draft(manifest: Manifest, layout: Layout, model: Model, files: AppendFiles) -> None:
    """Write the manifest beside the batches, for workers that start before the commit."""
    draft = layout.manifest_draft(model.name)
    files.put(_relative_key(layout, model, draft), manifest.text(draft))
    files.end()


def _commit_of(
    manifest: Manifest, layout: Layout, files: Sequence[AppendFiles], store: Store
) -> Callable[[], None]:
    """Return a function that waits for the disk, and then commits with the manifest."""

    def commit() -> None:
        for each in files:
            each.sync()
        key = layout.manifest(manifest.model)
        store.put(key, manifest.text(key))

    return commit


@dataclass(frozen=True, slots=True)
class RowQuery:
    """The rows of a model, as a query that is cheap to run twice.

    varied: the columns beside the key whose values have no fixed width. width: the approximate
    bytes of a row, once they are measured.
    """

    model: Model
    select: str
    schema: pa.Schema
    varied: Sequence[str]
    width: int = 0

    @property
    def columns(self) -> list[str]:
        """The columns beside the key."""
        return [name for name in self.schema.names if name not in self.model.unit]


def _query_of_rows(model: Model, job: Job, warehouse: StreamingWarehouse) -> RowQuery:
    select = query_of(model, job)
    schema = query_columns(model, select, warehouse)
    select, schema = with_micros(plain_columns(select, schema), schema)
    # a join or an aggregate is too expensive to compute twice, and chance gives other rows then
    if not warehouse.is_plain(select):
        warehouse.materialize("__prepared", select)
        select = "SELECT * FROM __prepared"
    varied = [
        field.name for field in schema if field.name not in model.unit and not _is_fixed(field.type)
    ]
    return RowQuery(model, select, schema, varied)


def _with_width(query: RowQuery, warehouse: StreamingWarehouse) -> RowQuery:
    value_bytes = sample_value_bytes(query.select, query.varied, warehouse)
    return replace(query, width=row_width(query.schema, value_bytes))


def _rows_per_read(width: int) -> int:
    """Return how many rows of a width are read at a time."""
    return max(MIN_STREAM_ROWS, min(MAX_STREAM_ROWS, STREAM_BATCH_BYTES * ROW_COPIES // width))


def _list_units(
    query: RowQuery,
    index: UnitIndex,
    layout: Layout,
    warehouse: StreamingWarehouse,
    store: AppendStore,
    files: AppendFiles,
) -> UnitList:
    """Write the units, some at a time, and read the list back: as a mapped file where the store has
    one.
    """
    model = query.model
    keys = pa.schema([query.schema.field(name) for name in model.unit])
    varied = [field.name for field in keys if not _is_fixed(field.type)]
    width = row_width(keys, sample_value_bytes(query.select, varied, warehouse))
    found = 0
    with closing(files):
        for part in index.batches_of_units(_rows_per_read(width)):
            files.add(_relative_key(layout, model, layout.units(model.name)), part)
            found += part.num_rows
        if not found:
            raise no_rows_error(model.name)
        files.end()
    return UnitList.read(layout, model.name, store)


def _refuse_too_many(model: Model, units: int, memory: int | None) -> None:
    """Raise HomeError if the state of all units does not fit into memory."""
    needed = units * UNIT_STATE_BYTES
    if memory is not None and needed > memory:
        raise HomeError(
            f"{model.name} has {units:,} units, and the run keeps {UNIT_STATE_BYTES} bytes of "
            f"memory for each: {needed / 2**20:,.0f} MiB, where --memory leaves "
            f"{memory / 2**20:,.0f} MiB for that",
            hint="raise --memory, or use a coarser key, so that a unit has more rows and the "
            "function loops over its groups",
        )


def target_batches(
    model: Model,
    rows: NDArray[np.int64],
    workers: int,
    cores: int = 1,
    costs: UnitCosts | None = None,
) -> int:
    """Return the number of batches: a few for each worker, fewer for a small job.

    cores: of one worker. costs: as measured in an earlier run. A batch has at least as many units,
    so that no core is idle, where the model has enough of them.
    """
    return max(1, min(_wanted_batches(model, rows, workers, costs), len(rows) // cores))


def _wanted_batches(
    model: Model, rows: NDArray[np.int64], workers: int, costs: UnitCosts | None
) -> int:
    if model.batched:
        return workers * BATCHED_BATCHES_PER_WORKER
    cost = float(rows.sum()) + UNIT_COST * len(rows)
    worthwhile = int(cost / MIN_BATCH_COST)
    if costs is not None:
        worthwhile = max(worthwhile, int(float(costs.seconds.sum()) / MIN_BATCH_S))
    return max(workers, min(workers * BATCHES_PER_WORKER, worthwhile))


def read_prepared(model: Model, job: Job, layout: Layout, store: Store) -> Manifest | None:
    """Return the manifest that an earlier driver made, or None.

    Raises: StateError if the model was declared differently then.
    """
    try:
        manifest = Manifest.read(layout, model.name, store, settled=True)
    except KeyError:
        return None
    now = {
        "unit": tuple(model.unit),
        "order_by": tuple(model.order_by),
        "query": query_of(model, job),
    }
    other = [
        f"{name}: {getattr(manifest, name)!r} then, {value!r} now"
        for name, value in now.items()
        if getattr(manifest, name) != value
    ]
    if other:
        raise StateError(
            f"{model.name} was prepared with another declaration in run {layout.run}",
            problems=other,
            hint="run the job again: a run has one declaration",
        )
    return manifest


def query_columns(model: Model, select: str, warehouse: QueryDescriber) -> pa.Schema:
    """Return the columns of the query.

    Raises: QueryError for a query that cannot run, or that lacks a column of the key.
    """
    try:
        schema = warehouse.columns(select)
    except QueryError as error:
        raise QueryError(
            f"the query of {model.name} cannot run: {error.message}",
            hint=f"it is {getattr(model.query, 'file', model.query)}" if model.query else None,
        ) from error
    missing = [
        f"{name}: named by {what}"
        for what, names in (("unit", model.unit), ("order_by", model.order_by))
        for name in names
        if name not in schema.names
    ]
    if missing:
        found, change = f"the query of {model.name} gives", "select the column in the query"
        if model.query is None:
            found, change = f"the rows of {model.name} have", "add the column to the source"
        raise QueryError(
            f"{found} {', '.join(schema.names)}; not among them:",
            problems=missing,
            hint=f"{change}, or remove it from the model",
        )
    reserved = [name for name in schema.names if name.startswith("__")]
    small = [name.lower() for name in schema.names]  # SQL does not distinguish Week and week
    if reserved or len(set(small)) < len(small):
        twice = [name for name in schema.names if small.count(name.lower()) > 1]
        raise QueryError(
            f"the query of {model.name} has columns that cannot be used: "
            f"{', '.join(reserved + twice)}",
            hint="a name must occur once, and must not begin with __",
        )
    _refuse_key(model, schema)
    return schema


def _refuse_key(model: Model, schema: pa.Schema) -> None:
    """Raise QueryError for columns that cannot be a key, by their name or type."""
    taken = [name for name in model.unit if name in STATUS_SCHEMA.names]
    if taken:
        raise QueryError(
            f"the unit of {model.name} has columns named {', '.join(taken)}, which are reserved "
            "for the status of a unit",
            hint=f"rename it in the query: {taken[0]} AS {model.name}_{taken[0]}",
        )
    odd = [
        name
        for name in model.unit
        if pa.types.is_nested(schema.field(name).type)
        or pa.types.is_interval(schema.field(name).type)
    ]
    if odd:
        raise QueryError(
            f"the unit of {model.name} has columns of lists, structs or intervals: "
            f"{', '.join(odd)}",
            hint="a key consists of texts, numbers, dates and times",
        )


def _write_batches(
    query: RowQuery,
    index: UnitIndex,
    keys: pa.Table,
    batches: Sequence[Batch],
    layout: Layout,
    warehouse: StreamingWarehouse,
    files: AppendFiles,
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.int64]]:
    """Write every row to the file of its batch, in one stream.

    Returns the columns that have a null, the columns that have an integer beyond 2**53, and the
    approximate bytes of each unit in a worker (0 where all columns have a fixed width).
    """
    model = query.model
    batch_of_unit = np.repeat(
        np.arange(len(batches), dtype=np.uint32),
        [batch.last - batch.first + 1 for batch in batches],
    )
    nullable = {name for name in model.unit if keys.column(name).null_count}
    large = {name for name in model.unit if any(map(has_large, keys.column(name).chunks))}
    routed = 0
    names = [
        _relative_key(layout, model, layout.batch(model.name, batch.number)) for batch in batches
    ]
    size = np.zeros(len(batch_of_unit), np.int64)
    for chunk in warehouse.stream(index.query(query.columns), _rows_per_read(query.width)):
        routed += chunk.num_rows
        named = list(zip(chunk.schema.names, chunk.columns, strict=True))
        nullable |= {name for name, column in named if column.null_count}
        large |= {name for name, column in named if name not in large and has_large(column)}
        numbers = index.unit_numbers(chunk.column(0))
        if query.varied:
            np.add.at(size, numbers, ROW_COPIES * row_bytes(chunk) + ROW_OVERHEAD_BYTES)
        for which, part in _split_by_batch(
            chunk.set_column(0, UNIT, from_numpy(numbers)), numbers, batch_of_unit
        ):
            files.add(names[which], part)
    _refuse_other_total(model, sum(batch.rows for batch in batches), routed)
    return tuple(sorted(nullable)), tuple(sorted(large)), size


def _refuse_other_total(model: Model, planned: int, routed: int) -> None:
    """Raise ConservationError where a query returned another number of rows the second time."""
    if routed != planned:
        raise ConservationError(
            f"{model.name}: the query gave {planned:,} rows when they were counted and {routed:,} "
            "when they were split",
            hint="does the query depend on chance or on the time? A query must return the same "
            "rows each time",
        )


def _split_by_batch(
    chunk: pa.RecordBatch, numbers: NDArray[np.int32], batch_of_unit: NDArray[np.uint32]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of each batch. batch_of_unit: the batch of each unit, of shape (units,)."""
    if not chunk.num_rows:
        return
    number = batch_of_unit.take(numbers)
    order = np.argsort(
        number.astype(np.uint16) if batch_of_unit[-1] < 2**16 else number, kind="stable"
    )  # 16 bits: radix sort
    moved = pa.RecordBatch.from_arrays(
        [take_rows(column, order) for column in chunk.columns], schema=chunk.schema
    )
    counts = np.bincount(number)
    stops = np.cumsum(counts)
    for which in np.flatnonzero(counts).tolist():
        yield which, moved.slice(int(stops[which] - counts[which]), int(counts[which]))


def row_width(schema: pa.Schema, value_bytes: Mapping[str, int] = MappingProxyType({})) -> int:
    """Return the approximate bytes of a row while it is sorted and passed on: its columns, three
    times.

    value_bytes: the bytes of a value, for columns of variable width where they are known.
    """
    fixed = sum(field.type.bit_width // 8 + 1 for field in schema if _is_fixed(field.type))
    varied = sum(
        max(value_bytes.get(field.name, 0), UNKNOWN_VALUE_BYTES)
        for field in schema
        if not _is_fixed(field.type)
    )
    return int(ROW_COPIES * (fixed + varied) + ROW_OVERHEAD_BYTES)


def sample_value_bytes(
    select: str, columns: Sequence[str], warehouse: StreamingWarehouse
) -> dict[str, int]:
    """Estimate the bytes of a value of each of these columns of variable width from the first rows.

    The exact sizes are counted when rows are routed; the estimate only keeps each read small.
    """
    if not columns:
        return {}
    some = f"SELECT {', '.join(map(quote, columns))} FROM ({select}) AS q LIMIT"
    rows = warehouse.query(f"{some} {MIN_SAMPLE_ROWS}")
    more = min(
        MAX_SAMPLE_ROWS,
        MAX_SAMPLE_BYTES // max(int(row_bytes(rows).sum()) // max(rows.num_rows, 1), 1),
    )
    if more > rows.num_rows == MIN_SAMPLE_ROWS:
        with suppress(HomeError):  # later values are too long to fit, so the first ones must do
            rows = warehouse.query(f"{some} {more}")
    return {
        name: int(row_bytes(rows.select([name])).sum()) // max(rows.num_rows, 1) for name in columns
    }


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _relative_key(layout: Layout, model: Model, key: str) -> str:
    """Return a key of the model relative to its prefix."""
    return key.removeprefix(layout.model(model.name) + "/")
