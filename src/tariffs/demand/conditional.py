"""Stage 2: one unit's elasticity given the prior, and the same for all units at once.

With the unit's level alpha profiled out (exact for a Poisson likelihood, which becomes multinomial;
Hausman, Hall and Griliches 1984) one unknown is left, and the penalised objective in it is strictly
concave while tau2 < inf.  So Newton's method ends, in two to five steps, at the only solution, and
every unit has one: a unit without sales or without price variation contains no information, and
keeps the prior exactly.

`fit_unit` and `fit_units` are the same formulas in the same order: their results are equal to the
last bit.  So are those of `fit_censored_unit` and `fit_censored_units`, for units with censored
weeks (`tariffs.demand.censored`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats
from tariffs.demand.censored import censored_demand
from tariffs.demand.panel import Panel

TOLERANCE = 1e-10
MAX_NEWTON_STEPS = 50
MAX_NEWTON_STEP = 2.0
COMPACT_BELOW = 0.75  # fraction of units that have not converged: the others are left out
FIRST_ROW = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Fit:
    """The posterior of one unit (floats) or of many (arrays of shape (units,)).

    beta     posterior mode of the elasticity at the reference price
    sd       posterior standard deviation, h^(-1/2)
    shrink   B, the prior's share of the posterior precision: 1 = all prior, 0 = all data
    exposed  W = sum E e^(beta x), the expected volume at a level of one
    demand   Y, the sales; in censored weeks the expected demand
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
    """Return the posterior of one unit's elasticity under the prior N(mean, tau2).

    quantity, x, exposure (weeks,); noise = dispersion x serial inflation.  tau2 = inf gives the
    maximum-likelihood estimate (then the unit must be identified), tau2 -> 0 the prior mean.
    """
    sales, moment = _row_sum(quantity), _row_sum(quantity * x)
    precision = 1.0 / tau2
    identified = sales > 0.0 and x.max() > x.min()
    beta = mean
    for _ in range(MAX_NEWTON_STEPS if identified else 0):
        _, centre, information = _moments(x, exposure, beta, sales, noise)
        gradient = (moment - sales * centre) / noise - (beta - mean) * precision
        step = min(max(gradient / (information + precision), -MAX_NEWTON_STEP), MAX_NEWTON_STEP)
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
    """Return `fit_unit` of every unit of the panel at once; mean and noise (units,).

    A unit that has converged is frozen, so that its result does not depend on its neighbours.
    """
    sales, moment = panel.sums(panel.quantity), panel.sums(panel.quantity * panel.x)
    precision = 1.0 / tau2
    identified = (sales > 0.0) & panel.has_price_variation()
    beta = mean.copy()
    rest, at, live = panel, np.arange(panel.units), identified
    for _ in range(MAX_NEWTON_STEPS):
        if not live.any():
            break
        if live.sum() < COMPACT_BELOW * len(at):
            rest, at, live = rest.of_units(live), at[live], live[live]
        mine, total, scale = beta[at], sales[at], noise[at]
        _, centre, information = _moments_of_units(rest, mine, total, scale)
        gradient = (moment[at] - total * centre) / scale - (mine - mean[at]) * precision
        newton = np.divide(gradient, information + precision, out=np.zeros_like(mine), where=live)
        step = np.clip(newton, -MAX_NEWTON_STEP, MAX_NEWTON_STEP)
        beta[at] = np.where(live, mine + step, mine)
        live = live & (np.abs(step) >= TOLERANCE)
    exposed, centre, information = _moments_of_units(panel, beta, sales, noise)
    curvature = np.where(identified, information, 0.0) + precision
    # tau2 = inf: an unidentified unit has no curvature at all
    with np.errstate(divide="ignore", invalid="ignore"):
        return Fit(
            beta,
            np.where(identified, 1.0 / np.sqrt(curvature), np.sqrt(tau2)),
            precision / curvature,
            exposed,
            sales,
            centre,
        )


