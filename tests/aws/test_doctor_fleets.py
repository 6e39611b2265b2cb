"""The doctor's check of fleets, with replies of AWS in the forms of its own models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from hundredfold.aws.adapters.session import StackResources, client
from hundredfold.aws.doctor.finding import Finding, Level
from hundredfold.aws.doctor.fleets import MISSING_SUBNETS, QUOTAS, fleets
from hundredfold.aws.doctor.snapshot import StackSnapshot
from hundredfold.aws.fleets.run_fleets import FLEET_QUEUE_ENV, FLEETS_ENV

ARN = "arn:aws:{}:eu-west-1:123456789012:{}"
CLUSTER, TASK = ARN.format("ecs", "cluster/worker"), ARN.format("ecs", "task-definition/worker:3")
QUEUE, JOBS = ARN.format("batch", "job-queue/worker"), ARN.format("batch", "job-definition/work:1")
INSTANCES = ARN.format("batch", "compute-environment/worker")
ROLES = [f"arn:aws:iam::123456789012:role/{name}" for name in ("TaskRole", "TaskStartRole")]
SERVICES = ("ecs", "ec2", "batch", "iam", "service-quotas")
TASKS = {
    "cluster": CLUSTER,
    "task": TASK,
    "subnets": ["subnet-1"],
    "security_groups": ["sg-1"],
}
OF_TASKS = {
    "fargate": {**TASKS, "providers": ["FARGATE"]},
    "managed": {**TASKS, "providers": ["instances"]},
}
OF_JOBS = {"batch": {"queue": QUEUE, "definition": JOBS}}
RESOURCES = StackResources(
    "my_job.job:job", "bucket", "table", "queue", "dead", "database", "workgroup", 4, "messages"
)


class StackWithFleets(StackSnapshot):
    """The snapshot of a stack whose function `step` has these fleets."""

    def __init__(self, of_stack: Mapping[str, Any]) -> None:
        super().__init__("worker", RESOURCES)
        text = json.dumps({"cores": 4, "fleets": of_stack})
        variables = {FLEETS_ENV: text, FLEET_QUEUE_ENV: "url"} if of_stack else {}
        self.__dict__["functions"] = {"StepFunction": {"Environment": {"Variables": variables}}}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Stubber]]:
    """Stubs of the clients, which fail for a call that was not expected."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    client.cache_clear()
    with ExitStack() as stack:
        yield {name: stack.enter_context(Stubber(client(name))) for name in SERVICES}
    client.cache_clear()


def expect(
    aws: Mapping[str, Stubber], of_stack: Mapping[str, Any], **changes: Any
) -> list[Finding]:
    """Return the findings where AWS replies that all is well, but for the changes by call."""
    if "fargate" in of_stack:
        cluster = {"status": "ACTIVE", "capacityProviders": ["FARGATE", "instances"]}
        reply(aws["ecs"], "describe_clusters", {"clusters": [cluster]}, changes)
        if changes.get("network", True):
            reply(aws["ec2"], "describe_subnets", {"Subnets": []}, changes)
            reply(aws["ec2"], "describe_security_groups", {"SecurityGroups": []}, changes)
        task = {"status": "ACTIVE", "taskRoleArn": ROLES[0], "executionRoleArn": ROLES[1]}
        reply(aws["ecs"], "describe_task_definition", {"taskDefinition": task}, changes)
    if "batch" in of_stack:
        place = {"order": 1, "computeEnvironment": INSTANCES}
        known: dict[str, Any] = {"priority": 1, "computeEnvironmentOrder": [place]}
        queue = {"jobQueueName": "q", "jobQueueArn": QUEUE, "state": "ENABLED", "status": "VALID"}
        reply(aws["batch"], "describe_job_queues", {"jobQueues": [known | queue]}, changes)
        instances = {"computeEnvironmentName": "c", "computeEnvironmentArn": INSTANCES}
        instances |= {"state": "ENABLED", "status": "VALID"}
        environments = {"computeEnvironments": [instances]}
        reply(aws["batch"], "describe_compute_environments", environments, changes)
        container = {"jobRoleArn": ROLES[0], "executionRoleArn": ROLES[1]}
        job = {"jobDefinitionName": "j", "jobDefinitionArn": JOBS, "revision": 1, "type": "c"}
        job |= {"status": "ACTIVE", "containerProperties": container}
        reply(aws["batch"], "describe_job_definitions", {"jobDefinitions": [job]}, changes)
    role = dict.fromkeys(("Path", "RoleId", "Arn"), "x" * 20)
    found = {"Role": {**role, "RoleName": "r", "CreateDate": 0}}
    for _ in range(0 if changes.get("no_roles") else 2):
        reply(aws["iam"], "get_role", found, changes)
    for _ in of_stack:
        quota = {"Quota": {"Value": changes.get("quota", 1000.0)}}
        aws["service-quotas"].add_response("get_service_quota", quota)
    findings = list(fleets(StackWithFleets(of_stack)))
    for each in aws.values():
        each.assert_no_pending_responses()
    return findings


