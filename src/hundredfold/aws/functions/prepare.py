"""The prepare step on AWS: Athena counts the units and writes the batches.

Each batch is one bucket, identified by its number. A bucket is not a unit, and no hash decides
where a unit goes: units are packed into batches of even cost as on one machine, and rows are
bucketed by the number of their batch, an integer that hashes to itself. Afterwards a query returns
which object holds which batch; object names are not used for that.

A writer of Athena holds at most 100 buckets open. More batches are split in two rounds, whatever
their number: into parts of 100 batches, a bucket each, and then each part into its batches. The
statements of the second round run at the same time, and each reads one bucket of the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from ...contract import quote
from ...data.checksums import put_sealed
from ...data.layout import Layout
from ...data.manifest import ROWS_COLUMN, Manifest, UnitList
from ...data.messages import Batch
from ...data.numpy_columns import MAX_EXACT_INTEGER, UNIT, from_numpy, has_large, to_numpy
from ...data.unit_slices import pack_unit_slices
from ...errors import ConservationError
from ...job import Job, Model
from ...pipeline.measured_costs import CostFunction, costs_by_rows
from ...pipeline.prepare import Packing, manifest_of, query_columns, read_prepared, row_width
from ...pipeline.units import no_rows_error
from ...sql.queries import plain_columns, query_of, unit_sizes
from ...sql_types import sql_type
from ..adapters.athena import AthenaWarehouse, NewTable
from ..adapters.glue_table import PATH_COLUMN
from ..adapters.s3_store import S3Store

BATCH_COLUMN = "__batch"  # the column by which Athena buckets
PART_COLUMN = "__part"  # the column by which it buckets if there are more batches than that
MAX_BUCKETS_PER_WRITER = 100  # buckets that one writer of Athena can hold open


def prepare(
    model: Model,
    job: Job,
    layout: Layout,
    warehouse: AthenaWarehouse,
    store: S3Store,
    *,
    workers: int,
    batch_bytes: int,
    batches: int = 0,
    cores: int = 1,
    costs: CostFunction = costs_by_rows,
) -> Manifest:
    """Split a model's rows into batches of whole units, or return the existing manifest.

    `batches`: the approximate number of batches; 0 for the default. `cores`: of each worker.
    `costs`: of units.
    """
    if (existing := read_prepared(model, job, layout, store)) is not None:
        return existing
    select = query_of(model, job)
    schema = query_columns(model, select, warehouse)
    select = _repeatable(model, plain_columns(select, schema), warehouse)
    units = _count_units(model, select, warehouse)
    max_rows = max(1, batch_bytes // row_width(schema))
    rows = to_numpy(units.column(ROWS_COLUMN), False)
    packing = Packing(model, workers, cores, batches, costs)
    batch_list = packing.pack(units.drop_columns([ROWS_COLUMN]), rows, max_rows)
    columns = [name for name in schema.names if name not in model.unit]
    table = _split(model, select, units, batch_list, columns, warehouse)
    integers = [name for name in columns if pa.types.is_int64(schema.field(name).type)]
    files, nulls, large = _inspect_batches(model, table, batch_list, columns, integers, warehouse)
    large |= {name for name in model.unit if any(map(has_large, units.column(name).chunks))}
    nullable = nulls | {name for name in model.unit if units.column(name).null_count}
    packed, ends, checksums = pack_unit_slices(layout.units(model.name), units, batch_list)
    manifest = replace(
        manifest_of(model, query_of(model, job), rows, batch_list, nullable, large),
        files=tuple(files),
        schema=_batch_schema(schema, columns).serialize().to_pybytes().hex(),
        marks=_marks(files, store),
        unit_ends=ends,
        unit_checksums=checksums,
    )
    _commit(manifest, packed, layout, store)
    return manifest


def _repeatable(model: Model, select: str, warehouse: AthenaWarehouse) -> str:
    """Return a query of the same rows that may run twice, as counting and splitting read them.

    A join or an aggregate is too expensive to compute twice, and a query that depends on time or
    chance returns other rows the second time: their rows are stored.
    """
    if warehouse.reads_rows_once(select):
        return select
    warehouse.materialize(f"__prepared_{model.name}", select)
    return f"SELECT * FROM {quote(f'__prepared_{model.name}')}"


def _commit(manifest: Manifest, units: pa.Buffer, layout: Layout, store: S3Store) -> None:
    """Write the list of units, and after it the manifest, which completes the step."""
    model = manifest.model
    put_sealed(store, layout.units(model), units)
    UnitList.read(layout, model, store)  # an unreadable list of units must not be committed
    store.put(layout.manifest(model), manifest.text(layout.manifest(model)))


def _batch_schema(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return pa.schema(
        [(UNIT, pa.int32()), *(pa.field(name, schema.field(name).type) for name in columns)]
    )


def _marks(files: Sequence[Sequence[str]], store: S3Store) -> tuple[tuple[str, ...], ...]:
    """Return the size and entity tag of each batch's objects, which workers verify."""
    folders = {key.rpartition("/")[0] for keys in files for key in keys}
    known: dict[str, str] = {}
    for folder in folders:
        known |= store.marks(f"{folder}/")
    return tuple(tuple(known[key] for key in keys) for keys in files)


