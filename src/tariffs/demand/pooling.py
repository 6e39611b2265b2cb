"""Stage 1, both halves in order: the parameters that all units share.

`learn` takes these steps:

1. the season, and one elasticity per group;
2. the dispersion around them;
3. one-step estimates, and from them the posterior of delta and tau (`tariffs.demand.hyper`);
4. dispersion and serial inflation around the units' own fits (around the groups' elasticities, the
   units' differences would be taken for correlation, and tau would come out too small);
5. the posterior of delta and tau again, around the units' own modes.

If a unit makes up a notable part of its season, the season is fitted again at the units'
elasticities each time: fitted at the groups', it would have absorbed the unit's own response.
Censored weeks are replaced by their expected demand (`tariffs.demand.censored`) before steps 1 to
4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints
from tariffs.demand.censored import SEASON_EM_PASSES, impute_censored
from tariffs.demand.conditional import Fit, expected_at_fit, fit_censored_units
from tariffs.demand.hyper import (
    EffectsPrior,
    HyperPosterior,
    average_over_tau,
    discount_information,
    integrate,
    likelihood_moments,
)
from tariffs.demand.panel import Panel, group_sums
from tariffs.demand.season import (
    Season,
    expected_sales,
    fit_dispersion,
    fit_inflation,
    fit_season,
    refit_season,
    scores,
    season_share,
)

MAX_GATE_SE = 4.0  # less certain estimates contain nothing about tau2, and on real data inflate it
NOTABLE_SEASON_SHARE = 0.01  # of a season cell's sales, in one unit
STEPS_WITH_SEASON = 5  # of `learn`, if the season is fitted again
STEPS = 2  # of `learn`, around the units' own modes


@dataclass(frozen=True, slots=True)
class Layout:
    """The units' kinds and the rows' periods.

    design (units, columns) and its rank; group and season_group (units,); period (rows,), 0 to
    periods - 1
    """

    design: Floats
    rank: int
    group: Ints
    season_group: Ints
    period: Ints
    periods: int
    effects_prior: EffectsPrior | None = None

    def cell(self, panel: Panel) -> Ints:
        """Return the season cell of each row."""
        return self.season_group[panel.unit] * self.periods + self.period

    def subset(self, units: Ints, rows: Bools) -> Layout:
        """Return the layout of a panel's `select_rows`."""
        return Layout(
            self.design[units],
            self.rank,
            self.group[units],
            self.season_group[units],
            self.period[rows],
            self.periods,
            self.effects_prior,
        )


@dataclass(frozen=True, slots=True)
class Pooled:
    """The result of stage 1.

    dispersion, inflation  (groups,) phi and c
    rate                   (season groups,) sales per period
    hyper, gate            the posterior of delta and tau, and the units (units,) it is based on
    fit                    all units' fits, given that posterior
    """

    season: Season
    dispersion: Floats
    inflation: Floats
    rate: Floats
    hyper: HyperPosterior
    gate: Bools
    fit: Fit

    @property
    def tau2(self) -> float:
        return self.hyper.tau2


def learn(panel: Panel, layout: Layout) -> Pooled:
    """Fit stage 1: the season, the noise, the posterior of delta and tau, and the units' fits."""
    group, design = layout.group, layout.design
    first = _first_estimates(panel, layout)
    season, imputed, left, hyper = first.season, first.imputed, first.left, first.hyper
    refits_season = bool(np.any(left < 1.0 - NOTABLE_SEASON_SHARE))
    gamma = season.gamma[layout.cell(panel)]
    seen, seasonal = panel.with_season(gamma), imputed.with_season(gamma)
    dispersion = first.dispersion
    noise = dispersion[group]
    steps = STEPS_WITH_SEASON if refits_season else STEPS
    for step in range(steps):
        mean, tau2 = design @ hyper.delta, hyper.tau2
        fit = fit_censored_units(seen, mean, tau2, noise, dispersion[group])
        if refits_season:
            gamma = refit_season(imputed, fit.beta, layout.cell(panel), layout.periods)
            season = Season(gamma, season.beta)
            gamma = gamma[layout.cell(panel)]
            seen, seasonal = panel.with_season(gamma), imputed.with_season(gamma)
        if seen.full().any():
            seasonal = impute_censored(seen, expected_at_fit(seen, fit), dispersion[group])
        if step == 0 or refits_season:
            own = discount_information(fit, tau2, left)
            dispersion, inflation = _noise_around(seasonal, own, left, group)
            noise = (dispersion * inflation)[group]
            if not refits_season:
                fit = fit_censored_units(seen, mean, tau2, noise, dispersion[group])
        estimate, variance = likelihood_moments(discount_information(fit, tau2, left), mean, tau2)
        gate = _informative(variance)
        hyper = integrate(
            estimate[gate],
            variance[gate],
            design[gate],
            layout.effects_prior,
            approximate=step + 1 < steps,
        )
    mean, tau2 = design @ hyper.delta, hyper.tau2
    fit = fit_censored_units(seen, mean, tau2, noise, dispersion[group])
    fit = discount_information(fit, tau2, left)
    spread = mean_variance(design, hyper.covariance)
    fit = average_over_tau(fit, mean, tau2, hyper.tau, hyper.weight, spread)
    return Pooled(season, dispersion, inflation, first.rate, hyper, gate, fit)


