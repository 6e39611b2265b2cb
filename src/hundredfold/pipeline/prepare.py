"""Step 2. A model's query, once for all units; units packed into batches of even cost; a manifest
that lists them.

Rows are only routed here: each goes to the file of its batch with the number of its unit. Who reads
a batch puts it into canonical order (batch.py), so that sorting runs on all cores and is the same
on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from types import MappingProxyType
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import quote
from ..data.manifest import Manifest, UnitList
from ..data.numpy_columns import UNIT, from_numpy, has_large, take_rows
from ..data.outcomes import LEDGER_SCHEMA
from ..data.row_sizes import row_bytes
from ..errors import ConservationError, HomeError, QueryError, StateError
from ..job import Batch, Job, Layout, Model
from ..ports.interfaces import AppendFiles, AppendStore, Store, StreamingWarehouse
from ..sql.queries import (
    UNIT_COST,
    make_batches,
    plain_columns,
    query_of,
    split_batches,
    with_micros,
)
from .units import UnitIndex, no_rows_error, number_units

# so many batches for each worker: few enough to cost nothing, and the last are shared out among
# idle workers
BATCHES_PER_WORKER = 12
# what a batch costs at least, unless a worker would have none: a message costs a few milliseconds
MIN_BATCH_COST = 20_000.0
ROW_COPIES = 3  # of its columns that a row takes while it is sorted and handed over
ROW_OVERHEAD_BYTES = 24  # and beside them
UNKNOWN_VALUE_BYTES = 48  # of a value whose length is not known
MIN_SAMPLE_ROWS, MAX_SAMPLE_ROWS, MAX_SAMPLE_BYTES = (
    20,
    2_000,
    2**23,
)  # rows that are looked at for the lengths of values
MIN_STREAM_ROWS, MAX_STREAM_ROWS, STREAM_BATCH_BYTES = (
    64,
    250_000,
    2**24,
)  # rows that are split at a time, and about how many bytes of them
UNIT_STATE_BYTES = (
    32  # that the driver holds of each unit at a time: its rows, its batch, its bytes, its outcome
)
# fewer where the function takes a batch at once: what it does for all units of a call, it does as
# rarely
BATCHED_BATCHES_PER_WORKER = 3


class QueryDescriber(Protocol):
    """What can say of which columns a query is."""

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
    defer: Callable[[Callable[[], None]], object] = lambda settle: settle(),
) -> Manifest:
    """Split a model's rows into batches that hold whole units and at most about `batch_bytes` each,
    or take what is there.

    memory: bytes that what is kept of each unit may take; HomeError where the units are too many
    for it. What is handed to `later` waits for the disk, and then commits: workers may begin before
    it has, since whoever finds no commit does all of this again, and their work with it.
    """
    there = read_prepared(model, job, layout, store)
    if there is not None:
        return there
    store.delete(layout.model(model.name))
    select = query_of(model, job)
    schema = query_columns(model, select, warehouse)
    select, schema = with_micros(plain_columns(select, schema), schema)
    kept = not warehouse.is_plain(select)
    if kept:  # a join or an aggregate is not worth doing twice
        warehouse.materialize("__prepared", select)
        select = "SELECT * FROM __prepared"
    index = number_units(model.name, model.unit, select, schema, warehouse, memory)
    listed = store.append_files(layout.model(model.name))
    units = _list_units(model, index, select, schema, layout, warehouse, store, listed)
    _refuse_too_many(model, len(units), memory)
    index.set_units(units.table)
    rows = units.rows
    held = [name for name in schema.names if name not in model.unit]
    value_bytes = sample_value_bytes(
        select, [name for name in held if not _is_fixed(schema.field(name).type)], warehouse
    )
    width = row_width(schema, value_bytes)
    batches = make_batches(
        rows, parts=target_batches(model, rows, workers), most_rows=max(1, batch_bytes // width)
    )
    total = int(rows.sum())
    del rows  # of each unit, and there may be millions
    files = store.append_files(layout.model(model.name))
    with closing(files):
        nullable, large, size = _write_batches(
            model, index, units.keys, schema, batches, layout, warehouse, files, width
        )
        batches = split_batches(batches, size, batch_bytes) if value_bytes else batches
        manifest = Manifest(
            model.name,
            tuple(model.unit),
            tuple(model.order_by),
            len(units),
            total,
            nullable,
            tuple(batches),
            query_of(model, job),
            large=large,
        )
        files.put(
            _relative_key(layout, model, layout.manifest_draft(model.name)),
            manifest.text(layout.manifest_draft(model.name)),
        )
        files.end()
    for name in (*index.tables, "__prepared"):
        warehouse.drop(name)

    def commit() -> None:
        listed.sync()
        files.sync()
        store.put(layout.manifest(model.name), manifest.text(layout.manifest(model.name)))

    defer(commit)
    return manifest


def _list_units(
    model: Model,
    index: UnitIndex,
    select: str,
    schema: pa.Schema,
    layout: Layout,
    warehouse: StreamingWarehouse,
    store: AppendStore,
    files: AppendFiles,
) -> UnitList:
    """Write the units, a part at a time, and read the list back: a mapped file, where the store has
    one.
    """
    varied = [name for name in model.unit if not _is_fixed(schema.field(name).type)]
    keys = pa.schema([schema.field(name) for name in model.unit])
    value_bytes = sample_value_bytes(select, varied, warehouse)
    width = row_width(keys, value_bytes)
    found = 0
    with closing(files):
        for part in index.batches_of_units(
            max(MIN_STREAM_ROWS, min(MAX_STREAM_ROWS, STREAM_BATCH_BYTES * ROW_COPIES // width))
        ):
            files.add(_relative_key(layout, model, layout.units(model.name)), part)
            found += part.num_rows
        if not found:
            raise no_rows_error(model.name)
        files.end()
    return UnitList.read(layout, model.name, store)


def _refuse_too_many(model: Model, units: int, memory: int | None) -> None:
    """HomeError where what is kept of each unit does not fit."""
    needed = units * UNIT_STATE_BYTES
    if memory is not None and needed > memory:
        raise HomeError(
            f"{model.name} has {units:,} units, and of each the run keeps {UNIT_STATE_BYTES} "
            f"bytes in memory: {needed / 2**20:,.0f} MiB, where --memory leaves "
            f"{memory / 2**20:,.0f} MiB for that",
            hint="raise --memory, or let a unit be more rows: a coarser key, with the function "
            "working through its groups",
        )


def target_batches(model: Model, rows: NDArray[np.int64], workers: int) -> int:
    """How many batches: a few for each worker, but of a small job no more than pay for themselves."""
    if model.batched:
        return workers * BATCHED_BATCHES_PER_WORKER
    cost = float(rows.sum()) + UNIT_COST * len(rows)
    return max(workers, min(workers * BATCHES_PER_WORKER, int(cost / MIN_BATCH_COST)))


def read_prepared(model: Model, job: Job, layout: Layout, store: Store) -> Manifest | None:
    """What an earlier driver prepared; StateError if the model was declared otherwise then."""
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
            f"{model.name} was prepared under another declaration in run {layout.run}",
            problems=other,
            hint="run the job again: a run has one declaration",
        )
    return manifest


def query_columns(model: Model, select: str, warehouse: QueryDescriber) -> pa.Schema:
    """The query's columns; QueryError for a query that cannot run, or a key that it does not give."""
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
        raise QueryError(
            f"the query of {model.name} gives {', '.join(schema.names)}; not among them:",
            problems=missing,
            hint="select the column in the query, or take it out of the model",
        )
    reserved = [name for name in schema.names if name.startswith("__")]
    small = [name.lower() for name in schema.names]  # SQL takes Week and week for one
    if reserved or len(set(small)) < len(small):
        twice = [name for name in schema.names if small.count(name.lower()) > 1]
        raise QueryError(
            f"the query of {model.name} has columns that cannot be used: "
            f"{', '.join(reserved + twice)}",
            hint="a name must stand once, and not begin with __",
        )
    taken = [name for name in model.unit if name in LEDGER_SCHEMA.names]
    if taken:
        raise QueryError(
            f"the unit of {model.name} has columns named {', '.join(taken)}, as the account of "
            "every unit has",
            hint=f"name it otherwise in the query: {taken[0]} AS {model.name}_{taken[0]}",
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
            hint="a key is made of texts, numbers, dates and times",
        )
    return schema


