"""Limits on the whole price table of a kind, applied after ladders and days are in order.

`optimise.portfolio` finds the price of each limit, while `optimise.chains` keeps ladders in order
and days smooth: the result is within each unit's limits, in order, and within the table's limits.
If these cannot be met, the kind keeps today's prices with a reason, and the other kind is priced
independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Columns, Floats, Ints, Labels, PriceEffects, Rows, key_offsets
from tariffs.optimise.chains import Chains, Constraint, DayConstraint, LadderConstraint
from tariffs.optimise.column_generation import Limit, LimitsNotMet
from tariffs.optimise.portfolio import WithinLimits, duals_of, solve
from tariffs.optimise.reasons import HOLD_PORTFOLIO, PORTFOLIO_LIMIT, PORTFOLIO_RESTORED
from tariffs.optimise.rule import GRID_SLACK, Demand, Terms, expected_loss, on_tick, robust_value
from tariffs.pricing.joint import (
    beyond_mode,
    blocked,
    capacity_of,
    posterior_demand,
    terms_of_rows,
    with_effects,
)

SAMPLE_EVERY = 20_000  # units in the sample from which the limits' prices are first estimated
ASKED = ("max_moved_share", "max_mean_change", "min_volume", "max_revenue_risk")
SAME = 1e-9  # at equal worth, the given price is preferred


@dataclass(frozen=True, slots=True)
class Limited(PriceEffects):
    """A price that a limit on the whole table changed, with its effects; and one row for the kind.

    limits       of the kind's row: the limits that the policy sets
    worth        of the kind's row: the worth of its prices in money per week, each at its least
                 favourable elasticity
    worth_bound  no prices within the limits are worth more (the Lagrangian bound)
    outcome      of the kind's row: the result of applying the limits
    """

    unit_key: str
    price: float
    discount_class: int
    reason_code: str
    portfolio_bound: str
    expected_blocked_delta: float
    limits: str
    worth: float
    worth_bound: float
    outcome: str


def apply_portfolio_limits(rows: Rows) -> dict[str, np.ndarray]:
    """Return `within_limits`, and one row for the kind with the outcome.

    Without that row, nothing of the kind is published.  If the limits cannot be met, the changed
    prices are those that return to today's.
    """
    asked = ", ".join(name for name in ASKED if float(rows[name][0]) >= 0)
    try:
        changed, kept = _kept(rows)
        worth, bound = (kept.worth, kept.bound) if kept else (np.nan, np.nan)
        outcome = "kept" if kept else "nothing to limit" if not asked else "met without a change"
    except LimitsNotMet as error:
        changed, worth, bound, outcome = (
            _held(rows),
            np.nan,
            np.nan,
            f"NOT MET, today's prices stay: {error}",
        )
    kind = {
        "unit_key": "",
        "reason_code": "",
        "portfolio_bound": "",
        "limits": asked,
        "worth": worth,
        "worth_bound": bound,
        "outcome": outcome,
    }
    none = {"f": np.nan, "i": 0}
    return {
        name: np.append(
            values, np.array([kind.get(name, none.get(values.dtype.kind, ""))], dtype=values.dtype)
        )
        for name, values in changed.items()
    }


def within_limits(rows: Rows) -> dict[str, np.ndarray]:
    """Return the prices that change, in columns of `Limited`.

    rows  of one kind, by chain and position

    Raises LimitsNotMet, naming the limits and the best possible value, if they cannot be met.
    Raises ValueError if the policy limits only a part of the table, which is not supported.
    """
    return _kept(rows)[0]


def _kept(rows: Rows) -> tuple[dict[str, np.ndarray], WithinLimits | None]:
    """Return the prices that change, and the solution; None if the given prices meet the limits."""
    if rows["misplaced"][0] is not None:
        raise ValueError(
            f"the policy's row of {rows['misplaced'][0]} limits the whole table;"
            " wanted in the row with the scope *, and nowhere else"
        )
    prices, there = menu(rows)
    limits = limits_of(rows, prices)
    broken = [limit.name for limit in limits if limit.excess(np.full(len(prices), GIVEN_PRICE)) > 0]
    if not broken:
        return _changed(rows, rows["price"], PORTFOLIO_LIMIT, ""), None
    values, chains = _values(rows, prices, there), chains_of(rows, prices, there)
    kept = solve(
        values,
        limits,
        chains.answer,
        _from_sample(values, limits, chains),
        chains.offsets,
        _today(rows, prices, there),
    )
    active = {
        limit.name for limit, dual in zip(limits, kept.duals, strict=True) if dual > 0
    } or set(broken)
    bound = next(iter(active)).upper() if len(active) == 1 else "SEVERAL_LIMITS"
    return _changed(rows, prices[np.arange(len(prices)), kept.pick], PORTFOLIO_LIMIT, bound), kept


def _held(rows: Rows) -> dict[str, np.ndarray]:
    """Return today's prices, or the nearest allowed price point where a limit forbids today's.

    Prices that are out of order stay so.
    """
    price, lowest, highest, tick = (
        rows[name] for name in ("current_price", "lowest", "highest", "price_tick")
    )
    least, most = (
        on_tick(np.ceil(lowest / tick - GRID_SLACK), tick),
        on_tick(np.floor(highest / tick + GRID_SLACK), tick),
    )
    on_grid = least <= most  # otherwise no price point is between floor and ceiling
    price = np.where(
        price < lowest,
        np.where(on_grid, least, lowest),
        np.where(price > highest, np.where(on_grid, most, highest), price),
    )
    reason = np.where(price == rows["current_price"], HOLD_PORTFOLIO, PORTFOLIO_RESTORED).astype(
        object
    )
    return _changed(rows, price, reason, "LIMITS_NOT_MET")


def _today(rows: Columns, prices: Floats, there: Bools) -> Ints:
    """Return the point that is nearest to today's price; shape (units,)."""
    return np.asarray(
        np.where(there, np.abs(prices - rows["current_price"][:, None]), np.inf).argmin(axis=1)
    )


