"""The difference of two tables, compared with a difference of Python dicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import NoSuchRun, UsageError
from hundredfold.local.filesystem import FileStore
from hundredfold.runs.difference import Side, Tolerance, compare_rows
from hundredfold.sql.duckdb import DuckWarehouse

SCHEMA = pa.schema(
    [
        ("shop", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("X", pa.int64()),
        ("inner", pa.list_(pa.int64())),
    ]
)
ROW = st.fixed_dictionaries(
    {
        "shop": st.sampled_from(["a", "b", "B", ""]) | st.none(),
        "n": st.integers(-2, 2) | st.none(),
        "x": st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-9, 2.0, math.inf, -math.inf, math.nan])
        | st.none(),
        "X": st.sampled_from([0, 2**53, 2**53 + 1, -1]) | st.none(),
        "inner": st.lists(st.integers(0, 1), max_size=2) | st.none(),
    }
)
TABLES = st.lists(ROW, max_size=8, unique_by=lambda row: (row["shop"], row["n"]))
TOLERANCES = st.sampled_from([(0.0, 0.0), (1e-6, 0.0), (0.0, 0.5), (0.1, 1.0)])


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckWarehouse]:
    folder = tmp_path_factory.mktemp("diff")
    with DuckWarehouse(FileStore(folder), folder / "w", memory=2**28, threads=1) as opened:
        yield opened


def equal(a: Any, b: Any, relative: float, absolute: float) -> bool:
    if a is None or b is None or isinstance(a, list):
        return bool(a == b)
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if a == b:
        return True
    near = max(absolute, relative * max(abs(a), abs(b)))
    return math.isfinite(a) and math.isfinite(b) and near > 0 and abs(float(a) - float(b)) <= near


@given(a=TABLES, b=TABLES, limits=TOLERANCES)
def test_a_difference_is_that_of_dicts_by_key(
    warehouse: DuckWarehouse,
    a: list[dict[str, Any]],
    b: list[dict[str, Any]],
    limits: tuple[float, float],
) -> None:
    sides = [Side(name, pa.Table.from_pylist(rows, SCHEMA)) for name, rows in (("A", a), ("B", b))]
    found = compare_rows(sides[0], sides[1], ("shop", "n"), warehouse, Tolerance(*limits))
    here, there = ({(r["shop"], r["n"]): r for r in rows} for rows in (a, b))
    changes = {
        key: {n for n in ("x", "X", "inner") if not equal(row[n], there[key][n], *limits)}
        for key, row in here.items()
        if key in there
    }
    wanted = {key: "removed" for key in here if key not in there}
    wanted |= {key: "added" for key in there if key not in here}
    wanted |= {key: "changed" for key, names in changes.items() if names}
    rows = found.rows.to_arrow().to_pylist()
    assert {(row["shop"], row["n"]): row["difference"] for row in rows} == wanted
    assert len(rows) == len(wanted) == found.added + found.removed + found.changed
    for column in found.columns:
        assert column.changed == sum(column.column in names for names in changes.values())
    for row in rows:
        for suffix, rows_of_side in (("a", here), ("b", there)):
            own = rows_of_side.get((row["shop"], row["n"]), dict.fromkeys(SCHEMA.names))
            assert all(equal(row[f"{n}_{suffix}"], own[n], 0, 0) for n in ("x", "X", "inner"))


def test_sizes_of_changes_are_over_the_rows_that_both_have(warehouse: DuckWarehouse) -> None:
    a = pa.table({"k": [1, 2, 3, 4], "x": [10.0, 20.0, math.nan, 5.0]})
    b = pa.table({"k": [1, 2, 3, 5], "x": [11.0, 15.0, 3.0, 5.0]})
    found = compare_rows(Side("A", a), Side("B", b), ("k",), warehouse, Tolerance())
    (column,) = found.columns
    assert (column.changed, column.largest, column.before, column.after) == (3, 5.0, 30.0, 26.0)
    assert column.relative == 0.25
    assert [example.key for example in found.examples] == ["1", "2", "3", "4", "5"]
    assert found.examples[3].values == {"x": (5.0, None)}


def test_large_integers_beside_doubles_are_compared_exactly(warehouse: DuckWarehouse) -> None:
    a = pa.table({"k": [1, 2], "x": pa.array([2**53 + 1, 2**53], pa.int64())})
    b = pa.table({"k": [1, 2], "x": [2.0**53, 2.0**53]})
    found = compare_rows(Side("A", a), Side("B", b), ("k",), warehouse, Tolerance())
    assert [example.key for example in found.examples] == ["1"]
    assert found.types == {"x": ("int64", "double")}


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"k": [1]}, {"j": [1]}, "B has no column k; it has j"),
        ({"k": [1]}, {"k": ["1"]}, "the key k is int64 in A and string in B"),
        ({"k": [1, 2]}, {"k": [7, 7]}, r"B has 2 rows with the key 7 \(k\), wanted one"),
    ],
)
def test_tables_that_cannot_be_joined_are_refused(
    warehouse: DuckWarehouse, a: dict[str, Any], b: dict[str, Any], message: str
) -> None:
    sides = Side("A", pa.table(a)), Side("B", pa.table(b))
    with pytest.raises(UsageError, match=message):
        compare_rows(*sides, ("k",), warehouse, Tolerance())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two runs, whose functions differ for one unit."""
    folder = tmp_path_factory.mktemp("runs")
    rows = {"shop": ["a", "b", "c"], "x": [1.0, 2.0, 3.0]}
    for run_id, change in (("one", 0.0), ("two", 0.5)):

        def work(rows: dict[str, Any], change: float = change) -> dict[str, float]:
            x = float(rows["x"][0])
            return {"y": x + change * (x == 2.0)}

        job = Job(
            "j",
            [Source("s")],
            [Model("m", ("shop",), work), Model("all", (), lambda rows: {"n": rows.rows})],
            publish=Publish("t", "SELECT shop, y AS price FROM m ORDER BY shop", formats=("csv",)),
        )
        hundredfold.run(job, {"s": rows}, home=folder, run_id=run_id, workers=1)
    return folder


