"""The state machine, and the role that it acts and queries with."""

from __future__ import annotations

from typing import Any

from aws_cdk import Stack, aws_iam, aws_stepfunctions
from constructs import Construct

from ...job import Job
from .functions import make_logs
from .nag_suppressions import reviewed
from .permissions import Resources, allow, of_machine, review_machine, role
from .state_machine_definition import definition


def make_machine(
    scope: Construct, job: Job, things: Resources, step: Any, names: tuple[str | None, str]
) -> Any:
    """The walk of a job's stages. `names`: of the machine, and of its logs."""
    stack = Stack.of(scope)
    # only executions of this account act with this role, whoever may pass it on
    service = aws_iam.ServicePrincipal(
        "states.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": stack.account}}
    )
    rights = role(scope, "MachineRole", service)
    allow(rights, of_machine(things, step.function_arn))
    review_machine(rights)
    states = definition(
        job,
        step_function_arn=step.function_arn,
        workgroup=things.workgroup,
        database=things.database,
        table=things.table.table_name,
    )
    machine = aws_stepfunctions.StateMachine(
        scope,
        "Machine",
        state_machine_name=names[0],
        definition_body=aws_stepfunctions.DefinitionBody.from_string(stack.to_json_string(states)),
        role=rights,
        tracing_enabled=things.settings.tracing,
        logs=aws_stepfunctions.LogOptions(
            destination=make_logs(scope, "MachineLogs", things.settings, names[1]),
            level=aws_stepfunctions.LogLevel.ALL,
            # run ids, counts and queries: rows never pass through the machine
            include_execution_data=True,
        ),
    )
    if not things.settings.tracing:
        reviewed(machine, "SF2", "the owner of the stack chose to do without traces")
    return machine
