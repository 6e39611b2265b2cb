"""The emulator itself: behaviour that other tests on AWS rely on."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from support.emulator import Emulator, wait_until
from support.emulator.deploy import DeployError, delete, deploy

ASSUME = (
    '{"Statement": [{"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, '
    '"Action": "sts:AssumeRole"}]}'
)


class Sandbox:
    """A bucket and a database for one test, and queries in them."""

    def __init__(self, emulator: Emulator, name: str) -> None:
        self.emulator, self.bucket, self.database = emulator, name, name.replace("-", "_")
        self.s3, self.athena = emulator.client("s3"), emulator.client("athena")
        self.s3.create_bucket(Bucket=self.bucket)
        emulator.client("glue").create_database(DatabaseInput={"Name": self.database})

    def query(self, sql: str, **more: Any) -> dict[str, Any]:
        """Return a query that has ended, as GetQueryExecution shows it."""
        started = self.athena.start_query_execution(**self.start(sql), **more)["QueryExecutionId"]
        return self.wait(started)

    def start(self, sql: str) -> dict[str, Any]:
        return {
            "QueryString": sql,
            "QueryExecutionContext": {"Database": self.database},
            "ResultConfiguration": {"OutputLocation": f"s3://{self.bucket}/athena/"},
        }

    def wait(self, query: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def over() -> bool:
            found.update(self.athena.get_query_execution(QueryExecutionId=query)["QueryExecution"])
            return found["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED")

        wait_until(over, lambda: f"{found['Query']} is still {found['Status']}")
        return found

    def text(self, sql: str) -> str:
        """Return a query's result file."""
        ended = self.query(sql)
        assert ended["Status"]["State"] == "SUCCEEDED", ended["Status"]
        return self.get(
            ended["ResultConfiguration"]["OutputLocation"].removeprefix(f"s3://{self.bucket}/")
        ).decode()

    def rows(self, sql: str) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.text(sql))))[1:]

    def reason(self, sql: str) -> str:
        """Return why a query failed."""
        status = self.query(sql)["Status"]
        assert status["State"] == "FAILED", status
        return str(status["StateChangeReason"])

    def put(self, key: str, data: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def create(self, folder: str, select: str, more: str = "") -> str:
        return (
            f"CREATE TABLE {folder} WITH (format = 'PARQUET', external_location = "
            f"'s3://{self.bucket}/{folder}/'{more}) AS {select}"
        )


@pytest.fixture
def sandbox(emulator: Emulator, name_of: Callable[[str], str]) -> Sandbox:
    return Sandbox(emulator, name_of("sandbox"))


BATCHES = ", bucketed_by = ARRAY['batch'], bucket_count = {}, write_compression = 'SNAPPY'"
NUMBERS = "SELECT CAST(x % {} AS integer) AS batch, x AS v FROM UNNEST(sequence(1, {})) AS u (x)"


# ---- Athena


def test_a_result_file_distinguishes_null_and_keeps_doubles_exact(sandbox: Sandbox) -> None:
    select = """SELECT '' AS e, CAST(NULL AS varchar) AS n, 'a"b' AS q, 0.1e0 AS d,
        1e22 AS large, 1e-5 AS small, nan() AS nan,
        DECIMAL '1.50' AS m, TIMESTAMP '2026-01-05 10:00:00' AS t, true AS b"""
    assert sandbox.text(select) == (
        '"e","n","q","d","large","small","nan","m","t","b"\n'
        '"",,"a""b","0.1","1.0E22","1.0E-5","NaN","1.50","2026-01-05 10:00:00.000","true"\n'
    )


def test_results_are_paged_and_null_has_no_value(sandbox: Sandbox) -> None:
    query = sandbox.query(
        "SELECT x, CAST(NULL AS double) AS n FROM UNNEST(sequence(1, 1500)) AS u (x) ORDER BY x"
    )["QueryExecutionId"]
    pages = [
        page["ResultSet"]
        for page in sandbox.athena.get_paginator("get_query_results").paginate(
            QueryExecutionId=query
        )
    ]
    data = [row["Data"] for page in pages for row in page["Rows"]]
    assert len(pages) == 2
    assert data[:2] == [[{"VarCharValue": "x"}, {"VarCharValue": "n"}], [{"VarCharValue": "1"}, {}]]
    assert data[-1][0] == {"VarCharValue": "1500"}
    assert len(data) == 1501
    assert [column["Type"] for column in pages[0]["ResultSetMetadata"]["ColumnInfo"]] == [
        "bigint",
        "double",
    ]


def test_numbers_are_of_trinos_types(sandbox: Sandbox) -> None:
    query = sandbox.query(
        "SELECT sum(x) s, 7 / 2 i, 7e0 / 2 d, 1e0 / 0 inf, CAST(2.5e0 AS bigint) r, count(*) FROM "
        "UNNEST(sequence(1, 3)) AS u (x)"
    )
    answer = sandbox.athena.get_query_results(QueryExecutionId=query["QueryExecutionId"])[
        "ResultSet"
    ]
    assert [
        (column["Name"], column["Type"]) for column in answer["ResultSetMetadata"]["ColumnInfo"]
    ] == [
        ("s", "bigint"),
        ("i", "integer"),
        ("d", "double"),
        ("inf", "double"),
        ("r", "bigint"),
        ("_col5", "bigint"),
    ]
    assert [datum["VarCharValue"] for datum in answer["Rows"][1]["Data"]] == [
        "6",
        "3",
        "3.5",
        "Infinity",
        "3",
        "3",
    ]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            "SELECT strftime(current_date, '%Y')",
            "FUNCTION_NOT_FOUND: line 1:8: Function 'strftime' not registered",
        ),
        (
            "SELECT v FROM numbers WHERE v = '5'",
            "TYPE_MISMATCH: Cannot apply operator: bigint = varchar",
        ),
        ("SELECT missing FROM numbers", "COLUMN_NOT_FOUND"),
        (
            "SELECT * FROM nowhere",
            "TABLE_NOT_FOUND: line 1:1: Table 'awsdatacatalog.{database}.nowhere' does not exist",
        ),
        ("SELECT 1 / (v - v) FROM numbers", "DIVISION_BY_ZERO"),
    ],
)
def test_statements_that_trino_rejects_are_rejected(
    sandbox: Sandbox, select: str, message: str
) -> None:
    sandbox.query(sandbox.create("numbers", NUMBERS.format(3, 9)))
    assert sandbox.reason(select).startswith(message.format(database=sandbox.database))


