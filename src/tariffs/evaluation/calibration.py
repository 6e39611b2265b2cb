"""Does P(gain) keep its word?  Of the moves that were promised to gain with 80 %, do 80 % gain?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.evaluation.true_value import Market

EDGES = (
    0.0,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.99,
    1.0,
)  # tenths; the last, where most moves are, in three
Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Band:
    """Moves of like promise.  lowest, highest, promised: the least, largest and mean P(gain) among them; realised: the share that truly gained, with
    its 95 % interval (Wilson)."""

    moves: int
    lowest: float
    highest: float
    promised: float
    realised: float
    interval: tuple[float, float]

    @property
    def fits(self) -> bool:
        """Whether the promise lies in the interval of what came of it."""
        return self.interval[0] <= self.promised <= self.interval[1]


@dataclass(frozen=True, slots=True)
class Calibration:
    """All moves of a line together, and by bands of what they were promised; and the promised money beside the true one, per week."""

    line: str
    all: Band
    bands: tuple[Band, ...]
    promised_margin: float
    true_margin: float


def calibrate(market: Market) -> Calibration | None:
    """Promise and outcome of every move in the published table; None where nothing moved."""
    moved = market.moved
    if not moved.any():
        return None
    gain = market.gain()
    promise, gained = market.p_gain[moved], gain[moved] > 0
    band = np.clip(np.searchsorted(EDGES, promise, side="right"), 1, len(EDGES) - 1)
    bands = tuple(_band(promise[band == n], gained[band == n]) for n in np.unique(band))
    return Calibration(
        market.line.kind,
        _band(promise, gained),
        bands,
        float(market.promised[moved].sum()),
        float(gain[moved].sum()),
    )


def _band(promise: np.ndarray, gained: np.ndarray) -> Band:
    count, hits = len(promise), int(gained.sum())
    return Band(
        count,
        float(promise.min()),
        float(promise.max()),
        float(promise.mean()),
        hits / count,
        wilson(hits, count),
    )


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): it stays within 0 and 1, and has a width also where all or none hit."""
    share, z2 = hits / count, Z95 * Z95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (
        Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    )
    return max(centre - half, 0.0), min(centre + half, 1.0)
