"""The prediction of a plan beside the measured times of a run, step by step.

The prediction is that of the plan that the run took (`run --plan FILE`). Without one, a local run
is planned now, by a pilot of the same job and sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..bench.engine import Listener
from ..errors import StateError
from ..finished_runs import input_source
from ..local.home import Home
from ..local.new_run import IN_MEMORY
from ..ports.interfaces import Record, RunHome
from ..ports.run_facts import ModelCounts
from ..runs.efficiency import Efficiency, efficiency_of
from ..runs.job_loader import job_of
from ..runs.run import Run, find_run
from .outlooks import LOCAL, OTHER_STEPS
from .plan import PlanOptions, plan_run

Facts = Mapping[str, Any]


def compare_run(
    home: RunHome, run_id: str | None, options: PlanOptions, listener: Listener
) -> dict[str, Any]:
    """Return the predicted and the measured seconds of a run, as facts for programs.

    Raises: StateError for a run whose times are not known, or that cannot be planned now.
    """
    record = find_run(home, run_id)
    measured = efficiency_of(record)
    if measured is None:
        raise StateError(
            f"the times of run {record.id} are not known: it is {record.state.value}, or a driver "
            "of it was killed",
            hint="compare a run that ended: hundredfold list   lists the runs",
        )
    taken = record.options.get("plan")
    way: Facts = taken or _plan_now(home, record, measured, options, listener)
    return {
        "run": record.id,
        "job": record.job,
        "taken": taken is not None,
        "from_pilot": sum(counts.get("pilot_units", 0) for counts in record.models.values()),
        **compare_stages(way, measured["stages"], executed_shares(record)),
        "efficiency": measured,
        "dollars": way.get("dollars"),
        "spent": record.counts.get("spent"),
    }


def _plan_now(
    home: RunHome, record: Record, measured: Efficiency, options: PlanOptions, listener: Listener
) -> Facts:
    """Return the prediction for this machine, of a pilot that runs now."""
    if not isinstance(home, Home):
        raise StateError(
            f"run {record.id} took no plan, and only a local run can be planned afterwards",
            hint="plan first: hundredfold plan JOB --out plan.json   then: hundredfold run "
            "JOB --backend aws --plan plan.json",
        )
    now = replace(
        options,
        workers=options.workers or measured["cores"],
        memory=options.memory or _text(record.options.get("memory")),
        as_of=record.as_of,
    )
    run, job = Run(home, record.id), job_of(home, record)
    folder = Path(str(record.options.get("folder", ".")))
    sources = {
        name: input_source(run, name) if location == IN_MEMORY else str(folder / location)
        for name, location in record.source_addresses.items()
    }
    facts = plan_run(job, sources, now, listener)
    here: Facts = facts["ways"][0]
    return here


def _text(memory: str | int | None) -> str | None:
    return None if memory is None else str(memory)


def executed_shares(record: Record) -> dict[str, float]:
    """Return, for each model, the fraction of its work that a run did not take from a pilot."""
    return {name: _executed(counts) for name, counts in record.models.items()}


def _executed(counts: ModelCounts) -> float:
    """Return the fraction of a model's work that a run did not take from the pilot of its plan."""
    total, taken = counts.get("seconds", 0.0), counts.get("pilot_seconds", 0.0)
    if total:
        return max(total - taken, 0.0) / total
    return 1.0 - counts.get("pilot_units", 0) / max(counts.get("units", 1), 1)


def compare_stages(
    way: Facts, stages: Mapping[str, float], executed: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the predicted seconds of each step beside the measured ones, and those of all.

    To enqueue is part of the work. Of a way on AWS, the other steps are predicted together.
    executed: for each model, the fraction of its work that the run did; the prediction of its work
    is reduced by the rest.
    """
    predicted = dict(way["stages"])
    taken = 0.0
    for model, share in executed.items():
        whole = predicted.get(f"work {model}")
        if whole is not None:
            predicted[f"work {model}"] = whole * share
            taken += whole * (1.0 - share)
    seen: dict[str, float] = {}
    for stage, spent in stages.items():
        name = stage.replace("enqueue ", "work ", 1)
        if way["way"] != LOCAL and name not in predicted:
            name = OTHER_STEPS
        seen[name] = seen.get(name, 0.0) + spent
    before = float(way["start"]) + taken
    low, middle, high = (max(seconds - before, 0.0) for seconds in way["wall"])
    total = sum(stages.values())
    names = dict.fromkeys([*predicted, *seen])
    return {
        "way": way["way"],
        "title": way["title"],
        "stages": [
            {"stage": name, "predicted": predicted.get(name), "measured": seen.get(name)}
            for name in names
        ],
        "predicted": [low, middle, high],
        "measured": total,
        "inside": low <= total <= high,
    }
