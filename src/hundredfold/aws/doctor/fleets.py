"""The check of the fleets of a stack: resources that their tasks need, and quotas of the account.

A run finds such a fault at its first task; the doctor finds it before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from ..adapters.errors import error_code
from ..adapters.session import client
from ..fleets.batch import BatchFleet
from ..fleets.ecs import EcsFleet
from ..fleets.requests import BATCH, DEFAULT_TASKS, FARGATE, FARGATE_SPOT, MANAGED
from ..fleets.run_fleets import FLEETS_ENV, FleetResources
from .finding import Finding, Level, aws
from .snapshot import StackSnapshot

OF_AWS = {"FARGATE", "FARGATE_SPOT"}  # capacity providers that every cluster may have
QUOTAS = {  # of vCPUs that run at a time: the service and the code of Service Quotas
    FARGATE: ("fargate", "L-3032A538"),
    FARGATE_SPOT: ("fargate", "L-36FBB829"),
    MANAGED: ("ec2", "L-1216C47A"),
    BATCH: ("ec2", "L-34B43A08"),
}
MISSING_SUBNETS = {"InvalidSubnetID.NotFound", "InvalidSubnetId.NotFound"}
MISSING_GROUPS = {"InvalidGroup.NotFound", "InvalidGroupId.Malformed"}


def fleets(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The fleets. Their tasks need a cluster or a queue, a definition, roles, and a network."""
    variables = snapshot.functions["StepFunction"].get("Environment", {}).get("Variables", {})
    if FLEETS_ENV not in variables:
        return
    of_stack = FleetResources.from_environment(variables)
    tasks = {n: each for n, each in of_stack.fleets.items() if isinstance(each, EcsFleet)}
    again = _deploy_again(snapshot, list(of_stack.fleets))
    if tasks:
        yield from _clusters(tasks, again)
        yield from _networks(tasks, again)
    for each in of_stack.fleets.values():
        if isinstance(each, BatchFleet):
            yield from _jobs(each, again)
    for definition in dict.fromkeys(each.task for each in tasks.values()):
        yield from _definition(definition, again)
    for name in of_stack.fleets:
        yield from _quota(snapshot, name, of_stack.cores)


def _deploy_again(snapshot: StackSnapshot, names: Sequence[str]) -> str:
    """Return the commands that create the resources of the fleets again.

    CloudFormation does not miss a resource that was deleted beside it.
    """
    options = " ".join(f"--fleet {name}" for name in names)
    return (
        f"{snapshot.redeploy}   # without fleets, and then again with {options}, --worker-image, "
        "--subnet and --security-group"
    )


def _clusters(tasks: Mapping[str, EcsFleet], again: str) -> Iterator[Finding]:
    """Find a missing cluster, or a capacity provider that it lacks."""
    for arn in dict.fromkeys(each.cluster for each in tasks.values()):
        found = client("ecs").describe_clusters(clusters=[arn])["clusters"]
        if not found or found[0]["status"] != "ACTIVE":
            state = found[0]["status"] if found else "missing"
            yield _wrong(f"the cluster {_name(arn)} is {state}", again)
            continue
        present = OF_AWS | set(found[0].get("capacityProviders", ()))
        for name, fleet in tasks.items():
            lacking = [each for each in fleet.providers if each not in present]
            if fleet.cluster == arn and lacking:
                yield _wrong(
                    f"the cluster {_name(arn)} lacks the capacity provider {lacking[0]} of the "
                    f"fleet {name}",
                    again,
                )


def _networks(tasks: Mapping[str, EcsFleet], again: str) -> Iterator[Finding]:
    """Find a missing subnet or security group."""
    for subnet in dict.fromkeys(each for fleet in tasks.values() for each in fleet.subnets):
        if _is_missing("describe_subnets", {"SubnetIds": [subnet]}, MISSING_SUBNETS):
            yield _wrong(f"the subnet {subnet} of the fleets is missing", again)
    for group in dict.fromkeys(each for fleet in tasks.values() for each in fleet.security_groups):
        if _is_missing("describe_security_groups", {"GroupIds": [group]}, MISSING_GROUPS):
            yield _wrong(f"the security group {group} of the fleets is missing", again)


