"""Step Functions: tasks of Athena, the state machine's own permissions, and executions that stay
stopped.
"""

from __future__ import annotations

import contextvars
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from ministack import app
from ministack.core.responses import get_account_id, get_region
from ministack.services import athena
from ministack.services import stepfunctions as states

from . import need
from .rights import DeniedError, acting_as, check

need(
    states,
    "_SERVICE_DISPATCH",
    "_ExecutionError",
    "_executions",
    "_state_machines",
    "_run_execution",
    "_fail_execution",
    "_invoke_resource",
)
need(app, "call_service_handler_sync", "SERVICE_HANDLERS", "AUTH")

MAX_CAUSE = 32_768  # characters
POLL_INTERVAL_S = 0.05  # seconds between polls of a query
ACTIONS = ("startQueryExecution", "stopQueryExecution", "getQueryExecution", "getQueryResults")
DENIED = {  # what a state machine catches: the SDK's generic error
    "athena": "Athena.AmazonAthenaException",
    "dynamodb": "DynamoDB.AmazonDynamoDBException",
    "lambda": "Lambda.AWSLambdaException",
    "sqs": "SQS.AmazonSQSException",
}
execution: contextvars.ContextVar[str] = contextvars.ContextVar("execution", default="")


def fill() -> None:
    for action in ACTIONS:
        states._SERVICE_DISPATCH[f"arn:aws:states:::athena:{action}"] = athena_task
    states._run_execution = _as_its_role(states._run_execution)
    states._fail_execution = _unless_over(states._fail_execution)
    states._invoke_resource = _if_allowed(states._invoke_resource)


def athena_task(resource: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Call Athena; with `.sync`, wait for the query: States.TaskFailed with the whole query as its
    cause if it fails.

    A query whose execution is stopped is stopped too.
    """
    action = resource.split("athena:", 1)[1].removesuffix(".sync")
    answer = _call(action, asked)
    if not resource.endswith(".sync"):
        return answer
    query = {"QueryExecutionId": answer["QueryExecutionId"]}
    while True:
        found = _call("getQueryExecution", query)
        state = found["QueryExecution"]["Status"]["State"]
        if state == "SUCCEEDED":
            return found
        if state in ("FAILED", "CANCELLED"):
            cause = json.dumps(found, sort_keys=True, separators=(",", ":"))
            raise states._ExecutionError("States.TaskFailed", cause[:MAX_CAUSE])
        if _is_stopped():
            _call("stopQueryExecution", query)
            return found
        time.sleep(POLL_INTERVAL_S)


def _call(action: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return Athena's reply; raise its error under the name that a state machine catches."""
    headers = {
        "x-amz-target": f"AmazonAthena.{action[0].upper()}{action[1:]}",
        "content-type": "application/x-amz-json-1.1",
        "host": f"athena.{get_region()}.amazonaws.com",
    }
    status, _, body = app.call_service_handler_sync(
        app.SERVICE_HANDLERS["athena"], "POST", "/", headers, json.dumps(asked).encode(), {}
    )
    answer = json.loads(body) if body else {}
    if status >= 400:
        name = str(answer.get("__type", "AmazonAthenaException")).rsplit("#", 1)[-1]
        raise states._ExecutionError(f"Athena.{name}", answer.get("message", ""))
    return answer


def _is_stopped() -> bool:
    found = states._executions.get(execution.get())
    return found is not None and found["status"] != "RUNNING"


def _as_its_role(run: Callable[[str], None]) -> Callable[[str], None]:
    """Execute the actions of an execution as its state machine's role."""

    def ran(arn: str) -> None:
        execution.set(arn)
        found = states._executions.get(arn)
        machine = states._state_machines.get(found["stateMachineArn"]) if found else None
        with acting_as(machine["roleArn"] if machine else "nobody"):
            run(arn)

    return ran


def _unless_over(fail: Callable[..., None]) -> Callable[..., None]:
    def failed(found: dict[str, Any], error: str, cause: str) -> None:
        if found["status"] == "RUNNING":
            fail(found, error, cause)

    return failed


def _if_allowed(invoke: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Refuse a task that the role does not allow, if the account enforces IAM."""

    def invoked(resource: str, asked: Any) -> Any:
        if app.AUTH:
            for action, target in needed(resource, asked):
                try:
                    check(action, target)
                except DeniedError as error:
                    raise states._ExecutionError(
                        DENIED[action.split(":")[0]], str(error)
                    ) from error
        return invoke(resource, asked)

    return invoked


def needed(resource: str, asked: Any) -> list[tuple[str, str]]:
    """Return the permissions that a task needs, as (action, resource); none for other services."""
    here = f"{get_region()}:{get_account_id()}"
    service, _, action = (
        resource.removesuffix(".sync")
        .removesuffix(".waitForTaskToken")
        .removeprefix("arn:aws:states:::")
        .partition(":")
    )
    if service == "aws-sdk":
        service, _, action = action.partition(":")
    upper = action[:1].upper() + action[1:]
    if service == "lambda" and action == "invoke":
        name = str(asked.get("FunctionName", ""))
        return [
            (
                "lambda:InvokeFunction",
                name if name.startswith("arn:") else f"arn:aws:lambda:{here}:function:{name}",
            )
        ]
    if service == "athena":
        rights = (
            [upper]
            if not resource.endswith(".sync")
            else [upper, "GetQueryExecution", "StopQueryExecution"]
        )
        return [
            (f"athena:{right}", f"arn:aws:athena:{here}:workgroup/{_workgroup(asked)}")
            for right in rights
        ]
    if service == "dynamodb":
        table = str(asked.get("TableName", ""))
        return [
            (
                f"dynamodb:{upper}",
                table if table.startswith("arn:") else f"arn:aws:dynamodb:{here}:table/{table}",
            )
        ]
    if service == "sqs":
        return [
            (
                f"sqs:{upper}",
                f"arn:aws:sqs:{here}:{str(asked.get('QueueUrl', '')).rsplit('/', 1)[-1]}",
            )
        ]
    return []


def _workgroup(asked: Mapping[str, Any]) -> str:
    found = athena._executions.get(asked.get("QueryExecutionId"))
    return str(found["WorkGroup"] if found else asked.get("WorkGroup", "primary"))
