"""The output of prepare for a model: its units in the order of their keys, and the batches that
contain them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..ports.interfaces import MarkedStore, Store
from .batch import OpenBatch
from .checksums import damage_error, get_json, make_json, missing_error, require, unseal
from .layout import Layout
from .messages import Batch
from .numpy_columns import UNIT, from_numpy, to_numpy, to_python
from .parquet_in_memory import read_parquet
from .row_sizes import row_bytes

ROWS_COLUMN = "__rows"  # the column with a unit's number of rows, in the list of units


@dataclass(frozen=True, slots=True)
class Manifest:
    """The batches of a model with their units, rows and cost.

    nullable: the columns in which any row has a null. large: the columns of integers in which any
    is beyond 2**53.

    If another program wrote the batches: files: the Parquet objects of each batch. marks: the
    store's version mark of each object. schema: the types of its columns, serialized, in hex.

    If workers read the units of single batches: unit_ends: the end in bytes of each part of the
    list of units. unit_checksums: their checksums.
    """

    model: str
    unit: tuple[str, ...]
    order_by: tuple[str, ...]
    units: int
    rows: int
    nullable: tuple[str, ...]
    batches: tuple[Batch, ...]
    query: str = ""
    files: tuple[tuple[str, ...], ...] = ()
    schema: str = ""
    large: tuple[str, ...] = ()
    marks: tuple[tuple[str, ...], ...] = ()
    unit_ends: tuple[int, ...] = ()
    unit_checksums: tuple[int, ...] = ()

    def text(self, key: str) -> bytes:
        """Return the manifest as the object of that key, with its checksum."""
        return make_json(key, asdict(self))

    @classmethod
    def read(cls, layout: Layout, model: str, store: Store, *, settled: bool = False) -> Manifest:
        """Return the manifest; KeyError before prepare is done.

        Until every object that it lists is durable, a draft is returned, unless `settled`.
        """
        try:
            fields = get_json(store, layout.manifest(model))
        except KeyError:
            if settled:
                raise
            fields = get_json(store, layout.manifest_draft(model))
        lists = {name: tuple(fields[name]) for name in ("unit", "order_by", "nullable")}
        for name in ("large", "unit_ends", "unit_checksums"):
            lists[name] = tuple(fields.get(name, ()))
        files = tuple(map(tuple, fields.get("files", ())))
        return cls(
            **{
                **fields,
                **lists,
                "batches": tuple(
                    Batch(**{**b, "cuts": tuple(b.get("cuts", ()))}) for b in fields["batches"]
                ),
                "files": files,
                "marks": tuple(map(tuple, fields.get("marks", ()))),
            }
        )

    def batch_of(self, unit: int) -> Batch:
        firsts = [batch.first for batch in self.batches]
        return self.batches[int(np.searchsorted(firsts, unit, side="right")) - 1]


class UnitKeys(Protocol):
    """The keys and row counts of units, for ranges within one batch."""

    def sizes(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the row counts of units first..last."""

    def slice(self, first: int, last: int) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return keys and row counts of units first..last."""

    def key(self, unit: int) -> tuple[object, ...]:
        """Return the key of a unit."""


class UnitList:
    """The keys and row counts of a model's units, in order."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.keys = table.drop_columns([ROWS_COLUMN])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return the row counts of all units: 8 bytes each, which are not cached."""
        return to_numpy(self.table.column(ROWS_COLUMN), False)

    def sizes(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the row counts of units first..last."""
        return to_numpy(self.table.column(ROWS_COLUMN).slice(first, last - first + 1), False)

    @classmethod
    def read(cls, layout: Layout, model: str, store: Store) -> UnitList:
        key = layout.units(model)
        return cls(pa.ipc.open_stream(unseal(store, key, require(store, key))).read_all())

    def slice(self, first: int, last: int) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return keys and row counts of units first..last."""
        return self.keys.slice(first, last - first + 1).combine_chunks(), self.sizes(first, last)

    def key(self, unit: int) -> tuple[object, ...]:
        return tuple(to_python(column[unit]) for column in self.keys.columns)


def open_batch(
    manifest: Manifest, units: UnitKeys, batch: Batch, layout: Layout, store: Store
) -> OpenBatch:
    """Read a batch into memory, in canonical order.

    It has all its units, or some, if its first and last unit are not those of the manifest.
    """
    keys, sizes = units.slice(batch.first, batch.last)
    rows = _read_rows(manifest, batch, layout, store)
    whole = manifest.batches[batch.number]
    if (batch.first, batch.last) != (whole.first, whole.last):
        rows = _select_units(rows, batch.first, batch.last)
    return OpenBatch(
        rows,
        keys,
        sizes,
        batch.first,
        manifest.order_by,
        frozenset(manifest.nullable),
        frozenset(manifest.large),
    )


def open_units(
    manifest: Manifest,
    units: UnitKeys,
    batch: Batch,
    wanted: NDArray[np.int64],
    layout: Layout,
    store: Store,
) -> OpenBatch:
    """Read some units of a batch into memory, in canonical order.

    wanted: their numbers, ascending. In the result they are numbered from 0.
    """
    keys, sizes = units.slice(batch.first, batch.last)
    own = wanted - batch.first
    place = np.full(len(sizes), -1, np.int64)
    place[own] = np.arange(len(own))
    found = []
    rows = _read_rows(manifest, batch, layout, store)
    number = rows.schema.get_field_index(UNIT)
    for part in rows.to_batches():
        unit = place[to_numpy(part.column(UNIT), False) - batch.first]
        mine = np.flatnonzero(unit >= 0)
        taken = part.take(from_numpy(mine))
        found.append(taken.set_column(number, UNIT, from_numpy(unit[mine])))
    schema = rows.schema.set(number, pa.field(UNIT, pa.int64()))
    return OpenBatch(
        pa.Table.from_batches(found, schema),
        keys.take(from_numpy(own)),
        sizes[own],
        0,
        manifest.order_by,
        frozenset(manifest.nullable),
        frozenset(manifest.large),
    )


def _read_rows(manifest: Manifest, batch: Batch, layout: Layout, store: Store) -> pa.Table:
    if manifest.files:
        keys = manifest.files[batch.number]
        marks = manifest.marks[batch.number] if manifest.marks else ("",) * len(keys)
        found = [_get_unchanged(store, key, mark) for key, mark in zip(keys, marks, strict=True)]
        try:
            return read_batch_rows(batch.number, found, manifest.schema)
        except pa.ArrowException as error:
            raise damage_error(store, " and ".join(keys), f"cannot be read: {error}") from error
    key = layout.batch(manifest.model, batch.number)
    return pa.ipc.open_stream(unseal(store, key, require(store, key))).read_all()


def _get_unchanged(store: Store, key: str, mark: str) -> pa.Buffer:
    """Return the bytes of an object of another program; DamagedFile if it is missing or was
    replaced.
    """
    # isinstance of a Protocol does not see the methods that a wrapper passes on
    if not mark or not hasattr(store, "get_marked"):
        return require(store, key)
    try:
        return cast(MarkedStore, store).get_marked(key, mark)
    except KeyError:
        raise missing_error(store, key) from None


def _select_units(rows: pa.Table, first: int, last: int) -> pa.Table:
    """Return the rows of some units; the data of a mapped file is not copied as a whole."""
    found = []
    for part in rows.to_batches():
        unit = to_numpy(part.column(UNIT), False)
        mine = np.flatnonzero((unit >= first) & (unit <= last))
        if len(mine) == part.num_rows:
            found.append(part)
        elif len(mine):
            found.append(part.take(from_numpy(mine)))
    return pa.Table.from_batches(found, rows.schema)


def stored_bytes(
    manifest: Manifest, batch: Batch, first: int, last: int, layout: Layout, store: Store
) -> int:
    """Return how many bytes the rows of units first..last of a batch take in Arrow."""
    size = 0
    for part in _read_rows(manifest, batch, layout, store).to_batches():
        unit = to_numpy(part.column(UNIT), False)
        size += int(row_bytes(part)[(unit >= first) & (unit <= last)].sum())
    return size


def read_batch_rows(batch: int, files: Sequence[pa.Buffer], schema: str) -> pa.Table:
    """Return the rows of a batch from Parquet files, in the types of the model's query.

    The files may contain rows of other batches too. Their columns are those of the schema, in its
    order, and then the number of each row's batch.
    """

    wanted = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(schema)))
    tables = []
    for file in files:
        found = read_parquet(file)
        mine = to_numpy(found.column(len(wanted)), False) == batch
        found = found.select(range(len(wanted))).rename_columns(wanted.names)
        for position, field in enumerate(wanted):
            if pa.types.is_null(field.type):  # no other type can be cast to it
                found = found.set_column(position, field, pa.nulls(found.num_rows))
        tables.append((found if mine.all() else found.filter(pa.array(mine))).cast(wanted))
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def key_text(key: Sequence[object]) -> str:
    """Return a unit's key as text for people: PREMIUM,Accra,1GB.

    As in CSV a null is nothing, an empty text is "", and a comma is quoted.
    """
    return ",".join(map(_part_text, key)) if key else "(all rows)"


def _part_text(part: object) -> str:
    text = str(part)
    quoted = text == "" or "," in text or '"' in text
    return "" if part is None else f'"{text.replace(chr(34), chr(34) * 2)}"' if quoted else text
