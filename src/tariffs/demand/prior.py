"""Stage 1 as a whole: from all units' weeks to the few kilobytes that every unit is then fitted with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tariffs.demand.conditional import fit_units
from tariffs.demand.hierarchy import SecondLevel, paule_mandel, refine
from tariffs.demand.panel import Panel, tally
from tariffs.demand.season import fit_dispersion, fit_inflation, fit_season, scores
from tariffs.rows import Bools, Floats, Ints, Labels

GATE_SE = 2.0  # a first estimate less certain than this says nothing about tau2, and on real data would blow it up
EM_STEPS = 2
SMALLEST_TAU2 = 1e-6  # no variance seen between units: fit them as pooled, but keep the problem strictly concave


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
        return self.of_group(self.dispersion * self.inflation, labels)

    def season(self, group: Labels, days: Ints, unit: Ints) -> Floats:
        """gamma for each row: `group` (units,), `days` and `unit` (rows,); 0 where the prior knows no such week."""
        at, known = _find(self.season_groups, group)
        when = np.minimum(np.searchsorted(self.periods, days), len(self.periods) - 1)
        found = known[unit] & (self.periods[when] == days)
        return np.where(found, self.gamma[at[unit] * len(self.periods) + when], 0.0)


def pool(panel: Panel, factors: Mapping[str, Labels], group_factor: str, season_group: Labels, days: Ints) -> Prior:
    """Fit the prior.  factors: names -> (units,); season_group (units,); days (rows,) since 1970-01-01; exposure without a season.

    1 season and group elasticities; 2 dispersion around them; 3 one-step estimates, Paule-Mandel; 4 dispersion and serial inflation around
    the units' own fits (around the groups' elasticities, the units' differences would pass for correlation, and tau2 come
    out too small); 3 again, from the units' own prior means, where the steps are short; 5 two EM steps.
    """
    groups, group = np.unique(factors[group_factor], return_inverse=True)
    seasons, season_of_unit = np.unique(season_group, return_inverse=True)
    periods, when = np.unique(days, return_inverse=True)
    cell = season_of_unit[panel.unit] * len(periods) + when
    season = fit_season(panel, group, cell, len(periods))
    seasonal = panel.seasonal(season.gamma[cell])

    levels, design = _design(factors)
    rank = 1 + sum(len(np.unique(values)) - 1 for values in factors.values())
    dispersion = fit_dispersion(seasonal, season.beta[group], np.zeros(panel.units), group)
    second, _ = _second_level(seasonal, season.beta[group], dispersion[group], design, rank)
    fit = fit_units(seasonal, design @ second.delta, _positive(second.tau2), dispersion[group])
    dispersion = fit_dispersion(seasonal, fit.beta, 1.0 - fit.shrink, group)
    inflation = fit_inflation(seasonal, fit.beta, fit.sd, dispersion, group)
    noise = (dispersion * inflation)[group]
    second, gate = _second_level(seasonal, design @ second.delta, noise, design, rank)
    for _ in range(EM_STEPS if second.tau2 > 0 else 0):
        fit = fit_units(seasonal, design @ second.delta, second.tau2, noise)
        second = refine(fit.beta[gate], fit.sd[gate], design[gate], second)
    fit = fit_units(seasonal, design @ second.delta, _positive(second.tau2), noise)
    shape, rate = _level_prior(panel.sums(panel.quantity), fit.exposed, dispersion, group)
    order = np.argsort(levels)
    return Prior(
        intercept=float(second.delta[0]), levels=levels[order], effects=second.delta[1:][order], tau2=_positive(second.tau2),
        group_factor=group_factor, groups=groups, dispersion=dispersion, inflation=inflation,
        level_shape=shape, level_rate=rate, season_groups=seasons, periods=periods, gamma=season.gamma,
        group_beta=season.beta, units=panel.units, gated=int(gate.sum()),
    )  # fmt: skip


def expected_level(prior: Prior, labels: Mapping[str, Labels], sales: Floats, exposed: Floats) -> Floats:
    """Posterior mean of e^alpha: (a + Y/phi) / (a/rate + W/phi)  (Gamma-Poisson; Clayton and Kaldor 1987).  Shape (units,)."""
    shape, rate = prior.of_group(prior.level_shape, labels), prior.of_group(prior.level_rate, labels)
    dispersion = prior.of_group(prior.dispersion, labels)
    return (shape + sales / dispersion) / (shape / rate + exposed / dispersion)


def _second_level(panel: Panel, around: Floats, noise: Floats, design: Floats, rank: int) -> tuple[SecondLevel, Bools]:
    """Each unit's one-step estimate from `around` (finite even where the maximum of the likelihood is not), gated, then pooled."""
    score, information = scores(panel, around)
    variance = np.divide(noise, information, out=np.full(panel.units, np.inf), where=information > 0)
    gate = variance < GATE_SE**2
    if not gate.any():
        raise ValueError(f"none of {panel.units} units tells its elasticity within a standard error of {GATE_SE}: no prior can be learnt")
    estimate = around[gate] + score[gate] / information[gate]
    return paule_mandel(estimate, variance[gate], design[gate], rank), gate


def _design(factors: Mapping[str, Labels]) -> tuple[Labels, Floats]:
    """Level names (columns - 1,) and the dummies behind an intercept (units, columns); all levels stay: the ridge identifies them."""
    units = len(next(iter(factors.values())))
    names, blocks = [], [np.ones((units, 1))]
    for factor, values in factors.items():
        levels, code = np.unique(values, return_inverse=True)
        names.append(_level_names(factor, levels))
        blocks.append((code[:, None] == np.arange(len(levels))).astype(np.float64))
    return np.concatenate(names), np.hstack(blocks)


def _level_prior(sales: Floats, exposed: Floats, dispersion: Floats, group: Ints) -> tuple[Floats, Floats]:
    """Shape and mean of the units' levels, by moments, per group."""
    groups = len(dispersion)
    weight = tally(group, exposed, groups)
    rate = np.maximum(tally(group, sales, groups), 0.5) / weight
    gap = sales / exposed - rate[group]
    between = tally(group, exposed * gap * gap, groups) - dispersion * rate * (np.bincount(group, minlength=groups) - 1.0)
    variance = between / np.maximum(weight - tally(group, exposed * exposed, groups) / weight, np.finfo(float).tiny)
    return rate * rate / np.maximum(variance, 1e-6 * rate * rate), rate


def _positive(tau2: float) -> float:
    return max(tau2, SMALLEST_TAU2)


def _level_names(factor: str, values: Labels) -> Labels:
    return np.array([f"{factor}={value}" for value in values], dtype=object)


def _find(ordered: Labels, wanted: Labels) -> tuple[Ints, Bools]:
    """Where each wanted label stands, and whether it is there at all."""
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, np.asarray(ordered[at] == wanted, dtype=np.bool_)
