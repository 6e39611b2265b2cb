"""Where does the promise of a total differ from the truth? One cause after the other.

    python -m benchmarks.tariffs_promise [--markets 16] [--locations 200] [--seed 400000]

Generated markets of bundles whose hyperparameters are given instead of estimated (delta, tau, the
dispersion and the season of the generator), so that the choice among estimates of delta and tau
plays no part.  The units are priced by the shipped functions; then the sum of the changes of
margin, as a share of the true margin, is computed in five ways:

mode    elasticity and volume at the mode
fixed   its mean over the elasticity, with today's volume taken as known
joint   its mean over the elasticity and the volume that belongs to it (`expected_volume`: shipped)
grid    the same on a grid of elasticities, without a normal approximation
true    at the true elasticities and levels

and `mode, level` at the estimated volumes and the true elasticities: what is left of the mode's
error when every elasticity is right.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from benchmarks.tariffs_worlds import BUNDLES, Batch, Market, World, make
from tariffs.columns import Floats
from tariffs.demand.prior import Prior
from tariffs.synthetic import bundles as generator
from tariffs.synthetic import sizes

GRID_SD, GRID_POINTS = 5.0, 31
WAYS = ("mode", "fixed", "joint", "grid", "true", "mode, level")


def known(prior: Prior, seed: int, size: sizes.Size) -> Prior:
    """Return the prior with the generator's hyperparameters instead of estimated ones."""
    effect = {f"product={b.product}": b.elasticity for b in sizes.BUNDLES}
    effect |= {f"segment={name}": value for name, value in sizes.SEGMENTS.items()}
    effect |= {f"tier={name}": value for name, value in sizes.TIERS.items()}
    season = dict(zip(sizes.SEGMENTS, generator.bundle_season(seed, size), strict=True))
    return replace(
        prior.certain(generator.TAU**2),
        intercept=0.0,
        effects=np.array([effect[level] for level in prior.levels]),
        dispersion=np.full_like(prior.dispersion, generator.DISPERSION),
        inflation=np.ones_like(prior.inflation),
        gamma=np.concatenate([season[name] for name in prior.season_groups]),
    )


def promises(market: Market, prior: Prior) -> Floats:
    """Return the sum of the changes in each of WAYS, as shares of the true margin."""
    units, true = market.units(), market.true
    priced = market.kind.price(units, prior)
    price, current, cost, reference = (
        priced[name] for name in ("price", "current_price", "unit_cost", "reference_price")
    )
    now, new = current / reference - 1, price / reference - 1
    beta, sd = (priced[name] * reference / current for name in ("elasticity", "se"))
    subscribers = units["active_subs"][units.offsets[1:] - 1].astype(float)
    level = subscribers * np.exp(true["level"])

    def total(before: Floats, after: Floats) -> float:
        return float((after * (price - cost) - before * (current - cost)).sum())

    today = priced["volume"]
    at_mode = today * np.exp(beta * (new - now))
    before, after = on_a_grid(units, prior, priced, beta, sd)
    found = (
        total(today, at_mode),
        total(today, at_mode * np.exp(sd**2 * (new - now) ** 2 / 2)),
        float(priced["expected_margin_delta"].sum()),
        total(subscribers * before, subscribers * after),
        total(level * np.exp(true["beta"] * now), level * np.exp(true["beta"] * new)),
        total(today, today * np.exp(true["beta"] * (new - now))),
    )
    share: Floats = np.array(found) / (level * np.exp(true["beta"] * now) * (current - cost)).sum()
    return share


def on_a_grid(
    units: Batch, prior: Prior, priced: dict[str, np.ndarray], beta: Floats, sd: Floats
) -> tuple[Floats, Floats]:
    """Return the posterior mean of each unit's sales per subscriber, today and at its price."""
    starts, weeks = units.offsets[:-1], np.diff(units.offsets)
    labels = {name: units[name][starts] for name in ("product", "segment", "tier")}
    days = units["week"].astype("datetime64[D]").astype(np.int64)
    season = prior.season(labels["segment"], days, np.repeat(np.arange(len(weeks)), weeks))
    exposure = units["active_subs"] * np.exp(season)
    x = units["price"] / units["reference_price"] - 1
    sales, moment = (
        np.add.reduceat(values, starts)
        for values in (units["quantity"].astype(float), units["quantity"] * x)
    )
    shape, rate, noise = (
        prior.of_group(values, labels)
        for values in (prior.level_shape, prior.level_rate, prior.dispersion)
    )
    mean, logs, sold = prior.mean(labels), [], []
    for step in np.linspace(-GRID_SD, GRID_SD, GRID_POINTS):
        at = beta + step * sd
        exposed = np.add.reduceat(exposure * np.exp(np.repeat(at, weeks) * x), starts)
        logs.append(
            (at * moment - sales * np.log(exposed)) / noise - (at - mean) ** 2 / (2 * prior.tau2)
        )
        level = (shape + sales / noise) / (shape / rate + exposed / noise)
        sold.append(
            [
                level * np.exp(at * (priced[name] / priced["reference_price"] - 1))
                for name in ("current_price", "price")
            ]
        )
    weight = np.exp(np.array(logs) - np.max(logs, axis=0))
    weight /= weight.sum(axis=0)
    before, after = np.einsum("gu,gpu->pu", weight, np.array(sold))
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markets", type=int, default=16)
    parser.add_argument("--locations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=400_000)
    asked = parser.parse_args()
    size = replace(sizes.SIZES["demo"], locations=asked.locations, weeks=26, cells=1)
    found, prior = [], None
    for seed in range(asked.seed, asked.seed + asked.markets):
        market = make(World(asked.locations), seed)
        assert market.kind is BUNDLES
        prior = market.prior() if prior is None else prior  # its levels; all else is replaced
        found.append(promises(market, known(prior, seed, size)))
    each = np.array(found)
    excess = each - each[:, [WAYS.index("true")]]
    print("| way | lift | beyond the true one | standard error |", "|---|---|---|---|", sep="\n")
    for way, lift, beyond in zip(WAYS, each.T, excess.T, strict=True):
        error = beyond.std(ddof=1) / np.sqrt(len(beyond)) if len(beyond) > 1 else np.nan
        print(f"| {way} | {lift.mean():.3%} | {beyond.mean():+.3%} | {error:.3%} |")


if __name__ == "__main__":
    main()
