"""Stage 1, first half: the season and the noise.

The season gamma and one elasticity per group are the fixed-effect Poisson (PPML) estimates, found
by alternating closed-form updates (iterative proportional fitting; Guimaraes and Portugal 2010):
the unit levels are profiled out, the group elasticities take a Newton step on the sum of their
units' scores, and each season cell is scaled to its observed total.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints
from tariffs.demand.panel import Panel, group_sums

TOLERANCE = 1e-9
MAX_SWEEPS = 200
LOG_EMPTY_CELL = -30.0  # gamma of a season cell without sales: its rows expect none
HAC_LAGS = 4
MAX_SEASON_SHARE = 0.8  # for a unit that is the only one of its season group


@dataclass(frozen=True, slots=True)
class Season:
    """Season effects and group elasticities.

    gamma (cells,), with mean zero within each season group; beta (groups,); rho, the coefficient
    of the control
    """

    gamma: Floats
    beta: Floats
    rho: float = 0.0


def fit_season(
    panel: Panel, group: Ints, cell: Ints, periods: int, control: Floats | None = None
) -> Season:
    """Return season effects per cell and elasticities per group.

    control (rows,): a regressor whose one coefficient, rho, is estimated as well.
    group  (units,) 0..G-1;  cell  (rows,) season group x periods + period.
    """
    cells, groups = int(cell.max()) + 1, int(group.max()) + 1
    cells += -cells % periods
    observed = group_sums(cell, panel.quantity, cells)
    gamma, beta, rho = np.zeros(cells), np.zeros(groups), 0.0
    for _ in range(MAX_SWEEPS):
        adjusted = (
            panel.with_cells(gamma, cell)
            if control is None
            else panel.with_season(gamma[cell] + rho * control)
        )
        step, rho_step = _group_step(adjusted, beta, group, control)
        beta += step
        rho += rho_step
        moved = adjusted if control is None else adjusted.with_season(rho_step * control)
        expected = group_sums(cell, expected_sales(moved, beta[group]), cells)
        change = _centred(
            np.where(observed > 0, _log_ratio(observed, expected), LOG_EMPTY_CELL - gamma),
            observed,
            periods,
        )
        gamma += change
        if max(np.abs(change).max(), np.abs(step).max(), abs(rho_step)) < TOLERANCE:
            break
    return Season(gamma, beta, rho)


def season_given(panel: Panel, beta: Floats, cell: Ints) -> Floats:
    """Return the season effects at known elasticities (units,); not centred.  Shape (cells,)."""
    cells = int(cell.max()) + 1
    observed, gamma = group_sums(cell, panel.quantity, cells), np.zeros(cells)
    for _ in range(MAX_SWEEPS):
        expected = group_sums(cell, expected_sales(panel.with_cells(gamma, cell), beta), cells)
        change = np.where(observed > 0, _log_ratio(observed, expected), LOG_EMPTY_CELL - gamma)
        gamma += change
        if np.abs(change).max() < TOLERANCE:
            break
    return gamma


def refit_season(panel: Panel, beta: Floats, cell: Ints, periods: int) -> Floats:
    """Return `season_given` with mean zero within each season group; shape (cells,)."""
    cells = int(cell.max()) + 1
    cells += -cells % periods
    gamma = season_given(panel, beta, cell)
    gamma = np.concatenate([gamma, np.full(cells - len(gamma), LOG_EMPTY_CELL)])
    return _centred(gamma, group_sums(cell, panel.quantity, cells), periods)


def expected_sales(panel: Panel, beta: Floats) -> Floats:
    """Return mu, with the unit's level at its profile estimate.  Shape (rows,).

    Each unit's mu add up to its sales.
    """
    weight = panel.exposure * np.exp(beta[panel.unit] * panel.x)
    level = panel.sums(panel.quantity) / panel.sums(weight)
    return weight * level[panel.unit]


def scores(panel: Panel, beta: Floats) -> tuple[Floats, Floats]:
    """Return each unit's score and information at `beta`, for Poisson noise; all (units,)."""
    return _scores_at(panel, expected_sales(panel, beta))


