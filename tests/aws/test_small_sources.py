"""Small sources on AWS: one function runs the queries with DuckDB, in place of Athena.

The results are those of a local run, to the byte; and so are the rejected rows and the findings,
which name the objects by their addresses.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated_types import Ge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.aws.adapters.s3_duckdb import S3DuckWarehouse
from hundredfold.aws.stage_order import later_stages
from hundredfold.aws.tags import BATCH_TAG_NAME, BATCH_TAG_VALUE
from hundredfold.aws.warehouse_choice import choose_warehouse
from hundredfold.cli.display import TimingDisplay
from hundredfold.errors import HundredfoldError, SourceError, UsageError
from hundredfold.pipeline.stages import stages
from hundredfold.planning.comparison import compare_run
from hundredfold.planning.plan import PlanOptions
from support.emulator import Emulator
from support.in_process import InProcessRun, InProcessRunner
from support.in_process_aws import AwsRunner, SmallRun
from support.stacks import Stack, Tasks, account, trouble

__all__ = ["account", "trouble"]

Write = Callable[[Path, list[dict[str, Any]]], None]


@dataclass
class Sale:
    shop: str
    day: int
    price: Annotated[float, Ge(0)]


def total(rows: Any) -> dict[str, Any]:
    return {"days": len(rows["day"]), "sum": float(rows["price"].sum()), "first": rows["day"][0]}


def last_time(rows: Any) -> dict[str, Any]:
    return {"moment": rows["moment"][0], "n": int(rows["n"][0])}


def spread(rows: Any) -> dict[str, Any]:
    return {"most": float(rows["sum"].max()), "shops": len(rows["shop"])}


SALES = Job(
    "sales",
    [Source("sales", Sale, max_rejected=1.0, unique=("shop", "day"))],
    [
        Model("totals", unit=("shop",), order_by=("day",), work=total),
        Model("whole", unit=(), query="SELECT * FROM totals", work=spread),
    ],
    Publish("shops", "SELECT t.*, w.most FROM totals AS t CROSS JOIN whole AS w"),
)


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(f"{row['shop']},{row['day']},{row['price']}\n" for row in rows)
    (folder / "sales.csv").write_text("shop,day,price\n" + text)


def write_gzip(folder: Path, rows: list[dict[str, Any]]) -> None:
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        text = "".join(f"{row['shop']},{row['day']},{row['price']}\n" for row in part)
        data = gzip.compress(("shop,day,price\n" + text).encode(), mtime=0)
        (folder / f"part-{number}.csv.gz").write_bytes(data)


def write_json(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "sales.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> None:
    for number in range(2):
        pq.write_table(pa.Table.from_pylist(rows[number::2]), folder / f"{number}.parquet")


def write_folders(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write a file for each shop, in folders that give its name."""
    for shop in sorted({row["shop"] for row in rows}):
        location = folder / f"shop={shop}"
        location.mkdir()
        part = pa.Table.from_pylist([row for row in rows if row["shop"] == shop])
        pq.write_table(part.drop_columns(["shop"]), location / "rows.parquet")


