"""The ladder: a larger size of a bundle costs no less, and its megabyte costs no more.

Prices that are best alone may violate this.  Then the rungs are chosen together: the sum of their
robust margins is maximised over all possible price points, exactly, by dynamic programming along
the rungs (Viterbi), O(rungs x points^2).  If a rung's price affects its neighbours' sales, a rung's
worth depends on three prices, and the programme runs over pairs: O(rungs x points^3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tariffs.columns import Bools, Floats

SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Rung:
    """A bundle size: its volume in MB, its possible prices, and their worth per week (points,).

    cross_effect  factor of each price on the neighbouring rungs' sales (points,), or no effect
    """

    volume_mb: float
    prices: Floats
    values: Floats
    cross_effect: Floats = field(default_factory=lambda: np.ones(1))


def in_order(prices: Floats, volumes_mb: Floats) -> bool:
    """Return whether prices rise, and prices per MB fall, along the rungs; shape (rungs,) each."""
    per_mb = prices / volumes_mb
    return bool(
        np.all(prices[1:] >= prices[:-1] - SLACK) and np.all(per_mb[1:] <= per_mb[:-1] + SLACK)
    )


def best_in_order(rungs: Sequence[Rung]) -> Floats | None:
    """Return the prices in order that are worth most together; None if no choice is in order.

    Among equal sums the lower price of the larger bundle is taken, so that the result is unique.
    """
    best, came_from = rungs[0].values, []
    for lower, upper in pairwise(rungs):
        reach = np.where(_follows(lower, upper), best[:, None], -np.inf)
        came_from.append(reach.argmax(axis=0))
        best = reach.max(axis=0) + upper.values
    if not np.isfinite(best).any():
        return None
    at = [int(best.argmax())]
    for origins in reversed(came_from):
        at.append(int(origins[at[-1]]))
    return np.array([rung.prices[point] for rung, point in zip(rungs, reversed(at), strict=True)])


def best_with_cross_effects(rungs: Sequence[Rung]) -> Floats | None:
    """Return the same with cross effects: rung j is worth values_j x effect_j-1 x effect_j+1."""
    if len(rungs) < 2:
        return best_in_order(rungs)
    first, second = rungs[:2]
    best = np.where(
        _follows(first, second), first.values[:, None] * second.cross_effect[None, :], -np.inf
    )  # (points of j, points of j + 1)
    came_from = []
    for lower, rung, upper in zip(rungs, rungs[1:], [*rungs[2:], None], strict=False):
        above, fits = (
            (np.ones(1), np.zeros((len(rung.prices), 1)))
            if upper is None
            else (upper.cross_effect, _order_cost(rung, upper))
        )
        own = lower.cross_effect[:, None, None] * (rung.values[:, None] * above[None, :])[None]
        reach = best[:, :, None] + own + fits[None]
        came_from.append(reach.argmax(axis=0))
        best = reach.max(axis=0)
    if not np.isfinite(best).any():
        return None
    at = [0, int(best[:, 0].argmax())]  # the point above the last rung is 0
    for origins in reversed(came_from):
        at.append(int(origins[at[-1], at[-2]]))
    return np.array(
        [rung.prices[point] for rung, point in zip(rungs, reversed(at[1:]), strict=True)]
    )


def worth(rungs: Sequence[Rung], prices: Floats) -> float:
    """Return the worth of a ladder at these prices, each of which is one of its rung's."""
    at = [
        int(np.argmin(np.abs(rung.prices - price)))
        for rung, price in zip(rungs, prices, strict=True)
    ]
    pulls = [
        float(rung.cross_effect[min(i, len(rung.cross_effect) - 1)])
        for rung, i in zip(rungs, at, strict=True)
    ]
    beside = [low * high for low, high in zip([1.0, *pulls[:-1]], [*pulls[1:], 1.0], strict=True)]
    return sum(
        float(rung.values[i]) * cross_effect
        for rung, i, cross_effect in zip(rungs, at, beside, strict=True)
    )


def _order_cost(lower: Rung, upper: Rung) -> Floats:
    return np.where(_follows(lower, upper), 0.0, -np.inf)


def _follows(lower: Rung, upper: Rung) -> Bools:
    """Return which prices of the larger bundle are in order with which of the smaller.

    Shape (points below, points above).
    """
    dearer = upper.prices[None, :] >= lower.prices[:, None] - SLACK
    better_value = (
        upper.prices[None, :] / upper.volume_mb <= lower.prices[:, None] / lower.volume_mb + SLACK
    )
    return np.asarray(dearer & better_value, dtype=np.bool_)
