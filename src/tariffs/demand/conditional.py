"""Stage 2: one unit's elasticity given the prior, and the same for all units at once.

With the unit's level alpha profiled out (exact for a Poisson likelihood: it becomes multinomial; Hausman, Hall and
Griliches 1984) one unknown is left, and the penalised objective in it is strictly concave while tau2 < inf.  So
Newton's method ends, in two to five steps, at the only solution, and every unit has one: a unit without sales or
without price variation says nothing, and keeps the prior exactly.

`fit_unit` and `fit_units` are the same formulas in the same order: their results are equal to the last bit.  So are `fit_full_unit` and
`fit_full_units`, which do the same where some weeks sold all there was (`tariffs.demand.censored`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats
from tariffs.demand.censored import unseen
from tariffs.demand.panel import Panel

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
    demand   Y, what was sold; where all there was, what would have been
    centre   the mean of x by expected volume: d log W / d beta
    """

    beta: Floats
    sd: Floats
    shrink: Floats
    exposed: Floats
    demand: Floats
    centre: Floats


@dataclass(frozen=True, slots=True)
class UnitFit:
    """`Fit` of a single unit."""

    beta: float
    sd: float
    shrink: float
    exposed: float
    demand: float
    centre: float


def fit_unit(
    quantity: Floats, x: Floats, exposure: Floats, mean: float, tau2: float, noise: float
) -> UnitFit:
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
    exposed, centre, information = _moments(x, exposure, beta, sales, noise)
    curvature = (information if identified else 0.0) + precision
    return UnitFit(
        beta,
        1.0 / math.sqrt(curvature) if identified else math.sqrt(tau2),
        precision / curvature,
        exposed,
        sales,
        centre,
    )


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
    exposed, centre, information = _moments_of_units(panel, beta, sales, noise)
    curvature = np.where(identified, information, 0.0) + precision
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # tau2 = inf: an unidentified unit has no curvature at all
        return Fit(
            beta,
            np.where(identified, 1.0 / np.sqrt(curvature), np.sqrt(tau2)),
            precision / curvature,
            exposed,
            sales,
            centre,
        )


def fit_full_unit(
    quantity: Floats,
    x: Floats,
    exposure: Floats,
    full: Bools,
    mean: float,
    tau2: float,
    noise: float,
    dispersion: float,
) -> UnitFit:
    """`fit_unit` where the weeks in `full` (n,) sold all there was; the same bits where none did.

    It is where EM ends, when demand in full weeks is what it is expected to be, given that it was more than was sold; Newton's method on
    level and elasticity gets there in ten steps, and EM's own would take hundreds where most weeks are full.  The posterior's
    precision counts what a full week tells, not what it would tell were its demand seen.  A unit that is always full keeps the prior.
    """
    fit = fit_unit(quantity, x, exposure, mean, tau2, math.inf if full.all() else noise)
    if full.all() or not full.any():
        return fit
    spread, precision, varied = np.full(len(x), dispersion), 1.0 / tau2, x.max() > x.min()
    beta, level = fit.beta, float(np.log(fit.demand / fit.exposed))
    for _ in range(MAX_STEPS):
        mu = exposure * np.exp(level + beta * x)
        demand, weight = _tell(quantity, full, mu, spread)
        total, missed = _total(weight), demand - mu
        centre = _total(weight * x) / total
        distance = x - centre
        gradient = _total(distance * missed) / noise - (beta - mean) * precision
        curvature = _total(weight * (distance * distance)) / noise + precision
        step = min(max(gradient / curvature, -1.0), 1.0) if varied else 0.0
        level_step = min(max(_total(missed) / total - centre * step, -1.0), 1.0)
        beta, level = beta + step, level + level_step
        if abs(step) < TOLERANCE and abs(level_step) < TOLERANCE:
            break
    sd, shrink = (
        (1.0 / math.sqrt(curvature), precision / curvature) if varied else (fit.sd, fit.shrink)
    )
    expected = exposure * np.exp(beta * x)
    exposed = _total(expected)
    return UnitFit(beta, sd, shrink, exposed, _total(demand), _total(expected * x) / exposed)