def test_two_runs_are_compared_by_the_unit_of_a_model(home: Path) -> None:
    found = hundredfold.diff("one", "two", model="m", home=home)
    assert (found.key, found.changed, found.a, found.b) == (("shop",), 1, "run one", "run two")
    assert found.examples[0].values == {"y": (2.0, 2.5)}
    assert hundredfold.diff("one", "two", home=home).is_empty  # the last model: of one unit


def test_a_run_is_compared_with_a_file_in_the_types_of_the_run(home: Path, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("shop,price\na,1\nb,2.50\nd,4\n")
    options: dict[str, Any] = {"published": "t", "home": home}
    found = hundredfold.diff("two", tmp_path / "prices.csv", key=["shop"], **options)
    assert (found.added, found.removed, found.changed) == (1, 1, 0)
    pq.write_table(pa.table({"shop": ["a"], "price": [Decimal("1.0")]}), tmp_path / "p.parquet")
    parquet = hundredfold.diff("two", tmp_path / "p.parquet", key=["shop"], **options)
    assert (parquet.removed, parquet.changed) == (2, 0)
    frame = pa.table({"shop": ["a", "b", "c"], "price": [1.0, 2.5, 3.0]})
    assert hundredfold.diff("two", frame, key=["shop"], **options).is_empty


def test_what_cannot_be_compared_is_refused_with_the_reason(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("shop,price\na,cheap\n")
    with pytest.raises(UsageError, match="price is 'cheap', wanted DOUBLE"):
        hundredfold.diff("one", tmp_path / "bad.csv", published="t", key=["shop"], home=home)
    with pytest.raises(UsageError, match="there is no file"):
        hundredfold.diff("one", tmp_path / "none.csv", home=home)
    with pytest.raises(NoSuchRun):
        hundredfold.diff("one", "three", home=home)
    with pytest.raises(UsageError, match="the key of the rows is not known"):
        hundredfold.diff(tmp_path / "bad.csv", tmp_path / "bad.csv")
    with pytest.raises(UsageError, match="both given"):
        hundredfold.diff("one", "two", model="m", published="t", home=home)
    with pytest.raises(UsageError, match="the relative tolerance is -1"):
        hundredfold.diff("one", "two", relative=-1.0, home=home)


def test_two_files_of_text_are_compared_as_numbers_where_all_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("k,x,code\n01,1.0,01\n2,3,x\n")
    (tmp_path / "b.csv").write_text("k,x,code\n01,1.00,1\n2,3.5,x\n")
    found = hundredfold.diff(tmp_path / "a.csv", tmp_path / "b.csv", key=["k"], relative=0.2)
    assert [(each.column, each.changed) for each in found.columns] == [("x", 0), ("code", 1)]
