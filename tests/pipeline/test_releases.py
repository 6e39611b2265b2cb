"""A release is complete, versioned and made once, and the pointer moves atomically, forward and
back.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated_types import Gt

from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import PublishRefused, QueryError, SourceError, StateError
from hundredfold.pipeline.publish import check_limits
from hundredfold.pipeline.releases import Claimant, claim, current_version, releases, rollback
from support.in_process import AS_OF, InProcessRun, InProcessRunner


@dataclass
class Line:
    shop: str
    price: Annotated[float, Gt(0)]


ROWS = pa.table({"shop": ["b", "a"], "x": [2.0, 1.0]})
QUERY = "SELECT shop, price FROM prices ORDER BY shop"


def run_job(
    runner: InProcessRunner,
    name: str,
    query: str = QUERY,
    *,
    contract: type | None = Line,
    rows: pa.Table = ROWS,
    **more: Any,
) -> InProcessRun:
    job = Job(
        name,
        sources=[Source("sales")],
        models=[Model("prices", unit=("shop",), work=lambda rows: {"price": float(rows["x"][0])})],
        publish=Publish("table", query=query, contract=contract, **more),
    )
    return runner.start(job, sales=rows).all()


def test_a_release_has_its_files_with_their_sums_in_the_order_of_the_query(
    runner: InProcessRunner,
) -> None:
    run = run_job(runner, "files", formats=("parquet", "csv", "jsonl"))
    release = run.publish()
    assert release is not None
    assert (release.version, release.parent, dict(release.rows), release.as_of) == (
        1,
        None,
        {"table": 2},
        AS_OF,
    )
    for key, digest in release.files.items():
        assert hashlib.sha256(run.store.get(key)).hexdigest() == digest
    texts = {key.rsplit(".", 1)[1]: run.store.get(key).to_pybytes() for key in release.files}
    assert list(csv.reader(texts["csv"].decode().splitlines())) == [
        ["shop", "price"],
        ["a", "1.0"],
        ["b", "2.0"],
    ]
    assert [json.loads(line) for line in texts["jsonl"].splitlines()] == [
        {"shop": "a", "price": 1.0},
        {"shop": "b", "price": 2.0},
    ]


def test_versions_count_up_and_publishing_again_makes_none(runner: InProcessRunner) -> None:
    first, second = run_job(runner, "versions"), run_job(runner, "versions")
    versions = [run.publish().version for run in (first, second, first)]  # type: ignore[union-attr]
    assert versions == [1, 2, 1]
    assert [(r.version, r.parent) for r in releases("versions", runner.store)] == [
        (1, None),
        (2, 1),
    ]
    assert current_version("versions", runner.store) == 2
    assert first.publish(attempt=2).version == 3  # type: ignore[union-attr]  # after a retry


def test_a_run_that_was_killed_while_publishing_uses_its_claim(runner: InProcessRunner) -> None:
    run = run_job(runner, "swept")
    store = runner.store
    assert claim("swept", Claimant(run.layout.run, 1), 1, store)
    store.put("releases/swept/000001/table.parquet", b"half")
    store.put("releases/swept/000001/other.parquet", b"half")
    assert current_version("swept", store) is None
    release = run.publish()
    assert release is not None
    assert release.version == 1
    assert list(store.list("releases/swept/000001/")) == [
        "releases/swept/000001/release.json",
        "releases/swept/000001/table.parquet",
    ]


def test_another_run_takes_the_next_version_and_leaves_the_claim(runner: InProcessRunner) -> None:
    killed, other = run_job(runner, "left"), run_job(runner, "left")
    store = runner.store
    assert claim("left", Claimant(killed.layout.run, 1), 1, store)
    store.put("releases/left/000001/table.parquet", b"half")
    release = other.publish()
    assert release is not None
    assert (release.version, release.parent) == (2, None)
    assert store.get("releases/left/000001/table.parquet").to_pybytes() == b"half"
    resumed = killed.publish()
    assert resumed is not None
    assert (resumed.version, resumed.parent, current_version("left", store)) == (3, 2, 3)


def test_rollback_moves_the_pointer_and_the_next_release_builds_on_it(
    runner: InProcessRunner,
) -> None:
    for _ in range(3):
        run_job(runner, "back").publish()
    assert rollback("back", runner.store).version == 2
    assert rollback("back", runner.store).version == 1
    with pytest.raises(
        StateError, match="version 1 of back is current, and there is no release before it"
    ):
        rollback("back", runner.store)
    assert rollback("back", runner.store, to=3).version == 3
    with pytest.raises(
        StateError, match="version 3 of back is current, and there is no version 9; there is 1, 2"
    ):
        rollback("back", runner.store, to=9)
    rollback("back", runner.store)
    release = run_job(runner, "back").publish()
    assert release is not None
    assert (release.version, release.parent, current_version("back", runner.store)) == (4, 2, 4)


def test_there_is_nothing_to_roll_back_before_the_first_release(runner: InProcessRunner) -> None:
    with pytest.raises(StateError, match="never has no release"):
        rollback("never", runner.store)


def test_the_query_sees_the_run(runner: InProcessRunner) -> None:
    run = run_job(
        runner,
        "seen",
        "SELECT shop, price, run_id, job, as_of, table_version, parent_version FROM prices, run",
        contract=None,
    )
    release = run.publish()
    assert release is not None
    row = runner.warehouse.query(
        f"SELECT * FROM {runner.warehouse.read_parquet(next(iter(release.files)))} ORDER BY shop"
    ).to_pylist()[0]
    assert (
        row["run_id"],
        row["job"],
        str(row["as_of"]),
        row["table_version"],
        row["parent_version"],
    ) == (
        run.layout.run,
        "seen",
        AS_OF,
        1,
        None,
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "SELECT shop FROM prices",
            r"the columns of the query of .* are not those of Line\n  price: missing",
        ),
        ("SELECT shop, price, 1 AS one FROM prices", r"one: not in the contract"),
        ("SELECT shop, shop AS price FROM prices", r"price: wanted double, found string"),
        ("SELECT shop, prize FROM prices", "the query of table cannot run"),
    ],
)
def test_a_publishing_query_must_have_the_columns_of_the_contract(
    runner: InProcessRunner, query: str, message: str
) -> None:
    run = run_job(runner, "wrong", query)
    with pytest.raises(QueryError, match=message):
        run.publish()
    assert current_version("wrong", runner.store) is None


def test_rows_that_break_the_contract_are_not_published(runner: InProcessRunner) -> None:
    run = run_job(
        runner, "broken", "SELECT nullif(shop, 'a') AS shop, price - 1 AS price FROM prices"
    )
    with pytest.raises(
        PublishRefused,
        match=r"table is not published: its rows break Line\n"
        r"  shop must not be null: 1 row.*\n  price must be > 0: 1 row",
    ):
        run.publish()
    assert current_version("broken", runner.store) is None


def test_more_failures_than_allowed_hold_the_release_back(runner: InProcessRunner) -> None:
    job = Job(
        "held",
        sources=[Source("sales")],
        models=[
            Model(
                "prices",
                unit=("shop",),
                work=lambda rows: {"price": 1 / (rows["x"][0] - 1)} if rows["x"][0] > 1 else None,
            )
        ],
        max_failed=0.4,
    )
    run = runner.start(job, sales=ROWS).all()
    with pytest.raises(
        PublishRefused,
        match=r"held is held back: .*\n  prices: 1 of 2 units \(1 failed, 0 crashed\)",
    ):
        check_limits(job, list(run.collected.values()), "r")
    check_limits(job, list(run.collected.values()), "r", 1)
    check_limits(job, list(run.collected.values()), "r", 0.5)


def test_json_lines_of_a_run_hold_nan_and_infinity_as_texts(tmp_path: Path) -> None:
    import json

    import hundredfold

    values = {"a": 1.5, "b": float("nan"), "c": float("inf")}
    job = hundredfold.Job(
        "lines",
        sources=[hundredfold.Source("s")],
        models=[hundredfold.Model("m", unit=("k",), work=lambda rows: {"x": values[rows.key[0]]})],
        publish=hundredfold.Publish(
            "o",
            query="SELECT * FROM m ORDER BY k",
            formats=("jsonl",),
            summaries={"all": "SELECT * FROM o ORDER BY k"},
        ),
    )
    run = hundredfold.run(job, {"s": {"k": list(values)}}, home=tmp_path, workers=1)
    lines = run.published().read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["x"] for line in lines] == [
        1.5,
        "NaN",
        "Infinity",
    ]


@pytest.mark.parametrize(
    "columns",
    ["m.*, shop", "m.*, m.price + 1 AS SHOP", "m.*, m.price", "m.*, run.as_of, run.as_of AS As_Of"],
)
@pytest.mark.parametrize("formats", [("parquet",), ("csv",), ("jsonl",)], ids=str)
def test_a_column_that_is_published_twice_is_refused(
    runner: InProcessRunner, columns: str, formats: tuple[str, ...]
) -> None:
    run = run_job(
        runner, "twice", f"SELECT {columns} FROM prices AS m, run", contract=None, formats=formats
    )
    with pytest.raises(QueryError, match="has a column more than once: "):
        run.publish()
    assert current_version("twice", runner.store) is None


def test_a_column_twice_in_a_models_query_or_a_digest_is_refused(runner: InProcessRunner) -> None:
    model = Model(
        "m", unit=("shop",), query="SELECT s.*, s.x AS X FROM s", work=lambda rows: {"n": rows.rows}
    )
    run = runner.start(Job("j", sources=[Source("s")], models=[model]), s=ROWS)
    run.validate()
    with pytest.raises(QueryError, match="x, X"):
        run.prepare("m")
    run = run_job(runner, "told", summaries={"Most": 'SELECT t.*, t.shop FROM "table" AS t'})
    with pytest.raises(
        QueryError, match="the summary 'Most' of table has a column more than once: shop"
    ):
        run.publish()


@pytest.mark.parametrize("names", [["shop", "Price", "price"], ["shop", "price", "price"]])
def test_a_source_with_a_column_twice_is_refused(
    runner: InProcessRunner, tmp_path: Path, names: list[str]
) -> None:
    table = pa.table([["A"], [1], [2]], names=names)
    pq.write_table(table, tmp_path / "s.parquet")
    for location in (table, tmp_path / "s.parquet"):
        with pytest.raises(SourceError, match="has several columns named"):
            runner.source(Source("s"), location).validate()
