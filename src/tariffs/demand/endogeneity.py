"""Endogenous prices: the control function, its test, and its correction.

The person who sets prices may know more than the season shows: a festival in town, a competitor's
failure.  Then demand and price rise together, and customers seem less price-sensitive than they
are.  Logged exploration is free of that.  The control function (two-stage residual inclusion;
Terza, Basu and Rathouz 2008; Wooldridge 2015) splits each week's price in two (~ : minus the unit's
mean),

    x~ = pi trial~ + v,        log mu = log E + gamma + alpha_u + beta_u x + rho v

and rho captures the correlation of demand with v, the chosen part of the price.  rho = 0 means that
prices are exogenous, and can be tested: its standard error is clustered (by location or cell) and
includes the uncertainty of pi.

The test is reported to the pricing team; it switches nothing.  The correction uses rho's posterior
mean under a spike and a slab (Mitchell and Beauchamp 1988): most pricing teams foresee nothing,
rho = 0; one in five does, and then rho is N(0, 0.25^2).  The posterior odds of foresight are the
prior odds times the Bayes factor

    N(rho; 0, se^2 + 0.25^2) / N(rho; 0, se^2)

so that a small country, whose trials contain little information, keeps its estimates, while the
bias is removed where much was explored.  A slab alone subtracted half of a chance estimate from
exogenous prices, and a switch at p < 0.05 leaves all of the bias just short of it
(`benchmarks/tariffs_honest.py` compares the rules).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints
from tariffs.demand.panel import Panel, group_sums
from tariffs.demand.season import Season, expected_sales, fit_season, within_unit

SIGNIFICANCE_LEVEL = 0.05
RHO_SD = 0.25  # prior standard deviation of rho, given foresight
FORESIGHT_PROBABILITY = 0.2  # a priori
MIN_CLUSTERS = 8
MIN_TRIALS = 100
MAX_PROJECTION_PASSES = 200
PARTIAL_TOLERANCE = 1e-9

NOT_TESTED, EXOGENOUS, ENDOGENOUS = "NOT_TESTED", "EXOGENOUS", "ENDOGENOUS"


@dataclass(frozen=True, slots=True)
class Exogeneity:
    """The result of the exogeneity test.

    verdict   NOT_TESTED (fewer than 100 trials, or 8 clusters), EXOGENOUS, or ENDOGENOUS (rho = 0
              is rejected)
    pi        first stage: the price's response to a trial
    rho, se   the control's coefficient, and its clustered standard error
    p         of the test of rho = 0
    trials    the fraction of weeks with a logged trial
    """

    verdict: str
    pi: float
    rho: float
    se: float
    p: float
    trials: float

    @property
    def foresight_probability(self) -> float:
        """The posterior probability that prices foresee demand; 0 if not tested."""
        if self.verdict == NOT_TESTED:
            return 0.0
        apart = RHO_SD**2 / (RHO_SD**2 + self.se**2)
        log_factor = 0.5 * (math.log1p(-apart) + (self.rho / self.se) ** 2 * apart)
        return 1.0 / (
            1.0
            + (1.0 - FORESIGHT_PROBABILITY)
            / FORESIGHT_PROBABILITY
            * math.exp(-min(log_factor, 700.0))
        )

    @property
    def rho_used(self) -> float:
        """The posterior mean of rho, which the correction uses; 0 if not tested."""
        return self.foresight_probability * self._rho_if_foreseen

    @property
    def variance(self) -> float:
        """The posterior variance of rho, which is added to that of every elasticity.

        An error of rho is an error of beta with the opposite sign.
        """
        if self.verdict == NOT_TESTED:
            return 0.0
        within = (RHO_SD * self.se) ** 2 / (RHO_SD**2 + self.se**2)
        return (
            self.foresight_probability * within
            + self.foresight_probability
            * (1.0 - self.foresight_probability)
            * self._rho_if_foreseen**2
        )

    @property
    def _rho_if_foreseen(self) -> float:
        return (
            self.rho * RHO_SD**2 / (RHO_SD**2 + self.se**2) if self.verdict != NOT_TESTED else 0.0
        )


NO_TRIALS = Exogeneity(NOT_TESTED, 0.0, 0.0, 0.0, 1.0, 0.0)


def assess_exogeneity(
    panel: Panel, group: Ints, cell: Ints, periods: int, cluster: Ints
) -> Exogeneity:
    """Estimate rho with the season and the groups' elasticities, and test it.

    cluster (units,): 0, 1, 2, ...
    """
    explored = 0 if panel.trial is None else int(np.count_nonzero(panel.trial))
    share = explored / len(panel.unit)
    pi = first_stage(panel)
    if explored < MIN_TRIALS or int(cluster.max()) + 1 < MIN_CLUSTERS or pi == 0.0:
        return Exogeneity(NOT_TESTED, pi, 0.0, 0.0, 1.0, share)
    control = chosen_price_part(panel, pi)
    season = fit_season(panel, group, cell, periods, control)
    se = clustered_error(
        panel.with_season(season.gamma[cell] + season.rho * control),
        season,
        group,
        cell,
        control,
        pi,
        cluster,
    )
    p = two_sided(season.rho / se, int(cluster.max()))
    return Exogeneity(
        ENDOGENOUS if p < SIGNIFICANCE_LEVEL else EXOGENOUS, pi, season.rho, se, p, share
    )


def first_stage(panel: Panel) -> float:
    """Return pi: least squares of the price on the trial, both minus their unit's mean.

    It is 0 if no trial varies.
    """
    if panel.trial is None:
        return 0.0
    trial = _demeaned(panel, panel.trial)
    square = float(np.sum(trial * trial))
    return float(np.sum(trial * panel.x)) / square if square > 0 else 0.0


def chosen_price_part(panel: Panel, pi: float) -> Floats:
    """Return v: the part of the price, minus its unit's mean, that was no trial; (rows,)."""
    if panel.trial is None:
        return _demeaned(panel, panel.x)
    return _demeaned(panel, panel.x) - pi * _demeaned(panel, panel.trial)


