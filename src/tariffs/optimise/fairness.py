"""One product in one location, several segments: a limit on the highest over the lowest price.

The prices are in a band [p, ratio x p].  Given the band, each segment takes its best price in it,
so the best band is one of those that begin at a price point: O(points x segments).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats

SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Band:
    """The limits, and each segment's best price within them, or the nearest; shape (segments,)."""

    lowest: float
    highest: float
    prices: Floats


def band(points: Sequence[Floats], values: Sequence[Floats], ratio: float) -> Band:
    """Return the band that is worth most among those that leave the least outside.

    Among equals it is the lowest.

    points, values  for each segment its possible prices and their worth in money, shape (points,)
    """
    starts = np.unique(np.concatenate(points))
    outside, worth, picks = (
        np.zeros(len(starts)),
        np.zeros(len(starts)),
        np.zeros((len(starts), len(points)), dtype=np.int64),
    )
    for number, (prices, value) in enumerate(zip(points, values, strict=True)):
        far = np.maximum(
            np.maximum(starts[:, None] - prices, prices - ratio * starts[:, None]) / prices, 0.0
        )
        far = np.where(far > SLACK, far, 0.0)
        nearest = far.min(axis=1, keepdims=True)
        pick = np.where(far <= nearest + SLACK, value, -np.inf).argmax(axis=1)
        picks[:, number] = pick
        outside += far[np.arange(len(starts)), pick]
        worth += value[pick]
    best = int(np.lexsort((starts, -worth, np.round(outside, 9)))[0])
    chosen = np.array([prices[picks[best, n]] for n, prices in enumerate(points)])
    return Band(float(starts[best]), float(ratio * starts[best]) + SLACK, chosen)
