"""Stage 2: one unit's elasticity given the prior, and the same for all units at once.

With the unit's level alpha profiled out (exact for a Poisson likelihood: it becomes multinomial; Hausman, Hall and
Griliches 1984) one unknown is left, and the penalised objective in it is strictly concave while tau2 < inf.  So
Newton's method ends, in two to five steps, at the only solution, and every unit has one: a unit without sales or
without price variation says nothing, and keeps the prior exactly.

`fit_unit` and `fit_units` are the same formulas in the same order: their results are equal to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.demand.panel import Panel
from tariffs.rows import Floats

TOLERANCE = 1e-10
MAX_STEPS = 50
LONGEST_STEP = 2.0
FROM_START = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Fit:
    """The posterior of one unit (floats) or of many (arrays of shape (units,)).

    beta     posterior mode of the elasticity at the reference price
    sd       posterior standard deviation, h^(-1/2)
    shrink   B, the share of the prior in the posterior's precision: 1 = all prior, 0 = all data
    exposed  W = sum E e^(beta x), the expected volume at a level of one
    """

    beta: Floats
    sd: Floats
    shrink: Floats
    exposed: Floats


@dataclass(frozen=True, slots=True)
class UnitFit:
    """`Fit` of a single unit."""

    beta: float
    sd: float
    shrink: float
    exposed: float


def fit_unit(quantity: Floats, x: Floats, exposure: Floats, mean: float, tau2: float, noise: float) -> UnitFit:
    """Posterior of one unit's elasticity, weeks of shape (n,), prior N(mean, tau2), noise = dispersion x serial inflation.

    tau2 = inf gives the maximum-likelihood estimate (then the unit must be identified), tau2 -> 0 the prior mean.
    """
    sales, moment = _total(quantity), _total(quantity * x)
    precision = 1.0 / tau2
    identified = sales > 0.0 and x.max() > x.min()
    beta = mean
    for _ in range(MAX_STEPS if identified else 0):
        _, centre, information = _moments(x, exposure, beta, sales, noise)
        gradient = (moment - sales * centre) / noise - (beta - mean) * precision
        step = min(max(gradient / (information + precision), -LONGEST_STEP), LONGEST_STEP)
        beta += step
        if abs(step) < TOLERANCE:
            break
    exposed, _, information = _moments(x, exposure, beta, sales, noise)
    curvature = (information if identified else 0.0) + precision
    return UnitFit(beta, 1.0 / math.sqrt(curvature) if identified else math.sqrt(tau2), precision / curvature, exposed)


def fit_units(panel: Panel, mean: Floats, tau2: float, noise: Floats) -> Fit:
    """`fit_unit` for every unit of the panel at once; `mean` and `noise` have shape (units,).

    A unit that has converged is frozen, so that its result does not depend on its neighbours.
    """
    sales, moment = panel.sums(panel.quantity), panel.sums(panel.quantity * panel.x)
    precision = 1.0 / tau2
    identified = (sales > 0.0) & panel.has_price_variation()
    live, beta = identified.copy(), mean.copy()
    for _ in range(MAX_STEPS):
        if not live.any():
            break
        _, centre, information = _moments_of_units(panel, beta, sales, noise)
        gradient = (moment - sales * centre) / noise - (beta - mean) * precision
        newton = np.divide(gradient, information + precision, out=np.zeros_like(beta), where=live)
        step = np.clip(newton, -LONGEST_STEP, LONGEST_STEP)
        beta = np.where(live, beta + step, beta)
        live &= np.abs(step) >= TOLERANCE
    exposed, _, information = _moments_of_units(panel, beta, sales, noise)
    curvature = np.where(identified, information, 0.0) + precision
    with np.errstate(divide="ignore", invalid="ignore"):  # tau2 = inf: an unidentified unit has no curvature at all
        return Fit(beta, np.where(identified, 1.0 / np.sqrt(curvature), np.sqrt(tau2)), precision / curvature, exposed)


def _total(values: Floats) -> float:
    return float(np.add.reduceat(values, FROM_START)[0])


def _moments(x: Floats, exposure: Floats, beta: float, sales: float, noise: float) -> tuple[float, float, float]:
    """W, the weighted mean of x, and the Fisher information Y V_x / noise."""
    weight = exposure * np.exp(beta * x)
    exposed = _total(weight)
    centre = _total(weight * x) / exposed
    spread = x - centre
    variance = _total(weight * (spread * spread)) / exposed
    return exposed, centre, sales * variance / noise


def _moments_of_units(panel: Panel, beta: Floats, sales: Floats, noise: Floats) -> tuple[Floats, Floats, Floats]:
    weight = panel.exposure * np.exp(beta[panel.unit] * panel.x)
    exposed = panel.sums(weight)
    centre = panel.sums(weight * panel.x) / exposed
    spread = panel.x - centre[panel.unit]
    variance = panel.sums(weight * (spread * spread)) / exposed
    return exposed, centre, sales * variance / noise
