"""The price rule: move only as far, and only if, the gain survives the doubt about the elasticity.

In units of the current price, with beta the elasticity there and kappa what one more unit sold costs, margin is (r -
kappa) e^(beta (r - 1)) times today's volume, and its logarithm is concave in r: the optimum is kappa - 1/beta.  kappa
is the unit cost, less what a unit of usage is worth to the operator, plus what other products lose by it (its
opportunity cost).  The robust rule asks for
the best margin under the least favourable beta in b +- z s: raise for b - z s, lower for b + z s, and hold where the
two disagree.  So a price moves exactly when the interval excludes the break-even -1/(1 - kappa), and z is the pricing
team's dial: 0 takes every bet, 2 takes sure ones.  (The plain posterior *expectation* of the margin rewards doubt, by +
s^2 (r - 1)^2 / 2, and is not used.)

Everything here works value by value on arrays of shape (units,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

import numpy as np

from tariffs.columns import Bools, Floats, Ints, Labels

MOST_ELASTIC, LEAST_ELASTIC = -6.0, -0.05  # beyond these an estimate is a data fault, not a demand
GRID_SLACK = 1e-9  # a bound that is itself a price point stays one after division
MAX_LOG_VOLUME = 1e-280
COVERAGE_90 = 1.6448536269514722


@dataclass(frozen=True, slots=True)
class Terms:
    """What the catalogue and the pricing team allow; money, shape (units,).

    Floor and ceiling outrank the step: a current price outside them is brought back in one move.  Their names are told
    where they bind.  `least` and `most` are how far below and above all prices ever paid a step may end; they never move a price by
    themselves.  `added_cost` is what a unit sold costs beyond its unit cost: less than 0 where usage has a value of its own.
    """

    current: Floats
    reference: Floats
    unit_cost: Floats
    tick: Floats
    floor: Floats
    ceiling: Floats
    step: Floats
    z: Floats
    added_cost: Floats = field(default_factory=lambda: np.zeros(1))
    floor_name: Labels = field(default_factory=lambda: np.array(["FLOOR"], dtype=object))
    ceiling_name: Labels = field(default_factory=lambda: np.array(["CEILING"], dtype=object))
    least: Floats = field(default_factory=lambda: np.array([-np.inf]))
    most: Floats = field(default_factory=lambda: np.array([np.inf]))

    @property
    def cost(self) -> Floats:
        """What one more unit sold costs, in money: kappa times the current price."""
        return self.unit_cost + self.added_cost

    def at(self, units: Ints) -> Terms:
        """The terms of these units."""
        return Terms(
            *(
                np.broadcast_to(getattr(self, f.name), self.current.shape)[units]
                for f in fields(self)
            )
        )

    @property
    def lowest(self) -> Floats:
        reach = np.maximum(self.current - self.step, np.minimum(self.least, self.current))
        return np.maximum(self.floor, np.minimum(reach, self.ceiling))

    @property
    def highest(self) -> Floats:
        reach = np.minimum(self.current + self.step, np.maximum(self.most, self.current))
        return np.minimum(self.ceiling, np.maximum(reach, self.floor))

    def faults(self) -> list[str]:
        """What is missing or contradictory, in words; empty where the terms can be priced on."""
        wanted = {
            "current price > 0": self.current > 0, "reference price > 0": self.reference > 0, "unit cost >= 0": self.unit_cost >= 0,
            "price tick > 0": self.tick > 0, "floor <= ceiling (competitors' prices counted in)": self.floor <= self.ceiling, "step >= 0": self.step >= 0,
            "z >= 0 (has the policy a row for this kind?)": self.z >= 0,
        }  # fmt: skip
        return [words for words, holds in wanted.items() if not np.all(holds)]


@dataclass(frozen=True, slots=True)
class Demand:
    """The elasticity at the current price and its standard deviation, and the demand per week there; shape (units,).

    capacity  the most that can be sold in a week, in units of `volume` (units,), or one value for all; infinite where nothing limits it
    """

    elasticity: Floats
    sd: Floats
    volume: Floats
    capacity: Floats = field(default_factory=lambda: np.array([np.inf]))

    def at(self, units: Ints) -> Demand:
        capacity = self.capacity if self.capacity.size == 1 else self.capacity[units]
        return Demand(self.elasticity[units], self.sd[units], self.volume[units], capacity)

    @property
    def room(self) -> Floats:
        """Capacity per unit of today's demand: below 1 where the cell is full.  Infinite without a limit, and without demand."""
        if self.capacity.size == 1 and self.capacity.flat[0] == np.inf:
            return self.capacity
        return np.asarray(self.capacity / np.maximum(self.volume, MAX_LOG_VOLUME))

    @property
    def sold(self) -> Floats:
        """What is sold per week at the current price."""
        return np.minimum(self.volume, self.capacity)

    @property
    def blocked(self) -> Floats:
        """What is asked for per week at the current price, and refused."""
        return np.maximum(self.volume - self.capacity, 0.0)


