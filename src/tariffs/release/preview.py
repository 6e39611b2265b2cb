"""A preview: the effect of another table on the active prices: moves, sizes and expectations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tariffs.release.decision_log import Table
from tariffs.release.tables import KEY, Floats, bools, floats, is_voice, match_rows, tariff


@dataclass(frozen=True, slots=True)
class Moves:
    """The moves of one kind.

    largest   a share of the price; voice: points of discount
    volume, revenue, margin   expected changes a week, by the release's own elasticities, None if
                              unknown; `of_...` are the present totals
    """

    kind: str
    prices: int
    raised: int
    lowered: int
    largest: float
    volume: float | None
    revenue: float | None
    margin: float | None
    of_volume: float
    of_revenue: float
    of_margin: float


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview of a table.

    control  number of control units whose price would move; 0 if correct
    most     the moves with the most money in both directions
    """

    before: Table
    table: Table
    moves: tuple[Moves, ...]
    control: int
    most: tuple[tuple[str, float, float, float], ...]


def preview(before: Table, table: Table, now: pa.Table, then: pa.Table, model: pa.Table) -> Preview:
    """Return the preview from the prices `now` to `then`; `model` has the elasticities."""
    row = match_rows(then, now)
    then, row = then.filter(pa.array(row >= 0)), row[row >= 0]
    now = now.take(pa.array(row))
    old, new, voice = floats(now, "price"), floats(then, "price"), is_voice(then)
    moved = np.abs(new - old) > 1e-9
    size = np.where(voice, 100.0 * (old - new) / np.where(voice, tariff(now), 1.0), new / old - 1.0)
    sold, more, cost = _expected(then, old, new, model)
    revenue, margin = (
        new * (sold + more) - old * sold,
        (new - cost) * (sold + more) - (old - cost) * sold,
    )
    found = []
    for kind, rows in (("bundles", ~voice), ("voice", voice)):
        if rows.any():
            known = bool(np.isfinite(revenue[rows]).all())
            far = size[rows][np.argmax(np.abs(size[rows]))]
            volume, money, left = (
                float(values[rows].sum()) if known else None for values in (more, revenue, margin)
            )
            of = [
                float(np.nansum(values[rows])) for values in (sold, old * sold, (old - cost) * sold)
            ]
            found.append(
                Moves(
                    kind,
                    int(rows.sum()),
                    int((moved & rows & (new > old)).sum()),
                    int((moved & rows & (new < old)).sum()),
                    float(far),
                    volume,
                    money,
                    left,
                    *of,
                )
            )
    order = np.argsort(np.nan_to_num(margin), kind="stable")
    ends = [*order[:3], *order[::-1][:3]]
    keys = then[KEY]
    most = tuple(
        (str(keys[int(n)].as_py()), float(old[n]), float(new[n]), float(margin[n]))
        for n in ends
        if moved[n] and np.isfinite(margin[n])
    )
    return Preview(
        before, table, tuple(found), int((moved & bools(then, "control_flag")).sum()), most
    )


def _expected(
    then: pa.Table, old: Floats, new: Floats, model: pa.Table
) -> tuple[Floats, Floats, Floats]:
    """Return units a week at present, their change, and a unit's cost; NaN if unknown."""
    row = match_rows(then, model)
    slope, current, volume, cost = (
        np.append(floats(model, name), np.nan)[row]
        for name in ("elasticity", "current_price", "expected_volume", "unit_cost")
    )
    sold, comes = (volume * np.exp(slope * (price / current - 1.0)) for price in (old, new))
    return sold, comes - sold, cost
