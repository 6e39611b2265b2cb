"""Which units a pilot executes: pure functions.

The first round executes a few single units, by size, and two short stretches of consecutive ones.
If those show too little, because units are cheap, a second executes some longer stretches. Then it
is known how much a unit takes, so that the last round can be as a run is: all batches if they end
within the time, or stretches of consecutive units, each long enough that the cost of a message
beside its units hardly counts. A single unit of microseconds takes ten times longer than one in
the middle of a batch, and many messages of single units occupy the cores of the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bench.sample import SEED, draw
from ..data.manifest import Manifest
from ..data.messages import Batch

FIRST_UNITS, FIRST_STRETCH_UNITS, FIRST_STRETCHES = 24, 8, 2  # of the first round
MAX_STRETCHES = 5_000
MIN_KNOWN_S = 0.1  # of units in the middle of stretches, to know what a unit takes
TRIALS, TRIAL_SHARE = 16, 0.1  # stretches of the round that shows it, and its part of the time
WHOLE_SHARE = 0.5  # of the time left: what is expected to take less is executed as a whole
SECOND_SHARE = 0.8  # of the time left, for more batches of a batched model
# seconds of a stretch, from..to; between them, so that each worker has some within the time
STRETCH_S, STRETCHES_PER_WORKER = (0.2, 2.0), 60

Range = tuple[int, int]  # the first and the last unit


@dataclass(frozen=True, slots=True)
class Sample:
    """The units of a model that a pilot executes.

    ranges: of consecutive units of a batch, in the order of their messages; None for all batches,
    as in any run. whole: they are all units. last: no other round follows.
    """

    ranges: Sequence[Range] | None = None
    whole: bool = True
    last: bool = True


def first_sample(rows: NDArray[np.int64], manifest: Manifest, batched: bool) -> Sample:
    """Return the units of the first round: all if there are few, and of a batched model a typical
    batch.
    """
    typical = typical_first(manifest)
    if batched:
        if len(typical) == 1:
            return Sample()
        return Sample([(typical[0].first, typical[0].last)], False, False)
    if len(rows) <= FIRST_UNITS + FIRST_STRETCHES * FIRST_STRETCH_UNITS:
        return Sample()
    stretches = [_middle(batch) for batch in typical[:FIRST_STRETCHES]]
    inside = {unit for first, last in stretches for unit in range(first, last + 1)}
    order = [int(unit) for unit in draw(rows).order[: FIRST_UNITS + len(inside)]]
    single = [(unit, unit) for unit in order if unit not in inside][:FIRST_UNITS]
    return Sample([*single, *stretches], False, False)


def _middle(batch: Batch) -> Range:
    units = min(batch.last - batch.first + 1, FIRST_STRETCH_UNITS)
    first = batch.first + (batch.last - batch.first + 1 - units) // 2
    return first, first + units - 1


def next_sample(
    manifest: Manifest, expected: NDArray[np.float64], known_s: float, left_s: float, workers: int
) -> Sample | None:
    """Return the units of the next round; None if there is no time.

    expected: seconds of each unit, shape (units,). known_s: seconds of the units in the middle of
    stretches that were executed. left_s: the time of all rounds to come.
    """
    total = float(expected.sum())
    if known_s < MIN_KNOWN_S and total > MIN_KNOWN_S:
        return _trial(manifest.batches, expected, TRIAL_SHARE * left_s * workers)
    if total / workers <= WHOLE_SHARE * left_s:
        return Sample()
    if left_s < STRETCH_S[0]:
        return None
    target = float(np.clip(left_s * workers / STRETCHES_PER_WORKER, *STRETCH_S))
    ranges = stretches_of(manifest.batches, expected, target)
    return Sample(ranges[:MAX_STRETCHES], len(ranges) <= MAX_STRETCHES)


def _trial(batches: Sequence[Batch], expected: NDArray[np.float64], seconds: float) -> Sample:
    """Return some stretches that take about `seconds`, or less: single units took longer."""
    ranges = stretches_of(batches, expected, seconds / TRIALS)[:TRIALS]
    return Sample(ranges, False, False)


def next_batches(
    manifest: Manifest, expected: NDArray[np.float64], left_s: float, workers: int
) -> Sample | None:
    """Return whole batches that a batched model executes in `left_s`; None if there is none."""
    typical = typical_first(manifest)
    sums = np.concatenate([[0.0], np.cumsum(expected)])
    ahead = np.cumsum([sums[b.last + 1] - sums[b.first] for b in typical[1:]])
    fits = int(np.searchsorted(ahead, SECOND_SHARE * left_s * workers))
    if fits == len(typical) - 1:
        return Sample()
    return Sample([(b.first, b.last) for b in typical[: 1 + fits]], False) if fits else None


def stretches_of(
    batches: Sequence[Batch], expected: NDArray[np.float64], target_s: float
) -> list[Range]:
    """Cut batches into stretches of about `target_s` expected seconds, and return them shuffled.

    One that is more expensive, with a long unit, tends to be earlier: it would not end later.
    """
    sums = np.concatenate([[0.0], np.cumsum(expected)])
    firsts: list[NDArray[np.intp]] = []
    for batch in batches:
        number = (sums[batch.first : batch.last + 1] - sums[batch.first]) // target_s
        starts = np.flatnonzero(np.diff(number, prepend=-1.0))
        firsts.append(starts + batch.first)
    first = np.sort(np.concatenate(firsts))
    last = np.append(first[1:] - 1, len(expected) - 1)
    cost = sums[last + 1] - sums[first]
    ranks = np.random.default_rng(SEED).exponential(size=len(first)) / np.maximum(cost, 1e-12)
    order = np.argsort(ranks)
    return [(int(a), int(b)) for a, b in zip(first[order], last[order], strict=True)]


def typical_first(manifest: Manifest) -> list[Batch]:
    """Return the batches, those of the median cost first: the last one may have two units."""
    median = float(np.median([batch.cost for batch in manifest.batches]))
    return sorted(manifest.batches, key=lambda batch: abs(batch.cost - median))