def reply(stub: Stubber, call: str, found: dict[str, Any], changes: Mapping[str, Any]) -> None:
    change = changes.get(call)
    if isinstance(change, str):
        stub.add_client_error(call, change)
        return
    for name, value in (change or {}).items():
        [(key, one)] = found.items()
        found = {key: value if name == "all" else _changed(one, name, value)}
    stub.add_response(call, found, None if call == "get_role" else dict.fromkeys(ASKED[call], ANY))


def _changed(one: Any, name: str, value: Any) -> Any:
    return [{**one[0], name: value}] if isinstance(one, list) else {**one, name: value}


ASKED = {
    "describe_clusters": ["clusters"],
    "describe_subnets": ["SubnetIds"],
    "describe_security_groups": ["GroupIds"],
    "describe_task_definition": ["taskDefinition"],
    "describe_job_queues": ["jobQueues"],
    "describe_compute_environments": ["computeEnvironments"],
    "describe_job_definitions": ["jobDefinitions"],
}


def test_a_stack_without_fleets_needs_no_call(aws: dict[str, Stubber]) -> None:
    assert expect(aws, {}, no_roles=True) == []


@pytest.mark.parametrize("of_stack", [OF_TASKS, OF_JOBS], ids=["tasks", "jobs"])
def test_fleets_with_all_that_they_need_have_no_finding(
    aws: dict[str, Stubber], of_stack: Mapping[str, Any]
) -> None:
    assert expect(aws, of_stack) == []


@pytest.mark.parametrize(
    ("of_stack", "changes", "what"),
    [
        (OF_TASKS, {"describe_clusters": {"all": []}}, ["the cluster worker is missing"]),
        (
            OF_TASKS,
            {"describe_clusters": {"status": "INACTIVE"}},
            ["the cluster worker is INACTIVE"],
        ),
        (
            OF_TASKS,
            {"describe_clusters": {"capacityProviders": []}},
            ["the cluster worker lacks the capacity provider instances of the fleet managed"],
        ),
        (
            OF_TASKS,
            {"describe_subnets": min(MISSING_SUBNETS)},
            ["the subnet subnet-1 of the fleets is missing"],
        ),
        (
            OF_TASKS,
            {"describe_security_groups": "InvalidGroup.NotFound"},
            ["the security group sg-1 of the fleets is missing"],
        ),
        (
            OF_TASKS,
            {"describe_task_definition": "ClientException", "no_roles": True},
            ["the task definition worker:3 is missing"],
        ),
        (
            OF_TASKS,
            {"describe_task_definition": {"status": "INACTIVE"}},
            ["the task definition worker:3 is INACTIVE"],
        ),
        (
            OF_TASKS,
            {"get_role": "NoSuchEntity"},
            [f"the role {name} of the fleets is missing" for name in ("TaskRole", "TaskStartRole")],
        ),
        (
            OF_JOBS,
            {"describe_job_definitions": {"all": []}, "no_roles": True},
            ["the job definition work:1 is missing"],
        ),
        (
            OF_JOBS,
            {"describe_compute_environments": {"status": "INVALID", "statusReason": "no role"}},
            ["the compute environment worker is INVALID: no role"],
        ),
        (
            OF_JOBS,
            {"describe_job_queues": {"status": "INVALID"}},
            ["the job queue worker is ENABLED INVALID"],
        ),
    ],
)
def test_a_missing_resource_of_a_fleet_is_found(
    aws: dict[str, Stubber], of_stack: Mapping[str, Any], changes: dict[str, Any], what: list[str]
) -> None:
    findings = expect(aws, of_stack, **changes)
    assert [each.what for each in findings] == what
    assert {each.level for each in findings} == {Level.WRONG}
    for each in findings:
        assert each.command.startswith("hundredfold deploy my_job.job:job --stack worker")
        assert all(f"--fleet {name}" in each.command for name in of_stack)


@pytest.mark.parametrize(
    ("call", "command"),
    [
        (
            "describe_job_queues",
            f"aws batch update-job-queue --job-queue {QUEUE} --state ENABLED",
        ),
        (
            "describe_compute_environments",
            "aws batch update-compute-environment --compute-environment "
            f"{INSTANCES} --state ENABLED",
        ),
    ],
)
def test_what_was_disabled_is_enabled_by_the_command(
    aws: dict[str, Stubber], call: str, command: str
) -> None:
    [finding] = expect(aws, OF_JOBS, **{call: {"state": "DISABLED"}})
    assert "is DISABLED" in finding.what
    assert finding.command == command


def test_a_quota_below_the_tasks_of_a_run_is_a_risk(aws: dict[str, Stubber]) -> None:
    [finding] = expect(aws, OF_JOBS, quota=39.0)
    assert finding.level is Level.RISK
    assert "39 vCPUs of the fleet batch at a time, and 10 tasks have 40" in finding.what
    assert f"--quota-code {QUOTAS['batch'][1]} --desired-value 40" in finding.command
