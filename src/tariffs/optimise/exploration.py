"""Trials: a few units are priced on a draw of their elasticity, so that the data stay informative.

Prices that only follow the estimate stop moving, and then nothing more is learnt (den Boer and
Zwart 2014).  Thompson sampling: beta is drawn from its posterior N(b, s^2), truncated at 0, and the
price is the best one for that beta, within the same limits.  The units on trial and their draws
depend only on the unit's key and the week: the same run gives the same trials, in any batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from tariffs.columns import Bools, Floats, Ints, Labels
from tariffs.optimise.rule import (
    LEAST_ELASTIC,
    MOST_ELASTIC,
    Choice,
    Demand,
    Terms,
    choose,
    expected_loss,
    normal_cdf,
    on_tick,
)


@dataclass(frozen=True, slots=True)
class ExplorationResult:
    """The choices including trials, a mask of the trials, and the elasticities; shape (units,).

    draw  the drawn elasticity of a trial, the estimate of the others
    """

    choice: Choice
    tried: Bools
    draw: Floats


def hash_uniform(keys: Sequence[Labels], days: Ints) -> Floats:
    """Return two numbers in (0, 1) for each unit, from its key and a day (days since 1970).

    Shape (units, 2).
    """
    texts = (
        "\x1f".join((*map(str, key), str(day))).encode()
        for *key, day in zip(*keys, days.tolist(), strict=True)
    )
    digests = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    whole = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    return np.asarray(((whole >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def draw_elasticity(demand: Demand, chance: Floats, ratio: Floats) -> Floats:
    """Return beta ~ N(b, s^2) given beta < 0, by its inverse distribution.

    Clipped to plausible values at the reference price (`ratio`: current / reference).
    """
    below = normal_cdf(-demand.elasticity / np.where(demand.sd > 0, demand.sd, 1.0))
    score = np.array([NormalDist().inv_cdf(c) for c in (chance * below).tolist()])
    draw = demand.elasticity + np.where(demand.sd > 0, demand.sd, 0.0) * score
    return np.asarray(np.clip(draw, MOST_ELASTIC * ratio, LEAST_ELASTIC * ratio))


def apply_exploration(
    choice: Choice, terms: Terms, demand: Demand, chosen: Bools, chance: Floats, max_loss: Floats
) -> ExplorationResult:
    """Return the price of each chosen unit on a draw of its elasticity, within its usual limits.

    A trial with an expected loss over `max_loss` of the margin moves towards today's price, one
    price point at a time.
    """
    at = np.flatnonzero(
        chosen
        & (terms.floor <= terms.current)
        & (terms.current <= terms.ceiling)
        & (terms.current > terms.cost)
    )
    draw = demand.elasticity.copy()
    if not len(at):
        return ExplorationResult(choice, np.zeros(len(draw), dtype=np.bool_), draw)
    mine, known = terms.at(at), demand.at(at)
    draw[at] = draw_elasticity(known, chance[at], mine.current / mine.reference)
    drawn = choose(
        replace(mine, z=np.zeros(len(at))),
        replace(known, elasticity=draw[at]),
        np.zeros(len(at), dtype=np.bool_),
    )
    price, bound = choice.price.copy(), choice.bound.copy()
    price[at], bound[at] = _within_loss(drawn.price, mine, known, max_loss[at]), drawn.bound
    tried = np.zeros(len(draw), dtype=np.bool_)
    tried[at] = True
    return ExplorationResult(Choice(price, bound), tried, draw)


def margin_at_risk(price: Floats, terms: Terms, demand: Demand) -> Floats:
    """Return the expected loss of margin of a move, without its gains; money per week.

    The expectation is over the posterior of the elasticity.
    """
    ratio = price / terms.current
    left, asked = price - terms.cost, demand.volume * np.exp(demand.elasticity * (ratio - 1.0))
    earns = left > 0
    after = left * np.where(earns, asked, np.minimum(asked, demand.capacity))
    most = np.where(earns, np.where(earns, left, 1.0) * demand.capacity, np.inf)
    return expected_loss(
        demand.sold * (terms.current - terms.cost), after, demand.sd * np.abs(ratio - 1.0), most
    )


def _within_loss(price: Floats, terms: Terms, demand: Demand, max_loss: Floats) -> Floats:
    allowed = max_loss * demand.sold * (terms.current - terms.cost)
    while np.any(
        over := (price != terms.current) & (margin_at_risk(price, terms, demand) > allowed)
    ):
        step = np.where(price > terms.current, -1.0, 1.0)
        nearer = on_tick(np.round(price / terms.tick) + step, terms.tick)
        passed = (nearer - terms.current) * (price - terms.current) <= 0
        price = np.where(over, np.where(passed, terms.current, nearer), price)
    return price