def _is_missing(operation: str, asked: Mapping[str, Any], codes: set[str]) -> bool:
    try:
        getattr(client("ec2"), operation)(**asked)
    except ClientError as error:
        if error_code(error) not in codes:
            raise
        return True
    return False


def _definition(arn: str, again: str) -> Iterator[Finding]:
    """Find a definition of a task that cannot be started, and its missing roles."""
    try:
        found = client("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]
    except ClientError as error:
        if error_code(error) != "ClientException":
            raise
        yield _wrong(f"the task definition {_name(arn)} is missing", again)
        return
    if found["status"] != "ACTIVE":
        yield _wrong(f"the task definition {_name(arn)} is {found['status']}", again)
    yield from _roles([found["taskRoleArn"], found["executionRoleArn"]], again)


def _jobs(fleet: BatchFleet, again: str) -> Iterator[Finding]:
    """Find a queue of jobs that starts none, and a missing definition with its roles."""
    queues = client("batch").describe_job_queues(jobQueues=[fleet.queue])["jobQueues"]
    states = (queues[0]["state"], queues[0]["status"]) if queues else ("missing", "")
    if states[0] == "DISABLED" and states[1] == "VALID":
        enable = ("--job-queue", fleet.queue, "--state", "ENABLED")
        yield _wrong(
            f"the job queue {_name(fleet.queue)} is DISABLED",
            aws("batch", "update-job-queue", *enable),
        )
    elif states != ("ENABLED", "VALID"):
        yield _wrong(f"the job queue {_name(fleet.queue)} is {' '.join(states).strip()}", again)
    for place in queues[0]["computeEnvironmentOrder"] if queues else ():
        yield from _instances(place["computeEnvironment"], again)
    asked = {"jobDefinitions": [fleet.definition]}
    found = client("batch").describe_job_definitions(**asked)["jobDefinitions"]
    if not found or found[0]["status"] != "ACTIVE":
        state = found[0]["status"] if found else "missing"
        yield _wrong(f"the job definition {_name(fleet.definition)} is {state}", again)
        return
    container = found[0]["containerProperties"]
    yield from _roles([container["jobRoleArn"], container["executionRoleArn"]], again)


def _instances(environment: str, again: str) -> Iterator[Finding]:
    """Find a compute environment that starts no instance."""
    asked = {"computeEnvironments": [environment]}
    all_found = client("batch").describe_compute_environments(**asked)["computeEnvironments"]
    if not all_found:
        yield _wrong(f"the compute environment {_name(environment)} is missing", again)
        return
    found = all_found[0]
    if found["state"] == "DISABLED":
        enable = ("--compute-environment", environment, "--state", "ENABLED")
        yield _wrong(
            f"the compute environment {_name(environment)} is DISABLED",
            aws("batch", "update-compute-environment", *enable),
        )
    elif found["status"] != "VALID":
        reason = found.get("statusReason", "no reason")
        yield _wrong(
            f"the compute environment {_name(environment)} is {found['status']}: {reason}", again
        )


def _roles(arns: Sequence[str], again: str) -> Iterator[Finding]:
    """Find roles of tasks that are missing."""
    for arn in arns:
        try:
            client("iam").get_role(RoleName=_name(arn))
        except ClientError as error:
            if error_code(error) != "NoSuchEntity":
                raise
            yield _wrong(f"the role {_name(arn)} of the fleets is missing", again)


def _quota(snapshot: StackSnapshot, name: str, cores: int) -> Iterator[Finding]:
    """Find a quota of cores that is lower than the tasks of a run need."""
    service, code = QUOTAS[name]
    needed, allowed = cores * DEFAULT_TASKS, snapshot.quota(service, code)
    if allowed >= needed:
        return
    options = ("--service-code", service, "--quota-code", code, "--desired-value", str(needed))
    yield Finding(
        Level.RISK,
        f"the account may run {allowed:,.0f} vCPUs of the fleet {name} at a time, and "
        f"{DEFAULT_TASKS} tasks have {needed}",
        "the others do not start, and a run takes longer",
        aws("service-quotas", "request-service-quota-increase", *options),
    )


def _wrong(what: str, command: str) -> Finding:
    return Finding(Level.WRONG, what, "a run on the fleet fails", command)


def _name(arn: str) -> str:
    """Return the last part of an ARN, or a name as it is."""
    return arn.rpartition("/")[2]
