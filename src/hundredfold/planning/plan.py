"""The plan of a run: a pilot, then the outlook of every way to execute the job, and a choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bench.engine import Listener
from ..data.layout import Layout
from ..errors import UsageError
from ..job import Job, Model
from ..ports.interfaces import Store
from ..runs.job_code import read_job_code
from ..runs.job_loader import absolute_ref, load_job
from ..runs.pilot_results import keep_pilot
from ..runs.plans import pilot_folder
from ..runs.prices import read_prices
from ..runs.resources import choose_resources
from .outlooks import LOCAL, Outlook, Wishes, outlook_here, outlook_of
from .pilot import Keep, ModelPilot, Pilot, run_pilot
from .pilot_watch import RUN_ID
from .plan_file import check_output, empty_pilot_folder, write_plan
from .ways import QUOTAS, ways

DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The options of a plan. deadline: seconds. budget: dollars. output: the file of the plan."""

    pilot_seconds: float = 60.0
    deadline: float | None = None
    budget: float | None = None
    quotas: Mapping[str, int] | None = None
    region: str = DEFAULT_REGION
    prices: str | Path | None = None
    architecture: str = "arm64"
    workers: int | None = None
    memory: str | None = None
    as_of: str | None = None
    output: str | Path | None = None

    def check(self) -> None:
        """Raise UsageError for a number that is out of range, and for an unknown quota."""
        if not 0 < self.pilot_seconds < math.inf:
            raise UsageError(f"--pilot-seconds is {self.pilot_seconds:g}, wanted seconds above 0")
        if self.budget is not None and not 0 <= self.budget < math.inf:
            raise UsageError(f"--budget is {self.budget:g}, wanted dollars, 0 or more")
        unknown = sorted(set(self.quotas or {}) - set(QUOTAS))
        if unknown:
            raise UsageError(
                f"no quota is named {', '.join(unknown)}",
                hint=f"the quotas are {', '.join(QUOTAS)}",
            )
        if self.output is not None:
            check_output(self.output)


def plan_run(
    job: Job | str, sources: Mapping[str, Any], options: PlanOptions, listener: Listener
) -> dict[str, Any]:
    """Return the plan of a run as facts for programs.

    Nothing is kept, unless `options.output` is the file of the plan: then that is written, and the
    results of the pilot beside it.

    Raises:
        HundredfoldError: the job cannot be run, or an option is wrong.
    """
    options.check()
    prices = read_prices(options.region, options.prices)
    workers = choose_resources(options.workers, options.memory).workers
    loaded = load_job(job) if isinstance(job, str) else job
    # the quality of the rows is not measured
    lenient = {
        "workers": options.workers,
        "memory": options.memory,
        "as_of": options.as_of,
        "max_rejected": {source.name: 1.0 for source in loaded.sources},
        "max_failed": 1.0,
    }
    keep = None if options.output is None else _keeper(job, loaded, options.output)
    pilot = run_pilot(loaded, sources, options.pilot_seconds, lenient, workers, listener, keep)
    wishes = Wishes(
        workers,
        {**QUOTAS, **(options.quotas or {})},
        options.architecture,
        prices,
        options.deadline,
        options.budget,
    )
    facts = make_plan(pilot, wishes)
    if options.output is not None:
        facts["pilot"] = pilot_folder(options.output).name
        write_plan(facts, options.output)
    return facts


def _keeper(job: Job | str, loaded: Job, output: str | Path) -> Keep:
    """Return a function that keeps the results of a pilot beside the plan."""
    code = read_job_code(loaded, absolute_ref(job) if isinstance(job, str) else "").fingerprint

    def keep(models: Sequence[Model], store: Store) -> None:
        keep_pilot(code, Layout(RUN_ID), models, store, empty_pilot_folder(output))

    return keep


def make_plan(pilot: Pilot, wishes: Wishes) -> dict[str, Any]:
    """Return the plan as facts for programs, and for the terminal."""
    longest = max(float(m.expected.max()) for m in pilot.models)
    found = [outlook_here(pilot, wishes.workers)]
    every = ways(wishes.quotas, wishes.architecture, pilot.worker_bytes, longest)
    found += [outlook_of(way, pilot, wishes) for way in every]
    chosen = choose(found, wishes.deadline, wishes.budget)
    return {
        "job": pilot.job.name,
        "models": [_model_facts(m) for m in pilot.models],
        "left_out": list(pilot.left_out),
        "workers": wishes.workers,
        "worker_bytes": pilot.worker_bytes,
        "rejected": pilot.rejected,
        "refused": pilot.refused,
        "region": wishes.prices.region,
        "architecture": wishes.architecture,
        "quotas": dict(wishes.quotas),
        "deadline": wishes.deadline,
        "budget": wishes.budget,
        "unconfirmed": wishes.prices.unconfirmed,
        "ways": [_way_facts(each) for each in found],
        "choice": chosen.way if chosen else None,
        "pilot": None,
    }


def choose(
    found: Sequence[Outlook], deadline: float | None, budget: float | None
) -> Outlook | None:
    """Return the cheapest way within the deadline, or the fastest within the budget.

    Of each interval the upper end counts, and the ways that can be deployed come first. Of equally
    cheap ones the faster is chosen. Return None without either wish, and where no way fulfils them.
    """
    if deadline is None and budget is None:
        return None
    able = [
        each
        for each in found
        if each.wall
        and (each.dollars or each.way == LOCAL)
        and (deadline is None or each.wall[-1] <= deadline)
        and (budget is None or max(each.dollars, default=0.0) <= budget)
        and not each.dead_letters
    ]
    key = _price if deadline is not None else _time
    return min(able, key=lambda each: (not each.deployable, key(each)), default=None)


def _price(each: Outlook) -> tuple[float, float]:
    """Return the dollars to two digits, which is more than the simulation knows, then the time."""
    dollars = each.dollars[1] if each.dollars else 0.0
    return float(f"{dollars:.2g}"), each.wall[1]


def _time(each: Outlook) -> tuple[float, float]:
    return each.wall[1], 0.0


def _way_facts(each: Outlook) -> dict[str, Any]:
    known = {"wall": each.wall or None, "dollars": each.dollars or None}
    return {**asdict(each), **known, "items": dict(each.items)}


def _model_facts(model: ModelPilot) -> dict[str, Any]:
    return {
        "model": model.model.name,
        "units": len(model.rows),
        "rows": int(model.rows.sum()),
        "timed": model.timed,
        "failed": model.failed,
        "seconds": model.seconds,
        "longest": float(model.expected.max()),
        "longest_unit": model.longest_key,
        "spread": model.spread,
        "error": model.error,
        "first_call": model.first_call_s,
        "running": model.running_s,
    }