def fit_censored_unit(
    panel: Panel, mean: float, tau2: float, noise: float, dispersion: float
) -> UnitFit:
    """Return `fit_unit` of a panel of one unit, with its full weeks censored.

    It is the fixed point of EM, at which the demand of full weeks equals its expectation, given
    that it exceeded the sales.  Newton's method on level and elasticity reaches it in ten steps; EM
    would take hundreds where most weeks are full.  The posterior's precision counts the information
    of a censored week, not that of an observed one.  A unit that is always full keeps the prior,
    and one that never is has the result of `fit_unit` to the last bit.
    """
    quantity, x, exposure, full = panel.quantity, panel.x, panel.exposure, panel.full()
    fit = fit_unit(quantity, x, exposure, mean, tau2, math.inf if full.all() else noise)
    if full.all() or not full.any():
        return fit
    spread, precision, varied = np.full(len(x), dispersion), 1.0 / tau2, x.max() > x.min()
    beta, level = fit.beta, float(np.log(fit.demand / fit.exposed))
    for _ in range(MAX_NEWTON_STEPS):
        mu = exposure * np.exp(level + beta * x)
        demand, weight = _expected_demand(quantity, full, mu, spread)
        total, missed = _row_sum(weight), demand - mu
        centre = _row_sum(weight * x) / total
        distance = x - centre
        gradient = _row_sum(distance * missed) / noise - (beta - mean) * precision
        curvature = _row_sum(weight * (distance * distance)) / noise + precision
        step = min(max(gradient / curvature, -1.0), 1.0) if varied else 0.0
        level_step = min(max(_row_sum(missed) / total - centre * step, -1.0), 1.0)
        beta, level = beta + step, level + level_step
        if abs(step) < TOLERANCE and abs(level_step) < TOLERANCE:
            break
    sd, shrink = (
        (1.0 / math.sqrt(curvature), precision / curvature) if varied else (fit.sd, fit.shrink)
    )
    expected = exposure * np.exp(beta * x)
    exposed = _row_sum(expected)
    return UnitFit(beta, sd, shrink, exposed, _row_sum(demand), _row_sum(expected * x) / exposed)


def fit_censored_units(
    panel: Panel, mean: Floats, tau2: float, noise: Floats, dispersion: Floats
) -> Fit:
    """Return `fit_censored_unit` of every unit at once; mean, noise and dispersion (units,)."""
    full = panel.full()
    always = np.logical_and.reduceat(full, panel.starts)
    fit = fit_units(panel, mean, tau2, np.where(always, np.inf, noise))
    partly = np.logical_or.reduceat(full, panel.starts) & ~always
    if not partly.any():
        return fit
    part, at = panel.select_rows(partly[panel.unit])
    start = Fit(*(getattr(fit, name)[partly] for name in Fit.__slots__))
    again = _fit_partly_censored(
        part, full[partly[panel.unit]], start, mean[at], tau2, noise[at], dispersion[at]
    )
    return Fit(
        *(
            _replace_where(getattr(fit, name), partly, getattr(again, name))
            for name in Fit.__slots__
        )
    )


def expected_at_fit(panel: Panel, fit: Fit) -> Floats:
    """Return mu (rows,) at the units' own elasticities and levels."""
    return np.asarray(
        panel.exposure
        * np.exp(fit.beta[panel.unit] * panel.x)
        * (fit.demand / fit.exposed)[panel.unit]
    )


def _row_sum(values: Floats) -> float:
    return float(np.add.reduceat(values, FIRST_ROW)[0])


def _moments(
    x: Floats, exposure: Floats, beta: float, sales: float, noise: float
) -> tuple[float, float, float]:
    """Return W, the weighted mean of x, and the Fisher information Y V_x / noise."""
    weight = exposure * np.exp(beta * x)
    exposed = _row_sum(weight)
    centre = _row_sum(weight * x) / exposed
    spread = x - centre
    variance = _row_sum(weight * (spread * spread)) / exposed
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


def _fit_partly_censored(
    panel: Panel,
    full: Bools,
    fit: Fit,
    mean: Floats,
    tau2: float,
    noise: Floats,
    dispersion: Floats,
) -> Fit:
    """Return `fit_censored_unit` of units that all have a full week, from the uncensored fit."""
    spread, precision, varied = dispersion[panel.unit], 1.0 / tau2, panel.has_price_variation()
    beta, level, curvature, demanded = (
        fit.beta,
        np.log(fit.demand / fit.exposed),
        np.ones(panel.units),
        fit.demand,
    )
    live = np.ones(panel.units, dtype=np.bool_)
    for _ in range(MAX_NEWTON_STEPS):
        mu = panel.exposure * np.exp(level[panel.unit] + beta[panel.unit] * panel.x)
        demand, weight = _expected_demand(panel.quantity, full, mu, spread)
        total, missed = panel.sums(weight), demand - mu
        centre = panel.sums(weight * panel.x) / total
        distance = panel.x - centre[panel.unit]
        gradient = panel.sums(distance * missed) / noise - (beta - mean) * precision
        curvature = np.where(
            live, panel.sums(weight * (distance * distance)) / noise + precision, curvature
        )
        demanded = np.where(live, panel.sums(demand), demanded)
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
    return Fit(beta, sd, shrink, exposed, demanded, panel.sums(expected * panel.x) / exposed)


def _expected_demand(
    quantity: Floats, full: Bools, mu: Floats, dispersion: Floats
) -> tuple[Floats, Floats]:
    """Return demand, expected in full weeks, and the weight of each week's information; (rows,)."""
    demand, weight = quantity.copy(), mu.copy()
    hidden = censored_demand(quantity[full], mu[full], dispersion[full])
    demand[full], weight[full] = hidden.mean, mu[full] * hidden.information
    return demand, weight


def _replace_where(values: Floats, where: Bools, others: Floats) -> Floats:
    changed = values.copy()
    changed[where] = others
    return changed