FORMS: dict[str, Write] = {
    "csv": write_csv,
    "gzip": write_gzip,
    "json": write_json,
    "parquet": write_parquet,
    "folders": write_folders,
}
ROWS = [
    {"shop": f"s{n % 7}", "day": n // 7, "price": -1.0 if n == 11 else n / 4} for n in range(300)
]


def both(
    runner: InProcessRunner, aws_runner: AwsRunner, job: Job, folder: Path
) -> tuple[InProcessRun, SmallRun]:
    here, there = runner.start(job, sales=folder), aws_runner.start_small(job, sales=folder)
    there.layout = here.layout = type(here.layout)(f"r-{uuid4().hex[:8]}")
    return here, there


def findings(run: InProcessRun) -> list[tuple[Any, ...]]:
    """Return the findings about the only source, without the names of its files."""
    [result] = run.validate()
    return [(f.column, f.message, f.rows, f.row) for f in result.findings]


def counts(run: InProcessRun) -> Any:
    [result] = run.validate()
    return result.counts


@pytest.mark.parametrize("form", FORMS)
def test_small_sources_give_the_bytes_of_a_local_run(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "sales"
    folder.mkdir()
    FORMS[form](folder, ROWS)
    here, there = both(runner, aws_runner, SALES, folder)
    asked = len(aws_runner.queries)
    for run in (here, there):
        run.all(parts=2)
        run.publish()
    assert counts(there) == counts(here)
    assert counts(there)["rejected"] == 1
    assert findings(there) == findings(here)
    for model in ("totals", "whole"):
        assert there.result_bytes(model) == here.result_bytes(model)
        assert there.results(model).equals(here.results(model))
    rejected = there.rejects("sales")
    assert [row["__reason"] for row in rejected] == [
        row["__reason"] for row in here.rejects("sales")
    ]
    assert all(row["__file"].startswith("s3://") for row in rejected)
    assert len(aws_runner.queries) == asked  # Athena was not asked


def test_queries_and_times_need_no_equivalent_in_athena(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path
) -> None:
    day = dt.datetime(2026, 1, 1, 12, 0, 0, 123456)  # finer than Athena's milliseconds
    pq.write_table(pa.table({"shop": ["a", "a"], "moment": [day, day]}), tmp_path / "s.parquet")
    query = "SELECT shop, max(moment) AS moment, count(*) AS n FROM sales GROUP BY ALL"
    job = Job("fine", [Source("sales")], [Model("m", ("shop",), last_time, query)])
    here, there = both(runner, aws_runner, job, tmp_path / "s.parquet")
    for run in (here, there):
        run.all()
    assert there.results("m").to_pylist() == [{"shop": "a", "moment": day, "n": 2}]
    assert there.result_bytes("m") == here.result_bytes("m")


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "shop": st.sampled_from(["a", "b", 'c"', ""]),
                "day": st.integers(0, 5) | st.just("x"),
                "price": st.sampled_from([0.5, -1, "", "1e400", 7]),
            }
        ),
        min_size=1,
        max_size=20,
    )
)
def test_small_text_is_validated_as_by_a_local_run(
    runner: InProcessRunner,
    aws_runner: AwsRunner,
    tmp_path: Path,
    rows: list[dict[str, Any]],
) -> None:
    write_csv(tmp_path, [{"shop": "good", "day": 1, "price": 1.5}, *rows])
    here, there = both(runner, aws_runner, SALES, tmp_path / "sales.csv")
    assert counts(there) == counts(here)
    assert findings(there) == findings(here)
    local, remote = here.accepted("sales"), there.accepted("sales")
    assert sorted(map(str, remote)) == sorted(map(str, local))


def test_batches_expire_by_a_tag(
    runner: InProcessRunner, aws_runner: AwsRunner, aws_env: Emulator, tmp_path: Path
) -> None:
    write_csv(tmp_path, ROWS)
    _, there = both(runner, aws_runner, SALES, tmp_path / "sales.csv")
    there.validate()
    manifest = there.prepare("totals", parts=1)
    s3 = aws_env.client("s3")

    def tags(key: str) -> dict[str, str]:
        found = s3.get_object_tagging(Bucket=aws_runner.resources.bucket, Key=key)
        return {tag["Key"]: tag["Value"] for tag in found["TagSet"]}

    assert len(manifest.batches) > 1
    for batch in manifest.batches:
        key = there.layout.batch("totals", batch.number)
        assert tags(key) == {BATCH_TAG_NAME: BATCH_TAG_VALUE}
    assert tags(there.layout.manifest("totals")) == {}
    assert tags(there.layout.units("totals")) == {}


def test_a_damaged_object_is_named_by_its_address(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path
) -> None:
    write_parquet(tmp_path, ROWS)
    broken = tmp_path / "1.parquet"
    broken.write_bytes(broken.read_bytes()[:-40] + b"x" * 36 + b"PAR1")
    _, there = both(runner, aws_runner, SALES, tmp_path)
    with pytest.raises(HundredfoldError) as found:
        there.validate()
    text = f"{found.value} {found.value.hint}"
    assert "/1.parquet" in text
    assert "s3://" in text
    assert str(there.runner.folder) not in text


