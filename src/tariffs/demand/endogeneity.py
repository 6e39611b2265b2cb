"""Prices that answer to demand: found by what was priced by chance, and taken out.

Whoever sets prices may know what the season does not tell: a festival in town, a competitor's failure.  Then demand and price rise
together, and customers seem to mind the price less than they do.  Logged exploration is free of that.  The control function (two-stage
residual inclusion; Terza, Basu and Rathouz 2008; Wooldridge 2015) splits each week's price in two,

    x~ = pi trial~ + v,        log mu = log E + gamma + alpha_u + beta_u x + rho v        (~ : less the unit's mean)

and rho takes what demand and the chosen part v have in common.  rho = 0 says that prices are exogenous, and can be tested: its standard
error lets all weeks of a cluster (a location, a cell) move together, and knows that pi is an estimate too.

The test is told to the pricing team; it does not switch anything.  What is taken out is rho's posterior mean under a spike and a slab (Mitchell and
Beauchamp 1988): most pricing teams foresee nothing, rho = 0; one in five does, and then rho is N(0, 0.25^2).  The odds that it does are the prior odds times the Bayes
factor

    N(rho; 0, se^2 + 0.25^2) / N(rho; 0, se^2)

so that a small country, whose trials tell little, keeps its prices as they are, while the bias goes where much was explored.  A slab alone took half of a chance estimate
out of innocent prices, and a switch at p < 0.05 leaves all of the bias just short of it (`benchmarks/tariffs_honest.py` compares the rules).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints
from tariffs.demand.panel import Panel, tally
from tariffs.demand.season import Season, expect, fit_season, within_unit

LEVEL = 0.05  # of the test
USUAL = 0.25  # standard deviation of rho where prices foresee demand: how far foresight moves elasticities
CHANCE = 0.2  # that they do, a priori
FEWEST_CLUSTERS = 8
FEWEST_TRIALS = 100
PASSES = 200
PARTIAL_TOLERANCE = 1e-9

NOT_TESTED, EXOGENOUS, ENDOGENOUS = "NOT_TESTED", "EXOGENOUS", "ENDOGENOUS"


@dataclass(frozen=True, slots=True)
class Exogeneity:
    """What logged exploration says of the prices.

    verdict   NOT_TESTED (nothing logged, or too little: fewer than 100 trials, or 8 clusters), EXOGENOUS, or ENDOGENOUS (rho = 0 is rejected)
    pi        first stage: the price's answer to a trial
    rho, se   the control's coefficient, and its standard error by clusters;  p of the test that it is zero
    trials    the share of weeks whose price was part chance
    """

    verdict: str
    pi: float
    rho: float
    se: float
    p: float
    trials: float

    @property
    def chance(self) -> float:
        """The posterior probability that prices foresee demand at all; 0 if not tested."""
        if self.verdict == NOT_TESTED:
            return 0.0
        apart = USUAL**2 / (USUAL**2 + self.se**2)
        log_factor = 0.5 * (math.log1p(-apart) + (self.rho / self.se) ** 2 * apart)
        return 1.0 / (1.0 + (1.0 - CHANCE) / CHANCE * math.exp(-min(log_factor, 700.0)))

    @property
    def used(self) -> float:
        """The rho that is taken out: its posterior mean; 0 if not tested."""
        return self.chance * self._if_foreseen

    @property
    def variance(self) -> float:
        """What that adds to the variance of every elasticity, its posterior variance: rho's error is beta's, with the sign turned."""
        if self.verdict == NOT_TESTED:
            return 0.0
        within = (USUAL * self.se) ** 2 / (USUAL**2 + self.se**2)
        return self.chance * within + self.chance * (1.0 - self.chance) * self._if_foreseen**2

    @property
    def _if_foreseen(self) -> float:
        return self.rho * USUAL**2 / (USUAL**2 + self.se**2) if self.verdict != NOT_TESTED else 0.0


NOTHING_LOGGED = Exogeneity(NOT_TESTED, 0.0, 0.0, 0.0, 1.0, 0.0)


def examine(panel: Panel, group: Ints, cell: Ints, periods: int, cluster: Ints) -> Exogeneity:
    """Fit rho along with the season and the groups' elasticities, and test it.  cluster (units,) 0, 1, 2, ..."""
    explored = 0 if panel.trial is None else int(np.count_nonzero(panel.trial))
    share = explored / len(panel.unit)
    pi = first_stage(panel)
    if explored < FEWEST_TRIALS or int(cluster.max()) + 1 < FEWEST_CLUSTERS or pi == 0.0:
        return Exogeneity(NOT_TESTED, pi, 0.0, 0.0, 1.0, share)
    control = chosen(panel, pi)
    season = fit_season(panel, group, cell, periods, control)
    se = clustered_error(
        panel.seasonal(season.gamma[cell] + season.rho * control),
        season,
        group,
        cell,
        control,
        pi,
        cluster,
    )
    p = two_sided(season.rho / se, int(cluster.max()))
    return Exogeneity(ENDOGENOUS if p < LEVEL else EXOGENOUS, pi, season.rho, se, p, share)