def fit_full_units(
    panel: Panel, mean: Floats, tau2: float, noise: Floats, dispersion: Floats
) -> Fit:
    """`fit_full_unit` for every unit of the panel at once; `mean`, `noise` and `dispersion` have shape (units,)."""
    full = panel.full()
    always = np.logical_and.reduceat(full, panel.starts)
    fit = fit_units(panel, mean, tau2, np.where(always, np.inf, noise))
    hot = np.logical_or.reduceat(full, panel.starts) & ~always
    if not hot.any():
        return fit
    part, at = panel.only(hot[panel.unit])
    start = Fit(*(getattr(fit, name)[hot] for name in Fit.__slots__))
    again = _fit_hot(part, full[hot[panel.unit]], start, mean[at], tau2, noise[at], dispersion[at])
    return Fit(*(_put(getattr(fit, name), hot, getattr(again, name)) for name in Fit.__slots__))


def expect_by(panel: Panel, fit: Fit) -> Floats:
    """mu (rows,), at the units' own elasticities and levels."""
    return np.asarray(
        panel.exposure
        * np.exp(fit.beta[panel.unit] * panel.x)
        * (fit.demand / fit.exposed)[panel.unit]
    )


def _total(values: Floats) -> float:
    return float(np.add.reduceat(values, FROM_START)[0])


def _moments(
    x: Floats, exposure: Floats, beta: float, sales: float, noise: float
) -> tuple[float, float, float]:
    """W, the weighted mean of x, and the Fisher information Y V_x / noise."""
    weight = exposure * np.exp(beta * x)
    exposed = _total(weight)
    centre = _total(weight * x) / exposed
    spread = x - centre
    variance = _total(weight * (spread * spread)) / exposed
    return exposed, centre, sales * variance / noise


def _moments_of_units(
    panel: Panel, beta: Floats, sales: Floats, noise: Floats
) -> tuple[Floats, Floats, Floats]:
    weight = panel.exposure * np.exp(beta[panel.unit] * panel.x)
    exposed = panel.sums(weight)
    centre = panel.sums(weight * panel.x) / exposed
    spread = panel.x - centre[panel.unit]
    variance = panel.sums(weight * (spread * spread)) / exposed
    return exposed, centre, sales * variance / noise


def _fit_hot(
    panel: Panel,
    full: Bools,
    fit: Fit,
    mean: Floats,
    tau2: float,
    noise: Floats,
    dispersion: Floats,
) -> Fit:
    """`fit_full_unit` from the plain fit on, for units that all have a full week."""
    spread, precision, varied = dispersion[panel.unit], 1.0 / tau2, panel.has_price_variation()
    beta, level, curvature, asked = (
        fit.beta,
        np.log(fit.demand / fit.exposed),
        np.ones(panel.units),
        fit.demand,
    )
    live = np.ones(panel.units, dtype=np.bool_)
    for _ in range(MAX_STEPS):
        mu = panel.exposure * np.exp(level[panel.unit] + beta[panel.unit] * panel.x)
        demand, weight = _tell(panel.quantity, full, mu, spread)
        total, missed = panel.sums(weight), demand - mu
        centre = panel.sums(weight * panel.x) / total
        distance = panel.x - centre[panel.unit]
        gradient = panel.sums(distance * missed) / noise - (beta - mean) * precision
        curvature = np.where(
            live, panel.sums(weight * (distance * distance)) / noise + precision, curvature
        )
        asked = np.where(live, panel.sums(demand), asked)
        step = np.where(varied, np.clip(gradient / curvature, -1.0, 1.0), 0.0)
        level_step = np.clip(panel.sums(missed) / total - centre * step, -1.0, 1.0)
        beta, level = np.where(live, beta + step, beta), np.where(live, level + level_step, level)
        live &= (np.abs(step) >= TOLERANCE) | (np.abs(level_step) >= TOLERANCE)
        if not live.any():
            break
    sd, shrink = (
        np.where(varied, 1.0 / np.sqrt(curvature), fit.sd),
        np.where(varied, precision / curvature, fit.shrink),
    )
    expected = panel.exposure * np.exp(beta[panel.unit] * panel.x)
    exposed = panel.sums(expected)
    return Fit(beta, sd, shrink, exposed, asked, panel.sums(expected * panel.x) / exposed)


def _tell(quantity: Floats, full: Bools, mu: Floats, dispersion: Floats) -> tuple[Floats, Floats]:
    """Demand, with its mean in full weeks; and the weight of each week's information.  Both (rows,)."""
    demand, weight = quantity.copy(), mu.copy()
    told = unseen(quantity[full], mu[full], dispersion[full])
    demand[full], weight[full] = told.mean, mu[full] * told.information
    return demand, weight


def _put(values: Floats, where: Bools, others: Floats) -> Floats:
    changed = values.copy()
    changed[where] = others
    return changed
