"""Best answers of units that are connected in chains: ladders, and rings of hours; all at once.

Most chains are in order when each unit takes its own best point.  The others are solved together by
dynamic programming over arrays (chains, points, points), so that a million units take a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tariffs.columns import Bools, Floats, Ints
from tariffs.optimise.smooth import HOURS, excess

SLACK = 1e-9
MAX_TABLE_CELLS = 4_000_000  # of the largest array


class Constraint(Protocol):
    """The cost of a unit's price beside the next unit's price: 0, or more than any worth.

    The shapes of the prices broadcast.
    """

    @property
    def ring(self) -> bool: ...  # whether the last unit is followed by the first

    def cost(
        self, unit: Ints, price: Floats, after: Ints, price_after: Floats, dear: float
    ) -> Floats: ...

    def of(self, units: Ints) -> Constraint: ...  # the constraint of some of the units


@dataclass(frozen=True, slots=True)
class LadderConstraint:
    """A larger size costs no less, and its megabyte no more.  volume_mb (units,)."""

    volume_mb: Floats
    ring: bool = False

    def cost(
        self, unit: Ints, price: Floats, after: Ints, price_after: Floats, dear: float
    ) -> Floats:
        shape = (-1,) + (1,) * (price.ndim - 1)
        small, large = self.volume_mb[unit].reshape(shape), self.volume_mb[after].reshape(shape)
        ordered = (price_after >= price - SLACK) & (price_after / large <= price / small + SLACK)
        return np.where(ordered, 0.0, dear)

    def of(self, units: Ints) -> LadderConstraint:
        return LadderConstraint(self.volume_mb[units])


@dataclass(frozen=True, slots=True)
class DayConstraint:
    """No cliff between consecutive hours, around midnight, or the smallest.  hour, limit (units,).

    The limit is in money.
    """

    hour: Ints
    limit: Floats
    ring: bool = True

    def cost(
        self, unit: Ints, price: Floats, after: Ints, price_after: Floats, dear: float
    ) -> Floats:
        shape = (-1,) + (1,) * (price.ndim - 1)
        linked = ((self.hour[after] - self.hour[unit]) % HOURS == 1).reshape(shape)
        limit = self.limit[unit].reshape(shape)
        return np.where(linked, excess(price, price_after, limit) / limit * 1e3 * dear, 0.0)

    def of(self, units: Ints) -> DayConstraint:
        return DayConstraint(self.hour[units], self.limit[units])


@dataclass(frozen=True, slots=True)
class Chains:
    """All chains: chain c is the units offsets[c]:offsets[c + 1].

    prices  (units, points), of which the first `counts` (units,) are possible
    loose   chains that are not constrained (chains,)
    """

    offsets: Ints
    prices: Floats
    tie: Constraint
    loose: Bools
    counts: Ints

    def answer(self, score: Floats) -> Ints:
        """Return the best points for a score (units, points), -inf for none; shape (units,).

        They are in order as far as an order exists.
        """
        pick: Ints = score.argmax(axis=1)
        for units in self._broken(pick):
            pick[units] = self._best(units, score)
        return pick

    def _broken(self, pick: Ints) -> Iterator[Ints]:
        """Yield the units of the chains that are out of order, as (chains, length), in parts."""
        sizes = np.diff(self.offsets)
        unit = np.arange(len(pick))
        chain = np.repeat(np.arange(len(sizes)), sizes)
        after = np.where(
            unit + 1 < self.offsets[chain + 1],
            unit + 1,
            self.offsets[chain] if self.tie.ring else unit,
        )
        price = self.prices[unit, pick]
        bad = (
            (after != unit)
            & (self.tie.cost(unit, price, after, price[after], 1.0) > 0)
            & ~self.loose[chain]
        )
        broken = np.unique(chain[bad])
        width = np.maximum.reduceat(self.counts, self.offsets[:-1])[broken]
        for length, wide in np.unique(np.stack([sizes[broken], width]), axis=1).T:
            first = self.offsets[broken[(sizes[broken] == length) & (width == wide)]]
            part = max(MAX_TABLE_CELLS // int(wide) ** 2, 1)
            for start in range(0, len(first), part):
                yield first[start : start + part, None] + np.arange(length)

    def sample(self, every: int) -> tuple[Chains, Ints]:
        """Return every n-th chain, and the numbers of its units in this object."""
        sizes, taken = np.diff(self.offsets), np.arange(len(self.offsets) - 1) % every == 0
        at = np.flatnonzero(np.repeat(taken, sizes))
        offsets = np.append(0, np.cumsum(sizes[taken]))
        return Chains(
            offsets, self.prices[at], self.tie.of(at), self.loose[taken], self.counts[at]
        ), at

    def _best(self, units: Ints, score: Floats) -> Ints:
        wide = int(self.counts[units].max())
        score = score[:, :wide]
        worth = np.where(np.isfinite(score[units]), score[units], 0.0)
        dear = 1.0 + 4.0 * units.shape[1] * float(np.ptp(worth))
        if not self.tie.ring:
            return self._along(units, score, dear, None)[0]
        turned = self._turned(units, score)
        best, worth_of_best = turned.copy(), np.full(len(units), -np.inf)
        for start in range(score.shape[1]):
            at = np.flatnonzero(np.isfinite(score[turned[:, 0], start]))
            if len(at):
                pick, total = self._along(turned[at], score, dear, start)
                better = total > worth_of_best[at]
                best[at[better]], worth_of_best[at[better]] = pick[better], total[better]
        back = np.argsort(turned, axis=1)
        return np.take_along_axis(best, back, axis=1)

    def _turned(self, units: Ints, score: Floats) -> Ints:
        """Rotate each ring to the unit with the fewest points, since each needs one pass."""
        choices = np.isfinite(score[units]).sum(axis=2)
        turn = (choices.argmin(axis=1)[:, None] + np.arange(units.shape[1])) % units.shape[1]
        return np.take_along_axis(units, turn, axis=1)

    def _along(
        self, units: Ints, score: Floats, dear: float, start: int | None
    ) -> tuple[Ints, Floats]:
        """Run Viterbi along the chains, from one point of their first unit or from any.

        Return the points (chains, length) and their worth (chains,).
        """
        best = score[units[:, 0]].copy()
        if start is not None:
            best[:, np.arange(best.shape[1]) != start] = -np.inf
        came_from = []
        for before, at in zip(units.T, units.T[1:], strict=False):
            price, after = self.prices[before, : best.shape[1]], self.prices[at, : best.shape[1]]
            reach = best[:, :, None] - self.tie.cost(
                before, price[:, :, None], at, after[:, None, :], dear
            )
            came_from.append(reach.argmax(axis=1))
            best = reach.max(axis=1) + score[at]
        if start is not None:
            last, first = units[:, -1], units[:, 0]
            best = best - self.tie.cost(
                last,
                self.prices[last, : best.shape[1]],
                first,
                self.prices[first][:, [start]],
                dear,
            )
        return _back(best, came_from)


def _back(best: Floats, came_from: list[Ints]) -> tuple[Ints, Floats]:
    every = np.arange(len(best))
    at = [best.argmax(axis=1)]
    for origins in reversed(came_from):
        at.append(origins[every, at[-1]])
    return np.stack(at[::-1], axis=1), best.max(axis=1)
