"""A location: the prices of all its segments and products, chosen one by one, adjusted together.

Four things connect them.  The sizes of a bundle stay in order (`optimise.ladder`).  The same size
for a longer time costs no less (otherwise customers would buy the month for the week).  One product
does not cost one segment much more than another (`optimise.fairness`).  And one product's gain may
be another's loss, in two ways: neighbouring rungs of a ladder affect each other's sales
(`cross_effect`), which is solved exactly, with the order; and a share of a ladder's gain
(`diversion`) comes from the segment's other ladders, in proportion to their sales: an opportunity
cost in the sense of upward pricing pressure (Farrell and Shapiro 2010), solved ladder by ladder
until no price moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tariffs.columns import Columns, Floats, Ints, Labels, Rows, key_offsets
from tariffs.optimise.fairness import band
from tariffs.optimise.ladder import (
    SLACK,
    Rung,
    best_in_order,
    best_with_cross_effects,
    in_order,
    worth,
)
from tariffs.optimise.reasons import DIVERSION_ADJUSTED, FAIRNESS_ADJUSTED, LADDER_ADJUSTED
from tariffs.pricing.joint import (
    MAX_SWEEPS,
    price_points,
    robust_worth,
    unit_margins,
    validity,
    with_effects,
)

UNLIMITED = 1e9  # the query's value for a limit that the policy does not set


@dataclass(slots=True)
class LocationPrices:
    """The current prices of a location's rows, their limits, and their reasons; shape (rows,)."""

    price: Floats
    lowest: Floats
    highest: Floats
    reason: Labels
    bound: Labels

    def move(self, at: Ints, price: Floats, reason: str, bound: str) -> None:
        """Set new prices of some rows; those that change get a new reason."""
        changed = at[price != self.price[at]]
        self.price[at] = price
        self.reason[changed], self.bound[changed] = reason, bound


def optimise_location(rows: Rows) -> dict[str, np.ndarray]:
    """Return the prices of one location: a row per segment and product, by ladder and rung.

    Rungs that are in order keep their prices, since these are the best within their limits, unless
    products affect one another.  If no prices within the limits are in order, a ladder keeps its
    current prices as far as floors and ceilings allow, and `ladder_bound` is LADDER_OUT_OF_REACH.
    """
    price, lowest, highest, reason = (
        rows[name].copy() for name in ("price", "lowest", "highest", "reason_code")
    )
    table = LocationPrices(price, lowest, highest, reason, np.full(len(price), "", dtype=object))
    if np.any(rows["max_segment_ratio"] < UNLIMITED):
        _limit_segment_ratio(rows, table)
    cost, cross_effect = np.zeros(len(table.price)), np.zeros(len(table.price))
    for first, end in pairwise(key_offsets(rows, ("segment",))):
        cost[first:end], cross_effect[first:end] = _optimise_segment(rows, table, first, end)
    reason = np.where(rows["explore_flag"], rows["reason_code"], table.reason).astype(
        object
    )  # a trial keeps its reason
    named = {
        "segment": rows["segment"],
        "product": rows["product"],
        "price": table.price,
        "reason_code": reason,
    }
    limits = {
        "ladder_bound": table.bound,
        "lowest": table.lowest,
        "highest": table.highest,
        "neighbour_effect": cross_effect,
    }
    return named | limits | with_effects(rows, table.price, cost, cross_effect) | validity(rows)


def _limit_segment_ratio(rows: Columns, table: LocationPrices) -> None:
    """Narrow each product's limits to the one band for all segments that is worth most."""
    for product in np.unique(rows["product"].astype(str)):
        at = np.flatnonzero(rows["product"] == product)
        points = [
            price_points(rows, i, table.lowest[i], table.highest[i], table.price[i])
            for i in at.tolist()
        ]
        found = band(
            points,
            [robust_worth(rows, i, p) for i, p in zip(at.tolist(), points, strict=True)],
            float(rows["max_segment_ratio"][at].min()),
        )
        inside = (table.price[at] >= found.lowest) & (table.price[at] <= found.highest)
        table.move(
            at, np.where(inside, table.price[at], found.prices), FAIRNESS_ADJUSTED, "FAIRNESS"
        )
        out = (table.price[at] < found.lowest) | (table.price[at] > found.highest)
        table.lowest[at] = np.where(
            out, table.price[at], np.maximum(table.lowest[at], found.lowest)
        )
        table.highest[at] = np.where(
            out, table.price[at], np.minimum(table.highest[at], found.highest)
        )
        if out.any():
            table.bound[at] = "FAIRNESS_OUT_OF_REACH"


