"""Real runs of a job, timed stage by stage; they are stopped and extrapolated if they would take
too long.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..api import resume, run
from ..data.checksums import get_sealed
from ..data.layout import Layout
from ..data.manifest import UnitList
from ..data.outcomes import UnitStatus, unpack_statuses
from ..errors import HundredfoldError, PublishRefused
from ..job import Job, Model
from ..local.home import Home
from ..pipeline.collect import Collected
from ..pipeline.runner import RunCallbacks
from ..pipeline.stages import MODEL_STEPS, Stage
from ..pipeline.validation_results import ValidationResult
from ..pipeline.work import Progress
from .sample import expected_costs, extrapolate

ALL_RUN_ID, SINGLE_RUN_ID = "all", "single"  # ids of the runs
MIN_MODEL_SHARE = 0.25  # of the time for all, which a model that was begun has in any case
# a model none of whose units is done has this multiple of its time, but at least these seconds
IDLE_FACTOR, MIN_IDLE_S = (2, 10.0)
# for the worker of a resumed run, which would have started long before in an uninterrupted run
WORKER_START_S = 1.0


class Listener(RunCallbacks, Protocol):
    """RunCallbacks that are also notified of the next timing."""

    def timing(self, what: str) -> None: ...


class TimeLimitReached(Exception):
    """The time for a stage, or for all before it, is over."""


@dataclass(frozen=True, slots=True)
class ModelTiming:
    """The timing of a model in a run: seconds to prepare, execute and collect all of its units.

    done: how many of them were really executed.
    """

    seconds: float
    collecting: float
    done: int
    units: int
    rows: int
    failed: int
    crashed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunTiming:
    """The timing of a run; `whole` is the elapsed time, or the sum of the parts if stopped."""

    reading: float
    models: Mapping[str, ModelTiming]
    publishing: float | None
    whole: float
    rejected: int = 0
    refused: str = ""  # the reason why it published nothing


@dataclass(frozen=True, slots=True)
class TimedJob:
    """A job to time: its sources and options, where its runs are kept, and who follows them."""

    job: Job
    sources: Mapping[str, Any]
    options: Mapping[str, Any]
    home: Home
    listener: Listener


@dataclass
class Stopwatch:
    """RunCallbacks that time each stage, and stop the run if a model's work exceeds its limit.

    A negative limit means that the model is not begun. Stages of an earlier driver are not timed
    again.
    """

    listener: Listener
    limit: Callable[[Stopwatch, Model], float]
    least: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    seconds: dict[str, float] = field(default_factory=dict)
    # number of units, of models that were extrapolated
    timed: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    resumed: bool = False
    allowed: float = 0.0  # seconds for the current work
    now: Stage | None = None
    # the first time units were committed: how many, after how many seconds
    first: tuple[int, float] | None = None
    last: tuple[int, float] = (0, 0.0)

    def __post_init__(self) -> None:
        self.began = self.since = self.clock()

    def run_started(self, run: str) -> None:
        self.listener.run_started(run)

    def stage_started(self, stage: Stage) -> None:
        self.close()
        new = str(stage) not in self.seconds
        if stage.model is not None and stage.step in ("prepare", "work") and new:
            allowed = self.limit(self, stage.model)
            if allowed < 0 and stage.step == "prepare":
                raise TimeLimitReached
            self.allowed = max(allowed, self.least)
            if stage.step == "work" and self.resumed:
                self.sleep(WORKER_START_S)
                self.resumed = False
        self.now, self.first, self.last = (stage if new else None), None, (0, 0.0)
        self.listener.stage_started(stage)
        self.since = self.clock()

    def close(self) -> None:
        """End the timing of the current stage."""
        if self.now is not None:
            self.seconds[str(self.now)] = self.clock() - self.since
            self.now = None

    def validated(self, results: list[ValidationResult]) -> None:
        self.rejected = sum(v.rejected for v in results)
        self.listener.validated(results)

    def progress(self, progress: Progress) -> None:
        spent = self.clock() - self.since
        if progress.done > self.last[0]:
            self.last = (progress.done, spent)
            self.first = self.first or self.last
        self.listener.progress(progress)
        over = spent > (
            self.allowed if progress.done else max(IDLE_FACTOR * self.allowed, MIN_IDLE_S)
        )
        if self.now is not None and over and progress.done < progress.units:
            raise TimeLimitReached

    def collected(self, collected: Collected) -> None:
        self.listener.collected(collected)


def run_all(timed: TimedJob, seconds: float) -> RunTiming:
    """Time the run with all workers.

    After `seconds` the current model is extrapolated, and later ones are left out.
    """

    def limit(watch: Stopwatch, _: Model) -> float:
        left = seconds - (watch.clock() - watch.began)
        return (
            left if any(stage.startswith("collect") for stage in watch.seconds) else max(left, 0.0)
        )

    job, home = timed.job, timed.home
    watch = Stopwatch(timed.listener, limit, MIN_MODEL_SHARE * seconds)
    refused, stopped = "", False
    try:
        run(
            job,
            timed.sources,
            home=home.folder,
            run_id=ALL_RUN_ID,
            callbacks=watch,
            **timed.options,
        )
    except PublishRefused as refusal:
        refused = str(refusal)
    except TimeLimitReached:
        stopped = True
        _extrapolate_model(watch, home, ALL_RUN_ID)
    watch.close()
    return _run_timing(
        job, watch, home, ALL_RUN_ID, None if stopped else watch.clock() - watch.began, refused
    )


def run_single(timed: TimedJob, seconds: float, before: RunTiming) -> RunTiming:
    """Time the run with one worker, after `before` with all.

    A model that takes longer than its part of the time is extrapolated, and the run continues with
    the results of `before`.
    """
    together = sum(worked.seconds for worked in before.models.values())

    def limit(_: Stopwatch, model: Model) -> float:
        worked = before.models.get(model.name)
        return -1.0 if worked is None else seconds * worked.seconds / together

    job, home = timed.job, timed.home
    watch = Stopwatch(timed.listener, limit, MIN_MODEL_SHARE * seconds / len(before.models))
    refused, name = "", None
    while True:
        try:
            _run_or_resume(timed, watch, resumed=name is not None)
        except PublishRefused as refusal:
            refused = str(refusal)
        except TimeLimitReached:
            name = _extrapolate_model(watch, home, SINGLE_RUN_ID)
            if name is not None and before.models[name].done == before.models[name].units:
                watch.seconds[f"collect {name}"] = before.models[name].collecting
                _use_results_of_all(home, name)
                watch.resumed = True
                continue
        watch.close()
        return _run_timing(
            job,
            watch,
            home,
            SINGLE_RUN_ID,
            None if watch.timed else watch.clock() - watch.began,
            refused,
        )


def _run_or_resume(timed: TimedJob, watch: Stopwatch, *, resumed: bool) -> None:
    """Start the run with one worker, or resume it."""
    job, folder = timed.job, timed.home.folder
    if resumed:
        memory = timed.options["memory"]
        resume(SINGLE_RUN_ID, home=folder, job=job, callbacks=watch, workers=1, memory=memory)
        return
    single = {**timed.options, "workers": 1}
    run(job, timed.sources, home=folder, run_id=SINGLE_RUN_ID, callbacks=watch, **single)


def _extrapolate_model(watch: Stopwatch, home: Home, run_id: str) -> str | None:
    """Extrapolate the model at which a run was stopped to all of its units; return its name.

    Return None if the run was stopped between two models.
    """
    stage, watch.now = watch.now, None
    if stage is None or stage.model is None:
        return None
    name = stage.model.name
    if watch.first is None:
        raise HundredfoldError(
            f"no unit of {name} was done within {watch.clock() - watch.since:.0f} s",
            hint="give it more time with --seconds",
        )
    units = UnitList.read(Layout(run_id), name, home.store)
    done, seconds, _, _ = unit_times(home, run_id, name, len(units.rows))
    watch.seconds[str(stage)] = extrapolate(
        watch.first, watch.last, expected_costs(units.rows, done, seconds[done]), done
    )
    watch.timed[name] = int(done.sum())
    return name


def _use_results_of_all(home: Home, model: str) -> None:
    """Replace the results of a model by those of the run with all workers."""
    theirs, ours = (
        home.store.path(Layout(run_id).model(model)) for run_id in (ALL_RUN_ID, SINGLE_RUN_ID)
    )
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours, copy_function=os.link)


def _run_timing(
    job: Job, watch: Stopwatch, home: Home, run_id: str, whole: float | None, refused: str
) -> RunTiming:
    models = {
        m.name: _model_timing(watch, home, run_id, m.name)
        for m in job.models
        if f"work {m.name}" in watch.seconds
    }
    reading, publishing = (
        watch.seconds["validate"],
        watch.seconds.get("publish") if job.releases else None,
    )
    parts = reading + (publishing or 0.0) + sum(m.seconds for m in models.values())
    reading += 0.0 if whole is None else whole - parts  # the start and the end of the run
    return RunTiming(
        reading, models, publishing, parts if whole is None else whole, watch.rejected, refused
    )


def _model_timing(watch: Stopwatch, home: Home, run_id: str, model: str) -> ModelTiming:
    rows = UnitList.read(Layout(run_id), model, home.store).rows
    done, _, failed, crashed = unit_times(home, run_id, model, len(rows))
    seconds = sum(watch.seconds.get(f"{step} {model}", 0.0) for step in MODEL_STEPS)
    timed = watch.timed.get(model, int(done.sum()))
    return ModelTiming(
        seconds,
        watch.seconds.get(f"collect {model}", 0.0),
        timed,
        len(rows),
        int(rows.sum()),
        failed,
        crashed,
    )


def unit_times(
    home: Home, run_id: str, model: str, units: int
) -> tuple[Any, Any, int, tuple[int, ...]]:
    """Return for each unit whether it is done, and its seconds; the number of failed units; the
    crashed.
    """
    layout, done, seconds = Layout(run_id), np.zeros(units, bool), np.zeros(units)
    bad: list[UnitStatus] = []
    for key in home.store.list(layout.outcomes(model) + "/"):
        message = layout.parse_outcome_key(key)
        if message is not None:
            summary = unpack_statuses(get_sealed(home.store, key))
            done[message.first : message.last + 1] = True
            seconds[message.first : message.last + 1] = summary.seconds
            bad += summary.not_ok
    crashed = tuple(sorted(account.unit for account in bad if account.status == "crashed"))
    return done, seconds, len(bad), crashed
