"""Prices that were chosen one by one, looked at again together: what places, days and the whole table have in common.

Their rows are units as `Priced` describes them, one row each.  A trial is optimised on the elasticity that was drawn for
it, and is reported on the one that is believed.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from tariffs.columns import Columns, Floats, Ints
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
MAX_SWEEPS = 6  # of Gauss-Seidel; what one price costs another is small, so two or three settle it


def price_points(rows: Columns, at: int, lowest: float, highest: float, price: float) -> Floats:
    """The price points of one row between two limits, its chosen and its current price; sorted, shape (points,)."""
    tick = rows["price_tick"][at]
    steps = np.arange(
        np.ceil(lowest / tick - GRID_SLACK), np.floor(highest / tick + GRID_SLACK) + 1.0
    )
    stay = [p for p in (price, rows["current_price"][at]) if lowest <= p <= highest]
    points = np.unique(np.append(on_tick(steps, tick) if lowest < highest else [], stay))
    return points if len(points) else np.array([min(max(price, lowest), highest)])


def robust_worth(rows: Columns, at: int, prices: Floats, opportunity_cost: float = 0.0) -> Floats:
    """What each price of one row is worth in money per week, under the elasticity that is least favourable to it."""
    terms, demand = (
        terms_of_rows(rows, np.full(len(prices), at), opportunity_cost),
        posterior_demand(rows, np.full(len(prices), at)),
    )
    return robust_value(prices, terms, demand) * terms.current * demand.volume


def with_effects(
    rows: Columns, price: Floats, opportunity_cost: Floats, cross_effect: Floats | float = 0.0
) -> dict[str, Floats]:
    """The effect of each row's new price, and what its moving costs other rows."""
    every = np.arange(len(price))
    demand = Demand(rows["elasticity"], rows["se"], rows["volume"], capacity_of(rows))
    return effect_columns(
        price, terms_of_rows(rows, every, opportunity_cost), demand, cross_effect
    ) | {"opportunity_cost": opportunity_cost}


def blocked(rows: Columns, price: Floats) -> Floats:
    """The change of each row's minutes that are asked for beyond the capacity, at its new price."""
    demand = Demand(rows["elasticity"], rows["se"], rows["volume"], capacity_of(rows))
    return blocked_delta(price, terms_of_rows(rows, np.arange(len(price))), demand)


def terms_of_rows(rows: Columns, at: Ints, opportunity_cost: Floats | float = 0.0) -> Terms:
    current, lowest, highest = rows["current_price"][at], rows["lowest"][at], rows["highest"][at]
    step = np.zeros(len(at))  # the limits have the step in them already
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
    """The demand to optimise on: a trial's is certain of its draw."""
    capacity = capacity_of(rows)
    sd = np.where(rows["explore_flag"][at], 0.0, rows["se"][at])
    return Demand(
        rows["draw"][at], sd, rows["volume"][at], capacity if capacity.size == 1 else capacity[at]
    )


def capacity_of(rows: Columns) -> Floats:
    """The most that can be sold in a week: of each row (rows,), or infinite for all, shape (1,), where rows have no such column."""
    try:
        return np.asarray(rows["capacity"])
    except KeyError:
        return np.array([np.inf])


def unit_margins(rows: Columns, price: Floats) -> Floats:
    """What one unit sold leaves, in money; shape (rows,)."""
    return np.asarray(price - rows["unit_cost"] + rows["usage_value"])


def validity(rows: Columns) -> dict[str, np.ndarray]:
    """From midnight in the location's time zone, after the day of the run, for a week; `valid_...` in UTC."""
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
            f"the time zone {zone!r} is not known; wanted an IANA name such as Africa/Accra in locations.time_zone"
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
