"""What must be true of a price table before charging may use it.  Each guard is one function, with a code and words of its own.

The guards trust nothing that the model said of itself: they look at the prices, at the table that charging uses now, at the catalogue that the
table was priced on, at what was sold, and at the clock.

  subject   what they look at, what they allow, how they say what they found
  change    against the active table
  price     each price by itself
  order     prices against one another
  trust     what the prices rest on
"""

from __future__ import annotations

from tariffs.release.guards.change import CHANGE_SHARE, CHANGE_SIZE, UNITS, VOLUME, change_share, change_size, units, volume
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
from tariffs.release.guards.subject import UNITS_OF, Guard, Limits, Subject, limits_of
from tariffs.release.guards.trust import CONTROL, DRIFT, STALE, VALIDITY, control, drift, stale, validity
from tariffs.release.log import Finding

NAMED: dict[str, Guard] = {
    CHANGE_SIZE: change_size, CHANGE_SHARE: change_share, UNITS: units, VOLUME: volume,
    STEP: step, BOUNDS: bounds, PRICE_POINTS: price_points, SUPPORT: support, COMPETITOR: competitor, ELASTICITY: elasticity,
    LADDER: ladder, SMOOTH: smooth, FAIRNESS: fairness,
    CONTROL: control, STALE: stale, VALIDITY: validity, DRIFT: drift,
}  # fmt: skip
GUARDS: tuple[Guard, ...] = tuple(NAMED.values())
CODES = tuple(NAMED)
AGAINST_ACTIVE = frozenset(
    {CHANGE_SIZE, CHANGE_SHARE, UNITS, VOLUME, CONTROL, VALIDITY, DRIFT}
)  # may find other things once another is active

__all__ = ["AGAINST_ACTIVE", "CODES", "GUARDS", "NAMED", "UNITS_OF", "Guard", "Limits", "Subject", "inspect", "limits_of"]


def inspect(subject: Subject) -> tuple[Finding, ...]:
    """What every guard finds, in the order of `GUARDS`."""
    return tuple(guard(subject) for guard in GUARDS)
