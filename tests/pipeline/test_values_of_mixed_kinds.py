"""Values of several kinds in one column, at any depth, in results and sources: exact, or
refused.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Publish, Source
from hundredfold.contract import read_contract
from hundredfold.data.arrow_columns import COLUMN_ERRORS, to_column
from hundredfold.data.result_contract import ReturnType
from hundredfold.data.results import ResultBuilder
from hundredfold.data.returned_values import to_table
from hundredfold.errors import ResultError, SourceError
from hundredfold.sql.sources.frames import frame_to_table
from support.in_process import InProcessRunner

DAY, MOMENT = dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 3)
AWARE = MOMENT.replace(tzinfo=dt.timezone(dt.timedelta(hours=3)))
CLOCK = dt.time(1, tzinfo=dt.UTC)
PAIRS: list[tuple[Any, Any]] = [
    (DAY, MOMENT),
    (DAY, pd.Timestamp(MOMENT)),
    (np.datetime64("2020-01-01"), MOMENT),
    (MOMENT, AWARE),
    (dt.time(1), CLOCK),
    (CLOCK, CLOCK),
    ("a", b"b"),
    (True, 1),
    (1, "x"),
    (1.5, Decimal(1)),
    (DAY, "2020-01-01"),
    (2**60 + 1, 1.5),
    (-1, 2**63),
    (2**64, 1),
    (1j, 1j),
    (Fraction(1, 2), Fraction(1, 3)),
    (pd.Interval(0, 1), pd.Interval(0, 1, "left")),
    (pd.Period("2020-01"), None),
    (object(), None),
]
SHAPES: dict[str, Callable[[Any, Any], list[Any]]] = {
    "alone": lambda a, b: [a, b],
    "turned": lambda a, b: [b, a],
    "in a list": lambda a, b: [[a, b]],
    "in lists": lambda a, b: [[a], [b]],
    "in dicts": lambda a, b: [{"z": a}, {"z": b}],
    "deep": lambda a, b: [{"q": [{"z": a}, {"z": b}]}],
    "in a tuple": lambda a, b: [(a, b)],
}


def with_objects(values: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"shop": ["A"] * len(values), "v": pd.Series(values, dtype=object)})


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: re.sub(" at 0x[0-9a-f]+", "", str(pair)))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_of_two_kinds_are_refused_wherever_they_are(
    shape: Any, pair: tuple[Any, Any]
) -> None:
    values = shape(*pair)
    with pytest.raises(SourceError, match=r"^s: v holds "):
        frame_to_table("s", with_objects(values))
    with pytest.raises(SourceError, match=r"^s: v holds "):
        frame_to_table("s", {"shop": ["A"] * len(values), "v": values})
    with pytest.raises(COLUMN_ERRORS):
        to_table(with_objects(values))
    gather = ResultBuilder(ReturnType(), {})
    add = gather.appender()
    for unit, value in enumerate(values):
        add(unit, {"v": [value]})
    tables, bad = gather.build()
    kept = [value for table in tables for value in table.column("v").to_pylist()]
    assert bad or all(
        any(value == [v] for v in values) for value in kept
    )  # each unit's own value is what it was


PLAIN: list[Any] = [
    [1, None, 2],
    [1, 2.5],
    ["a", None, float("nan")],
    [pd.NA, "x"],
    [pd.NaT, DAY],
    [True, None],
    [Decimal("1.5"), 1],
    [b"x"],
    [None],
    [DAY, DAY],
    [MOMENT, None],
    [AWARE, AWARE],
    [[DAY], []],
    [{"a": 1}, {"b": 2}],
    [frozenset({2, 1})],
    [range(2)],
    [{2, 1}],
    [2**63],
    [dt.time(1)],
    [np.int64(1), np.float32(0.5)],
]
WANTED: list[Any] = [
    [1, None, 2],
    [1.0, 2.5],
    ["a", None, None],
    [None, "x"],
    [None, DAY],
    [True, None],
    [Decimal("1.5"), Decimal("1.0")],
    [b"x"],
    [None],
    [DAY, DAY],
    [MOMENT, None],
    [AWARE, AWARE],
    [[DAY], []],
    [{"a": 1, "b": None}, {"a": None, "b": 2}],
    [[1, 2]],
    [[0, 1]],
    [[1, 2]],
    [2**63],
    [dt.time(1)],
    [1.0, 0.5],
]


@pytest.mark.parametrize(("values", "wanted"), list(zip(PLAIN, WANTED, strict=True)), ids=str)
def test_values_of_one_kind_are_unchanged(values: list[Any], wanted: list[Any]) -> None:
    assert frame_to_table("s", with_objects(values)).column("v").to_pylist() == wanted


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"v": pd.Categorical([DAY, MOMENT])}), "several types"),
        (pd.DataFrame({"v": pd.Categorical([MOMENT, AWARE])}), "cannot hold"),
        (pd.DataFrame({"v": pd.IntervalIndex.from_breaks([0, 1, 2])}), "would become another"),
        (pd.DataFrame({"v": pd.cut(pd.Series([1, 2]), [0, 1, 2])}), "would become another"),
        (pd.DataFrame({"v": np.array([1j])}), "v has the type complex128"),
        (pd.DataFrame({"v": np.array([1], np.longdouble)}), "v has the type float128"),
        (pd.DataFrame({"v": pd.arrays.SparseArray([1, 0])}), "v has the type Sparse"),
        (pd.DataFrame({"v": [2**64]}), "whole numbers of more than 64 bits"),
        (pl.DataFrame({"v": pl.Series([object()], dtype=pl.Object)}), "hold Python objects"),
        ({"v": pl.Series([object()], dtype=pl.Object)}, "no column has"),
        ({"v": pd.Series([DAY, MOMENT], dtype=object)}, "several types"),
        ({"v": np.array([DAY, MOMENT], dtype=object)}, "several types"),
        ({"v": [{}]}, "would become another"),
        (pa.table({"v": pa.array([86_400_005], pa.date64())}), "a time of day in a date"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_column_that_would_be_another_is_refused_in_a_source(frame: Any, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        frame_to_table("s", frame)
    assert message in caught.value.message


def test_masked_arrays_and_records_of_a_dict_are_exact() -> None:
    record = np.array([(1, 2.5)], dtype=[("p", "i4"), ("q", "f8")])
    table = frame_to_table("s", {"m": np.ma.array([1], mask=[True]), "r": record})
    assert table.to_pylist() == [{"m": None, "r": {"p": 1, "q": 2.5}}]
    assert to_column([record[0]]).to_pylist() == [{"p": 1, "q": 2.5}]
    assert to_column([record]).to_pylist() == [[{"p": 1, "q": 2.5}]]


def test_a_named_index_is_a_column_of_the_source() -> None:
    frame = pd.DataFrame({"v": [1, 2]}, index=pd.Index([DAY, DAY], name="day"))
    assert frame_to_table("s", frame).to_pylist() == [{"v": 1, "day": DAY}, {"v": 2, "day": DAY}]
    both = frame.set_index("v", append=True)
    assert frame_to_table("s", both.assign(x=0)).column_names == ["x", "day", "v"]


def test_an_enum_is_its_value_and_a_list_in_itself_is_refused() -> None:
    Colour = enum.Enum("Colour", {"RED": 1})
    red = Colour["RED"]
    assert frame_to_table("s", with_objects([red])).column("v").to_pylist() == [1]
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SourceError, match="v holds"):
        frame_to_table("s", with_objects([endless]))


@pytest.mark.parametrize("kind", ["category", object])
def test_a_result_with_categories_of_two_kinds_is_refused(kind: Any) -> None:
    with pytest.raises(ResultError, match="date and timestamp"):
        to_table(pd.DataFrame({"v": pd.Series([DAY, MOMENT], dtype=object).astype(kind)}))
    with pytest.raises(ResultError, match="Python objects"):
        to_table(pl.DataFrame({"v": pl.Series([object()], dtype=pl.Object)}))


LEAVES = st.one_of(
    st.integers(-5, 5),
    st.text("ab", max_size=2),
    st.binary(max_size=2),
    st.dates(),
    st.datetimes(),
    st.booleans(),
    st.none(),
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(NESTED, min_size=1, max_size=4))
def test_the_values_of_a_source_are_unchanged(values: list[Any]) -> None:
    try:
        found = frame_to_table("s", {"v": values}).column("v").to_pylist()
    except SourceError:
        return
    assert _bare(found) == _bare(values)


def _bare(value: Any) -> Any:
    """Return a value without its None keys, and with its types: True is not 1."""
    if isinstance(value, dict):
        return {key: _bare(v) for key, v in value.items() if v is not None}
    return [_bare(v) for v in value] if isinstance(value, list) else (type(value).__name__, value)


# ---- durations


SPANS = [
    dt.timedelta(microseconds=1),
    np.timedelta64(3000, "ns"),
    pd.Timedelta(2, "us"),
    np.timedelta64(1, "s"),
    pa.scalar(5, pa.duration("ms")),
]
MICROS = [1, 3, 2, 1_000_000, 5_000]


def spans(runner: InProcessRunner, values: list[Any]) -> Any:
    """Run a model that returns durations, alone and in a list, and a second one that receives them
    by SQL.
    """
    models = [
        Model(
            "m",
            unit=("n",),
            work=lambda rows: {"span": values[rows.key[0]], "nested": [values[rows.key[0]]]},
        ),
        Model(
            "later",
            unit=("n",),
            query="SELECT n, span, nested[1] AS first FROM m",
            work=lambda rows: {"sum": int(rows["span"][0])},
        ),
    ]
    publish = Publish(
        "table", "SELECT n, span, nested FROM m ORDER BY n", formats=("parquet", "csv")
    )
    return runner.start(
        Job("spans", sources=[Source("s")], models=models, publish=publish),
        s={"n": list(range(len(values)))},
    )


@pytest.mark.parametrize("order", [1, -1])
def test_durations_are_microseconds_to_later_models_and_releases(
    runner: InProcessRunner, order: int
) -> None:
    run = spans(runner, SPANS[::order]).all()
    assert run.results("later").column("sum").to_pylist() == MICROS[::order]
    assert run.results("m").column("span").to_pylist() == [
        dt.timedelta(microseconds=n) for n in MICROS[::order]
    ]
    release = run.publish()
    rows = runner.warehouse.query(
        f"SELECT * FROM {runner.warehouse.read_parquet(next(iter(release.files)))} ORDER BY n"
    ).to_pylist()
    assert [(row["span"], row["nested"]) for row in rows] == [(n, [n]) for n in MICROS[::order]]


@pytest.mark.parametrize(
    "fine",
    [np.timedelta64(1, "ns"), pd.Timedelta(1, "ns"), pa.scalar(1, pa.duration("ns"))],
    ids=repr,
)
def test_a_duration_finer_than_a_microsecond_fails_its_unit_alone(
    runner: InProcessRunner, fine: Any
) -> None:
    run = spans(runner, [SPANS[0], fine]).all()
    assert [row["n"] for row in run.failures("m")] == [1]
    assert "finer than a microsecond" in run.failures("m")[0]["message"]
    assert run.results("later").column("sum").to_pylist() == [1]


@pytest.mark.parametrize("kind", [pa.time64("ns"), pa.list_(pa.time64("ns"))], ids=str)
def test_a_time_of_day_finer_than_a_microsecond_fails_its_unit(
    runner: InProcessRunner, kind: pa.DataType
) -> None:
    """NumPy arrays hold Python's times of day, and Arrow cuts them."""
    values = [1000, 1] if pa.types.is_time(kind) else [[1000], [1]]
    table = pa.table({"n": [0, 1], "v": pa.array(values, kind)})
    model = Model("m", unit=("n",), work=lambda rows: {"v": str(rows["v"][0])})
    run = runner.start(Job("j", sources=[Source("s")], models=[model]), s=table).all()
    assert [row["n"] for row in run.failures("m")] == [1]
    assert "finer than a microsecond" in run.failures("m")[0]["message"]
    assert run.results("m").column("v")[0].as_py() in (
        "00:00:00.000001",
        "[datetime.time(0, 0, 0, 1)]",
    )


