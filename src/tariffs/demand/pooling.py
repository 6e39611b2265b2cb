"""Stage 1, both halves in order: what all units share, from their weeks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.demand.censored import PASSES, fill
from tariffs.demand.conditional import Fit, expect_by, fit_full_units
from tariffs.demand.hierarchy import SecondLevel, few_units, paule_mandel, refine
from tariffs.demand.panel import Panel
from tariffs.demand.season import Season, expect, fit_dispersion, fit_inflation, fit_season, scores
from tariffs.rows import Bools, Floats, Ints

GATE_SE = 2.0  # a first estimate less certain than this says nothing about tau2, and on real data would blow it up
EM_STEPS = 2
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

    def cell(self, panel: Panel) -> Ints:
        """The season cell of each row."""
        return self.season_group[panel.unit] * self.periods + self.period

    def of(self, units: Ints, rows: Bools) -> Layout:
        """The layout of a panel's `only` these rows."""
        return Layout(self.design[units], self.rank, self.group[units], self.season_group[units], self.period[rows], self.periods)


@dataclass(frozen=True, slots=True)
class Pooled:
    """season; dispersion and inflation (groups,); the second level; the units that told it; and all units' fits, given it."""

    season: Season
    dispersion: Floats
    inflation: Floats
    second: SecondLevel
    gate: Bools
    fit: Fit

    @property
    def tau2(self) -> float:
        return _positive(self.second.tau2)


def learn(panel: Panel, layout: Layout) -> Pooled:
    """1 season and group elasticities; 2 dispersion around them; 3 one-step estimates, Paule-Mandel; 4 dispersion and serial
    inflation around the units' own fits (around the groups' elasticities, the units' differences would pass for
    correlation, and tau2 come out too small); 3 again, from the units' own prior means, where the steps are short; 5 two EM steps.

    Weeks that sold all there was are filled with what demand would have been (`tariffs.demand.censored`) before 1 to 4.
    """
    group, design = layout.group, layout.design
    season, filled = fit_season_filled(panel, layout)
    gamma = season.gamma[layout.cell(panel)]
    seen, seasonal = panel.seasonal(gamma), filled.seasonal(gamma)
    dispersion = fit_dispersion(seasonal, season.beta[group], np.zeros(panel.units), group)
    second, _, _ = _second_level(seasonal, season.beta[group], dispersion[group], layout)
    fit = fit_full_units(seen, design @ second.delta, _positive(second.tau2), dispersion[group], dispersion[group])
    if seen.full().any():
        seasonal = fill(seen, expect_by(seen, fit), dispersion[group])
    dispersion = fit_dispersion(seasonal, fit.beta, 1.0 - fit.shrink, group)
    inflation = fit_inflation(seasonal, fit.beta, fit.sd, dispersion, group)
    noise = (dispersion * inflation)[group]
    second, gate, variance = _second_level(seasonal, design @ second.delta, noise, layout)
    for _ in range(EM_STEPS if second.tau2 > 0 else 0):
        fit = fit_full_units(seen, design @ second.delta, second.tau2, noise, dispersion[group])
        second = refine(fit.beta[gate], fit.sd[gate], design[gate], second)
    second = few_units(second, variance, layout.rank)
    fit = fit_full_units(seen, design @ second.delta, _positive(second.tau2), noise, dispersion[group])
    return Pooled(season, dispersion, inflation, second, gate, fit)


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


def _second_level(panel: Panel, around: Floats, noise: Floats, layout: Layout) -> tuple[SecondLevel, Bools, Floats]:
    """Each unit's one-step estimate from `around` (finite even where the maximum of the likelihood is not), gated, then pooled.

    With the second level come the gate (units,) and the variances of the estimates that passed it.
    """
    score, information = scores(panel, around)
    variance = np.divide(noise, information, out=np.full(panel.units, np.inf), where=information > 0)
    gate = variance < GATE_SE**2
    if not gate.any():
        raise ValueError(
            f"none of {panel.units} units tells its elasticity within a standard error of {GATE_SE}: no prior can be learnt;"
            " wanted units that were sold at more than one price, over some months"
        )
    estimate = around[gate] + score[gate] / information[gate]
    return paule_mandel(estimate, variance[gate], layout.design[gate], layout.rank), gate, variance[gate]


def _positive(tau2: float) -> float:
    return max(tau2, SMALLEST_TAU2)
