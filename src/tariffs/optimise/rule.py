"""The price rule: move only as far, and only if, the gain survives the error of the elasticity.

In units of the current price, with beta the elasticity there and kappa the cost of one more unit
sold, margin is (r - kappa) e^(beta (r - 1)) times today's volume, and its logarithm is concave in
r: the optimum is kappa - 1/beta.  kappa is the unit cost, less the worth of a unit of usage to the
operator, plus the losses of other products (its opportunity cost).  The robust rule maximises the
margin under the least favourable beta in b +- z s: raise for b - z s, lower for b + z s, and hold
where the two disagree.  So a price moves exactly if the interval excludes the break-even
-1/(1 - kappa), and z is the pricing team's setting of risk: 0 takes every chance, 2 only nearly
certain gains.  (The plain posterior *expectation* of the margin rewards uncertainty, by
+ s^2 (r - 1)^2 / 2, and is not used.)

All functions work elementwise on arrays of shape (units,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

import numpy as np

from tariffs.columns import Bools, Floats, Ints, Labels

MOST_ELASTIC, LEAST_ELASTIC = -6.0, -0.05  # an estimate beyond these is a fault of the data
GRID_SLACK = 1e-9  # a bound that is itself a price point stays one after division
MAX_LOG_VOLUME = 1e-280
COVERAGE_90 = 1.6448536269514722
MAX_P_GAIN = 0.999  # no gain is certain: the demand curve is itself an assumption


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits that the catalogue and the pricing team set; money, shape (units,).

    Floor and ceiling take precedence over the step: a current price outside them returns in one
    move.  Their names are reported where they bind.  `least` and `most` are the prices, below and
    above all prices ever paid, at which a step ends at most; they never move a price by themselves.
    `added_cost` is the cost of a unit sold beyond its unit cost: negative if usage has a value.
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
        """The cost of one more unit sold, in money: kappa times the current price."""
        return self.unit_cost + self.added_cost

    def at(self, units: Ints) -> Terms:
        """Return the terms of these units."""
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
        """Return the missing or contradictory terms; empty if the units can be priced."""
        wanted = {
            "current price > 0": self.current > 0,
            "reference price > 0": self.reference > 0,
            "unit cost >= 0": self.unit_cost >= 0,
            "price tick > 0": self.tick > 0,
            "floor <= ceiling (competitors' prices counted in)": self.floor <= self.ceiling,
            "step >= 0": self.step >= 0,
            "z >= 0 (has the policy a row for this kind?)": self.z >= 0,
        }
        return [words for words, holds in wanted.items() if not np.all(holds)]


@dataclass(frozen=True, slots=True)
class Demand:
    """The elasticity at the current price with its error, and the weekly demand; shape (units,).

    capacity  the largest weekly quantity, in units of `volume` (units,), or one value for all;
              infinite without a limit
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
        """Capacity per unit of today's demand: below 1 if full, infinite without a limit."""
        if self.capacity.size == 1 and self.capacity.flat[0] == np.inf:
            return self.capacity
        return np.asarray(self.capacity / np.maximum(self.volume, MAX_LOG_VOLUME))

    @property
    def sold(self) -> Floats:
        """The quantity sold per week at the current price."""
        return np.minimum(self.volume, self.capacity)

    @property
    def blocked(self) -> Floats:
        """The quantity demanded per week at the current price and not served."""
        return np.maximum(self.volume - self.capacity, 0.0)


@dataclass(frozen=True, slots=True)
class Choice:
    """The price, and the limit that held it back ('' for none); shape (units,).

    A name of the terms, STEP_UP, STEP_DOWN, GRID (no price point is within the limits), or TICK (no
    price point near the optimum is better, so the price stays).
    """

    price: Floats
    bound: Labels


@dataclass(frozen=True, slots=True)
class Effect:
    """The expected effect of a move per week, at the posterior mode, and its probability of gain.

    The probability is 0 for no move.  Shape (units,).
    """

    volume: Floats
    revenue: Floats
    margin: Floats
    p_gain: Floats


def robust_ratio(demand: Demand, kappa: Floats, z: Floats) -> Floats:
    """Return argmax over r of min over |beta - b| <= z s of the margin.

    r is price / current price, 1 means hold; shape (units,).
    """
    steep, flat = demand.elasticity - z * demand.sd, demand.elasticity + z * demand.sd
    below, room = np.minimum(flat, -1e-300), np.log(demand.room)
    steep = np.minimum(steep, LEAST_ELASTIC)
    up = np.maximum(kappa - 1.0 / steep, np.where(room < 0, 1.0 + room / steep, -np.inf))
    down = np.where(
        flat < 0, np.maximum(kappa - 1.0 / below, 1.0 + np.maximum(room, 0.0) / below), np.inf
    )
    return np.where(up > 1.0, up, np.where(down < 1.0, down, 1.0))


def robust_value(price: Floats, terms: Terms, demand: Demand) -> Floats:
    """Return the margin per unit of today's volume, in current prices, at the worst beta."""
    ratio = price / terms.current
    doubt = np.where(ratio > 1.0, -terms.z, terms.z) * demand.sd
    sold = np.minimum(np.exp((demand.elasticity + doubt) * (ratio - 1.0)), demand.room)
    return np.asarray((ratio - terms.cost / terms.current) * sold)


