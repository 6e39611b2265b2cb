"""Do a voice unit's elasticity and its level go together, and does the promise suffer from it?

    python -m benchmarks.tariffs_levels [--markets 10] [--seed 440000] [NAME ...]

For markets of `tariffs_worlds` NAME (full cells, if left out), by the load of the hour at today's
price (expected minutes over capacity):

units     mean number of units in a market
error     mean error of their elasticities (positive: found less elastic than they are)
promised  change of margin, as a share of the market's true margin
true      the same at the true elasticities and levels
elastic   the same at the true elasticities and the estimated levels: where this is `true`, the
          levels are right, and the errors of the elasticities are what is promised too much
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.tariffs_worlds import WORLDS, make
from tariffs.columns import Floats
from tariffs.pricing.joint import capacity_of

LOADS = (0.0, 0.5, 0.8, 1.0, np.inf)  # bounds of the groups
COLUMNS = ("units", "error", "promised", "true", "elastic")


def by_load(name: str, seed: int) -> Floats:
    """Return COLUMNS of each group, and of all units in the last row."""
    market = make(WORLDS[name], seed)
    prior, units, true = market.prior(), market.units(), market.true
    priced = market.kind.price(units, prior)
    current, price, cost = (priced[n] for n in ("current_price", "price", "unit_cost"))
    room, reference = capacity_of(priced), priced["reference_price"]
    level = units["active_subs"][units.offsets[1:] - 1] * np.exp(true["level"])

    def at(where: Floats) -> Floats:
        asked: Floats = level * np.exp(true["beta"] * (where / reference - 1))
        return asked

    def gain(before: Floats, after: Floats) -> Floats:
        new, old = np.minimum(after, room), np.minimum(before, room)
        return np.asarray(new * (price - cost) - old * (current - cost))

    today = priced["volume"]
    each = (
        np.ones(len(current)),
        priced["beta"] - true["beta"],
        priced["expected_margin_delta"],
        gain(at(current), at(price)),
        gain(today, today * np.exp(true["beta"] * (price - current) / reference)),
    )
    margin = float((np.minimum(at(current), room) * (current - cost)).sum())
    load = np.digitize(today / room, LOADS) - 1
    rows = []
    for group in (*range(len(LOADS) - 1), None):
        here = np.ones(len(load), dtype=np.bool_) if group is None else load == group
        sums = np.array([values[here].sum() for values in each])
        rows.append(sums / [1.0, max(sums[0], 1.0), margin, margin, margin])
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["voice 960 full"], metavar="NAME")
    parser.add_argument("--markets", type=int, default=10)
    parser.add_argument("--seed", type=int, default=440_000)
    asked = parser.parse_args()
    groups = ["below 50 %", "50 to 80 %", "80 to 100 %", "full", "all"]
    print(f"| world | load | {' | '.join(COLUMNS)} |", "|---" * 7 + "|", sep="\n")
    for name in asked.names:
        seeds = range(asked.seed, asked.seed + asked.markets)
        found = np.mean([by_load(name, seed) for seed in seeds], axis=0)
        for group, (count, error, *shares) in zip(groups, found, strict=True):
            cells = " | ".join(f"{share:+.2%}" for share in shares)
            print(f"| {name} | {group} | {count:.0f} | {error:+.3f} | {cells} |")


if __name__ == "__main__":
    main()
