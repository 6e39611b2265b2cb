"""Runs on the emulated AWS without a state machine: a loop in this process executes the stages.

`AwsRunner` is for AWS what in_process.InProcessRunner is for a local run: every step on its real
ports, and the user's function called in this process.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from hundredfold import Job, Model
from hundredfold.aws.adapters.athena import AthenaWarehouse
from hundredfold.aws.adapters.s3_duckdb import S3DuckWarehouse
from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.aws.adapters.session import StackResources
from hundredfold.aws.adapters.statements import (
    QueriesPending,
    QueryPause,
    QueryPending,
    QueryReply,
)
from hundredfold.aws.functions.prepare import prepare
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import Manifest
from hundredfold.pipeline.collect import Collected, collect
from hundredfold.pipeline.prepare import prepare as prepare_with_duckdb
from hundredfold.pipeline.publish import DEFAULT_TERMS, Terms, publish
from hundredfold.pipeline.release_queries import describe_run
from hundredfold.pipeline.releases import Release
from hundredfold.pipeline.validate import validate
from hundredfold.pipeline.validation_results import ValidationResult
from hundredfold.sql.queries import check_queries
from support.emulator import Emulator, wait_until
from support.in_process import AS_OF, InProcessRun, InProcessRunner

T = TypeVar("T")
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


class AwsRunner:
    """One stack without functions, and runs in it.

    `queries` are the statements that Athena has run, the last one last; `rounds` counts those in
    sequence.
    """

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator, self.folder = emulator, folder
        self.resources = _stack(emulator)
        self.store = S3Store(self.resources.bucket)
        self.warehouse = None
        self.queries: list[str] = []
        self.rounds = 0
        self.numbers = count()

    def start(self, job: Job, **locations: Any) -> AwsRun:
        """Return a new run of a job, of which nothing is done yet.

        A location is an address, local files, or a table.
        """
        layout = Layout(f"r{next(self.numbers)}-{uuid4().hex[:6]}")
        return AwsRun(
            cast(Any, self),
            job,
            {name: self.upload(layout.run, name, location) for name, location in locations.items()},
            layout,
        )

    def start_small(self, job: Job, **locations: Any) -> SmallRun:
        """Return a new run of a job whose queries one function runs."""
        begun = self.start(job, **locations)
        return SmallRun(cast(Any, self), job, begun.locations, begun.layout)

    def upload(self, run: str, source: str, location: Any) -> str:
        """Return the address of a source's rows, uploaded unchanged."""
        folder = f"sources/{run}/{source}"
        if isinstance(location, str):
            return location
        if isinstance(location, pa.Table):
            with self.store.writing(f"{folder}/rows.parquet") as path:
                pq.write_table(location, path)
        else:
            for path in (
                [location]
                if location.is_file()
                else sorted(p for p in location.rglob("*") if p.is_file())
            ):
                name = path.name if path == location else path.relative_to(location).as_posix()
                self.store.send(path, f"{folder}/{name}")
        return self.store.where(folder) + "/"

    def put(self, key: str, data: bytes) -> str:
        """Write an object; return its address."""
        self.store.put(key, data)
        return self.store.where(key)

    def run_statement(self, pending: QueryPending, execution: str = "e1") -> QueryReply:
        """Run a statement; return the result that the state machine would pass on."""
        self.queries.append(pending.sql)
        self.rounds += 1
        athena, found = self.emulator.client("athena"), {}
        query = athena.start_query_execution(
            QueryString=pending.sql,
            QueryExecutionContext={"Database": self.resources.database},
            WorkGroup=self.resources.workgroup,
            ResultConfiguration={"OutputLocation": pending.output},
        )["QueryExecutionId"]

        def over() -> bool:
            found.update(athena.get_query_execution(QueryExecutionId=query)["QueryExecution"])
            return found["Status"]["State"] in ENDED

        wait_until(over, lambda: f"{pending.sql} is still {found['Status']}", every=0.01)
        if found["Status"]["State"] == "SUCCEEDED":
            return QueryReply(execution, pending.token, query)
        retryable = found["Status"].get("AthenaError", {}).get("Retryable", False)
        reason = found["Status"]["StateChangeReason"]
        return QueryReply(execution, pending.token, "", reason, retryable, query)

    def run_together(self, several: QueriesPending, execution: str = "e1") -> QueryReply:
        """Run statements that may run at the same time; one that fails has no id."""
        replies = [self.run_statement(each, execution) for each in several.statements]
        self.rounds -= len(replies) - 1
        return QueryReply(execution, ids={reply.token: reply.id for reply in replies})

    def execute_step(
        self, layout: Layout, step: Callable[[AthenaWarehouse], T], *, attempt: int = 1
    ) -> T:
        """Execute a step: repeat it until all of its statements have run."""
        reply = QueryReply("e1")
        while True:
            scratch = self.folder / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)
            warehouse = AthenaWarehouse(
                self.store,
                layout,
                self.resources,
                scratch,
                memory=2**28,
                reply=reply,
                attempt=attempt,
            )
            try:
                return step(warehouse)
            except QueryPending as pending:
                reply = self.run_statement(pending)
            except QueriesPending as several:
                reply = self.run_together(several)
            except QueryPause:
                reply = QueryReply("e1")
            finally:
                warehouse.close()

    def rows(self, select: str, **tables: pa.Table) -> pa.Table:
        """Return Athena's answer to a query in DuckDB's SQL over these tables."""
        return next(self.answers([select], **tables))

    def answers(self, selects: Sequence[str], **tables: pa.Table) -> Iterator[pa.Table]:
        """Yield Athena's answer to each of these queries."""
        layout = Layout(f"q{next(self.numbers)}-{uuid4().hex[:6]}")

        def register_tables(warehouse: AthenaWarehouse) -> None:
            for name, table in tables.items():
                if name not in warehouse.tables:
                    key = f"processing/{layout.run}/given/{name}/rows.parquet"
                    with self.store.writing(key) as path:
                        pq.write_table(table, path)
                    warehouse.register_objects(
                        name, self.store.where(key).rpartition("/")[0] + "/", table.schema
                    )

        for select in selects:

            def ask(warehouse: AthenaWarehouse, select: str = select) -> pa.Table:
                register_tables(warehouse)
                return warehouse.query(select)

            yield self.execute_step(layout, ask)


