"""Sales as a rectangle: a price table's units by weeks.  NaN where a unit has no row for a week."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.demand.panel import SPIKE_ALLOWANCE, SPIKE_RATIO
from tariffs.release.tables import Bools, Floats, floats, is_voice, match_rows, tariff

Ints = npt.NDArray[np.int64]
Days = npt.NDArray[np.datetime64]


@dataclass(frozen=True, slots=True)
class Panel:
    """Sales by unit and week; shape (units, weeks), the units in the table's order.

    weeks      the last day of each week, in order
    quantity   bundles, or minutes;  paid  money for one of them;  subscribers  active in that week
    unknown    number of rows of sales for units outside the table
    set_aside  number of faulty rows: over SPIKE_RATIO times the mean of the unit's other weeks plus
               SPIKE_ALLOWANCE
    """

    weeks: Days
    quantity: Floats
    paid: Floats
    subscribers: Floats
    unknown: int
    set_aside: int

    def during(self, which: Bools) -> Panel:
        """Return the panel of these weeks; shape of `which`: (weeks,)."""
        return Panel(
            self.weeks[which],
            self.quantity[:, which],
            self.paid[:, which],
            self.subscribers[:, which],
            self.unknown,
            self.set_aside,
        )


def panel_of(table: pa.Table, sold: pa.Table) -> Panel:
    """Return the panel of the table's units from rows of sales.

    sold  unit_key, week, quantity, price (voice: a share of the tariff), active_subs
    """
    row = match_rows(sold, table)
    known = row >= 0
    row = row[known]
    week = np.asarray(
        sold["week"].cast(pa.date32()).to_numpy(zero_copy_only=False), dtype="datetime64[D]"
    )[known]
    weeks, at = np.unique(week, return_inverse=True)
    full = np.where(is_voice(table), tariff(table), 1.0)

    def spread(name: str) -> Floats:
        out = np.full((table.num_rows, len(weeks)), np.nan)
        out[row, at] = floats(sold, name)[known]
        return out

    quantity = spread("quantity")
    spikes = _find_spikes(quantity)
    quantity[spikes] = np.nan
    return Panel(
        weeks,
        quantity,
        spread("price") * full[:, None],
        spread("active_subs"),
        int((~known).sum()),
        int(spikes.sum()),
    )


def _find_spikes(quantity: Floats) -> Bools:
    """Return weeks that are faults: one among thousands outweighs all others together."""
    there = np.isfinite(quantity)
    sold = np.where(there, quantity, 0.0)
    others = there.sum(axis=1, keepdims=True) - 1
    usual = (sold.sum(axis=1, keepdims=True) - sold) / np.maximum(others, 1)
    return np.asarray(
        there & (others > 1) & (sold > SPIKE_RATIO * usual + SPIKE_ALLOWANCE), dtype=np.bool_
    )  # of two weeks, either could be the fault


def category_codes(table: pa.Table, name: str) -> tuple[list[str], Ints]:
    """Return a column's values, in order, and the index of each row's value; '' for null."""
    words = pc.fill_null(table[name].combine_chunks(), "")
    values = pc.unique(words).sort()
    return values.to_pylist(), np.asarray(
        pc.index_in(words, value_set=values).to_numpy(zero_copy_only=False), dtype=np.int64
    )
