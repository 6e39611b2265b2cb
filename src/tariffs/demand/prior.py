"""Stage 1 as a whole: from all units' weeks to the few kilobytes that every unit is then fitted with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Bools, Floats, Ints, Labels
from tariffs.demand.backtest import POOLED, backtest
from tariffs.demand.conditional import Fit
from tariffs.demand.endogeneity import NOTHING_LOGGED, Exogeneity, examine, without_foresight
from tariffs.demand.hyper import Kinds, average, hidden
from tariffs.demand.panel import Panel, tally
from tariffs.demand.pooling import Layout, fit_season_filled, learn
from tariffs.demand.season import season_share

VERSION = 2


@dataclass(frozen=True, slots=True)
class Prior:
    """What all units share.

    intercept, levels, effects  the prior mean: intercept + the effects of the unit's levels, such as 'product=DAY_50' (sorted)
    version                     2 since the prior knows its own doubt
    tau2                        where units are fitted first: the square of tau's posterior mean
    tau, tau_se                 the spread between units: where it is most likely (0 where nothing is seen of it), and its posterior standard deviation
    tau_nodes, tau_weights      what units are then averaged over (`tariffs.demand.hyper`)
    covariance                  (1 + levels)^2, row-major: of the intercept and the effects
    level_variance              (factors,) of the effect of a level never seen, in the order of factor_names
    season_rate                 (season_groups,) sales per period of the units read
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
    rho_chance                  the posterior probability that prices foresee demand at all
    rho_used, rho_variance      what of it is taken out of every unit's weeks, and what that adds to the variance of its elasticity
    censored                    the share of weeks that sold all there was
    gate_choice, gate_units     (groups,) EB, POOLED or EB_UNTESTED (`tariffs.demand.backtest`), and the units that decided it
    gate_eb, gate_pooled        (groups,) held-out conditional deviance per week of both candidates
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
        """z'delta for units with these labels; a level never seen adds nothing.  Shape (units,)."""
        mean = np.full(len(next(iter(labels.values()))), self.intercept)
        for factor, values in labels.items():
            at, known = _find(self.levels, _level_names(factor, values))
            mean = mean + np.where(known, self.effects[at], 0.0)
        return mean

    def spread(self, labels: Mapping[str, Labels]) -> Floats:
        """z' Cov(delta) z, the variance of `mean`; a level never seen has that of its factor's effects.  Shape (units,)."""
        columns, unseen = (
            len(self.levels) + 1,
            dict(zip(self.factor_names, self.level_variance, strict=True)),
        )
        variance = np.full(len(next(iter(labels.values()))), self.covariance[0])
        places: list[tuple[Ints, Bools]] = []
        for factor, values in labels.items():
            at, known = _find(self.levels, _level_names(factor, values))
            at = at + 1
            variance = variance + np.where(
                known,
                2.0 * self.covariance[at] + self.covariance[at * columns + at],
                unseen[factor],
            )
            for other, both in places:
                variance = variance + np.where(
                    known & both, 2.0 * self.covariance[at * columns + other], 0.0
                )
            places.append((at, known))
        return np.asarray(np.maximum(variance, 0.0), dtype=np.float64)

    def variance(self, labels: Mapping[str, Labels]) -> Floats:
        """Of an elasticity of which nothing is known but its kind: tau2 and the doubt about the mean.  Shape (units,)."""
        return np.asarray(
            np.sum(self.tau_weights * self.tau_nodes**2) + self.spread(labels), dtype=np.float64
        )

    def averaged(self, fit: Fit, panel: Panel, labels: Mapping[str, Labels], season: Labels) -> Fit:
        """A fit at `mean` and `tau2`, averaged over what is not known of them (`tariffs.demand.hyper`)."""
        fit = hidden(fit, self.tau2, 1.0 - self.absorbed(panel, season))
        return average(
            fit, self.mean(labels), self.tau2, self.tau_nodes, self.tau_weights, self.spread(labels)
        )

    def of_group(self, values: Floats, labels: Mapping[str, Labels]) -> Floats:
        """The units' own of `values` (groups,); an unknown group gets the largest, the most cautious.  Shape (units,)."""
        at, known = _find(self.groups, labels[self.group_factor])
        return np.where(known, values[at], values.max())

    def noise(self, labels: Mapping[str, Labels]) -> Floats:
        """phi c; infinite where the backtest chose the prior mean: then the units' own weeks say nothing.  Shape (units,)."""
        at, known = _find(self.groups, labels[self.group_factor])
        pooled = known & (self.gate_choice[at] == POOLED)
        return np.where(pooled, np.inf, self.of_group(self.dispersion * self.inflation, labels))

    def joint(self, labels: Mapping[str, Labels], weight: Floats) -> float:
        """The variance of a sum of prior means with these weights: G' Cov(delta) G, G = sum weight z; labels and weight (kinds,)."""
        columns = len(self.levels) + 1
        pull = np.zeros(columns)
        pull[0] = np.sum(weight)
        for factor, values in labels.items():
            at, known = _find(self.levels, _level_names(factor, values))
            pull[1:] += tally(at[known], weight[known], columns - 1)
        return max(float(pull @ self.covariance.reshape(columns, columns) @ pull), 0.0)

    def certain(self, tau2: float) -> Prior:
        """The same prior, with tau2 and the mean taken for known."""
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
        """`season_share` of units whose season group is `group`; shape (units,)."""
        at, known = _find(self.season_groups, group)
        return season_share(panel, np.where(known, self.season_rate[at], np.inf))

    def season(self, group: Labels, days: Ints, unit: Ints) -> Floats:
        """gamma for each row: `group` (units,), `days` and `unit` (rows,); 0 where the prior knows no such week."""
        at, known = _find(self.season_groups, group)
        when = np.minimum(np.searchsorted(self.periods, days), len(self.periods) - 1)
        found = known[unit] & (self.periods[when] == days)
        return np.where(found, self.gamma[at[unit] * len(self.periods) + when], 0.0)


