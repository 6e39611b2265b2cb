"""The tasks of fleets on an emulated account, for the tests of fleets."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import uuid4

import psutil

from .emulator import wait_until
from .stacks import Stack, Tasks


def fleet_run_name() -> str:
    """Return a new id of a run."""
    return f"fleet-{uuid4().hex[:6]}"


def tasks_of(stack: Stack, run: str, status: str = "RUNNING") -> list[dict[str, Any]]:
    """Return the tasks of a run with that desired status."""
    ecs = stack.client("ecs")
    [cluster] = [c for c in ecs.list_clusters()["clusterArns"] if f"/{stack.name}-" in c]
    found = ecs.list_tasks(cluster=cluster, startedBy=run, desiredStatus=status)["taskArns"]
    return list(ecs.describe_tasks(cluster=cluster, tasks=found)["tasks"]) if found else []


def wait_for_no_tasks(stack: Stack, run: str) -> list[dict[str, Any]]:
    """Wait until all tasks of a run have ended; return them."""

    def ended() -> bool:
        stopped = tasks_of(stack, run, "STOPPED")
        return not tasks_of(stack, run) and all(t["lastStatus"] == "STOPPED" for t in stopped)

    wait_until(ended, stack.emulator.log)
    return tasks_of(stack, run, "STOPPED")


def processes_of(stack: Stack) -> list[psutil.Process]:
    """Return the processes of the account's tasks, without their children."""
    found = []
    for child in psutil.Process(stack.emulator.pid).children():
        with suppress(psutil.Error):
            if "worker" in child.cmdline():
                found.append(child)
    return found


def wait_for_calls(stack: Stack, tasks: Tasks, count: int) -> None:
    wait_until(
        lambda: len(tasks.calls()) >= count, lambda: f"{tasks.calls()}\n{stack.emulator.log()}"
    )