def test_an_invalid_statement_is_rejected_by_the_call(sandbox: Sandbox) -> None:
    with pytest.raises(ClientError) as refused:
        sandbox.query("SELECT FROM WHERE")
    assert refused.value.response["Error"]["Code"] == "InvalidRequestException"


def test_each_batch_number_has_a_file_of_its_own(sandbox: Sandbox) -> None:
    query = sandbox.query(sandbox.create("batches", NUMBERS.format(7, 100), BATCHES.format(100)))
    assert query["Status"]["State"] == "SUCCEEDED", query["Status"]
    assert len(sandbox.keys("batches/")) == 7  # a bucket without rows leaves no file
    for key in sandbox.keys("batches/"):
        assert len(set(pq.read_table(io.BytesIO(sandbox.get(key)))["batch"].to_pylist())) == 1
    paths = sandbox.rows('SELECT "$path", min(batch), max(batch), sum(v) FROM batches GROUP BY 1')
    assert sorted(path for path, *_ in paths) == sorted(
        f"s3://{sandbox.bucket}/{key}" for key in sandbox.keys("batches/")
    )
    assert all(low == high for _, low, high, _ in paths)
    assert sum(int(total) for *_, total in paths) == 5050


def test_a_manifest_lists_what_was_written(sandbox: Sandbox) -> None:
    manifest = sandbox.query(sandbox.create("batches", NUMBERS.format(3, 10), BATCHES.format(3)))[
        "Statistics"
    ]["DataManifestLocation"]
    listed = sandbox.get(manifest.removeprefix(f"s3://{sandbox.bucket}/")).decode().split()
    assert sorted(listed) == sorted(
        f"s3://{sandbox.bucket}/{key}" for key in sandbox.keys("batches/")
    )


