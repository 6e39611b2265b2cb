"""From some units to all of them: which are drawn for a sample, and what all would cost. Thought without action."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 1


@dataclass(frozen=True, slots=True)
class Draw:
    """Units in the order in which they are taken into a sample: by chance, the larger ones rather earlier.

    A unit's `size` is half its share of the units and half its share of the rows, so that those few that hold most of the
    rows are not missed. Whoever stops after the first n has a sample without replacement (ranks are exponential in the size).
    """

    order: NDArray[np.intp]
    ranks: NDArray[np.float64]
    size: NDArray[np.float64]


def draw(rows: NDArray[np.int64], seed: int = SEED) -> Draw:
    """The same order for the same rows, whoever asks. rows: shape (units,), 1 or more."""
    size = 0.5 / len(rows) + 0.5 * rows / max(int(rows.sum()), 1)
    ranks = np.random.default_rng(seed).exponential(size=len(rows)) / size
    order = np.argsort(ranks)
    return Draw(order, ranks[order], size[order])


def total(drawn: Draw, seconds: NDArray[np.float64]) -> tuple[float, float]:
    """What all units take, from those that were timed: the first of the draw. With it the standard error, as a share.

    A ratio estimator: each timed unit counts for those like it (one over the chance that it came into the sample), and what
    they take a size is taken for what all take a size.
    """
    count = len(seconds)
    if count == len(drawn.order):
        return float(seconds.sum()), 0.0
    size = drawn.size[:count]
    chance = -np.expm1(-size * drawn.ranks[count])
    ratio = float((seconds / chance).sum() / (size / chance).sum())
    beside = (seconds - ratio * size) / chance
    error = float(np.sqrt(((1 - chance) * beside**2).sum()) * np.sqrt(count / max(count - 1, 1)))
    return ratio, error / ratio if ratio else 0.0


def costs(
    rows: NDArray[np.int64], done: NDArray[np.bool_], seconds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What each unit is expected to cost, if a unit costs something, and each of its rows something: fitted to those done.

    rows, done: shape (units,); seconds: of those done.
    """
    x, y = rows[done].astype(float), seconds
    spread = float(((x - x.mean()) ** 2).sum())
    a_row = max(float(((x - x.mean()) * (y - y.mean())).sum()) / spread, 0.0) if spread else 0.0
    a_unit = float(y.mean()) - a_row * float(x.mean())
    if a_unit < 0:
        a_unit, a_row = 0.0, float(y.sum() / x.sum())
    expected = (a_unit + a_row * rows).astype(np.float64)
    return expected if expected.sum() > 0 else np.ones(len(rows))


def scaled(
    first: tuple[int, float],
    last: tuple[int, float],
    expected: NDArray[np.float64],
    done: NDArray[np.bool_],
) -> float:
    """Seconds of all units of a run that was stopped, from when so many units were done: (units, seconds since the work began).

    Between the first and the last handing over no worker was idle, so what came before the first, their start, is counted once.
    """
    units, seconds = last[0] - first[0], last[1] - first[1]
    if not units or not seconds:
        units, seconds = last
    a_cost = seconds / (units * float(expected[done].mean()))
    return last[1] + a_cost * float(expected[~done].sum())
