"""Step 2 on AWS.

Athena counts the units and writes the batches: one bucket for each batch, by our own number of it.

A bucket is not a unit, and no hash decides where a unit goes: units are packed into batches of even
cost as on one machine, and rows are bucketed by the number of their batch, an integer that hashes
to itself. Which object holds which batch is asked of Athena afterwards, and not read from names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from ...contract import quote
from ...data.checksums import put_sealed
from ...data.manifest import ROWS_COLUMN, Manifest, UnitList
from ...data.numpy_columns import MAX_EXACT_INTEGER, UNIT, from_numpy, has_large, to_numpy
from ...errors import ConservationError, QueryError
from ...job import Batch, Job, Layout, Model
from ...pipeline.prepare import pack_units, query_columns, read_prepared, row_width, target_batches
from ...sql.queries import make_batches, plain_columns, query_of, unit_sizes
from ..adapters.athena import AthenaWarehouse
from ..adapters.glue_table import PATH
from ..adapters.glue_types import duck_type
from ..adapters.s3_store import S3Store

BATCH = "__batch"  # the column by which Athena buckets
WRITERS = 100  # buckets that one writer of Athena can hold open
TOO_MANY = "HIVE_TOO_MANY_OPEN_PARTITIONS"


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
) -> Manifest:
    """Split a model's rows into batches that hold whole units, or take what is there.

    `batches`: about so many, if not 0.
    """
    there = read_prepared(model, job, layout, store)
    if there is not None:
        return there
    select = query_of(model, job)
    schema = query_columns(model, select, warehouse)
    select = plain_columns(select, schema)
    kept = f"__prepared_{model.name}"
    # counted and split from the same rows: a query may depend on time, and Athena is paid by the
    # scan
    warehouse.materialize(kept, select)
    select = f"SELECT * FROM {quote(kept)}"
    units = _units(model, select, warehouse)
    rows = to_numpy(units.column(ROWS_COLUMN), False)
    cut = make_batches(
        rows,
        parts=batches or target_batches(model, rows, workers),
        most_rows=max(1, batch_bytes // row_width(schema)),
    )
    columns = [name for name in schema.names if name not in model.unit]
    tables = _split(model, select, units, cut, columns, warehouse)
    integers = [name for name in columns if pa.types.is_int64(schema.field(name).type)]
    files, nulls, large = _look(model, tables, cut, columns, integers, warehouse)
    large |= {name for name in model.unit if any(map(has_large, units.column(name).chunks))}
    nullable = nulls | {name for name in model.unit if units.column(name).null_count}
    held = pa.schema(
        [(UNIT, pa.int32()), *(pa.field(name, schema.field(name).type) for name in columns)]
    )
    manifest = Manifest(
        model.name, tuple(model.unit), tuple(model.order_by), len(rows), int(rows.sum()), tuple(sorted(nullable)), tuple(cut), query_of(model, job),
        tuple(files), held.serialize().to_pybytes().hex(), tuple(sorted(large)), _marks(files, store),
    )  # fmt: skip
    put_sealed(store, layout.units(model.name), pack_units(units))
    UnitList.read(layout, model.name, store)  # what cannot be read back must not be committed
    store.put(layout.manifest(model.name), manifest.text(layout.manifest(model.name)))
    return manifest


def _marks(files: Sequence[Sequence[str]], store: S3Store) -> tuple[tuple[str, ...], ...]:
    """The size and entity tag of each batch's objects: workers take no other object in their place."""
    folders = {key.rpartition("/")[0] for keys in files for key in keys}
    known: dict[str, str] = {}
    for folder in folders:
        known |= store.marks(f"{folder}/")
    return tuple(tuple(known[key] for key in keys) for keys in files)


def _units(model: Model, select: str, warehouse: AthenaWarehouse) -> pa.Table:
    """The units in the order of their keys, and how many rows each has; QueryError if there is
    none.
    """
    if model.unit:
        counted = warehouse.query(unit_sizes(select, model.unit))
        warehouse.register(
            "__counted", counted
        )  # sorted again here: it must be the same order whoever ran the query
        keys = ", ".join(f"{quote(name)} ASC NULLS LAST" for name in model.unit)
        counted = warehouse.here.query(f"SELECT * FROM __counted ORDER BY {keys}")
        warehouse.drop("__counted")
    else:
        counted = warehouse.query(f"SELECT count(*) AS {ROWS_COLUMN} FROM ({select}) AS q")
    rows = to_numpy(counted.column(ROWS_COLUMN), False).astype(np.int64)
    if not rows.sum():
        raise QueryError(
            f"the query of {model.name} gives no row",
            hint="run the query by itself; is a filter or a join too narrow?",
        )
    return counted.set_column(counted.num_columns - 1, ROWS_COLUMN, from_numpy(rows))


