"""Queries that fail: the whole reason is found, and what Athena calls retryable is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from hundredfold import Job, Model, Source, Unit
from hundredfold.aws.adapters.query_failures import failure_of
from hundredfold.aws.adapters.statements import MAX_STATEMENT_JSON_BYTES, MAX_TRIES
from hundredfold.aws.stack.state_machine_definition import definition
from hundredfold.errors import HundredfoldError, QueryError
from support.emulator import Emulator, wait_until
from support.in_process_aws import AwsRun, AwsRunner

MAX_CAUSE = 32_768  # characters, of Step Functions
TOO_MANY_BUCKETS = "HIVE_TOO_MANY_OPEN_PARTITIONS"


def counted(rows: Unit) -> dict[str, int]:
    return {"n": rows.rows}


JOB = Job(
    "failing",
    sources=[Source("sales")],
    models=[Model("counts", unit=("shop",), work=counted)],
)
ROWS = pa.table({"shop": ["a", "b", "a"], "x": [1.0, 2.0, 3.0]})


def started(aws_runner: AwsRunner) -> AwsRun:
    return aws_runner.start(JOB, sales=ROWS)


def error_of_state(aws_runner: AwsRunner, sql: str, name: str) -> dict[str, Any]:
    """Run a statement in the state for queries; return the error that the next step receives."""
    resources, states = aws_runner.resources, aws_runner.emulator.client("stepfunctions")
    machine = definition(
        JOB,
        step_function_arn="arn:step",
        workgroup=resources.workgroup,
        database=resources.database,
        table=resources.table,
    )
    query = machine["States"]["validate: query"]
    query |= {"Next": "End", "Catch": [{**query["Catch"][0], "Next": "End"}]}
    one = {"StartAt": "Query", "States": {"Query": query, "End": {"Type": "Succeed"}}}
    made = states.create_state_machine(
        name=name, definition=json.dumps(one), roleArn="arn:aws:iam::123456789012:role/machine"
    )
    reply = {
        "query": sql,
        "request_token": name.ljust(32, "0"),
        "output": aws_runner.store.where("athena/failing") + "/",
    }
    arn = states.start_execution(
        stateMachineArn=made["stateMachineArn"], input=json.dumps({"stage": {"reply": reply}})
    )["executionArn"]
    found: dict[str, Any] = {}

    def over() -> bool:
        found.update(states.describe_execution(executionArn=arn))
        return bool(found["status"] != "RUNNING")

    wait_until(over, lambda: str(found))
    return dict(json.loads(found["output"])["query_result"])


@pytest.mark.parametrize("size", [10, 40_000, 120_000])
def test_the_whole_reason_of_a_failed_query_is_found(
    aws_runner: AwsRunner, name_of: Callable[[str], str], size: int
) -> None:
    name = name_of("cause")
    column = f'"ä\\ \' {"x" * size}"'
    other = aws_runner.emulator.client("athena")
    sql = f"SELECT '{name}', 1 AS {column} FROM no_such_table"
    error = error_of_state(aws_runner, sql, name)
    for _ in range(60):  # the query is not among the newest any more
        other.start_query_execution(
            QueryString="SELECT 1",
            WorkGroup=aws_runner.resources.workgroup,
            ResultConfiguration={"OutputLocation": aws_runner.store.where("athena/x") + "/"},
        )
    assert error["Error"] == "States.TaskFailed"
    assert (len(error["Cause"]) == MAX_CAUSE) == (size > MAX_CAUSE)
    assert ("TABLE_NOT_FOUND" in error["Cause"]) == (size < MAX_CAUSE)
    failure = failure_of(error, aws_runner.resources.workgroup)
    assert failure.reason.startswith("TABLE_NOT_FOUND")
    assert (failure.retryable, len(failure.id)) == (False, 36)


def test_a_long_statement_with_too_many_buckets_has_that_reason(
    aws_runner: AwsRunner, name_of: Callable[[str], str]
) -> None:
    name = name_of("buckets")
    location = aws_runner.store.where(f"processing/{name}") + "/"
    sql = (
        f'CREATE TABLE "{aws_runner.resources.database}"."{name}" WITH (format = \'PARQUET\', '
        f"external_location = '{location}', bucketed_by = ARRAY['b'], bucket_count = 200) AS "
        f"SELECT '{'x' * MAX_CAUSE}' AS x, b FROM UNNEST(sequence(0, 199)) AS t(b)"
    )
    with aws_runner.emulator.settings(open_writers=100):
        error = error_of_state(aws_runner, sql, name)
    assert TOO_MANY_BUCKETS not in error["Cause"]
    assert TOO_MANY_BUCKETS in failure_of(error, aws_runner.resources.workgroup).reason


@pytest.mark.parametrize(
    "error",
    [
        {
            "Error": "Athena.InvalidRequestException",
            "Cause": "Queries of this type are not supported",
        },
        {"Error": "States.Timeout", "Cause": ""},
        {"Error": "States.TaskFailed", "Cause": '{"QueryExecution":{"Query":"SELECT of nobody'},
    ],
)
def test_an_error_without_a_query_is_its_own_reason(
    aws_runner: AwsRunner, error: dict[str, str]
) -> None:
    failure = failure_of(error, aws_runner.resources.workgroup)
    assert failure.reason == f"{error['Error']}: {error['Cause']}"
    assert not failure.retryable


@pytest.mark.parametrize("failures", [1, MAX_TRIES - 1])
def test_a_retryable_failure_is_repeated(aws_runner: AwsRunner, failures: int) -> None:
    run = started(aws_runner)
    before = len(aws_runner.queries)
    with aws_runner.emulator.settings(athena_failures=failures):
        run.all()
    statements = aws_runner.queries[before:]
    assert {statements.count(sql) for sql in statements} == {failures + 1}
    assert run.results("counts").column("n").to_pylist() == [2, 1]


def test_a_retryable_failure_is_final_after_four_tries(
    aws_runner: AwsRunner, aws_env: Emulator
) -> None:
    run = started(aws_runner)
    before = len(aws_runner.queries)
    with aws_env.settings(athena_failures=99), pytest.raises(HundredfoldError, match="exhausted"):
        run.all()
    assert len(aws_runner.queries) - before == MAX_TRIES


def test_a_statement_that_no_state_can_hold_is_refused(aws_runner: AwsRunner) -> None:
    long = f"shop <> '{'x' * MAX_STATEMENT_JSON_BYTES}'"
    with pytest.raises(QueryError, match="a state of Step Functions 200,000"):
        aws_runner.rows(f"SELECT shop FROM sales WHERE {long}", sales=ROWS)
