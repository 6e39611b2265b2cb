"""Stage 1 as a whole: from all units' weeks to the prior, a few kilobytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat

import numpy as np

from tariffs.columns import Bools, Floats, Ints, Labels, distinct
from tariffs.demand.backtest import POOLED, Gate, backtest
from tariffs.demand.conditional import Fit
from tariffs.demand.design import Names, lay_out
from tariffs.demand.endogeneity import NO_TRIALS, Exogeneity, assess_exogeneity, remove_foresight
from tariffs.demand.hyper import average_over_tau, discount_information
from tariffs.demand.panel import Panel, group_sums
from tariffs.demand.pooling import Layout, Pooled, fit_season_imputed, learn
from tariffs.demand.season import season_share

VERSION = 2


@dataclass(frozen=True, slots=True)
class Prior:
    """The parameters that all units share.

    The prior mean is the intercept plus the effects of the unit's levels, such as
    'product=DAY_50' (sorted).

    version                  2: with the uncertainty of delta and tau
    tau2                     at which units are fitted first: the square of tau's posterior mean
    tau, tau_se              the standard deviation between units: the mode of its likelihood (0 at
                             its lower end), and its posterior standard deviation
    tau_nodes, tau_weights   over which units are then averaged (`tariffs.demand.hyper`)
    covariance               (1 + levels)^2, row-major: of the intercept and the effects
    level_variance           (factors,) of the effect of an unknown level, in the order of
                             factor_names
    season_rate              (season_groups,) sales per period of the units in the sample
    group_factor, groups     the factor whose levels share their noise, and those levels (sorted)
    dispersion, inflation    (groups,) phi and c: the noise of a unit is phi c
    level_shape, level_rate  (groups,) Gamma prior of a unit's level: shape a, mean rate
    season_groups, periods   sorted names, and sorted days since 1970-01-01
    gamma                    (season_groups x periods,) row-major log season effects, mean zero
    group_beta               (groups,) pooled elasticities
    units, gated             units in the sample, and those that delta and tau are estimated from
    exogeneity               NOT_TESTED, EXOGENOUS or ENDOGENOUS (`tariffs.demand.endogeneity`)
    trials, first_stage      the fraction of weeks with logged exploration, and the price's response
                             to it
    rho, rho_se, rho_p       the coefficient of the chosen part of prices, its standard error, and p
                             of the test of rho = 0
    rho_chance               the posterior probability that prices foresee demand
    rho_used, rho_variance   the rho of the correction, and its variance, which is added to that of
                             every elasticity
    censored                 the fraction of censored weeks
    gate_choice, gate_units  (groups,) EB, POOLED or EB_UNTESTED (`tariffs.demand.backtest`), and
                             the number of units that decided it
    gate_eb, gate_pooled     (groups,) held-out conditional deviance per week of both candidates
    """

    intercept: float
    levels: Labels
    effects: Floats
    version: int
    tau2: float
    tau: float
    tau_se: float
    tau_nodes: Floats
    tau_weights: Floats
    covariance: Floats
    factor_names: Labels
    level_variance: Floats
    group_factor: str
    groups: Labels
    dispersion: Floats
    inflation: Floats
    level_shape: Floats
    level_rate: Floats
    season_groups: Labels
    season_rate: Floats
    periods: Ints
    gamma: Floats
    group_beta: Floats
    units: int
    gated: int
    exogeneity: str
    trials: float
    first_stage: float
    rho: float
    rho_se: float
    rho_p: float
    rho_chance: float
    rho_used: float
    rho_variance: float
    censored: float
    gate_choice: Labels
    gate_units: Ints
    gate_eb: Floats
    gate_pooled: Floats

    def mean(self, labels: Mapping[str, Labels]) -> Floats:
        """Return z'delta of units with these labels; an unknown level adds 0.  Shape (units,)."""
        mean = np.full(len(next(iter(labels.values()))), self.intercept)
        for factor, values in labels.items():
            at, known = _positions(self.levels, values, f"{factor}=")
            mean = mean + np.where(known, self.effects[at], 0.0)
        return mean

    def spread(self, labels: Mapping[str, Labels]) -> Floats:
        """Return z' Cov(delta) z, the variance of `mean`.  Shape (units,).

        An unknown level has the variance of its factor's effects.
        """
        columns, unseen = (
            len(self.levels) + 1,
            dict(zip(self.factor_names, self.level_variance, strict=True)),
        )
        variance = np.full(len(next(iter(labels.values()))), self.covariance[0])
        before: list[tuple[Ints, Bools]] = []
        for factor, values in labels.items():
            at, known = _positions(self.levels, values, f"{factor}=")
            at = at + 1
            variance = variance + np.where(
                known,
                2.0 * self.covariance[at] + self.covariance[at * columns + at],
                unseen[factor],
            )
            for other, both in before:
                variance = variance + np.where(
                    known & both, 2.0 * self.covariance[at * columns + other], 0.0
                )
            before.append((at, known))
        return np.asarray(np.maximum(variance, 0.0), dtype=np.float64)

    def variance(self, labels: Mapping[str, Labels]) -> Floats:
        """Return the prior variance of an elasticity: E[tau2] + that of its mean; (units,)."""
        return np.asarray(
            np.sum(self.tau_weights * self.tau_nodes**2) + self.spread(labels), dtype=np.float64
        )

    def averaged(self, fit: Fit, panel: Panel, labels: Mapping[str, Labels], season: Labels) -> Fit:
        """Return a fit at `mean` and `tau2`, averaged over the hyperparameters' posterior."""
        fit = discount_information(fit, self.tau2, 1.0 - self.absorbed(panel, season))
        return average_over_tau(
            fit, self.mean(labels), self.tau2, self.tau_nodes, self.tau_weights, self.spread(labels)
        )

    def of_group(self, values: Floats, labels: Mapping[str, Labels]) -> Floats:
        """Return each unit's element of `values` (groups,).  Shape (units,).

        An unknown group has the largest, the most cautious one.
        """
        at, known = _positions(self.groups, labels[self.group_factor])
        return np.where(known, values[at], values.max())

    def noise(self, labels: Mapping[str, Labels]) -> Floats:
        """Return phi c.  Shape (units,).

        It is infinite where the backtest chose the prior mean, and units' own weeks are not used.
        """
        at, known = _positions(self.groups, labels[self.group_factor])
        pooled = known & (self.gate_choice[at] == POOLED)
        return np.where(pooled, np.inf, self.of_group(self.dispersion * self.inflation, labels))

    def joint(self, labels: Mapping[str, Labels], weight: Floats) -> float:
        """Return the variance of a weighted sum of prior means: G' Cov(delta) G, G = sum weight z.

        labels and weight (kinds,)
        """
        columns = len(self.levels) + 1
        pull = np.zeros(columns)
        pull[0] = np.sum(weight)
        for factor, values in labels.items():
            at, known = _positions(self.levels, values, f"{factor}=")
            pull[1:] += group_sums(at[known], weight[known], columns - 1)
        return max(float(pull @ self.covariance.reshape(columns, columns) @ pull), 0.0)

    def certain(self, tau2: float) -> Prior:
        """Return the same prior with tau2 and the mean taken as known."""
        none = np.zeros_like(self.covariance)
        return replace(
            self,
            tau2=tau2,
            tau_nodes=np.array([np.sqrt(tau2)]),
            tau_weights=np.ones(1),
            covariance=none,
            level_variance=0 * self.level_variance,
        )

    def absorbed(self, panel: Panel, group: Labels) -> Floats:
        """Return `season_share` of units whose season group is `group`; shape (units,)."""
        at, known = _positions(self.season_groups, group)
        return season_share(panel, np.where(known, self.season_rate[at], np.inf))

    def season(self, group: Labels, days: Ints, unit: Ints) -> Floats:
        """Return gamma of each row, 0 in an unknown week; group (units,), days, unit (rows,)."""
        at, known = _positions(self.season_groups, group)
        when = np.minimum(np.searchsorted(self.periods, days), len(self.periods) - 1)
        found = known[unit] & (self.periods[when] == days)
        return np.where(found, self.gamma[at[unit] * len(self.periods) + when], 0.0)