GIVEN_PRICE = 0  # the menu's column with the given price


def menu(rows: Columns) -> tuple[Floats, Bools]:
    """Return the possible prices of each unit, and a mask of them; shape (units, points) each.

    The given price is first; masked points are last.
    """
    lowest, highest, tick, given, current = (
        rows[name][:, None]
        for name in ("lowest", "highest", "price_tick", "price", "current_price")
    )
    first, last = np.ceil(lowest / tick - GRID_SLACK), np.floor(highest / tick + GRID_SLACK)
    fixed = (lowest >= highest) | np.array(
        [str(bound).startswith("LADDER_OUT") for bound in rows["group_bound"]]
    )[:, None]
    count = int(np.max(np.where(fixed, 0.0, last - first + 1.0), initial=0.0))
    steps = first + np.arange(max(count, 0))
    prices = np.concatenate(
        [given, current, on_tick(np.minimum(steps, np.maximum(last, first)), tick)], axis=1
    )
    inside = (prices >= lowest - SAME) & (prices <= highest + SAME) & ~fixed
    inside[:, 2:] &= (
        (steps <= last) & (prices[:, 2:] != given) & (prices[:, 2:] != current)
    )  # each price once
    inside[:, 1:2] &= current != given
    inside[:, GIVEN_PRICE] = True
    left = np.argsort(~inside, axis=1, kind="stable")[
        :, : max(int(inside.sum(axis=1).max(initial=1)), 1)
    ]
    inside = np.take_along_axis(inside, left, axis=1)
    return np.where(inside, np.take_along_axis(prices, left, axis=1), given), inside


def limits_of(rows: Columns, prices: Floats) -> list[Limit]:
    """Return the limits that the policy sets, over the menu."""
    wanted = {name: float(rows[name][0]) for name in ASKED}
    units, current = float(len(prices)), rows["current_price"][:, None]
    volume, ratio = rows["volume"][:, None], prices / current
    capacity = np.broadcast_to(capacity_of(rows), rows["volume"].shape)[:, None]
    sold_now = np.minimum(rows["volume"], capacity[:, 0])
    asked = volume * np.exp(
        rows["elasticity"][:, None] * (ratio - 1.0) + rows["neighbour_effect"][:, None]
    )
    limits = []
    if wanted["max_moved_share"] >= 0:
        limits.append(
            Limit(
                "max_moved_share",
                (prices != current).astype(np.float64),
                wanted["max_moved_share"] * units,
                units,
            )
        )
    if wanted["max_mean_change"] >= 0:
        limits.append(
            Limit("max_mean_change", ratio - 1.0, wanted["max_mean_change"] * units, units)
        )
        limits.append(
            Limit("max_mean_change", 1.0 - ratio, wanted["max_mean_change"] * units, units)
        )
    if wanted["min_volume"] >= 0:
        base = float(sold_now.sum())
        sold = np.minimum(asked * np.exp(beyond_mode(rows, prices)), capacity)
        limits.append(Limit("min_volume", -sold, -wanted["min_volume"] * base, -base))
    if wanted["max_revenue_risk"] >= 0:
        loss, revenue = _losses(rows, prices, asked, capacity), sold_now * rows["current_price"]
        limits.append(
            Limit(
                "max_revenue_risk",
                loss,
                wanted["max_revenue_risk"] * float(revenue.sum()),
                float(revenue.sum()),
            )
        )
    return limits


