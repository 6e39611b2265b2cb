"""The publish step on AWS writes the rows of the release to the table that the job names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from hundredfold import DynamoDB, Job, Model, Publish, Source
from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger
from hundredfold.aws.adapters.statements import QueryReply
from hundredfold.aws.functions.stage_execution import StageContext, execute_stages
from hundredfold.aws.lambda_platform import MB_PER_VCPU
from hundredfold.ports.run_states import Event, State
from support.in_process_aws import AwsRunner
from support.ledger_records import RUN

AS_OF = "2026-01-01"


def price(rows: dict[str, Any]) -> dict[str, float]:
    return {"price": float(rows["cost"].mean()) * 2}


def publish_on_aws(runner: AwsRunner, job: Job, table: pa.Table) -> StageContext:
    """Execute a run up to its publish step, and that step as the function `step` does."""
    run = runner.start_small(job, costs=table)
    run.all()
    ledger = DynamoLedger(runner.resources.table)
    options: Any = {"warehouse": "duckdb", "sources": run.locations, "as_of": AS_OF}
    ledger.create(replace(RUN, id=run.layout.run, job=job.name, options=options))
    record = ledger.move(run.layout.run, Event.START)
    context = StageContext(runner.resources, runner.store, ledger, job, record, QueryReply("e1"))
    assert execute_stages("publish", "", context) == {"action": "next"}
    return context


def test_the_publish_step_writes_the_rows_of_the_release(
    aws_runner: AwsRunner, name_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", str(MB_PER_VCPU))
    dynamo, name = aws_runner.emulator.client("dynamodb"), name_of("table")
    dynamo.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "product", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "product", "KeyType": "HASH"}],
    )
    model = Model("prices", unit=("product",), work=price)
    output = Publish("table", "SELECT * FROM prices", to=DynamoDB(name, key="product"))
    job = Job(name_of("shelf").replace("-", "_"), [Source("costs")], [model], output)
    for costs in ({"milk": 1.0, "rice": 2.0}, {"milk": 3.0}):
        rows = pa.table({"product": list(costs), "cost": list(costs.values())})
        context = publish_on_aws(aws_runner, job, rows)
    record = context.ledger.read(context.record.id)
    assert record.state is State.DONE
    written = record.counts["tables"]["table"]
    assert (written["dynamodb"], written["rows"], written["removed"]) == (name, 1, 1)
    items = {item["product"]["S"]: item for item in dynamo.scan(TableName=name)["Items"]}
    assert items["milk"]["price"] == {"N": "6"}
    assert items["milk"]["hf_release"] == {"N": "2"}
    assert items["rice"]["hf_removed"] == {"BOOL": True}