def choose(terms: Terms, demand: Demand, held: Bools) -> Choice:
    """Return the best price point within the limits.

    A held unit keeps its price, unless that is outside floor and ceiling.  The robust value rises
    up to its optimum and falls after it, so the best point is a neighbour of the optimum, or
    today's price; among equals (within 1e-9) it is today's price, then the point nearer to it.
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
    """Return the effect of a move against staying at the current price.

    P(gain) = Phi([log((r - kappa)/(1 - kappa)) + b (r - 1)] / (s |r - 1|)).  Money is counted at
    the unit cost, the probability at the full cost of a unit.  `cross_effect` is added to the log
    of the volume: of the neighbours' new prices, and of `expected_volume`.  Sales never exceed the
    capacity, today and at the new price.
    """
    ratio, kappa = price / terms.current, terms.cost / terms.current
    return Effect(
        *changes(price, terms, demand, cross_effect), gain_probability(ratio, kappa, demand)
    )


def changes(
    price: Floats, terms: Terms, demand: Demand, cross_effect: Floats | float = 0.0
) -> tuple[Floats, Floats, Floats]:
    """Return the volume, revenue and margin of `effect`."""
    moved, before = (
        np.minimum(asked_at(price, terms, demand, cross_effect), demand.capacity),
        demand.sold,
    )
    margin = moved * (price - terms.unit_cost) - before * (terms.current - terms.unit_cost)
    return moved - before, moved * price - before * terms.current, margin


def asked_at(
    price: Floats, terms: Terms, demand: Demand, cross_effect: Floats | float = 0.0
) -> Floats:
    """Return the demand per week at a price, at the posterior mode, regardless of capacity."""
    return demand.volume * np.exp(demand.elasticity * (price / terms.current - 1.0) + cross_effect)


def blocked_delta(
    price: Floats, terms: Terms, demand: Demand, cross_effect: Floats | float = 0.0
) -> Floats:
    """Return the change of the demand beyond capacity, per week."""
    asked = asked_at(price, terms, demand, cross_effect)
    return np.maximum(asked - demand.capacity, 0.0) - demand.blocked


def effect_columns(
    price: Floats, terms: Terms, demand: Demand, cross_effect: Floats | float = 0.0
) -> dict[str, Floats]:
    """Return the effect, and each delta at the ends of the elasticity's 90 % interval.

    The deltas are monotone in the elasticity, so these ends are their own intervals.
    """
    mode = effect(price, terms, demand, cross_effect)
    ends = [
        changes(
            price,
            terms,
            replace(demand, elasticity=demand.elasticity + sign * COVERAGE_90 * demand.sd),
            cross_effect,
        )
        for sign in (-1.0, 1.0)
    ]
    columns = {"p_gain": mode.p_gain}
    for name, one, other in zip(("volume", "revenue", "margin"), *ends, strict=True):
        columns[f"expected_{name}_delta"] = getattr(mode, name)
        columns[f"expected_{name}_delta_lo"], columns[f"expected_{name}_delta_hi"] = (
            np.minimum(one, other),
            np.maximum(one, other),
        )
    return columns


def expected_loss(
    before: Floats, after: Floats, spread: Floats, most: Floats | float = np.inf
) -> Floats:
    """Return E[max(0, before - min(X, most))], X lognormal with median `after` and log-sd `spread`.

    All of before, after, spread > 0; otherwise max(0, before - min(after, most)).  It is the value
    of a put option (Black 1976) without interest, at the lesser of `before` and `most`, plus the
    certain loss beyond that.
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
    above, below = np.zeros_like(mean), np.zeros_like(mean)
    above[open_], below[open_] = normal_cdf(score[open_]), normal_cdf((score - width)[open_])
    return np.where(open_, np.maximum(before * above - mean * below, 0.0), sure)


def normal_cdf(value: Floats) -> Floats:
    """Return Phi, by the C library's erfc: equal bits for one value and for many."""
    return 0.5 * np.asarray(_erfc(-value / math.sqrt(2.0)), dtype=np.float64)


def on_tick(steps: Floats, tick: Floats) -> Floats:
    """Return money without errors of binary fractions: 3 x 0.1 is 0.3."""
    return np.round(steps * tick, 6)


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _neighbours(
    inside: Floats, terms: Terms, lowest: Floats, highest: Floats
) -> tuple[Floats, Floats, Bools]:
    """Return the price points next to `inside`, within the limits, and whether there are any."""
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
    """Return the limit between the target and the price.

    A floor above the reach of a step, or a ceiling below it, moved the price even where the target
    is beyond it.
    """
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
    codes = np.full(target.shape, "", dtype=object)
    for case, name in reversed(cases):
        codes = np.where(case, name, codes)
    return codes.astype(object)


def gain_probability(ratio: Floats, kappa: Floats, demand: Demand) -> Floats:
    """Return the probability that margin gains, at most `MAX_P_GAIN`.

    If today's price is below cost, any raise gains for certain; a price below cost never does.
    Margin gains if min(e^(beta (r - 1)), C / mu(1)) > q = (1 - kappa) / (r - kappa) x
    min(1, C / mu(1)): never if the largest possible sales at the new price yield less than today's
    margin, otherwise where demand is at least q, whose probability has a closed form.
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
    chance = np.zeros_like(score)
    chance[moves] = normal_cdf(score[moves])
    gain = np.where(demand.sd > 0, chance, change > 0)
    gain = np.where(np.log(over) + np.maximum(room, 0.0) > 0, gain, 0.0)
    gain = np.where(today, np.where(profitable, gain, 0.0), np.where(ratio > 1.0, 1.0, 0.0))
    return np.where(moves, np.minimum(gain, MAX_P_GAIN), 0.0)