def pool(
    panel: Panel,
    factors: Mapping[str, Labels],
    group_factor: str,
    season_group: Labels,
    days: Ints,
    cluster: Labels | None = None,
    size: Floats | None = None,
) -> Prior:
    """Fit the prior.  factors: names -> (units,); season_group (units,); days (rows,) since 1970-01-01; exposure without a season.

    cluster (units,): units whose weeks may have shocks in common, such as those of one location; each on its own if not given.
    1 what prices foresaw of demand is found and taken out (`endogeneity`); 2 all that units share is learnt (`pooling`); 3 held-out
    weeks choose, per group, between the units' own fits and the prior mean (`backtest`).  ValueError where the weeks tell nothing: no sale, or
    no price that ever moved.
    """
    if not np.any(panel.quantity > 0):
        raise ValueError(
            f"nothing was sold in {len(panel.quantity):,} weeks of {panel.units:,} units: no prior can be learnt"
        )
    layout, groups, seasons, periods = _lay_out(factors, group_factor, season_group, days, size)
    found = _examine(panel, layout, factors, cluster)
    free = without_foresight(panel, found.pi, found.used)
    learnt = learn(free, layout)
    gate = backtest(free, layout)
    names = _names(factors)
    shape, rate = _level_prior(
        learnt.fit.demand, learnt.fit.exposed, learnt.dispersion, layout.group
    )
    order, effects = np.argsort(names), learnt.second.delta[1:]
    sorted_too = np.concatenate([[0], order + 1])
    covariance = learnt.second.covariance[np.ix_(sorted_too, sorted_too)].ravel()
    return Prior(
        intercept=float(learnt.second.delta[0]), levels=names[order], effects=effects[order], tau2=learnt.tau2,
        tau=learnt.second.mode, tau_se=learnt.second.se, tau_nodes=learnt.second.tau, tau_weights=learnt.second.weight, covariance=covariance, version=VERSION,
        factor_names=np.array(list(factors), dtype=object), level_variance=learnt.second.omega**2,
        group_factor=group_factor, groups=groups, dispersion=learnt.dispersion, inflation=learnt.inflation,
        level_shape=shape, level_rate=rate, season_groups=seasons, season_rate=learnt.rate, periods=periods, gamma=learnt.season.gamma,
        group_beta=learnt.season.beta, units=panel.units, gated=int(learnt.gate.sum()),
        exogeneity=found.verdict, trials=found.trials, first_stage=found.pi, rho=found.rho, rho_se=found.se, rho_p=found.p, rho_chance=found.chance,
        rho_used=found.used, rho_variance=found.variance, censored=float(panel.full().mean()),
        gate_choice=gate.choice, gate_units=gate.tested, gate_eb=gate.eb, gate_pooled=gate.pooled,
    )  # fmt: skip


