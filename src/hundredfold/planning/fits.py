"""Fits of the seconds of a sample of units: pure functions.

A unit takes seconds of its own, seconds for its rows, and if it is the first of a chunk, or of its
process, more. The fit is linear in the rows; where units of some sizes take another multiple of
it, theirs is corrected by that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bench.sample import expected_costs

MIN_START_S, START_FACTOR = 0.02, 10.0  # a first call above both of them includes the imports
MIN_ERROR = 0.02  # of a sum that is extrapolated
FEW_UNITS_SPREAD = 0.5  # assumption: of a single unit
MIN_RUNNING_S, RUNNING_FACTOR = 0.5, 2.0  # a unit that runs above both of them is slow
MIN_LATER_UNITS = 8  # in the middle of chunks, to compare the first ones with
SIZES, MIN_UNITS_OF_SIZE = 6, 10  # sizes whose multiple is known, and sampled units of each

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fit:
    """Expected seconds of all units, shape (units,), and how far they are known.

    spread, error: as in simulator.Work. first_call_s, chunk_s: what the first unit of a process,
    and of a chunk, takes more. later_s: of the units that are not the first of their chunk.
    """

    expected: Floats
    spread: float
    error: float
    first_call_s: float
    chunk_s: float
    later_s: float


def sum_error(spread: float, timed: int) -> float:
    """Return the standard error of a sum that is extrapolated, as a fraction.

    A few units do not show their spread.
    """
    root = math.sqrt(timed)
    return max(max(spread, FEW_UNITS_SPREAD / root) / root, MIN_ERROR)


def fit_costs(
    rows: NDArray[np.int64], done: Marks, seconds: Floats, first_calls: int, begins: Marks
) -> Fit:
    """Return the expected seconds of all units.

    seconds, begins: of the units that are done, in order: their seconds, and whether each is the
    first of its chunk. first_calls: units that may have been the first of their process, whose
    imports count once and not for each unit.
    """
    outliers = _first_calls(rows[done], seconds, first_calls)
    kept = np.ones(len(seconds), bool)
    kept[outliers] = False
    own = _marked(done, kept)
    chunk_s = _chunk_seconds(rows, own, seconds[kept], begins[kept])
    less = np.where(begins, np.maximum(seconds - chunk_s, 0.0), seconds)
    expected = _by_sizes(rows, own, less[kept], expected_costs(rows, own, less[kept]))
    fitted = expected[own]
    scale = float(np.mean(fitted))
    spread = float(np.sqrt(np.mean((less[kept] - fitted) ** 2))) / scale if scale else 0.0
    groups = np.cumsum(begins, dtype=np.int64)[kept]
    executed = float(fitted.sum() / expected.sum())
    error = max(
        _group_error(groups, less[kept], fitted) * math.sqrt(max(1 - executed, 0.0)),
        sum_error(spread, int(kept.sum())),
    )
    first = float(np.median(seconds[outliers])) if len(outliers) else 0.0
    later_s = float(seconds[~begins].sum())
    return Fit(expected, spread, error, first, chunk_s, later_s)


def _marked(done: Marks, kept: Marks) -> Marks:
    """Return the units that are done and kept. kept: of those that are done."""
    own = done.copy()
    own[np.flatnonzero(done)[~kept]] = False
    return own


def _first_calls(rows: NDArray[np.int64], seconds: Floats, first_calls: int) -> NDArray[np.intp]:
    """Return the units whose seconds include the imports of their process."""
    count, typical = len(seconds), float(np.median(seconds))
    most = min(first_calls, count // 4)
    if not most:
        return np.array([], np.intp)
    largest = np.argsort(seconds)[count - most :]
    above = seconds[largest] > max(MIN_START_S, START_FACTOR * typical)
    # large units may be slow themselves: then most units of their size are
    alike = rows >= np.median(rows[largest])
    return largest[above] if alike.sum() > 2 * most else largest[:0]


def _chunk_seconds(rows: NDArray[np.int64], own: Marks, seconds: Floats, begins: Marks) -> float:
    """Return what the first unit of a chunk takes more than the others, 0 if there are few."""
    if (~begins).sum() < MIN_LATER_UNITS or not begins.any():
        return 0.0
    later = expected_costs(rows, _marked(own, ~begins), seconds[~begins])[own]
    return max(float(np.median((seconds - later)[begins])), 0.0)


def _by_sizes(rows: NDArray[np.int64], own: Marks, seconds: Floats, expected: Floats) -> Floats:
    """Multiply the expected seconds of units of each size by the factor that was measured.

    The sizes divide the units that are done into parts with even seconds.
    """
    sampled = rows[own]
    order = np.argsort(sampled, kind="stable")
    sums = np.cumsum(seconds[order])
    cuts = np.searchsorted(sums, sums[-1] * np.arange(1, SIZES) / SIZES)
    edges: list[int] = []
    for edge in np.unique(sampled[order[np.minimum(cuts, len(order) - 1)]]):
        below = sampled < edge
        if edges:
            below &= sampled >= edges[-1]
        if min(below.sum(), (sampled >= edge).sum()) >= MIN_UNITS_OF_SIZE:
            edges.append(int(edge))
    size = np.searchsorted(edges, sampled, side="right")
    factors = np.ones(len(edges) + 1)
    for number in range(len(factors)):
        fitted = float(expected[own][size == number].sum())
        factors[number] = float(seconds[size == number].sum()) / fitted if fitted else 1.0
    return np.asarray(expected * factors[np.searchsorted(edges, rows, side="right")], np.float64)


def _group_error(groups: NDArray[np.int64], seconds: Floats, fitted: Floats) -> float:
    """Return the standard error of the sum of all units, as a fraction: by how much the chunks
    differ from the fit.

    Units that are neighbours may be alike, so that the chunks are the sample, not the units.
    """
    _, number = np.unique(groups, return_inverse=True)
    count = int(number.max()) + 1
    total = float(fitted.sum())
    if count < 2 or not total:
        return 0.0
    beside = np.bincount(number, seconds - fitted)
    return math.sqrt(count / (count - 1) * float((beside**2).sum())) / total


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
