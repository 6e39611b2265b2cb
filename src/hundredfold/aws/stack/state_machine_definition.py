"""The state machine in the Amazon States Language: the stages of a job's run, in pipeline order.

Each stage is one function call that returns the next action: the next stage, a query for Athena, a
wait, or the end of the run. Queries and waits are states of their own, so that no function is paid
for the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...job import Job
from ...pipeline.stages import Stage, stages
from ..stage_order import RELEASE_STEP, action_to, later_stages, query_action

STEPS_WITH_QUERIES = {"validate", "prepare", "publish"}  # steps that query Athena
# steps that wait: for more uploads, before a query is repeated, for the workers
STEPS_WITH_WAITS = {*STEPS_WITH_QUERIES, "work"}
TRANSIENT = [
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
]
# a function that crashed or was interrupted: the work that it completed is kept
INTERRUPTED = [
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Runtime.OutOfMemory",
    "Sandbox.Timedout",
    "States.Timeout",
]
MAX_CONCURRENT_QUERIES = 40  # an inline Map runs no more at a time
THROTTLED = ["Athena.TooManyRequestsException", "Athena.InternalServerException"]


def definition(
    job: Job,
    *,
    step_function_arn: str,
    workgroup: str,
    database: str,
    table: str,
    partition: str = "aws",
    releases_workers: bool = False,
) -> dict[str, Any]:
    """Return the state machine of a job, in the Amazon States Language.

    Its input is {"run": ID}, and for a run that an upload starts, which has no record yet, also
    {"sources": {NAME: "s3://..."}}.
    """
    all_stages = list(stages(job))
    states: dict[str, Any] = {
        "Begin": {
            "Comment": "Data passed between states: the run and the result of the last query.",
            "Type": "Pass",
            "Parameters": {
                "run.$": "$.run",
                "input.$": "$",
                "execution.$": "$$.Execution.Id",
                "query_result": {},
                "stage": {"reply": {"token": ""}},
            },
            "Next": str(all_stages[0]),
        }
    }
    for number, stage in enumerate(all_stages):
        following = str(all_stages[number + 1]) if number + 1 < len(all_stages) else "Done"
        later = later_stages(job, stage)
        states |= _stage(stage, following, later, step_function_arn, workgroup, database)
    final = _final_states(table)
    if releases_workers:
        final |= _releasing(final["Record the failure"], step_function_arn)
    return {
        "Comment": (
            f"A run of the job {job.name}: "
            f"{' · '.join(dict.fromkeys(stage.step for stage in all_stages))}."
        ),
        "StartAt": "Begin",
        "States": {
            name: _in_partition(state, partition) for name, state in (states | final).items()
        },
    }


def _in_partition(state: dict[str, Any], partition: str) -> dict[str, Any]:
    """Return a state whose service integration is named in a partition, such as aws-us-gov."""
    if "ItemProcessor" in state:
        each = state["ItemProcessor"]
        inner = {name: _in_partition(s, partition) for name, s in each["States"].items()}
        return {**state, "ItemProcessor": {**each, "States": inner}}
    if "Resource" not in state:
        return state
    return {**state, "Resource": state["Resource"].replace("arn:aws:", f"arn:{partition}:", 1)}


def _stage(
    stage: Stage,
    following: str,
    later: Sequence[Stage | None],
    function: str,
    workgroup: str,
    database: str,
) -> dict[str, Any]:
    """Return the states of one stage: the call, the choice by its reply, and the actions.

    later: the stages that a reply may name, if the call has executed those before them too.
    """
    name, choice = str(stage), f"{stage}: next action"
    targets = {
        "next": following,
        "held": "Held",
        "superseded": "Superseded",
        "cancelled": "Cancelled",
        "failed": "Failed",
    }
    actions: dict[str, Any] = {}
    if stage.step in STEPS_WITH_QUERIES:
        actions[f"{stage}: query"] = _query(name, workgroup, database)
        actions[f"{stage}: queries"] = _queries(name, workgroup, database)
    for each in (stage, *later):
        if each and each.step in STEPS_WITH_QUERIES:
            for kind in ("query", "queries"):
                action = query_action(kind, None if each is stage else each)
                targets[action] = f"{each}: {kind}"
    if stage.step in STEPS_WITH_WAITS:
        targets["wait"] = f"{stage}: wait"
        actions[targets["wait"]] = {
            "Type": "Wait",
            "SecondsPath": "$.stage.reply.seconds",
            "Next": name,
        }
    for each in later[1:]:
        targets[action_to(each)] = _state_of(each)
    choices = [
        {"Variable": "$.stage.reply.action", "StringEquals": action, "Next": target}
        for action, target in targets.items()
    ]
    return {
        name: _call(stage, function, choice),
        **actions,
        choice: {"Type": "Choice", "Choices": choices, "Default": "Failed"},
    }


def _state_of(stage: Stage | None) -> str:
    """Return the state that a stage begins with, when the one before it is done."""
    return str(stage) if stage else "Done"


def _call(stage: Stage, function: str, choice: str) -> dict[str, Any]:
    """Return the state that calls the function of a stage."""
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {
            "FunctionName": function,
            "Payload": {
                "run.$": "$.run",
                "input.$": "$.input",
                "execution.$": "$.execution",
                "step": stage.step,
                "model": stage.model.name if stage.model else "",
                "token.$": "$.stage.reply.token",
                "query_result.$": "$.query_result",
            },
        },
        "ResultSelector": {"reply.$": "$.Payload"},
        "ResultPath": "$.stage",
        "Retry": [
            {
                "ErrorEquals": TRANSIENT,
                "IntervalSeconds": 2,
                "MaxAttempts": 6,
                "BackoffRate": 2,
                "JitterStrategy": "FULL",
            },
            {"ErrorEquals": INTERRUPTED, "IntervalSeconds": 5, "MaxAttempts": 2, "BackoffRate": 2},
        ],
        "Catch": [
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Record the failure"}
        ],
        "Next": choice,
    }


def _query(stage: str, workgroup: str, database: str) -> dict[str, Any]:
    """Return the state of a query. The stage gets its result: its id, or why it failed."""
    return {
        **_start_query("$.stage.reply", workgroup, database),
        "ResultPath": "$.query_result",
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.query_result", "Next": stage}],
        "Next": stage,
    }


def _queries(stage: str, workgroup: str, database: str) -> dict[str, Any]:
    """Return the state of queries that run at the same time.

    The stage gets the id of each, "" for one that failed: it is repeated alone. Its error is left
    out, since the errors of many would exceed what a state can hold.
    """
    # names are unique in a whole machine
    run, success, failure = f"{stage}: run", f"{stage}: success", f"{stage}: failure"
    return {
        "Type": "Map",
        "ItemsPath": "$.stage.reply.queries",
        "MaxConcurrency": MAX_CONCURRENT_QUERIES,
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "INLINE"},
            "StartAt": run,
            "States": {
                run: {
                    **_start_query("$", workgroup, database),
                    "ResultPath": "$.result",
                    "Catch": [
                        {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": failure}
                    ],
                    "Next": success,
                },
                success: {
                    "Type": "Pass",
                    "Parameters": {"token.$": "$.token", "id.$": "$.result.id"},
                    "End": True,
                },
                failure: {
                    "Type": "Pass",
                    "Parameters": {"token.$": "$.token", "id": ""},
                    "End": True,
                },
            },
        },
        "ResultPath": "$.query_result",
        "Catch": [
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Record the failure"}
        ],
        "Next": stage,
    }


def _start_query(path: str, workgroup: str, database: str) -> dict[str, Any]:
    """Return the fields of a task that runs the query which is at a path, up to its end."""
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::athena:startQueryExecution.sync",
        "Parameters": {
            "QueryString.$": f"{path}.query",
            "ClientRequestToken.$": f"{path}.request_token",
            "QueryExecutionContext": {"Database": database},
            "WorkGroup": workgroup,
            "ResultConfiguration": {"OutputLocation.$": f"{path}.output"},
        },
        "ResultSelector": {"id.$": "$.QueryExecution.QueryExecutionId"},
        "Retry": [
            {
                "ErrorEquals": THROTTLED,
                "IntervalSeconds": 3,
                "MaxAttempts": 10,
                "BackoffRate": 1.5,
                "JitterStrategy": "FULL",
            }
        ],
    }


def _final_states(table: str) -> dict[str, Any]:
    return {
        "Done": {"Type": "Succeed"},
        "Held": {
            "Comment": "Every unit has an outcome, but the job's limits hold the release back.",
            "Type": "Succeed",
        },
        "Superseded": {
            "Comment": "Another execution owns the run or took the upload: nothing was changed.",
            "Type": "Succeed",
        },
        "Cancelled": {
            "Type": "Fail",
            "Error": "Cancelled",
            "Cause": "The run was cancelled by a user.",
        },
        "Failed": {
            "Type": "Fail",
            "Error": "RunFailed",
            "CausePath": "States.JsonToString($.stage.reply)",
        },
        "Record the failure": _record_failure(table),
        "Broken": {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"},
    }


def _releasing(failure: dict[str, Any], function: str) -> dict[str, Any]:
    """Return the states that record a failure and then release the workers of the run."""
    release = "Release the workers"
    return {
        "Record the failure": {
            **failure,
            "Catch": [{**each, "Next": release} for each in failure["Catch"]],
            "Next": release,
        },
        release: {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": {
                "FunctionName": function,
                "Payload": {"run.$": "$.run", "step": RELEASE_STEP},
            },
            "ResultPath": "$.released",
            "Catch": [
                {"ErrorEquals": ["States.ALL"], "ResultPath": "$.not_released", "Next": "Broken"}
            ],
            "Next": "Broken",
        },
    }


def _record_failure(table: str) -> dict[str, Any]:
    return {
        "Comment": (
            "This state runs no code of this package, which may be the cause of the failure. "
            "A run that has already ended keeps its state."
        ),
        "Type": "Task",
        "Resource": "arn:aws:states:::dynamodb:updateItem",
        "Parameters": {
            "TableName": table,
            "Key": {"id": {"S.$": "$.run"}},
            "UpdateExpression": (
                "SET #state = :failed, reason = :reason, updated = :now ADD version :one"
            ),
            "ConditionExpression": (
                "#state IN (:new, :running) AND execution IN (:execution, :none)"
            ),
            "ExpressionAttributeNames": {"#state": "state"},
            "ExpressionAttributeValues": {
                ":execution": {"S.$": "$.execution"},
                ":none": {"S": ""},
                ":failed": {"S": "failed"},
                ":new": {"S": "new"},
                ":running": {"S": "running"},
                ":reason": {"S.$": "States.Format('{}: {}', $.error.Error, $.error.Cause)"},
                ":now": {"S.$": "$$.State.EnteredTime"},
                ":one": {"N": "1"},
            },
        },
        # a ResultPath of null is lost: the CDK leaves out what is null
        "ResultPath": "$.recorded",
        "Catch": [
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.not_recorded", "Next": "Broken"}
        ],
        "Next": "Broken",
    }
