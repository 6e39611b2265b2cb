"""A comparison of a job's run with all workers, its run with one, and the loops that it replaces,
all on this machine.

Nothing is kept: the runs have a temporary home. The figures of the runs include the work that a
loop omits (checks, storage, publication), and all work that a run does once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..data.batch import row_form
from ..data.layout import Layout
from ..errors import HundredfoldError, UsageError
from ..job import Job
from ..local.home import Home
from ..pipeline.release_tables import without_tables
from ..runs.job_loader import load_job
from ..runs.resources import choose_resources
from ..sql.sources.files import Files, find_files
from ..workers.protocol import WorkerContext
from .baseline import BaselineTiming, Task
from .baseline_process import time_loops
from .engine import (
    ALL_RUN_ID,
    Listener,
    ModelTiming,
    RunTiming,
    TimedJob,
    run_all,
    run_single,
)
from .frames import library_of

SINGLE_TIME_SHARE, LOOPS_TIME_SHARE = 0.5, 0.5  # of the time for the run with all workers
MIN_UNITS = 20  # fewer units are not representative
START_S = 2.0  # seconds at the start of a run that are the same with one worker


def compare(
    job: Job | str,
    sources: Mapping[str, str],
    *,
    model: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    as_of: str | None = None,
    seconds: float = 60.0,
    listener: Listener,
) -> dict[str, Any]:
    """Time a job, or one model of it, in all ways; return the figures for programs.

    seconds: for the run with all workers; the other timings together have the same again. A timing
    that takes longer is stopped and extrapolated.

    Raises:
        HundredfoldError: the job cannot be run.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds is {seconds:g}, wanted seconds above 0")
    limits = choose_resources(workers, memory)
    job = without_tables(_job_up_to(load_job(job) if isinstance(job, str) else job, model))
    # the quality of the rows is not measured
    options = {
        "workers": workers,
        "memory": memory,
        "as_of": as_of,
        "max_rejected": {source.name: 1.0 for source in job.sources},
        "max_failed": 1.0,
    }
    with TemporaryDirectory(prefix="hundredfold-bench-", ignore_cleanup_errors=True) as folder:
        home = Home(folder)
        listener.timing(f"here, {_workers(limits.workers)}")
        timed = TimedJob(job, sources, options, home, listener)
        every = run_all(timed, seconds)
        single, why = _time_single(timed, seconds, every, limits.workers)
        names = [model] if model else list(every.models)
        loops = _time_loops(timed, names, every, seconds, limits.memory)
    timings = _Timings(seconds, every, limits.workers, single, why, loops)
    return _facts(job, model, names, timings)


@dataclass(frozen=True, slots=True)
class _Timings:
    """The timings of one job: the run with all workers, the one with one worker, and the loops."""

    seconds: float  # for the run with all workers
    every: RunTiming
    workers: int  # of the run with all
    single: RunTiming | None
    why: str  # there is no run with one worker
    loops: Mapping[Task, BaselineTiming]


def _job_up_to(job: Job, model: str | None) -> Job:
    """Return the job; for one model, only the models that it depends on."""
    if model is None:
        return job
    last = job.models.index(job.model(model))
    return replace(job, models=job.models[: last + 1], publish=())


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _time_single(
    timed: TimedJob, seconds: float, every: RunTiming, workers: int
) -> tuple[RunTiming | None, str]:
    """Return the run with one worker; or None, and the reason."""
    if workers == 1:
        return None, ""
    before = (every.reading - START_S) * workers
    if before > seconds:
        return None, f"reading alone may take {before:,.0f} s"
    timed.listener.timing(f"here, {_workers(1)}")
    try:
        return run_single(timed, SINGLE_TIME_SHARE * seconds, every), ""
    except HundredfoldError as error:
        return None, str(error)


def _time_loops(
    timed: TimedJob, names: Sequence[str], every: RunTiming, seconds: float, memory: int
) -> dict[Task, BaselineTiming]:
    job, home = timed.job, timed.home
    tasks = [
        Task("read"),
        *(task for name in names for task in _tasks(job, name, every.models[name])),
    ]
    locations = home.ledger.read(ALL_RUN_ID).source_addresses
    files: dict[str, Files] = {
        name: find_files(name, location, job.folder or Path())
        for name, location in locations.items()
    }

    def on_task(task: Task) -> None:
        timed.listener.timing(
            "reading the sources in one process"
            if task.kind == "read"
            else f"{task.model} as a loop: {task.kind}"
        )

    return time_loops(
        WorkerContext(job, Layout(ALL_RUN_ID), home.store),
        tasks,
        files,
        LOOPS_TIME_SHARE * seconds,
        memory,
        home.logs("loops"),
        on_task,
    )


