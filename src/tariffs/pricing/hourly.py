"""The 24 hours of a cell's day: discounts chosen hour by hour, then adjusted together.

Two things connect them.  No cliff between two hours is allowed (`optimise.smooth`).  And a share of
the minutes that a discount adds was only postponed, and is missing in other hours (`time_shift`):
one more minute in hour h costs the others sum_k sigma_hk (p_k - c_k).  An hour that is full at its
price loses nothing by it, since other calls use the capacity.
"""

from __future__ import annotations

import numpy as np

from tariffs.columns import Columns, Floats, Rows
from tariffs.optimise.reasons import HOLD_CONTROL, SMOOTHED, TIME_SHIFT_ADJUSTED
from tariffs.optimise.smooth import cliffs, following_hour, smoothest, time_shift_matrix
from tariffs.pricing.joint import (
    MAX_SWEEPS,
    blocked,
    capacity_of,
    price_points,
    robust_worth,
    unit_margins,
    validity,
    with_effects,
)


def smooth_day(rows: Rows) -> dict[str, np.ndarray]:
    """Return the discounts of one (cell, day type), sorted by hour: one row per hour.

    Every price stays within its unit's limits: step, floor, ceiling and capacity.  If these leave a
    cliff, it is made as small as they allow, and `day_bound` is CLIFF_OUT_OF_REACH.
    """
    own, linked, limit = rows["price"], following_hour(rows["hour"]), _cliff_limit(rows)
    sigma = time_shift_matrix(
        rows["hour"], float(rows["time_shift"].max()), float(rows["patience"].max())
    )
    price = (
        _optimise_ring(rows, sigma, limit)
        if cliffs(own, linked, limit).any() or sigma.any()
        else own
    )
    changed, control = price != own, rows["reason_code"] == HOLD_CONTROL
    left = cliffs(price, linked, limit) & ~control
    reason, why = (
        (SMOOTHED, "CLIFF")
        if cliffs(own, linked, limit).any()
        else (TIME_SHIFT_ADJUSTED, "TIME_SHIFT")
    )
    columns = {
        "hour": rows["hour"],
        "price": price,
        "discount_class": np.rint(100.0 * (1.0 - price / rows["reference_price"])).astype(np.int64),
        "reason_code": np.where(
            changed & ~rows["explore_flag"], reason, rows["reason_code"]
        ).astype(object),
        "day_bound": np.where(left, "CLIFF_OUT_OF_REACH", np.where(changed, why, "")).astype(
            object
        ),
    }
    columns["expected_blocked_delta"] = blocked(rows, price)
    return columns | with_effects(rows, price, _lost(rows, price, sigma)) | validity(rows)


def _optimise_ring(rows: Columns, sigma: Floats, limit: float) -> Floats:
    """Return the best ring of prices; with time shifts, after Gauss-Seidel sweeps."""
    price: Floats = rows["price"]
    for _ in range(MAX_SWEEPS if sigma.any() else 1):
        lost, before = _lost(rows, price, sigma), price
        points = [
            price_points(rows, h, rows["lowest"][h], rows["highest"][h], rows["price"][h])
            for h in range(len(price))
        ]
        values = [robust_worth(rows, h, p, float(lost[h])) for h, p in enumerate(points)]
        price = smoothest(points, values, following_hour(rows["hour"]), limit)
        if np.array_equal(price, before):
            break
    return price


def _lost(rows: Columns, price: Floats, sigma: Floats) -> Floats:
    """Return the cost of one more minute in each hour to the other hours, in money; (hours,)."""
    asked = rows["volume"] * np.exp(rows["elasticity"] * (price / rows["current_price"] - 1.0))
    missed = np.where(asked > capacity_of(rows), 0.0, unit_margins(rows, price))
    return np.asarray((sigma * missed[None, :]).sum(axis=1))


def _cliff_limit(rows: Columns) -> float:
    return float(rows["max_cliff"].min() * rows["reference_price"].max())
