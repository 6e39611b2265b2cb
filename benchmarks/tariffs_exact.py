"""How often do few intervals of a market hold although the method is exactly calibrated?

    python -m benchmarks.tariffs_exact [--markets N] [--seed FIRST]

The intervals of one market share the uncertainty of delta and tau, so the fraction of them that
hold varies more between markets than that of independent intervals.  Here that fraction is measured
for a method that is calibrated by construction: delta, omega and tau are drawn from the estimator's
own prior, the elasticities from N(z'delta, tau2), the units' own estimates around these with the
variances that units of a generated market have, and the intervals are the 5 % and 95 % quantiles of
the exact posterior, a mixture over all that was drawn from.  There is no season, no noise to be
estimated, and no approximation.  A second row has the intervals of the shipped approximation
(`tariffs.demand.hyper`) in the same markets: its Gauss nodes, and 1.645 standard deviations.

mean, sd, least  of the fraction that holds, over the markets
below 0.75       the fraction of markets in which fewer than three in four hold
in 20, in 40     the probability that at least one of 20 or 40 markets is below 0.75
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product

import numpy as np

from benchmarks.tariffs_worlds import WORLDS, make
from tariffs.columns import Floats
from tariffs.demand import hyper
from tariffs.demand.design import design_of, effects_prior_of
from tariffs.demand.pooling import MAX_GATE_SE
from tariffs.optimise.rule import COVERAGE_90, normal_cdf
from tariffs.pricing.optimism import own_variance, posterior

TAU_POINTS, OMEGA_POINTS = 15, 8
TAU_SPREAD = 3.0  # standard deviations of log tau that its grid reaches
LEAST_FRACTION = 0.75  # that is to hold in every market
INTERVAL = (0.05, 0.95)
UNINFORMATIVE = 1e6  # the variance of an estimate of a unit that was sold at one price


@dataclass(frozen=True, slots=True)
class Grid:
    """All that the units share, drawn from this grid, so that the posterior over it is exact.

    tau, log_weight  (nodes,) and the log of the prior probability of each node
    precision        (nodes, columns, columns) the inverse of delta's prior covariance
    """

    tau: Floats
    log_weight: Floats
    precision: Floats


def make_grid(effects: hyper.EffectsPrior) -> Grid:
    """Return every pair of a tau and an omega per factor, with their prior probabilities."""
    score = np.linspace(-TAU_SPREAD, TAU_SPREAD, TAU_POINTS)
    tau = hyper.TAU_MEDIAN * np.exp(hyper.TAU_LOG_SD * score)
    quantile = (np.arange(OMEGA_POINTS) + 0.5) / OMEGA_POINTS
    omega = -np.log1p(-quantile) / hyper.OMEGA_RATE
    pairs = product(omega.tolist(), repeat=effects.factors)
    each = np.array([effects.precision(np.array(pair)) for pair in pairs])
    return Grid(
        np.repeat(tau, len(each)),
        np.repeat(-0.5 * score * score, len(each)),
        np.tile(each, (TAU_POINTS, 1, 1)),
    )


def fractions_held(
    rng: np.random.Generator,
    grid: Grid,
    effects: hyper.EffectsPrior,
    design: Floats,
    variance: Floats,
) -> tuple[float, float]:
    """Return the fractions of one market's elasticities within their 90 % intervals.

    The first is of the exact posterior, the second of the shipped approximation.

    design (units, columns); variance (units,), of the units' own estimates
    """
    share = np.exp(grid.log_weight - grid.log_weight.max())
    node = rng.choice(len(share), p=share / share.sum())
    delta = rng.multivariate_normal(
        np.eye(design.shape[1])[0] * hyper.INTERCEPT_MEAN, np.linalg.inv(grid.precision[node])
    )
    beta = design @ delta + grid.tau[node] * rng.standard_normal(len(design))
    estimate = beta + np.sqrt(variance) * rng.standard_normal(len(design))
    below = posterior_probability(beta, estimate, grid, design, variance)
    exact = (below >= INTERVAL[0]) & (below <= INTERVAL[1])
    known = variance < MAX_GATE_SE**2
    found = hyper.integrate(estimate[known], variance[known], design[known], effects)
    middle, sd = posterior(estimate, variance, design, found)
    return float(exact.mean()), float(np.mean(np.abs(middle - beta) <= COVERAGE_90 * sd))


def posterior_probability(
    beta: Floats, estimate: Floats, grid: Grid, design: Floats, variance: Floats
) -> Floats:
    """Return P(elasticity <= beta | estimates) of each unit, exact over the grid; (units,)."""
    weight = 1.0 / (variance + grid.tau[:, None] ** 2)  # (nodes, units)
    normal = np.einsum("ku,ui,uj->kij", weight, design, design, optimize=True) + grid.precision
    moment = (weight * estimate) @ design + grid.precision[:, :, 0] * hyper.INTERCEPT_MEAN
    covariance = np.linalg.inv(normal)
    delta = np.einsum("kij,kj->ki", covariance, moment)
    squares = weight @ estimate**2 + grid.precision[:, 0, 0] * hyper.INTERCEPT_MEAN**2
    squares = squares - np.sum(moment * delta, axis=1)
    density = grid.log_weight + 0.5 * (
        np.log(weight).sum(axis=1)
        + np.linalg.slogdet(grid.precision)[1]
        - np.linalg.slogdet(normal)[1]
        - squares
    )
    share = np.exp(density - density.max())
    share /= share.sum()
    prior_share = variance * weight  # B, of each unit at each node
    mean = prior_share * (delta @ design.T) + (1.0 - prior_share) * estimate
    spread = np.einsum("ui,kij,uj->ku", design, covariance, design, optimize=True)
    sd = np.sqrt((1.0 - prior_share) * variance + prior_share**2 * spread)
    return np.asarray(share @ normal_cdf((beta - mean) / sd))


def units_of(seed: int) -> tuple[hyper.EffectsPrior, Floats, Floats]:
    """Return the effects' prior, the design, and the variances of the own estimates of a market."""
    market = make(WORLDS["54"], seed)
    units, prior = market.units(), market.prior()
    priced = market.kind.price(units, prior)
    labels = {name: units[name][units.offsets[:-1]] for name in ("product", "segment")}
    size = priced["reference_price"]
    variance = np.minimum(own_variance(priced["shrink_weight"], prior), UNINFORMATIVE)
    return effects_prior_of(labels, "product", size), design_of(labels), variance


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markets", type=int, default=400, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="FIRST")
    asked = parser.parse_args()
    effects, design, variance = units_of(asked.seed)
    grid = make_grid(effects)
    rng = np.random.default_rng(asked.seed)
    held = np.array(
        [fractions_held(rng, grid, effects, design, variance) for _ in range(asked.markets)]
    )
    print("| intervals | markets | mean | sd | least | below 0.75 | in 20 | in 40 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, each in zip(("exact", "shipped"), held.T, strict=True):
        low = float(np.mean(each < LEAST_FRACTION))
        print(
            f"| {name} | {len(each)} | {each.mean():.3f} | {each.std():.3f} | {each.min():.3f}"
            f" | {low:.1%} | {1 - (1 - low) ** 20:.0%} | {1 - (1 - low) ** 40:.0%} |"
        )


if __name__ == "__main__":
    main()
