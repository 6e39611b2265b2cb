"""Limits on the table as a whole, by dual prices.

Each limit has a price, and each unit answers by itself: argmax of its worth less what the limits charge for it (Everett
1963).  A higher price makes the sum that is limited no larger, so bisection finds the least price that meets the limit: one
pass over all units for each step, and no unit knows of another.  With several limits the one that is broken worst is
priced next, the others' prices standing, until none is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tariffs.rows import Floats, Ints

ROUNDS = 24
CLOSE = 1e-3  # a limit that is met this closely needs no finer price
MOST_TURNS = 60
SLACK = 1e-9
Answer = Callable[[Floats], Ints]


@dataclass(frozen=True, slots=True)
class Limit:
    """The sum of `amounts` (units, points) over the chosen points is at most `most`; as people say it, both are divided by `per`."""

    name: str
    amounts: Floats
    most: float
    per: float

    def total(self, pick: Ints) -> float:
        return float(self.amounts[np.arange(len(pick)), pick].sum())

    def excess(self, pick: Ints) -> float:
        """By how much it is broken, in the words' own measure; at most 0 where it is met."""
        over = (self.total(pick) - self.most) / abs(self.per)
        return over if over > SLACK else min(over, 0.0)


@dataclass(frozen=True, slots=True)
class Kept:
    """The chosen point of each unit (units,), and the price of each limit (limits,), in money per unit of its amount."""

    pick: Ints
    duals: Floats


def keep(values: Floats, limits: Sequence[Limit], answer: Answer, start: Floats | None = None) -> Kept:
    """The points that are worth most within the limits, up to the gap of a discrete choice (units that tie at a limit's price move
    together); ValueError names the limits that cannot be met.

    values  what each point is worth in money, shape (units, points); -inf where it cannot be had
    answer  the best points for given scores of that shape, as (units,); it knows what ties units to one another
    start   the prices of the limits as far as they are known, such as from a sample of the units, (limits,)
    """
    for limit in limits:
        alone = answer(np.where(np.isfinite(values), -limit.amounts, -np.inf))
        if limit.excess(alone) > 0:
            raise ValueError(_cannot(limit, alone))
    duals = np.zeros(len(limits)) if start is None else start.copy()
    pick = answer(_score(values, limits, duals))
    for _ in range(ROUNDS):
        broken = [limit.excess(pick) for limit in limits]
        worst = int(np.argmax(broken))
        if broken[worst] <= 0:
            return Kept(_relaxed(values, limits, duals, pick, answer), duals)
        duals[worst], pick = _least(values, limits, duals, worst, answer)
    raise ValueError(_together(limits, duals))


def _least(values: Floats, limits: Sequence[Limit], duals: Floats, which: int, answer: Answer) -> tuple[float, Ints]:
    """The least price of one limit at which it is met, and the answer there."""
    limit = limits[which]

    def at(dual: float) -> tuple[Ints, float]:
        pick = answer(_score(values, limits, np.where(np.arange(len(duals)) == which, dual, duals)))
        return pick, limit.excess(pick)

    low, over, high, pick, under = _bracket(values, limits, duals, which, at)
    close = CLOSE * abs(limit.most / limit.per)
    for turn in range(MOST_TURNS):
        if under >= -close or high - low <= 1e-6 * high:
            break
        share = 0.5 if turn % 3 == 2 else min(max(over / (over - under + close), 0.05), 0.95)  # the secant's; now and then the middle
        tried, excess = at(low + share * (high - low))
        if excess > 0:
            low, over = low + share * (high - low), excess
        else:
            high, pick, under = low + share * (high - low), tried, excess
    return high, pick


def _bracket(
    values: Floats, limits: Sequence[Limit], duals: Floats, which: int, at: Callable[[float], tuple[Ints, float]]
) -> tuple[float, float, float, Ints, float]:
    """A price at which the limit is broken, and by how much; one at which it is met, the answer there, and the excess (at most 0)."""
    most = _scale(values, limits[which]) * 2.0**30
    low, over = 0.0, np.inf
    high, growth = (duals[which] * 1.01, 1.02) if duals[which] > 0 else (_scale(values, limits[which]) * 2.0**-14, 8.0)
    while (found := at(high))[1] > 0:
        low, over, high, growth = high, found[1], high * growth, min(growth**2, 8.0)
        if high > most:
            raise ValueError(_together(limits, np.where(np.arange(len(duals)) == which, high, duals)))
    return low, (over if np.isfinite(over) else abs(limits[which].most / limits[which].per)), high, *found


def _relaxed(values: Floats, limits: Sequence[Limit], duals: Floats, pick: Ints, answer: Answer) -> Ints:
    """A price that later prices made needless is taken back."""
    for which in np.flatnonzero(duals) if np.count_nonzero(duals) > 1 else ():
        without = np.where(np.arange(len(duals)) == which, 0.0, duals)
        tried = answer(_score(values, limits, without))
        if all(limit.excess(tried) <= 0 for limit in limits):
            duals[:], pick = without, tried
    return pick


def _score(values: Floats, limits: Sequence[Limit], duals: Floats) -> Floats:
    score = values
    for limit, dual in zip(limits, duals, strict=True):
        if dual > 0:
            score = score - dual * limit.amounts
    return score


def _scale(values: Floats, limit: Limit) -> float:
    """Money per unit of the limited amount, roughly."""
    finite = np.isfinite(values)
    worth = float(np.ptp(values[finite])) if finite.any() else 0.0
    return (worth + 1e-6) / (float(np.ptp(limit.amounts[finite])) + 1e-12) if finite.any() else 1.0


def _together(limits: Sequence[Limit], duals: Floats) -> str:
    names = ", ".join(dict.fromkeys(limit.name for limit, dual in zip(limits, duals, strict=True) if dual > 0))
    return f"the table cannot keep these limits together: {names}; each can be met alone, so allow more of one of them"


def _cannot(limit: Limit, pick: Ints) -> str:
    wanted, found = limit.most / limit.per, limit.total(pick) / limit.per
    side, best = ("at least", "most") if limit.per < 0 else ("at most", "least")
    return f"the table cannot keep {limit.name}: wanted {side} {wanted:.4g}, and {found:.4g} is the {best} that steps, floors, ceilings, ladders and cells allow"