def _tasks(job: Job, name: str, worked: ModelTiming) -> list[Task]:
    model = job.model(name)
    kinds = (
        ["call"]
        if not model.unit
        else ["filter"]
        if library_of(row_form(model)) == "NumPy"
        else ["filter", "groupby"]
    )
    return [
        Task(kind, name, worked.crashed) for kind in kinds if worked.units > len(worked.crashed)
    ]


def _facts(job: Job, model: str | None, names: Sequence[str], timings: _Timings) -> dict[str, Any]:
    every, single, why = timings.every, timings.single, timings.why
    ways = [_loop_way(kind, names, timings.loops) for kind in ("filter", "groupby")]
    if single is not None or why:
        ways.append(_engine_way("single", 1, single, names, model, why))
    ways.append(_engine_way("all", timings.workers, every, names, model, ""))
    return {
        "job": job.name,
        "name": names[0] if len(job.models) == 1 or model else job.name,
        "models": {name: _model_facts(job, name, every.models[name]) for name in names},
        "left_out": [m.name for m in job.models if m.name not in every.models],
        "before": [m.name for m in job.models if m.name not in names and m.name in every.models],
        "rejected": every.rejected,
        "refused": every.refused,
        "seconds": timings.seconds,
        "ways": [way for way in ways if way is not None],
    }


def _model_facts(job: Job, name: str, worked: ModelTiming) -> dict[str, Any]:
    model = job.model(name)
    return {
        "units": worked.units,
        "rows": worked.rows,
        "crashed": len(worked.crashed),
        "batched": model.batched,
        "form": row_form(model),
    }


def _loop_way(
    kind: str, names: Sequence[str], timings: Mapping[Task, BaselineTiming]
) -> dict[str, Any] | None:
    """Return the figures of a kind of loop over all models; None if it applies to no model.

    A model of one unit is one call in either kind.
    """
    found = {task.model: each for task, each in timings.items() if task.kind in (kind, "call")}
    if kind not in {task.kind for task in timings} and not (kind == "filter" and found):
        return None
    read = next(each for task, each in timings.items() if task.kind == "read")
    models = {name: _loop_facts(found.get(name)) for name in names}
    seconds = [read.once or 0.0, *(entry["seconds"] for entry in models.values())]
    return {
        "way": kind if kind in {task.kind for task in timings} else "call",
        "libraries": sorted({each.library for each in found.values() if each.library}),
        "reading": read.once,
        "models": models,
        "publishing": None,
        "whole": None if None in seconds else sum(seconds),
        "why": read.why,
    }


def _loop_facts(timing: BaselineTiming | None) -> dict[str, Any]:
    timing = timing or BaselineTiming(why="not timed: it has no unit to time")
    seconds = (
        None if timing.once is None or timing.seconds is None else timing.once + timing.seconds
    )
    if timing.why and timing.timed < timing.units:
        # a unit crashed it or never returned, and would in a full run too
        seconds = None
    if seconds is not None and timing.failed == timing.timed:
        timing, seconds = (
            replace(
                timing,
                timed=0,
                failed=0,
                why=f"not timed: every unit that was tried failed: {timing.reason}",
            ),
            None,
        )
    return {
        "seconds": seconds,
        "timed": timing.timed,
        "units": timing.units,
        "failed": timing.failed,
        "error": timing.error,
        "reason": timing.reason,
        "why": timing.why,
    }


def _engine_way(
    way: str, workers: int, ran: RunTiming | None, names: Sequence[str], model: str | None, why: str
) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for name in names:
        worked = ran.models.get(name) if ran is not None else None
        few = worked is not None and worked.done < min(MIN_UNITS, worked.units)
        models[name] = {
            "seconds": worked.seconds if worked and not few else None,
            "timed": worked.done if worked else 0,
            "units": worked.units if worked else 0,
            "failed": worked.failed if worked else 0,
            "error": 0.0,
            "reason": "",
            "why": "stopped: too few units to extrapolate," if few else "",
        }
    whole = (
        None
        if ran is None
        else ran.whole
        if model is None
        else ran.reading + ran.models[model].seconds
    )
    if any(entry["why"] for entry in models.values()):
        whole = None
    return {
        "way": way,
        "workers": workers,
        "reading": ran.reading if ran else None,
        "models": models,
        "publishing": ran.publishing if ran and model is None else None,
        "whole": whole,
        "why": why,
    }
