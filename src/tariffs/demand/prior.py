"""Stage 1 as a whole: from all units' weeks to the few kilobytes that every unit is then fitted with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tariffs.demand.backtest import POOLED, backtest
from tariffs.demand.endogeneity import NOTHING_LOGGED, Exogeneity, examine, without_foresight
from tariffs.demand.panel import Panel, tally
from tariffs.demand.pooling import Layout, fit_season_filled, learn
from tariffs.rows import Bools, Floats, Ints, Labels


@dataclass(frozen=True, slots=True)
class Prior:
    """What all units share.

    intercept, levels, effects  the prior mean: intercept + the effects of the unit's levels, such as 'product=DAY_50' (sorted)
    tau2                        the prior variance
    group_factor, groups        the factor whose levels share their noise, and those levels (sorted)
    dispersion, inflation       (groups,) phi and c: the noise of a unit is phi c
    level_shape, level_rate     (groups,) Gamma prior of a unit's level: shape a, mean rate
    season_groups, periods      sorted names, and sorted days since 1970-01-01
    gamma                       (season_groups x periods,) row-major log season effects, mean zero
    group_beta                  (groups,) pooled elasticities
    units, gated                units read, and those that told about tau2
    exogeneity                  NOT_TESTED, EXOGENOUS or ENDOGENOUS: do prices answer to demand? (`tariffs.demand.endogeneity`)
    trials, first_stage         the share of weeks with logged exploration, and the price's answer to it
    rho, rho_se, rho_p          what chosen prices have in common with demand, its standard error, p of the test that it is nothing
    rho_used, rho_variance      what of it is taken out of every unit's weeks, and what that adds to the variance of its elasticity
    censored                    the share of weeks that sold all there was
    gate_choice, gate_units     (groups,) EB, POOLED or EB_UNTESTED (`tariffs.demand.backtest`), and the units that decided it
    gate_eb, gate_pooled        (groups,) held-out conditional deviance per week of both candidates
    """

    intercept: float
    levels: Labels
    effects: Floats
    tau2: float
    group_factor: str
    groups: Labels
    dispersion: Floats
    inflation: Floats
    level_shape: Floats
    level_rate: Floats
    season_groups: Labels
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
    rho_used: float
    rho_variance: float
    censored: float
    gate_choice: Labels
    gate_units: Ints
    gate_eb: Floats
    gate_pooled: Floats

    def mean(self, labels: Mapping[str, Labels]) -> Floats:
        """z'delta for units with these labels; a level never seen adds nothing.  Shape (units,)."""
        mean = np.full(len(next(iter(labels.values()))), self.intercept)
        for factor, values in labels.items():
            at, known = _find(self.levels, _level_names(factor, values))
            mean = mean + np.where(known, self.effects[at], 0.0)
        return mean

    def of_group(self, values: Floats, labels: Mapping[str, Labels]) -> Floats:
        """The units' own of `values` (groups,); an unknown group gets the largest, the most cautious.  Shape (units,)."""
        at, known = _find(self.groups, labels[self.group_factor])
        return np.where(known, values[at], values.max())

    def noise(self, labels: Mapping[str, Labels]) -> Floats:
        """phi c; infinite where the backtest chose the prior mean: then the units' own weeks say nothing.  Shape (units,)."""
        at, known = _find(self.groups, labels[self.group_factor])
        pooled = known & (self.gate_choice[at] == POOLED)
        return np.where(pooled, np.inf, self.of_group(self.dispersion * self.inflation, labels))

    def season(self, group: Labels, days: Ints, unit: Ints) -> Floats:
        """gamma for each row: `group` (units,), `days` and `unit` (rows,); 0 where the prior knows no such week."""
        at, known = _find(self.season_groups, group)
        when = np.minimum(np.searchsorted(self.periods, days), len(self.periods) - 1)
        found = known[unit] & (self.periods[when] == days)
        return np.where(found, self.gamma[at[unit] * len(self.periods) + when], 0.0)