def _count_units(model: Model, select: str, warehouse: AthenaWarehouse) -> pa.Table:
    """Return the units in the order of their keys, each with its number of rows.

    Raises:
        QueryError: there are no units.
    """
    if model.unit:
        counted = warehouse.query(unit_sizes(select, model.unit))
        # sorted again locally: the order must not depend on the engine of the query
        warehouse.register("__counted", counted)
        keys = ", ".join(f"{quote(name)} ASC NULLS LAST" for name in model.unit)
        counted = warehouse.duckdb.query(f"SELECT * FROM __counted ORDER BY {keys}")
        warehouse.drop("__counted")
    else:
        counted = warehouse.query(f"SELECT count(*) AS {ROWS_COLUMN} FROM ({select}) AS q")
    rows = to_numpy(counted.column(ROWS_COLUMN), False).astype(np.int64)
    if not rows.sum():
        raise no_rows_error(model.name)
    return counted.set_column(counted.num_columns - 1, ROWS_COLUMN, from_numpy(rows))


def _split(
    model: Model,
    select: str,
    units: pa.Table,
    batches: Sequence[Batch],
    columns: Sequence[str],
    warehouse: AthenaWarehouse,
) -> str:
    """Create a table with files for each batch; return its name."""
    batch_of_unit = np.repeat(
        np.arange(len(batches), dtype=np.int32), [batch.last - batch.first + 1 for batch in batches]
    )
    listed = units.drop_columns([ROWS_COLUMN])
    for column, values in (
        (UNIT, np.arange(units.num_rows, dtype=np.int32)),
        (BATCH_COLUMN, batch_of_unit),
        (PART_COLUMN, batch_of_unit // MAX_BUCKETS_PER_WRITER),
    ):
        listed = listed.append_column(column, from_numpy(values))
    parts = -(-len(batches) // MAX_BUCKETS_PER_WRITER)
    name, whole = f"__units_{model.name}", f"__batches_{model.name}"
    warehouse.register(name, listed if parts > 1 else listed.drop_columns([PART_COLUMN]))
    numbers = [BATCH_COLUMN, *([PART_COLUMN] if parts > 1 else [])]
    rows = _rows_with_numbers(model, select, columns, name, listed, numbers)
    try:
        if parts > 1:
            _split_in_parts(model, rows, parts, columns, warehouse)
        else:
            buckets = (BATCH_COLUMN, len(batches))
            warehouse.create(whole, rows, buckets=buckets, at=f"{model.name}/all")
        return whole
    finally:
        warehouse.duckdb.drop(name)


def _split_in_parts(
    model: Model, rows: str, parts: int, columns: Sequence[str], warehouse: AthenaWarehouse
) -> None:
    """Split in two rounds: into parts, and each part into its batches."""
    coarse, folder = f"__parts_{model.name}", f"{model.name}/parts"
    buckets = (PART_COLUMN, min(parts, MAX_BUCKETS_PER_WRITER))
    warehouse.create(coarse, rows, buckets=buckets, at=f"{model.name}/coarse")
    names = ", ".join(map(quote, (UNIT, *columns, BATCH_COLUMN)))
    warehouse.create_in_one_folder(
        f"__batches_{model.name}",
        [
            NewTable(
                f"__batches_{model.name}_{part}",
                f"SELECT {names} FROM {quote(coarse)} WHERE {PART_COLUMN} = {part}",
                (BATCH_COLUMN, MAX_BUCKETS_PER_WRITER),
                f"{folder}/{part:04d}",
            )
            for part in range(parts)
        ],
        folder,
    )


def _rows_with_numbers(
    model: Model,
    select: str,
    columns: Sequence[str],
    units: str,
    listed: pa.Table,
    numbers: Sequence[str],
) -> str:
    """Return a query for the rows, with the numbers of their unit and batch in place of the key."""
    rest = "".join(f", q.{quote(name)}" for name in columns)
    if not model.unit:
        return (
            f"SELECT CAST(0 AS INTEGER) AS {UNIT}{rest}, CAST(0 AS INTEGER) AS {BATCH_COLUMN} FROM "
            f"({select}) AS q"
        )
    same = " AND ".join(_equality_sql(name, listed.column(name)) for name in model.unit)
    after = "".join(f", u.{number}" for number in numbers)
    return f"SELECT u.{UNIT}{rest}{after} FROM ({select}) AS q JOIN {quote(units)} AS u ON {same}"


def _equality_sql(name: str, keys: pa.ChunkedArray) -> str:
    """Return an equality that Athena can hash.

    IS NOT DISTINCT FROM would compare every row with every unit. NaN and null are keys like any
    other: each is replaced by a value, next to a comparison of whether it is one.
    """
    sides = [f"{table}.{quote(name)}" for table in "qu"]
    same = []
    if pa.types.is_floating(keys.type) and np.isnan(to_numpy(keys.drop_null(), False)).any():
        same.append(" = ".join(f"coalesce(isnan({side}), FALSE)" for side in sides))
        sides = [f"CASE WHEN isnan({side}) THEN 0e0 ELSE {side} END" for side in sides]
    if keys.null_count:
        same.append(" = ".join(f"({table}.{quote(name)} IS NULL)" for table in "qu"))
        sides = [f"coalesce({side}, {_any_value_sql(keys.type)})" for side in sides]
    return " AND ".join([" = ".join(sides), *same])


def _any_value_sql(kind: pa.DataType) -> str:
    """Return an arbitrary value of a type, in SQL."""
    t = pa.types
    if t.is_null(kind):
        return "0"
    text = (
        "2000-01-01"
        if t.is_date(kind) or t.is_timestamp(kind)
        else "FALSE"
        if t.is_boolean(kind)
        else ""
        if t.is_string(kind) or t.is_binary(kind)
        else "0"
    )
    return f"CAST('{text}' AS {sql_type(kind)})"


def _inspect_batches(
    model: Model,
    table: str,
    batches: Sequence[Batch],
    columns: Sequence[str],
    integers: Sequence[str],
    warehouse: AthenaWarehouse,
) -> tuple[list[tuple[str, ...]], set[str], set[str]]:
    """Return the objects of each batch, the columns with nulls, and the columns with large
    integers.

    Large integers are those of `integers` beyond 2**53.

    Raises:
        ConservationError: a batch has other rows than planned.
    """
    files: defaultdict[int, set[str]] = defaultdict(set)
    rows: defaultdict[int, int] = defaultdict(int)
    nulls: set[str] = set()
    large: set[str] = set()
    counts = "".join(f", count({quote(name)}) AS c{i}" for i, name in enumerate(columns))
    counts += "".join(
        f", min({quote(name)}) AS l{i}, max({quote(name)}) AS h{i}"
        for i, name in enumerate(integers)
    )
    found = warehouse.query(
        f"SELECT {BATCH_COLUMN} AS batch, {quote(PATH_COLUMN)} AS path, count(*) AS n{counts} "
        f"FROM {warehouse.with_path(table)} GROUP BY {BATCH_COLUMN}, {quote(PATH_COLUMN)} "
        "ORDER BY batch, path"
    )
    for row in found.to_pylist():
        files[row["batch"]].add(urlsplit(row["path"]).path.lstrip("/"))
        rows[row["batch"]] += row["n"]
        nulls |= {name for i, name in enumerate(columns) if row[f"c{i}"] < row["n"]}
        large |= {
            name
            for i, name in enumerate(integers)
            if max(-(row[f"l{i}"] or 0), row[f"h{i}"] or 0) > MAX_EXACT_INTEGER
        }
    _refuse_wrong_counts(model, batches, rows)
    return [tuple(sorted(files[b.number])) for b in batches], nulls, large


def _refuse_wrong_counts(model: Model, batches: Sequence[Batch], rows: Mapping[int, int]) -> None:
    """Raise ConservationError if a batch has other rows than planned."""
    wrong = [b for b in batches if rows.get(b.number) != b.rows]
    if wrong or len(rows) != len(batches):
        first = wrong[0] if wrong else batches[0]
        raise ConservationError(
            f"{model.name}: {len(wrong)} of {len(batches)} batches hold other rows than counted; "
            f"batch {first.number}: found {rows.get(first.number, 0):,}, expected {first.rows:,}",
            hint=(
                "check whether a key of the query holds values that Athena rounds, such as times "
                "finer than a millisecond"
            ),
        )
