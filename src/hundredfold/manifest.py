"""What prepare left for a model: its units in the order of their keys, and the batches that they lie in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .arrays import numpy_of
from .batch import OpenBatch
from .job import Batch, Layout
from .ports import Store

ROWS = "__rows"  # the column that counts a unit's rows, in the list of units


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every batch with its units, rows and cost; `nullable` names the columns in which any row holds a null."""

    model: str
    unit: tuple[str, ...]
    order_by: tuple[str, ...]
    units: int
    rows: int
    nullable: tuple[str, ...]
    batches: tuple[Batch, ...]
    query: str = ""

    def text(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, layout: Layout, model: str, store: Store, *, settled: bool = False) -> Manifest:
        """The manifest; KeyError before prepare is done. Before all that it lists is on the disk too (`settled`), a draft stands for it."""
        try:
            text = store.get(layout.manifest(model))
        except KeyError:
            if settled:
                raise
            text = store.get(layout.draft(model))
        fields = json.loads(text.to_pybytes())
        lists = {name: tuple(fields[name]) for name in ("unit", "order_by", "nullable")}
        return cls(**{**fields, **lists, "batches": tuple(Batch(**b) for b in fields["batches"])})

    def batch_of(self, unit: int) -> Batch:
        firsts = [batch.first for batch in self.batches]
        return self.batches[int(np.searchsorted(firsts, unit, side="right")) - 1]


class UnitList:
    """The keys and row counts of a model's units, in order."""

    def __init__(self, table: pa.Table) -> None:
        self.keys = table.drop_columns([ROWS])
        self.rows: NDArray[np.int64] = numpy_of(table.column(ROWS), False)

    @classmethod
    def read(cls, layout: Layout, model: str, store: Store) -> UnitList:
        return cls(pa.ipc.open_stream(store.get(layout.units(model))).read_all())

    def slice(self, first: int, last: int) -> tuple[pa.Table, NDArray[np.int64]]:
        """Keys and row counts of units first..last."""
        return self.keys.slice(first, last - first + 1).combine_chunks(), self.rows[first : last + 1]

    def key(self, unit: int) -> tuple[object, ...]:
        return tuple(column[unit].as_py() for column in self.keys.columns)


def open_batch(manifest: Manifest, units: UnitList, batch: Batch, layout: Layout, store: Store) -> OpenBatch:
    """Read a batch into memory, in canonical order."""
    keys, sizes = units.slice(batch.first, batch.last)
    file = store.get(layout.batch(manifest.model, batch.number))
    return OpenBatch(file, keys, sizes, batch.first, manifest.order_by, frozenset(manifest.nullable))


def key_text(key: Sequence[object]) -> str:
    """A unit's key as people write it: PREMIUM,Accra,1GB. As in CSV a null is nothing, an empty text is "", and a comma is quoted."""
    return ",".join(map(_part_text, key)) if key else "(all rows)"


def _part_text(part: object) -> str:
    text = str(part)
    quoted = text == "" or "," in text or '"' in text
    return "" if part is None else f'"{text.replace(chr(34), chr(34) * 2)}"' if quoted else text