def fit_pooled_prior(
    panel: Panel,
    factors: Mapping[str, Labels],
    group_factor: str,
    season_group: Labels,
    days: Ints,
    cluster: Labels | None = None,
    size: Floats | None = None,
) -> Prior:
    """Fit the prior, in three steps.

    1. Prices' foresight of demand is estimated and removed (`endogeneity`).
    2. The shared parameters are fitted (`pooling`).
    3. Held-out weeks choose, per group, between the units' own fits and the prior mean
       (`backtest`).

    panel         its exposure without a season
    factors       names -> (units,)
    season_group  (units,)
    days          (rows,) since 1970-01-01
    cluster       (units,) units that may have shocks in common, such as those of one location; by
                  default each unit is a cluster of its own
    size          (units,) the trend of the group factor's effects, such as a list price

    Raises:
        ValueError: there was no sale, or no price ever changed
    """
    if not np.any(panel.quantity > 0):
        raise ValueError(
            f"found no sale in {len(panel.quantity):,} weeks of {panel.units:,} units;"
            " wanted units with sales to fit the prior to"
        )
    layout, names = lay_out(factors, group_factor, season_group, days, size)
    found = _examine(panel, layout, factors, cluster)
    free = remove_foresight(panel, found.pi, found.rho_used)
    learnt = learn(free, layout)
    return _assemble(panel, layout, names, found, learnt, backtest(free, layout))


