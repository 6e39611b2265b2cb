"""Calibration of P(gain): of the moves with a probability of 80 %, do 80 % gain?"""

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
)  # tenths; the last, with most of the moves, in three parts
Z95 = 1.959963984540054
MAX_SHOWN_P_GAIN = 0.99  # a higher one is shown as ">0.99"


@dataclass(frozen=True, slots=True)
class Band:
    """Moves of similar P(gain).

    lowest, highest, promised   least, largest and mean P(gain)
    realised, interval          the share that truly gained, with its 95 % interval (Wilson)
    """

    moves: int
    lowest: float
    highest: float
    promised: float
    realised: float
    interval: tuple[float, float]

    @property
    def fits(self) -> bool:
        """Whether the mean P(gain) is in the interval of the realised share.

        P(gain) is capped, so of moves that promise over 0.99 more may gain than they promise.
        """
        low, high = self.interval
        return self.promised <= high and (low <= self.promised or self.promised > MAX_SHOWN_P_GAIN)


@dataclass(frozen=True, slots=True)
class Calibration:
    """All moves of a line, together and in bands, and the promised and true money per week."""

    line: str
    all: Band
    bands: tuple[Band, ...]
    promised_margin: float
    true_margin: float


def calibrate(market: Market) -> Calibration | None:
    """Return the calibration of the published table; None if nothing moved."""
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
    """Return the 95 % interval of a share (Wilson 1927).

    It stays within 0 and 1, and has a positive width even if all or none hit.
    """
    share, z2 = hits / count, Z95 * Z95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (
        Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    )
    return max(centre - half, 0.0), min(centre + half, 1.0)
