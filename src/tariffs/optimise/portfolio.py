"""Limits on the table as a whole: Lagrangian relaxation for their prices, then repair and search.

Each limit gets a price (its dual), and each unit answers independently: the argmax of its worth
less the charges of the limits (Everett 1963).  At any duals, the sum of those scores plus the
limits' own worth is an upper bound on the worth of a table within the limits.  The least such bound
is found by column generation (Dantzig and Wolfe 1960): every answer is a column of a linear
programme with one row per limit, whose duals are asked next, until no answer improves it.

At the best duals some units are indifferent, and their choices exceed a limit or leave slack in it.
Units are moved one by one, those with the smallest loss first (their regret at the duals), until
the limits are met; single moves and pairs of moves then use the slack.  Further gains are only
possible in units whose regret is below the gap to the bound: if they are few, branch and bound
finds the best table and proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints

MAX_COLUMNS = 60
MAX_GAP = 1e-9  # relative to the bound: a gap that needs no further work
# relative to the worth, and to the charges of the limits: a bound so near the least is accepted
MAX_DUAL_GAP, MIN_GAIN = 1e-9, 1e-5
# in the measure of a limit: an excess that does not count, and the part of it that search may use
SLACK, EPSILON = 1e-9, 5e-10
MAX_MOVES = 4_000  # units with the least regret, considered in repair and search
MAX_STEPS = 2_000
MAX_PAIRS = 300
MAX_NODES = 20_000
MAX_EXACT_UNITS = 60
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


@dataclass(frozen=True, slots=True)
class WithinLimits:
    """The chosen point of each unit (units,), and the price of each limit (limits,).

    duals  in money per unit of the limit's amount
    worth  of the chosen points, in money;  bound  no choice within the limits is worth more
    """

    pick: Ints
    duals: Floats
    worth: float
    bound: float

    @property
    def gap(self) -> float:
        """The largest possible gain over this choice within the limits; money."""
        return max(self.bound - self.worth, 0.0)


def solve(
    values: Floats,
    limits: Sequence[Limit],
    answer: Answer,
    start: Floats | None = None,
    offsets: Ints | None = None,
    hold: Ints | None = None,
) -> WithinLimits:
    """Return the points that are worth most within the limits, up to the returned gap.

    values   worth of each point in money, shape (units, points); -inf if it is not possible
    answer   returns the best points for given scores of that shape, (units,), within the chains
    start    estimates of the limits' prices, such as from a sample of the units, (limits,)
    offsets  the chains of `answer` are offsets[c]:offsets[c + 1]; each unit alone if None
    hold     a choice that is tried as it is, (units,), such as today's prices

    Raises LimitsNotMet, naming the limits, if these cannot be met.
    """
    search = _ColumnSearch(values, limits, answer)
    search.find_duals(start, hold)
    duals, bound = search.duals, search.bound
    pick, worth, proven = _best_within(
        search, np.arange(len(values) + 1) if offsets is None else offsets
    )
    if pick is None:
        raise LimitsNotMet(_together(limits, duals))
    bound = worth if proven else max(bound, worth)
    return WithinLimits(pick, duals, worth, bound)


def duals_of(values: Floats, limits: Sequence[Limit], answer: Answer) -> Floats:
    """Return the prices of the limits; LimitsNotMet if these cannot be met."""
    search = _ColumnSearch(values, limits, answer)
    search.find_duals(None, None)
    return search.duals


class _ColumnSearch:
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
        score = _score(self.values, self.limits, scaled)
        pick = self.answer(score)
        bound = float(score[np.arange(len(pick)), pick].sum() + scaled @ self.most)
        if bound < self.bound:
            self.duals, self.bound = scaled, bound
        return self.add(pick)

    def _ask_excess(self, duals: Floats) -> int:
        nothing = np.where(np.isfinite(self.values), 0.0, -np.inf)
        return self.add(self.answer(_score(nothing, self.limits, duals / self.per)))

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
                raise LimitsNotMet(_together(self.limits, duals))

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


@dataclass(slots=True)
class _Options:
    """The options of each group of units: any point of a single unit, the answers of a chain.

    worth, regret (groups, options): regret is the loss at the duals against the group's best
    amounts       (limits, groups, options), in the limits' measures
    """

    worth: Floats
    amounts: Floats
    regret: Floats

    def of(self, groups: Ints) -> _Options:
        return _Options(self.worth[groups], self.amounts[:, groups], self.regret[groups])

    def over(self, chosen: Ints, most: Floats) -> Floats:
        return np.asarray(self.amounts[:, np.arange(len(chosen)), chosen].sum(axis=1) - most)

    def worth_of(self, chosen: Ints) -> float:
        return float(self.worth[np.arange(len(chosen)), chosen].sum())


def _best_within(search: _ColumnSearch, offsets: Ints) -> tuple[Ints | None, float, bool]:
    """Return the best choice found or None, its worth, and whether it is proven optimal."""
    if (search.over[0] <= SLACK).all():
        return search.picks[0], search.worth[0], True
    alone = len(offsets) == len(search.values) + 1
    columns = _distinct(search.picks)
    options = _of_points(search) if alone else _of_columns(search, columns, offsets)
    numbers = columns if alone else [np.full(len(options.worth), n) for n in range(len(columns))]
    most = search.most / search.per
    least = options.regret.argmin(axis=1)
    found = _candidates(options, most, least, numbers)
    best: Ints | None = None
    for chosen in found:
        better = _improved(options, most, chosen)
        if best is None or options.worth_of(better) > options.worth_of(best):
            best = better
    best, proven = _searched(options, most, best, search.bound)
    if best is None:
        return None, -np.inf, False
    pick = (
        best
        if alone
        else np.stack(columns)[
            np.repeat(best, np.diff(offsets)), np.arange(len(search.values))
        ].astype(np.int64)
    )
    if any(limit.excess(pick) > 0 for limit in search.limits):
        return None, -np.inf, False
    return pick, float(search.values[np.arange(len(pick)), pick].sum()), proven and alone


def _distinct(picks: Sequence[Ints]) -> list[Ints]:
    return list({pick.tobytes(): pick for pick in picks}.values())


def _of_points(search: _ColumnSearch) -> _Options:
    score = _score(search.values, search.limits, search.duals)
    amounts = np.stack(
        [limit.amounts / per for limit, per in zip(search.limits, search.per, strict=True)]
    )
    return _Options(search.values, amounts, score.max(axis=1, keepdims=True) - score)


def _of_columns(search: _ColumnSearch, columns: Sequence[Ints], offsets: Ints) -> _Options:
    every = np.arange(len(search.values))
    first = offsets[:-1]
    worth = np.stack(
        [np.add.reduceat(search.values[every, pick], first) for pick in columns], axis=1
    )
    amounts = np.stack(
        [
            np.stack(
                [np.add.reduceat(limit.amounts[every, pick], first) for pick in columns], axis=1
            )
            / per
            for limit, per in zip(search.limits, search.per, strict=True)
        ]
    )
    score = worth - np.tensordot(search.duals * search.per, amounts, axes=1)
    return _Options(worth, amounts, score.max(axis=1, keepdims=True) - score)


def _candidates(
    options: _Options, most: Floats, least: Ints, columns: Sequence[Ints]
) -> list[Ints]:
    """Return choices within the limits to begin from: the best at the duals, repaired, and mixtures
    of it with a column within the limits."""
    found = [chosen for chosen in columns if (options.over(chosen, most) <= SLACK).all()]
    if found:
        best, every = max(found, key=options.worth_of), np.arange(len(least))
        near = sorted(columns, key=lambda chosen: float(options.regret[every, chosen].sum()))[:4]
        found = [best, *(_between(options, most, best, chosen) for chosen in (least, *near))]
        found = sorted(found, key=options.worth_of)[-2:]
    tried = [
        least,
        *sorted(
            columns, key=lambda chosen: float(np.maximum(options.over(chosen, most), 0.0).sum())
        )[:3],
    ]
    repaired = (_repaired(options, most, chosen) for chosen in (tried[:1] if found else tried))
    return found + [chosen for chosen in repaired if chosen is not None]


def _between(options: _Options, most: Floats, within: Ints, best: Ints) -> Ints:
    """Move groups from a choice within the limits to the best at the duals, as many as possible.

    Those with the largest gain come first.
    """
    every = np.arange(len(within))
    gain = options.regret[every, within] - options.regret[every, best]
    order = np.argsort(-gain, kind="stable")
    order = order[within[order] != best[order]]
    step = options.amounts[:, order, best[order]] - options.amounts[:, order, within[order]]
    over = options.over(within, most)[:, None] + np.cumsum(step, axis=1)
    fits = np.flatnonzero((over <= EPSILON).all(axis=0))
    chosen = within.copy()
    if len(fits):
        moved = order[: fits[-1] + 1]
        chosen[moved] = best[moved]
    return chosen


def _core(options: _Options, chosen: Ints) -> Ints:
    """Return the groups with the smallest loss by another option than the chosen one."""
    other = options.regret.copy()
    other[np.arange(len(chosen)), chosen] = np.inf
    least = other.min(axis=1)
    if len(least) <= MAX_MOVES:
        return np.flatnonzero(np.isfinite(least))
    return np.sort(np.argpartition(least, MAX_MOVES)[:MAX_MOVES])


def _repaired(options: _Options, most: Floats, chosen: Ints) -> Ints | None:
    """Return the choice with single groups moved until the limits are met, or None.

    The cheapest moves come first: regret per excess removed.
    """
    core = _core(options, chosen)
    part, picked, over = options.of(core), chosen[core].copy(), options.over(chosen, most)
    step, loss = _changes_of(part, picked)
    left = np.empty_like(step)
    for _ in range(MAX_STEPS):
        excess = np.maximum(over, 0.0).sum()
        if (over <= EPSILON).all():
            done = chosen.copy()
            done[core] = picked
            return done
        np.maximum(np.add(over[:, None, None], step, out=left), 0.0, out=left)
        less = excess - left.sum(axis=0)
        useful = (less > 1e-12 * (1.0 + excess)) & np.isfinite(loss)
        if not useful.any():
            return None
        price = np.where(useful, np.maximum(loss, 0.0) / np.where(useful, less, 1.0), np.inf)
        cheap = price <= price.min() + 1e-12 * (1.0 + abs(price.min()))
        group, option = np.unravel_index(int(np.where(cheap, less, -np.inf).argmax()), price.shape)
        over = over + step[:, group, option]
        picked[group] = option
        step[:, group] = part.amounts[:, group] - part.amounts[:, group, option][:, None]
        loss[group] = part.regret[group] - part.regret[group, option]
    return None


def _changes_of(part: _Options, picked: Ints) -> tuple[Floats, Floats]:
    """Return the changes of the amounts and of the regret by each option, against the picked."""
    every = np.arange(len(picked))
    step = part.amounts - part.amounts[:, every, picked][:, :, None]
    return step, part.regret - part.regret[every, picked][:, None]


def _improved(options: _Options, most: Floats, chosen: Ints) -> Ints:
    """Return the choice after single moves, then pairs, that gain within the limits."""
    core = _core(options, chosen)
    part, picked, over = options.of(core), chosen[core].copy(), options.over(chosen, most)
    step, _ = _changes_of(part, picked)
    gain = part.worth - part.worth[np.arange(len(core)), picked][:, None]
    for _ in range(MAX_STEPS):
        move = _single(gain, step, over) or _pair(part.regret, gain, step, over, picked)
        if move is None:
            break
        for group, option in move:
            over = over + step[:, group, option]
            picked[group] = option
        for group, option in move:
            step[:, group] = part.amounts[:, group] - part.amounts[:, group, option][:, None]
            gain[group] = part.worth[group] - part.worth[group, option]
    done = chosen.copy()
    done[core] = picked
    return done


Moves = list[tuple[int, int]]


def _single(gain: Floats, step: Floats, over: Floats) -> Moves | None:
    fits = (over[:, None, None] + step <= EPSILON).all(axis=0) & (
        gain > MAX_GAP * (1.0 + np.abs(gain))
    )
    if not fits.any():
        return None
    group, option = np.unravel_index(int(np.where(fits, gain, -np.inf).argmax()), gain.shape)
    return [(int(group), int(option))]


def _pair(regret: Floats, gain: Floats, step: Floats, over: Floats, picked: Ints) -> Moves | None:
    other = regret - regret[np.arange(len(picked)), picked][:, None]
    other[np.arange(len(picked)), picked] = np.inf
    flat = np.argsort(other, axis=None, kind="stable")[:MAX_PAIRS]
    flat = flat[np.isfinite(other.ravel()[flat])]
    group, option = np.unravel_index(flat, other.shape)
    one, moved = gain[group, option], step[:, group, option]
    both = one[:, None] + one[None, :]
    fits = (over[:, None, None] + moved[:, :, None] + moved[:, None, :] <= EPSILON).all(axis=0)
    fits &= (group[:, None] != group[None, :]) & (both > MAX_GAP * (1.0 + np.abs(both)))
    if not fits.any():
        return None
    first, second = np.unravel_index(int(np.where(fits, both, -np.inf).argmax()), both.shape)
    return [(int(group[n]), int(option[n])) for n in (first, second)]


def _searched(
    options: _Options, most: Floats, best: Ints | None, bound: float
) -> tuple[Ints | None, bool]:
    """Run branch and bound over the options whose regret permits a gain.

    Return the best choice, and whether the search was complete.
    """
    worth = -np.inf if best is None else options.worth_of(best)
    close = MAX_GAP * (1.0 + abs(bound))
    if bound - worth <= close:
        return best, True
    may = options.regret <= bound - worth + close
    least = options.regret.argmin(axis=1)
    open_ = np.flatnonzero(may.sum(axis=1) > 1)
    if len(open_) > MAX_EXACT_UNITS:
        return best, False
    part = options.of(open_)
    fixed = np.delete(np.arange(len(least)), open_)
    over = options.amounts[:, fixed, least[fixed]].sum(axis=1) - most
    spread = np.where(may[open_] & (part.regret > 0), part.regret, np.inf).min(axis=1)
    order = np.argsort(-np.where(np.isfinite(spread), spread, 0.0), kind="stable")
    tree = _Tree(
        part.of(order),
        may[open_][order],
        over,
        bound,
        float(options.worth[fixed, least[fixed]].sum()),
    )
    found, complete = tree.search(worth, close)
    if found is None:
        return best, complete
    done = least.copy()
    done[open_[order]] = found
    return done, complete


class _Tree:
    """Depth-first search, the options of a group by regret.

    The rest is worth no more than the bound less the regret so far.
    """

    def __init__(
        self, options: _Options, may: Bools, over: Floats, bound: float, fixed_worth: float
    ) -> None:
        self.bound, self.over, self.fixed_worth = bound, over.tolist(), fixed_worth
        self.choices = [
            [
                (
                    float(options.regret[g, o]),
                    int(o),
                    float(options.worth[g, o]),
                    options.amounts[:, g, o].tolist(),
                )
                for o in np.argsort(options.regret[g], kind="stable")
                if may[g, o]
            ]
            for g in range(len(may))
        ]
        least = np.where(may[None], options.amounts, np.inf).min(axis=2)  # (limits, groups)
        self.rest = np.concatenate(
            [np.cumsum(least[:, ::-1], axis=1)[:, ::-1], np.zeros((len(over), 1))], axis=1
        ).T.tolist()
        self.nodes = 0

    def search(self, worth: float, close: float) -> tuple[Ints | None, bool]:
        """Return the best choice worth over `worth + close`; whether the search was complete."""
        best, target = None, worth
        stack: list[tuple[float, float, list[float], tuple[int, ...]]] = [
            (0.0, self.fixed_worth, self.over, ())
        ]
        while stack:
            regret, value, over, taken = stack.pop()
            self.nodes += 1
            if self.nodes > MAX_NODES:
                return best, False
            if self.bound - regret <= target + close:
                continue
            if len(taken) == len(self.choices):
                if value > target + close:
                    best, target = np.array(taken, dtype=np.int64), value
                continue
            rest = self.rest[len(taken) + 1]
            for lost, option, worth_of, amounts in reversed(self.choices[len(taken)]):
                after = [a + b for a, b in zip(over, amounts, strict=True)]
                if all(a + b <= EPSILON for a, b in zip(after, rest, strict=True)):
                    stack.append((regret + lost, value + worth_of, after, (*taken, option)))
        return best, True


def _whole(limit: Limit) -> float:
    """Return the largest possible sum: rounded down if all amounts are whole, a sharper bound."""
    whole = bool(np.all(limit.amounts == np.rint(limit.amounts)))
    return float(np.floor(limit.most + SLACK * abs(limit.per))) if whole else limit.most


def _score(values: Floats, limits: Sequence[Limit], duals: Floats) -> Floats:
    score = values
    for limit, dual in zip(limits, duals, strict=True):
        if dual > 0:
            charged = dual * limit.amounts
            score = np.subtract(score, charged, out=charged)
    return score


def _together(limits: Sequence[Limit], duals: Floats) -> str:
    names = ", ".join(
        dict.fromkeys(limit.name for limit, dual in zip(limits, duals, strict=True) if dual > 0)
    )
    return (
        f"the table cannot keep these limits together: {names};"
        " each can be met alone, so allow more of one of them"
    )


def _refuse_limit(limit: Limit, pick: Ints) -> str:
    wanted, found = limit.most / limit.per, limit.total(pick) / limit.per
    side, best = ("at least", "most") if limit.per < 0 else ("at most", "least")
    return (
        f"the table cannot keep {limit.name}: wanted {side} {wanted:.4g}, and {found:.4g} is the"
        f" {best} that steps, floors, ceilings, ladders and cells allow"
    )
