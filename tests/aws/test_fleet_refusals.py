"""Tasks that do not start: a lack of capacity is waited for, a refusal ends the run at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from hundredfold.aws.adapters.session import client
from hundredfold.aws.fleets.batch import BatchFleet
from hundredfold.aws.fleets.ecs import EcsFleet
from hundredfold.aws.fleets.giving_up import MAX_RESTARTS, refuse_without_tasks
from hundredfold.aws.fleets.refusals import Refusal, refusal_at_start, refusal_of
from hundredfold.aws.fleets.run_fleets import FleetResources, RunFleets, StartedTasks
from hundredfold.aws.functions.poll_state import PollState
from hundredfold.errors import WorkerError

NO_SPOT = Refusal("Capacity is unavailable at this time")
DENIED = Refusal("not authorized to perform: ecs:RunTask", "grant it")
NO_IMAGE = Refusal("CannotPullContainerError: worker:1 not found", "push it")
MESSAGES = 6


def error(code: str, message: str, operation: str = "RunTask") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        (
            "AccessDeniedException",
            "User: x is not authorized to perform: ecs:RunTask",
            "policy that denies it",
        ),
        ("UnauthorizedOperation", "You are not authorized", "policy that denies it"),
        ("ClusterNotFoundException", "Cluster not found.", "creates its resources again"),
        ("ClientException", "TaskDefinition is inactive", "creates its resources again"),
        ("ClientException", "JobQueue x not found", "creates its resources again"),
        ("InvalidParameterException", "The subnet ID 'subnet-1' does not exist", "--subnet"),
        ("InvalidParameterException", "Invalid security groups provided", "--security-group"),
        (
            "InvalidParameterException",
            "Unable to assume the service linked role. Please verify that the ECS service linked "
            "role exists.",
            "create-service-linked-role",
        ),
        (
            "ClientException",
            "The requested CPU configuration is above your limit",
            "fewer --task-cores",
        ),
        ("BlockedException", "Your account was blocked", "its support"),
        ("PlatformUnknownException", "The specified platform does not exist.", "correct the"),
    ],
)
def test_a_wrong_request_is_final_and_has_a_remedy(code: str, message: str, remedy: str) -> None:
    refusal = refusal_of(error(code, message))
    assert refusal.is_final
    assert remedy in refusal.remedy
    assert message in refusal.reason


@pytest.mark.parametrize(
    "cause",
    [
        error("ThrottlingException", "Rate exceeded"),
        error("ServerException", "Service Unavailable. Please try again later."),
        error("ClientException", "Tasks provisioning capacity limit exceeded."),
        error("ClientException", "You've reached the limit on the number of tasks you can run"),
        error("InvalidParameterException", "Capacity is unavailable at this time"),
        error("ConflictException", "the token is of other tasks"),
        error("AnotherException", "not known yet"),
        EndpointConnectionError(endpoint_url="https://ecs"),
    ],
    ids=str,
)
def test_a_lack_of_capacity_and_an_unknown_error_may_pass(
    cause: ClientError | EndpointConnectionError,
) -> None:
    assert refusal_of(cause) == Refusal(str(cause))
    assert not refusal_of(cause).is_final


@pytest.mark.parametrize(
    ("reason", "final"),
    [
        ("CannotPullContainerError: failed to resolve ref worker:1: not found", True),
        ("User: x is not authorized to perform: ecr:BatchGetImage", True),
        (
            "CannotPullContainerError: image Manifest does not contain descriptor matching "
            "platform 'linux/arm64'",
            True,
        ),
        ("CannotPullContainerError: unexpected status: 403 Forbidden", True),
        ("ResourceInitializationError: unable to pull registry auth: i/o timeout", False),
        ("Timeout waiting for network interface provisioning to complete.", False),
        ("Your Spot Task was interrupted.", False),
    ],
)
def test_a_task_that_never_began_is_final_if_its_image_or_role_is_wrong(
    reason: str, final: bool
) -> None:
    assert refusal_at_start(reason).is_final is final


@dataclass
class ListedFleet:
    """A fleet whose tasks are a list. refuses: each start; ends: each task, before it begins."""

    refuses: Refusal | None = None
    ends: Refusal | None = None
    capacity: int = 1000
    providers: Sequence[str] = ("ONE",)
    tasks: list[float] = field(default_factory=list)  # the times of their creation
    now: float = 100.0
    asked: int = 0

    def active(self, _run: str) -> int:
        return 0 if self.ends else len(self.tasks)

    def start(self, _run: str, count: int, *_: Any) -> tuple[int, list[Refusal]]:
        self.asked += count
        if self.refuses:
            return 0, [self.refuses]
        started = min(count, self.capacity)
        self.tasks += [self.now] * started
        return started, [NO_SPOT] * (started < count)

    def refused_at_start(self, _run: str, since: float) -> list[Refusal]:
        return [self.ends for at in self.tasks if self.ends and at >= since][:1]

    def reasons(self, _run: str) -> list[str]:
        return [self.ends.reason] if self.ends else []

    def stop(self, *_: Any) -> int:
        return 0


def polls(count: int, tasks: int = 10, **fleets: ListedFleet) -> list[StartedTasks]:
    """Start the missing tasks of a run at each of some polls without progress, as `step` does."""
    of_run = RunFleets(
        "run-1",
        "execution",
        [{"name": name, "tasks": tasks} for name in fleets],
        False,
        FleetResources(fleets),
    )
    poll, found = PollState.of(None, 100.0), []
    for number in range(count):
        one = of_run.start(
            MESSAGES, "m/1", poll.tasks, "queue", again=poll.checked > 0, since=poll.began
        )
        poll = poll.after_start(one, 100.0 + number)
        refuse_without_tasks("m", poll.restarts, one, of_run)
        found.append(one)
    return found


def test_a_refusal_that_is_final_ends_the_run_at_its_first_poll() -> None:
    fleet = ListedFleet(refuses=DENIED)
    with pytest.raises(WorkerError, match="m: no task of the fleet fargate can start") as refused:
        polls(1, fargate=fleet)
    assert refused.value.problems == (DENIED.reason,)
    assert refused.value.hint == "grant it; then hundredfold resume run-1"


def test_tasks_without_an_image_end_the_run_before_others_are_started() -> None:
    fleet = ListedFleet(ends=NO_IMAGE)
    with pytest.raises(WorkerError, match="no task of the fleet fargate can start") as refused:
        polls(2, fargate=fleet)
    assert refused.value.problems == (NO_IMAGE.reason,)
    assert fleet.asked == MESSAGES


def test_the_tasks_of_an_earlier_execution_say_nothing_of_this_one() -> None:
    fleet = ListedFleet(ends=NO_IMAGE, tasks=[90.0], now=90.0)  # those of now seem as old
    assert [found.started for found in polls(2, fargate=fleet)] == [MESSAGES] * 2


def test_a_lack_of_capacity_is_waited_for_some_polls() -> None:
    fleet = ListedFleet(refuses=NO_SPOT)
    polls(MAX_RESTARTS + 1, spot=fleet)
    with pytest.raises(WorkerError, match="started 3 times more, and none has") as refused:
        polls(MAX_RESTARTS + 2, spot=fleet)
    assert refused.value.problems == (NO_SPOT.reason,)


def test_a_fleet_that_works_goes_on_without_one_that_is_refused() -> None:
    refused, works = ListedFleet(refuses=DENIED), ListedFleet()
    found = polls(MAX_RESTARTS + 3, fargate=refused, batch=works)
    assert [each.started for each in found] == [MESSAGES] + [0] * (MAX_RESTARTS + 2)
    assert len(works.tasks) == MESSAGES


def test_a_fleet_starts_what_the_one_before_has_no_capacity_for() -> None:
    first, second = ListedFleet(capacity=2), ListedFleet()
    polls(1, fargate=first, batch=second)
    assert (len(first.tasks), len(second.tasks)) == (2, MESSAGES - 2)


@pytest.mark.parametrize(
    "fleet",
    [
        EcsFleet("cluster", "task", ["FARGATE"], ["subnet-1"], ["sg-1"]),
        BatchFleet("queue", "definition"),
    ],
    ids=["ecs", "batch"],
)
def test_an_error_before_a_reply_of_aws_is_no_final_refusal(
    fleet: EcsFleet | BatchFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)  # without credentials, nothing is sent
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    client.cache_clear()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    try:
        started, refusals = fleet.start("run-1", 1, [{}], "token", 0)
    finally:
        client.cache_clear()
    assert started == 0
    assert [each.is_final for each in refusals] == [False]
    assert "Unable to locate credentials" in refusals[0].reason


def test_a_refused_fleet_does_not_end_a_run_that_waits_for_another() -> None:
    polls(MAX_RESTARTS, fargate=ListedFleet(refuses=DENIED), spot=ListedFleet(refuses=NO_SPOT))
    polls(2, fargate=ListedFleet(ends=NO_IMAGE), spot=ListedFleet(refuses=NO_SPOT), tasks=3)
