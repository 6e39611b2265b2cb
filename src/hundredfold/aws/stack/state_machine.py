"""The state machine, and its role."""

from __future__ import annotations

from typing import Any

from aws_cdk import Stack, aws_iam, aws_stepfunctions
from constructs import Construct

from ...job import Job
from .lambda_functions import make_log_group
from .nag_suppressions import accept_finding
from .permissions import Resources, accept_machine_wildcard, allow, machine_permissions, role
from .state_machine_definition import definition


def make_state_machine(
    scope: Construct, job: Job, resources: Resources, step: Any, names: tuple[str | None, str]
) -> Any:
    """Create the state machine of a job. `names`: of the machine, and of its log group."""
    stack = Stack.of(scope)
    # only executions of this account may assume this role, even if it is passed on
    service = aws_iam.ServicePrincipal(
        "states.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": stack.account}}
    )
    rights = role(scope, "MachineRole", service)
    allow(rights, machine_permissions(resources, step.function_arn))
    accept_machine_wildcard(rights)
    states = definition(
        job,
        step_function_arn=step.function_arn,
        workgroup=resources.workgroup,
        database=resources.database,
        table=resources.table.table_name,
        partition=stack.partition,
        releases_workers=resources.settings.raise_pollers or bool(resources.settings.fleets),
    )
    machine = aws_stepfunctions.StateMachine(
        scope,
        "Machine",
        state_machine_name=names[0],
        definition_body=aws_stepfunctions.DefinitionBody.from_string(stack.to_json_string(states)),
        role=rights,
        tracing_enabled=resources.settings.tracing,
        logs=aws_stepfunctions.LogOptions(
            destination=make_log_group(scope, "MachineLogs", resources.settings, names[1]),
            level=aws_stepfunctions.LogLevel.ALL,
            # run ids, counts and queries: rows never pass through the state machine
            include_execution_data=True,
        ),
    )
    if not resources.settings.tracing:
        accept_finding(machine, "SF2", "the owner of the stack disabled traces")
    return machine
