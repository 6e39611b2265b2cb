"""The outlook of a job on each way: time, dollars, limit and settings, simulated from a pilot.

The time of a run is that of its steps (validate, prepare, collect, publish) and, for each model,
that of its batches on the fleet, which is simulated many times with different seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..aws.lambda_platform import MAX_SOURCE_BYTES_PER_MB
from ..aws.stack.settings import Settings
from ..data.messages import Batch
from ..runs.prices import NoPrice, Prices
from ..sql.queries import make_batches
from . import fleets
from .fleets import Fleet
from .pilot import ModelPilot, Pilot
from .simulator import Played, Work, play
from .ways import (
    LEAST_CONTAINER_WORK_S,
    MAX_TIMEOUT_S,
    MIN_BILL_S,
    MIN_TIMEOUT_S,
    Way,
    bill_steps,
)

LOCAL = "local"  # the way on this machine
OTHER_STEPS = "other steps"  # of a way on AWS: all but the work, predicted together
SEEDS, TRIAL_SEEDS = 60, 5
INTERVAL = (0.1, 0.5, 0.9)  # the quantiles of a plan: an interval of 80 %
BATCHES_PER_SLOT, LEAST_BATCH_S = 3, 1.0  # on AWS
STEP_MEMORY_MB = Settings(job="a:b").step_memory
# assumptions: standard errors of the speed of a core, here (noise from run to run) and on AWS
LOCAL_ERROR, CLOUD_ERROR = 0.06, 0.15
# assumptions: of each step beside the work here, which the pilot measures once and the run repeats
# once, as a fraction and in seconds: they wait for the disk, and start processes
STEP_ERROR, STEP_ERROR_S = 0.15, 0.03
# assumptions, from..to, of a run on AWS: its start; each step in a function, in seconds and as a
# multiple of its time here; each statement of Athena
START_S, STEP_S, STEP_FACTOR, STATEMENT_S = (1.0, 3.0), (1.0, 4.0), (1.0, 2.0), (2.0, 10.0)
MIN_ATHENA_BYTES = 10_000_000  # that a statement is billed for at least


@dataclass(frozen=True, slots=True)
class Wishes:
    """Everything that the user asked of a plan. batches: of each model, instead of a number that
    fits the slots.
    """

    workers: int
    quotas: Mapping[str, int]
    architecture: str
    prices: Prices
    deadline: float | None = None
    budget: float | None = None
    batches: int | None = None


@dataclass(slots=True)
class Outlook:
    """A way as the plan shows it. wall, dollars: the quantiles of INTERVAL; empty if unknown.

    stages: the median seconds of each step. start: the seconds of wall that belong to no step.
    slots: the most at a time. cores: of the slots that get work. memory: MB of a slot. why: the
    reason of an unknown figure.
    """

    way: str
    title: str
    deployable: bool
    wall: tuple[float, ...] = ()
    work: float = 0.0
    start: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    dollars: tuple[float, ...] = ()
    items: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    slots: int = 0
    cores: int = 0
    batches: int = 0
    memory: int | None = None
    timeout: int | None = None
    pollers: tuple[int, int] | None = None
    throttled: float = 0.0
    interrupted: float = 0.0
    dead_letters: float = 0.0
    why: str = ""


def outlook_here(pilot: Pilot, workers: int) -> Outlook:
    """Return the outlook of this machine."""
    walls, works, by_model = [], [], []
    steps = np.array(_steps_here(pilot))
    for seed in range(SEEDS):
        chance = np.random.default_rng(seed)
        each = []
        for model in pilot.models:
            noise = math.exp(chance.normal(0.0, STEP_ERROR))
            fleet = replace(
                fleets.local(workers, model.message_s * noise), cold_s=(model.first_call_s, 0.1)
            )
            batches = work_of(model, model.batches, LOCAL_ERROR)
            each.append(play(fleet, batches, chance).wall)
        beside = steps * np.exp(chance.normal(0.0, STEP_ERROR, len(steps)))
        beside = np.maximum(beside + chance.normal(0.0, STEP_ERROR_S, len(steps)), 0.0)
        walls.append(float(beside.sum()) + sum(each))
        works.append(sum(each))
        by_model.append(each)
    seen = Outlook(LOCAL, f"this machine, {workers} worker{'s' * (workers > 1)}", True)
    seen.wall, seen.work = _quantiles(walls), float(np.median(works))
    seen.start, seen.stages = (
        pilot.start_s,
        _stages_here(pilot, np.median(by_model, axis=0).tolist()),
    )
    seen.slots = seen.cores = workers
    seen.batches = sum(len(m.batches) for m in pilot.models)
    total = sum(m.seconds for m in pilot.models)
    longest = sum(float(m.expected.max()) for m in pilot.models)
    seen.limit = (
        "fixed steps"
        if seen.work < seen.wall[1] / 2
        else "longest unit"
        if longest > total / workers
        else "cores"
    )
    return seen


def _steps_here(pilot: Pilot) -> list[float]:
    """Return the seconds of each step beside the work on this machine."""
    own = [(m.prepare_s, m.collect_s, m.wait_s) for m in pilot.models]
    steps = [pilot.start_s, pilot.reading_s, pilot.publish_s, *(s for each in own for s in each)]
    return [seconds for seconds in steps if seconds > 0]


def _stages_here(pilot: Pilot, works: Sequence[float]) -> dict[str, float]:
    """Return the seconds of each step on this machine. works: of the work of each model."""
    stages = {"validate": pilot.reading_s}
    for model, work in zip(pilot.models, works, strict=True):
        name = model.model.name
        stages[f"prepare {name}"] = model.prepare_s
        stages[f"work {name}"] = float(work) + model.wait_s
        stages[f"collect {name}"] = model.collect_s
    return {**stages, "publish": pilot.publish_s}


def work_of(model: ModelPilot, batches: Sequence[Batch], error: float) -> Work:
    """Return batches of a model for the simulator, in the order in which they are sent."""
    ordered = sorted(batches, key=lambda batch: (-batch.cost, batch.number))
    first = np.array([batch.first for batch in ordered])
    last = np.array([batch.last for batch in ordered]) + 1
    sums = np.concatenate([[0.0], np.cumsum(model.expected)])
    by_number = np.argsort(first)
    longest = np.empty(len(ordered))
    longest[by_number] = np.maximum.reduceat(model.expected, first[by_number])
    return Work(
        sums[last] - sums[first],
        longest,
        last - first,
        model.spread,
        math.hypot(model.error, error),
    )


def batch_count(model: ModelPilot, slots: int, cores: int, asked: int | None = None) -> int:
    """Return the number of batches: a few for each slot, none below a second, a unit per core.

    asked: a number to return instead, as far as there are units.
    """
    if asked is not None:
        return min(asked, len(model.rows))
    by_time = int(model.seconds / cores / LEAST_BATCH_S)
    return max(1, min(len(model.rows) // cores, BATCHES_PER_SLOT * slots, by_time))


def outlook_of(way: Way, pilot: Pilot, wishes: Wishes) -> Outlook:
    """Return the outlook of a way on AWS, with the number of slots that serves the wishes best."""
    if way.why_not:
        return Outlook(way.key, way.title, way.deployable, why=way.why_not)
    widths = _widths(way, pilot, wishes.deadline)
    if wishes.deadline is None or len(widths) == 1:
        return _simulated(way, pilot, wishes, widths[0], SEEDS)
    trials = [_simulated(way, pilot, wishes, slots, TRIAL_SEEDS) for slots in widths]
    fastest = min(trials, key=lambda trial: trial.wall[1])
    within = (trial for trial in trials if trial.wall[-1] <= (wishes.deadline or 0.0))
    best = next(within, fastest)
    return _simulated(way, pilot, wishes, best.slots, SEEDS)


def _widths(way: Way, pilot: Pilot, deadline: float | None) -> list[int]:
    """Return numbers of slots to try, the cheapest first.

    Calls of a function are billed, and the cold start of each slot: fewer slots are cheaper, but
    without a deadline all of them are used. Containers are billed from launch to end.
    """
    if way.timed:
        few = [] if deadline is None or way.pollers else [way.slots // n for n in (16, 8, 4, 2)]
        return [max(1, slots) for slots in (*few, way.slots)]
    total = sum(m.seconds for m in pilot.models)
    wanted = [math.ceil(total / LEAST_CONTAINER_WORK_S * factor) for factor in (1, 2, 4, 8)]
    return sorted({max(1, min(way.slots, each)) for each in wanted})


def _simulated(way: Way, pilot: Pilot, wishes: Wishes, slots: int, seeds: int) -> Outlook:
    """Simulate a way with a number of slots."""
    seen = Outlook(way.key, way.title, way.deployable, slots=slots)
    timeout = _timeout(way, pilot, slots, wishes.batches)
    fleet = way.make(slots, timeout)
    seen.slots = fleet.slots
    seen.memory = round(way.gb * 1024)
    seen.timeout, seen.pollers = timeout if way.timed else None, way.pollers
    works = []
    for model in pilot.models:
        width = min(fleet.slots, wishes.quotas[way.quota])
        parts = batch_count(model, width, way.cores, wishes.batches)
        made = make_batches(model.rows, parts=parts, most_rows=int(model.rows.sum()))
        works.append((model, work_of(model, made, CLOUD_ERROR)))
    seen.batches = sum(len(work.seconds) for _, work in works)
    rounds = [_round(way, fleet, works, pilot, seed) for seed in range(seeds)]
    walls = np.array([sum(stages.values()) for stages, _ in rounds])
    seen.stages = {
        name: float(np.median([stages[name] for stages, _ in rounds])) for name in rounds[0][0]
    }
    seen.cores = way.cores * int(np.median([played.slots for _, played in rounds]))
    seen.wall = _quantiles(walls)
    seen.work = float(np.median([played.wall for _, played in rounds]))
    for name in ("throttled", "interrupted", "dead_letters"):
        setattr(seen, name, float(np.mean([getattr(played, name) for _, played in rounds])))
    try:
        bills = [
            _bill(way, seen, played, sum(stages.values()), pilot, wishes.prices)
            for stages, played in rounds
        ]
        seen.dollars = _quantiles([sum(bill.values()) for bill in bills])
        seen.items = {name: float(np.mean([b[name] for b in bills])) for name in bills[0]}
    except NoPrice as error:
        seen.why = str(error)
    seen.limit = _limit(seen, fleet, works)
    return seen


def _timeout(way: Way, pilot: Pilot, slots: int, batches: int | None) -> int:
    """Return a timeout of three times the largest batch, in whole half minutes."""
    longest = 0.0
    for model in pilot.models:
        share = model.seconds / batch_count(model, slots, way.cores, batches) / way.cores
        longest = max(longest, share, float(model.expected.max()))
    return int(min(max(30 * math.ceil(3 * longest / 30), MIN_TIMEOUT_S), MAX_TIMEOUT_S))


def _round(
    way: Way, fleet: Fleet, works: Sequence[tuple[ModelPilot, Work]], pilot: Pilot, seed: int
) -> tuple[dict[str, float], Played]:
    """Return the seconds of the steps of one simulated run, and the sum of its models'
    executions.
    """
    chance = np.random.default_rng(seed)
    total, stages = Played(), {}
    for model, work in works:
        cold = (fleet.cold_s[0] + model.first_call_s, max(fleet.cold_s[1], 0.1))
        played = play(replace(fleet, cold_s=cold), work, chance, 0.0 if way.timed else MIN_BILL_S)
        for name in ("wall", "busy", "alive", "calls", "receives", "throttled", "interrupted"):
            setattr(total, name, getattr(total, name) + getattr(played, name))
        stages[f"work {model.model.name}"] = played.wall
        total.dead_letters += played.dead_letters
        total.slots = max(total.slots, played.slots)
    return {**stages, OTHER_STEPS: _steps_s(pilot, chance)}, total


def _steps_s(pilot: Pilot, chance: np.random.Generator) -> float:
    """Return the seconds of the steps beside the work on AWS."""
    spent = float(chance.uniform(*START_S))
    reading = [pilot.reading_s, *(model.prepare_s for model in pilot.models)]
    if uses_athena(pilot):
        statements = len(pilot.source_bytes) + 2 * len(pilot.models)
        spent += float(chance.uniform(*STATEMENT_S, statements).sum())
        reading = []
    own = [*reading, *(model.collect_s for model in pilot.models), pilot.publish_s]
    count = len(own)
    factors = chance.uniform(*STEP_FACTOR, count) * np.array(own)
    return spent + float((chance.uniform(*STEP_S, count) + factors).sum())


def uses_athena(pilot: Pilot) -> bool:
    """Return whether the sources are too large for one function."""
    return sum(pilot.source_bytes) > STEP_MEMORY_MB * MAX_SOURCE_BYTES_PER_MB


def _bill(
    way: Way, seen: Outlook, played: Played, wall: float, pilot: Pilot, prices: Prices
) -> dict[str, float]:
    """Return dollars by item. Each source is scanned once to validate, and once by each model."""
    scans = 1 + len(pilot.models)
    scanned = sum(max(size, MIN_ATHENA_BYTES) for size in pilot.source_bytes) * scans
    terabytes = scanned / 1e12 if uses_athena(pilot) else 0.0
    steps = bill_steps(seen.batches, played, terabytes, len(pilot.models), prices)
    return {**way.bill(way, played, wall, prices), **steps}


def _limit(seen: Outlook, fleet: Fleet, works: Sequence[tuple[ModelPilot, Work]]) -> str:
    """Return what most of the time is spent on."""
    total = sum(float(work.seconds.sum()) for _, work in works)
    longest = sum(float(work.longest.max()) for _, work in works)
    even = total / max(min(seen.cores, sum(int(work.units.sum()) for _, work in works)), 1)
    if seen.dead_letters or seen.throttled:
        return "quota"
    if seen.work < seen.wall[1] / 2:
        return "fixed steps"
    if fleet.start_s[1] > seen.work / 2:
        return "container start"
    if longest > seen.work / 2:
        return "longest unit"
    if fleet.delay_s[0]:
        return "late events" if even < seen.work / 2 else "cores"
    if even < seen.work / 2 and float(fleet.launches()[-1]) > 1.0:
        return "ramp"
    return "cores"


def _quantiles(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(each) for each in np.quantile(values, INTERVAL))
