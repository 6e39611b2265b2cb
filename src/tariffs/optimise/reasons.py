"""Reason codes: why a price is as it is; one code per row of the price table."""

from __future__ import annotations

import numpy as np

from tariffs.columns import Bools, Labels
from tariffs.optimise.rule import Choice, Terms

INCREASE = "INCREASE_CONFIDENT"
DECREASE = "DECREASE_CONFIDENT"
HOLD_UNCERTAIN = "HOLD_UNCERTAIN"  # the interval includes the break-even
# the interval excludes it, but no price point near the optimum is better than today's price
HOLD_PRICE_POINT = "HOLD_PRICE_POINT"
HOLD_MIN_SUPPORT = "HOLD_MIN_SUPPORT"  # too few weeks, or no sales in any
HOLD_NO_VARIATION = (
    "HOLD_NO_VARIATION"  # the price never moved: the data have no information on its effect
)
HOLD_CONTROL = "HOLD_CONTROL"  # the control group, against which the others are measured
HOLD_NO_PRICE_POINT = (
    "HOLD_NO_PRICE_POINT"  # no price point is within its limits, and today's price is
)
CLIPPED_STEP = "CLIPPED_STEP"
# the best price is below the floor, and today's price is not: the price stops at the floor
CLIPPED_FLOOR = "CLIPPED_FLOOR"
# the best price is above the ceiling, and today's price is not: the price stops at the ceiling
CLIPPED_CEILING = "CLIPPED_CEILING"
FLOOR_RAISED = "FLOOR_RAISED"  # today's price is below the floor: raised to it
CEILING_LOWERED = "CEILING_LOWERED"  # today's price is above the ceiling: lowered to it
CAPACITY_CAP = "CAPACITY_CAP"  # limited: a deeper discount would exceed the cell's load limit
CAPACITY_RAISED = "CAPACITY_RAISED"  # at today's price the cell exceeds its load limit: raised
FALLBACK_SEGMENT = (
    "FALLBACK_SEGMENT"  # the unit's own elasticity is implausible; the prior's was used
)
# the best price is beyond the regulator's limit relative to competitors: the price stops at it
REG_CAP = "REG_CAP"
REG_ADJUSTED = "REG_ADJUSTED"  # today's price is beyond the regulator's limit: moved to it
FAIRNESS_ADJUSTED = "FAIRNESS_ADJUSTED"  # the ratio between segments would exceed its limit
HOLD_NOT_SOLD = "HOLD_NOT_SOLD"  # its last week is long ago
HOLD_FREQUENCY = "HOLD_FREQUENCY"  # it changed too recently
EXPLORE = "EXPLORE"  # a trial: priced on a draw of its elasticity
DIVERSION_ADJUSTED = "DIVERSION_ADJUSTED"  # with the losses of other products
SMOOTHED = "SMOOTHED"  # its own best discount would make a cliff to another hour
# with the minutes that its own best discount would only move from other hours
TIME_SHIFT_ADJUSTED = "TIME_SHIFT_ADJUSTED"
PORTFOLIO_LIMIT = "PORTFOLIO_LIMIT"  # its own best price would exceed a limit on the whole table
# these limits cannot be met, and today's price is beyond its own limits: moved to the nearest
PORTFOLIO_RESTORED = "PORTFOLIO_RESTORED"
HOLD_PORTFOLIO = (
    "HOLD_PORTFOLIO"  # the limits on the whole table cannot be met: today's price stays
)
LADDER_ADJUSTED = "LADDER_ADJUSTED"  # its own best price would violate the order of sizes

CODES = frozenset(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str)
)

CLIPPED = {
    "FLOOR": CLIPPED_FLOOR,
    "CEILING": CLIPPED_CEILING,
    "STEP_UP": CLIPPED_STEP,
    "STEP_DOWN": CLIPPED_STEP,
    "CAPACITY": CAPACITY_CAP,
    "REG_FLOOR": REG_CAP,
    "REG_CEILING": REG_CAP,
    "TICK": HOLD_PRICE_POINT,
    "GRID": HOLD_NO_PRICE_POINT,
}
RETURNED_TO_BOUND = {  # where today's price itself is beyond the limit
    "FLOOR": FLOOR_RAISED,
    "CEILING": CEILING_LOWERED,
    "CAPACITY": CAPACITY_RAISED,
    "REG_FLOOR": REG_ADJUSTED,
    "REG_CEILING": REG_ADJUSTED,
}

BUNDLE_ONLY = (
    "LADDER",
    "LADDER_OUT_OF_REACH",
    "FAIRNESS",
    "FAIRNESS_OUT_OF_REACH",
    "DIVERSION",
)  # bounds that ladders and segments set
VOICE_ONLY = ("CAPACITY", "CLIFF", "CLIFF_OUT_OF_REACH", "TIME_SHIFT")
WHOLE_TABLE = (
    "MAX_MOVED_SHARE",
    "MAX_MEAN_CHANGE",
    "MIN_VOLUME",
    "MAX_REVENUE_RISK",
    "SEVERAL_LIMITS",
    "LIMITS_NOT_MET",
)
BOUNDS = frozenset(
    (*CLIPPED, *BUNDLE_ONLY, *VOICE_ONLY, *WHOLE_TABLE)
)  # every value of constraint_bound


def holds(supported: Bools, varied: Bools, control: Bools, recent: Bools, quiet: Bools) -> Labels:
    """Return the first reason to hold a unit at any elasticity, '' for none; shape (units,)."""
    return _first_that_holds(
        [control, quiet, recent, ~supported, ~varied],
        [HOLD_CONTROL, HOLD_NOT_SOLD, HOLD_FREQUENCY, HOLD_MIN_SUPPORT, HOLD_NO_VARIATION],
        "",
    )


def reasons(choice: Choice, terms: Terms, hold: Labels, fallback: Bools) -> Labels:
    """Return the code of each price.

    A limit that moved the price, or kept it from moving, precedes the direction of the move.
    """
    clipped = np.array([CLIPPED.get(bound, "") for bound in choice.bound], dtype=object)
    back = _returned_to_bound(choice, terms)
    clipped = np.where(back != "", back, clipped)
    moved, raised = choice.price != terms.current, choice.price > terms.current
    free = _first_that_holds(
        [raised, choice.price < terms.current], [INCREASE, DECREASE], HOLD_UNCERTAIN
    )
    codes = np.where(clipped != "", clipped, free)
    codes = np.where(moved & fallback, FALLBACK_SEGMENT, codes)
    return np.where((hold != "") & (clipped == ""), hold, codes)


def _returned_to_bound(choice: Choice, terms: Terms) -> Labels:
    """Return the code of each price that returned to a limit beyond which it is today, or ''."""
    shape = choice.price.shape
    bound, codes = choice.bound, np.full(shape, "", dtype=object)
    for name, beyond in (
        (terms.floor_name, terms.floor > terms.current),
        (terms.ceiling_name, terms.ceiling < terms.current),
    ):
        limit = np.broadcast_to(name, shape)
        at = np.nonzero(beyond & ((bound == limit) | (bound == "GRID")))
        codes[at] = [RETURNED_TO_BOUND.get(of, "") for of in limit[at]]
    return codes


def _first_that_holds(conditions: list[Bools], codes: list[str], otherwise: str) -> Labels:
    return np.select(conditions, codes, otherwise).astype(object)
