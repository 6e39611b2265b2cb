"""The prices of limits, by column generation (Dantzig and Wolfe 1960).

Every answer of the units is a column of a linear programme with one row per limit, whose duals are
asked next, until no answer improves it: these give the least upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints

MAX_COLUMNS = 60
# relative to the worth, and to the charges of the limits: a bound so near the least is accepted
MAX_DUAL_GAP, MIN_GAIN = 1e-9, 1e-5
SLACK = 1e-9  # in the measure of a limit: an excess that does not count
Answer = Callable[[Floats], Ints]


class LimitsNotMet(ValueError):
    """No table is within the limits."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit: the sum of `amounts` (units, points) over the chosen points is at most `most`.

    For people, both are divided by `per`.
    """

    name: str
    amounts: Floats
    most: float
    per: float

    def total(self, pick: Ints) -> float:
        return float(self.amounts[np.arange(len(pick)), pick].sum())

    def excess(self, pick: Ints) -> float:
        """Return the excess, in the measure for people; at most 0 if the limit is met."""
        return self.beyond(self.total(pick))

    def beyond(self, total: float) -> float:
        over = (total - self.most) / abs(self.per)
        return over if over > SLACK else min(over, 0.0)


class ColumnSearch:
    """The columns generated so far, with the best duals and bound."""

    def __init__(self, values: Floats, limits: Sequence[Limit], answer: Answer) -> None:
        self.values, self.limits, self.answer = values, limits, answer
        self.per = np.array([abs(limit.per) for limit in limits])
        self.most = np.array([_whole(limit) for limit in limits])
        self.picks: list[Ints] = []
        self.worth: list[float] = []
        self.over: list[Floats] = []  # total - most of each limit, in its measure
        self.duals, self.bound = np.zeros(len(limits)), np.inf

    def find_duals(self, start: Floats | None, hold: Ints | None) -> None:
        """Minimise the Lagrangian bound over the duals, in money per measure of the limits."""
        free = self.ask(np.zeros(len(self.limits)))
        if (self.over[free] <= SLACK).all():
            return
        for limit in self.limits:
            alone = self.answer(np.where(np.isfinite(self.values), -limit.amounts, -np.inf))
            if limit.excess(alone) > 0:
                raise LimitsNotMet(_refuse_limit(limit, alone))
            self.add(alone)
        for pick in self._holds(hold):
            self.add(pick)
        if start is not None:
            self.ask(start * self.per)
        self._meet()
        self._improve()

    def _holds(self, hold: Ints | None) -> Iterator[Ints]:
        """Yield the choice to hold, as near as the chains allow.

        Without one, yield the points that meet the limits if all units take the same one.
        """
        same = (np.full(len(self.values), point) for point in range(self.values.shape[1]))
        for pick in [hold] if hold is not None else same:
            if hold is None and any(limit.excess(pick) > 0 for limit in self.limits):
                continue
            score = np.where(np.isfinite(self.values), 0.0, -np.inf)
            score[np.arange(len(pick)), pick] += 1.0
            found = self.answer(score)
            if hold is not None or np.array_equal(found, pick):
                yield found

    def ask(self, duals: Floats) -> int:
        """Add the answer at these duals (money per measure) as a column; update the bound."""
        scaled = duals / self.per
        score = score_at(self.values, self.limits, scaled)
        pick = self.answer(score)
        bound = float(score[np.arange(len(pick)), pick].sum() + scaled @ self.most)
        if bound < self.bound:
            self.duals, self.bound = scaled, bound
        return self.add(pick)

    def _ask_excess(self, duals: Floats) -> int:
        nothing = np.where(np.isfinite(self.values), 0.0, -np.inf)
        return self.add(self.answer(score_at(nothing, self.limits, duals / self.per)))

    def add(self, pick: Ints) -> int:
        self.picks.append(pick)
        self.worth.append(float(self.values[np.arange(len(pick)), pick].sum()))
        self.over.append(
            (np.array([limit.total(pick) for limit in self.limits]) - self.most) / self.per
        )
        return len(self.picks) - 1

    def _meet(self) -> None:
        """Add columns that together meet the limits in a mixture; LimitsNotMet if none can."""
        for _ in range(MAX_COLUMNS):
            value, duals = _master(
                np.zeros(len(self.picks)), np.array(self.over).T, feasibility=True
            )
            if value >= -SLACK:
                return
            new = self._ask_excess(duals)
            if -float(duals @ self.over[new]) <= value + SLACK:
                raise LimitsNotMet(refused_together(self.limits, duals))

    def _improve(self) -> None:
        """Ask between the best duals so far and those of the master programme, until it is close.

        The latter alone would oscillate.
        """
        close = max(MAX_DUAL_GAP * abs(self.worth[0]), MIN_GAIN * (self.worth[0] - min(self.worth)))
        between = True
        for _ in range(MAX_COLUMNS):
            value, duals = _master(np.array(self.worth), np.array(self.over).T, feasibility=False)
            if self.bound - value <= close:
                return
            new = self.ask((duals + self.duals * self.per) / 2.0 if between else duals)
            improved = self.worth[new] - float(duals @ self.over[new]) > value + close
            if not improved and not between:
                return
            between = improved


def _master(cost: Floats, over: Floats, feasibility: bool) -> tuple[float, Floats]:
    """Return max cost @ w subject to over @ w <= 0, sum w = 1, w >= 0, and the limits' duals.

    With `feasibility` the limits may be exceeded, at a cost of 1 each; without it, some columns
    must meet them together.  Primal simplex on a basis of (limits + 1) columns, by Bland's rule if
    Dantzig's has not ended.
    """
    count, width = over.shape
    columns = np.block(
        [[over, np.eye(count), -np.eye(count)], [np.ones((1, width)), np.zeros((1, 2 * count))]]
    )
    excess = np.arange(width + 2 * count) >= width + count
    right, basis = np.append(np.zeros(count), 1.0), _first_basis(over)
    costs = np.where(excess, -1.0, 0.0)
    if not feasibility:  # start without excess; any left at 0 is charged more than any worth
        basis = _simplex(columns, costs, right, basis)
        costs = np.concatenate(
            [cost, np.zeros(count), np.full(count, -1e6 * (1.0 + float(np.ptp(cost))))]
        )
    basis = _simplex(columns, costs, right, basis)
    prices = np.linalg.solve(columns[:, basis].T, costs[basis])
    return float(prices @ right), np.maximum(prices[:count], 0.0)


def _first_basis(over: Floats) -> Ints:
    """Return the column with the least total excess, and of each limit its slack or its excess."""
    count, width = over.shape
    best = int(np.maximum(over, 0.0).sum(axis=0).argmin())
    return np.array(
        [width + n if over[n, best] <= 0 else width + count + n for n in range(count)] + [best]
    )


def _simplex(columns: Floats, costs: Floats, right: Floats, basis: Ints) -> Ints:
    basis = basis.copy()
    usual = costs[right[-1] * columns[-1] > 0]  # of answers: the cost of excess is no measure
    scale = 1e-10 * (1.0 + float(np.abs(usual).max()))
    for turn in range(400):
        square = columns[:, basis]
        prices = np.linalg.solve(square.T, costs[basis])
        reduced = costs - prices @ columns
        reduced[basis] = 0.0
        better = np.flatnonzero(reduced > scale)
        if not len(better):
            break
        entering = int(better[0] if turn > 100 else better[reduced[better].argmax()])
        level, down = np.linalg.solve(square, np.stack([right, columns[:, entering]], axis=1)).T
        may = down > 1e-11
        if not may.any():
            break
        ratio = np.where(may, np.maximum(level, 0.0) / np.where(may, down, 1.0), np.inf)
        ties = np.flatnonzero(ratio <= ratio.min() + 1e-15)
        basis[ties[basis[ties].argmin()]] = entering
    return basis


def _whole(limit: Limit) -> float:
    """Return the largest possible sum: rounded down if all amounts are whole, a sharper bound."""
    whole = bool(np.all(limit.amounts == np.rint(limit.amounts)))
    return float(np.floor(limit.most + SLACK * abs(limit.per))) if whole else limit.most


def score_at(values: Floats, limits: Sequence[Limit], duals: Floats) -> Floats:
    score = values
    for limit, dual in zip(limits, duals, strict=True):
        if dual > 0:
            charged = dual * limit.amounts
            score = np.subtract(score, charged, out=charged)
    return score


def _refuse_limit(limit: Limit, pick: Ints) -> str:
    wanted, found = limit.most / limit.per, limit.total(pick) / limit.per
    side, best = ("at least", "most") if limit.per < 0 else ("at most", "least")
    return (
        f"the table cannot keep {limit.name}: wanted {side} {wanted:.4g}, and {found:.4g} is the"
        f" {best} that steps, floors, ceilings, ladders and cells allow"
    )


def refused_together(limits: Sequence[Limit], duals: Floats) -> str:
    """Return the refusal of limits that cannot be met together."""
    names = ", ".join(
        dict.fromkeys(limit.name for limit, dual in zip(limits, duals, strict=True) if dual > 0)
    )
    return (
        f"the table cannot keep these limits together: {names};"
        " each can be met alone, so allow more of one of them"
    )
