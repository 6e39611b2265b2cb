"""The difference between two price tables, unit by unit, and its application to a table.

Each row is one unit's change: `added`, `changed` or `removed`, with its old and new price and the
rest of its new row (its old row, if removed).  Values that are equal for a whole release (validity,
version) change for every unit at once: they are stored once, in `facts`, and do not make a row.  So
a delta is no larger than the changes that charging has to make.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.contracts import CHARGING_COLUMNS, RELEASE_COLUMNS
from tariffs.release.tables import (
    KEY,
    Bools,
    duplicate_keys,
    in_published_order,
    match_rows,
    single_value,
)

ADDED, CHANGED, REMOVED = "added", "changed", "removed"


class InvalidTable(ValueError):
    """Rows that are no price table: duplicate keys, or missing columns."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A difference between two tables.

    rows    `change`, `unit_key`, `old_price`, `new_price`, then the other columns; in the order of
            price tables
    facts   column -> the one value that all rows of the new table have
    """

    rows: pa.Table
    facts: Mapping[str, Any]

    def counts(self) -> dict[str, int]:
        counted = {
            str(c["values"]): int(c["counts"])
            for c in pc.value_counts(self.rows["change"].combine_chunks()).to_pylist()
        }
        return {change: counted.get(change, 0) for change in (ADDED, CHANGED, REMOVED)}


def delta(old: pa.Table, new: pa.Table, columns: Sequence[str] = CHARGING_COLUMNS) -> Delta:
    """Return the change from `old` to `new`, in these columns."""
    old, new = _checked(old, columns, "old"), _checked(new, columns, "new")
    facts = {
        name: value.as_py()
        for name in RELEASE_COLUMNS
        if name in columns
        for alone, value in [single_value(new, name)]
        if alone
    }
    before, after = match_rows(new, old), match_rows(old, new)
    same = new.filter(pa.array(before >= 0))
    was = old.take(pa.array(before[before >= 0]))
    moved = _differ(was, same, [name for name in columns if name not in facts])
    parts = [
        _part(ADDED, new.filter(pa.array(before < 0)), None),
        _part(CHANGED, same.filter(pa.array(moved)), was["price"].filter(pa.array(moved))),
        _part(REMOVED, old.filter(pa.array(after < 0)), old["price"].filter(pa.array(after < 0))),
    ]
    return Delta(in_published_order(pa.concat_tables(parts)), facts)


def apply_delta(old: pa.Table, change: Delta) -> pa.Table:
    """Return the new table's rows, in order and in the delta's columns: `old` after the change."""
    columns = [
        "price" if name == "new_price" else name
        for name in change.rows.column_names
        if name not in ("change", "old_price")
    ]
    columns = sorted(columns, key=[f.name for f in old.schema].index)
    old = _checked(old, columns, "old")
    stay = old.filter(pa.array(match_rows(old, change.rows) < 0))
    made = change.rows.filter(pc.not_equal(change.rows["change"], REMOVED)).drop_columns(
        ["change", "old_price"]
    )
    made = made.rename_columns(
        ["price" if name == "new_price" else name for name in made.column_names]
    ).select(columns)
    table = in_published_order(pa.concat_tables([stay, made.cast(stay.schema)]))
    for name, value in change.facts.items():
        field = table.schema.field(name)
        table = table.set_column(
            table.schema.get_field_index(name),
            field,
            pa.array([value] * table.num_rows, field.type),
        )
    return table


def to_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts for JSON: times in ISO 8601, UTC."""
    return {n: f"{v.isoformat()}Z" if isinstance(v, dt.datetime) else v for n, v in facts.items()}


def _checked(table: pa.Table, columns: Sequence[str], which: str) -> pa.Table:
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InvalidTable(f"the {which} table has no column {', '.join(missing)}")
    if twice := duplicate_keys(table):
        raise InvalidTable(
            f"the {which} table has keys more than once: {len(twice):,}, such as {twice[0]}"
        )
    return table.select(list(columns))


def _part(change: str, rows: pa.Table, old_price: Any) -> pa.Table:
    """Return the rows of one kind of change, with the old and the new price."""
    empty = pa.nulls(rows.num_rows, pa.float64())
    first = {
        "change": pa.array([change] * rows.num_rows, pa.string()),
        KEY: rows[KEY],
        "old_price": empty if old_price is None else old_price,
        "new_price": empty if change == REMOVED else rows["price"],
    }
    return pa.table(
        {**first, **{name: rows[name] for name in rows.column_names if name not in (KEY, "price")}}
    )


def _differ(was: pa.Table, now: pa.Table, columns: Sequence[str]) -> Bools:
    """Return which rows differ in any of these columns; null and NaN equal themselves.  (rows,)."""
    found = np.zeros(now.num_rows, dtype=np.bool_)
    for name in columns:
        a, b = was[name], now[name]
        same = pc.fill_null(pc.equal(a, b), False)
        same = pc.or_(same, pc.and_(pc.is_null(a), pc.is_null(b)))
        if pa.types.is_floating(a.type):
            same = pc.or_(same, pc.fill_null(pc.and_(pc.is_nan(a), pc.is_nan(b)), False))
        found |= ~np.asarray(same.to_numpy(zero_copy_only=False), dtype=np.bool_)
    return found