@dataclass(frozen=True, slots=True)
class Choice:
    """The price, and which limit held it back ('' where none did); shape (units,).

    A name of the terms, STEP_UP, STEP_DOWN, GRID (the limits hold no price point), or TICK (the price stays, for no price point near the
    optimum is better).
    """

    price: Floats
    bound: Labels


@dataclass(frozen=True, slots=True)
class Effect:
    """What is expected per week of a move, at the posterior mode, and the probability that margin gains (0 for no move); shape (units,)."""

    volume: Floats
    revenue: Floats
    margin: Floats
    p_gain: Floats


def robust_ratio(demand: Demand, kappa: Floats, z: Floats) -> Floats:
    """max over r of min over |beta - b| <= z s of the margin: price / current price, 1 = hold.  Shape (units,)."""
    steep, flat = demand.elasticity - z * demand.sd, demand.elasticity + z * demand.sd
    below, room = np.minimum(flat, -1e-300), np.log(demand.room)
    steep = np.minimum(steep, LEAST_ELASTIC)
    up = np.maximum(kappa - 1.0 / steep, np.where(room < 0, 1.0 + room / steep, -np.inf))
    down = np.where(
        flat < 0, np.maximum(kappa - 1.0 / below, 1.0 + np.maximum(room, 0.0) / below), np.inf
    )
    return np.where(up > 1.0, up, np.where(down < 1.0, down, 1.0))


def robust_value(price: Floats, terms: Terms, demand: Demand) -> Floats:
    """Margin per unit of today's volume, in current prices, under the elasticity that is least favourable to this price."""
    ratio = price / terms.current
    doubt = np.where(ratio > 1.0, -terms.z, terms.z) * demand.sd
    sold = np.minimum(np.exp((demand.elasticity + doubt) * (ratio - 1.0)), demand.room)
    return np.asarray((ratio - terms.cost / terms.current) * sold)


def choose(terms: Terms, demand: Demand, held: Bools) -> Choice:
    """The best price point within the limits.  A held unit stays where it is, unless that is outside floor and ceiling.

    The robust value rises up to its optimum and falls after it, so the best point is one of the optimum's two neighbours, or today's price;
    of equals (within 1e-9) today's price wins, then the point nearer to it.
    """
    ratio = np.where(held, 1.0, robust_ratio(demand, terms.cost / terms.current, terms.z))
    target = ratio * terms.current
    lowest, highest = terms.lowest, terms.highest
    inside = np.clip(target, lowest, highest)
    below, above, reachable = _neighbours(inside, terms, lowest, highest)
    price = np.where(
        reachable,
        _best(below, above, terms, demand),
        np.clip(terms.current, terms.floor, terms.ceiling),
    )
    stays = (inside == terms.current) & (target == terms.current)
    price = np.where(stays, terms.current, price)
    bound = np.where(reachable, _bound(target, terms, lowest, highest), "GRID")
    bound = np.where((bound == "") & (price == terms.current), "TICK", bound)
    return Choice(price, np.where(stays, "", bound).astype(object))


