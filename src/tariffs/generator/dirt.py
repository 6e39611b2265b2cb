"""Dirt, as an operator's export has it, and a ledger of every piece: the row, its kind, and what should become of it.

REPAIR     the value is put right, the row stays        REJECT     the row goes to the rejects, with its reason
DEDUPE     kept once                                    SUPERSEDE  a later load of the same week replaces the row
SET_ASIDE  no row contract can tell; the estimator leaves the week out (`tariffs.demand.panel.plausible`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.generator.calendar import Stream, dice

SHARE = 0.001  # of the rows, for each kind
RESTATED_ID, CONFLICT_ID = 600_000, 700_000  # added to the row id: still inside the block's room

NO_LEDGER = pa.table({"row_id": pa.array([], pa.int64()), "kind": pa.array([], pa.string()), "policy": pa.array([], pa.string())})


@dataclass(frozen=True, slots=True)
class Kind:
    """`soil` changes the picked rows in place of the clean ones; `extra` makes rows to append beside them."""

    name: str
    policy: str
    soil: Callable[[pa.Table], pa.Table] | None = None
    extra: Callable[[pa.Table], pa.Table] | None = None


def textual(sales: pa.Table) -> pa.Table:
    """Prices and weeks as text, which is how they leave a spreadsheet."""
    return _set(_set(sales, "price", pc.cast(sales["price"], pa.string())), "week", pc.cast(sales["week"], pa.string()))


def soil(sales: pa.Table, seed: int, block: int) -> tuple[pa.Table, pa.Table]:
    """The block's sales with every kind of dirt in them, and its ledger (row_id, kind, policy).  A row has one kind of dirt at most."""
    clean, rng = textual(sales), dice(seed, Stream.DIRT, block)
    each = max(1, round(SHARE * len(clean)))
    picked = rng.permutation(len(clean))[: each * len(KINDS)].reshape(len(KINDS), each)
    untouched = np.ones(len(clean), dtype=bool)
    untouched[picked.ravel()] = False
    parts, ledger = [clean.filter(pa.array(untouched))], []
    for kind, rows in zip(KINDS, picked, strict=True):
        chosen = clean.take(pa.array(np.sort(rows)))
        parts.append(kind.soil(chosen) if kind.soil else chosen)
        if kind.extra:
            parts.append(kind.extra(chosen))
        ledger.append(_ledger(kind, chosen["row_id"].to_numpy()))
    soiled = pa.concat_tables([part.select(clean.column_names) for part in parts])
    order = pc.sort_indices(soiled, [("row_id", "ascending")])
    return soiled.take(order), pa.concat_tables(ledger)


def _ledger(kind: Kind, row_ids: np.ndarray) -> pa.Table:
    return pa.table({"row_id": row_ids, "kind": [kind.name] * len(row_ids), "policy": [kind.policy] * len(row_ids)})


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _constant(name: str, value: object) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: _set(rows, name, pa.array([value] * len(rows), rows.schema.field(name).type))


def _mapped(name: str, change: Callable[[pa.ChunkedArray], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: _set(rows, name, pc.cast(change(rows[name]), rows.schema.field(name).type))


def _cents(price: pa.ChunkedArray) -> pa.Array:
    return pc.round(pc.multiply(pc.cast(price, pa.float64()), 100.0), 2)


def _stray_blanks(name: pa.ChunkedArray) -> pa.Array:
    return pc.binary_join_element_wise("  ", pc.utf8_lower(name), " ", "")


def _again(rows: pa.Table, loaded_later: bool, id_step: int) -> pa.Table:
    """The same weeks with other sales, loaded at the same time or a week later."""
    other = _set(rows, "units", pc.add(rows["units"], 1))
    later = pc.add(rows["loaded_at"], pa.scalar(7 * 86_400_000_000 * loaded_later, pa.duration("us")))
    return _set(_set(other, "loaded_at", later), "row_id", pc.add(rows["row_id"], id_step))


KINDS = (
    Kind("null_price", "REJECT", soil=_constant("price", None)),
    Kind("null_units", "REJECT", soil=_constant("units", None)),
    Kind("negative_units", "REJECT", soil=_mapped("units", lambda units: pc.subtract(-1, units))),
    Kind("zero_price", "REJECT", soil=_constant("price", "0.0")),
    Kind("invalid_week", "REJECT", soil=_constant("week", "2026-02-30")),
    Kind("future_week", "REJECT", soil=_constant("week", "2031-01-05")),
    Kind("unknown_product", "REJECT", soil=_constant("product", "DAY_9999")),
    Kind("unknown_location", "REJECT", soil=_constant("location", "LOC_NOWHERE")),
    Kind("conflicting_copy", "REJECT", extra=lambda rows: _again(rows, loaded_later=False, id_step=CONFLICT_ID)),
    Kind("restated", "SUPERSEDE", extra=lambda rows: _again(rows, loaded_later=True, id_step=RESTATED_ID)),
    Kind("exact_copy", "DEDUPE", extra=lambda rows: rows),
    Kind("untidy_segment", "REPAIR", soil=_mapped("segment", _stray_blanks)),
    Kind("untidy_product", "REPAIR", soil=_mapped("product", _stray_blanks)),
    Kind("currency_text", "REPAIR", soil=_mapped("price", lambda price: pc.binary_join_element_wise("GHS", price, " "))),
    Kind("price_in_pesewas", "REPAIR", soil=_mapped("price", _cents)),
    Kind("spike", "SET_ASIDE", soil=_mapped("units", lambda units: pc.add(pc.multiply(units, 100), 1000))),
)