def _optimise_segment(
    rows: Columns, table: LocationPrices, first: int, end: int
) -> tuple[Floats, Floats]:
    """Adjust one segment; return opportunity costs (money per unit) and cross effects (log sales).

    Shape (products,) each.
    """
    ladders = [
        np.arange(a, b) + first
        for a, b in pairwise(key_offsets({"ladder": rows["ladder"][first:end]}, ("ladder",)))
    ]
    tied = bool(
        np.any(rows["diversion"][first:end] > 0) or np.any(rows["cross_effect"][first:end] > 0)
    )
    _sweep(rows, table, ladders, first, end, tied)
    if _order_by_validity(rows, table, ladders, first, end, tied):
        _sweep(rows, table, ladders, first, end, tied)
    if not tied:
        return np.zeros(end - first), np.zeros(end - first)
    parts = [_neighbour_effects(rows, table.price, at) for at in ladders]
    lost = [_diverted(rows, table.price, at, first, end) for at in ladders]
    return np.concatenate([cost for cost, _ in parts]) + np.concatenate(lost), np.concatenate(
        [cross_effect for _, cross_effect in parts]
    )


def _sweep(
    rows: Columns, table: LocationPrices, ladders: list[Ints], first: int, end: int, tied: bool
) -> None:
    """Adjust ladder by ladder until no price moves (Gauss-Seidel)."""
    for _ in range(MAX_SWEEPS if tied else 1):
        before = table.price[first:end].copy()
        for at in ladders:
            _optimise_ladder(rows, table, at, first, end, tied)
        if np.array_equal(table.price[first:end], before):
            break


def _optimise_ladder(
    rows: Columns, table: LocationPrices, at: Ints, first: int, end: int, tied: bool
) -> None:
    ordered = in_order(table.price[at], rows["volume_mb"][at])
    if ordered and not tied:
        return
    cost = _diverted(rows, table.price, at, first, end) if tied else np.zeros(len(at))
    rungs = [
        _rung(rows, table, i, lost) for i, lost in zip(at.tolist(), cost.tolist(), strict=True)
    ]
    best = _best_in_order(rows, rungs, at)
    if best is None:
        table.move(
            at,
            np.clip(rows["current_price"][at], table.lowest[at], table.highest[at]),
            LADDER_ADJUSTED,
            "",
        )
        table.bound[at] = "LADDER_OUT_OF_REACH"
    else:
        table.move(
            at,
            best,
            *((DIVERSION_ADJUSTED, "DIVERSION") if ordered else (LADDER_ADJUSTED, "LADDER")),
        )


def _best_in_order(rows: Columns, rungs: list[Rung], at: Ints) -> Floats | None:
    return (
        best_with_cross_effects(rungs)
        if np.any(rows["cross_effect"][at] > 0)
        else best_in_order(rungs)
    )


def _order_by_validity(
    rows: Columns, table: LocationPrices, ladders: list[Ints], first: int, end: int, tied: bool
) -> bool:
    """Let the longer of two validities of one size cost no less; return whether a price changed.

    Pairs that are in the other order today are left out.  The limits of each pair are separated at
    a price between them, so that later steps (sweeps, limits on the whole table) keep the order.
    Where no such price is within the limits, the prices stay.
    """
    before = table.price[first:end].copy()
    for short, longer in _validities(rows, first, end):
        if table.price[longer] < table.price[short] - SLACK:
            _optimise_pair(
                rows,
                table,
                [at for at in ladders if short in at or longer in at],
                (short, longer),
                (first, end),
                tied,
            )
        if table.price[longer] >= table.price[short] - SLACK:
            _separate(rows, table, short, longer)
    return not np.array_equal(table.price[first:end], before)


def _validities(rows: Columns, first: int, end: int) -> list[tuple[int, int]]:
    """Return neighbours by validity among products of one size, the shorter first.

    Pairs that are in the other order today are left out.
    """
    days, size = rows["validity_days"], rows["volume_mb"]
    order = sorted(
        (i for i in range(first, end) if days[i] > 0), key=lambda i: (size[i], days[i], i)
    )
    same = [(i, j) for i, j in pairwise(order) if size[i] == size[j] and days[i] < days[j]]
    return [(i, j) for i, j in same if rows["current_price"][j] >= rows["current_price"][i] - SLACK]


