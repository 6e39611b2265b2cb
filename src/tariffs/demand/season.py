"""Stage 1, first half: what the weeks have in common, and how noisy they are.

The season gamma and one elasticity per group are the fixed-effect Poisson (PPML) estimates, found by alternating
closed-form updates (iterative proportional fitting; Guimaraes and Portugal 2010): the unit levels are profiled out, the
group elasticities take a Newton step on the sum of their units' scores, and each season cell is scaled to its observed
total.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints
from tariffs.demand.panel import Panel, tally

TOLERANCE = 1e-9
MAX_SWEEPS = 200
EMPTY_CELL = -30.0  # log of a season cell without a single sale: its rows expect nothing
HAC_LAGS = 4
MOST_ABSORBED = 0.8  # a unit that is its season group's only one


@dataclass(frozen=True, slots=True)
class Season:
    """gamma (cells,), with mean zero within each season group; beta (groups,); rho, the coefficient of the control."""

    gamma: Floats
    beta: Floats
    rho: float = 0.0


def fit_season(
    panel: Panel, group: Ints, cell: Ints, periods: int, control: Floats | None = None
) -> Season:
    """Season effects per cell and elasticities per group; with a `control` (rows,), its one coefficient as well.

    group  (units,) 0..G-1;  cell  (rows,) season group x periods + period.
    """
    cells, groups = int(cell.max()) + 1, int(group.max()) + 1
    cells += -cells % periods
    observed = tally(cell, panel.quantity, cells)
    gamma, beta, rho = np.zeros(cells), np.zeros(groups), 0.0
    for _ in range(MAX_SWEEPS):
        offset = gamma[cell] if control is None else gamma[cell] + rho * control
        adjusted = panel.seasonal(offset)
        step, rho_step = _group_step(adjusted, beta, group, control)
        beta += step
        rho += rho_step
        moved = adjusted if control is None else adjusted.seasonal(rho_step * control)
        expected = tally(cell, expect(moved, beta[group]), cells)
        change = _centred(
            np.where(observed > 0, _log_ratio(observed, expected), EMPTY_CELL - gamma),
            observed,
            periods,
        )
        gamma += change
        if max(np.abs(change).max(), np.abs(step).max(), abs(rho_step)) < TOLERANCE:
            break
    return Season(gamma, beta, rho)


def season_given(panel: Panel, beta: Floats, cell: Ints) -> Floats:
    """The season effects alone, at elasticities (units,) that are known; not centred.  Shape (cells,)."""
    cells = int(cell.max()) + 1
    observed, gamma = tally(cell, panel.quantity, cells), np.zeros(cells)
    for _ in range(MAX_SWEEPS):
        expected = tally(cell, expect(panel.seasonal(gamma[cell]), beta), cells)
        change = np.where(observed > 0, _log_ratio(observed, expected), EMPTY_CELL - gamma)
        gamma += change
        if np.abs(change).max() < TOLERANCE:
            break
    return gamma


def refit_season(panel: Panel, beta: Floats, cell: Ints, periods: int) -> Floats:
    """`season_given`, with mean zero within each season group as in `fit_season`; shape (cells,)."""
    cells = int(cell.max()) + 1
    cells += -cells % periods
    gamma = season_given(panel, beta, cell)
    gamma = np.concatenate([gamma, np.full(cells - len(gamma), EMPTY_CELL)])
    return _centred(gamma, tally(cell, panel.quantity, cells), periods)


def expect(panel: Panel, beta: Floats) -> Floats:
    """mu with the unit's level at its profile estimate, so that each unit's mu add up to its sales.  Shape (rows,)."""
    weight = panel.exposure * np.exp(beta[panel.unit] * panel.x)
    level = panel.sums(panel.quantity) / panel.sums(weight)
    return weight * level[panel.unit]


def scores(panel: Panel, beta: Floats) -> tuple[Floats, Floats]:
    """Each unit's score and information at `beta`, for plain Poisson noise; all of shape (units,)."""
    mu = expect(panel, beta)
    sales = np.maximum(panel.sums(mu), np.finfo(float).tiny)
    centre = panel.sums(mu * panel.x) / sales
    spread = panel.x - centre[panel.unit]
    return panel.sums(spread * (panel.quantity - mu)), panel.sums(mu * (spread * spread))


