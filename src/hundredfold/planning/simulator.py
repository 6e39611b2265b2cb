"""A discrete-event simulation of one model's batches on a fleet; pure, and seeded by its generator.

Two heaps hold all of its state: the slots by the time at which they are free, and the messages by
the time at which they are available. Each step assigns the first message to the first slot. A
message that is throttled or interrupted, or that exceeds the function's timeout, returns to its
heap with the time of its next delivery. Random numbers of all batches are drawn before the first
step, so that a step costs about a microsecond (decision 0065).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray

from .fleets import THROTTLE_PAUSE_S, Fleet

Floats = NDArray[np.float64]
STRAGGLER_SHARE, STRAGGLER_FACTOR = 0.01, (1.3, 3.0)  # assumption: of batches outside of here
TIMEOUT_SHARE = 0.9  # of the timeout, after which a worker sends a message for the rest
IDLE_EXIT_S = 20.0  # a container ends when a long poll found the queue empty


@dataclass(frozen=True, slots=True)
class Work:
    """The batches of a model, in the order in which they are sent; each of shape (batches,).

    seconds: of all units of a batch on one core. longest: of its longest unit. units: their number.
    spread: standard deviation of a unit's seconds, as a fraction of the expected ones.
    error: standard error of all seconds, as a fraction.
    """

    seconds: Floats
    longest: Floats
    units: NDArray[np.int64]
    spread: float = 0.0
    error: float = 0.0


@dataclass(slots=True)
class Played:
    """One simulated execution: seconds to the last outcome, and the amounts that are billed.

    busy: seconds of all slots in calls. alive: seconds of all slots from launch to end, at least
    `least_alive` each. calls: of the function. receives: of messages.
    """

    wall: float = 0.0
    busy: float = 0.0
    alive: float = 0.0
    calls: int = 0
    receives: int = 0
    throttled: int = 0
    interrupted: int = 0
    dead_letters: int = 0
    slots: int = 0


def play(fleet: Fleet, work: Work, chance: np.random.Generator, least_alive: float = 0.0) -> Played:
    """Simulate a fleet that executes all batches."""
    # drawn first: with one seed all fleets, and all numbers of slots, have the same work
    durations = _durations(fleet, work, chance).tolist()
    launches = fleet.launches()
    ready = launches + chance.uniform(*fleet.start_s, len(launches))
    cold = _lognormal(fleet.cold_s, len(launches), chance).tolist()
    free: list[tuple[float, int]] = [(at, slot) for slot, at in enumerate(ready.tolist())]
    heapify(free)
    messages: list[tuple[float, int, int, float]] = [
        (at, number, 0, durations[number])
        for number, at in enumerate(_arrivals(fleet, len(durations), chance).tolist())
    ]
    heapify(messages)
    played, ends = Played(), [0.0] * len(launches)
    _execute(fleet, free, messages, cold, ends, chance, played)
    last = max(ends, default=0.0)
    played.wall = _with_stealing(work, fleet, ends, durations) if fleet.steals else last
    played.slots = sum(end > 0 for end in ends)
    stops = np.where(np.array(ends) > 0, ends, np.minimum(ready, last)) + IDLE_EXIT_S
    started = launches <= last
    played.alive = float(np.maximum(stops - launches, least_alive)[started].sum())
    return played


def _execute(
    fleet: Fleet,
    free: list[tuple[float, int]],
    messages: list[tuple[float, int, int, float]],
    cold: list[float],
    ends: list[float],
    chance: np.random.Generator,
    played: Played,
) -> None:
    """Assign the first message to the first free slot until none is left."""
    accepted = len(ends) if fleet.accepted is None else fleet.accepted
    limit = TIMEOUT_SHARE * fleet.timeout_s
    hazard = fleet.interruptions_per_h / 3600
    while messages:
        at, slot = free[0]
        available, number, receives, left = heappop(messages)
        start, receives = max(at, available), receives + 1
        played.receives += 1
        if receives > fleet.max_receives:
            played.dead_letters += 1
            continue
        if slot >= accepted:
            played.throttled += 1
            heapreplace(free, (start + THROTTLE_PAUSE_S, slot))
            heappush(messages, (start + fleet.visibility_s, number, receives, left))
            continue
        first, cold[slot] = cold[slot], 0.0
        taken = min(left + fleet.message_s, limit)
        interrupted = bool(hazard) and chance.random() < 1 - math.exp(-hazard * taken)
        spent = first + (taken * chance.random() if interrupted else taken)
        end = start + spent
        played.calls += 1
        played.busy += spent
        ends[slot] = end
        if interrupted:
            played.interrupted += 1
            cold[slot] = chance.uniform(*fleet.start_s)  # its replacement starts
            heappush(messages, (end, number, receives - 1, left))
        elif left + fleet.message_s > taken:
            heappush(messages, (end, number, 0, left - max(taken - fleet.message_s, 1e-3)))
        heapreplace(free, (end, slot))


def _durations(fleet: Fleet, work: Work, chance: np.random.Generator) -> Floats:
    """Return the seconds of each batch in one slot, in which the cores share its units.

    No batch ends before its longest unit, and parts that are cut before they are known to be
    uneven end at different times.
    """
    count = len(work.seconds)
    noise = np.exp(chance.normal(0.0, work.error or 0.0))
    spread = np.minimum(work.spread / np.sqrt(np.maximum(work.units, 1)), 1.0)
    seconds = work.seconds * noise * np.maximum(1 + spread * chance.standard_normal(count), 0.1)
    parts = np.minimum(work.units, fleet.cores)
    uneven = np.where(
        parts > 1,
        1 + work.spread * np.sqrt(2 * np.log(np.maximum(parts, 1)) * parts / work.units),
        1.0,
    )
    taken = np.maximum(seconds / parts * uneven, np.minimum(work.longest * noise, seconds))
    if not fleet.steals:
        slow = chance.random(count) < STRAGGLER_SHARE * bool(work.error)
        taken = np.where(slow, taken * chance.uniform(*STRAGGLER_FACTOR, count), taken)
    return np.asarray(taken, np.float64)


def _arrivals(fleet: Fleet, count: int, chance: np.random.Generator) -> Floats:
    """Return when each message can be received."""
    arrivals = np.arange(count) / fleet.sent_per_s + _lognormal(fleet.delay_s, count, chance)
    lost = chance.random(count) < fleet.lost
    return np.where(lost, arrivals + fleet.visibility_s, arrivals)


def _lognormal(law: tuple[float, float], count: int, chance: np.random.Generator) -> Floats:
    median, sigma = law
    if not median:
        return np.zeros(count)
    return np.asarray(median * np.exp(chance.normal(0.0, sigma, count)), np.float64)


def _with_stealing(work: Work, fleet: Fleet, ends: list[float], durations: list[float]) -> float:
    """Return the end if idle slots share the last messages: even, but not before a whole unit.

    The longest unit is in one of the first messages, which are the most expensive ones.
    """
    if not durations:
        return 0.0
    longest = int(work.longest.argmax())
    alone = min(float(work.longest[longest]), durations[longest]) + fleet.message_s
    return max(sum(ends) / len(ends), alone)
