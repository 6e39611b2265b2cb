"""Shared steps of the joint adjustments: of locations, of days, and of the whole table.

Their rows are units in the columns of `Priced`, one row each.  A trial is optimised on the
elasticity that was drawn for it, and reported on the posterior one.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from tariffs.columns import Columns, Floats, Ints
from tariffs.optimise.expected_volume import expected_log_change
from tariffs.optimise.rule import (
    GRID_SLACK,
    Demand,
    Terms,
    blocked_delta,
    effect_columns,
    on_tick,
    robust_value,
)

DAYS_VALID = 7
MAX_SWEEPS = 6  # of Gauss-Seidel; prices affect one another little, so two or three suffice


def price_points(rows: Columns, at: int, lowest: float, highest: float, price: float) -> Floats:
    """Return a row's price points between two limits, with its chosen and its current price.

    Sorted; shape (points,).
    """
    tick = rows["price_tick"][at]
    steps = np.arange(
        np.ceil(lowest / tick - GRID_SLACK), np.floor(highest / tick + GRID_SLACK) + 1.0
    )
    stay = [p for p in (price, rows["current_price"][at]) if lowest <= p <= highest]
    points = np.unique(np.append(on_tick(steps, tick) if lowest < highest else [], stay))
    return points if len(points) else np.array([min(max(price, lowest), highest)])


def robust_worth(rows: Columns, at: int, prices: Floats, opportunity_cost: float = 0.0) -> Floats:
    """Return the worth of each price of a row, money per week, at the least favourable beta."""
    terms, demand = (
        terms_of_rows(rows, np.full(len(prices), at), opportunity_cost),
        posterior_demand(rows, np.full(len(prices), at)),
    )
    return robust_value(prices, terms, demand) * terms.current * demand.volume


def with_effects(
    rows: Columns, price: Floats, opportunity_cost: Floats, cross_effect: Floats | float = 0.0
) -> dict[str, Floats]:
    """Return the effect columns of each row's new price, and its opportunity cost."""
    every = np.arange(len(price))
    demand = Demand(rows["elasticity"], rows["se"], rows["volume"], capacity_of(rows))
    return effect_columns(
        price,
        terms_of_rows(rows, every, opportunity_cost),
        demand,
        cross_effect + beyond_mode(rows, price),
    ) | {"opportunity_cost": opportunity_cost}


def blocked(rows: Columns, price: Floats) -> Floats:
    """Return the change of each row's minutes demanded beyond capacity, at its new price."""
    demand = Demand(rows["elasticity"], rows["se"], rows["volume"], capacity_of(rows))
    terms = terms_of_rows(rows, np.arange(len(price)))
    return blocked_delta(price, terms, demand, beyond_mode(rows, price))


def beyond_mode(rows: Columns, price: Floats) -> Floats:
    """Return `expected_log_change` of a price of each row (rows,), or of several (rows, points)."""
    current, centre, sd = (
        np.asarray(rows[name]).reshape(-1, *[1] * (price.ndim - 1))
        for name in ("current_price", "centre_price", "se")
    )
    return expected_log_change(price, current, centre, sd)


def terms_of_rows(rows: Columns, at: Ints, opportunity_cost: Floats | float = 0.0) -> Terms:
    current, lowest, highest = rows["current_price"][at], rows["lowest"][at], rows["highest"][at]
    step = np.zeros(len(at))  # the limits include the step already
    added = opportunity_cost - rows["usage_value"][at]
    return Terms(
        current,
        rows["reference_price"][at],
        rows["unit_cost"][at],
        rows["price_tick"][at],
        lowest,
        highest,
        step,
        rows["z"][at],
        added,
    )


def posterior_demand(rows: Columns, at: Ints) -> Demand:
    """Return the demand to optimise on; that of a trial is its draw, without an error."""
    capacity = capacity_of(rows)
    sd = np.where(rows["explore_flag"][at], 0.0, rows["se"][at])
    return Demand(
        rows["draw"][at], sd, rows["volume"][at], capacity if capacity.size == 1 else capacity[at]
    )


def capacity_of(rows: Columns) -> Floats:
    """Return the largest weekly quantity of each row (rows,), or infinity (1,) without a limit."""
    try:
        return np.asarray(rows["capacity"])
    except KeyError:
        return np.array([np.inf])


def unit_margins(rows: Columns, price: Floats) -> Floats:
    """Return the margin of one unit sold, in money; shape (rows,)."""
    return np.asarray(price - rows["unit_cost"] + rows["usage_value"])


def validity(rows: Columns) -> dict[str, np.ndarray]:
    """Return the validity: a week from midnight in the location's time zone, after the run's day.

    `valid_from` and `valid_to` are in UTC.
    """
    pairs = [
        _validity(as_of, str(zone))
        for as_of, zone in zip(
            rows["as_of"].astype("datetime64[us]").tolist(), rows["time_zone"], strict=True
        )
    ]
    names = ("valid_from", "valid_to", "valid_from_local", "valid_to_local")
    columns = {
        name: np.array(values, dtype="datetime64[us]")
        for name, values in zip(names, zip(*pairs, strict=True), strict=True)
    }
    return columns | {"time_zone": rows["time_zone"]}


@lru_cache(maxsize=1024)
def _validity(as_of: dt.datetime, zone: str) -> tuple[dt.datetime, ...]:
    try:
        where = dt.UTC if zone == "UTC" else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(
            f"the time zone {zone!r} is not known; wanted an IANA name such as Africa/Accra"
            " in locations.time_zone"
        ) from error
    today = as_of.replace(tzinfo=dt.UTC).astimezone(where).date()
    nights = [
        dt.datetime.combine(today + dt.timedelta(days=days), dt.time(), where).astimezone(dt.UTC)
        for days in (1, 1 + DAYS_VALID)
    ]
    return tuple(
        night.replace(tzinfo=None)
        for night in (*nights, *(night.astimezone(where) for night in nights))
    )