def expected_level(
    prior: Prior, labels: Mapping[str, Labels], sales: Floats, exposed: Floats
) -> Floats:
    """Posterior mean of e^alpha: (a + Y/phi) / (a/rate + W/phi)  (Gamma-Poisson; Clayton and Kaldor 1987).  Shape (units,)."""
    shape, rate = (
        prior.of_group(prior.level_shape, labels),
        prior.of_group(prior.level_rate, labels),
    )
    dispersion = prior.of_group(prior.dispersion, labels)
    return (shape + sales / dispersion) / (shape / rate + exposed / dispersion)


def _lay_out(
    factors: Mapping[str, Labels],
    group_factor: str,
    season_group: Labels,
    days: Ints,
    size: Floats | None = None,
) -> tuple[Layout, Labels, Labels, Ints]:
    """The layout, and the names behind its numbers: groups, season groups, periods."""
    groups, group = np.unique(factors[group_factor], return_inverse=True)
    seasons, season_of_unit = np.unique(season_group, return_inverse=True)
    periods, when = np.unique(days, return_inverse=True)
    rank = 1 + sum(len(np.unique(values)) - 1 for values in factors.values())
    return (
        Layout(
            _design(factors),
            rank,
            group,
            season_of_unit,
            when,
            len(periods),
            _kinds(factors, group_factor, size),
        ),
        groups,
        seasons,
        periods,
    )


def _examine(
    panel: Panel, layout: Layout, factors: Mapping[str, Labels], cluster: Labels | None
) -> Exogeneity:
    """The exogeneity test, with an elasticity of its own for each kind of unit: differences between kinds must not pass for foresight."""
    if panel.trial is None or not panel.trial.any():
        return NOTHING_LOGGED
    kinds = np.zeros(panel.units, dtype=np.int64)
    for values in factors.values():
        kinds = kinds * (len(np.unique(values)) + 1) + np.unique(values, return_inverse=True)[1]
    kind = np.unique(kinds, return_inverse=True)[1]
    together = (
        np.arange(panel.units) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    )
    _, filled = fit_season_filled(panel, layout) if panel.full().any() else (None, panel)
    return examine(filled, kind, layout.cell(panel), layout.periods, together)


def _names(factors: Mapping[str, Labels]) -> Labels:
    """The names of the design's columns but the intercept, such as 'product=DAY_50'."""
    return np.concatenate(
        [_level_names(factor, np.unique(values)) for factor, values in factors.items()]
    )


def _design(factors: Mapping[str, Labels]) -> Floats:
    """The dummies behind an intercept (units, columns); all levels stay: the ridge identifies them."""
    blocks = [np.ones((len(next(iter(factors.values()))), 1))]
    for values in factors.values():
        levels, code = np.unique(values, return_inverse=True)
        blocks.append((code[:, None] == np.arange(len(levels))).astype(np.float64))
    return np.hstack(blocks)


def _kinds(factors: Mapping[str, Labels], group_factor: str, size: Floats | None) -> Kinds:
    """Which column belongs to which factor; and, in the group factor, the log of the levels' size, centred."""
    factor, trend = [np.array([-1])], [np.zeros(1)]
    for f, (name, values) in enumerate(factors.items()):
        levels, code = np.unique(values, return_inverse=True)
        factor.append(np.full(len(levels), f))
        mean = np.zeros(len(levels))
        if size is not None and name == group_factor:
            mean = tally(code, np.log(size), len(levels)) / np.bincount(code)
        trend.append(mean - mean.mean())
    return Kinds(np.concatenate(factor).astype(np.int64), np.concatenate(trend))


def _level_prior(
    sales: Floats, exposed: Floats, dispersion: Floats, group: Ints
) -> tuple[Floats, Floats]:
    """Shape and mean of the units' levels, by moments, per group."""
    groups = len(dispersion)
    weight = tally(group, exposed, groups)
    rate = np.maximum(tally(group, sales, groups), 0.5) / weight
    gap = sales / exposed - rate[group]
    between = tally(group, exposed * gap * gap, groups) - dispersion * rate * (
        np.bincount(group, minlength=groups) - 1.0
    )
    variance = between / np.maximum(
        weight - tally(group, exposed * exposed, groups) / weight, np.finfo(float).tiny
    )
    return rate * rate / np.maximum(variance, 1e-6 * rate * rate), rate


def _level_names(factor: str, values: Labels) -> Labels:
    return np.array([f"{factor}={value}" for value in values], dtype=object)


def _find(ordered: Labels, wanted: Labels) -> tuple[Ints, Bools]:
    """Where each wanted label stands, and whether it is there at all."""
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, np.asarray(ordered[at] == wanted, dtype=np.bool_)
