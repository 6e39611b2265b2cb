"""Batches that Athena writes, and attempts that read the results of earlier models."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Source, Unit
from hundredfold.aws.adapters.statements import QueriesPending, QueryPending, QueryReply
from hundredfold.data.manifest import UnitList
from hundredfold.errors import DamagedFile, HundredfoldError, QueryError, StateError
from support.in_process import InProcessRunner
from support.in_process_aws import AwsRunner, start_both
from support.javascript import check_statements


def as_arrow_sum(rows: Unit) -> dict[str, Any]:
    return {"sum": int(rows["x"].sum())}


def count_rows(rows: Unit) -> dict[str, Any]:
    return {"n": rows.rows}


def handed_on(rows: Unit) -> dict[str, Any]:
    return {"y": int(rows["y"][0])}


# ---- batches


@pytest.mark.parametrize("query", ["", "SELECT k, min(x) AS x FROM things GROUP BY k, x"])
def test_more_batches_than_open_writers_take_two_rounds(
    runner: InProcessRunner,
    aws_runner: AwsRunner,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
) -> None:
    table = pa.table({"k": [f"u{n % 260:03d}" for n in range(1000)], "x": list(range(1000))})
    model = Model("m", unit=("k",), query=query or None, work=as_arrow_sum)
    job = Job("split", sources=[Source("things")], models=[model])
    local, remote = start_both(runner, aws_runner, job, things=table)
    local.all()
    remote.validate()
    before, rounds = len(aws_runner.queries), aws_runner.rounds
    with aws_runner.emulator.settings(open_writers=100):
        manifest = remote.prepare("m", parts=20)
    created = [sql for sql in aws_runner.queries[before:] if "bucketed_by" in sql]
    assert [re.findall(r"bucket_count = (\d+)", sql) for sql in created] == [
        ["3"],
        ["100"],
        ["100"],
        ["100"],
    ]
    # the rows of a query that groups are stored; then units, parts, batches and their objects
    assert aws_runner.rounds - rounds == (5 if query else 4)
    assert 200 < len(manifest.batches) <= 300
    with monkeypatch.context() as patch:  # a worker reads the units of its batches alone
        patch.delattr(UnitList, "read")
        remote.work("m")
    remote.collect("m")
    assert remote.result_bytes("m") == local.result_bytes("m")
    check_statements(aws_runner.queries[before:])


def test_a_statement_that_fails_among_others_is_repeated_alone(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    table = pa.table({"k": [f"u{n % 260:03d}" for n in range(1000)], "x": list(range(1000))})
    job = Job(
        "again", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    local, remote = start_both(runner, aws_runner, job, things=table)
    local.all()
    remote.validate()
    before, rounds = len(aws_runner.queries), aws_runner.rounds
    run_together = aws_runner.run_together

    def fail_the_second(several: QueriesPending, execution: str = "e1") -> QueryReply:
        reply = run_together(several, execution)
        return replace(reply, ids=dict(reply.ids) | {several.statements[1].token: ""})

    aws_runner.run_together = fail_the_second  # type: ignore[method-assign]
    try:
        remote.prepare("m", parts=20)
    finally:
        aws_runner.run_together = run_together  # type: ignore[method-assign]
    assert aws_runner.rounds - rounds == 5
    created = [sql for sql in aws_runner.queries[before:] if "bucket_count = 100" in sql]
    assert (len(created), len(set(created))) == (4, 3)
    remote.work("m")
    remote.collect("m")
    assert remote.result_bytes("m") == local.result_bytes("m")


def test_batches_and_objects_may_overlap_in_any_way(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    table = pa.table({"k": [f"u{n % 9}" for n in range(200)], "x": list(range(200))})
    job = Job(
        "split", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    local, remote = start_both(runner, aws_runner, job, things=table)
    local.all()
    remote.validate()
    manifest = remote.prepare("m", parts=1)
    rows = [
        pq.read_table(pa.BufferReader(remote.store.get(key)))
        for keys in manifest.files
        for key in keys
    ]
    whole = pa.concat_tables(rows)
    assert len(manifest.batches) > 3
    assert whole.num_rows == 200
    for number, start in enumerate((0, 70)):  # as another writer might split them
        with remote.store.writing(f"processing/{remote.layout.run}/m/all/other-{number}") as path:
            pq.write_table(whole.slice(start, 70 if not start else 130), path)
    keys = tuple(f"processing/{remote.layout.run}/m/all/other-{number}" for number in range(2))
    remote.store.put(
        remote.layout.manifest("m"),
        replace(manifest, files=(keys,) * len(manifest.batches), marks=()).text(
            remote.layout.manifest("m")
        ),
    )
    remote.work("m")
    remote.collect("m")
    assert remote.result_bytes("m") == local.result_bytes("m")


@pytest.mark.parametrize("change", ["flipped", "cut", "replaced by another batch", "removed"])
def test_a_changed_object_of_a_batch_is_not_read(
    runner: InProcessRunner, aws_runner: AwsRunner, change: str
) -> None:
    table = pa.table({"k": [f"u{n % 9}" for n in range(200)], "x": list(range(200))})
    job = Job(
        "split", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    _, remote = start_both(runner, aws_runner, job, things=table)
    remote.validate()
    manifest = remote.prepare("m", parts=1)
    (key,), (other,) = manifest.files[0], manifest.files[1]
    assert key != other
    data = bytearray(remote.store.get(key).to_pybytes())
    data[20] ^= 1
    changed = {
        "flipped": bytes(data),
        "cut": bytes(data[:-9]),
        "replaced by another batch": remote.store.get(other).to_pybytes(),
    }
    remote.store.delete(key) if change == "removed" else remote.store.put(key, changed[change])
    with pytest.raises(
        DamagedFile,
        match="is missing" if change == "removed" else "was replaced since it was written",
    ) as caught:
        remote.work("m")
    assert key in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["tables.json", "sources/things.objects.json"])
def test_a_damaged_object_of_a_run_is_named(
    runner: InProcessRunner, aws_runner: AwsRunner, name: str
) -> None:
    job = Job(
        "split", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    _, remote = start_both(runner, aws_runner, job, things=pa.table({"k": ["a"], "x": [1]}))
    remote.validate()
    key = f"{remote.layout.root}/{name}"
    text = remote.store.get(key).to_pybytes()
    remote.store.put(
        key, re.sub(rb"\d", lambda found: b"7" if found[0] != b"7" else b"6", text, count=1)
    )
    remote.store.delete(remote.layout.validation_result())
    remote.store.delete(remote.layout.source_validation_result("things"))
    with pytest.raises(DamagedFile, match=re.escape(name)):
        remote.prepare("m", parts=1)


def test_one_unit_may_have_very_many_rows(runner: InProcessRunner, aws_runner: AwsRunner) -> None:
    table = pa.table({"k": ["large"] * 100_000 + ["small"] * 3, "x": list(range(100_003))})
    job = Job(
        "large",
        sources=[Source("things")],
        models=[
            Model("m", unit=("k",), work=as_arrow_sum),
            Model("all_", unit=(), work=as_arrow_sum),
        ],
    )
    local, remote = start_both(runner, aws_runner, job, things=table)
    local.all(), remote.all(parts=1)
    for name in ("m", "all_"):
        assert remote.result_bytes(name) == local.result_bytes(name)


def test_a_query_without_rows_is_an_error(runner: InProcessRunner, aws_runner: AwsRunner) -> None:
    for unit in (("k",), ()):
        job = Job(
            "none",
            sources=[Source("things")],
            models=[
                Model("m", unit=unit, query="SELECT * FROM things WHERE x > 5", work=count_rows)
            ],
        )
        _, remote = start_both(runner, aws_runner, job, things=pa.table({"k": ["a"], "x": [1]}))
        remote.validate()
        with pytest.raises(QueryError, match="the query of m returns no row"):
            remote.prepare("m")


def test_rows_lost_between_count_and_split_are_an_error(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    job = Job("lost", sources=[Source("things")], models=[Model("m", unit=("k",), work=count_rows)])
    _, remote = start_both(
        runner, aws_runner, job, things=pa.table({"k": ["a", "b", "c"] * 5, "x": list(range(15))})
    )
    remote.validate()
    run_statement = aws_runner.run_statement

    def lose_an_object(pending: QueryPending, execution: str = "e1") -> QueryReply:
        reply = run_statement(pending, execution)
        if "bucketed_by" in pending.sql:
            lost = next(iter(aws_runner.store.list(f"processing/{remote.layout.run}/m/all/")))
            aws_runner.store.delete(lost)
        return reply

    aws_runner.run_statement = lose_an_object  # type: ignore[method-assign]
    try:
        with pytest.raises(
            HundredfoldError,
            match=(
                r"m: 1 of \d+ batches hold other rows than counted|cannot continue: of the \d+ "
                r"objects"
            ),
        ):
            remote.prepare("m", parts=1)
    finally:
        aws_runner.run_statement = run_statement  # type: ignore[method-assign]


# ---- attempts


def test_a_repeated_model_reads_the_new_results_of_earlier_models(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    again = {"by": 1}

    def first(rows: Unit) -> dict[str, Any]:
        return {"y": int(rows["x"].sum()) * again["by"]}

    models = [
        Model("first", unit=("k",), work=first),
        Model("second", unit=("k",), query="SELECT k, y FROM first", work=handed_on),
    ]
    _, remote = start_both(
        runner,
        aws_runner,
        Job("again", sources=[Source("things")], models=models),
        things=pa.table({"k": ["a", "b"], "x": [1, 2]}),
    )
    remote.all()
    before = remote.result_bytes("second")
    again["by"] = 10
    for name in ("first", "second"):
        remote.store.delete(remote.layout.model(name))
    remote.attempt = 2
    remote.model("first"), remote.model("second")
    assert [(row["k"], row["y"]) for row in remote.results("second").to_pylist()] == [
        ("a", 10),
        ("b", 20),
    ]
    assert remote.result_bytes("second") != before


def test_a_run_with_expired_tables_is_an_error(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    job = Job(
        "old",
        sources=[Source("things", unique=("x",))],
        models=[Model("m", unit=("k",), work=count_rows)],
    )
    _, remote = start_both(
        runner, aws_runner, job, things=pa.table({"k": ["a", "b", "b"], "x": [1, 2, 2]})
    )
    remote.validate()
    aws_runner.store.delete(f"processing/{remote.layout.run}")
    with pytest.raises(
        StateError, match=r"cannot continue: of the \d+ objects that it stored at s3://.*, found 0"
    ):
        remote.prepare("m")