def _scores_at(panel: Panel, mu: Floats) -> tuple[Floats, Floats]:
    sales = np.maximum(panel.sums(mu), np.finfo(float).tiny)
    centre = panel.sums(mu * panel.x) / sales
    spread = panel.x - centre[panel.unit]
    return panel.sums(spread * (panel.quantity - mu)), panel.sums(mu * (spread * spread))


def fit_dispersion(panel: Panel, beta: Floats, spent: Floats, group: Ints) -> Floats:
    """Return phi >= 1 per group: Pearson's statistic per degree of freedom.  Shape (groups,).

    beta   (units,) the elasticities it is computed at
    spent  (units,) degrees of freedom that the unit's own fit used beyond its level: 1 - B, and 0
           if beta is the group's
    """
    mu, groups = expected_sales(panel, beta), int(group.max()) + 1
    residual = panel.quantity - mu
    square = residual * residual if panel.slack is None else residual * residual + panel.slack
    pearson = np.divide(square, mu, out=np.zeros_like(mu), where=mu > 0)
    freedom = np.where(panel.sums(panel.quantity) > 0, panel.sizes - 1.0 - spent, 0.0)
    spare = group_sums(group, freedom, groups)
    return np.maximum(
        np.divide(
            group_sums(group, panel.sums(pearson), groups),
            spare,
            out=np.ones(groups),
            where=spare > 0,
        ),
        1.0,
    )


def season_share(panel: Panel, rate: Floats) -> Floats:
    """Return the part of a unit's information that the season used: its leverage.  Shape (units,).

    It is the unit's mean share in the sales of its season cells.  With gamma_t estimated from the
    sales M_t of a cell, the information of a unit's score, sum mu_t (x_t - xbar)^2, becomes
    sum mu_t (1 - mu_t / M_t) (x_t - xbar)^2, and its weeks leave sum (1 - mu_t / M_t) degrees of
    freedom.  rate (units,): sales per period of the season group.
    """
    share = np.divide(
        panel.sums(panel.quantity) / panel.sizes, rate, out=np.zeros(panel.units), where=rate > 0
    )
    return np.minimum(share, MAX_SEASON_SHARE)


def fit_inflation(
    panel: Panel,
    beta: Floats,
    sd: Floats,
    dispersion: Floats,
    group: Ints,
    absorbed: Floats | float = 0.0,
) -> Floats:
    """Return c >= 1 per group, the inflation of the scores' variance by serial correlation.

    The ratio (`long_run_ratio`) of a group of few units is mostly chance, and a chance excess over
    1 would be taken for correlation.  So groups are shrunk to their common ratio, each by the part
    of its squared distance that chance explains, and the common ratio is shrunk to 1 in the same
    way (positive-part James-Stein; Efron and Morris 1973).
    """
    found, independent = _long_run(panel, beta, sd, dispersion, group, absorbed)
    groups = int(group.max()) + 1
    expected = np.maximum(group_sums(group, independent, groups), 0.0)
    whole = float(np.sum(independent))
    if not np.any(expected > 0) or whole <= 0.0:
        return np.ones(groups)
    known = expected > 0
    ratio = np.divide(group_sums(group, found, groups), expected, out=np.ones(groups), where=known)
    miss = found - ratio[group] * independent
    error = np.divide(
        group_sums(group, miss * miss, groups),
        expected * expected,
        out=np.full(groups, np.inf),
        where=known,
    )
    common = float(np.sum(found)) / whole
    miss = found - common * independent
    common = _james_stein(common, 1.0, float(np.sum((miss / whole) ** 2)))
    apart = (ratio - common) ** 2
    keep = np.maximum(
        1.0 - np.divide(error, apart, out=np.full(groups, np.inf), where=known & (apart > 0)), 0.0
    )
    return np.maximum(np.where(known, common + keep * (ratio - common), common), 1.0)