def _optimise_pair(
    rows: Columns,
    table: LocationPrices,
    ladders: list[Ints],
    pair: tuple[int, int],
    segment: tuple[int, int],
    tied: bool,
) -> None:
    """Choose the two ladders of a pair together.

    These are the best prices with the shorter at or below, and the longer at or above, a common
    price.

    pair     the rows of the shorter and the longer validity
    segment  the first row of the segment, and the end of its rows
    """
    (short, longer), (first, end) = pair, segment
    limits = table.highest[short], table.lowest[longer]
    points = [
        price_points(rows, i, table.lowest[i], table.highest[i], table.price[i])
        for i in (short, longer)
    ]
    best, most = None, -np.inf
    for cut in np.unique(np.concatenate(points)):
        if table.lowest[short] <= cut <= table.highest[longer]:
            table.highest[short], table.lowest[longer] = min(limits[0], cut), max(limits[1], cut)
            found = [_best_ladder(rows, table, at, first, end, tied) for at in ladders]
            total = sum(value for _, value in found)
            if total > most:
                best, most = [prices for prices, _ in found], total
    table.highest[short], table.lowest[longer] = limits
    for at, prices in zip(ladders, best or [], strict=False):
        table.move(at, prices, LADDER_ADJUSTED, "LADDER")


def _best_ladder(
    rows: Columns, table: LocationPrices, at: Ints, first: int, end: int, tied: bool
) -> tuple[Floats, float]:
    """Return the best prices in order within the limits, and their worth: -inf if there are none.

    A ladder without prices in order keeps its prices.
    """
    if table.bound[at[0]] == "LADDER_OUT_OF_REACH":
        inside = (table.price[at] >= table.lowest[at] - SLACK) & (
            table.price[at] <= table.highest[at] + SLACK
        )
        return table.price[at], 0.0 if inside.all() else -np.inf
    cost = _diverted(rows, table.price, at, first, end) if tied else np.zeros(len(at))
    rungs = [
        _rung(rows, table, i, lost) for i, lost in zip(at.tolist(), cost.tolist(), strict=True)
    ]
    best = _best_in_order(rows, rungs, at)
    return (table.price[at], -np.inf) if best is None else (best, worth(rungs, best))


def _separate(rows: Columns, table: LocationPrices, short: int, longer: int) -> None:
    """Separate the limits of two prices, and keep today's prices within if possible."""
    low, high = table.price[short], table.price[longer]
    inner = max(low, rows["current_price"][short]), min(high, rows["current_price"][longer])
    cut = sum(inner) / 2.0 if inner[0] <= inner[1] else (low + high) / 2.0
    table.highest[short], table.lowest[longer] = (
        min(table.highest[short], max(cut, low)),
        max(table.lowest[longer], min(cut, high)),
    )


def _rung(rows: Columns, table: LocationPrices, at: int, cost: float) -> Rung:
    prices = price_points(rows, at, table.lowest[at], table.highest[at], table.price[at])
    cross_effect = np.exp(
        rows["cross_effect"][at]
        * (prices - rows["current_price"][at])
        / rows["reference_price"][at]
    )
    return Rung(
        float(rows["volume_mb"][at]), prices, robust_worth(rows, at, prices, cost), cross_effect
    )


def _diverted(rows: Columns, price: Floats, at: Ints, first: int, end: int) -> Floats:
    """Return sum_k D_jk (p_k - c_k) over the products of other ladders; shape (rungs,).

    D_jk = diversion x k's share of their sales.
    """
    every = np.arange(first, end)
    others = every[(every < at[0]) | (every > at[-1])]
    sold = rows["volume"][others]
    if not sold.sum() > 0:
        return np.zeros(len(at))
    return np.asarray(
        rows["diversion"][at] * np.sum(unit_margins(rows, price)[others] * sold) / np.sum(sold)
    )


def _neighbour_effects(rows: Columns, price: Floats, at: Ints) -> tuple[Floats, Floats]:
    """Return the loss of neighbouring rungs by one unit sold, in money, and the effect of their new
    prices on log sales; shape (rungs,) each.

    D_jk = (chi q_k / p_ref) / (-beta_j q_j / p_j), the slope of k's sales over that of j's own;
    together at most 1.
    """
    beside = np.eye(len(at), k=1) + np.eye(len(at), k=-1)
    moved = (
        rows["cross_effect"][at] * (price - rows["current_price"])[at] / rows["reference_price"][at]
    )
    own = -rows["elasticity"][at] * rows["volume"][at] / rows["current_price"][at]
    taken = (
        beside
        * rows["cross_effect"][at][:, None]
        * rows["volume"][at][None, :]
        / rows["reference_price"][at][:, None]
        / own[:, None]
    )
    taken /= np.maximum(taken.sum(axis=1), 1.0)[:, None]
    return (taken * unit_margins(rows, price)[at]).sum(axis=1), (beside * moved).sum(axis=1)
