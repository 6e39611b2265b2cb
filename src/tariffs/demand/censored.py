"""Weeks that sold all there was: a full cell's minutes are a lower limit of the demand, not the demand.

Taken as they are they make customers look indifferent to discounts, and left out, too, for it is the good weeks that go.  EM (Tobin 1958;
Dempster, Laird and Rubin 1977) puts the mean of what demand may have been in their place, given that it was more than the ceiling c,

    E[Y | Y > c] = mu + s h(z),   Var[Y | Y > c] = s^2 (1 + z h(z) - h(z)^2),   z = (c - mu) / s,   s^2 = phi mu,   h = density / upper tail,

fits again, and so on.  The quasi-Poisson is taken for normal there: a cell that is full sells thousands of minutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats
from tariffs.demand.panel import Panel

PASSES = 6  # of the season, in stage 1
FAR_OUT = 25.0  # in standard deviations: from here on erfc is near underflow, and the series of the tail exact


@dataclass(frozen=True, slots=True)
class Unseen:
    """Of rows at their ceiling: the mean and variance of demand, and how much of a seen row's information such a row has."""

    mean: Floats
    variance: Floats
    information: Floats


def unseen(ceiling: Floats, mu: Floats, dispersion: Floats) -> Unseen:
    """All of the same shape, one value per full row."""
    s = np.sqrt(dispersion * np.maximum(mu, np.finfo(float).tiny))
    z = (ceiling - mu) / s
    h = hazard(z)
    known = h * (
        h - z
    )  # minus the second derivative of log P(Y > c), in units of 1 / s^2: between 0 and 1
    return Unseen(mu + s * h, s * s * (1.0 - known), known)


def fill(panel: Panel, mu: Floats, dispersion: Floats) -> Panel:
    """The panel with the mean of the demand in place of its full rows' quantities, and its variance; mu (rows,), dispersion (units,)."""
    full, spread = panel.full(), dispersion[panel.unit]
    told = unseen(panel.quantity[full], mu[full], spread[full])
    quantity, slack = panel.quantity.copy(), np.zeros(len(mu))
    quantity[full], slack[full] = told.mean, told.variance
    return panel.selling(quantity, slack)


def hazard(z: Floats) -> Floats:
    """Density over upper tail of the standard normal (the inverse of Mills' ratio), by the C library's erfc."""
    near = np.minimum(z, FAR_OUT)
    tail = 0.5 * np.asarray(_erfc(near / math.sqrt(2.0)), dtype=np.float64)
    density = np.exp(-0.5 * near * near) / math.sqrt(2.0 * math.pi)
    far = np.maximum(z, FAR_OUT)
    return np.where(z < FAR_OUT, density / tail, far + 1.0 / far - 2.0 / far**3)


_erfc = np.frompyfunc(math.erfc, 1, 1)
