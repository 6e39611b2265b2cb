"""What was sold, as a rectangle: the units of a price table down, the weeks across.  NaN where a unit has no row for a week."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.tables import Bools, Floats, floats, is_voice, matched, tariff

Ints = npt.NDArray[np.int64]
Days = npt.NDArray[np.datetime64]


@dataclass(frozen=True, slots=True)
class Panel:
    """Shape (units, weeks), the units in the table's order.

    weeks      the day that each week ends on, in order
    quantity   bundles, or minutes;  paid  money for one of them;  subscribers  active in that week
    unknown    rows of sales for units that the table has not
    """

    weeks: Days
    quantity: Floats
    paid: Floats
    subscribers: Floats
    unknown: int

    def during(self, which: Bools) -> Panel:
        """Only these weeks; shape of `which`: (weeks,)."""
        return Panel(self.weeks[which], self.quantity[:, which], self.paid[:, which], self.subscribers[:, which], self.unknown)


def panel_of(table: pa.Table, sold: pa.Table) -> Panel:
    """The sales (unit_key, week, quantity, price, active_subs; a voice price is a share of the tariff) of the table's units."""
    row = matched(sold, table)
    known = row >= 0
    row = row[known]
    week = np.asarray(sold["week"].cast(pa.date32()).to_numpy(zero_copy_only=False), dtype="datetime64[D]")[known]
    weeks, at = np.unique(week, return_inverse=True)
    full = np.where(is_voice(table), tariff(table), 1.0)

    def spread(name: str) -> Floats:
        out = np.full((table.num_rows, len(weeks)), np.nan)
        out[row, at] = floats(sold, name)[known]
        return out

    return Panel(weeks, spread("quantity"), spread("price") * full[:, None], spread("active_subs"), int((~known).sum()))


def numbers_of(table: pa.Table, name: str) -> tuple[list[str], Ints]:
    """The values of a column, in order, and which of them each row has; '' for null."""
    words = pc.fill_null(table[name].combine_chunks(), "")
    values = pc.unique(words).sort()
    return values.to_pylist(), np.asarray(pc.index_in(words, value_set=values).to_numpy(zero_copy_only=False), dtype=np.int64)