def test_only_files_selected_by_path_are_opened(sandbox: Sandbox) -> None:
    sandbox.query(sandbox.create("numbers", NUMBERS.format(3, 3)))
    named = ", ".join(f"'s3://{sandbox.bucket}/{key}'" for key in sandbox.keys("numbers/"))
    sandbox.put("numbers/notes.md", b"# No rows")
    assert sandbox.rows(f'SELECT count(*) FROM numbers WHERE "$path" IN ({named}) AND v > 0') == [
        ["3"]
    ]
    assert "Not valid Parquet file" in sandbox.reason(
        """SELECT count(*) FROM numbers WHERE "$path" <> 'x'"""
    )


def test_a_star_does_not_select_the_path_column(sandbox: Sandbox) -> None:
    sandbox.query(sandbox.create("numbers", NUMBERS.format(3, 3)))
    assert sandbox.text("SELECT * FROM numbers LIMIT 1").splitlines()[0] == '"batch","v"'
    assert (
        sandbox.text('SELECT *, "$path" FROM numbers LIMIT 1').splitlines()[0]
        == '"batch","v","$path"'
    )


def test_an_existing_location_is_rejected(sandbox: Sandbox) -> None:
    sandbox.query(sandbox.create("numbers", NUMBERS.format(3, 9)))
    assert sandbox.reason(sandbox.create("numbers", "SELECT 1 AS a")).startswith(
        "TABLE_ALREADY_EXISTS: "
    )
    sandbox.query("DROP TABLE numbers")
    assert sandbox.keys("numbers/")  # the files stay
    assert sandbox.reason(sandbox.create("numbers", "SELECT 1 AS a")).startswith(
        "HIVE_PATH_ALREADY_EXISTS: "
    )


def test_too_many_buckets_are_rejected_on_request_and_leave_orphans(sandbox: Sandbox) -> None:
    with sandbox.emulator.settings(open_writers=5):
        assert sandbox.reason(
            sandbox.create("batches", NUMBERS.format(7, 100), BATCHES.format(7))
        ).startswith("HIVE_TOO_MANY_OPEN_PARTITIONS: ")
    assert sandbox.keys("batches/")  # Athena deletes nothing


def test_a_workgroup_that_enforces_its_location_rejects_another(
    sandbox: Sandbox, name_of: Callable[[str], str]
) -> None:
    name = name_of("workgroup")
    result = {"OutputLocation": f"s3://{sandbox.bucket}/workgroup/"}
    sandbox.athena.create_work_group(
        Name=name,
        Configuration={"EnforceWorkGroupConfiguration": True, "ResultConfiguration": result},
    )
    status = sandbox.query(sandbox.create("numbers", "SELECT 1 AS a"), WorkGroup=name)["Status"]
    assert "enforces a centralized output location" in status["StateChangeReason"]


def test_files_hold_athenas_types(sandbox: Sandbox) -> None:
    select = (
        "SELECT sum(x) AS S, TIMESTAMP '2026-01-05 10:00:00.123' AS t, DECIMAL '1.50' AS d, 'x' "
        "AS v FROM UNNEST(sequence(1, 3)) AS u (x)"
    )
    sandbox.query(sandbox.create("types", select))
    file = pq.ParquetFile(io.BytesIO(sandbox.get(sandbox.keys("types/")[0])))
    assert [
        (column.name, column.physical_type) for column in map(file.schema.column, range(4))
    ] == [
        ("s", "INT64"),
        ("t", "INT96"),
        ("d", "FIXED_LEN_BYTE_ARRAY"),
        ("v", "BYTE_ARRAY"),
    ]
    assert sandbox.rows("SELECT * FROM types") == [["6", "2026-01-05 10:00:00.123", "1.50", "x"]]


