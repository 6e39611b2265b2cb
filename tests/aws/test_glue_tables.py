"""Sources that are tables of a Glue catalog."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated_types import Lt

from hundredfold import Job, Model, Source
from hundredfold.aws.adapters.glue_sources import GlueAddress, parse_address
from hundredfold.aws.adapters.glue_types import arrow_type, glue_type
from hundredfold.aws.adapters.sources import check_location
from hundredfold.errors import SourceError
from support.in_process_aws import AwsRunner

PARQUET = {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"}
PARTITIONS = [("1", "2025-01-01", "n"), ("1", "2025-02-01", "s"), ("2", "2025-02-01", "a,b/c")]
COLUMNS = {
    "a": "bigint",
    "day": "date",
    "tags": "map<string,int>",
    "place": "struct<name:string,parts:array<struct<n:int,w:decimal(9,2)>>>",
}
ROW = {
    "day": dt.date(2025, 1, 1),
    "tags": [("x", 1)],
    "place": {"name": "here", "parts": [{"n": 1, "w": None}]},
}


@dataclass
class Event:
    a: Annotated[int, Lt(8)]


def job(**declared: Any) -> Job:
    model = Model("rest", unit=(), work=lambda rows: {"n": rows.rows})
    return Job("glue", sources=[Source("things", **declared)], models=[model])


@pytest.fixture(scope="module")
def lake(aws_runner: AwsRunner) -> str:
    """A database with the table `events`, partitioned by p, month and region; three rows a
    partition.
    """
    glue, s3 = aws_runner.emulator.client("glue"), aws_runner.emulator.client("s3")
    database = f"lake_{aws_runner.resources.database}"
    glue.create_database(DatabaseInput={"Name": database})
    at = aws_runner.store.where("sources/lake/events")
    storage = {"Columns": glue_columns(COLUMNS), "Location": f"{at}/", "SerdeInfo": PARQUET}
    keys = glue_columns({"p": "int", "month": "date", "region": "string"})
    table = {"Name": "events", "TableType": "EXTERNAL_TABLE", "StorageDescriptor": storage}
    glue.create_table(DatabaseName=database, TableInput={**table, "PartitionKeys": keys})
    schema = pa.schema([(name, arrow_type(kind)) for name, kind in COLUMNS.items()])
    for number, values in enumerate(PARTITIONS):
        sink = pa.BufferOutputStream()
        rows = [{**ROW, "a": 3 * number + row} for row in range(3)]
        pq.write_table(pa.Table.from_pylist(rows, schema), sink)
        bucket, key = aws_runner.resources.bucket, f"sources/lake/events/{number}/x.parquet"
        s3.put_object(Bucket=bucket, Key=key, Body=sink.getvalue().to_pybytes())
        location = {**storage, "Location": f"{at}/{number}/"}
        part = {"Values": list(values), "StorageDescriptor": location}
        glue.create_partition(DatabaseName=database, TableName="events", PartitionInput=part)
    return database


def glue_columns(types: dict[str, str]) -> list[dict[str, Any]]:
    return [{"Name": name, "Type": kind} for name, kind in types.items()]


def iceberg(aws_runner: AwsRunner, database: str, columns: list[dict[str, Any]], at: str) -> str:
    """Create a table that calls itself one of Iceberg; return its location as a source."""
    storage = {"Columns": columns, "Location": at, "SerdeInfo": PARQUET}
    name = f"ice_{len(columns)}"
    aws_runner.emulator.client("glue").create_table(
        DatabaseName=database,
        TableInput={
            "Name": name,
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"table_type": "ICEBERG", "metadata_location": f"{at}metadata/1.json"},
            "StorageDescriptor": storage,
        },
    )
    return f"glue://{database}/{name}"


def test_a_glue_table_is_a_source_with_its_nested_columns(aws_runner: AwsRunner, lake: str) -> None:
    run = aws_runner.start(job(contract=Event, max_rejected=1), things=f"glue://{lake}/events")
    (result,) = run.validate()
    assert (result.rows, result.accepted, result.rejected) == (9, 8, 1)
    rows = run.accepted("things")
    assert len(rows) == 8
    assert {row["region"] for row in rows} == {"n", "s", "a,b/c"}
    assert rows[0]["place"] == ROW["place"]
    assert dict(rows[0]["tags"]) == {"x": 1}


@pytest.mark.parametrize(
    ("partitions", "rows"),
    [
        ("p=1", 6),
        ("P=+1/region=s", 3),
        ("month=2025-02-01", 6),
        ("region=n,s/p=1,2", 6),
        ("region=a%2Cb%2Fc", 3),
        ("region=__HIVE_DEFAULT_PARTITION__,n/", 3),
    ],
)
def test_partitions_of_a_glue_table_are_a_source(
    aws_runner: AwsRunner, lake: str, partitions: str, rows: int
) -> None:
    location = f"glue://{lake}/events/{partitions}"
    check_location("things", location)
    (result,) = aws_runner.start(job(), things=location).validate()
    assert (result.rows, result.accepted) == (rows, rows)


@pytest.mark.parametrize(
    ("table", "message", "problem"),
    [
        ("none", "found no table LAKE.none in Glue", ""),
        ("events/x", "the location is 'glue://LAKE/events/x', expected s3://BUCKET/KEY", ""),
        ('events"; DROP TABLE y; --', "the location is", ""),
        ("events/day=2025-01-01", "no partition column 'day'", "its partition columns: p, month"),
        ("events/p=one", "p=one is not a value of the partition column p, of type int32", ""),
        ("events/p=1' OR 1=1 --", "is not a value of the partition column p", ""),
        ("events/month=2025-02", "month=2025-02 is not a value", ""),
    ],
)
def test_a_table_or_partition_that_does_not_exist_is_an_error(
    aws_runner: AwsRunner, lake: str, table: str, message: str, problem: str
) -> None:
    location = f"glue://{lake}/{table}"
    for check in (
        lambda: check_location("things", location),
        lambda: aws_runner.start(job(), things=location).validate(),
    ):
        with pytest.raises(SourceError, match=re.escape(message.replace("LAKE", lake))) as caught:
            check()
        assert caught.value.hint
        assert problem in "".join(caught.value.problems)


def test_no_rows_in_a_partition_are_an_error(aws_runner: AwsRunner, lake: str) -> None:
    location = f"glue://{lake}/events/p=9' OR '1'='1"
    with pytest.raises(SourceError, match="is not a value"):
        aws_runner.start(job(), things=location).validate()
    location = f"glue://{lake}/events/region=n' OR '1'='1"
    with pytest.raises(SourceError, match="is empty"):
        aws_runner.start(job(), things=location).validate()


def test_an_iceberg_table_is_read_without_its_former_columns(
    aws_runner: AwsRunner, lake: str
) -> None:
    """The emulator reads it as a table of Parquet; its description is that of Iceberg."""
    former = {"Name": "b", "Type": "int", "Parameters": {"iceberg.field.current": "false"}}
    at = aws_runner.store.where("sources/lake/events/0") + "/"
    location = iceberg(aws_runner, lake, [*glue_columns({"a": "bigint"}), former], at)
    run = aws_runner.start(job(), things=location)
    run.validate()
    assert sorted(row["a"] for row in run.accepted("things")) == [0, 1, 2]
    assert run.accepted("things")[0].keys() == {"a"}


def test_times_of_an_iceberg_table_are_refused(aws_runner: AwsRunner, lake: str) -> None:
    at = aws_runner.store.where("sources/lake/events/0") + "/"
    columns = glue_columns({"a": "bigint", "t": "timestamp", "u": "array<timestamp>"})
    location = iceberg(aws_runner, lake, columns, at)
    with pytest.raises(SourceError, match="columns of unsupported types") as caught:
        aws_runner.start(job(), things=location).validate()
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["t", "u"]
    assert 'CAST("t" AS timestamp(3)) AS "t"' in caught.value.problems[0]


def test_an_iceberg_table_that_changes_while_it_is_read_is_an_error(
    aws_runner: AwsRunner, lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = aws_runner.store.where("sources/lake/events/0") + "/"
    location = iceberg(aws_runner, lake, glue_columns({"a": "bigint"}), at)
    glue = aws_runner.emulator.client("glue")
    described = glue.get_table(DatabaseName=lake, Name="ice_1")["Table"]
    allowed = ("Name", "TableType", "Parameters", "StorageDescriptor")
    changed = {name: described[name] for name in allowed}
    changed["Parameters"] = {**changed["Parameters"], "metadata_location": f"{at}metadata/2.json"}
    before = AwsRunner.run_statement

    def run_and_change(runner: AwsRunner, *request: Any) -> Any:
        glue.update_table(DatabaseName=lake, TableInput=changed)
        return before(runner, *request)

    monkeypatch.setattr(AwsRunner, "run_statement", run_and_change)
    with pytest.raises(SourceError, match="things has changed since the run began") as caught:
        aws_runner.start(job(), things=location).validate()
    assert caught.value.problems == (f"glue://{lake}/ice_1",)


@pytest.mark.parametrize(
    "hive",
    [
        "array<struct<a:int,b:map<string,array<decimal(10,2)>>>>",
        "map<date,struct<x:double>>",
        "struct<a:struct<b:timestamp>>",
    ],
)
def test_nested_types_of_glue_are_read_and_written_alike(hive: str) -> None:
    assert glue_type(arrow_type(hive)) == hive


@pytest.mark.parametrize(
    "hive", ["uniontype<int,string>", "map<int>", "array<int,int>", "interval"]
)
def test_other_types_of_glue_have_no_arrow_type(hive: str) -> None:
    with pytest.raises(KeyError):
        arrow_type(hive)


def test_an_address_names_a_table_and_its_partitions() -> None:
    assert parse_address("glue://db/t/K=a%20b,c/d=1/") == GlueAddress(
        "db", "t", (("k", ("a b", "c")), ("d", ("1",)))
    )
    for other in ("glue://db", "glue://db/t//", "glue://db/t/=1", "glue://db/t/a=", "s3://b/k=1"):
        assert parse_address(other) is None