@pytest.mark.parametrize("name", ["", " ", "a\0b"], ids=repr)
def test_a_result_whose_column_has_no_usable_name_fails(name: str) -> None:
    for value in ({name: 1}, [{name: 1}], pa.table({name: [1]}), pd.DataFrame({name: [1]})):
        gather = ResultBuilder(ReturnType(), {})
        with pytest.raises(ResultError, match="wanted names that SQL can use"):
            gather.appender()(0, value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([[MOMENT]]), list[dt.date]),
        (pa.array([[1]], pa.list_(pa.timestamp("ns"))), list[dt.datetime]),
        (pa.array([[1]], pa.list_(pa.time64("ns"))), list[dt.time]),
        (pa.array([[1]]), list[str]),
        (pa.array([1], pa.time64("ns")), dt.time),
        (pa.array([Decimal("0.1000000000000000000001")]), float),
    ],
    ids=str,
)
def test_a_table_of_results_is_exact_in_the_contracts_types(values: pa.Array, kind: Any) -> None:
    gather = ResultBuilder(
        ReturnType(read_contract(dataclasses.make_dataclass("Out", [("v", kind)]))), {}
    )
    gather.appender()(0, pa.table({"v": values}))
    assert [account.unit for account in gather.build()[1]] == [0]


def test_lists_of_nulls_are_whole() -> None:
    """Arrow's cast of such a list to its own type breaks it."""
    for values in ([[None, None]], [[{"a": None, "c": 1}, {}]]):
        column = to_column(values)
        column.validate(full=True)
        assert len(column.to_pylist()[0]) == 2