def effect(
    price: Floats, terms: Terms, demand: Demand, cross_effect: Floats | float = 0.0
) -> Effect:
    """Against staying at the current price.  P(gain) = Phi([log((r - kappa)/(1 - kappa)) + b (r - 1)] / (s |r - 1|)).

    Money is counted at the unit cost, the chance of a gain at all that a unit costs.  `pull` is added to the log of the
    volume: what the neighbours' new prices bring.  No more than the capacity is sold, today and at the new price.
    """
    ratio, kappa = price / terms.current, terms.cost / terms.current
    moved, before = (
        np.minimum(asked_at(price, terms, demand, cross_effect), demand.capacity),
        demand.sold,
    )
    margin = moved * (price - terms.unit_cost) - before * (terms.current - terms.unit_cost)
    return Effect(
        moved - before,
        moved * price - before * terms.current,
        margin,
        gain_probability(ratio, kappa, demand),
    )


def asked_at(
    price: Floats, terms: Terms, demand: Demand, cross_effect: Floats | float = 0.0
) -> Floats:
    """The demand per week at a price, at the posterior mode, whether or not there is capacity for it."""
    return demand.volume * np.exp(demand.elasticity * (price / terms.current - 1.0) + cross_effect)


def blocked_delta(price: Floats, terms: Terms, demand: Demand) -> Floats:
    """The change of what is asked for beyond the capacity, and refused; per week."""
    return np.maximum(asked_at(price, terms, demand) - demand.capacity, 0.0) - demand.blocked


def effect_columns(
    price: Floats, terms: Terms, demand: Demand, cross_effect: Floats | float = 0.0
) -> dict[str, Floats]:
    """The effect, and each delta at the ends of the elasticity's 90 % interval: they are monotone in it, so these are their own intervals."""
    mode = effect(price, terms, demand, cross_effect)
    ends = [
        effect(
            price,
            terms,
            replace(demand, elasticity=demand.elasticity + sign * COVERAGE_90 * demand.sd),
            cross_effect,
        )
        for sign in (-1.0, 1.0)
    ]
    columns = {"p_gain": mode.p_gain}
    for name in ("volume", "revenue", "margin"):
        one, other = (getattr(end, name) for end in ends)
        columns[f"expected_{name}_delta"] = getattr(mode, name)
        columns[f"expected_{name}_delta_lo"], columns[f"expected_{name}_delta_hi"] = (
            np.minimum(one, other),
            np.maximum(one, other),
        )
    return columns


def expected_loss(
    before: Floats, after: Floats, spread: Floats, most: Floats | float = np.inf
) -> Floats:
    """E[max(0, before - min(X, most))] where X is lognormal with the median `after` and the log-sd `spread`.

    All of before, after, spread > 0; else max(0, before - min(after, most)).  The value of a put option (Black 1976) without interest,
    at the lesser of `before` and `most`, and what is lost for certain beyond that.
    """
    lost = np.maximum(before - most, 0.0)
    return np.where(
        after > 0,
        lost + _put_value(before - lost, after, spread),
        np.maximum(before - np.minimum(after, most), 0.0),
    )


def _put_value(before: Floats, after: Floats, spread: Floats) -> Floats:
    sure = np.maximum(before - after, 0.0)
    open_ = (before > 0) & (after > 0) & (spread > 0)
    width = np.where(open_, spread, 1.0)
    score = np.log(np.where(open_, before, 1.0) / np.where(open_, after, 1.0)) / width
    mean = after * np.exp(width**2 / 2.0)
    return np.where(
        open_, np.maximum(before * normal_cdf(score) - mean * normal_cdf(score - width), 0.0), sure
    )


def normal_cdf(value: Floats) -> Floats:
    """Phi, by the C library's erfc: the same bits for one value and for many."""
    return 0.5 * np.asarray(_erfc(-value / math.sqrt(2.0)), dtype=np.float64)