def _write_batches(
    model: Model,
    index: UnitIndex,
    keys: pa.Table,
    schema: pa.Schema,
    batches: Sequence[Batch],
    layout: Layout,
    warehouse: StreamingWarehouse,
    files: AppendFiles,
    width: int,
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.int64]]:
    """Every row to the file of its batch, in one stream; the columns that hold a null, those of
    integers beyond 2**53, and about how many bytes each unit takes in a worker (0 where all columns
    are of a fixed width).
    """
    columns = [name for name in schema.names if name not in model.unit]
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
    varied = not all(_is_fixed(schema.field(name).type) for name in columns)
    for chunk in warehouse.stream(
        index.query(columns),
        max(MIN_STREAM_ROWS, min(MAX_STREAM_ROWS, STREAM_BATCH_BYTES * ROW_COPIES // width)),
    ):
        routed += chunk.num_rows
        nullable |= {
            f.name
            for f, column in zip(chunk.schema, chunk.columns, strict=True)
            if column.null_count
        }
        large |= {
            f.name
            for f, column in zip(chunk.schema, chunk.columns, strict=True)
            if f.name not in large and has_large(column)
        }
        numbers = index.unit_numbers(chunk.column(0))
        if varied:
            np.add.at(size, numbers, ROW_COPIES * row_bytes(chunk) + ROW_OVERHEAD_BYTES)
        for which, part in _split_by_batch(
            chunk.set_column(0, UNIT, from_numpy(numbers)), numbers, batch_of_unit
        ):
            files.add(names[which], part)
    planned = sum(batch.rows for batch in batches)
    if routed != planned:
        raise ConservationError(
            f"{model.name}: the query gave {planned:,} rows when they were counted and {routed:,} "
            "when they were split",
            hint="does the query depend on chance or on time? A query must give the same rows "
            "each time",
        )
    return tuple(sorted(nullable)), tuple(sorted(large)), size


def _split_by_batch(
    chunk: pa.RecordBatch, numbers: NDArray[np.int32], batch_of_unit: NDArray[np.uint32]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each batch; `lies_in` says for each unit in which batch it lies, shape (units,)."""
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
    """About how many bytes a row takes in memory while it is sorted and handed over: its columns,
    three times.

    lengths: bytes of a value of each column whose values differ in length, where they are known.
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
    """About how many bytes a value takes of each of these columns, whose values differ in length:
    as the first rows have it.

    What rows really take is counted when they are split; this only keeps what is read at a time
    small.
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
        with suppress(HomeError):  # later ones are so long that they do not fit: the first must do
            rows = warehouse.query(f"{some} {more}")
    return {
        name: int(row_bytes(rows.select([name])).sum()) // max(rows.num_rows, 1) for name in columns
    }


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _relative_key(layout: Layout, model: Model, key: str) -> str:
    """A key of the model as a name below its prefix."""
    return key.removeprefix(layout.model(model.name) + "/")


def pack_units(units: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, units.schema) as writer:
        writer.write_table(units)
    return sink.getvalue()
