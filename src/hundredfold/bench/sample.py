"""Extrapolation from some units to all: the choice of a sample, and estimates of the total cost;
pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 1


@dataclass(frozen=True, slots=True)
class Draw:
    """The random order in which units are sampled; larger ones tend to be earlier.

    A unit's `size` is half its share of the units plus half its share of the rows, so that the few
    units with most of the rows are not missed. The first n units are a sample without replacement
    (ranks are exponential in the size).
    """

    order: NDArray[np.intp]
    ranks: NDArray[np.float64]
    size: NDArray[np.float64]


def draw(rows: NDArray[np.int64], seed: int = SEED) -> Draw:
    """Return the order, always the same for the same rows. rows: shape (units,), 1 or more."""
    size = 0.5 / len(rows) + 0.5 * rows / max(int(rows.sum()), 1)
    ranks = np.random.default_rng(seed).exponential(size=len(rows)) / size
    order = np.argsort(ranks)
    return Draw(order, ranks[order], size[order])


def estimate_total(drawn: Draw, seconds: NDArray[np.float64]) -> tuple[float, float]:
    """Return the estimated time of all units from the first timed ones, and its relative standard
    error.

    A ratio estimator: each timed unit counts for the units like it (by the inverse of its
    probability of being in the sample), and the time per size of the sample is that of all units.
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


def expected_costs(
    rows: NDArray[np.int64], done: NDArray[np.bool_], seconds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the expected cost of each unit, by a fit of a cost per unit and a cost per row.

    rows, done: shape (units,); seconds: of the units that are done.
    """
    x, y = rows[done].astype(float), seconds
    spread = float(((x - x.mean()) ** 2).sum())
    a_row = max(float(((x - x.mean()) * (y - y.mean())).sum()) / spread, 0.0) if spread else 0.0
    a_unit = float(y.mean()) - a_row * float(x.mean())
    if a_unit < 0:
        a_unit, a_row = 0.0, float(y.sum() / x.sum())
    expected = (a_unit + a_row * rows).astype(np.float64)
    return expected if expected.sum() > 0 else np.ones(len(rows))


def extrapolate(
    first: tuple[int, float],
    last: tuple[int, float],
    expected: NDArray[np.float64],
    done: NDArray[np.bool_],
) -> float:
    """Return the seconds of all units of a run that was stopped.

    first, last: (units, seconds since the work began) of the first and last commit. Between the two
    no worker was idle, so the time before the first, in which workers start, counts once.
    """
    units, seconds = last[0] - first[0], last[1] - first[1]
    if not units or not seconds:
        units, seconds = last
    a_cost = seconds / (units * float(expected[done].mean()))
    return last[1] + a_cost * float(expected[~done].sum())
