"""The bench itself, where it would otherwise lie: what other tests on AWS take for granted."""

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


class Place:
    """A bucket and a database of a test's own, and queries in them."""

    def __init__(self, emulator: Emulator, name: str) -> None:
        self.emulator, self.bucket, self.database = emulator, name, name.replace("-", "_")
        self.s3, self.athena = emulator.client("s3"), emulator.client("athena")
        self.s3.create_bucket(Bucket=self.bucket)
        emulator.client("glue").create_database(DatabaseInput={"Name": self.database})

    def query(self, sql: str, **more: Any) -> dict[str, Any]:
        """A query at its end, as GetQueryExecution shows it."""
        started = self.athena.start_query_execution(**self.asked(sql), **more)["QueryExecutionId"]
        return self.ended(started)

    def asked(self, sql: str) -> dict[str, Any]:
        return {
            "QueryString": sql,
            "QueryExecutionContext": {"Database": self.database},
            "ResultConfiguration": {"OutputLocation": f"s3://{self.bucket}/athena/"},
        }

    def ended(self, query: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def over() -> bool:
            found.update(self.athena.get_query_execution(QueryExecutionId=query)["QueryExecution"])
            return found["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED")

        wait_until(over, lambda: f"{found['Query']} is still {found['Status']}")
        return found

    def text(self, sql: str) -> str:
        """A query's result file."""
        ended = self.query(sql)
        assert ended["Status"]["State"] == "SUCCEEDED", ended["Status"]
        return self.get(
            ended["ResultConfiguration"]["OutputLocation"].removeprefix(f"s3://{self.bucket}/")
        ).decode()

    def rows(self, sql: str) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.text(sql))))[1:]

    def reason(self, sql: str) -> str:
        """Why a query failed."""
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
def place(emulator: Emulator, name_of: Callable[[str], str]) -> Place:
    return Place(emulator, name_of("place"))


BATCHES = ", bucketed_by = ARRAY['batch'], bucket_count = {}, write_compression = 'SNAPPY'"
NUMBERS = "SELECT CAST(x % {} AS integer) AS batch, x AS v FROM UNNEST(sequence(1, {})) AS u (x)"


# ---- Athena


def test_a_result_file_tells_null_from_empty_and_doubles_exactly(place: Place) -> None:
    select = """SELECT '' AS e, CAST(NULL AS varchar) AS n, 'a"b' AS q, 0.1e0 AS d, 1e22 AS large, 1e-5 AS small, nan() AS nan,
        DECIMAL '1.50' AS m, TIMESTAMP '2026-01-05 10:00:00' AS t, true AS b"""
    assert place.text(select) == (
        '"e","n","q","d","large","small","nan","m","t","b"\n'
        '"",,"a""b","0.1","1.0E22","1.0E-5","NaN","1.50","2026-01-05 10:00:00.000","true"\n'
    )