def _split(
    model: Model,
    select: str,
    units: pa.Table,
    batches: Sequence[Batch],
    columns: Sequence[str],
    warehouse: AthenaWarehouse,
) -> list[str]:
    """Tables with a file for each batch: one table, or several where Athena refuses to write so
    many buckets at a time.
    """
    lies_in = np.repeat(
        np.arange(len(batches), dtype=np.int32), [batch.last - batch.first + 1 for batch in batches]
    )
    listed = units.drop_columns([ROWS_COLUMN])
    listed = listed.append_column(
        UNIT, from_numpy(np.arange(units.num_rows, dtype=np.int32))
    ).append_column(BATCH, from_numpy(lies_in))
    name = f"__units_{model.name}"
    warehouse.register(name, listed)
    rows = _numbered(model, select, columns, name, listed)
    try:
        whole = f"__batches_{model.name}"
        try:
            at = f"{model.name}/all"
            warehouse.create(whole, rows, buckets=(BATCH, len(batches)), at=at)
        except QueryError as error:
            if not warehouse.failed(error, TOO_MANY):
                raise
            return _split_in_parts(model, rows, len(batches), warehouse)
        return [whole]
    finally:
        warehouse.here.drop(name)


def _split_in_parts(model: Model, rows: str, batches: int, warehouse: AthenaWarehouse) -> list[str]:
    """So many statements that none writes more buckets than one writer can hold open."""
    parts = -(-batches // WRITERS)
    tables = []
    for part in range(parts):
        name = f"__batches_{model.name}_{part}"
        some = (
            f"SELECT * FROM ({rows}) AS b WHERE {BATCH} >= {part * WRITERS} AND {BATCH} < "
            f"{(part + 1) * WRITERS}"
        )
        warehouse.create(name, some, buckets=(BATCH, WRITERS), at=f"{model.name}/part-{part:04d}")
        tables.append(name)
    return tables


def _numbered(
    model: Model, select: str, columns: Sequence[str], units: str, listed: pa.Table
) -> str:
    """The rows with the numbers of their unit and batch instead of the key."""
    rest = "".join(f", q.{quote(name)}" for name in columns)
    if not model.unit:
        return (
            f"SELECT CAST(0 AS INTEGER) AS {UNIT}{rest}, CAST(0 AS INTEGER) AS {BATCH} FROM "
            f"({select}) AS q"
        )
    same = " AND ".join(_same(name, listed.column(name)) for name in model.unit)
    return (
        f"SELECT u.{UNIT}{rest}, u.{BATCH} FROM ({select}) AS q JOIN {quote(units)} AS u ON {same}"
    )


def _same(name: str, keys: pa.ChunkedArray) -> str:
    """Equality that Athena can hash: IS NOT DISTINCT FROM would compare every row with every unit.
    NaN and null are keys like any other, and each stands for a value beside the question whether it
    is one.
    """
    sides = [f"{table}.{quote(name)}" for table in "qu"]
    same = []
    if pa.types.is_floating(keys.type) and np.isnan(to_numpy(keys.drop_null(), False)).any():
        same.append(" = ".join(f"coalesce(isnan({side}), FALSE)" for side in sides))
        sides = [f"CASE WHEN isnan({side}) THEN 0e0 ELSE {side} END" for side in sides]
    if keys.null_count:
        same.append(" = ".join(f"({table}.{quote(name)} IS NULL)" for table in "qu"))
        sides = [f"coalesce({side}, {_any_value(keys.type)})" for side in sides]
    return " AND ".join([" = ".join(sides), *same])


def _any_value(kind: pa.DataType) -> str:
    """Some value of a type, in SQL."""
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
    return f"CAST('{text}' AS {duck_type(kind)})"


def _look(
    model: Model,
    tables: Sequence[str],
    batches: Sequence[Batch],
    columns: Sequence[str],
    integers: Sequence[str],
    warehouse: AthenaWarehouse,
) -> tuple[list[tuple[str, ...]], set[str], set[str]]:
    """For each batch the keys of the objects that hold its rows; the columns that hold a null; and
    those of `integers` that hold one beyond 2**53. ConservationError if a batch has other rows than
    were planned.
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
    for table in tables:
        found = warehouse.query(
            f"SELECT {BATCH} AS batch, {quote(PATH)} AS path, count(*) AS n{counts} FROM "
            f"{warehouse.with_path(table)} GROUP BY {BATCH}, {quote(PATH)} ORDER BY batch, path"
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
    wrong = [b for b in batches if rows[b.number] != b.rows]
    if wrong or len(files) != len(batches):
        first = wrong[0] if wrong else batches[0]
        raise ConservationError(
            f"{model.name}: {len(wrong)} of {len(batches)} batches hold other rows than were "
            f"counted; batch {first.number}: {rows[first.number]:,}, wanted {first.rows:,}",
            hint=(
                "does a key of the query hold values that Athena rounds, such as times of less "
                "than a millisecond?"
            ),
        )
    return [tuple(sorted(files[b.number])) for b in batches], nulls, large
