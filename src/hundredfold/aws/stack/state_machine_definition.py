"""The state machine: the stages of a job's run, in the order that the driver of one machine walks
them, as Step Functions has it.

Each stage is one function call that says what comes next: the next stage, a query that Athena is to
run first, a time to wait, or the end. Queries and waiting are states of their own, so that no
function is paid for either.
"""

from __future__ import annotations

from typing import Any

from ...job import Job
from ...pipeline.stages import Stage, stages

ASKS = {"validate", "prepare", "publish"}  # steps that ask Athena
WAITS = {"work"}  # steps that wait for others
TRANSIENT = [
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
]
# a function that died or was cut off: what it had done is kept
CUT_OFF = [
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Runtime.OutOfMemory",
    "Sandbox.Timedout",
    "States.Timeout",
]
BUSY = ["Athena.TooManyRequestsException", "Athena.InternalServerException"]


def definition(
    job: Job, *, step_function_arn: str, workgroup: str, database: str, table: str
) -> dict[str, Any]:
    """The state machine of a job, in the Amazon States Language.

    Its input is {"run": ID}; where an upload starts a run that nobody has recorded, also
    {"sources": {NAME: "s3://..."}}.
    """
    walk = list(stages(job))
    states: dict[str, Any] = {
        "Begin": {
            "Comment": "What is carried from state to state: the run, and what came of the last query.",
            "Type": "Pass",
            "Parameters": {
                "run.$": "$.run",
                "input.$": "$",
                "execution.$": "$$.Execution.Name",
                "heard": {},
                "stage": {"said": {"token": ""}},
            },
            "Next": str(walk[0]),
        }
    }
    for number, stage in enumerate(walk):
        following = str(walk[number + 1]) if number + 1 < len(walk) else "Done"
        states |= _stage(stage, following, step_function_arn, workgroup, database)
    return {
        "Comment": (
            f"A run of the job {job.name}: "
            f"{' · '.join(dict.fromkeys(stage.step for stage in walk))}."
        ),
        "StartAt": "Begin",
        "States": states | _ends(table),
    }


def _stage(
    stage: Stage, following: str, function: str, workgroup: str, database: str
) -> dict[str, Any]:
    """The states of one stage: the call, the choice of what it said, and what it may ask for."""
    name, choice = str(stage), f"{stage}: what next?"
    model = stage.model.name if stage.model else ""
    call: dict[str, Any] = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {
            "FunctionName": function,
            "Payload": {
                "run.$": "$.run",
                "input.$": "$.input",
                "execution.$": "$.execution",
                "step": stage.step,
                "model": model,
                "asked.$": "$.stage.said.token",
                "heard.$": "$.heard",
            },
        },
        "ResultSelector": {"said.$": "$.Payload"},
        "ResultPath": "$.stage",
        "Retry": [
            {
                "ErrorEquals": TRANSIENT,
                "IntervalSeconds": 2,
                "MaxAttempts": 6,
                "BackoffRate": 2,
                "JitterStrategy": "FULL",
            },
            {"ErrorEquals": CUT_OFF, "IntervalSeconds": 5, "MaxAttempts": 2, "BackoffRate": 2},
        ],
        "Catch": [
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Record the failure"}
        ],
        "Next": choice,
    }
    choices = [
        {"Variable": "$.stage.said.do", "StringEquals": "next", "Next": following},
        {"Variable": "$.stage.said.do", "StringEquals": "held", "Next": "Held"},
        {"Variable": "$.stage.said.do", "StringEquals": "cancelled", "Next": "Cancelled"},
        {"Variable": "$.stage.said.do", "StringEquals": "failed", "Next": "Failed"},
    ]
    states: dict[str, Any] = {name: call}
    if stage.step in ASKS:
        choices.append(
            {"Variable": "$.stage.said.do", "StringEquals": "query", "Next": f"{stage}: query"}
        )
        states[f"{stage}: query"] = _query(name, workgroup, database)
    if stage.step in WAITS:
        choices.append(
            {"Variable": "$.stage.said.do", "StringEquals": "wait", "Next": f"{stage}: wait"}
        )
        states[f"{stage}: wait"] = {
            "Type": "Wait",
            "SecondsPath": "$.stage.said.seconds",
            "Next": name,
        }
    states[choice] = {"Type": "Choice", "Choices": choices, "Default": "Failed"}
    return states


def _query(back: str, workgroup: str, database: str) -> dict[str, Any]:
    """A query that Athena runs, and what came of it: its id, or why it failed, which is for the
    stage to judge.
    """
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::athena:startQueryExecution.sync",
        "Parameters": {
            "QueryString.$": "$.stage.said.query",
            "ClientRequestToken.$": "$.stage.said.once",
            "QueryExecutionContext": {"Database": database},
            "WorkGroup": workgroup,
            "ResultConfiguration": {"OutputLocation.$": "$.stage.said.output"},
        },
        "ResultSelector": {"id.$": "$.QueryExecution.QueryExecutionId"},
        "ResultPath": "$.heard",
        "Retry": [
            {
                "ErrorEquals": BUSY,
                "IntervalSeconds": 3,
                "MaxAttempts": 10,
                "BackoffRate": 1.5,
                "JitterStrategy": "FULL",
            }
        ],
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.heard", "Next": back}],
        "Next": back,
    }


def _ends(table: str) -> dict[str, Any]:
    return {
        "Done": {"Type": "Succeed"},
        "Held": {
            "Comment": "Every unit is accounted for, but the job's limits keep the release back.",
            "Type": "Succeed",
        },
        "Cancelled": {
            "Type": "Fail",
            "Error": "Cancelled",
            "Cause": "The run was cancelled by hand.",
        },
        "Failed": {
            "Type": "Fail",
            "Error": "RunFailed",
            "CausePath": "States.JsonToString($.stage.said)",
        },
        "Record the failure": {
            "Comment": (
                "Without any code of ours, which may be what failed. A run that has ended "
                "otherwise meanwhile keeps its end."
            ),
            "Type": "Task",
            "Resource": "arn:aws:states:::dynamodb:updateItem",
            "Parameters": {
                "TableName": table,
                "Key": {"id": {"S.$": "$.run"}},
                "UpdateExpression": "SET #state = :failed, reason = :reason, updated = :now ADD version :one",
                "ConditionExpression": "#state IN (:new, :running)",
                "ExpressionAttributeNames": {"#state": "state"},
                "ExpressionAttributeValues": {
                    ":failed": {"S": "failed"},
                    ":new": {"S": "new"},
                    ":running": {"S": "running"},
                    ":reason": {"S.$": "States.Format('{}: {}', $.error.Error, $.error.Cause)"},
                    ":now": {"S.$": "$$.State.EnteredTime"},
                    ":one": {"N": "1"},
                },
            },
            "ResultPath": None,
            "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": "Broken"}],
            "Next": "Broken",
        },
        "Broken": {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"},
    }