def fit_dispersion(panel: Panel, beta: Floats, spent: Floats, group: Ints) -> Floats:
    """phi >= 1 per group: Pearson's statistic around `beta` (units,) over its degrees of freedom.  Shape (groups,).

    spent  (units,) degrees of freedom that the unit's own fit used beyond its level (1 - B; 0 where beta came from the group)
    """
    mu, groups = expect(panel, beta), int(group.max()) + 1
    residual = panel.quantity - mu
    square = residual * residual if panel.slack is None else residual * residual + panel.slack
    pearson = np.divide(square, mu, out=np.zeros_like(mu), where=mu > 0)
    freedom = np.where(panel.sums(panel.quantity) > 0, panel.sizes - 1.0 - spent, 0.0)
    spare = tally(group, freedom, groups)
    return np.maximum(
        np.divide(
            tally(group, panel.sums(pearson), groups), spare, out=np.ones(groups), where=spare > 0
        ),
        1.0,
    )


def season_share(panel: Panel, rate: Floats) -> Floats:
    """What of a unit's weeks the season was learnt from itself, and cannot tell of the unit any more: its mean share in the sales of its season cells.

    With gamma_t of sum M_t fitted along, the information of a unit's score, sum mu_t (x_t - xbar)^2, becomes sum mu_t (1 - mu_t / M_t) (x_t - xbar)^2, and
    its weeks leave sum (1 - mu_t / M_t) degrees of freedom (the leverage of the season).  rate (units,): sales per period of the season group.
    """
    share = np.divide(
        panel.sums(panel.quantity) / panel.sizes, rate, out=np.zeros(panel.units), where=rate > 0
    )
    return np.minimum(share, MOST_ABSORBED)


def fit_inflation(
    panel: Panel,
    beta: Floats,
    sd: Floats,
    dispersion: Floats,
    group: Ints,
    absorbed: Floats | float = 0.0,
) -> Floats:
    """c >= 1 per group: how much serial correlation inflates the variance of the units' scores (`long_run_ratio`).

    A group's ratio from a handful of units is mostly chance, and its chance excesses over 1 would pass for correlation.  So groups are shrunk to
    their common ratio, each by what chance explains of its squared distance, and that to 1 (positive-part James-Stein; Efron and Morris 1973).
    """
    found, independent = _long_run(panel, beta, sd, dispersion, group, absorbed)
    groups = int(group.max()) + 1
    expected = np.maximum(tally(group, independent, groups), 0.0)
    whole = float(np.sum(independent))
    if not np.any(expected > 0) or whole <= 0.0:
        return np.ones(groups)
    told = expected > 0
    ratio = np.divide(tally(group, found, groups), expected, out=np.ones(groups), where=told)
    miss = found - ratio[group] * independent
    error = np.divide(
        tally(group, miss * miss, groups),
        expected * expected,
        out=np.full(groups, np.inf),
        where=told,
    )
    common = float(np.sum(found)) / whole
    miss = found - common * independent
    common = _shrunk(common, 1.0, float(np.sum((miss / whole) ** 2)))
    apart = (ratio - common) ** 2
    keep = np.maximum(
        1.0 - np.divide(error, apart, out=np.full(groups, np.inf), where=told & (apart > 0)), 0.0
    )
    return np.maximum(np.where(told, common + keep * (ratio - common), common), 1.0)


def _shrunk(value: float, towards: float, variance: float) -> float:
    distance = value - towards
    return (
        towards + distance * max(1.0 - variance / (distance * distance), 0.0)
        if distance * distance > 0
        else towards
    )