def remove_foresight(panel: Panel, pi: float, rho: float) -> Panel:
    """Return the panel with e^(rho v) in its exposure; unchanged if rho is zero."""
    return panel.with_season(rho * chosen_price_part(panel, pi)) if rho != 0.0 else panel


def two_sided(t: float, freedom: int) -> float:
    """Return P(|T| > |t|) for Student's t, by Wallace's (1959) normal approximation.

    It is accurate to three digits from four degrees of freedom on.
    """
    z = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
    return math.erfc(z / math.sqrt(2.0))


def clustered_error(
    panel: Panel, season: Season, group: Ints, cell: Ints, control: Floats, pi: float, cluster: Ints
) -> float:
    """Return the standard error of a control's coefficient, clustered: the sandwich estimator.

    `panel` has the season and the control in its exposure; cluster (units,).  The control, minus
    its projection on the other parameters, gives rho's own score and information.  An error of pi
    changes the control by -trial~ and so rho by the second term (stacked moment conditions; Newey
    and McFadden 1994, 6.1).
    """
    mu = expected_sales(panel, season.beta[group])
    own = _partialled(panel, control, mu, group, cell)
    residual = panel.quantity - mu
    information = float(np.sum(mu * own * control))
    clusters = int(cluster.max()) + 1
    influence = group_sums(cluster, panel.sums(own * residual), clusters)
    if panel.trial is not None:
        trial = _demeaned(panel, panel.trial)
        missed = _demeaned(panel, panel.x) - pi * trial
        moved = season.rho * float(np.sum(mu * own * trial)) - float(
            np.sum(within_unit(panel, trial, mu) * residual)
        )
        influence = influence + moved / float(np.sum(trial * trial)) * group_sums(
            cluster, panel.sums(trial * missed), clusters
        )
    return math.sqrt(float(np.sum(influence * influence)) * clusters / (clusters - 1)) / information


def _partialled(panel: Panel, values: Floats, mu: Floats, group: Ints, cell: Ints) -> Floats:
    """Return `values` minus their mu-weighted projection on the other parameters.

    These are units, season cells and the groups' prices; by alternating projections.
    """
    groups, row_group = int(group.max()) + 1, group[panel.unit]
    x, left = within_unit(panel, panel.x, mu), values
    square, weight = (
        group_sums(row_group, mu * x * x, groups),
        group_sums(cell, mu, int(cell.max()) + 1),
    )
    for _ in range(MAX_PROJECTION_PASSES):
        before = left
        left = within_unit(panel, left, mu)
        slope = np.divide(
            group_sums(row_group, mu * x * left, groups),
            square,
            out=np.zeros(groups),
            where=square > 0,
        )
        left = left - slope[row_group] * x
        mean = np.divide(
            group_sums(cell, mu * left, len(weight)),
            weight,
            out=np.zeros(len(weight)),
            where=weight > 0,
        )
        left = left - mean[cell]
        if np.abs(left - before).max() < PARTIAL_TOLERANCE:
            break
    return within_unit(panel, left, mu)


def _demeaned(panel: Panel, values: Floats) -> Floats:
    return np.asarray(values - (panel.sums(values) / panel.sizes)[panel.unit])