def test_memory_that_runs_out_names_athena(aws_runner: AwsRunner, tmp_path: Path) -> None:
    run = aws_runner.start_small(SALES)
    wide = "SELECT list(r1.range || '-' || r2.range) AS x FROM range(9000) r1, range(9000) r2"
    with (
        S3DuckWarehouse(
            aws_runner.store, run.layout, tmp_path / "scratch", memory=2**27, threads=1
        ) as warehouse,
        pytest.raises(HundredfoldError) as found,
    ):
        warehouse.query(wide)
    assert "memory" in str(found.value)
    assert "--warehouse athena" in str(found.value.hint)


# ---- the choice


def test_the_warehouse_is_chosen_by_the_size_of_the_sources(
    aws_runner: AwsRunner, tmp_path: Path
) -> None:
    write_csv(tmp_path, ROWS)
    size = (tmp_path / "sales.csv").stat().st_size
    address = aws_runner.upload("choice", "sales", tmp_path / "sales.csv")
    job = Job("one", [Source("sales")], SALES.models[:1])

    def chosen(memory_mb: int, wanted: str = "auto", location: str = address) -> tuple[str, str]:
        found = choose_warehouse(wanted, job, {"sales": location}, memory_mb)
        return found.warehouse, found.reason

    assert size > 2**10
    assert chosen(3008)[0] == "duckdb"
    assert chosen(0)[0] == "athena"
    assert chosen(0, "duckdb") == ("duckdb", "as requested")
    assert chosen(3008, "athena") == ("athena", "as requested")
    assert chosen(3008, location="glue://db/table") == ("athena", "sales is a Glue table")
    with pytest.raises(SourceError):
        chosen(3008, location=address.replace("choice", "nowhere"))


def test_a_glue_table_needs_athena(aws_runner: AwsRunner) -> None:
    run = aws_runner.start_small(SALES, sales="glue://db/table")
    with pytest.raises(SourceError, match="only Athena reads") as found:
        run.validate()
    assert "--warehouse" in str(found.value.hint)


def test_an_unknown_warehouse_is_refused(trouble: Stack, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="auto or duckdb or athena"):
        trouble.run(Tasks.write(tmp_path, ["fine"]), "odd", warehouse="oracle")
    with pytest.raises(UsageError, match="--warehouse"):
        hundredfold.run(SALES, {"sales": tmp_path}, warehouse="duckdb", home=tmp_path / "home")


# ---- whole runs on a deployed stack


def steps_of(stack: Stack, run: str) -> list[tuple[str, str]]:
    """Return the step that each call was asked for, and its reply."""
    lines = [json.loads(line) for line in stack.log_events("Step") if line.startswith("{")]
    return [
        (line["step"], line["action"])
        for line in lines
        if line.get("run") == run and line["message"] == "step"
    ]


