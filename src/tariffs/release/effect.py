"""The effect of new prices: difference in differences between repriced and control units.

For unit u in week t, with e active subscribers and y money or units sold,

    E[y_ut] = e_ut exp(alpha_u + gamma_(g(u), t) + delta D_ut),

    D_ut = 1 for a repriced unit in a week at its new price,

by Poisson pseudo maximum likelihood (PPML; Gourieroux, Monfort, Trognon 1984; Santos Silva and
Tenreyro 2006), which does not require counts and uses zeros as data.  alpha is profiled out.
exp(delta) - 1 is the change per active subscriber, and the fitted sums are the true ones: it is the
repriced units' total over its counterfactual.

Treatment is assigned by location, not by unit: all units of a location are repriced or none.  So
the error is clustered by location, and the larger of two estimates is reported: the sandwich
(CRV1), which needs many control locations, and one with a common dispersion of the locations, which
is valid with few or even one, if the variation between locations is the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tariffs.release.panel import Ints
from tariffs.release.tables import Bools, Floats

MIN_LOCATIONS = 5  # in all, for an interval to be meaningful
STEP_TOLERANCE, MAX_NEWTON_STEPS, MAX_LOG_EFFECT = 1e-10, 50, 15.0


@dataclass(frozen=True, slots=True)
class Effect:
    """A change per active subscriber, as a share, with its 95 % interval.

    The interval is NaN with too few locations.

    units, held, control_locations, locations   units repriced and held, locations held and in all
    extra      the weekly part of the repriced units' `y` that is due to the new prices
    """

    change: float
    lo: float
    hi: float
    log: float
    se: float
    units: int
    held: int
    control_locations: int
    locations: int
    extra: float


@dataclass(frozen=True, slots=True)
class Cells:
    """The data: y, exposure (units, weeks), NaN or 0 for no data; treated (units, weeks);
    group, location (units,)."""

    y: Floats
    exposure: Floats
    treated: Bools
    group: Ints
    location: Ints


def effect(cells: Cells) -> Effect | None:
    """Return the effect; None without a control unit, or without one seen before and after."""
    c = _informative(cells)
    ever = c.treated.any(axis=1)
    if not ever.any() or ever.all():
        return None
    for group in (
        _identified(c),
        np.zeros_like(c.group),
    ):  # if a group is too small for a season of its own, all share one
        c = Cells(c.y, c.exposure, c.treated, group, c.location)
        delta, residual, mu = _fit(c)
        if math.isfinite(delta):
            break
    else:
        return None
    lean, score = _score(c, residual, mu)
    se, freedom = _standard_error(c.location, lean, score)
    width = t_quantile(0.975, freedom) * se if freedom >= MIN_LOCATIONS - 2 else math.nan
    post = np.where(c.treated & (c.exposure > 0), c.y, 0.0)
    weeks = int((post != 0).any(axis=0).sum()) or 1
    locations, held = len(np.unique(c.location)), len(np.unique(c.location[~ever]))
    extra = float(post.sum()) * -math.expm1(-delta) / weeks
    return Effect(
        math.expm1(delta),
        math.expm1(delta - width),
        math.expm1(delta + width),
        delta,
        se,
        int(ever.sum()),
        int((~ever).sum()),
        held,
        locations,
        extra,
    )


def t_quantile(share: float, freedom: float) -> float:
    """Return Student's t quantile, by the expansion of Cornish and Fisher.

    Abramowitz and Stegun 26.7.5: accurate to 1 % from 3 degrees of freedom up.
    """
    x = NormalDist().inv_cdf(share)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def _informative(c: Cells) -> Cells:
    """Return the units with sales and at least two cells; others have no information on delta."""
    there = np.isfinite(c.y) & np.isfinite(c.exposure) & (np.nan_to_num(c.exposure) > 0)
    y, exposure = np.where(there, c.y, 0.0), np.where(there, c.exposure, 0.0)
    keep = (there.sum(axis=1) > 1) & (y.sum(axis=1) > 0)
    return Cells(
        y[keep], exposure[keep], (c.treated & there)[keep], c.group[keep], c.location[keep]
    )


def _identified(c: Cells) -> Ints:
    """Return each group's own season if control units show it; otherwise one season for all."""
    ever = c.treated.any(axis=1)
    shown = np.isin(c.group, np.unique(c.group[~ever]))
    return c.group if shown.all() else np.zeros_like(c.group)


