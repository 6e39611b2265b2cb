"""The optimism of a total: how much of a promised sum is due to the choice of the moves.

A price moves where its estimated elasticity makes the move look good, so the moves that are made
have errors that look like gains.  Averaged over all markets that the prior describes, shrinkage
corrects that exactly; in one market with few units, whose means and tau are what they are, it does
not, since the means of kinds and tau are estimated from the same few units (with 54 units promised
lifts were 1.17 of the true ones).

So the optimism is measured on copies of the market, by a parametric bootstrap (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 10; "optimism" as in Efron, JASA 1983):

    beta*_u ~ N(z_u' delta, tau^2)    a copy's elasticities, at the market's own estimates
    b*_u    ~ N(beta*_u, v_u)         the estimate from the unit's own weeks
    delta*, tau*                      estimated from b*, as in stage 1
    r*_u                              the price rule's, from the posterior of beta*_u

The sum of what r* promises less the sum of what it yields at beta*, averaged over copies, is the
optimism, as a share of the sum of the changes' absolute values.  `totals` subtracts that share of
its own changes: of volume, revenue and margin each.  Copies come in pairs with opposite errors,
which cancels most of their own chance.

The standard deviation of that difference between copies is the total's bootstrap standard error.
It includes three facts that the delta method of `totals` leaves out: the moves are chosen by the
same errors, omega and tau are estimated, and changes are not linear in the elasticities.

The share falls as units are added; beyond 2,000 units of a kind none is subtracted, and the query
(`queries/totals.sql`) sends sums in place of units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Columns, Floats, Labels
from tariffs.demand.design import design_of, effects_prior_of
from tariffs.demand.hyper import HyperPosterior, integrate
from tariffs.demand.pooling import MAX_GATE_SE, mean_variance
from tariffs.demand.prior import Prior
from tariffs.optimise.expected_volume import expected_log_change
from tariffs.optimise.rule import LEAST_ELASTIC, MOST_ELASTIC, Demand, Terms, changes, robust_ratio

PAIRS = 8  # of copies
SEED = 1
CHANGES = ("volume", "revenue", "margin")  # of `rule.changes`


@dataclass(frozen=True, slots=True)
class Market:
    """The units of one kind, as the price rule sees them; shape (units,).

    design    (units, columns)
    mean      z'delta
    variance  of the units' own estimates; infinite where they tell nothing about tau
    volume    at the current price, if the elasticity is beta
    centre    price at which the volume is the same for all elasticities
    """

    labels: dict[str, Labels]
    design: Floats
    mean: Floats
    variance: Floats
    terms: Terms
    lowest: Floats
    highest: Floats
    volume: Floats
    beta: Floats
    centre: Floats
    capacity: Floats

    @property
    def informed(self) -> Bools:
        return np.isfinite(self.variance)

    def demand(self, beta: Floats, sd: Floats) -> Demand:
        """Return the demand at an elasticity at the reference price."""
        current, reference = self.terms.current, self.terms.reference
        turned = np.exp((beta - self.beta) * (current - self.centre) / reference)
        ratio = current / reference
        return Demand(beta * ratio, sd * ratio, self.volume * turned, self.capacity)


@dataclass(frozen=True, slots=True)
class Optimism:
    """Of each of `CHANGES`, as shares of the sum of the absolute changes.

    share  the excess of the promised sum over the kept one
    error  the bootstrap standard error of the sum
    """

    share: dict[str, float]
    error: dict[str, float]


def optimism(rows: Columns, prior: Prior, labels: dict[str, Labels]) -> Optimism:
    """Return the optimism of a total; none where units are too many for copies.

    rows    one per unit (`queries/totals.sql`); if they are sums over several units, it is 0
    labels  of each row, by factor
    """
    none = Optimism(dict.fromkeys(CHANGES, 0.0), dict.fromkeys(CHANGES, 0.0))
    if np.any(np.asarray(rows["units"]) != 1):
        return none
    market = _market(rows, prior, labels)
    if not market.informed.any():
        return none
    rng = np.random.default_rng(SEED)
    excess, size = [], []
    for _ in range(PAIRS):
        truth, noise = rng.standard_normal((2, len(market.mean)))
        for sign in (1.0, -1.0):
            copy = _copy(market, prior, sign * truth, sign * noise)
            excess.append(copy[0] - copy[1])
            size.append(copy[2])
    usual = np.mean(size, axis=0)
    shares = np.divide(excess, usual, out=np.zeros((len(size), 3)), where=usual > 0)
    return Optimism(
        dict(zip(CHANGES, np.clip(shares.mean(axis=0), 0.0, 1.0).tolist(), strict=True)),
        dict(zip(CHANGES, shares.std(axis=0, ddof=1).tolist(), strict=True)),
    )


def _market(rows: Columns, prior: Prior, labels: dict[str, Labels]) -> Market:
    def column(name: str) -> Floats:
        return np.asarray(rows[name], dtype=np.float64)

    current, nothing = column("current_price"), np.zeros(len(rows["units"]))
    terms = Terms(
        current=current,
        reference=column("reference_price"),
        unit_cost=column("unit_cost"),
        tick=nothing + 1.0,
        floor=column("lowest"),
        ceiling=column("highest"),
        step=nothing,
        z=column("z"),
        added_cost=0.0 - column("usage_value"),
    )
    capacity = column("capacity")
    return Market(
        labels,
        design_of(labels),
        prior.mean(labels),
        own_variance(column("own"), prior),
        terms,
        np.minimum(column("lowest"), current),
        np.maximum(column("highest"), current),
        column("demanded"),
        column("beta"),
        column("centre_price"),
        np.where(np.isnan(capacity), np.inf, capacity),
    )


def own_variance(own: Floats, prior: Prior) -> Floats:
    """Return the variance of each unit's own estimate, from the prior's share of the information.

    It is infinite where stage 1 would not use the estimate.
    """
    known = own < 1.0
    variance = np.where(known, prior.tau2 * own / np.where(known, 1.0 - own, 1.0), np.inf)
    return np.where(variance < MAX_GATE_SE**2, variance, np.inf)


def _copy(
    market: Market, prior: Prior, truth: Floats, noise: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return a copy's promise, its yield, and the size of the promised changes; each (3,)."""
    beta = np.minimum(market.mean + np.sqrt(prior.tau2) * truth, LEAST_ELASTIC)
    informed = market.informed
    estimate = beta + np.sqrt(np.where(informed, market.variance, 0.0)) * noise
    size = market.terms.reference if prior.group_factor == "product" else None
    hyper = integrate(
        estimate[informed],
        market.variance[informed],
        market.design[informed],
        effects_prior_of(market.labels, prior.group_factor, size),
        approximate=True,
    )
    found, sd = posterior(estimate, market.variance, market.design, hyper)
    promised = market.demand(found, sd)
    kappa = market.terms.cost / market.terms.current
    price = np.clip(
        robust_ratio(promised, kappa, market.terms.z) * market.terms.current,
        market.lowest,
        market.highest,
    )
    beyond_mode = expected_log_change(price, market.terms.current, market.centre, promised.sd)
    promise = np.array(changes(price, market.terms, promised, beyond_mode))
    kept = np.array(changes(price, market.terms, market.demand(beta, sd)))
    return promise.sum(axis=1), kept.sum(axis=1), np.abs(promise).sum(axis=1)


def posterior(
    estimate: Floats, variance: Floats, design: Floats, hyper: HyperPosterior
) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of each elasticity, averaged over tau; (units,).

    An implausible one is replaced by the mean of its kind, as in `pricing.estimation`.
    """
    mean, spread = design @ hyper.delta, mean_variance(design, hyper.covariance)
    own = 1.0 / variance
    between = 1.0 / (hyper.tau * hyper.tau)[:, None]
    each = (own * estimate + between * mean) / (own + between)
    share = between / (own + between)
    found = hyper.weight @ each
    variances = 1.0 / (own + between) + share * share * spread + (each - found) ** 2
    sd = np.sqrt(hyper.weight @ variances)
    plausible = (found >= MOST_ELASTIC) & (found <= LEAST_ELASTIC)
    prior_sd = np.sqrt(hyper.weight @ hyper.tau**2 + spread)
    return (
        np.where(plausible, found, np.clip(mean, MOST_ELASTIC, LEAST_ELASTIC)),
        np.where(plausible, sd, prior_sd),
    )