def test_files_of_each_format_are_read(sandbox: Sandbox) -> None:
    table = pa.table(
        {
            "Key": ["a", "b"],
            "n": pa.array([1, None], pa.int32()),
            "t": pa.array([1_500_000_000_123_456] * 2, pa.timestamp("us")),
        }
    )
    pq.write_table(table, buffer := io.BytesIO())
    sandbox.put("parquet/x.parquet", buffer.getvalue())
    sandbox.put("parquet/_hidden", b"no Parquet")
    sandbox.put(
        "json/x.json",
        b'{"KEY": "a", "n": 1, "t": "2017-07-14 02:40:00.123"}\n{"key": "b", "t": "2017-07-14 '
        b'02:40:00.123"}\n',
    )
    sandbox.put(
        "csv/x.csv", b'key,n,t\na,1,2017-07-14 02:40:00.123\n"b",,2017-07-14 02:40:00.123\n'
    )
    at = f"LOCATION 's3://{sandbox.bucket}/"
    typed, plain = "(key string, n int, t timestamp)", "(key string, n string, t string)"
    sandbox.query(f"CREATE EXTERNAL TABLE p {typed} STORED AS PARQUET {at}parquet/'")
    sandbox.query(
        f"CREATE EXTERNAL TABLE j {typed} ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe' "
        f"{at}json/'"
    )
    opencsv = "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde'"
    sandbox.query(
        f"CREATE EXTERNAL TABLE c {plain} {opencsv} {at}csv/' TBLPROPERTIES "
        "('skip.header.line.count' = '1')"
    )
    expected = '"a","1","2017-07-14 02:40:00.123"\n"b",{},"2017-07-14 02:40:00.123"\n'
    assert sandbox.text("SELECT * FROM p ORDER BY key").partition("\n")[2] == expected.format("")
    assert sandbox.text("SELECT * FROM j ORDER BY key").partition("\n")[2] == expected.format("")
    assert sandbox.text("SELECT * FROM c ORDER BY key").partition("\n")[2] == expected.format('""')
    sandbox.query(f"CREATE EXTERNAL TABLE bad (key bigint) STORED AS PARQUET {at}parquet/'")
    assert sandbox.reason("SELECT * FROM bad").startswith("HIVE_BAD_DATA: Field key's type STRING")


def test_rows_have_no_order_without_order_by(sandbox: Sandbox) -> None:
    sandbox.query(sandbox.create("numbers", NUMBERS.format(1, 500) + " ORDER BY v"))
    asked = [int(v) for (v,) in sandbox.rows("SELECT v FROM numbers ORDER BY v")]
    found = [int(v) for (v,) in sandbox.rows("SELECT v FROM numbers")]
    assert asked == sorted(found) != found


def test_the_same_token_starts_one_query(sandbox: Sandbox) -> None:
    asked = sandbox.start("SELECT 1 AS a") | {"ClientRequestToken": "t" * 32 + sandbox.bucket}
    first, again = (
        sandbox.athena.start_query_execution(**asked)["QueryExecutionId"] for _ in range(2)
    )
    assert first == again
    with pytest.raises(ClientError, match="Idempotent parameters do not match"):
        sandbox.athena.start_query_execution(**asked | {"QueryString": "SELECT 2 AS a"})


def test_a_view_is_read_as_a_table(sandbox: Sandbox) -> None:
    sandbox.query(sandbox.create("numbers", NUMBERS.format(3, 9)))
    sandbox.query("CREATE OR REPLACE VIEW few AS SELECT v FROM numbers WHERE v > 7")
    assert sandbox.rows("SELECT count(*) FROM few") == [["2"]]


def test_unload_writes_files_and_no_table(sandbox: Sandbox) -> None:
    query = sandbox.query(
        f"UNLOAD (SELECT 1 AS a) TO 's3://{sandbox.bucket}/unloaded/' WITH (format = 'PARQUET', "
        "compression = 'SNAPPY')"
    )
    assert query["Status"]["State"] == "SUCCEEDED", query["Status"]
    assert [
        pq.read_table(io.BytesIO(sandbox.get(key))).to_pylist() for key in sandbox.keys("unloaded/")
    ] == [[{"a": 1}]]


# ---- Step Functions