def first_stage(panel: Panel) -> float:
    """pi: least squares of the price on the trial, both less their unit's mean; 0 where no trial varies."""
    if panel.trial is None:
        return 0.0
    trial = _demeaned(panel, panel.trial)
    square = float(np.sum(trial * trial))
    return float(np.sum(trial * panel.x)) / square if square > 0 else 0.0


def chosen(panel: Panel, pi: float) -> Floats:
    """v: the part of the price, less its unit's mean, that was no trial.  Shape (rows,)."""
    if panel.trial is None:
        return _demeaned(panel, panel.x)
    return _demeaned(panel, panel.x) - pi * _demeaned(panel, panel.trial)


def without_foresight(panel: Panel, pi: float, rho: float) -> Panel:
    """The panel with e^(rho v) in its exposure; untouched where rho is zero."""
    return panel.seasonal(rho * chosen(panel, pi)) if rho != 0.0 else panel


def two_sided(t: float, freedom: int) -> float:
    """P(|T| > |t|) for Student's t, by Wallace's (1959) normal approximation: good to three digits from four degrees of freedom on."""
    z = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
    return math.erfc(z / math.sqrt(2.0))


def clustered_error(
    panel: Panel, season: Season, group: Ints, cell: Ints, control: Floats, pi: float, cluster: Ints
) -> float:
    """The standard error of a control's coefficient: the sandwich over clusters (units,); `panel` has the season and the control in its exposure.

    The control, less all that the other parameters can explain of it, gives rho's own score and information.  pi's error
    moves the control by -trial~ and so rho by the second term (stacked moment conditions; Newey and McFadden 1994, 6.1).
    """
    mu = expect(panel, season.beta[group])
    own = _partialled(panel, control, mu, group, cell)
    residual = panel.quantity - mu
    information = float(np.sum(mu * own * control))
    clusters = int(cluster.max()) + 1
    influence = tally(cluster, panel.sums(own * residual), clusters)
    if panel.trial is not None:
        trial = _demeaned(panel, panel.trial)
        missed = _demeaned(panel, panel.x) - pi * trial
        moved = season.rho * float(np.sum(mu * own * trial)) - float(
            np.sum(within_unit(panel, trial, mu) * residual)
        )
        influence = influence + moved / float(np.sum(trial * trial)) * tally(
            cluster, panel.sums(trial * missed), clusters
        )
    return math.sqrt(float(np.sum(influence * influence)) * clusters / (clusters - 1)) / information


def _partialled(panel: Panel, values: Floats, mu: Floats, group: Ints, cell: Ints) -> Floats:
    """`values` less their mu-weighted projection on units, season cells and the groups' prices, by alternating projections."""
    groups, row_group = int(group.max()) + 1, group[panel.unit]
    x, left = within_unit(panel, panel.x, mu), values
    square, weight = tally(row_group, mu * x * x, groups), tally(cell, mu, int(cell.max()) + 1)
    for _ in range(PASSES):
        before = left
        left = within_unit(panel, left, mu)
        slope = np.divide(
            tally(row_group, mu * x * left, groups), square, out=np.zeros(groups), where=square > 0
        )
        left = left - slope[row_group] * x
        mean = np.divide(
            tally(cell, mu * left, len(weight)), weight, out=np.zeros(len(weight)), where=weight > 0
        )
        left = left - mean[cell]
        if np.abs(left - before).max() < PARTIAL_TOLERANCE:
            break
    return within_unit(panel, left, mu)


def _demeaned(panel: Panel, values: Floats) -> Floats:
    return np.asarray(values - (panel.sums(values) / panel.sizes)[panel.unit])