def pool(
    panel: Panel, factors: Mapping[str, Labels], group_factor: str, season_group: Labels, days: Ints, cluster: Labels | None = None
) -> Prior:
    """Fit the prior.  factors: names -> (units,); season_group (units,); days (rows,) since 1970-01-01; exposure without a season.

    cluster (units,): units whose weeks may have shocks in common, such as those of one location; each on its own if not given.
    1 what prices foresaw of demand is found and taken out (`endogeneity`); 2 all that units share is learnt (`pooling`); 3 held-out
    weeks choose, per group, between the units' own fits and the prior mean (`backtest`).  ValueError where the weeks tell nothing: no sale, or
    no price that ever moved.
    """
    if not np.any(panel.quantity > 0):
        raise ValueError(f"nothing was sold in {len(panel.quantity):,} weeks of {panel.units:,} units: no prior can be learnt")
    layout, groups, seasons, periods = _lay_out(factors, group_factor, season_group, days)
    found = _examine(panel, layout, factors, cluster)
    free = without_foresight(panel, found.pi, found.used)
    learnt = learn(free, layout)
    gate = backtest(free, layout)
    names = _names(factors)
    shape, rate = _level_prior(learnt.fit.demand, learnt.fit.exposed, learnt.dispersion, layout.group)
    order, effects = np.argsort(names), learnt.second.delta[1:]
    return Prior(
        intercept=float(learnt.second.delta[0]), levels=names[order], effects=effects[order], tau2=learnt.tau2,
        group_factor=group_factor, groups=groups, dispersion=learnt.dispersion, inflation=learnt.inflation,
        level_shape=shape, level_rate=rate, season_groups=seasons, periods=periods, gamma=learnt.season.gamma,
        group_beta=learnt.season.beta, units=panel.units, gated=int(learnt.gate.sum()),
        exogeneity=found.verdict, trials=found.trials, first_stage=found.pi, rho=found.rho, rho_se=found.se, rho_p=found.p,
        rho_used=found.used, rho_variance=found.variance, censored=float(panel.full().mean()),
        gate_choice=gate.choice, gate_units=gate.tested, gate_eb=gate.eb, gate_pooled=gate.pooled,
    )  # fmt: skip


def expected_level(prior: Prior, labels: Mapping[str, Labels], sales: Floats, exposed: Floats) -> Floats:
    """Posterior mean of e^alpha: (a + Y/phi) / (a/rate + W/phi)  (Gamma-Poisson; Clayton and Kaldor 1987).  Shape (units,)."""
    shape, rate = prior.of_group(prior.level_shape, labels), prior.of_group(prior.level_rate, labels)
    dispersion = prior.of_group(prior.dispersion, labels)
    return (shape + sales / dispersion) / (shape / rate + exposed / dispersion)


def _lay_out(factors: Mapping[str, Labels], group_factor: str, season_group: Labels, days: Ints) -> tuple[Layout, Labels, Labels, Ints]:
    """The layout, and the names behind its numbers: groups, season groups, periods."""
    groups, group = np.unique(factors[group_factor], return_inverse=True)
    seasons, season_of_unit = np.unique(season_group, return_inverse=True)
    periods, when = np.unique(days, return_inverse=True)
    rank = 1 + sum(len(np.unique(values)) - 1 for values in factors.values())
    return Layout(_design(factors), rank, group, season_of_unit, when, len(periods)), groups, seasons, periods


def _examine(panel: Panel, layout: Layout, factors: Mapping[str, Labels], cluster: Labels | None) -> Exogeneity:
    """The exogeneity test, with an elasticity of its own for each kind of unit: differences between kinds must not pass for foresight."""
    if panel.trial is None or not panel.trial.any():
        return NOTHING_LOGGED
    kinds = np.zeros(panel.units, dtype=np.int64)
    for values in factors.values():
        kinds = kinds * (len(np.unique(values)) + 1) + np.unique(values, return_inverse=True)[1]
    kind = np.unique(kinds, return_inverse=True)[1]
    together = np.arange(panel.units) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    _, filled = fit_season_filled(panel, layout) if panel.full().any() else (None, panel)
    return examine(filled, kind, layout.cell(panel), layout.periods, together)


def _names(factors: Mapping[str, Labels]) -> Labels:
    """The names of the design's columns but the intercept, such as 'product=DAY_50'."""
    return np.concatenate([_level_names(factor, np.unique(values)) for factor, values in factors.items()])


def _design(factors: Mapping[str, Labels]) -> Floats:
    """The dummies behind an intercept (units, columns); all levels stay: the ridge identifies them."""
    blocks = [np.ones((len(next(iter(factors.values()))), 1))]
    for values in factors.values():
        levels, code = np.unique(values, return_inverse=True)
        blocks.append((code[:, None] == np.arange(len(levels))).astype(np.float64))
    return np.hstack(blocks)


def _level_prior(sales: Floats, exposed: Floats, dispersion: Floats, group: Ints) -> tuple[Floats, Floats]:
    """Shape and mean of the units' levels, by moments, per group."""
    groups = len(dispersion)
    weight = tally(group, exposed, groups)
    rate = np.maximum(tally(group, sales, groups), 0.5) / weight
    gap = sales / exposed - rate[group]
    between = tally(group, exposed * gap * gap, groups) - dispersion * rate * (np.bincount(group, minlength=groups) - 1.0)
    variance = between / np.maximum(weight - tally(group, exposed * exposed, groups) / weight, np.finfo(float).tiny)
    return rate * rate / np.maximum(variance, 1e-6 * rate * rate), rate


def _level_names(factor: str, values: Labels) -> Labels:
    return np.array([f"{factor}={value}" for value in values], dtype=object)


def _find(ordered: Labels, wanted: Labels) -> tuple[Ints, Bools]:
    """Where each wanted label stands, and whether it is there at all."""
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, np.asarray(ordered[at] == wanted, dtype=np.bool_)
