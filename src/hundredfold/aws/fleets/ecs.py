"""Fleets of ECS tasks: Fargate, Fargate Spot with tasks on demand in place of missing ones, and
instances that ECS manages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from ..adapters.errors import error_code
from ..adapters.session import client

CONTAINER = "worker"  # the name of the only container of a task
TASKS_PER_CALL = 10  # that one RunTask starts
TOKEN_CHARACTERS = 32
CALLING_THREADS = 16
MAX_DESCRIBED = 10  # tasks that ended, for the reason in an error
GONE = {"InvalidParameterException", "TaskNotFoundException"}  # a task that has been forgotten


@dataclass(frozen=True, slots=True)
class EcsFleet:
    """One fleet of a stack.

    task: the ARN of the definition. providers: the capacity provider of its tasks, then those of
    tasks that the first did not start, or interrupted.
    """

    cluster: str
    task: str
    providers: Sequence[str]
    subnets: Sequence[str]
    security_groups: Sequence[str]

    def active(self, run: str) -> int:
        """Return the tasks of a run that have not been stopped, also those that still start."""
        return sum(1 for _ in self._tasks(run, "RUNNING"))

    def start(
        self, run: str, count: int, environments: Sequence[Mapping[str, str]], token: str, at: int
    ) -> tuple[int, list[str]]:
        """Start tasks with the provider of that place; return how many, and why not the others.

        Those that Spot has no capacity for are started by the next provider. `environments`: of
        each provider. A repetition with the same token starts nothing.
        """
        started, problems = 0, []
        for place in range(min(at, len(self.providers) - 1), len(self.providers)):
            asked = f"{token}/{self.providers[place]}/{count - started}"
            found, reasons = self._run_tasks(
                run, count - started, environments[place], self.providers[place], asked
            )
            started += found
            problems = reasons
            if started >= count:
                break
        return started, problems

    def stop(self, run: str, reason: str) -> int:
        """Stop the tasks of a run; return how many there were."""
        tasks = list(self._tasks(run, "RUNNING"))

        def stop(task: str) -> None:
            try:
                client("ecs").stop_task(cluster=self.cluster, task=task, reason=reason)
            except ClientError as error:
                if error_code(error) not in GONE:
                    raise

        with ThreadPoolExecutor(CALLING_THREADS) as pool:
            for _ in pool.map(stop, tasks):
                pass  # reraises the error of a thread
        return len(tasks)

    def reasons(self, run: str) -> list[str]:
        """Return why tasks of a run have ended, each reason once."""
        tasks = list(self._tasks(run, "STOPPED"))[:MAX_DESCRIBED]
        if not tasks:
            return []
        found = client("ecs").describe_tasks(cluster=self.cluster, tasks=tasks)["tasks"]
        return list(dict.fromkeys(map(_reason_of, found)))

    def _tasks(self, run: str, status: str) -> Iterator[str]:
        pages = client("ecs").get_paginator("list_tasks")
        for page in pages.paginate(cluster=self.cluster, startedBy=run, desiredStatus=status):
            yield from page["taskArns"]

    def _run_tasks(
        self, run: str, count: int, environment: Mapping[str, str], provider: str, token: str
    ) -> tuple[int, list[str]]:
        network = {
            "subnets": list(self.subnets),
            "securityGroups": list(self.security_groups),
            "assignPublicIp": "DISABLED",
        }
        variables = [{"name": name, "value": value} for name, value in environment.items()]

        def start(part: int) -> tuple[int, list[str]]:
            digest = hashlib.sha256(f"{token}/{part}".encode()).hexdigest()
            try:
                found = client("ecs").run_task(
                    cluster=self.cluster,
                    taskDefinition=self.task,
                    count=min(TASKS_PER_CALL, count - part),
                    startedBy=run,
                    clientToken=digest[:TOKEN_CHARACTERS],
                    capacityProviderStrategy=[{"capacityProvider": provider, "weight": 1}],
                    networkConfiguration={"awsvpcConfiguration": network},
                    overrides={
                        "containerOverrides": [{"name": CONTAINER, "environment": variables}]
                    },
                )
            except ClientError as error:
                return 0, [str(error)]
            return len(found["tasks"]), [str(each.get("reason")) for each in found["failures"]]

        with ThreadPoolExecutor(CALLING_THREADS) as pool:
            parts = list(pool.map(start, range(0, count, TASKS_PER_CALL)))
        reasons = dict.fromkeys(reason for _, each in parts for reason in each)
        return sum(number for number, _ in parts), list(reasons)


def _reason_of(task: Mapping[str, Any]) -> str:
    """Return why a task ended, with the exit status of its container if it had one."""
    codes = [each["exitCode"] for each in task["containers"] if "exitCode" in each]
    exits = f" (exit status {codes[0]})" if codes else ""
    details = [each["reason"] for each in task["containers"] if each.get("reason")]
    return ": ".join([f"{task.get('stoppedReason') or 'no reason'}{exits}", *details])