def test_a_small_run_takes_few_calls_and_no_query(trouble: Stack, tmp_path: Path) -> None:
    tasks, name = Tasks.write(tmp_path, ["fine"] * 30), f"small-{uuid4().hex[:6]}"
    planned: dict[str, Any] = {
        "way": "lambda-fat-mapping",
        "title": "Lambda fat",
        "wall": [9.0, 12.0, 15.0],
        "start": 0,
        "stages": {"work doubled": 4.0, "work summed": 2.0, "other steps": 6.0},
        "slots": 9,
        "dollars": None,
        "batches": 8,
        "memory": 1769 * trouble.home.resources.cores,
        "timeout": 60,
        "pollers": None,
        "deployable": True,
    }
    file = tmp_path / "plan.json"
    for way in ("lambda-fat-direct", "lambda-fat-mapping"):
        facts = {"job": "trouble", "models": [{}, {}], "choice": way, "ways": [planned]}
        file.write_text(json.dumps({**facts, "ways": [{**planned, "way": way}]}))
        if way == "lambda-fat-direct":
            with pytest.raises(UsageError, match="trigger: the plan has direct, the stack messag"):
                trouble.run(tasks, name, warehouse="auto", plan=file)
    done = trouble.run(tasks, name, warehouse="auto", plan=file)
    record = trouble.record(name)
    compared = compare_run(trouble.home, name, PlanOptions(), TimingDisplay())
    assert [row["stage"] for row in compared["stages"]] == [*planned["stages"]]
    assert all(row["measured"] > 0 for row in compared["stages"])
    shown = trouble.cli("status", name).out
    assert "  efficiency " in shown
    assert "queries: duckdb (the sources have 0.0 MiB, of the 250 MiB that one" in shown
    assert record.options["warehouse"] == "duckdb"
    assert "of the 250 MiB that one function reads" in record.options["warehouse_reason"]
    calls = steps_of(trouble, name)
    # one call from validate to enqueue for the first model, the polls of each model, and the last
    # poll goes on to the next model or to the release
    assert calls[0] == ("validate", "to work doubled")
    assert {step for step, _ in calls[1:]} == {"work"}
    assert calls[-1] == ("work", "to the end")
    assert {f: done.published(format=f).read_bytes() for f in ("csv", "parquet")} == (
        tasks.local_release(name)
    )


def test_a_budget_ends_a_run_that_resumes_with_a_higher_one(trouble: Stack, tmp_path: Path) -> None:
    tasks, name = Tasks.write(tmp_path, ["fine"] * 4), f"budget-{uuid4().hex[:6]}"
    with pytest.raises(UsageError, match="wanted dollars above 0"):
        trouble.run(tasks, name, warehouse="duckdb", budget="30m")
    with pytest.raises(HundredfoldError, match=r"the budget of 0\.000001 dollars is spent") as end:
        trouble.run(tasks, name, warehouse="duckdb", batches=4, budget=0.000001)
    assert f"resume {name} --budget AMOUNT --backend aws --stack" in str(end.value.hint)
    assert trouble.record(name).state.value == "failed"
    done = hundredfold.resume(name, backend="aws", stack=trouble.name, budget=5)
    assert 0.000001 <= trouble.record(name).counts["spent"] < 5
    assert {f: done.published(format=f).read_bytes() for f in ("csv", "parquet")} == (
        tasks.local_release(name)
    )


def test_failed_units_of_a_small_run_are_retried(trouble: Stack, tmp_path: Path) -> None:
    tasks, name = (
        Tasks.write(tmp_path, ["fine", "raise", "fine", "segfault"]),
        f"s-{uuid4().hex[:6]}",
    )
    trouble.run(tasks, name, warehouse="duckdb", batches=2, max_failed=2)
    expected = tasks.local_release(name)
    done = hundredfold.retry(name, backend="aws", stack=trouble.name)
    assert {f: done.published(format=f).read_bytes() for f in ("csv", "parquet")} == expected
    assert trouble.record(name).options["warehouse"] == "duckdb"


def test_expired_batches_end_a_retry(trouble: Stack, tmp_path: Path) -> None:
    tasks, name = Tasks.write(tmp_path, ["fine", "raise"]), f"gone-{uuid4().hex[:6]}"
    trouble.run(tasks, name, warehouse="duckdb", max_failed=1)
    tasks.fix()
    trouble.home.store.delete(f"runs/{name}/models/doubled/batches")
    with pytest.raises(HundredfoldError, match="of the 2 batches of doubled, found 0"):
        hundredfold.retry(name, backend="aws", stack=trouble.name)


def test_a_call_may_stop_at_any_later_stage_up_to_the_next_work() -> None:
    every = list(stages(SALES))
    at = {
        str(stage): [str(s) if s else "end" for s in later_stages(SALES, stage)] for stage in every
    }
    assert at["validate"] == ["prepare totals", "enqueue totals", "work totals"]
    assert at["work totals"] == ["collect totals", "prepare whole", "enqueue whole", "work whole"]
    assert at["work whole"] == ["collect whole", "publish", "end"]
    assert at["publish"] == ["end"]
