"""Stage 1, both halves in order: what all units share, from their weeks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints
from tariffs.demand.censored import PASSES, fill
from tariffs.demand.conditional import Fit, expect_by, fit_full_units
from tariffs.demand.hyper import Hyper, Kinds, average, hidden, integrate, pseudo
from tariffs.demand.panel import Panel, tally
from tariffs.demand.season import (
    Season,
    expect,
    fit_dispersion,
    fit_inflation,
    fit_season,
    refit_season,
    scores,
    season_share,
)

GATE_SE = 4.0  # a first estimate less certain than this says nothing about tau2, and on real data would blow it up
NOTABLE = 0.01  # share of a season cell's sales in one unit
STEPS_OF_FEW = 5  # of `learn`, with the season
STEPS = 2  # of `learn`, around the units' own modes
SMALLEST_TAU2 = 1e-6  # no variance seen between units: fit them as pooled, but keep the problem strictly concave


@dataclass(frozen=True, slots=True)
class Layout:
    """Which unit is what: design (units, columns) and its rank, group and season_group (units,), period (rows,) of `periods`."""

    design: Floats
    rank: int
    group: Ints
    season_group: Ints
    period: Ints
    periods: int
    kinds: Kinds | None = None

    def cell(self, panel: Panel) -> Ints:
        """The season cell of each row."""
        return self.season_group[panel.unit] * self.periods + self.period

    def of(self, units: Ints, rows: Bools) -> Layout:
        """The layout of a panel's `only` these rows."""
        return Layout(
            self.design[units],
            self.rank,
            self.group[units],
            self.season_group[units],
            self.period[rows],
            self.periods,
            self.kinds,
        )


@dataclass(frozen=True, slots=True)
class Pooled:
    """season; dispersion and inflation (groups,); rate (season groups,), sales per period; the second level; the units that told it; and all units' fits, given it."""

    season: Season
    dispersion: Floats
    inflation: Floats
    rate: Floats
    second: Hyper
    gate: Bools
    fit: Fit

    @property
    def tau2(self) -> float:
        return self.second.tau2


def learn(panel: Panel, layout: Layout) -> Pooled:
    """1 season and group elasticities; 2 dispersion around them; 3 one-step estimates and the posterior of delta and tau (`tariffs.demand.hyper`); 4
    dispersion and serial inflation around the units' own fits (around the groups' elasticities, the units' differences would pass for
    correlation, and tau come out too small); 3 again, around the units' own modes.  Where a unit makes up a notable part of its season, the season is fitted
    again at the units' elasticities each time: fitted at the groups', it would have absorbed what is the unit's own.

    Weeks that sold all there was are filled with what demand would have been (`tariffs.demand.censored`) before 1 to 4.
    """
    group, design = layout.group, layout.design
    season, filled = fit_season_filled(panel, layout)
    rate = (
        tally(layout.season_group, panel.sums(panel.quantity), int(layout.season_group.max()) + 1)
        / layout.periods
    )
    left = 1.0 - season_share(panel, rate[layout.season_group])
    small = bool(np.any(left < 1.0 - NOTABLE))
    gamma = season.gamma[layout.cell(panel)]
    seen, seasonal = panel.seasonal(gamma), filled.seasonal(gamma)
    dispersion = fit_dispersion(seasonal, season.beta[group], panel.sizes * (1.0 - left), group)
    hyper = _first_level(seasonal, season.beta[group], dispersion[group] / left, layout)
    noise = dispersion[group]
    steps = STEPS_OF_FEW if small else STEPS
    for step in range(steps):
        mean, tau2 = design @ hyper.delta, hyper.tau2
        fit = fit_full_units(seen, mean, tau2, noise, dispersion[group])
        if small:
            season = Season(
                refit_season(filled, fit.beta, layout.cell(panel), layout.periods), season.beta
            )
            gamma = season.gamma[layout.cell(panel)]
            seen, seasonal = panel.seasonal(gamma), filled.seasonal(gamma)
        if seen.full().any():
            seasonal = fill(seen, expect_by(seen, fit), dispersion[group])
        if step == 0 or small:
            own = hidden(fit, tau2, left)
            dispersion = fit_dispersion(
                seasonal, fit.beta, 1.0 - own.shrink + panel.sizes * (1.0 - left), group
            )
            inflation = fit_inflation(seasonal, fit.beta, own.sd, dispersion, group, 1.0 - left)
            noise = (dispersion * inflation)[group]
            if not small:
                fit = fit_full_units(seen, mean, tau2, noise, dispersion[group])
        estimate, variance = pseudo(hidden(fit, tau2, left), mean, tau2)
        gate = _telling(variance)
        hyper = integrate(
            estimate[gate], variance[gate], design[gate], layout.kinds, rough=step + 1 < steps
        )
    mean, tau2 = design @ hyper.delta, hyper.tau2
    fit = hidden(fit_full_units(seen, mean, tau2, noise, dispersion[group]), tau2, left)
    fit = average(fit, mean, tau2, hyper.tau, hyper.weight, spread_of(design, hyper.covariance))
    return Pooled(season, dispersion, inflation, rate, hyper, gate, fit)


def fit_season_filled(panel: Panel, layout: Layout) -> tuple[Season, Panel]:
    """The season, and the panel with its full weeks filled by it; at once where no week was full."""
    cell, filled = layout.cell(panel), panel
    season = fit_season(panel, layout.group, cell, layout.periods)
    for _ in range(PASSES if panel.full().any() else 0):
        gamma = season.gamma[cell]
        beta, around = season.beta[layout.group], filled.seasonal(gamma)
        dispersion = fit_dispersion(around, beta, np.zeros(panel.units), layout.group)
        filled = fill(panel, expect(around, beta), dispersion[layout.group])
        season = fit_season(filled, layout.group, cell, layout.periods)
    return season, filled


def _first_level(panel: Panel, around: Floats, noise: Floats, layout: Layout) -> Hyper:
    """From each unit's one-step estimate, from `around` (finite even where the maximum of the likelihood is not)."""
    score, information = scores(panel, around)
    variance = np.divide(
        noise, information, out=np.full(panel.units, np.inf), where=information > 0
    )
    gate = _telling(variance)
    return integrate(
        around[gate] + score[gate] / information[gate],
        variance[gate],
        layout.design[gate],
        layout.kinds,
        rough=True,
    )


def _telling(variance: Floats) -> Bools:
    gate = variance < GATE_SE**2
    if not gate.any():
        raise ValueError(
            f"none of {len(variance)} units tells its elasticity within a standard error of {GATE_SE}: no prior can be learnt;"
            " wanted units that were sold at more than one price, over some months"
        )
    return gate


def spread_of(design: Floats, covariance: Floats) -> Floats:
    """z' Cov(delta) z of each row."""
    return np.asarray(np.einsum("ui,ij,uj->u", design, covariance, design, optimize=True))
