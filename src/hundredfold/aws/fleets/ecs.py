"""Fleets of ECS tasks: Fargate, Fargate Spot with tasks on demand in place of missing ones, and
instances that ECS manages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ..adapters.errors import error_code
from ..adapters.session import client
from .refusals import Refusal, refusal_at_start, refusal_of

CONTAINER = "worker"  # the name of the only container of a task
TASKS_PER_CALL = 10  # that one RunTask starts
TOKEN_CHARACTERS = 32
CALLING_THREADS = 16
MAX_DESCRIBED = 100  # tasks that one call describes
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
    ) -> tuple[int, list[Refusal]]:
        """Start tasks with the provider of that place; return how many, and why not the others.

        Those that Spot has no capacity for are started by the next provider. `environments`: of
        each provider. A repetition with the same token starts nothing.
        """
        started, refusals = 0, list[Refusal]()
        for place in range(min(at, len(self.providers) - 1), len(self.providers)):
            asked = f"{token}/{self.providers[place]}/{count - started}"
            found, refusals = self._run_tasks(
                run, count - started, environments[place], self.providers[place], asked
            )
            started += found
            if started >= count or any(each.is_final for each in refusals):
                break
        return started, refusals

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
        return list(dict.fromkeys(map(_reason_of, self._ended(run))))

    def refused_at_start(self, run: str, since: float) -> list[Refusal]:
        """Return why the containers of a run's ended tasks have not begun, each reason once.

        since: tasks that were created before are another execution's. None if one has begun.
        """
        ended = [task for task in self._ended(run) if task["createdAt"].timestamp() >= since]
        if any("exitCode" in each for task in ended for each in task["containers"]):
            return []
        return list(dict.fromkeys(refusal_at_start(_reason_of(task)) for task in ended))

    def _ended(self, run: str) -> list[Mapping[str, Any]]:
        tasks = list(self._tasks(run, "STOPPED"))[:MAX_DESCRIBED]
        if not tasks:
            return []
        return list(client("ecs").describe_tasks(cluster=self.cluster, tasks=tasks)["tasks"])

    def _tasks(self, run: str, status: str) -> Iterator[str]:
        pages = client("ecs").get_paginator("list_tasks")
        for page in pages.paginate(cluster=self.cluster, startedBy=run, desiredStatus=status):
            yield from page["taskArns"]

    def _run_tasks(
        self, run: str, count: int, environment: Mapping[str, str], provider: str, token: str
    ) -> tuple[int, list[Refusal]]:
        network = {
            "subnets": list(self.subnets),
            "securityGroups": list(self.security_groups),
            "assignPublicIp": "DISABLED",
        }
        variables = [{"name": name, "value": value} for name, value in environment.items()]

        def start(part: int) -> tuple[int, list[Refusal]]:
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
            except (BotoCoreError, ClientError) as error:
                return 0, [refusal_of(error)]
            lacking = [Refusal(str(each.get("reason"))) for each in found["failures"]]
            return len(found["tasks"]), lacking

        with ThreadPoolExecutor(CALLING_THREADS) as pool:
            parts = list(pool.map(start, range(0, count, TASKS_PER_CALL)))
        refusals = dict.fromkeys(refusal for _, each in parts for refusal in each)
        return sum(number for number, _ in parts), list(refusals)


def _reason_of(task: Mapping[str, Any]) -> str:
    """Return why a task ended, with the exit status of its container if it had one."""
    codes = [each["exitCode"] for each in task["containers"] if "exitCode" in each]
    exits = f" (exit status {codes[0]})" if codes else ""
    details = [each["reason"] for each in task["containers"] if each.get("reason")]
    return ": ".join([f"{task.get('stoppedReason') or 'no reason'}{exits}", *details])