def _assemble(
    panel: Panel, layout: Layout, names: Names, found: Exogeneity, learnt: Pooled, gate: Gate
) -> Prior:
    hyper, fit = learnt.hyper, learnt.fit
    shape, rate = _level_prior(fit.demand, fit.exposed, learnt.dispersion, layout.group)
    order = np.argsort(names.columns)
    at = np.concatenate([[0], order + 1])
    return Prior(
        intercept=float(hyper.delta[0]),
        levels=names.columns[order],
        effects=hyper.delta[1:][order],
        version=VERSION,
        tau2=learnt.tau2,
        tau=hyper.mode,
        tau_se=hyper.se,
        tau_nodes=hyper.tau,
        tau_weights=hyper.weight,
        covariance=hyper.covariance[np.ix_(at, at)].ravel(),
        factor_names=names.factors,
        level_variance=hyper.omega**2,
        group_factor=names.group_factor,
        groups=names.groups,
        dispersion=learnt.dispersion,
        inflation=learnt.inflation,
        level_shape=shape,
        level_rate=rate,
        season_groups=names.season_groups,
        season_rate=learnt.rate,
        periods=names.periods,
        gamma=learnt.season.gamma,
        group_beta=learnt.season.beta,
        units=panel.units,
        gated=int(learnt.gate.sum()),
        exogeneity=found.verdict,
        trials=found.trials,
        first_stage=found.pi,
        rho=found.rho,
        rho_se=found.se,
        rho_p=found.p,
        rho_chance=found.foresight_probability,
        rho_used=found.rho_used,
        rho_variance=found.variance,
        censored=float(panel.full().mean()),
        gate_choice=gate.choice,
        gate_units=gate.tested,
        gate_eb=gate.eb,
        gate_pooled=gate.pooled,
    )


def expected_level(
    prior: Prior, labels: Mapping[str, Labels], sales: Floats, exposed: Floats
) -> Floats:
    """Return the posterior mean of e^alpha, (a + Y/phi) / (a/rate + W/phi).  Shape (units,).

    Gamma-Poisson (Clayton and Kaldor 1987).
    """
    shape, rate = (
        prior.of_group(prior.level_shape, labels),
        prior.of_group(prior.level_rate, labels),
    )
    dispersion = prior.of_group(prior.dispersion, labels)
    return (shape + sales / dispersion) / (shape / rate + exposed / dispersion)


def _examine(
    panel: Panel, layout: Layout, factors: Mapping[str, Labels], cluster: Labels | None
) -> Exogeneity:
    """Return the exogeneity test, with an elasticity for each kind of unit.

    With fewer elasticities, differences between kinds would be taken for foresight.
    """
    if panel.trial is None or not panel.trial.any():
        return NO_TRIALS
    kinds = np.zeros(panel.units, dtype=np.int64)
    for values in factors.values():
        levels, code = distinct(values)
        kinds = kinds * (len(levels) + 1) + code
    kind = np.unique(kinds, return_inverse=True)[1]
    together = np.arange(panel.units) if cluster is None else distinct(cluster)[1]
    _, filled = fit_season_imputed(panel, layout) if panel.full().any() else (None, panel)
    return assess_exogeneity(filled, kind, layout.cell(panel), layout.periods, together)


def _level_prior(
    sales: Floats, exposed: Floats, dispersion: Floats, group: Ints
) -> tuple[Floats, Floats]:
    """Return shape and mean of the Gamma prior of the units' levels, by moments, per group."""
    groups = len(dispersion)
    weight = group_sums(group, exposed, groups)
    rate = np.maximum(group_sums(group, sales, groups), 0.5) / weight
    gap = sales / exposed - rate[group]
    between = group_sums(group, exposed * gap * gap, groups) - dispersion * rate * (
        np.bincount(group, minlength=groups) - 1.0
    )
    variance = between / np.maximum(
        weight - group_sums(group, exposed * exposed, groups) / weight, np.finfo(float).tiny
    )
    return rate * rate / np.maximum(variance, 1e-6 * rate * rate), rate


def _positions(names: Labels, wanted: Labels, prefix: str = "") -> tuple[Ints, Bools]:
    """Return the position of each wanted label, and whether it exists.

    prefix  of the names of these labels
    """
    index = _index(tuple(names.tolist()), prefix)
    at = np.fromiter(map(index.get, wanted.tolist(), repeat(-1)), dtype=np.int64, count=len(wanted))
    return np.maximum(at, 0), at >= 0


@lru_cache(maxsize=64)
def _index(names: tuple[str, ...], prefix: str) -> Mapping[str, int]:
    start = len(prefix)
    return {name[start:]: n for n, name in enumerate(names) if name.startswith(prefix)}
