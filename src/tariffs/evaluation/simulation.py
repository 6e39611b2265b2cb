"""A simulated year: the operator asks for prices, customers respond, the model learns, and so on.

Each policy runs separately from the same start: no move (hold), every expected gain (plug-in: z =
0), a draw of each elasticity from its posterior (Thompson 1933), or only certain moves (robust).
Customers follow the generator's law with the true elasticities.  Under every policy some weeks are
sold at a logged trial price.  Bundles only, without the ladder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hundredfold.errors import UsageError
from tariffs.columns import Floats, Rows, key_offsets
from tariffs.evaluation.product_lines import BUNDLE
from tariffs.evaluation.run_data import FinishedRun
from tariffs.evaluation.true_value import Market, market
from tariffs.evaluation.unit_arrays import unit_arrays
from tariffs.optimise.rule import LEAST_ELASTIC, Demand, Terms, choose
from tariffs.synthetic.bundles import DISPERSION, EXPLORED_SHARE

MAX_UNITS = 50_000
WEEKS = 4  # of a cycle
POLICIES: Mapping[str, float | None] = {
    "hold": None,
    "plug-in": 0.0,
    "thompson": 0.0,
    "robust 0.84": 0.84,
    "robust 1.28": 1.28,
}


@dataclass(frozen=True, slots=True)
class PolicyOutcome:
    """The results of one policy.

    lift    of the true margin against the start, after each cycle
    moved   mean share of units moved in a cycle
    harmed  share of units that earn less at the end than at the start
    """

    policy: str
    lift: tuple[float, ...]
    moved: float
    harmed: float


@dataclass(frozen=True, slots=True)
class Loop:
    """All policies.

    oracle  the lift of the best prices between floor and ceiling, with known elasticities and
            without steps
    """

    units: int
    weeks: int
    ways: tuple[PolicyOutcome, ...]
    oracle: float


@dataclass(frozen=True, slots=True)
class World:
    """The simulated customers.

    gamma  log season of the observed weeks (units, weeks), repeated in the same order
    """

    market: Market
    gamma: Floats

    def sell(self, posted: Floats, first: int, rng: np.random.Generator) -> dict[str, Floats]:
        """Return units sold, prices paid and the trial in them over the next WEEKS weeks.

        Each (units, WEEKS): Gamma-Poisson around the true demand.
        """
        shape = (len(posted), WEEKS)
        trial = (
            rng.uniform(0.05, 0.15, shape)
            * rng.choice([-1.0, 1.0], shape)
            * (rng.random(shape) < EXPLORED_SHARE)
        )
        paid = np.round(posted[:, None] * (1.0 + trial), 4)
        season = self.gamma[:, (first + np.arange(WEEKS)) % self.gamma.shape[1]]
        m = self.market
        mu = m.scale[:, None] * np.exp(
            season + m.beta[:, None] * (paid / m.reference[:, None] - 1.0)
        )
        sold = rng.poisson(rng.gamma(mu / (DISPERSION - 1.0), DISPERSION - 1.0)).astype(np.float64)
        return {
            "quantity": sold,
            "price": paid,
            "explore_eps": (paid - posted[:, None]) / m.reference[:, None],
        }


def simulate(finished: FinishedRun, cycles: int, seed: int, report: Callable[[str], None]) -> Loop:
    """Simulate every policy for `cycles` cycles; UsageError without truth or for too many units."""
    if not 1 <= cycles <= 52:
        raise UsageError(f"--cycles is {cycles}, wanted 1 to 52 cycles of {WEEKS} weeks")
    there = market(finished, BUNDLE)
    if len(there.price) > MAX_UNITS:
        raise UsageError(
            f"the run has {len(there.price):,} bundle units, and the loop is for {MAX_UNITS:,}",
            hint="make a smaller operator: hundredfold demo --size medium",
        )
    rows = finished.whole(BUNDLE.model)
    world = World(there, _season(finished, there))
    ways = []
    for number, (policy, z) in enumerate(POLICIES.items()):
        report(f"{cycles * WEEKS} weeks under {policy}")
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
        ways.append(_policy_outcome(policy, z, world, rows, cycles, rng))
    best = np.clip(
        there.reference * (there.unit_cost / there.reference - 1.0 / there.beta),
        there.floor,
        there.ceiling,
    )
    best = np.where(there.held, there.current, best)
    return Loop(len(there.price), WEEKS, tuple(ways), _lift(there, best))


def _policy_outcome(
    policy: str, z: float | None, world: World, rows: Rows, cycles: int, rng: np.random.Generator
) -> PolicyOutcome:
    posted, start = world.market.current.copy(), world.market.current
    lift, moved = [], []
    for cycle in range(cycles):
        chosen = posted if z is None else _prices(policy, z, rows, rng)
        moved.append(float((chosen != posted).mean()))
        posted = chosen
        lift.append(_lift(world.market, posted))
        rows = _simulated_weeks(rows, world, posted, cycle * WEEKS, rng)
    harmed = world.market.margin(posted) < world.market.margin(start)
    return PolicyOutcome(policy, tuple(lift), float(np.mean(moved)), float(harmed.mean()))


def _prices(policy: str, z: float, rows: Rows, rng: np.random.Generator) -> Floats:
    """Return new prices after learning from all weeks so far, by the job's functions."""
    slab = unit_arrays(rows | {"z": np.full(len(rows["week"]), z)}, BUNDLE)
    prices = BUNDLE.price(slab, BUNDLE.fit(slab.columns))
    return (
        _drawn(prices, slab["price_tick"][slab.offsets[1:] - 1], rng)
        if policy == "thompson"
        else prices["price"]
    )


