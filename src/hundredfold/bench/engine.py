"""Real runs of the job with everything on, timed stage by stage; stopped, and scaled up, where they would take too long."""

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
from ..data.manifest import UnitList
from ..data.outcomes import UnitStatus, unpack_ledger
from ..errors import HundredfoldError, PublishRefused
from ..job import Job, Layout, Model
from ..local.home import Home
from ..pipeline.collect import Collected
from ..pipeline.runner import RunCallbacks
from ..pipeline.stages import MODEL_STEPS, Stage
from ..pipeline.validation_results import ValidationResult
from ..pipeline.work import Progress
from .sample import costs, scaled

ALL, SINGLE = "all", "single"  # the runs' ids
LEAST = 0.25  # of the time for all, that a model which was begun is given in any case
# as long as none of its units is done, a model is given so many times its time, or so many seconds
NOTHING, AT_LEAST = (2, 10.0)
SETTLE = 1.0  # seconds in which a resumed run's worker starts; in a run that was not stopped it has started long before


class Listener(RunCallbacks, Protocol):
    """A callbacks who is also told what is timed next."""

    def timing(self, what: str) -> None: ...


class Enough(Exception):
    """The time of a stage is over, or that of all before it."""


@dataclass(frozen=True, slots=True)
class Worked:
    """A model in a run: seconds to prepare, work and collect all of its units, and how many of them really were done."""

    seconds: float
    collecting: float
    done: int
    units: int
    rows: int
    failed: int
    crashed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """A run in its parts. `whole` is by the clock, or, of one that was stopped, their sum."""

    reading: float
    models: Mapping[str, Worked]
    publishing: float | None
    whole: float
    rejected: int = 0
    refused: str = ""  # why it published nothing


@dataclass
class Stopwatch:
    """A RunCallbacks that times each stage, and stops the run where a model's work takes longer than `limit` says.

    A limit below 0 says that the model is not even begun. What an earlier driver of the run did is not timed again.
    """

    listener: Listener
    limit: Callable[[Stopwatch, Model], float]
    least: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    seconds: dict[str, float] = field(default_factory=dict)
    # how many units, of models that were scaled up
    timed: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    resumed: bool = False
    allowed: float = 0.0  # seconds for the work at hand
    now: Stage | None = None
    # when units were handed over for the first time: how many, after how long
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
                raise Enough
            self.allowed = max(allowed, self.least)
            if stage.step == "work" and self.resumed:
                self.sleep(SETTLE)
                self.resumed = False
        self.now, self.first, self.last = (stage if new else None), None, (0, 0.0)
        self.listener.stage_started(stage)
        self.since = self.clock()

    def close(self) -> None:
        """Whatever was begun is at its end."""
        if self.now is not None:
            self.seconds[str(self.now)] = self.clock() - self.since
            self.now = None

    def validated(self, verdicts: list[ValidationResult]) -> None:
        self.rejected = sum(v.rejected for v in verdicts)
        self.listener.validated(verdicts)

    def progress(self, progress: Progress) -> None:
        spent = self.clock() - self.since
        if progress.done > self.last[0]:
            self.last = (progress.done, spent)
            self.first = self.first or self.last
        self.listener.progress(progress)
        over = spent > (self.allowed if progress.done else max(NOTHING * self.allowed, AT_LEAST))
        if self.now is not None and over and progress.done < progress.units:
            raise Enough

    def collected(self, collected: Collected) -> None:
        self.listener.collected(collected)


def run_all(
    job: Job,
    sources: Mapping[str, Any],
    home: Home,
    seconds: float,
    options: Mapping[str, Any],
    listener: Listener,
) -> Ran:
    """The run with all workers. Beyond `seconds` the model at work is scaled up, and those after it are left out."""

    def limit(watch: Stopwatch, _: Model) -> float:
        left = seconds - (watch.clock() - watch.began)
        return (
            left if any(stage.startswith("collect") for stage in watch.seconds) else max(left, 0.0)
        )

    watch = Stopwatch(listener, limit, LEAST * seconds)
    refused, stopped = "", False
    try:
        run(job, sources, home=home.folder, run_id=ALL, callbacks=watch, **options)
    except PublishRefused as refusal:
        refused = str(refusal)
    except Enough:
        stopped = True
        _scale(watch, home, ALL)
    watch.close()
    return _ran(job, watch, home, ALL, None if stopped else watch.clock() - watch.began, refused)