def _losses(rows: Columns, prices: Floats, asked: Floats, capacity: Floats) -> Floats:
    """Return the expected loss of revenue at each price; asked and prices (units, points).

    asked is the median of the demand; capacity (units, 1).  Masked points have the given price,
    whose loss is computed once.
    """
    current = rows["current_price"]
    revenue = np.minimum(rows["volume"], capacity[:, 0]) * current
    spread = rows["se"][:, None] * np.abs(prices / current[:, None] - 1.0)
    another = prices != prices[:, [GIVEN_PRICE]]
    another[:, GIVEN_PRICE] = True
    unit, loss, price = np.nonzero(another)[0], np.zeros_like(prices), prices[another]
    loss[another] = expected_loss(
        revenue[unit], asked[another] * price, spread[another], capacity[unit, 0] * price
    )
    return np.where(another, loss, loss[:, [GIVEN_PRICE]])


def chains_of(rows: Columns, prices: Floats, there: Bools) -> Chains:
    offsets = key_offsets(rows, ("chain",))
    tie: Constraint = LadderConstraint(rows["volume_mb"])
    if rows["kind"][0] == "voice":
        tie = DayConstraint(rows["position"], rows["max_cliff"])
    loose = np.array(
        [str(bound).startswith("LADDER_OUT") for bound in rows["group_bound"][offsets[:-1]]]
    )
    return Chains(offsets, prices, tie, loose, there.sum(axis=1))


def _values(rows: Columns, prices: Floats, there: Bools) -> Floats:
    every = np.arange(len(prices))
    terms, demand = (
        terms_of_rows(rows, every, rows["opportunity_cost"]),
        posterior_demand(rows, every),
    )
    tall = Terms(
        *(
            getattr(terms, name)[:, None]
            for name in (
                "current",
                "reference",
                "unit_cost",
                "tick",
                "floor",
                "ceiling",
                "step",
                "z",
                "added_cost",
            )
        )
    )
    money = (terms.current * demand.volume * np.exp(rows["neighbour_effect"]))[:, None]
    wide = Demand(
        *(
            values.reshape(-1, 1)
            for values in (demand.elasticity, demand.sd, demand.volume, demand.capacity)
        )
    )
    values = robust_value(prices, tall, wide) * money
    values[:, GIVEN_PRICE] += SAME * money[:, 0]
    return np.where(there, values, -np.inf)


def _from_sample(values: Floats, limits: list[Limit], chains: Chains) -> Floats | None:
    """Return the limits' prices in a sample of the chains, so that large tables need few passes."""
    every = len(values) // SAMPLE_EVERY
    if every < 2:
        return None
    part, at = chains.sample(every)
    share = len(at) / len(values)
    fewer = [
        Limit(limit.name, limit.amounts[at], limit.most * share, limit.per * share)
        for limit in limits
    ]
    try:
        return duals_of(values[at], fewer, part.answer)
    except LimitsNotMet:  # in this sample: start without an estimate
        return None


def _changed(
    rows: Columns, price: Floats, reason: str | Labels, bound: str
) -> dict[str, np.ndarray]:
    at, none = price != rows["price"], np.full(len(price), np.nan)
    columns = {
        "unit_key": rows["unit_key"],
        "price": price,
        "discount_class": np.rint(100.0 * (1.0 - price / rows["reference_price"])).astype(np.int64),
        "reason_code": np.broadcast_to(np.asarray(reason, dtype=object), price.shape),
        "portfolio_bound": np.full(len(price), bound, dtype=object),
        **with_effects(rows, price, rows["opportunity_cost"], rows["neighbour_effect"]),
        "expected_blocked_delta": blocked(rows, price),
        "limits": np.full(len(price), "", dtype=object),
        "worth": none,
        "worth_bound": none,
        "outcome": np.full(len(price), "", dtype=object),
    }
    return {name: values[at] for name, values in columns.items() if name != "opportunity_cost"}