class AwsRun(InProcessRun):
    """One run on AWS, executed step by step."""

    runner: Any
    attempt = 1

    def validate(self) -> list[ValidationResult]:
        def check(warehouse: AthenaWarehouse) -> list[ValidationResult]:
            check_queries(self.job, warehouse.tables_of)
            return self._validated(warehouse)

        return self._execute(check)

    def prepare(
        self, model: str, *, parts: int = 0, batch_bytes: int = 2**26, **_: Any
    ) -> Manifest:
        declared = self.job.model(model)

        def split(warehouse: AthenaWarehouse) -> Manifest:
            self._expose_results(warehouse, declared)
            return prepare(
                declared,
                self.job,
                self.layout,
                warehouse,
                cast(S3Store, self.store),
                workers=1,
                batch_bytes=batch_bytes,
                batches=12 * parts or 1,
            )

        return self._execute(split, attempt=self.attempt)

    def collect(self, model: str, attempt: int = 0) -> Collected:
        attempt = attempt or self.attempt
        declared, manifest = self.job.model(model), Manifest.read(self.layout, model, self.store)

        def gather(warehouse: AthenaWarehouse) -> Collected:
            self._expose_results(warehouse, declared)
            return collect(declared, manifest, self.layout, attempt, warehouse, self.store)

        self.collected[model] = self._execute(gather, attempt=attempt)
        return self.collected[model]

    def publish(self, attempt: int = 1) -> Release | None:
        return self.publish_as(self.job, self.store, attempt=attempt)

    def publish_as(
        self, job: Job, store: Any, terms: Terms = DEFAULT_TERMS, *, attempt: int = 1
    ) -> Release | None:
        """Publish under the name of `job`, through `store`."""

        def release(warehouse: AthenaWarehouse) -> Release | None:
            self._expose_results(warehouse, None)
            return publish(job, self.layout, attempt, AS_OF, warehouse, store, terms)

        return self._execute(release, attempt=attempt)

    def accepted(self, source: str) -> list[dict[str, Any]]:
        def read(warehouse: AthenaWarehouse) -> list[dict[str, Any]]:
            self._validated(warehouse)
            return list(warehouse.query(f"SELECT * FROM {source}").to_pylist())

        return self._execute(read)

    def _execute(self, step: Callable[[AthenaWarehouse], T], *, attempt: int = 1) -> T:
        result: T = self.runner.execute_step(self.layout, step, attempt=attempt)
        return result

    def _validated(self, warehouse: AthenaWarehouse) -> list[ValidationResult]:
        return validate(self.job, self.locations, AS_OF, self.layout, warehouse, self.store)

    def _expose_results(self, warehouse: AthenaWarehouse, until: Model | None) -> None:
        self._validated(warehouse)
        describe_run(self.job, self.layout, AS_OF, None, None, warehouse)
        for model in self.job.models:
            if model is until:
                break
            warehouse.create_view(
                model.name,
                f"SELECT * FROM {warehouse.read_parquet(self.layout.results(model.name))}",
            )