def on_tick(steps: Floats, tick: Floats) -> Floats:
    """Money without the dust of binary fractions: 3 x 0.1 is 0.3 here."""
    return np.round(steps * tick, 6)


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _neighbours(
    inside: Floats, terms: Terms, lowest: Floats, highest: Floats
) -> tuple[Floats, Floats, Bools]:
    """The price points next to `inside`, both within the limits, and whether the limits hold any."""
    first = np.ceil(lowest / terms.tick - GRID_SLACK)
    last = np.floor(highest / terms.tick + GRID_SLACK)
    step = np.floor(inside / terms.tick + GRID_SLACK)
    below = on_tick(np.clip(step, first, last), terms.tick)
    above = on_tick(np.clip(step + 1.0, first, last), terms.tick)
    return below, above, first <= last


def _best(below: Floats, above: Floats, terms: Terms, demand: Demand) -> Floats:
    nearer = np.where(np.abs(below - terms.current) <= np.abs(above - terms.current), below, above)
    other = np.where(nearer == below, above, below)
    best = np.where(_beats(other, nearer, terms, demand), other, nearer)
    allowed = (terms.floor <= terms.current) & (terms.current <= terms.ceiling)
    return np.where(allowed & ~_beats(best, terms.current, terms, demand), terms.current, best)


def _beats(price: Floats, other: Floats, terms: Terms, demand: Demand) -> Bools:
    return np.asarray(
        robust_value(price, terms, demand) > robust_value(other, terms, demand) + 1e-9,
        dtype=np.bool_,
    )


def _bound(target: Floats, terms: Terms, lowest: Floats, highest: Floats) -> Labels:
    """Which limit stands between the target and the price.  A floor above the reach of a step, or a ceiling below it, is what moved the price
    even where the target lies further on."""
    floor, ceiling = (
        np.broadcast_to(terms.floor_name, target.shape),
        np.broadcast_to(terms.ceiling_name, target.shape),
    )
    cases: list[tuple[Bools, Labels | str]] = [
        (terms.floor > terms.current + terms.step, floor),
        (terms.ceiling < terms.current - terms.step, ceiling),
        ((target < lowest) & (lowest == terms.floor), floor),
        (target < lowest, "STEP_DOWN"),
        ((target > highest) & (highest == terms.ceiling), ceiling),
        (target > highest, "STEP_UP"),
    ]
    told = np.full(target.shape, "", dtype=object)
    for case, name in reversed(cases):
        told = np.where(case, name, told)
    return told.astype(object)


def gain_probability(ratio: Floats, kappa: Floats, demand: Demand) -> Floats:
    """Where today's price is below cost any rise gains for certain, and a price below cost never does.

    Margin gains where min(e^(beta (r - 1)), C / mu(1)) > q = (1 - kappa) / (r - kappa) x min(1, C / mu(1)): never if all that can be sold at the
    new price brings less than today's margin, else where demand is at least that, which has a probability in closed form.
    """
    moves, profitable, today = ratio != 1.0, ratio > kappa, kappa < 1.0
    over = np.divide(
        ratio - kappa, 1.0 - kappa, out=np.ones_like(ratio), where=moves & profitable & today
    )
    room = np.log(demand.room)
    change = np.log(over) + demand.elasticity * (ratio - 1.0) - np.minimum(room, 0.0)
    score = np.divide(
        change,
        demand.sd * np.abs(ratio - 1.0),
        out=np.zeros_like(ratio),
        where=moves & (demand.sd > 0),
    )
    gain = np.where(demand.sd > 0, normal_cdf(score), change > 0)
    gain = np.where(np.log(over) + np.maximum(room, 0.0) > 0, gain, 0.0)
    return np.where(
        moves,
        np.where(today, np.where(profitable, gain, 0.0), np.where(ratio > 1.0, 1.0, 0.0)),
        0.0,
    )