def test_results_come_by_pages_too_and_null_has_no_value(place: Place) -> None:
    query = place.query(
        "SELECT x, CAST(NULL AS double) AS n FROM UNNEST(sequence(1, 1500)) AS u (x) ORDER BY x"
    )["QueryExecutionId"]
    pages = [
        page["ResultSet"]
        for page in place.athena.get_paginator("get_query_results").paginate(QueryExecutionId=query)
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


def test_numbers_are_of_trinos_types(place: Place) -> None:
    query = place.query(
        "SELECT sum(x) s, 7 / 2 i, 7e0 / 2 d, 1e0 / 0 inf, CAST(2.5e0 AS bigint) r, count(*) FROM "
        "UNNEST(sequence(1, 3)) AS u (x)"
    )
    answer = place.athena.get_query_results(QueryExecutionId=query["QueryExecutionId"])["ResultSet"]
    assert [(column["Name"], column["Type"]) for column in answer["ResultSetMetadata"]["ColumnInfo"]] == [
        ("s", "bigint"), ("i", "integer"), ("d", "double"), ("inf", "double"), ("r", "bigint"), ("_col5", "bigint"),
    ]  # fmt: skip
    assert [datum["VarCharValue"] for datum in answer["Rows"][1]["Data"]] == [
        "6",
        "3",
        "3.5",
        "Infinity",
        "3",
        "3",
    ]


@pytest.mark.parametrize(
    ("select", "words"),
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
def test_what_trino_refuses_is_refused(place: Place, select: str, words: str) -> None:
    place.query(place.create("numbers", NUMBERS.format(3, 9)))
    assert place.reason(select).startswith(words.format(database=place.database))


def test_a_statement_that_is_none_is_refused_at_the_call(place: Place) -> None:
    with pytest.raises(ClientError) as refused:
        place.query("SELECT FROM WHERE")
    assert refused.value.response["Error"]["Code"] == "InvalidRequestException"


def test_each_batch_number_has_a_file_of_its_own(place: Place) -> None:
    query = place.query(place.create("batches", NUMBERS.format(7, 100), BATCHES.format(100)))
    assert query["Status"]["State"] == "SUCCEEDED", query["Status"]
    assert len(place.keys("batches/")) == 7  # a bucket without rows leaves no file
    for key in place.keys("batches/"):
        assert len(set(pq.read_table(io.BytesIO(place.get(key)))["batch"].to_pylist())) == 1
    paths = place.rows('SELECT "$path", min(batch), max(batch), sum(v) FROM batches GROUP BY 1')
    assert sorted(path for path, *_ in paths) == sorted(
        f"s3://{place.bucket}/{key}" for key in place.keys("batches/")
    )
    assert all(low == high for _, low, high, _ in paths)
    assert sum(int(total) for *_, total in paths) == 5050


def test_a_manifest_lists_what_was_written(place: Place) -> None:
    manifest = place.query(place.create("batches", NUMBERS.format(3, 10), BATCHES.format(3)))[
        "Statistics"
    ]["DataManifestLocation"]
    listed = place.get(manifest.removeprefix(f"s3://{place.bucket}/")).decode().split()
    assert sorted(listed) == sorted(f"s3://{place.bucket}/{key}" for key in place.keys("batches/"))


def test_a_file_that_is_not_named_by_its_path_is_not_opened(place: Place) -> None:
    place.query(place.create("numbers", NUMBERS.format(3, 3)))
    named = ", ".join(f"'s3://{place.bucket}/{key}'" for key in place.keys("numbers/"))
    place.put("numbers/notes.md", b"# No rows")
    assert place.rows(f'SELECT count(*) FROM numbers WHERE "$path" IN ({named}) AND v > 0') == [
        ["3"]
    ]
    assert "Not valid Parquet file" in place.reason(
        """SELECT count(*) FROM numbers WHERE "$path" <> 'x'"""
    )


def test_star_hides_the_path(place: Place) -> None:
    place.query(place.create("numbers", NUMBERS.format(3, 3)))
    assert place.text("SELECT * FROM numbers LIMIT 1").splitlines()[0] == '"batch","v"'
    assert (
        place.text('SELECT *, "$path" FROM numbers LIMIT 1').splitlines()[0]
        == '"batch","v","$path"'
    )


def test_a_taken_place_is_refused(place: Place) -> None:
    place.query(place.create("numbers", NUMBERS.format(3, 9)))
    assert place.reason(place.create("numbers", "SELECT 1 AS a")).startswith(
        "TABLE_ALREADY_EXISTS: "
    )
    place.query("DROP TABLE numbers")
    assert place.keys("numbers/")  # the files stay
    assert place.reason(place.create("numbers", "SELECT 1 AS a")).startswith(
        "HIVE_PATH_ALREADY_EXISTS: "
    )


def test_too_many_buckets_are_refused_when_the_test_says_so_and_leave_orphans(place: Place) -> None:
    with place.emulator.settings(open_writers=5):
        assert place.reason(
            place.create("batches", NUMBERS.format(7, 100), BATCHES.format(7))
        ).startswith("HIVE_TOO_MANY_OPEN_PARTITIONS: ")
    assert place.keys("batches/")  # Athena deletes nothing


def test_a_workgroup_that_insists_on_its_place_refuses_another(
    place: Place, name_of: Callable[[str], str]
) -> None:
    name = name_of("workgroup")
    result = {"OutputLocation": f"s3://{place.bucket}/workgroup/"}
    place.athena.create_work_group(
        Name=name,
        Configuration={"EnforceWorkGroupConfiguration": True, "ResultConfiguration": result},
    )
    status = place.query(place.create("numbers", "SELECT 1 AS a"), WorkGroup=name)["Status"]
    assert "enforces a centralized output location" in status["StateChangeReason"]


def test_files_hold_athenas_types(place: Place) -> None:
    select = (
        "SELECT sum(x) AS S, TIMESTAMP '2026-01-05 10:00:00.123' AS t, DECIMAL '1.50' AS d, 'x' "
        "AS v FROM UNNEST(sequence(1, 3)) AS u (x)"
    )
    place.query(place.create("types", select))
    file = pq.ParquetFile(io.BytesIO(place.get(place.keys("types/")[0])))
    assert [(column.name, column.physical_type) for column in map(file.schema.column, range(4))] == [
        ("s", "INT64"), ("t", "INT96"), ("d", "FIXED_LEN_BYTE_ARRAY"), ("v", "BYTE_ARRAY"),
    ]  # fmt: skip
    assert place.rows("SELECT * FROM types") == [["6", "2026-01-05 10:00:00.123", "1.50", "x"]]


def test_files_of_each_format_are_read(place: Place) -> None:
    table = pa.table(
        {
            "Key": ["a", "b"],
            "n": pa.array([1, None], pa.int32()),
            "t": pa.array([1_500_000_000_123_456] * 2, pa.timestamp("us")),
        }
    )
    pq.write_table(table, buffer := io.BytesIO())
    place.put("parquet/x.parquet", buffer.getvalue())
    place.put("parquet/_hidden", b"no Parquet")
    place.put(
        "json/x.json",
        b'{"KEY": "a", "n": 1, "t": "2017-07-14 02:40:00.123"}\n{"key": "b", "t": "2017-07-14 '
        b'02:40:00.123"}\n',
    )
    place.put("csv/x.csv", b'key,n,t\na,1,2017-07-14 02:40:00.123\n"b",,2017-07-14 02:40:00.123\n')
    at = f"LOCATION 's3://{place.bucket}/"
    typed, plain = "(key string, n int, t timestamp)", "(key string, n string, t string)"
    place.query(f"CREATE EXTERNAL TABLE p {typed} STORED AS PARQUET {at}parquet/'")
    place.query(
        f"CREATE EXTERNAL TABLE j {typed} ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe' "
        f"{at}json/'"
    )
    opencsv = "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde'"
    place.query(
        f"CREATE EXTERNAL TABLE c {plain} {opencsv} {at}csv/' TBLPROPERTIES "
        "('skip.header.line.count' = '1')"
    )
    wanted = '"a","1","2017-07-14 02:40:00.123"\n"b",{},"2017-07-14 02:40:00.123"\n'
    assert place.text("SELECT * FROM p ORDER BY key").partition("\n")[2] == wanted.format("")
    assert place.text("SELECT * FROM j ORDER BY key").partition("\n")[2] == wanted.format("")
    assert place.text("SELECT * FROM c ORDER BY key").partition("\n")[2] == wanted.format('""')
    place.query(f"CREATE EXTERNAL TABLE bad (key bigint) STORED AS PARQUET {at}parquet/'")
    assert place.reason("SELECT * FROM bad").startswith("HIVE_BAD_DATA: Field key's type STRING")


def test_rows_come_in_no_order_that_was_not_asked_for(place: Place) -> None:
    place.query(place.create("numbers", NUMBERS.format(1, 500) + " ORDER BY v"))
    asked = [int(v) for (v,) in place.rows("SELECT v FROM numbers ORDER BY v")]
    found = [int(v) for (v,) in place.rows("SELECT v FROM numbers")]
    assert asked == sorted(found) != found


def test_the_same_token_starts_one_query(place: Place) -> None:
    asked = place.asked("SELECT 1 AS a") | {"ClientRequestToken": "t" * 32 + place.bucket}
    first, again = (
        place.athena.start_query_execution(**asked)["QueryExecutionId"] for _ in range(2)
    )
    assert first == again
    with pytest.raises(ClientError, match="Idempotent parameters do not match"):
        place.athena.start_query_execution(**asked | {"QueryString": "SELECT 2 AS a"})


def test_a_view_is_read_as_a_table(place: Place) -> None:
    place.query(place.create("numbers", NUMBERS.format(3, 9)))
    place.query("CREATE OR REPLACE VIEW few AS SELECT v FROM numbers WHERE v > 7")
    assert place.rows("SELECT count(*) FROM few") == [["2"]]


def test_unload_writes_files_and_no_table(place: Place) -> None:
    query = place.query(
        f"UNLOAD (SELECT 1 AS a) TO 's3://{place.bucket}/unloaded/' WITH (format = 'PARQUET', "
        "compression = 'SNAPPY')"
    )
    assert query["Status"]["State"] == "SUCCEEDED", query["Status"]
    assert [
        pq.read_table(io.BytesIO(place.get(key))).to_pylist() for key in place.keys("unloaded/")
    ] == [[{"a": 1}]]


# ---- Step Functions


def run_machine(
    place: Place, states: dict[str, Any], role: str = f"arn:aws:iam::{'1' * 12}:role/any"
) -> str:
    """Start a new state machine; its execution's ARN."""
    machine = place.emulator.client("stepfunctions")
    definition = json.dumps({"StartAt": next(iter(states)), "States": states})
    arn = machine.create_state_machine(name=place.bucket, definition=definition, roleArn=role)[
        "stateMachineArn"
    ]
    return str(machine.start_execution(stateMachineArn=arn)["executionArn"])


def execution_of(place: Place, arn: str) -> dict[str, Any]:
    """An execution at its end."""
    machine = place.emulator.client("stepfunctions")
    wait_until(
        lambda: machine.describe_execution(executionArn=arn)["status"] != "RUNNING",
        lambda: f"{arn} still runs",
    )
    return dict(machine.describe_execution(executionArn=arn))


def athena_state(place: Place, sql: str) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::athena:startQueryExecution.sync",
        "Parameters": place.asked(sql),
        "End": True,
    }


def test_a_failed_query_fails_its_state_with_athenas_words(place: Place) -> None:
    ended = execution_of(
        place, run_machine(place, {"Ask": athena_state(place, "SELECT * FROM nowhere")})
    )
    assert ended["error"] == "States.TaskFailed"
    assert (
        "TABLE_NOT_FOUND"
        in json.loads(ended["cause"])["QueryExecution"]["Status"]["StateChangeReason"]
    )


def test_a_query_goes_on_to_its_end_before_the_next_state(place: Place) -> None:
    with place.emulator.settings(athena_seconds=0.3):
        ended = execution_of(
            place, run_machine(place, {"Ask": athena_state(place, "SELECT 1 AS a")})
        )
    assert json.loads(ended["output"])["QueryExecution"]["Status"]["State"] == "SUCCEEDED"


def test_a_stopped_execution_stops_its_query_and_stays_stopped(place: Place) -> None:
    with place.emulator.settings(athena_seconds=60):
        arn = run_machine(place, {"Ask": athena_state(place, "SELECT 1 AS a")})
        listed = place.athena.list_query_executions
        wait_until(
            lambda: any(_asked_by(place, query) for query in listed()["QueryExecutionIds"]),
            lambda: "no query was started",
        )
        query = next(query for query in listed()["QueryExecutionIds"] if _asked_by(place, query))
        place.emulator.client("stepfunctions").stop_execution(executionArn=arn)
        assert place.ended(query)["Status"]["State"] == "CANCELLED"
    assert execution_of(place, arn)["status"] == "ABORTED"


def _asked_by(place: Place, query: str) -> bool:
    found = place.athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]
    return bool(found["QueryExecutionContext"]["Database"] == place.database)