def _drawn(prices: Mapping[str, np.ndarray], tick: Floats, rng: np.random.Generator) -> Floats:
    """Return the best prices for elasticities drawn from each posterior, within each limit."""
    sd = prices["se"]
    drawn = np.minimum(prices["elasticity"] + sd * rng.standard_normal(len(sd)), LEAST_ELASTIC)
    none = np.zeros(len(sd))
    terms = Terms(
        prices["current_price"],
        prices["reference_price"],
        prices["unit_cost"],
        tick,
        prices["lowest"],
        prices["highest"],
        prices["highest"] - prices["lowest"],
        none,
    )
    held = prices["lowest"] == prices["highest"]
    return np.asarray(choose(terms, Demand(drawn, none, prices["volume"]), held).price)


def _simulated_weeks(
    rows: Rows, world: World, posted: Floats, first: int, rng: np.random.Generator
) -> Rows:
    """Return the rows with the next weeks appended, sorted by unit and week."""
    offsets = key_offsets(rows, BUNDLE.key)
    last, units = offsets[1:] - 1, len(offsets) - 1
    new = {name: np.repeat(values[last], WEEKS) for name, values in rows.items()}
    lived = {name: values.ravel() for name, values in world.sell(posted, first, rng).items()}
    lived |= {
        "week": np.tile(rows["week"].max() + 7 * np.arange(1, WEEKS + 1), units),
        "posted_price": np.repeat(posted, WEEKS),
    }
    new |= {name: values for name, values in lived.items() if name in rows}
    unit = np.concatenate(
        [np.repeat(np.arange(units), np.diff(offsets)), np.repeat(np.arange(units), WEEKS)]
    )
    order = np.argsort(unit, kind="stable")
    return {name: np.concatenate([values, new[name]])[order] for name, values in rows.items()}


def _season(finished: FinishedRun, there: Market) -> Floats:
    """Return the true log season of each unit's segment, (units, weeks)."""
    assert finished.truth is not None  # required by `market`
    known: Any = (
        pq.ParquetFile(finished.truth / "bundle_season.parquet")
        .read()
        .sort_by([("scope", "ascending"), ("week", "ascending")])
    )
    names, which = np.unique(there.keys["segment"], return_inverse=True)
    scopes, gamma = (
        known.column("scope").to_numpy(zero_copy_only=False),
        known.column("gamma").to_numpy(),
    )
    return np.asarray(np.stack([gamma[scopes == name] for name in names])[which])


def _lift(there: Market, price: Floats) -> float:
    return float(there.margin(price).sum() / there.margin(there.current).sum() - 1.0)