def long_run_ratio(
    panel: Panel,
    beta: Floats,
    sd: Floats,
    dispersion: Floats,
    group: Ints,
    absorbed: Floats | float = 0.0,
) -> Floats:
    """The Bartlett long-run variance of the units' scores over what it would be were the weeks independent.  Shape (groups,).

    beta, sd  (units,) the units' posteriors.  Residuals are smaller than errors: the fitted elasticity and level soak some
    up.  For independent errors the Bartlett sum B of the scores has the mean phi (I - B(mu s) / Y) - sd^2 B(mu s^2), with
    s = x - xbar, and not phi I; without the two terms correlation would be understated, most where prices move seldom.
    """
    found, independent = _long_run(panel, beta, sd, dispersion, group, absorbed)
    groups = int(group.max()) + 1
    expected = tally(group, independent, groups)
    return np.divide(tally(group, found, groups), expected, out=np.ones(groups), where=expected > 0)


def _long_run(
    panel: Panel,
    beta: Floats,
    sd: Floats,
    dispersion: Floats,
    group: Ints,
    absorbed: Floats | float,
) -> tuple[Floats, Floats]:
    """Each unit's Bartlett sum, and its mean for independent weeks; shape (units,)."""
    mu = expect(panel, beta)
    sales = np.maximum(panel.sums(mu), np.finfo(float).tiny)
    spread = panel.x - (panel.sums(mu * panel.x) / sales)[panel.unit]
    pull = mu * spread
    found = panel.sums(_bartlett(spread * (panel.quantity - mu), panel.unit))
    soaked = sd * sd * panel.sums(_bartlett(pull * spread, panel.unit))
    leveled = panel.sums(_bartlett(pull, panel.unit)) / sales
    return found, dispersion[group] * (1.0 - absorbed) * (
        panel.sums(pull * spread) - leveled
    ) - soaked


def _group_step(
    panel: Panel, beta: Floats, group: Ints, control: Floats | None
) -> tuple[Floats, float]:
    """Newton's step of the groups' elasticities and of rho together: they are near collinear, and taken in turns would crawl."""
    score, information = scores(panel, beta[group])
    pull, curvature = tally(group, score, len(beta)), tally(group, information, len(beta))
    rho_step = 0.0
    if control is not None:
        mu = expect(panel, beta[group])
        spread = within_unit(panel, control, mu)
        shared = tally(group, panel.sums(mu * spread * panel.x), len(beta))
        share = np.divide(shared, curvature, out=np.zeros_like(beta), where=curvature > 0)
        left = float(np.sum(mu * spread * control)) - float(share @ shared)
        gradient = float(np.sum(spread * (panel.quantity - mu))) - float(share @ pull)
        rho_step = min(max(gradient / left, -1.0), 1.0) if left > 0 else 0.0
        pull = pull - rho_step * shared
    step = np.divide(pull, curvature, out=np.zeros_like(beta), where=curvature > 0)
    return np.clip(step, -1.0, 1.0), rho_step


def within_unit(panel: Panel, values: Floats, weight: Floats) -> Floats:
    """`values` (rows,) less their unit's mean with these weights; zero where a unit weighs nothing."""
    total = panel.sums(weight)
    mean = np.divide(panel.sums(weight * values), total, out=np.zeros(panel.units), where=total > 0)
    return np.asarray(values - mean[panel.unit])


def _log_ratio(observed: Floats, expected: Floats) -> Floats:
    positive = (observed > 0) & (expected > 0)
    return np.log(np.divide(observed, expected, out=np.ones_like(observed), where=positive))


def _centred(change: Floats, observed: Floats, periods: int) -> Floats:
    """Less its season group's mean over the weeks that sold anything: the level belongs to the units."""
    table, sold = change.reshape(-1, periods), (observed > 0).reshape(-1, periods)
    mean = (table * sold).sum(axis=1) / np.maximum(sold.sum(axis=1), 1)
    return np.where(sold, table - mean[:, None], table).ravel()


def _bartlett(terms: Floats, unit: Ints) -> Floats:
    """Per row: e_t^2 + 2 sum_l (1 - l/(L+1)) e_t e_(t-l) within the unit (Newey and West 1987)."""
    total = terms * terms
    for lag in range(1, HAC_LAGS + 1):
        same = unit[lag:] == unit[:-lag]
        total[lag:] += 2.0 * (1.0 - lag / (HAC_LAGS + 1.0)) * terms[lag:] * terms[:-lag] * same
    return total