class SmallRun(AwsRun):
    """One run on AWS whose queries one function runs, executed step by step."""

    def prepare(
        self, model: str, *, parts: int = 0, batch_bytes: int = 2**26, **_: Any
    ) -> Manifest:
        declared = self.job.model(model)

        def split(warehouse: Any) -> Manifest:
            self._expose_results(warehouse, declared)
            return prepare_with_duckdb(
                declared,
                self.job,
                self.layout,
                warehouse,
                warehouse.objects,
                workers=1,
                batch_bytes=batch_bytes,
                batches=12 * parts or 1,
            )

        return self._execute(split, attempt=self.attempt)

    def _execute(self, step: Callable[[Any], T], *, attempt: int = 1) -> T:  # noqa: ARG002
        scratch = self.runner.folder / "scratch"
        with S3DuckWarehouse(
            self.runner.store, self.layout, scratch, memory=2**28, threads=2
        ) as warehouse:
            return step(warehouse)


def _stack(emulator: Emulator) -> StackResources:
    """Create a stack's resources one by one."""
    name = uuid4().hex[:12]
    s3, sqs, dynamo = (emulator.client(service) for service in ("s3", "sqs", "dynamodb"))
    s3.create_bucket(Bucket=f"bucket-{name}")
    dead = sqs.create_queue(QueueName=f"dead-{name}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "5"})
    queue = sqs.create_queue(
        QueueName=f"work-{name}", Attributes={"VisibilityTimeout": "600", "RedrivePolicy": redrive}
    )["QueueUrl"]
    keys = {"by_job": ("job", "created"), "by_time": ("kind", "created")}
    dynamo.create_table(
        TableName=f"runs-{name}",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": each, "AttributeType": "S"}
            for each in ("id", "job", "kind", "created")
        ],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": index,
                "KeySchema": [
                    {"AttributeName": key, "KeyType": kind}
                    for key, kind in zip(pair, ("HASH", "RANGE"), strict=True)
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
            for index, pair in keys.items()
        ],
    )
    emulator.client("glue").create_database(DatabaseInput={"Name": f"runs_{name}"})
    emulator.client("athena").create_work_group(
        Name=f"runs-{name}", Configuration={"EnforceWorkGroupConfiguration": False}
    )
    return StackResources(
        job="by_hand:job",
        bucket=f"bucket-{name}",
        table=f"runs-{name}",
        queue=queue,
        dead=dead,
        database=f"runs_{name}",
        workgroup=f"runs-{name}",
        concurrency=2,
        trigger="messages",
    )


def start_both(
    runner: InProcessRunner, aws_runner: AwsRunner, job: Job, **tables: pa.Table
) -> tuple[InProcessRun, AwsRun]:
    """Start a run of a job locally, and one on AWS, from the same files."""
    locations = {}
    for name, table in tables.items():
        locations[name] = runner.store.path(f"tables/{uuid4().hex}/rows.parquet")
        locations[name].parent.mkdir(parents=True)
        pq.write_table(table, locations[name])
    return runner.start(job, **locations), aws_runner.start(job, **locations)


def same(found: Any, expected: Any) -> bool:
    """Return whether values are equal and of one type; NaN equals NaN, and -0.0 is not 0.0."""
    if isinstance(found, float) and isinstance(expected, float):
        return (math.isnan(found) and math.isnan(expected)) or (
            found == expected and math.copysign(1, found) == math.copysign(1, expected)
        )
    return type(found) is type(expected) and found == expected


def assert_same(found: pa.Table, expected: pa.Table, query: str) -> None:
    assert found.schema.equals(expected.schema), (
        f"{query}\nfound {found.schema}\nwanted {expected.schema}"
    )
    assert found.num_rows == expected.num_rows, query
    for name in expected.column_names:
        pairs = list(
            zip(found.column(name).to_pylist(), expected.column(name).to_pylist(), strict=True)
        )
        wrong = [(row, *pair) for row, pair in enumerate(pairs) if not same(*pair)]
        assert not wrong, (
            f"{name}: row {wrong[0][0]} is {wrong[0][1]!r}, wanted {wrong[0][2]!r}\n{query}"
        )
