"""Why a price is what it is: one code per row of the price table, for the people and the systems that read it."""

from __future__ import annotations

import numpy as np

from tariffs.columns import Bools, Labels
from tariffs.optimise.rule import Choice, Terms

INCREASE = "INCREASE_CONFIDENT"
DECREASE = "DECREASE_CONFIDENT"
HOLD_UNCERTAIN = "HOLD_UNCERTAIN"  # the interval spans the break-even
HOLD_PRICE_POINT = "HOLD_PRICE_POINT"  # the interval excludes it, and yet no price point near the optimum is better than today's price
HOLD_MIN_SUPPORT = "HOLD_MIN_SUPPORT"  # too few weeks, or no sales in any
HOLD_NO_VARIATION = (
    "HOLD_NO_VARIATION"  # the price never moved: the data say nothing about its effect
)
HOLD_CONTROL = "HOLD_CONTROL"  # the hold-out that the others are measured against
HOLD_NO_PRICE_POINT = (
    "HOLD_NO_PRICE_POINT"  # its limits hold no price point at all, and today's price is within them
)
CLIPPED_STEP = "CLIPPED_STEP"
CLIPPED_FLOOR = "CLIPPED_FLOOR"  # today's price is not below the floor, and the best price is: the price stops at the floor
CLIPPED_CEILING = "CLIPPED_CEILING"  # today's price is not above the ceiling, and the best price is: the price stops at the ceiling
FLOOR_RAISED = "FLOOR_RAISED"  # today's price is below the floor: the price was raised to it
CEILING_LOWERED = (
    "CEILING_LOWERED"  # today's price is above the ceiling: the price was lowered to it
)
CAPACITY_CAP = "CAPACITY_CAP"  # a deeper discount would fill the cell beyond its load limit: it was kept smaller
CAPACITY_RAISED = "CAPACITY_RAISED"  # at today's price the cell is fuller than its load limit: the price was raised
FALLBACK_SEGMENT = (
    "FALLBACK_SEGMENT"  # the unit's own elasticity is implausible; the prior's was used
)
REG_CAP = "REG_CAP"  # the best price is beyond the regulator's limit beside competitors' prices: the price stops at the limit
REG_ADJUSTED = "REG_ADJUSTED"  # today's price is beyond the regulator's limit: the price was brought back to it
FAIRNESS_ADJUSTED = "FAIRNESS_ADJUSTED"  # one segment would have paid too much more than another for the same product
HOLD_NOT_SOLD = "HOLD_NOT_SOLD"  # its last week is long ago
HOLD_FREQUENCY = "HOLD_FREQUENCY"  # it changed too short a while ago
EXPLORE = "EXPLORE"  # a trial: priced on a draw of its elasticity
DIVERSION_ADJUSTED = "DIVERSION_ADJUSTED"  # what other products would lose was counted in
SMOOTHED = "SMOOTHED"  # its own best discount would be a cliff beside the next hour's
TIME_SHIFT_ADJUSTED = "TIME_SHIFT_ADJUSTED"  # minutes that its own best discount only moves from other hours were counted in
PORTFOLIO_LIMIT = "PORTFOLIO_LIMIT"  # its own best price would break a limit over the whole table
PORTFOLIO_RESTORED = "PORTFOLIO_RESTORED"  # those limits cannot be met, and today's price is beyond its own limits: the nearest within them
HOLD_PORTFOLIO = (
    "HOLD_PORTFOLIO"  # the limits over the whole table cannot be met, so today's prices stay
)
LADDER_ADJUSTED = "LADDER_ADJUSTED"  # its own best price would have broken the order of sizes

CODES = frozenset(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str)
)

CLIPPED = {
    "FLOOR": CLIPPED_FLOOR, "CEILING": CLIPPED_CEILING, "STEP_UP": CLIPPED_STEP, "STEP_DOWN": CLIPPED_STEP, "CAPACITY": CAPACITY_CAP,
    "REG_FLOOR": REG_CAP, "REG_CEILING": REG_CAP, "TICK": HOLD_PRICE_POINT,
    "GRID": HOLD_NO_PRICE_POINT,
}  # fmt: skip
RETURNED_TO_BOUND = {  # where today's price itself is beyond the limit
    "FLOOR": FLOOR_RAISED, "CEILING": CEILING_LOWERED, "CAPACITY": CAPACITY_RAISED, "REG_FLOOR": REG_ADJUSTED, "REG_CEILING": REG_ADJUSTED,
}  # fmt: skip

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
    """The reason to hold a unit whatever its elasticity, '' where there is none; the first that applies.  Shape (units,)."""
    return _first_that_holds(
        [control, quiet, recent, ~supported, ~varied],
        [HOLD_CONTROL, HOLD_NOT_SOLD, HOLD_FREQUENCY, HOLD_MIN_SUPPORT, HOLD_NO_VARIATION],
        "",
    )


def reasons(choice: Choice, terms: Terms, hold: Labels, fallback: Bools) -> Labels:
    """The code of each price.  A limit that moved the price, or kept it from moving, is told before the direction of the move."""
    clipped = np.array([CLIPPED.get(bound, "") for bound in choice.bound], dtype=object)
    back = _returned_to_bound(choice, terms)
    clipped = np.where(back != "", back, clipped)
    moved, raised = choice.price != terms.current, choice.price > terms.current
    free = _first_that_holds(
        [raised, choice.price < terms.current], [INCREASE, DECREASE], HOLD_UNCERTAIN
    )
    told = np.where(clipped != "", clipped, free)
    told = np.where(moved & fallback, FALLBACK_SEGMENT, told)
    return np.where((hold != "") & (clipped == ""), hold, told)


def _returned_to_bound(choice: Choice, terms: Terms) -> Labels:
    """The code of each price that was brought back to a limit which today's price is beyond, '' of the others."""
    shape = choice.price.shape
    bound, codes = choice.bound, np.full(shape, "", dtype=object)
    for name, beyond in (
        (terms.floor_name, terms.floor > terms.current),
        (terms.ceiling_name, terms.ceiling < terms.current),
    ):
        limit = np.broadcast_to(name, shape)
        back = np.array([RETURNED_TO_BOUND.get(of, "") for of in limit], dtype=object)
        codes = np.where(beyond & ((bound == limit) | (bound == "GRID")), back, codes)
    return codes


def _first_that_holds(conditions: list[Bools], codes: list[str], otherwise: str) -> Labels:
    return np.select(conditions, codes, otherwise).astype(object)