def run_single(
    job: Job,
    sources: Mapping[str, Any],
    home: Home,
    seconds: float,
    options: Mapping[str, Any],
    listener: Listener,
    before: Ran,
) -> Ran:
    """The same with one worker, after `before` with all. A model that takes longer than its part of the seconds is scaled up,
    and the run goes on with what `before` made of it."""
    together = sum(worked.seconds for worked in before.models.values())

    def limit(_: Stopwatch, model: Model) -> float:
        worked = before.models.get(model.name)
        return -1.0 if worked is None else seconds * worked.seconds / together

    watch = Stopwatch(listener, limit, LEAST * seconds / len(before.models))
    refused, name = "", None
    while True:
        try:
            if name is None:
                run(
                    job,
                    sources,
                    home=home.folder,
                    run_id=SINGLE,
                    callbacks=watch,
                    **{**options, "workers": 1},
                )
            else:
                resume(
                    SINGLE,
                    home=home.folder,
                    job=job,
                    callbacks=watch,
                    workers=1,
                    memory=options["memory"],
                )
        except PublishRefused as refusal:
            refused = str(refusal)
        except Enough:
            name = _scale(watch, home, SINGLE)
            if name is not None and before.models[name].done == before.models[name].units:
                watch.seconds[f"collect {name}"] = before.models[name].collecting
                _take_over(home, name)
                watch.resumed = True
                continue
        watch.close()
        return _ran(
            job, watch, home, SINGLE, None if watch.timed else watch.clock() - watch.began, refused
        )


def _scale(watch: Stopwatch, home: Home, run_id: str) -> str | None:
    """Let the model at whose work a run was stopped count as if all of it were done; its name. None if it was stopped between two."""
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
    done, seconds, _, _ = _accounts(home, run_id, name, len(units.rows))
    watch.seconds[str(stage)] = scaled(
        watch.first, watch.last, costs(units.rows, done, seconds[done]), done
    )
    watch.timed[name] = int(done.sum())
    return name


def _take_over(home: Home, model: str) -> None:
    """What the run with all workers made of a model, in the place of what the other had begun."""
    theirs, ours = (home.store.path(Layout(run_id).model(model)) for run_id in (ALL, SINGLE))
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours, copy_function=os.link)


def _ran(
    job: Job, watch: Stopwatch, home: Home, run_id: str, whole: float | None, refused: str
) -> Ran:
    models = {
        m.name: _worked(watch, home, run_id, m.name)
        for m in job.models
        if f"work {m.name}" in watch.seconds
    }
    reading, publishing = (
        watch.seconds["validate"],
        watch.seconds.get("publish") if job.releases else None,
    )
    parts = reading + (publishing or 0.0) + sum(m.seconds for m in models.values())
    reading += 0.0 if whole is None else whole - parts  # to begin the run and to end it
    return Ran(
        reading, models, publishing, parts if whole is None else whole, watch.rejected, refused
    )


def _worked(watch: Stopwatch, home: Home, run_id: str, model: str) -> Worked:
    rows = UnitList.read(Layout(run_id), model, home.store).rows
    done, _, failed, crashed = _accounts(home, run_id, model, len(rows))
    seconds = sum(watch.seconds.get(f"{step} {model}", 0.0) for step in MODEL_STEPS)
    timed = watch.timed.get(model, int(done.sum()))
    return Worked(
        seconds,
        watch.seconds.get(f"collect {model}", 0.0),
        timed,
        len(rows),
        int(rows.sum()),
        failed,
        crashed,
    )


def _accounts(
    home: Home, run_id: str, model: str, units: int
) -> tuple[Any, Any, int, tuple[int, ...]]:
    """Of each unit: whether it is done, and its seconds; how many failed; which died."""
    layout, done, seconds = Layout(run_id), np.zeros(units, bool), np.zeros(units)
    bad: list[UnitStatus] = []
    for key in home.store.list(layout.outcomes(model) + "/"):
        message = layout.parse_outcome_key(key)
        if message is not None:
            ledger = unpack_ledger(get_sealed(home.store, key))
            done[message.first : message.last + 1] = True
            seconds[message.first : message.last + 1] = ledger.seconds
            bad += ledger.not_ok
    crashed = tuple(sorted(account.unit for account in bad if account.status == "crashed"))
    return done, seconds, len(bad), crashed