# ---- S3's notifications, SQS


@pytest.fixture
def queue(place: Place) -> str:
    """The URL of a queue that hears of objects below in/; its TestEvent is taken out."""
    sqs = place.emulator.client("sqs")
    url = str(sqs.create_queue(QueueName=place.bucket)["QueueUrl"])
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    below = {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}}
    notices = {
        "QueueConfigurations": [
            {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": below}
        ]
    }
    place.s3.put_bucket_notification_configuration(
        Bucket=place.bucket, NotificationConfiguration=notices
    )
    assert json.loads(received(place, url, 1)[0])["Event"] == "s3:TestEvent"
    return url


def received(place: Place, url: str, count: int) -> list[str]:
    """So many messages of a queue, in the order in which they come, and no more within a moment."""
    sqs = place.emulator.client("sqs")
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


def test_keys_in_notifications_are_encoded_as_on_aws(place: Place, queue: str) -> None:
    place.put("in/a b+c/é=1.parquet", b"x")
    assert (
        json.loads(received(place, queue, 1)[0])["Records"][0]["s3"]["object"]["key"]
        == "in/a+b%2Bc/%C3%A9%3D1.parquet"
    )


def test_notifications_are_lost_doubled_and_late_when_the_test_says_so(
    place: Place, queue: str
) -> None:
    emulator, names = place.emulator, [f"in/{number:03}" for number in range(60)]
    before = len(emulator.faults())
    with emulator.settings(
        notice_duplicates=0.2, notice_losses=0.1, notice_delay=0.3, notice_prefix="in/"
    ):
        for name in names:
            place.put(name, b"x")
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
        for body in received(place, queue, 60 - len(lost) + len(twice))
    ]
    assert sorted(found) == sorted([*(set(names) - lost), *twice])
    assert found != sorted(found)