@dataclass(frozen=True, slots=True)
class _FirstEstimates:
    """Steps 1 to 3.

    imputed  the panel with the expected demand of its censored weeks
    rate     (season groups,) sales per period
    left     (units,) the fraction of a unit's information that the season leaves
    """

    season: Season
    imputed: Panel
    rate: Floats
    left: Floats
    dispersion: Floats
    hyper: HyperPosterior


def _first_estimates(panel: Panel, layout: Layout) -> _FirstEstimates:
    group, groups = layout.group, int(layout.season_group.max()) + 1
    season, imputed = fit_season_imputed(panel, layout)
    sales = group_sums(layout.season_group, panel.sums(panel.quantity), groups)
    rate = sales / layout.periods
    left = 1.0 - season_share(panel, rate[layout.season_group])
    seasonal = imputed.with_season(season.gamma[layout.cell(panel)])
    around = season.beta[group]
    dispersion = fit_dispersion(seasonal, around, panel.sizes * (1.0 - left), group)
    hyper = _one_step_posterior(seasonal, around, dispersion[group] / left, layout)
    return _FirstEstimates(season, imputed, rate, left, dispersion, hyper)


def _noise_around(panel: Panel, fit: Fit, left: Floats, group: Ints) -> tuple[Floats, Floats]:
    """Return dispersion and serial inflation (groups,) around the units' own fits."""
    spent = 1.0 - fit.shrink + panel.sizes * (1.0 - left)
    dispersion = fit_dispersion(panel, fit.beta, spent, group)
    return dispersion, fit_inflation(panel, fit.beta, fit.sd, dispersion, group, 1.0 - left)


def fit_season_imputed(panel: Panel, layout: Layout) -> tuple[Season, Panel]:
    """Return the season, and the panel with the expected demand of its censored weeks.

    EM alternates between the two; without censored weeks no iteration is needed.
    """
    cell, imputed = layout.cell(panel), panel
    season = fit_season(panel, layout.group, cell, layout.periods)
    for _ in range(SEASON_EM_PASSES if panel.full().any() else 0):
        gamma = season.gamma[cell]
        beta, around = season.beta[layout.group], imputed.with_season(gamma)
        dispersion = fit_dispersion(around, beta, np.zeros(panel.units), layout.group)
        imputed = impute_censored(panel, expected_sales(around, beta), dispersion[layout.group])
        season = fit_season(imputed, layout.group, cell, layout.periods)
    return season, imputed


def _one_step_posterior(
    panel: Panel, around: Floats, noise: Floats, layout: Layout
) -> HyperPosterior:
    """Return the posterior from the units' one-step estimates, taken from `around` (units,).

    These are finite even where the maximum of the likelihood is not.
    """
    score, information = scores(panel, around)
    variance = np.divide(
        noise, information, out=np.full(panel.units, np.inf), where=information > 0
    )
    gate = _informative(variance)
    return integrate(
        around[gate] + score[gate] / information[gate],
        variance[gate],
        layout.design[gate],
        layout.effects_prior,
        approximate=True,
    )


def _informative(variance: Floats) -> Bools:
    """Return the units whose standard error is below MAX_GATE_SE.

    Raises:
        ValueError: there is none
    """
    gate = variance < MAX_GATE_SE**2
    if not gate.any():
        raise ValueError(
            f"found no elasticity with a standard error below {MAX_GATE_SE} in"
            f" {len(variance)} units; wanted units that were sold at more than one price, over"
            " some months, to fit the prior to"
        )
    return gate


def mean_variance(design: Floats, covariance: Floats) -> Floats:
    """Return z' Cov(delta) z, the variance of the prior mean; design (units, columns)."""
    return np.asarray(np.einsum("ui,ij,uj->u", design, covariance, design, optimize=True))
