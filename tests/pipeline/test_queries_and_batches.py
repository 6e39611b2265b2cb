"""A model's query: its errors have the cause, and its rows are packed into even, limited
batches.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Source, Unit
from hundredfold.errors import HomeError, QueryError
from hundredfold.sql.queries import UNIT_COST, make_batches
from support.in_process import InProcessRun, InProcessRunner

ROWS = pa.table({"shop": ["a", "a", "b"], "week": [1, 2, 1], "x": [1.0, 2.0, 3.0]})


def count(rows: Unit) -> dict[str, Any]:
    return {"rows": rows.rows}


def runner_of(
    runner: InProcessRunner, query: str | None, rows: pa.Table = ROWS, **declared: Any
) -> InProcessRun:
    model = Model("m", **{"unit": ("shop",), "work": count, "query": query, **declared})
    return runner.start(Job("one", sources=[Source("sales")], models=[model]), sales=rows)


WRONG = [
    (
        "SELECT * FROM sails",
        {},
        "model m: its query reads sails, which is neither a source nor an earlier model",
    ),
    ("SELECT * FROM m", {}, "model m: its query reads m, which is neither a source"),
    ("SELECT * FROM sales WHERE shop = 'q'", {}, "the query of m returns no row"),
    (
        "SELECT week FROM sales",
        {},
        r"the query of m gives week; not among them:\n  shop: named by unit",
    ),
    (
        "SELECT shop FROM sales",
        {"order_by": ("week",)},
        r"gives shop; not among them:\n  week: named by order_by",
    ),
    ("SELECT * FROM sales; SELECT 1", {}, "wanted one query, found 2 statements"),
    ("DELETE FROM sales", {}, "not a query"),
    ("CREATE TABLE t AS SELECT 1", {}, "not a query"),
    (
        "SELECT\n  shop,\n  wek\nFROM sales",
        {},
        r"(?s)the query of m cannot run: .*\"?wek\"?.*LINE 3",
    ),
    ("SELECT shop,\n  FROM FROM sales", {}, r"(?s)not a query: .*line 2"),
    ("SELECT shop, week AS __x FROM sales", {}, "columns that cannot be used: __x"),
    ("SELECT [shop] AS shop FROM sales", {}, "columns of lists, structs or intervals: shop"),
    (
        "SELECT shop, CAST(shop AS INTEGER) AS n FROM sales",
        {},
        "(?s)Conversion Error.*Could not convert string 'a'",
    ),
]


@pytest.mark.parametrize(("query", "declared", "message"), WRONG)
def test_the_error_of_a_query_has_its_cause(
    runner: InProcessRunner, query: str, declared: dict[str, Any], message: str
) -> None:
    run = runner_of(runner, query, **declared)
    with pytest.raises(QueryError, match=message) as caught:
        run.all()
    assert caught.value.hint or "LINE" in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM sales",
        "SELECT * FROM sales;",
        "SELECT * FROM sales -- all of them",
        "SELECT * FROM sales; -- all of them\n",
        "-- all\nWITH s AS (SELECT * FROM sales) SELECT * FROM s /* yes */ ;\n",
        "FROM sales",
        "SELECT s.* FROM sales s JOIN sales t USING (shop, week) ORDER BY s.x",
        "SELECT shop, week, avg(x) AS x FROM sales GROUP BY ALL",
        "WITH sales AS (SELECT * FROM sales) SELECT * FROM sales",
        "WITH Every AS (SELECT * FROM sales), s AS (FROM every) SELECT * FROM s",
    ],
)
def test_a_query_may_be_written_in_any_way(runner: InProcessRunner, query: str) -> None:
    run = runner_of(runner, query)
    run.all()
    assert run.results("m").to_pylist() == [{"shop": "a", "rows": 2}, {"shop": "b", "rows": 1}]


@pytest.mark.parametrize(
    "kind",
    [
        "ENUM('a', 'b')",
        "UUID",
        "INTERVAL",
        "HUGEINT",
        "UTINYINT",
        "FLOAT",
        "TIMESTAMP_NS",
        "TIMESTAMPTZ",
        "TIME",
        "BLOB",
        "MAP(VARCHAR, INTEGER)",
        "STRUCT(a INTEGER)",
        "DECIMAL(38, 3)",
    ],
)
@pytest.mark.parametrize("as_key", [False, True])
def test_columns_of_every_type_come_through(
    runner: InProcessRunner, kind: str, as_key: bool
) -> None:
    value = {
        "ENUM('a', 'b')": "shop",
        "UUID": "'00000000-0000-0000-0000-00000000000' || week",
        "BLOB": "'ab'",
        "INTERVAL": "INTERVAL 1 DAY * week",
        "TIMESTAMP_NS": "TIMESTAMP '2020-01-01 00:00:01'",
        "TIMESTAMPTZ": "TIMESTAMP '2020-01-01 00:00:01'",
        "TIME": "TIME '01:02:03'",
        "MAP(VARCHAR, INTEGER)": "MAP {'a': 1}",
        "STRUCT(a INTEGER)": "{'a': 1}",
    }.get(kind, "week")
    if as_key and kind.startswith(("MAP", "STRUCT", "INTERVAL")):
        pytest.skip("no key")
    query = f"SELECT 1 AS one, week % 2 AS odd, CAST({value} AS {kind}) AS v FROM sales"
    work = lambda rows: {"seen": [str(v) for v in rows["v"]], "rows": rows.rows}  # noqa: E731
    run = runner_of(
        runner, query, unit=("v",) if as_key else ("one",), work=work, order_by=("odd",)
    )
    run.all()
    assert run.failures("m") == []
    assert sum(row["rows"] for row in run.results("m").to_pylist()) == 3


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    "form", ["pandas.DataFrame", "polars.DataFrame", "pyarrow.Table", "dict", "hundredfold.Unit"]
)
def test_a_query_with_only_the_key_works_in_every_row_form(
    runner: InProcessRunner, form: str, many: bool
) -> None:
    def work(rows: Any) -> dict[str, Any]:
        if many:
            return {
                "n": np.diff(rows.offsets)
                if hasattr(rows, "offsets")
                else np.unique(np.asarray(rows["shop"]), return_counts=True)[1]
            }
        return {"n": len(rows["shop"])}

    work.__annotations__["rows"] = form
    run = runner_of(runner, "SELECT shop FROM sales", work=work, batched=many).all()
    assert run.failures("m") == []
    assert run.results("m").select(["shop", "n"]).to_pylist() == [
        {"shop": "a", "n": 2},
        {"shop": "b", "n": 1},
    ]


def test_both_zeros_are_one_key_and_every_nan_is_one(runner: InProcessRunner) -> None:
    rows = pa.table({"shop": [0.0, -0.0, math.nan, -math.nan, None, 1.0]})
    run = runner_of(runner, None, rows)
    run.all()
    found = run.results("m")
    assert [str(v) for v in found.column("shop").to_pylist()] == ["0.0", "1.0", "nan", "None"]
    assert found.column("rows").to_pylist() == [2, 1, 2, 1]


def test_a_query_that_depends_on_chance_is_stored_so_that_it_runs_once(
    runner: InProcessRunner,
) -> None:
    query = "SELECT shop, x FROM sales, range(2000) WHERE random() < 0.5"
    run = runner_of(runner, query)
    run.validate()
    manifest = run.prepare("m")
    assert sum(batch.rows for batch in manifest.batches) == manifest.rows


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM sales WHERE random() < 0.5",
        "SELECT * FROM sales WHERE x + random() < 0.5",
        "SELECT * FROM sales TABLESAMPLE SYSTEM(50 PERCENT)",
        "SELECT * FROM sales USING SAMPLE 50 PERCENT (bernoulli)",
    ],
)
def test_rows_that_depend_on_chance_are_drawn_once(runner: InProcessRunner, query: str) -> None:
    size = 20_000
    rows = pa.table({"shop": [f"s{n % 50}" for n in range(size)], "x": np.zeros(size)})
    found = runner_of(runner, query, rows).all().results("m")
    assert 0 < sum(found.column("rows").to_pylist()) < size


def test_a_second_prepare_returns_the_existing_manifest(runner: InProcessRunner) -> None:
    run = runner_of(runner, "SELECT *, random() AS chance FROM sales")
    run.validate()
    assert run.prepare("m") == run.prepare("m", parts=50)


# --- packing
# --------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 60) | st.integers(1, 5000), min_size=1, max_size=200).map(
    lambda rows: np.array(rows, np.int64)
)


@settings(max_examples=200, deadline=None)
@given(rows=sizes, parts=st.integers(0, 60), most=st.integers(1, 3000))
def test_batches_cover_all_units_in_order_within_the_limit(
    rows: np.ndarray, parts: int, most: int
) -> None:
    batches = make_batches(rows, parts=parts, most_rows=most)
    share = max(float(rows.sum() + UNIT_COST * len(rows)) / max(parts, 1), UNIT_COST)
    assert [unit for b in batches for unit in range(b.first, b.last + 1)] == list(range(len(rows)))
    assert [b.number for b in batches] == list(range(len(batches)))
    for batch in batches:
        inside = rows[batch.first : batch.last + 1]
        giants = (inside + UNIT_COST >= share) | (inside >= most)
        assert batch.rows == inside.sum()
        assert batch.cost == inside.sum() + UNIT_COST * len(inside)
        if len(inside) > 1:
            assert batch.rows <= most
            assert batch.cost <= share * (1 + 1e-9)
            assert not giants.any()
    runs_between_giants = 1 + int(((rows + UNIT_COST >= share) | (rows >= most)).sum())
    by_cost = 2 * (rows.sum() + UNIT_COST * len(rows)) / share
    by_rows = 2 * rows.sum() / most
    assert len(batches) <= by_cost + by_rows + 2 * runs_between_giants + 1


def test_no_unit_is_no_batch() -> None:
    assert make_batches(np.array([], np.int64), parts=4, most_rows=10) == []


def test_batches_obey_their_limit_in_bytes_and_the_giant_is_alone(runner: InProcessRunner) -> None:
    sizes = [3] * 200 + [5000] + [3] * 200
    rows = pa.table(
        {"shop": np.repeat(np.arange(401), sizes), "x": np.arange(sum(sizes), dtype=float)}
    )
    run = runner_of(runner, None, rows)
    run.validate()
    manifest = run.prepare("m", batch_bytes=2**13)
    giant = manifest.batch_of(200)
    assert (giant.first, giant.last, giant.rows) == (200, 200, 5000)
    files = {
        b.number: run.store.get(run.layout.batch("m", b.number)).size for b in manifest.batches
    }
    assert max(size for number, size in files.items() if number != giant.number) <= 2**13
    run.work("m")
    assert run.collect("m").rows_in == sum(sizes)


def test_a_data_set_larger_than_the_memory_limit_is_split_within_it(tmp_path: Any) -> None:
    """48 million bytes of doubles go through a warehouse with 96 MiB, for an aggregate that needs
    more.
    """
    runner = InProcessRunner(tmp_path, memory=96 * 2**20)
    limit = runner.warehouse.query("SELECT current_setting('memory_limit') AS m").to_pylist()[0][
        "m"
    ]
    assert limit == "96.0 MiB"
    many = (
        "SELECT (i * 7919) % 50000 AS shop, i AS week, i * 0.5 AS x, i * 0.25 AS y FROM "
        "range(3000000) AS r(i)"
    )
    runner.warehouse.write(many, "big.parquet")
    query = "SELECT shop, week, sum(x) AS x, sum(y) AS y FROM sales GROUP BY shop, week"
    model = Model("m", unit=("shop",), query=query, work=count)
    run = runner.start(
        Job("one", sources=[Source("sales")], models=[model]),
        sales=runner.store.path("big.parquet"),
    )
    run.validate()
    manifest = run.prepare("m", parts=2, batch_bytes=2**21)
    assert (manifest.units, manifest.rows) == (50_000, 3_000_000)
    assert (
        max(run.store.get(run.layout.batch("m", b.number)).size for b in manifest.batches) <= 2**21
    )
    runner.close()


def test_a_row_group_that_is_too_large_is_named_with_a_hint(tmp_path: Any) -> None:
    runner, values = (
        InProcessRunner(tmp_path, memory=96 * 2**20),
        np.random.default_rng(1).random(60_000),
    )
    wide = pa.table({"shop": np.arange(60_000), **{f"c{number}": values for number in range(300)}})
    pq.write_table(wide, tmp_path / "wide.parquet", row_group_size=60_000, use_dictionary=False)
    model = Model("m", unit=("shop",), work=count)
    run = runner.start(
        Job("one", sources=[Source("sales")], models=[model]), sales=tmp_path / "wide.parquet"
    )
    with pytest.raises(HomeError, match="does not fit the memory limit") as caught:
        run.all()
    assert re.search(
        r"sales has a row group of 138 MiB \(.*wide\.parquet\)", str(caught.value.hint)
    )
    few = Model("m", unit=("shop",), query="SELECT shop, c7 FROM sales", work=count)
    run = runner.start(
        Job("one", sources=[Source("sales")], models=[few]), sales=tmp_path / "wide.parquet"
    )
    run.validate()
    assert run.prepare("m").units == 60_000
    runner.close()


# --- many units
# --------------------------------------------------------------------------------------------------


def test_more_units_than_the_memory_holds_are_refused(runner: InProcessRunner) -> None:
    run = runner_of(runner, "SELECT range AS shop FROM sales, range(50000)")
    run.validate()
    with pytest.raises(HomeError, match="m has 50,000 units") as caught:
        run.prepare("m", memory=2**20)
    assert "raise --memory" in str(caught.value.hint)
    assert run.prepare("m", memory=2**22).units == 50_000


def test_the_list_of_units_with_long_keys_is_never_held_whole(runner: InProcessRunner) -> None:
    """200,000 keys of 200 bytes: 40 MB, of which a few megabytes are in memory at a time."""
    query = (
        "SELECT lpad(CAST(i AS VARCHAR), 200, 'x') AS shop, x FROM sales, range(200000) AS r(i) "
        "WHERE x = 1"
    )
    run = runner_of(runner, query)
    run.validate()
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        manifest = run.prepare("m", parts=2)
    finally:
        pa.set_memory_pool(before)
    assert manifest.units == 200_000
    assert pool.max_memory() < 30_000_000


@pytest.mark.parametrize("rows_each", [0, 2, 1], ids=["none", "two", "one"])
def test_results_of_any_number_of_rows_have_the_keys_of_their_units(
    runner: InProcessRunner, rows_each: int
) -> None:
    def some(rows: Unit) -> dict[str, Any]:
        number = int(rows.key[0].removeprefix("shop "))
        return {"n": np.full((number + rows_each) % 3, number)}

    run = runner_of(
        runner, "SELECT 'shop ' || i AS shop FROM range(500) AS r(i), sales WHERE x = 1", work=some
    )
    run.validate()
    run.prepare("m", parts=3)
    run.work("m")
    run.collect("m")
    found = run.results("m")
    assert found.num_rows == sum((number + rows_each) % 3 for number in range(500))
    assert found.column("shop").to_pylist() == [
        f"shop {number}" for number in found.column("n").to_pylist()
    ]
