"""What must be true of a price table before charging may use it.  Each guard is one function, with a code and words of its own.

The guards trust nothing that the model said of itself: they look at the prices, at the table that charging uses now, at the catalogue that the
table was priced on, at what was sold, and at the clock.

  subject   what they look at, what they allow, how they say what they found
  change    against the active table
  price     each price by itself
  rows      each row: its values, its currency, the price of today that it is measured from
  money     what the table is expected to earn
  order     prices against one another
  trust     what the prices rest on
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tariffs.release.decision_log import Finding
from tariffs.release.guards.change import (
    CHANGE_SHARE,
    CHANGE_SIZE,
    UNITS,
    VOLUME,
    change_share,
    change_size,
    units,
    volume,
)
from tariffs.release.guards.context import UNITS_OF, Guard, GuardContext, Limits, limits_with
from tariffs.release.guards.money import COST, GAIN, MONEY, cost, gain, money
from tariffs.release.guards.order import FAIRNESS, LADDER, SMOOTH, fairness, ladder, smooth
from tariffs.release.guards.price import (
    BOUNDS,
    COMPETITOR,
    ELASTICITY,
    PRICE_POINTS,
    STEP,
    SUPPORT,
    bounds,
    competitor,
    elasticity,
    price_points,
    step,
    support,
)
from tariffs.release.guards.rows import CURRENCY, TODAY, VALUES, currency, today, values
from tariffs.release.guards.trust import (
    CONTROL,
    DRIFT,
    LIMITS,
    PRIOR,
    STALE,
    VALIDITY,
    control,
    drift,
    limits,
    prior,
    stale,
    validity,
)

GUARDS_BY_CODE: dict[str, Guard] = {
    VALUES: values, CURRENCY: currency, TODAY: today,
    CHANGE_SIZE: change_size, CHANGE_SHARE: change_share, UNITS: units, VOLUME: volume,
    STEP: step, BOUNDS: bounds, PRICE_POINTS: price_points, SUPPORT: support, COMPETITOR: competitor, ELASTICITY: elasticity,
    LADDER: ladder, SMOOTH: smooth, FAIRNESS: fairness,
    COST: cost, MONEY: money, GAIN: gain,
    CONTROL: control, STALE: stale, VALIDITY: validity, DRIFT: drift, PRIOR: prior, LIMITS: limits,
}  # fmt: skip
GUARDS: tuple[Guard, ...] = tuple(GUARDS_BY_CODE.values())
CODES = tuple(GUARDS_BY_CODE)
AGAINST_ACTIVE = frozenset(
    {CURRENCY, TODAY, CHANGE_SIZE, CHANGE_SHARE, UNITS, VOLUME, CONTROL, VALIDITY, DRIFT}
)  # may find other things once another is active

__all__ = [
    "AGAINST_ACTIVE",
    "CODES",
    "GUARDS",
    "GUARDS_BY_CODE",
    "UNITS_OF",
    "Guard",
    "GuardContext",
    "Limits",
    "limits_with",
    "run_guards",
]


def run_guards(subject: GuardContext) -> tuple[Finding, ...]:
    """What every guard finds, in the order of `GUARDS`."""
    with np.errstate(
        all="ignore"
    ):  # a table may hold NaN and infinities: what is no number fails its guard
        return tuple(_run_guard(code, guard, subject) for code, guard in GUARDS_BY_CODE.items())


def _run_guard(code: str, guard: Guard, subject: GuardContext) -> Finding:
    """What a guard finds; a table that it cannot even read fails it."""
    try:
        return guard(subject)
    except (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        return Finding(
            code,
            False,
            f"the table cannot be examined: {error or type(error).__name__}",
            "a table with sound columns",
        )
