"""From the duals to a choice within the limits: repair, moves, and branch and bound.

Units are moved one by one, those with the smallest loss first (their regret at the duals), until
the limits are met; single moves and pairs of moves then use the slack.  If few units can still
gain, branch and bound finds the best choice and proves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Bools, Floats, Ints
from tariffs.optimise.column_generation import SLACK, ColumnSearch, score_at

MAX_GAP = 1e-9  # relative to the bound: a gap that needs no further work
EPSILON = SLACK / 2  # the part of a limit's slack that search may use, in the limit's measure
MAX_MOVES = 4_000  # units with the least regret, considered in repair and search
MAX_STEPS = 2_000
MAX_PAIRS = 300
MAX_NODES = 20_000
MAX_EXACT_UNITS = 60
Moves = list[tuple[int, int]]  # a group, and its new option


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


def best_within(search: ColumnSearch, offsets: Ints) -> tuple[Ints | None, float, bool]:
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


def _of_points(search: ColumnSearch) -> _Options:
    score = score_at(search.values, search.limits, search.duals)
    amounts = np.stack(
        [limit.amounts / per for limit, per in zip(search.limits, search.per, strict=True)]
    )
    return _Options(search.values, amounts, score.max(axis=1, keepdims=True) - score)


def _of_columns(search: ColumnSearch, columns: Sequence[Ints], offsets: Ints) -> _Options:
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
