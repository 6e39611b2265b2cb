"""The true earnings of a price table: each unit's true demand at any price, and the best table.

True margin per week at price p: min(n e^(alpha + beta (p / reference - 1)), C) (p - unit cost),
with the subscribers n of the last week, in an average week of the season; C is the capacity of a
cell in minutes, infinite for bundles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from tariffs.columns import Bools, Columns, Floats, Rows, key_offsets
from tariffs.evaluation.product_lines import BUNDLE, VOICE, Line
from tariffs.evaluation.run_data import FinishedRun, columns, query
from tariffs.optimise.ladder import Rung, best_in_order, in_order
from tariffs.optimise.rule import GRID_SLACK, on_tick

TERMS = (
    "posted_price",
    "reference_price",
    "unit_cost",
    "price_tick",
    "price_floor",
    "price_ceiling",
    "max_step",
    "active_subs",
    "control",
)


@dataclass(frozen=True, slots=True)
class Market:
    """Units in the order of their keys, arrays of shape (units,): prices, limits and true demand.

    price, p_gain  as published;  current  the price before;  step  the largest move, in money
    capacity       the largest weekly quantity; infinite for bundles
    """

    line: Line
    keys: Rows
    beta: Floats
    scale: Floats
    current: Floats
    price: Floats
    p_gain: Floats
    promised: Floats
    reference: Floats
    unit_cost: Floats
    tick: Floats
    floor: Floats
    ceiling: Floats
    step: Floats
    held: Bools
    capacity: Floats

    @property
    def moved(self) -> Bools:
        return np.asarray(self.price != self.current, dtype=np.bool_)

    def volume(self, price: Floats) -> Floats:
        """Return the true sales at these prices: the demand, limited by capacity."""
        return np.minimum(
            self.scale * np.exp(self.beta * (price / self.reference - 1.0)), self.capacity
        )

    def margin(self, price: Floats) -> Floats:
        return self.volume(price) * (price - self.unit_cost)

    def gain(self) -> Floats:
        """Return the true margin of each unit at its new price, less that at the old one."""
        return self.margin(self.price) - self.margin(self.current)


def market(finished: FinishedRun, line: Line) -> Market:
    """Return the line's units in the published table, with their last week and their truth.

    Raises UsageError without a truth.
    """
    keys = ", ".join(line.key)
    last = pa.concat_tables(_last_rows(rows, line) for rows in finished.batches(line.model))
    t = columns(
        query(
            f"""SELECT l.*, k.beta, k.level, p.price, p.current_price,
              coalesce(p.p_gain, 0) AS p_gain, p.expected_margin_delta AS promised
            FROM prices AS p JOIN last AS l USING ({keys}) JOIN known AS k USING ({keys})
            WHERE p.kind = '{line.kind}' ORDER BY {keys}""",
            prices=finished.prices(),
            last=last,
            known=finished.known(line),
        )
    )
    base = (
        t["posted_price"] if line is BUNDLE else t["reference_price"]
    )  # a discount moves by points of the tariff
    return Market(
        line=line,
        keys={name: t[name] for name in line.key},
        beta=t["beta"],
        scale=t["active_subs"] * np.exp(t["level"]),
        current=t["current_price"],
        price=t["price"],
        p_gain=t["p_gain"],
        promised=t["promised"],
        reference=t["reference_price"],
        unit_cost=t["unit_cost"],
        tick=t["price_tick"],
        floor=t["price_floor"],
        ceiling=t["price_ceiling"],
        step=t["max_step"] * base,
        held=t["control"].astype(bool),
        capacity=t["capacity"] if line is VOICE else np.full(len(base), np.inf),
    )


def best_prices(market: Market, ladders: pa.Table) -> Floats:
    """Return the best prices with known elasticities, under the same limits.

    These are control group, floor and ceiling, step, price points, ladder.  Bundles only.

    ladders: segment, location, product, ladder, rung, volume_mb, a row for each unit
    """
    order, volume_mb, offsets = _rungs(market, ladders)
    best = market.current.copy()
    for first, end in pairwise(offsets):
        mine = order[first:end]
        rungs = [_rung(market, at, mb) for at, mb in zip(mine, volume_mb[first:end], strict=True)]
        alone = np.array([rung.prices[rung.values.argmax()] for rung in rungs])
        chosen = alone if in_order(alone, volume_mb[first:end]) else best_in_order(rungs)
        best[mine] = market.current[mine] if chosen is None else chosen
    return best


def _rungs(market: Market, ladders: pa.Table) -> tuple[np.ndarray, Floats, np.ndarray]:
    """Return the units' numbers by ladder and rung, their volumes, and each ladder's start."""
    numbered = pa.table(
        {name: pa.array(values) for name, values in market.keys.items()}
        | {"number": np.arange(len(market.price))}
    )
    rows = columns(
        query(
            "SELECT segment, location, ladder, volume_mb, number"
            " FROM units JOIN ladders USING (segment, location, product) "
            "ORDER BY segment, location, ladder, rung",
            units=numbered,
            ladders=ladders,
        )
    )
    return (
        rows["number"].astype(np.int64),
        rows["volume_mb"],
        key_offsets(rows, ("segment", "location", "ladder")),
    )


def _rung(market: Market, at: int, volume_mb: float) -> Rung:
    """Return a unit's price points within its limits, with its current price, and true margins."""
    current, tick = market.current[at], market.tick[at]
    lowest = max(market.floor[at], min(current - market.step[at], market.ceiling[at]))
    highest = min(market.ceiling[at], max(current + market.step[at], market.floor[at]))
    steps = np.arange(
        np.ceil(lowest / tick - GRID_SLACK), np.floor(highest / tick + GRID_SLACK) + 1.0
    )
    points = np.zeros(0) if market.held[at] else on_tick(steps, np.full(len(steps), tick))
    prices = np.unique(
        np.append(points, current if market.held[at] or lowest <= current <= highest else [])
    )
    sold = np.minimum(
        market.scale[at] * np.exp(market.beta[at] * (prices / market.reference[at] - 1.0)),
        market.capacity[at],
    )
    values = sold * (prices - market.unit_cost[at])
    return Rung(float(volume_mb), prices, values)


def _last_rows(rows: Columns, line: Line) -> pa.Table:
    last = key_offsets(rows, line.key)[1:] - 1
    return pa.table(
        {
            name: pa.array(rows[name][last])
            for name in (*line.key, *TERMS, *(("capacity",) if line is VOICE else ()))
        }
    )
