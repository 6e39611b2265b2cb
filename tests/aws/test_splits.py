"""Batches that Athena writes, and rounds that read what those before them made."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Source, Unit
from hundredfold.errors import DamagedFile, HundredfoldError, QueryError, StateError
from support.in_process import InProcessRunner
from support.in_process_aws import Afar, QueryPending, both


def as_arrow_sum(rows: Unit) -> dict[str, Any]:
    return {"sum": int(rows["x"].sum())}


def count_rows(rows: Unit) -> dict[str, Any]:
    return {"n": rows.rows}


def handed_on(rows: Unit) -> dict[str, Any]:
    return {"y": int(rows["y"][0])}


# ---- batches


def test_where_athena_refuses_so_many_buckets_they_are_written_in_several_statements(
    runner: InProcessRunner, afar: Afar
) -> None:
    table = pa.table({"k": [f"u{n % 260:03d}" for n in range(1000)], "x": list(range(1000))})
    job = Job(
        "split", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    here, there = both(runner, afar, job, things=table)
    here.all()
    there.validate()
    before = len(afar.queries)
    with afar.emulator.settings(open_writers=100):
        manifest = there.prepare("m", parts=20)
    created = [sql for sql in afar.queries[before:] if "bucketed_by" in sql]
    assert [re.findall(r"bucket_count = (\d+)", sql) for sql in created] == [
        [str(len(manifest.batches))],
        ["100"],
        ["100"],
        ["100"],
    ]
    assert 200 < len(manifest.batches) <= 300
    there.work("m"), there.collect("m")
    assert there.result_bytes("m") == here.result_bytes("m")


def test_a_batch_may_lie_in_several_objects_and_an_object_may_hold_several(
    runner: InProcessRunner, afar: Afar
) -> None:
    table = pa.table({"k": [f"u{n % 9}" for n in range(200)], "x": list(range(200))})
    job = Job(
        "split", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    here, there = both(runner, afar, job, things=table)
    here.all()
    there.validate()
    manifest = there.prepare("m", parts=1)
    rows = [
        pq.read_table(pa.BufferReader(there.store.get(key)))
        for keys in manifest.files
        for key in keys
    ]
    whole = pa.concat_tables(rows)
    assert len(manifest.batches) > 3
    assert whole.num_rows == 200
    for number, start in enumerate((0, 70)):  # as another writer might have cut them
        with there.store.writing(f"processing/{there.layout.run}/m/all/other-{number}") as path:
            pq.write_table(whole.slice(start, 70 if not start else 130), path)
    keys = tuple(f"processing/{there.layout.run}/m/all/other-{number}" for number in range(2))
    there.store.put(
        there.layout.manifest("m"),
        replace(manifest, files=(keys,) * len(manifest.batches), marks=()).text(
            there.layout.manifest("m")
        ),
    )
    there.work("m"), there.collect("m")
    assert there.result_bytes("m") == here.result_bytes("m")


@pytest.mark.parametrize("change", ["flipped", "cut", "replaced by another batch", "removed"])
def test_an_object_of_a_batch_that_changed_is_not_read(
    runner: InProcessRunner, afar: Afar, change: str
) -> None:
    table = pa.table({"k": [f"u{n % 9}" for n in range(200)], "x": list(range(200))})
    job = Job(
        "split", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    _, there = both(runner, afar, job, things=table)
    there.validate()
    manifest = there.prepare("m", parts=1)
    (key,), (other,) = manifest.files[0], manifest.files[1]
    assert key != other
    data = bytearray(there.store.get(key).to_pybytes())
    data[20] ^= 1
    changed = {
        "flipped": bytes(data),
        "cut": bytes(data[:-9]),
        "replaced by another batch": there.store.get(other).to_pybytes(),
    }
    there.store.delete(key) if change == "removed" else there.store.put(key, changed[change])
    with pytest.raises(
        DamagedFile,
        match="is missing" if change == "removed" else "was replaced since it was written",
    ) as caught:
        there.work("m")
    assert key in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["tables.json", "sources/things.objects.json"])
def test_a_damaged_note_of_a_run_is_named(runner: InProcessRunner, afar: Afar, name: str) -> None:
    job = Job(
        "split", sources=[Source("things")], models=[Model("m", unit=("k",), work=as_arrow_sum)]
    )
    _, there = both(runner, afar, job, things=pa.table({"k": ["a"], "x": [1]}))
    there.validate()
    key = f"{there.layout.root}/{name}"
    text = there.store.get(key).to_pybytes()
    there.store.put(
        key, re.sub(rb"\d", lambda found: b"7" if found[0] != b"7" else b"6", text, count=1)
    )
    (
        there.store.delete(there.layout.verdict()),
        there.store.delete(there.layout.source_validation_result("things")),
    )
    with pytest.raises(DamagedFile, match=re.escape(name)):
        there.prepare("m", parts=1)


def test_one_unit_may_have_very_many_rows(runner: InProcessRunner, afar: Afar) -> None:
    table = pa.table({"k": ["large"] * 100_000 + ["small"] * 3, "x": list(range(100_003))})
    job = Job(
        "large",
        sources=[Source("things")],
        models=[
            Model("m", unit=("k",), work=as_arrow_sum),
            Model("all_", unit=(), work=as_arrow_sum),
        ],
    )
    here, there = both(runner, afar, job, things=table)
    here.all(), there.all(parts=1)
    for name in ("m", "all_"):
        assert there.result_bytes(name) == here.result_bytes(name)


def test_a_query_that_gives_no_row_is_told(runner: InProcessRunner, afar: Afar) -> None:
    for unit in (("k",), ()):
        job = Job(
            "none",
            sources=[Source("things")],
            models=[
                Model("m", unit=unit, query="SELECT * FROM things WHERE x > 5", work=count_rows)
            ],
        )
        _, there = both(runner, afar, job, things=pa.table({"k": ["a"], "x": [1]}))
        there.validate()
        with pytest.raises(QueryError, match="the query of m gives no row"):
            there.prepare("m")


def test_rows_that_are_lost_between_count_and_split_are_told(
    runner: InProcessRunner, afar: Afar
) -> None:
    job = Job("lost", sources=[Source("things")], models=[Model("m", unit=("k",), work=count_rows)])
    _, there = both(
        runner, afar, job, things=pa.table({"k": ["a", "b", "c"] * 5, "x": list(range(15))})
    )
    there.validate()
    asked = afar.ran

    def ran(statement: QueryPending, execution: str = "e1") -> Any:
        heard = asked(statement, execution)
        if "bucketed_by" in statement.sql:
            lost = next(iter(afar.store.list(f"processing/{there.layout.run}/m/all/")))
            afar.store.delete(lost)
        return heard

    afar.ran = ran  # type: ignore[method-assign]
    try:
        with pytest.raises(
            HundredfoldError,
            match=(
                r"m: 1 of \d+ batches hold other rows than were counted|cannot go on: of the \d+ "
                r"objects"
            ),
        ):
            there.prepare("m", parts=1)
    finally:
        afar.ran = asked  # type: ignore[method-assign]


# ---- rounds


def test_a_model_that_is_done_again_reads_the_new_results_of_those_before_it(
    runner: InProcessRunner, afar: Afar
) -> None:
    again = {"by": 1}

    def first(rows: Unit) -> dict[str, Any]:
        return {"y": int(rows["x"].sum()) * again["by"]}

    models = [
        Model("first", unit=("k",), work=first),
        Model("second", unit=("k",), query="SELECT k, y FROM first", work=handed_on),
    ]
    _, there = both(
        runner,
        afar,
        Job("again", sources=[Source("things")], models=models),
        things=pa.table({"k": ["a", "b"], "x": [1, 2]}),
    )
    there.all()
    before = there.result_bytes("second")
    again["by"] = 10
    for name in ("first", "second"):
        there.store.delete(there.layout.model(name))
    there.attempt = 2
    there.model("first"), there.model("second")
    assert [(row["k"], row["y"]) for row in there.results("second").to_pylist()] == [
        ("a", 10),
        ("b", 20),
    ]
    assert there.result_bytes("second") != before


def test_a_run_whose_tables_have_expired_says_so(runner: InProcessRunner, afar: Afar) -> None:
    job = Job(
        "old",
        sources=[Source("things", unique=("x",))],
        models=[Model("m", unit=("k",), work=count_rows)],
    )
    _, there = both(runner, afar, job, things=pa.table({"k": ["a", "b", "b"], "x": [1, 2, 2]}))
    there.validate()
    afar.store.delete(f"processing/{there.layout.run}")
    with pytest.raises(
        StateError, match=r"cannot go on: of the \d+ objects that it kept at s3://.* there are 0"
    ):
        there.prepare("m")