def test_an_old_receipt_deletes_nothing_and_is_no_error(place: Place) -> None:
    sqs = place.emulator.client("sqs")
    url = sqs.create_queue(QueueName=place.bucket, Attributes={"VisibilityTimeout": "0"})[
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
        return {"batchItemFailures": [{"itemIdentifier": "nobody"}]}
    if event["do"] == "raise":
        raise Poison("as told")
    if event["do"] == "allocate":
        return len(bytearray(event["bytes"]))
    if event["do"] == "lock":
        multiprocessing.Lock()
    return {"memory": context.memory_limit_in_mb, "temporary": tempfile.gettempdir(), "home": os.path.exists(os.path.expanduser("~"))}
"""


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cdk synth` would leave of a function on a queue."""
    folder = tmp_path_factory.mktemp("cdk.out")
    (folder / "asset.code").mkdir()
    (folder / "asset.code" / "index.py").write_text(HANDLER)
    trust = {
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ]
    }
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    code = {
        "S3Bucket": {"Fn::Sub": "cdk-assets-${AWS::AccountId}-${AWS::Region}"},
        "S3Key": "code.zip",
    }
    redrive = {"deadLetterTargetArn": {"Fn::GetAtt": ["Dead", "Arn"]}, "maxReceiveCount": 1}
    resources: dict[str, Any] = {
        "Bucket": {"Type": "AWS::S3::Bucket"},
        "Policy": {
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": {"Statement": [deny]}},
        },
        "Role": {
            "Type": "AWS::IAM::Role",
            "DependsOn": ["Policy"],
            "Properties": {"AssumeRolePolicyDocument": trust},
        },
        "Dead": {"Type": "AWS::SQS::Queue"},
        "Queue": {
            "Type": "AWS::SQS::Queue",
            "Properties": {"VisibilityTimeout": 1, "RedrivePolicy": redrive},
        },
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Handler": "index.handler",
                "Runtime": "python3.13",
                "MemorySize": 256,
                "Timeout": 10,
                "Code": code,
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
    outputs = {name: {"Value": {"Ref": name}} for name in ("Bucket", "Dead", "Queue", "Function")}
    (folder / "One.template.json").write_text(
        json.dumps({"Resources": resources, "Outputs": outputs})
    )
    place = {"bucketName": "cdk-assets-${AWS::AccountId}-${AWS::Region}"}
    files = {
        "code": {
            "source": {"path": "asset.code", "packaging": "zip"},
            "destinations": {"here": place | {"objectKey": "code.zip"}},
        },
        "template": {
            "source": {"path": "One.template.json", "packaging": "file"},
            "destinations": {"here": place | {"objectKey": "one.json"}},
        },
    }
    (folder / "One.assets.json").write_text(json.dumps({"files": files}))
    artifacts = {
        "One": {
            "type": "aws:cloudformation:stack",
            "properties": {"templateFile": "One.template.json"},
        }
    }
    (folder / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
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


def test_a_function_has_temporary_files_of_its_own_and_no_home(
    emulator: Emulator, stack: dict[str, str]
) -> None:
    told = invoked(emulator, stack, do="tell")
    assert Path(told["temporary"]).parent == emulator.folder / "tmp"
    assert not told["home"]


def test_a_function_is_held_to_its_memory(emulator: Emulator, stack: dict[str, str]) -> None:
    assert invoked(emulator, stack, do="allocate", bytes=50 * 2**20) == 50 * 2**20
    assert invoked(emulator, stack, do="allocate", bytes=400 * 2**20)["errorType"] == "MemoryError"


def test_a_function_has_no_semaphores(emulator: Emulator, stack: dict[str, str]) -> None:
    assert (
        invoked(emulator, stack, do="lock")["errorMessage"] == "[Errno 38] Function not implemented"
    )


def test_a_batch_answered_in_no_known_way_has_failed(
    emulator: Emulator, stack: dict[str, str]
) -> None:
    sqs = emulator.client("sqs")
    sqs.send_message(QueueUrl=stack["Queue"], MessageBody="one")
    [dead] = sqs.receive_message(QueueUrl=stack["Dead"], WaitTimeSeconds=20)["Messages"]
    assert dead["Body"] == "one"


def test_a_stack_that_cannot_be_made_says_why(
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


def test_a_state_machine_has_no_more_rights_than_its_role(name_of: Callable[[str], str]) -> None:
    with Emulator(auth=True) as emulator:
        place = Place(emulator, name_of("place"))
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
                            place, place.create(actions[-1][3:9].lower(), "SELECT 1 AS a")
                        )
                    },
                }
            )
            arn = machine.create_state_machine(
                name=name_of("machine"), definition=definition, roleArn=role
            )["stateMachineArn"]
            return execution_of(place, machine.start_execution(stateMachineArn=arn)["executionArn"])

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


def test_messages_are_taken_with_the_functions_own_rights(assembly: Path) -> None:
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
        assert [f"http://127.0.0.1:{port}" for port in ports] == [
            idle.url
        ]  # no function runs, so no runtime API is open


def test_reset_empties_the_account() -> None:
    with Emulator() as emulator:
        emulator.client("s3").create_bucket(Bucket="bucket")
        emulator.reset()
        assert emulator.client("s3").list_buckets()["Buckets"] == []


def test_nothing_is_left_of_it_even_when_its_starter_is_killed(tmp_path: Path) -> None:
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