def run_machine(
    sandbox: Sandbox, states: dict[str, Any], role: str = f"arn:aws:iam::{'1' * 12}:role/any"
) -> str:
    """Start a new state machine; return its execution's ARN."""
    machine = sandbox.emulator.client("stepfunctions")
    definition = json.dumps({"StartAt": next(iter(states)), "States": states})
    arn = machine.create_state_machine(name=sandbox.bucket, definition=definition, roleArn=role)[
        "stateMachineArn"
    ]
    return str(machine.start_execution(stateMachineArn=arn)["executionArn"])


def execution_of(sandbox: Sandbox, arn: str) -> dict[str, Any]:
    """Return an execution that has ended."""
    machine = sandbox.emulator.client("stepfunctions")
    wait_until(
        lambda: machine.describe_execution(executionArn=arn)["status"] != "RUNNING",
        lambda: f"{arn} still runs",
    )
    return dict(machine.describe_execution(executionArn=arn))


def athena_state(sandbox: Sandbox, sql: str) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::athena:startQueryExecution.sync",
        "Parameters": sandbox.start(sql),
        "End": True,
    }


def test_a_failed_query_fails_its_state_with_athenas_message(sandbox: Sandbox) -> None:
    ended = execution_of(
        sandbox, run_machine(sandbox, {"Ask": athena_state(sandbox, "SELECT * FROM nowhere")})
    )
    assert ended["error"] == "States.TaskFailed"
    assert (
        "TABLE_NOT_FOUND"
        in json.loads(ended["cause"])["QueryExecution"]["Status"]["StateChangeReason"]
    )


def test_a_query_ends_before_the_next_state_starts(sandbox: Sandbox) -> None:
    with sandbox.emulator.settings(athena_seconds=0.3):
        ended = execution_of(
            sandbox, run_machine(sandbox, {"Ask": athena_state(sandbox, "SELECT 1 AS a")})
        )
    assert json.loads(ended["output"])["QueryExecution"]["Status"]["State"] == "SUCCEEDED"


def test_a_stopped_execution_stops_its_query_and_stays_stopped(sandbox: Sandbox) -> None:
    with sandbox.emulator.settings(athena_seconds=60):
        arn = run_machine(sandbox, {"Ask": athena_state(sandbox, "SELECT 1 AS a")})
        listed = sandbox.athena.list_query_executions
        wait_until(
            lambda: any(_asked_by(sandbox, query) for query in listed()["QueryExecutionIds"]),
            lambda: "no query was started",
        )
        query = next(query for query in listed()["QueryExecutionIds"] if _asked_by(sandbox, query))
        sandbox.emulator.client("stepfunctions").stop_execution(executionArn=arn)
        assert sandbox.wait(query)["Status"]["State"] == "CANCELLED"
    assert execution_of(sandbox, arn)["status"] == "ABORTED"


def _asked_by(sandbox: Sandbox, query: str) -> bool:
    found = sandbox.athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]
    return bool(found["QueryExecutionContext"]["Database"] == sandbox.database)


# ---- S3 event notifications, SQS


@pytest.fixture
def queue(sandbox: Sandbox) -> str:
    """The URL of a queue with events of objects below in/; its TestEvent is removed."""
    sqs = sandbox.emulator.client("sqs")
    url = str(sqs.create_queue(QueueName=sandbox.bucket)["QueueUrl"])
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    below = {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}}
    notices = {
        "QueueConfigurations": [
            {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": below}
        ]
    }
    sandbox.s3.put_bucket_notification_configuration(
        Bucket=sandbox.bucket, NotificationConfiguration=notices
    )
    assert json.loads(received(sandbox, url, 1)[0])["Event"] == "s3:TestEvent"
    return url


def received(sandbox: Sandbox, url: str, count: int) -> list[str]:
    """Return a number of messages of a queue, in order of arrival, and fail if more arrive soon."""
    sqs = sandbox.emulator.client("sqs")
    bodies: list[str] = []
    while len(bodies) < count + 1:
        found = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5 if len(bodies) < count else 0
        ).get("Messages", [])
        if not found:
            break
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            bodies.append(message["Body"])
    assert len(bodies) == count, bodies
    return bodies


