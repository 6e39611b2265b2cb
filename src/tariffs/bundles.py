"""Bundles: a (segment, location, product), from its weeks to its price.

`fit_prior` reads a sample of all units once; `price_bundle` prices one unit given that, `price_bundles` a batch of
them, with equal results; `order_ladders` then looks at all products of a (segment, location) together.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tariffs.demand.prior import Prior, pool
from tariffs.observe import Learnt, demand_at, learn_unit, learn_units, observe
from tariffs.optimise.ladder import Rung, climb, in_order
from tariffs.optimise.reasons import LADDER_ADJUSTED, holds
from tariffs.optimise.rule import GRID_SLACK, Demand, Terms, choose, effect, on_tick, robust_value
from tariffs.priced import Priced, control_of, only, report, terms_of
from tariffs.rows import Columns, Floats, Ints, Labels, Rows, Units, key_offsets

UNIT = ("segment", "location", "product")
FACTORS = ("product", "segment", "tier")  # what the prior mean of an elasticity depends on; noise depends on the first


def fit_prior(rows: Rows) -> Prior:
    """The pooled prior, from rows sorted by segment, location, product and week."""
    offsets = key_offsets(rows, UNIT)
    labels = {name: rows[name][offsets[:-1]] for name in FACTORS}
    seen = observe(rows, offsets)
    return pool(seen.panel, labels, FACTORS[0], labels["segment"], seen.days, rows["location"][offsets[:-1]])


def price_bundle(rows: Rows, prior: Prior) -> Priced:
    """One unit's price from its weeks, sorted by week."""
    offsets = np.array([0, len(rows["week"])], dtype=np.int64)
    labels = {name: rows[name][:1] for name in FACTORS}
    learnt = learn_unit(observe(rows, offsets), prior, labels, labels["segment"], rows["min_weeks"][:1])
    return only(_decide(rows, offsets, learnt), Priced)


def price_bundles(rows: Units, prior: Prior) -> dict[str, np.ndarray]:
    """The prices of a batch of units; each column has one value per unit, in the batch's order."""
    starts = rows.offsets[:-1]
    labels = {name: rows[name][starts] for name in FACTORS}
    learnt = learn_units(observe(rows, rows.offsets), prior, labels, labels["segment"], rows["min_weeks"][starts])
    return _decide(rows, rows.offsets, learnt)


def _decide(rows: Columns, offsets: Ints, learnt: Learnt) -> dict[str, np.ndarray]:
    last = offsets[1:] - 1
    terms = terms_of(rows, offsets, rows["max_step"][last] * rows["posted_price"][last])
    demand = demand_at(learnt, terms.current, terms.reference, rows["active_subs"][last])
    hold = holds(learnt.supported, learnt.varied, control_of(rows, offsets))
    return report(terms, demand, learnt, choose(terms, demand, hold != ""), hold)


def order_ladders(rows: Rows) -> dict[str, np.ndarray]:
    """The products of one (segment, location), priced, sorted by ladder and rung: their prices in order, one row per product.

    Rungs that are in order already keep their prices, for these are the best in reach.  Where nothing in reach is in
    order, the ladder keeps the prices it has, and `ladder_bound` says so.
    """
    price, bound = rows["price"].copy(), np.full(len(rows["price"]), "", dtype=object)
    offsets = key_offsets(rows, ("ladder",))
    for first, end in pairwise(offsets):
        if not in_order(price[first:end], rows["volume_mb"][first:end]):
            together = climb([_rung(rows, at) for at in range(first, end)])
            price[first:end] = rows["current_price"][first:end] if together is None else together
            adjusted = price[first:end] != rows["price"][first:end]
            bound[first:end] = "LADDER_OUT_OF_REACH" if together is None else np.where(adjusted, "LADDER", "")
    return _reported(rows, price, bound)


def _rung(rows: Columns, at: int) -> Rung:
    """The price points of one product between its lowest and highest, its chosen and its current price, with their worth."""
    tick, lowest, highest = rows["price_tick"][at], rows["lowest"][at], rows["highest"][at]
    steps = np.arange(np.ceil(lowest / tick - GRID_SLACK), np.floor(highest / tick + GRID_SLACK) + 1.0)
    stay = [price for price in (rows["price"][at], rows["current_price"][at]) if lowest <= price <= highest]
    prices = np.unique(np.append(on_tick(steps, tick) if lowest < highest else [], stay))
    terms, demand = _known(rows, np.full(len(prices), at))
    return Rung(float(rows["volume_mb"][at]), prices, robust_value(prices, terms, demand) * terms.current * demand.volume)


def _reported(rows: Columns, price: Floats, bound: Labels) -> dict[str, np.ndarray]:
    """What changes with the price; the rest stays in the unit's own result."""
    effects = effect(price, *_known(rows, np.arange(len(price))))
    return {
        "product": rows["product"],
        "price": price,
        "reason_code": np.where(price != rows["price"], LADDER_ADJUSTED, rows["reason_code"]).astype(object),
        "ladder_bound": bound,
        "p_gain": effects.p_gain,
        "expected_volume_delta": effects.volume,
        "expected_revenue_delta": effects.revenue,
        "expected_margin_delta": effects.margin,
    }


def _known(rows: Columns, at: Ints) -> tuple[Terms, Demand]:
    current, lowest, highest = rows["current_price"][at], rows["lowest"][at], rows["highest"][at]
    step = np.zeros(len(at))  # the limits have the step in them already
    terms = Terms(current, rows["reference_price"][at], rows["unit_cost"][at], rows["price_tick"][at], lowest, highest, step, rows["z"][at])
    return terms, Demand(rows["elasticity"][at], rows["se"][at], rows["volume"][at])