def _james_stein(value: float, towards: float, variance: float) -> float:
    """Return the positive-part James-Stein estimate of `value`, which has this variance."""
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
    """Return the scores' long-run variance, as a multiple of that of independent weeks.

    beta, sd (units,): the units' posteriors.  The long-run variance is Bartlett's.  Residuals are
    smaller than errors, since the fitted elasticity and level absorb a part of these.  For
    independent errors the Bartlett sum B of the scores has the mean
    phi (I - B(mu s) / Y) - sd^2 B(mu s^2), with s = x - xbar, and not phi I; without the two terms
    correlation would be understated, most where prices seldom move.  Shape (groups,).
    """
    found, independent = _long_run(panel, beta, sd, dispersion, group, absorbed)
    groups = int(group.max()) + 1
    expected = group_sums(group, independent, groups)
    return np.divide(
        group_sums(group, found, groups), expected, out=np.ones(groups), where=expected > 0
    )


def _long_run(
    panel: Panel,
    beta: Floats,
    sd: Floats,
    dispersion: Floats,
    group: Ints,
    absorbed: Floats | float,
) -> tuple[Floats, Floats]:
    """Return each unit's Bartlett sum, and its mean for independent weeks; (units,)."""
    mu = expected_sales(panel, beta)
    sales = np.maximum(panel.sums(mu), np.finfo(float).tiny)
    spread = panel.x - (panel.sums(mu * panel.x) / sales)[panel.unit]
    pull = mu * spread
    found = panel.sums(_bartlett(spread * (panel.quantity - mu), panel.unit))
    absorbed_by_slope = sd * sd * panel.sums(_bartlett(pull * spread, panel.unit))
    absorbed_by_level = panel.sums(_bartlett(pull, panel.unit)) / sales
    return found, dispersion[group] * (1.0 - absorbed) * (
        panel.sums(pull * spread) - absorbed_by_level
    ) - absorbed_by_slope


def _group_step(
    panel: Panel, beta: Floats, group: Ints, control: Floats | None
) -> tuple[Floats, float]:
    """Return the joint Newton step of the groups' elasticities and rho.

    They are nearly collinear: alternating steps would converge slowly.
    """
    mu = expected_sales(panel, beta[group])
    score, information = _scores_at(panel, mu)
    pull, curvature = group_sums(group, score, len(beta)), group_sums(group, information, len(beta))
    rho_step = 0.0
    if control is not None:
        spread = within_unit(panel, control, mu)
        shared = group_sums(group, panel.sums(mu * spread * panel.x), len(beta))
        share = np.divide(shared, curvature, out=np.zeros_like(beta), where=curvature > 0)
        left = float(np.sum(mu * spread * control)) - float(share @ shared)
        gradient = float(np.sum(spread * (panel.quantity - mu))) - float(share @ pull)
        rho_step = min(max(gradient / left, -1.0), 1.0) if left > 0 else 0.0
        pull = pull - rho_step * shared
    step = np.divide(pull, curvature, out=np.zeros_like(beta), where=curvature > 0)
    return np.clip(step, -1.0, 1.0), rho_step


def within_unit(panel: Panel, values: Floats, weight: Floats) -> Floats:
    """Return `values` (rows,) minus their unit's weighted mean; the mean is 0 without weight."""
    total = panel.sums(weight)
    mean = np.divide(panel.sums(weight * values), total, out=np.zeros(panel.units), where=total > 0)
    return np.asarray(values - mean[panel.unit])


def _log_ratio(observed: Floats, expected: Floats) -> Floats:
    positive = (observed > 0) & (expected > 0)
    return np.log(np.divide(observed, expected, out=np.ones_like(observed), where=positive))


def _centred(change: Floats, observed: Floats, periods: int) -> Floats:
    """Subtract the season group's mean over the weeks with sales: levels belong to the units."""
    table, sold = change.reshape(-1, periods), (observed > 0).reshape(-1, periods)
    mean = (table * sold).sum(axis=1) / np.maximum(sold.sum(axis=1), 1)
    return np.where(sold, table - mean[:, None], table).ravel()


def _bartlett(terms: Floats, unit: Ints) -> Floats:
    """Return e_t^2 + 2 sum_l (1 - l/(L+1)) e_t e_(t-l) within the unit (Newey and West 1987)."""
    total = terms * terms
    for lag in range(1, HAC_LAGS + 1):
        same = unit[lag:] == unit[:-lag]
        total[lag:] += 2.0 * (1.0 - lag / (HAC_LAGS + 1.0)) * terms[lag:] * terms[:-lag] * same
    return total