def test_keys_in_notifications_are_encoded_as_on_aws(sandbox: Sandbox, queue: str) -> None:
    sandbox.put("in/a b+c/é=1.parquet", b"x")
    assert (
        json.loads(received(sandbox, queue, 1)[0])["Records"][0]["s3"]["object"]["key"]
        == "in/a+b%2Bc/%C3%A9%3D1.parquet"
    )


def test_notifications_are_lost_duplicated_and_delayed_on_request(
    sandbox: Sandbox, queue: str
) -> None:
    emulator, names = sandbox.emulator, [f"in/{number:03}" for number in range(60)]
    before = len(emulator.faults())
    with emulator.settings(
        notice_duplicates=0.2, notice_losses=0.1, notice_delay=0.3, notice_prefix="in/"
    ):
        for name in names:
            sandbox.put(name, b"x")
        wait_until(
            lambda: len({f["key"] for f in emulator.faults()[before:]}) == 60,
            lambda: f"{emulator.faults()[before:]}",
        )
    done = emulator.faults()[before:]
    lost, twice = (
        {fault["key"] for fault in done if fault["fault"] == kind} for kind in ("loss", "duplicate")
    )
    assert lost
    assert twice
    found = [
        json.loads(body)["Records"][0]["s3"]["object"]["key"]
        for body in received(sandbox, queue, 60 - len(lost) + len(twice))
    ]
    assert sorted(found) == sorted([*(set(names) - lost), *twice])
    assert found != sorted(found)


def test_an_old_receipt_deletes_nothing_without_an_error(sandbox: Sandbox) -> None:
    sqs = sandbox.emulator.client("sqs")
    url = sqs.create_queue(QueueName=sandbox.bucket, Attributes={"VisibilityTimeout": "0"})[
        "QueueUrl"
    ]
    sqs.send_message(QueueUrl=url, MessageBody="one")
    [old], [new] = (sqs.receive_message(QueueUrl=url)["Messages"] for _ in range(2))
    sqs.delete_message(QueueUrl=url, ReceiptHandle=old["ReceiptHandle"])
    assert sqs.receive_message(QueueUrl=url)["Messages"][0]["MessageId"] == new["MessageId"]


# ---- Lambda, deployed


HANDLER = """
import multiprocessing, os, tempfile

class Poison(Exception):
    pass

def handler(event, context):
    if "Records" in event:
        return {"batchItemFailures": [{"itemIdentifier": "unknown"}]}
    if event["do"] == "raise":
        raise Poison("as told")
    if event["do"] == "allocate":
        return len(bytearray(event["bytes"]))
    if event["do"] == "lock":
        multiprocessing.Lock()
    return {
        "memory": context.memory_limit_in_mb,
        "temporary": tempfile.gettempdir(),
        "home": os.path.exists(os.path.expanduser("~")),
    }
"""


