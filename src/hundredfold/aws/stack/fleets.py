"""The fleets of a stack: a cluster of ECS, or a queue of Batch, whose tasks run the worker of a
container.

Nothing of it costs anything between runs: tasks are started by the step of a run, end when the
queue stays empty, and are stopped at the end of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aws_cdk import Stack, aws_ecs, aws_iam
from constructs import Construct

from ..fleets.ecs import CONTAINER
from ..fleets.requests import BATCH, FARGATE, FARGATE_SPOT, MANAGED, TaskSize
from ..fleets.run_fleets import FLEET_QUEUE_ENV, FLEETS_ENV
from .instances import make_batch, make_managed_provider
from .lambda_functions import IMAGE_ADDRESS, make_log_group
from .nag_suppressions import accept_finding
from .permissions import Grant, Resources, allow, role, work_permissions
from .queues import make_fleet_queue
from .settings import Settings

PROVIDERS = {  # of tasks, then of tasks in place of those that it cannot run
    FARGATE: ("FARGATE",),
    FARGATE_SPOT: ("FARGATE_SPOT", "FARGATE"),
}
ARCHITECTURES = {"arm64": "ARM64", "x86_64": "X86_64"}  # as ECS names them
CPU_UNITS = 1024  # of a core
GRACE_S = 60  # of the units at work when a task is stopped; Spot warns two minutes before
STOP_TIMEOUT_S = 120  # until a stopped task is killed; the most that Fargate allows
IDLE_S = 120  # of an empty queue; longer than the query of a further model, as a rule
SCRATCH, CODE_FOLDER = "/scratch", "/opt/hundredfold"  # of the image
REGISTRY_REASON = "the login to the registries of an account names none of them"
LISTING_REASON = "the list of the tasks of a cluster names the cluster in a condition only"
JOBS_REASON = "the list of jobs takes no resource: AWS grants it for all queues or none"
JOB_IDS_REASON = "jobs are created during a run, and their ids name no queue"
TASKS_REASON = "tasks are created during a run: their cluster is the name"


@dataclass(frozen=True, slots=True)
class StackFleets:
    """The fleets of a stack: what `step` needs to start them, and the queue of their messages."""

    queue: Any
    environment: Mapping[str, str]  # of the function step
    grants: Sequence[Grant]  # of its role
    logs: Any


def make_fleets(
    resources: Resources,
    environment: Mapping[str, str],
    names: Mapping[str, str | None],
    *,
    sealed: bool,
) -> StackFleets:
    """Create the cluster, the definition of its tasks, their roles, log group and queue.

    environment: of every function of the stack. sealed: its code is a package with a fingerprint,
    which the image must have too.
    """
    scope, settings = resources.scope, resources.settings
    queue = make_fleet_queue(scope, settings, resources.dead, names["fleet"])
    logs = make_log_group(scope, "TaskLogs", settings)
    roles = _task_role(resources, queue), _start_role(resources, logs)
    variables = _variables(resources, environment, queue, sealed)
    found: dict[str, dict[str, Any]] = {}
    grants = [_send(queue)]
    if set(settings.fleets) - {BATCH}:
        grants += _make_ecs_fleets(resources, names["tasks"], roles, (variables, logs), found)
    if BATCH in settings.fleets:
        jobs, definition = make_batch(resources, roles, variables, logs)
        found[BATCH] = {"queue": jobs.attr_job_queue_arn, "definition": definition.ref}
        grants += _job_permissions(resources, found[BATCH])
    text = Stack.of(scope).to_json_string({"cores": settings.task_cores, "fleets": found})
    return StackFleets(queue, {FLEETS_ENV: text, FLEET_QUEUE_ENV: queue.queue_url}, grants, logs)


def _make_ecs_fleets(
    resources: Resources,
    name: str | None,
    roles: Sequence[Any],
    container: tuple[Mapping[str, str], Any],
    found: dict[str, dict[str, Any]],
) -> list[Grant]:
    """Create the cluster and the definitions of its tasks; return the permissions of `step`.

    name: of the cluster. container: its environment, and its log group. found: receives the fleets.
    """
    scope, settings = resources.scope, resources.settings
    cluster = aws_ecs.CfnCluster(
        scope,
        "Cluster",
        cluster_name=name,
        capacity_providers=["FARGATE", "FARGATE_SPOT"] if MANAGED not in settings.fleets else None,
        cluster_settings=[{"name": "containerInsights", "value": "disabled"}],
    )
    accept_finding(
        cluster, "ECS4", "insights are billed for each task; the log has the counts of each worker"
    )
    providers: dict[str, Sequence[str]] = dict(PROVIDERS)
    tasks = {}
    if MANAGED in settings.fleets:
        provider = make_managed_provider(resources, cluster)
        providers[MANAGED] = (provider.ref,)
        aws_ecs.CfnClusterCapacityProviderAssociations(
            scope,
            "Providers",
            cluster=cluster.ref,
            capacity_providers=["FARGATE", "FARGATE_SPOT", provider.ref],
            default_capacity_provider_strategy=[],
        )
        tasks[MANAGED] = _definition(resources, roles, container, "MANAGED_INSTANCES")
    if {FARGATE, FARGATE_SPOT} & set(settings.fleets):
        tasks[FARGATE] = tasks[FARGATE_SPOT] = _definition(resources, roles, container, "FARGATE")
    for each in settings.fleets:
        if each in tasks:
            found[each] = {
                "cluster": cluster.attr_arn,
                "task": tasks[each].ref,
                "providers": list(providers[each]),
                "subnets": list(settings.subnets),
                "security_groups": list(settings.security_groups),
            }
    definitions = list(dict.fromkeys(tasks.values()))
    return list(_start_permissions(resources, cluster, definitions, roles))


def task_size(settings: Settings) -> TaskSize:
    """Return the size of a task, as the outputs of the stack have it."""
    return TaskSize(settings.task_cores, settings.memory_of_task, settings.architecture)


def _task_role(resources: Resources, queue: Any) -> Any:
    """Create the role of the worker: the permissions of `work`, on both queues."""
    created = role(resources.scope, "TaskRole", _tasks_of(resources.scope))
    allow(created, work_permissions(replace(resources, further_queues=(queue,))))
    return created


def _start_role(resources: Resources, logs: Any) -> Any:
    """Create the role by which ECS pulls the image and writes the log."""
    created = role(resources.scope, "TaskStartRole", _tasks_of(resources.scope))
    allow(created, _pulling(resources, logs))
    return created


def _tasks_of(scope: Construct) -> Any:
    """Return the principal of the tasks of this account."""
    conditions = {"StringEquals": {"aws:SourceAccount": Stack.of(scope).account}}
    return aws_iam.ServicePrincipal("ecs-tasks.amazonaws.com", conditions=conditions)


def _pulling(resources: Resources, logs: Any) -> Iterator[Grant]:
    image = IMAGE_ADDRESS.match(resources.settings.worker_image or "")
    assert image is not None  # the settings have been checked
    partition = Stack.of(resources.scope).partition
    registry = f"arn:{partition}:ecr:{image['region']}:{image['account']}"
    yield Grant("Login", ("ecr:GetAuthorizationToken",), ("*",), REGISTRY_REASON)
    yield Grant(
        "Image",
        ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
        (f"{registry}:repository/{image['repository']}",),
    )
    yield Grant("Logs", ("logs:CreateLogStream", "logs:PutLogEvents"), (logs.log_group_arn,))


def _send(queue: Any) -> Grant:
    return Grant("SendToTasks", ("sqs:SendMessage", "sqs:GetQueueAttributes"), (queue.queue_arn,))


def _start_permissions(
    resources: Resources, cluster: Any, definitions: Sequence[Any], roles: Sequence[Any]
) -> Iterator[Grant]:
    """Yield the permissions of `step` to start, list and stop the tasks of this cluster."""
    here = {"ArnEquals": {"ecs:cluster": cluster.attr_arn}}
    tasks = resources.arn("ecs", "task", f"{cluster.ref}/*")
    yield Grant("StartTasks", ("ecs:RunTask",), [each.ref for each in definitions], conditions=here)
    yield Grant("ListTasks", ("ecs:ListTasks",), ("*",), LISTING_REASON, here)
    yield Grant("StopTasks", ("ecs:DescribeTasks", "ecs:StopTask"), (tasks,), TASKS_REASON, here)
    yield Grant(
        "PassRoles",
        ("iam:PassRole",),
        [each.role_arn for each in roles],
        conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
    )


def _job_permissions(resources: Resources, batch: Mapping[str, str]) -> Iterator[Grant]:
    """Yield the permissions of `step` to submit, list and terminate jobs."""
    yield Grant("SubmitJobs", ("batch:SubmitJob",), (batch["queue"], batch["definition"]))
    yield Grant("ListJobs", ("batch:ListJobs",), ("*",), JOBS_REASON)
    jobs = resources.arn("batch", "job", "*")
    yield Grant("TerminateJobs", ("batch:TerminateJob",), (jobs,), JOB_IDS_REASON)


def _variables(
    resources: Resources, environment: Mapping[str, str], queue: Any, sealed: bool
) -> dict[str, str]:
    """Return the environment of a task: the settings of a worker, and its limits."""
    return {
        **environment,
        "HUNDREDFOLD_QUEUE": queue.queue_url,
        "HUNDREDFOLD_GRACE": str(GRACE_S),
        "HUNDREDFOLD_IDLE": str(IDLE_S),
        "HUNDREDFOLD_SCRATCH": SCRATCH,
        "AWS_REGION": Stack.of(resources.scope).region,
        # the fingerprint in the image must be that of the stack
        **({"LAMBDA_TASK_ROOT": CODE_FOLDER} if sealed else {}),
        "POWERTOOLS_SERVICE_NAME": "task",
    }


def _definition(
    resources: Resources,
    roles: Sequence[Any],
    container_of: tuple[Mapping[str, str], Any],
    kind: str,
) -> Any:
    """Create the definition of a task. roles: of the worker, and of its start. kind: of the tasks,
    as ECS names it.
    """
    scope, settings = resources.scope, resources.settings
    definition = aws_ecs.CfnTaskDefinition(
        scope,
        "Task" if kind == "FARGATE" else "ManagedTask",
        network_mode="awsvpc",
        requires_compatibilities=[kind],
        cpu=str(CPU_UNITS * settings.task_cores),
        memory=str(settings.memory_of_task),
        runtime_platform={
            "cpuArchitecture": ARCHITECTURES[settings.architecture],
            "operatingSystemFamily": "LINUX",
        },
        task_role_arn=roles[0].role_arn,
        execution_role_arn=roles[1].role_arn,
        volumes=[{"name": "scratch"}],
        container_definitions=[_container(resources, *container_of)],
    )
    accept_finding(definition, "ECS2", "the variables are names and limits: no secret is in them")
    return definition


def _container(resources: Resources, variables: Mapping[str, str], logs: Any) -> dict[str, Any]:
    """Return the only container of a task."""
    scope, settings = resources.scope, resources.settings
    memory = settings.memory_of_task
    return {
        "name": CONTAINER,
        "image": settings.worker_image,
        "essential": True,
        # the limits of the task are those of its only container, which the worker finds
        "cpu": CPU_UNITS * settings.task_cores,
        "memory": memory,
        "command": ["--workers", str(settings.task_cores)],
        "readonlyRootFilesystem": True,
        "stopTimeout": STOP_TIMEOUT_S,
        "linuxParameters": {"initProcessEnabled": True},  # passes signals on from the start
        "mountPoints": [{"sourceVolume": "scratch", "containerPath": SCRATCH, "readOnly": False}],
        "environment": [{"name": name, "value": value} for name, value in variables.items()],
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": logs.log_group_name,
                "awslogs-region": Stack.of(scope).region,
                "awslogs-stream-prefix": "task",
            },
        },
    }
