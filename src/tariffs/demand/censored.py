"""Censored weeks: the minutes of a full cell are a lower limit of its demand, not the demand.

Taken as demand, they make customers look insensitive to discounts; leaving them out does too, for
these are the weeks of high demand.  EM (Tobin 1958; Dempster, Laird and Rubin 1977) replaces them
by the expected demand, given that it exceeded the ceiling c,

    E[Y | Y > c] = mu + s h(z),      Var[Y | Y > c] = s^2 (1 + z h(z) - h(z)^2),
    z = (c - mu) / s,      s^2 = phi mu,      h = density / upper tail of the normal distribution,

fits again, and repeats both.  The quasi-Poisson distribution is approximated by a normal one: a
full cell sells thousands of minutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats
from tariffs.demand.panel import Panel

SEASON_EM_PASSES = 6
MAX_ERFC_Z = 25.0  # beyond it erfc is near underflow, and the series of the tail is exact


@dataclass(frozen=True, slots=True)
class CensoredDemand:
    """Moments of the demand of rows at their ceiling.

    mean, variance  of demand, given that it exceeded the ceiling
    information     of such a row, as a fraction of that of an observed row
    """

    mean: Floats
    variance: Floats
    information: Floats


def censored_demand(ceiling: Floats, mu: Floats, dispersion: Floats) -> CensoredDemand:
    """Return the moments of demand above the ceiling; all arguments (full rows,)."""
    s = np.sqrt(dispersion * np.maximum(mu, np.finfo(float).tiny))
    z = (ceiling - mu) / s
    h = hazard(z)
    # minus the second derivative of log P(Y > c), in units of 1 / s^2: between 0 and 1
    known = h * (h - z)
    return CensoredDemand(mu + s * h, s * s * (1.0 - known), known)


def impute_censored(panel: Panel, mu: Floats, dispersion: Floats) -> Panel:
    """Return the panel with the expected demand of its full rows, and its variance as slack.

    mu (rows,), dispersion (units,)
    """
    full, spread = panel.full(), dispersion[panel.unit]
    demand = censored_demand(panel.quantity[full], mu[full], spread[full])
    quantity, slack = panel.quantity.copy(), np.zeros(len(mu))
    quantity[full], slack[full] = demand.mean, demand.variance
    return panel.with_quantity(quantity, slack)


def hazard(z: Floats) -> Floats:
    """Return the standard normal's hazard: density / upper tail, the inverse of Mills' ratio.

    The tail is computed by the C library's erfc.
    """
    near = np.minimum(z, MAX_ERFC_Z)
    tail = 0.5 * np.asarray(_erfc(near / math.sqrt(2.0)), dtype=np.float64)
    density = np.exp(-0.5 * near * near) / math.sqrt(2.0 * math.pi)
    far = np.maximum(z, MAX_ERFC_Z)
    return np.where(z < MAX_ERFC_Z, density / tail, far + 1.0 / far - 2.0 / far**3)


_erfc = np.frompyfunc(math.erfc, 1, 1)
