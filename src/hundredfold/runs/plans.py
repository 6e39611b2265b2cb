"""The plan that a run takes: the file of `hundredfold plan --out`, the way in it for a backend,
and the folder beside it with the results of the pilot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .backend import RunArguments

LOCAL_WAY = "local"
HINT = "make it with: hundredfold plan JOB --out plan.json"
PILOT_SUFFIX = ".pilot"
# of a way, kept in the record of the run that takes it
KEPT = (
    "way",
    "title",
    "wall",
    "start",
    "stages",
    "dollars",
    "slots",
    "batches",
    "memory",
    "timeout",
    "pollers",
)
Way = Mapping[str, Any]
# the fleet of a stack for each way that is one
FLEETS = {
    "fargate": "fargate",
    "fargate-spot": "fargate-spot",
    "batch-spot": "batch",
    "ecs-managed": "managed",
}


def read_plan(path: str | Path) -> Mapping[str, Any]:
    """Return a plan. Raises: UsageError for a file that is not one."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--plan {path} cannot be read: {error}", hint=HINT) from error
    except ValueError as error:
        raise UsageError(f"--plan {path} is not JSON: {error}", hint=HINT) from error
    ways = found.get("ways") if isinstance(found, dict) else None
    models = found.get("models") if isinstance(found, dict) else None
    complete = (
        isinstance(ways, list)
        and isinstance(models, list)
        and all(isinstance(way, dict) and set(KEPT) <= set(way) for way in ways)
        and "job" in found
        and models
    )
    if not complete:
        raise UsageError(f"--plan {path} is not the plan of a job", hint=HINT)
    return dict(found)


def pilot_folder(plan: str | Path) -> Path:
    """Return the folder with the results of a plan's pilot: plan.pilot beside plan.json."""
    return Path(plan).absolute().with_suffix(PILOT_SUFFIX)


def recommended(plan: Mapping[str, Any]) -> Way | None:
    """Return the way on AWS that a plan recommends: the chosen one, else the fastest."""
    able = [
        way for way in plan["ways"] if way["way"] != LOCAL_WAY and way["deployable"] and way["wall"]
    ]
    chosen = next((way for way in able if way["way"] == plan["choice"]), None)
    return chosen or min(able, key=lambda way: float(way["wall"][1]), default=None)


def way_of(plan: Mapping[str, Any], *, on_aws: bool) -> Way:
    """Return the way of a plan for a backend. Raises: UsageError if there is none."""
    here = next((way for way in plan["ways"] if way["way"] == LOCAL_WAY and way["wall"]), None)
    way = recommended(plan) if on_aws else here
    if way is None:
        raise UsageError(f"the plan of {plan['job']} has no way for this backend", hint=HINT)
    return {name: way[name] for name in KEPT}


def take_plan(arguments: RunArguments, job: str, *, on_aws: bool) -> RunArguments:
    """Return the arguments of a run with the settings of its plan; those that are given win.

    Raises: UsageError for the plan of another job.
    """
    if arguments.plan is None:
        return arguments
    plan = read_plan(arguments.plan)
    if plan["job"] != job:
        raise UsageError(
            f"--plan {arguments.plan} is the plan of {plan['job']}, and the job is {job}", hint=HINT
        )
    way = way_of(plan, on_aws=on_aws)
    if not on_aws:
        pilot = pilot_folder(arguments.plan) if plan.get("pilot") else None
        workers = arguments.workers or way["slots"]
        return replace(arguments, way=way, workers=workers, pilot=pilot)
    batches = arguments.batches or max(1, way["batches"] // len(plan["models"]))
    fleets = arguments.fleets or fleet_arguments(way)
    return replace(arguments, way=way, batches=batches, fleets=fleets)


def fleet_arguments(way: Way) -> tuple[str, ...]:
    """Return the fleets of `run --fleet` for a way; none for functions."""
    fleet = FLEETS.get(str(way["way"]))
    return (f"{fleet}:{way['slots']}",) if fleet else ()


def trigger_of(way: Way) -> str:
    """Return the trigger of a stack on which a way can run."""
    name = str(way["way"]).rpartition("-")[2]
    return name if name in ("events", "direct") else "messages"


def setting_problems(way: Way, trigger: str, memory: int, timeout: int) -> list[str]:
    """Return in which settings a stack is not that of a way, one a line.

    memory: MB of a worker. timeout: seconds of a call; a longer one than that of the way changes
    nothing. The fleet of a way is checked where the run asks for it.
    """
    if way["way"] in FLEETS:
        return []
    pairs = {
        "trigger": (trigger_of(way), trigger),
        "memory of a worker": (f"{way['memory']:,} MB", f"{memory:,} MB"),
        "timeout": (f"{way['timeout']:,} s", f"{timeout:,} s"),
    }
    if timeout >= way["timeout"]:
        del pairs["timeout"]
    return [
        f"{name}: the plan has {wanted}, the stack {found}"
        for name, (wanted, found) in pairs.items()
        if wanted != found
    ]


def deploy_options(way: Way) -> list[str]:
    """Return the options of `deploy` that make the stack of a way.

    Of a fleet, IMAGE, SUBNET and GROUP stand for values that only the user has.
    """
    if fleet := FLEETS.get(str(way["way"])):
        users = ["--worker-image", "IMAGE", "--subnet", "SUBNET", "--security-group", "GROUP"]
        cores = ["--batch-cores", str(way["slots"])] if fleet == "batch" else []
        return ["--fleet", fleet, *users, "--task-memory", str(way["memory"]), *cores]
    workers = (
        ["--pollers", "{},{}".format(*way["pollers"]), "--raise-pollers"]
        if way["pollers"]
        else ["--concurrency", str(way["slots"])]
    )
    name = trigger_of(way)  # stated where it is not the default
    trigger = [] if way["pollers"] and name == "messages" else ["--trigger", name]
    return ["--memory", str(way["memory"]), "--timeout", str(way["timeout"]), *workers, *trigger]