TRUST = {
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]
}
DENY = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": "*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
CODE = {
    "S3Bucket": {"Fn::Sub": "cdk-assets-${AWS::AccountId}-${AWS::Region}"},
    "S3Key": "code.zip",
}
REDRIVE = {"deadLetterTargetArn": {"Fn::GetAtt": ["Dead", "Arn"]}, "maxReceiveCount": 1}
RESOURCES: dict[str, Any] = {
    "Bucket": {"Type": "AWS::S3::Bucket"},
    "Policy": {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": {"Statement": [DENY]}},
    },
    "Role": {
        "Type": "AWS::IAM::Role",
        "DependsOn": ["Policy"],
        "Properties": {"AssumeRolePolicyDocument": TRUST},
    },
    "Dead": {"Type": "AWS::SQS::Queue"},
    "Queue": {
        "Type": "AWS::SQS::Queue",
        "Properties": {"VisibilityTimeout": 1, "RedrivePolicy": REDRIVE},
    },
    "Function": {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Handler": "index.handler",
            "Runtime": "python3.13",
            "MemorySize": 256,
            "Timeout": 10,
            "Code": CODE,
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
        },
    },
    "Mapping": {
        "Type": "AWS::Lambda::EventSourceMapping",
        "Properties": {
            "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]},
            "FunctionName": {"Ref": "Function"},
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
        },
    },
}
DESTINATION = {"bucketName": "cdk-assets-${AWS::AccountId}-${AWS::Region}"}
FILES = {
    "code": {
        "source": {"path": "asset.code", "packaging": "zip"},
        "destinations": {"here": DESTINATION | {"objectKey": "code.zip"}},
    },
    "template": {
        "source": {"path": "One.template.json", "packaging": "file"},
        "destinations": {"here": DESTINATION | {"objectKey": "one.json"}},
    },
}
ARTIFACTS = {
    "One": {
        "type": "aws:cloudformation:stack",
        "properties": {"templateFile": "One.template.json"},
    }
}


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what `cdk synth` would write for a function with a queue."""
    folder = tmp_path_factory.mktemp("cdk.out")
    (folder / "asset.code").mkdir()
    (folder / "asset.code" / "index.py").write_text(HANDLER)
    outputs = {name: {"Value": {"Ref": name}} for name in ("Bucket", "Dead", "Queue", "Function")}
    template = {"Resources": RESOURCES, "Outputs": outputs}
    (folder / "One.template.json").write_text(json.dumps(template))
    (folder / "One.assets.json").write_text(json.dumps({"files": FILES}))
    (folder / "manifest.json").write_text(json.dumps({"artifacts": ARTIFACTS}))
    return folder


@pytest.fixture(scope="module")
def stack(emulator: Emulator, assembly: Path) -> Iterator[dict[str, str]]:
    yield deploy(emulator, assembly)
    delete(emulator, "One")


def invoked(emulator: Emulator, stack: dict[str, str], **event: Any) -> Any:
    answer = emulator.client("lambda").invoke(
        FunctionName=stack["Function"], Payload=json.dumps(event)
    )
    return json.loads(answer["Payload"].read())


def test_a_function_runs_under_lambdas_own_runtime_client(
    emulator: Emulator, stack: dict[str, str]
) -> None:
    assert invoked(emulator, stack, do="tell")["memory"] == "256"
    assert invoked(emulator, stack, do="raise")["errorType"] == "Poison"


def test_a_function_has_its_own_temporary_files_and_no_home(
    emulator: Emulator, stack: dict[str, str]
) -> None:
    reply = invoked(emulator, stack, do="tell")
    assert Path(reply["temporary"]).parent == emulator.folder / "tmp"
    assert not reply["home"]


def test_a_function_cannot_exceed_its_memory(emulator: Emulator, stack: dict[str, str]) -> None:
    assert invoked(emulator, stack, do="allocate", bytes=50 * 2**20) == 50 * 2**20
    assert invoked(emulator, stack, do="allocate", bytes=400 * 2**20)["errorType"] == "MemoryError"


def test_a_function_has_no_semaphores(emulator: Emulator, stack: dict[str, str]) -> None:
    assert (
        invoked(emulator, stack, do="lock")["errorMessage"] == "[Errno 38] Function not implemented"
    )


def test_a_batch_with_an_unknown_reply_has_failed(
    emulator: Emulator, stack: dict[str, str]
) -> None:
    sqs = emulator.client("sqs")
    sqs.send_message(QueueUrl=stack["Queue"], MessageBody="one")
    [dead] = sqs.receive_message(QueueUrl=stack["Dead"], WaitTimeSeconds=20)["Messages"]
    assert dead["Body"] == "one"


def test_a_stack_that_cannot_be_created_has_a_reason(
    emulator: Emulator, assembly: Path, tmp_path: Path
) -> None:
    template = {
        "Resources": {
            "Two": {"Type": "AWS::SQS::Queue", "Properties": {"RedrivePolicy": "neither"}}
        }
    }
    for name in ("One.assets.json", "manifest.json"):
        (tmp_path / name.replace("One", "Two")).write_text(
            (assembly / name).read_text().replace("One", "Two")
        )
    (tmp_path / "asset.code").mkdir()
    (tmp_path / "Two.template.json").write_text(json.dumps(template))
    with pytest.raises(DeployError, match=r"CREATE_FAILED +AWS::SQS::Queue Two"):
        deploy(emulator, tmp_path)


# ---- IAM, and the server itself


def test_a_state_machine_has_only_the_permissions_of_its_role(
    name_of: Callable[[str], str],
) -> None:
    with Emulator(auth=True) as emulator:
        sandbox = Sandbox(emulator, name_of("sandbox"))
        iam = emulator.client("iam")
        role = iam.create_role(RoleName="machine", AssumeRolePolicyDocument=ASSUME)["Role"]["Arn"]

        def ended(*actions: str) -> dict[str, Any]:
            document = {"Statement": [{"Effect": "Allow", "Action": [*actions], "Resource": "*"}]}
            iam.put_role_policy(
                RoleName="machine", PolicyName="all", PolicyDocument=json.dumps(document)
            )
            machine = emulator.client("stepfunctions")
            definition = json.dumps(
                {
                    "StartAt": "Ask",
                    "States": {
                        "Ask": athena_state(
                            sandbox, sandbox.create(actions[-1][3:9].lower(), "SELECT 1 AS a")
                        )
                    },
                }
            )
            arn = machine.create_state_machine(
                name=name_of("machine"), definition=definition, roleArn=role
            )["stateMachineArn"]
            return execution_of(
                sandbox, machine.start_execution(stateMachineArn=arn)["executionArn"]
            )

        athena = [
            "athena:StartQueryExecution",
            "athena:GetQueryExecution",
            "athena:StopQueryExecution",
        ]
        assert ended("s3:PutObject")["error"] == "Athena.AmazonAthenaException"
        assert "not authorized to perform: s3:ListBucket" in ended(*athena, "s3:PutObject")["cause"]
        assert (
            "not authorized to perform: glue:CreateTable"
            in ended(*athena, "s3:*Bucket", "s3:PutObject")["cause"]
        )
        assert ended(*athena, "glue:*Table", "s3:*Bucket", "s3:PutObject")["status"] == "SUCCEEDED"


def test_messages_are_received_with_the_functions_own_permissions(assembly: Path) -> None:
    with Emulator(auth=True) as emulator:
        stack, sqs = deploy(emulator, assembly), emulator.client("sqs")
        sqs.send_message(QueueUrl=stack["Queue"], MessageBody="one")
        wait_until(lambda: "messages are left alone" in emulator.log(), emulator.log)
        assert (
            sqs.get_queue_attributes(QueueUrl=stack["Queue"], AttributeNames=["All"])["Attributes"][
                "ApproximateNumberOfMessages"
            ]
            == "1"
        )
        document = {"Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
        role = emulator.client("iam").list_roles()["Roles"][0]["RoleName"]
        emulator.client("iam").put_role_policy(
            RoleName=role, PolicyName="take", PolicyDocument=json.dumps(document)
        )
        assert (
            sqs.receive_message(QueueUrl=stack["Dead"], WaitTimeSeconds=20)["Messages"][0]["Body"]
            == "one"
        )


def test_the_server_listens_on_one_port_of_this_machine_only(emulator: Emulator) -> None:
    listening = [
        c.laddr
        for c in psutil.Process(emulator.pid).net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    with Emulator() as idle:
        ports = [
            c.laddr.port
            for c in psutil.Process(idle.pid).net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        ]
        # no function runs, so no runtime API is open
        assert [f"http://127.0.0.1:{port}" for port in ports] == [idle.url]


def test_reset_empties_the_account() -> None:
    with Emulator() as emulator:
        emulator.client("s3").create_bucket(Bucket="bucket")
        emulator.reset()
        assert emulator.client("s3").list_buckets()["Buckets"] == []


def test_nothing_remains_even_if_the_starting_process_is_killed(tmp_path: Path) -> None:
    script = """
        import os, signal
        from support.emulator import Emulator
        with Emulator() as emulator:
            print(emulator.pid, emulator.folder, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    pid, folder = child.stdout.split()
    wait_until(lambda: not psutil.pid_exists(int(pid)), lambda: f"{pid} still runs")
    wait_until(lambda: not Path(folder).exists(), lambda: f"{folder} is still there")