def _fit(c: Cells) -> tuple[float, Floats, Floats]:
    """Return delta, residuals and fitted values by Newton's method; NaN without convergence."""
    groups, group = np.unique(c.group, return_inverse=True)
    weeks, total = c.y.shape[1], c.y.sum(axis=1)
    gamma, delta = np.zeros((len(groups), weeks)), 0.0
    free = _free_weeks(c, group, len(groups))
    for _ in range(MAX_NEWTON_STEPS):
        mu = _fitted(c, total, gamma[group], delta)
        step = np.clip(_newton(c, group, total, mu, free), -2.0, 2.0)
        gamma[free] += step[:-1]
        delta += step[-1]
        if np.abs(step).max() < STEP_TOLERANCE:
            mu = _fitted(c, total, gamma[group], delta)
            return float(delta), c.y - mu, mu
        if np.abs(gamma).max() > MAX_LOG_EFFECT or abs(delta) > MAX_LOG_EFFECT:
            break  # some week or arm sold nothing: there is no finite solution
    return math.nan, c.y, c.y


def _free_weeks(c: Cells, group: Ints, groups: int) -> Bools:
    """Return the week effects to estimate: weeks with sales, except each group's first."""
    sales = np.zeros((groups, c.y.shape[1]))
    np.add.at(sales, group, c.y)
    free = sales > 0
    free[np.arange(groups), free.argmax(axis=1)] = False
    return free


def _fitted(c: Cells, total: Floats, gamma: Floats, delta: float) -> Floats:
    weight = c.exposure * np.exp(gamma + delta * c.treated)
    return np.asarray(weight * (total / weight.sum(axis=1))[:, None])


def _newton(c: Cells, group: Ints, total: Floats, mu: Floats, free: Bools) -> Floats:
    """Return the step for (gamma where free, delta)."""
    groups, weeks = free.shape
    score, cross = np.zeros((groups, weeks)), np.zeros((groups, weeks))
    treated = c.treated.astype(np.float64)
    mean = (mu * treated).sum(axis=1) / total
    np.add.at(score, group, c.y - mu)
    np.add.at(cross, group, mu * (treated - mean[:, None]))
    size = int(free.sum())
    hessian, at = np.zeros((size + 1, size + 1)), 0
    for g in range(groups):
        here, own = mu[group == g], free[g]
        block = np.diag(here.sum(axis=0)) - np.einsum(
            "ut,us->ts", here, here / total[group == g][:, None]
        )
        count = int(own.sum())
        hessian[at : at + count, at : at + count] = block[np.ix_(own, own)]
        at += count
    hessian[size, size] = (total * mean * (1.0 - mean)).sum()
    hessian[:size, size] = hessian[size, :size] = cross[free]
    gradient = np.append(score[free], ((c.y - mu) * treated).sum())
    return np.asarray(np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0])


def _score(c: Cells, residual: Floats, mu: Floats) -> tuple[Floats, Floats]:
    """Return each unit's information on delta given the season, and its score; shape (units,)."""
    groups, group = np.unique(c.group, return_inverse=True)
    total, treated = c.y.sum(axis=1), c.treated.astype(np.float64)
    free = _free_weeks(c, group, len(groups))
    apart = np.zeros(free.shape)
    apart[free] = _season_part(mu, total, treated, group, free)
    lean = treated - apart[group]
    mean = (mu * lean).sum(axis=1) / total
    return (mu * lean**2).sum(axis=1) - total * mean**2, (residual * lean).sum(axis=1)


def _season_part(mu: Floats, total: Floats, treated: Floats, group: Ints, free: Bools) -> Floats:
    """Return the part of D that the week effects explain, by weighted least squares."""
    found = []
    mean = (mu * treated).sum(axis=1) / total
    for g in range(free.shape[0]):
        here, own = mu[group == g], free[g]
        block = np.diag(here.sum(axis=0)) - np.einsum(
            "ut,us->ts", here, here / total[group == g][:, None]
        )
        cross = (here * (treated - mean[:, None])[group == g]).sum(axis=0)
        found.append(np.linalg.lstsq(block[np.ix_(own, own)], cross[own], rcond=1e-12)[0])
    return np.concatenate(found)


def _standard_error(location: Ints, lean: Floats, score: Floats) -> tuple[float, float]:
    """Return the larger standard error of delta, and its degrees of freedom."""
    _, number = np.unique(location, return_inverse=True)
    information, sums = np.bincount(number, lean), np.bincount(number, score)
    telling = information > 1e-12 * information.max()
    count, all_of_it = int(telling.sum()), float(information.sum())
    dispersion = float((sums[telling] ** 2 / information[telling]).sum()) / max(count - 2, 1)
    sandwich = count / max(count - 1, 1) * float((sums**2).sum()) / all_of_it**2
    return math.sqrt(max(dispersion / all_of_it, sandwich)), float(count - 2)
