"""A day without cliffs: a limit on the difference between the discounts of consecutive hours.

A discount that falls by half at 22:00 moves everybody's calls to 22:00.  The hours form a ring,
since midnight is an hour like any other: the best ring is found by dynamic programming (Viterbi),
once for each price of the first hour, all at a time, O(hours x points^3), exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tariffs.columns import Bools, Floats, Ints

SLACK = 1e-9
HOURS = 24


def excess(price: Floats, other: Floats, limit: Floats | float) -> Floats:
    """Return by how much two prices differ beyond the limit; money."""
    far = np.abs(price - other) - limit
    return np.where(far > SLACK, far, 0.0)


def cliffs(price: Floats, linked: Bools, limit: float) -> Bools:
    """Return which hours are beside a cliff; shape (hours,).

    linked  whether the next hour, around midnight, follows immediately
    """
    steep = linked & (excess(price, np.roll(price, -1), limit) > 0)
    return np.asarray(steep | np.roll(steep, 1), dtype=np.bool_)


def following_hour(hours: Ints) -> Bools:
    """Return whether each hour is followed by the next one in the list, the last by the first."""
    return np.asarray((np.roll(hours, -1) - hours) % HOURS == 1, dtype=np.bool_)


def smoothest(
    points: Sequence[Floats], values: Sequence[Floats], linked: Bools, limit: float
) -> Floats:
    """Return the prices, one per hour, that are worth most among those with the least total excess.

    points, values  for each hour its possible prices and their worth in money, shape (points,)
    """
    dear = (1.0 + 2.0 * sum(float(np.ptp(v)) for v in values)) / (
        1e-3 * max(limit, float(np.max(points[0])))
    )  # more than any worth
    best = np.where(
        np.eye(len(values[0]), dtype=np.bool_), values[0][None, :], -np.inf
    )  # (points of the first hour, of this hour)
    came_from = []
    for hour in range(1, len(points)):
        step = (
            dear * excess(points[hour - 1][:, None], points[hour][None, :], limit)
            if linked[hour - 1]
            else np.zeros(1)
        )
        reach = best[:, :, None] - step + np.zeros((1, len(points[hour])))
        came_from.append(reach.argmax(axis=1))
        best = reach.max(axis=1) + values[hour]
    if linked[-1] and len(points) > 1:
        best = best - dear * excess(points[0][:, None], points[-1][None, :], limit)
    first, last = np.unravel_index(int(best.argmax()), best.shape)
    at = [int(last)]
    for origins in reversed(came_from):
        at.append(int(origins[first, at[-1]]))
    return np.array([prices[point] for prices, point in zip(points, reversed(at), strict=True)])


def time_shift_matrix(hours: Ints, share: float, patience: float) -> Floats:
    """Return sigma_hk: of a minute that a discount adds in hour h, the part moved from hour k.

    (t + 1)^-patience as many customers wait t hours: the waiting function of Ha et al. (TUBE,
    SIGCOMM 2012).  Each row sums to `share`.  Shape (hours, hours).
    """
    wait = (hours[:, None] - hours[None, :]) % HOURS
    weight = np.where(wait > 0, (wait + 1.0) ** -patience, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    return np.asarray(share * weight / np.where(total > 0, total, 1.0))
