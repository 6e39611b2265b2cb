"""The ladder: of the sizes of one bundle, a larger one costs no less, and its megabyte costs no more.

Prices that are best alone may break this.  Then the rungs are chosen together: the sum of their robust margins is maximised over all the
price points in reach, by dynamic programming along the rungs (Viterbi), O(rungs x points^2), exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tariffs.rows import Bools, Floats

SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Rung:
    """A bundle size: its volume in MB, the prices in reach (points,), what each is worth in money per week (points,)."""

    volume_mb: float
    prices: Floats
    values: Floats


def in_order(prices: Floats, volumes_mb: Floats) -> bool:
    """Do prices rise, and prices per MB fall, along the rungs?  Both of shape (rungs,), by size."""
    per_mb = prices / volumes_mb
    return bool(np.all(prices[1:] >= prices[:-1] - SLACK) and np.all(per_mb[1:] <= per_mb[:-1] + SLACK))


def climb(rungs: Sequence[Rung]) -> Floats | None:
    """The prices, one per rung, that are worth most together and in order; None where no choice is in order.

    Of equal sums the lower price of the larger bundle wins, so that the answer does not depend on chance.
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


def _follows(lower: Rung, upper: Rung) -> Bools:
    """May this price of the larger bundle stand above that price of the smaller?  Shape (points below, points above)."""
    dearer = upper.prices[None, :] >= lower.prices[:, None] - SLACK
    better_value = upper.prices[None, :] / upper.volume_mb <= lower.prices[:, None] / lower.volume_mb + SLACK
    return np.asarray(dearer & better_value, dtype=np.bool_)
