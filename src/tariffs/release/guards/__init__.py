"""Guards: conditions that a price table must meet before charging may use it.

Each guard is one function with a code; its docstring is the condition.  Guards do not rely on the
model's statements about itself: they examine the prices, the active table, the catalogue on which
the table was priced, the sales, and the time.

  context   the inputs and the limits of the guards, and the form of a finding
  change    changes against the active table
  price     each price by itself
  rows      each row: its values, its current price
  currency  one currency
  money     the expected earnings
  order     prices relative to one another
  trust     the foundations: control group, age of the data, validity, drift, prior
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
from tariffs.release.guards.currency import CURRENCY, currency
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
from tariffs.release.guards.rows import TODAY, VALUES, today, values
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
    VALUES: values,
    CURRENCY: currency,
    TODAY: today,
    CHANGE_SIZE: change_size,
    CHANGE_SHARE: change_share,
    UNITS: units,
    VOLUME: volume,
    STEP: step,
    BOUNDS: bounds,
    PRICE_POINTS: price_points,
    SUPPORT: support,
    COMPETITOR: competitor,
    ELASTICITY: elasticity,
    LADDER: ladder,
    SMOOTH: smooth,
    FAIRNESS: fairness,
    COST: cost,
    MONEY: money,
    GAIN: gain,
    CONTROL: control,
    STALE: stale,
    VALIDITY: validity,
    DRIFT: drift,
    PRIOR: prior,
    LIMITS: limits,
}
GUARDS: tuple[Guard, ...] = tuple(GUARDS_BY_CODE.values())
CODES = tuple(GUARDS_BY_CODE)
AGAINST_ACTIVE = frozenset(
    {CURRENCY, TODAY, CHANGE_SIZE, CHANGE_SHARE, UNITS, VOLUME, CONTROL, VALIDITY, DRIFT}
)  # these may differ once another table is active

__all__ = [
    "AGAINST_ACTIVE",
    "CODES",
    "GUARDS",
    "GUARDS_BY_CODE",
    "UNITS_OF",
    "Guard",
    "GuardContext",
    "Limits",
    "bounds",
    "change_share",
    "change_size",
    "competitor",
    "control",
    "cost",
    "currency",
    "drift",
    "elasticity",
    "fairness",
    "gain",
    "ladder",
    "limits",
    "limits_with",
    "money",
    "price_points",
    "prior",
    "run_guards",
    "smooth",
    "stale",
    "step",
    "support",
    "today",
    "units",
    "validity",
    "values",
    "volume",
]


def run_guards(subject: GuardContext) -> tuple[Finding, ...]:
    """Return the findings of every guard, in the order of `GUARDS`."""
    with np.errstate(all="ignore"):  # a table may hold NaN and infinities, which fail their guard
        return tuple(_run_guard(code, guard, subject) for code, guard in GUARDS_BY_CODE.items())


def _run_guard(code: str, guard: Guard, subject: GuardContext) -> Finding:
    """Return the finding of a guard; a table that it cannot read fails it."""
    try:
        return guard(subject)
    except (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        return Finding(
            code,
            False,
            f"the table cannot be examined: {error or type(error).__name__}",
            "a table with sound columns",
        )
