"""Fits of the seconds of a sample of units: pure functions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..bench.sample import expected_costs

MIN_START_S, START_FACTOR = 0.02, 10.0  # a first call above both of them includes the imports
MIN_ERROR = 0.02  # of a sum that is extrapolated
FEW_UNITS_SPREAD = 0.5  # assumption: of a single unit
MIN_RUNNING_S, RUNNING_FACTOR = 0.5, 2.0  # a unit that runs above both of them is slow

Floats = NDArray[np.float64]


def sum_error(spread: float, timed: int) -> float:
    """Return the standard error of a sum that is extrapolated, as a fraction.

    A few units do not show their spread.
    """
    root = math.sqrt(timed)
    return max(max(spread, FEW_UNITS_SPREAD / root) / root, MIN_ERROR)


def fit_costs(
    rows: NDArray[np.int64], done: NDArray[np.bool_], seconds: Floats, first_calls: int
) -> tuple[Floats, float, float]:
    """Return the expected seconds of all units, their spread, and the seconds of a first call.

    seconds: of the units that are done. first_calls: units that may have been the first of their
    process, whose imports count once and not for each unit.
    """
    count = len(seconds)
    typical = float(np.median(seconds))
    most = min(first_calls, count // 4)
    largest = np.argsort(seconds)[count - most :] if most else np.array([], int)
    above = seconds[largest] > max(MIN_START_S, START_FACTOR * typical)
    # large units may be slow themselves: then most units of their size are
    alike = rows[done] >= np.median(rows[done][largest]) if most else np.zeros(count, bool)
    outliers = largest[above] if most and alike.sum() > 2 * most else largest[:0]
    kept = np.ones(count, bool)
    kept[outliers] = False
    used = done.copy()
    used[np.flatnonzero(done)[outliers]] = False
    expected = expected_costs(rows, used, seconds[kept])
    fitted = expected[used]
    scale = float(np.mean(fitted))
    spread = float(np.sqrt(np.mean((seconds[kept] - fitted) ** 2))) / scale if scale else 0.0
    first = float(np.median(seconds[outliers])) if len(outliers) else 0.0
    return expected, spread, first


def count_running(
    running: float, left: NDArray[np.intp], rows: NDArray[np.int64], expected: Floats
) -> float:
    """Return the seconds that a unit had run when the time of the pilot was over, if it is slow.

    Which one it was is unknown: of those that had not ended (`left`), the one with the most rows
    counts with these seconds, in `expected`. Otherwise return 0.
    """
    slow = max(MIN_RUNNING_S, RUNNING_FACTOR * float(expected.max()))
    if not len(left) or running <= slow:
        return 0.0
    expected[left[rows[left].argmax()]] = running
    return running
