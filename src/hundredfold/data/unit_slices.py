"""The units of single batches, read from the list of all units by the range of their bytes.

A worker on another machine needs the units of a few batches of thousands. The list is a stream of
Arrow with one record batch for each batch of units; the manifest has the end of each, and its
checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..ports.interfaces import RangeStore, Store
from .checksums import checksum, damage_error, missing_error
from .layout import Layout
from .manifest import Manifest, UnitKeys, UnitList
from .messages import Batch

MAX_OPEN_BATCHES = 64


def open_units(manifest: Manifest, layout: Layout, store: Store) -> UnitKeys:
    """Return the units of a model: read whole, or by batch where manifest and store allow it."""
    # isinstance of a Protocol does not see the methods that a wrapper passes on
    if manifest.unit_ends and hasattr(store, "get_range"):
        return UnitSlices(manifest, layout, store)
    return UnitList.read(layout, manifest.model, store)


def pack_unit_slices(
    key: str, units: pa.Table, batches: Sequence[Batch]
) -> tuple[pa.Buffer, tuple[int, ...], tuple[int, ...]]:
    """Return a list of units as the object of that key, and the end and the checksum of each part:
    the schema, then each batch.
    """
    sink = pa.BufferOutputStream()
    ends = [int(units.schema.serialize().size)]  # a stream begins with its schema
    with pa.ipc.new_stream(sink, units.schema) as writer:
        for batch in batches:
            rows = units.slice(batch.first, batch.last - batch.first + 1)
            (part,) = rows.combine_chunks().to_batches()
            writer.write_batch(part)
            ends.append(sink.tell())
    packed = sink.getvalue()
    parts = _parts(packed, ends)
    return packed, tuple(ends), tuple(checksum(key, part) for part in parts)


def _parts(packed: pa.Buffer, ends: Sequence[int]) -> Iterator[pa.Buffer]:
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        yield packed.slice(first, end - first)


class UnitSlices:
    """The units of a model in a store of another machine; a batch's are read when needed."""

    def __init__(self, manifest: Manifest, layout: Layout, store: Store) -> None:
        self.manifest, self.store = manifest, store
        self.object_key = layout.units(manifest.model)
        self._of_batch = lru_cache(MAX_OPEN_BATCHES)(self._read_batch)
        self._schema: pa.Schema | None = None

    def sizes(self, first: int, last: int) -> NDArray[np.int64]:
        units, first, last = self._list_with(first, last)
        return units.sizes(first, last)

    def slice(self, first: int, last: int) -> tuple[pa.Table, NDArray[np.int64]]:
        units, first, last = self._list_with(first, last)
        return units.slice(first, last)

    def key(self, unit: int) -> tuple[object, ...]:
        units, number, _ = self._list_with(unit, unit)
        return units.key(number)

    def _list_with(self, first: int, last: int) -> tuple[UnitList, int, int]:
        """Return the units of the batch that has these, and their numbers in it."""
        batch = self.manifest.batch_of(first)
        assert last <= batch.last, (first, last, batch)
        return self._of_batch(batch.number), first - batch.first, last - batch.first

    def _read_batch(self, number: int) -> UnitList:
        if self._schema is None:
            self._schema = pa.ipc.read_schema(self._read_part(0))
        rows = pa.ipc.read_record_batch(self._read_part(number + 1), self._schema)
        return UnitList(pa.Table.from_batches([rows]))

    def _read_part(self, number: int) -> pa.Buffer:
        """Return a part of the list: the schema is number 0, and a batch comes one after its
        number.
        """
        ends = self.manifest.unit_ends
        first, end = ends[number - 1] if number else 0, ends[number]
        try:
            found = cast(RangeStore, self.store).get_range(self.object_key, first, end - 1)
        except KeyError:
            raise missing_error(self.store, self.object_key) from None
        if (
            found.size != end - first
            or checksum(self.object_key, found) != self.manifest.unit_checksums[number]
        ):
            raise damage_error(
                self.store, self.object_key, "does not have the checksum with which it was written"
            )
        return found
