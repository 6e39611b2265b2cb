"""Rows in every form: exact, with types that do not depend on the batch.

A value that a form cannot hold fails only its unit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Source, Unit, Units
from hundredfold.data import batch, numpy_columns
from hundredfold.data.manifest import Manifest, UnitList, key_text, open_batch
from hundredfold.data.numpy_columns import to_numpy
from hundredfold.errors import SourceError
from hundredfold.runs.replay import find_unit
from support.in_process import InProcessRun, InProcessRunner

LARGE = 2**53 + 1
FAR = pa.array([20000, 10**7, 2**31 - 1, 20001], pa.int32()).view(
    pa.date32()
)  # the second and third are beyond the year 9999


def form(name: str, many: bool, measure: Callable[[Any], Any]) -> Model:
    """Return a model whose function takes rows in this form, and returns `measure` of them."""
    kinds = {
        "light": Units if many else Unit,
        "dict": dict,
        "pandas": pd.DataFrame,
        "polars": pl.DataFrame,
        "arrow": pa.Table,
    }

    def one(rows: Any) -> Any:
        return measure(rows)

    def several(rows: Any) -> Any:
        caught = measure(rows)
        units = np.asarray(rows.keys["k"] if name in ("light", "dict") else rows["k"]).astype(int)
        first = np.unique(units, return_index=True)[1]
        return {
            "unit": np.arange(len(first)),
            **{key: [value] * len(first) for key, value in caught.items()},
        }

    work = several if many else one
    work.__annotations__ = {"rows": kinds[name]}
    return Model("m", unit=("k",), work=work, batched=many)


FORMS = [
    (name, many)
    for name in ("light", "dict", "pandas", "polars", "arrow")
    for many in (False, True)
]


def ran(runner: InProcessRunner, model: Model, rows: pa.Table, parts: int = 0) -> InProcessRun:
    return runner.start(
        Job("one", sources=[Source("rows_in")], models=[model], max_failed=1.0), rows_in=rows
    ).all(parts=parts)


def values_of(column: Any) -> list[Any]:
    """Return a column of any form as Python values."""
    found = (
        column.to_pylist()
        if hasattr(column, "to_pylist")
        else column.to_list()
        if hasattr(column, "to_list")
        else column.tolist()
    )
    return [None if value is None or value is pd.NA or value != value else value for value in found]


@pytest.mark.parametrize(("name", "many"), FORMS)
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()], ids=str)
def test_large_integers_beside_a_null_keep_every_digit(
    runner: InProcessRunner, name: str, many: bool, kind: pa.DataType
) -> None:
    rows = pa.table(
        {
            "k": [0, 1, 2, 2],
            "x": pa.array([LARGE, 5, None, LARGE + 2], kind),
            "y": pa.array([1, None, 3, 4], kind),
        }
    )
    seen: dict[str, list[Any]] = {"x": [], "types": []}

    def measure(unit: Any) -> dict[str, int]:
        seen["x"] += values_of(unit["x"])
        seen["types"].append(
            (str(getattr(unit["x"], "dtype", "")), str(getattr(unit["y"], "dtype", "")))
        )
        return {"n": 1}

    run = ran(runner, form(name, many, measure), rows, parts=2)
    assert list(run.failures("m")) == []
    assert sorted(seen["x"], key=str) == sorted([LARGE, 5, None, LARGE + 2], key=str)
    assert all(isinstance(value, int | None) for value in seen["x"])
    integers = {
        "light": "object",
        "dict": "object",
        "pandas": str(kind).replace("uint", "UInt").replace("int6", "Int6").replace("UInt", "UInt"),
    }
    if name in integers:
        assert set(seen["types"]) == {(integers[name], "float64")}


@pytest.mark.parametrize("name", ["light", "pandas"])
def test_large_integers_of_keys_of_lists_and_of_earlier_results_are_kept(
    runner: InProcessRunner, name: str
) -> None:
    rows = pa.table(
        {"k": [0, 1], "big": pa.array([LARGE, None]), "list": pa.array([[LARGE, None], [LARGE, 2]])}
    )
    keys: list[Any] = []

    def early(unit: Any) -> dict[str, Any]:
        keys.extend(
            [
                *values_of(unit["big"]),
                *(value for values in unit["list"] for value in values_of(np.asarray(values))),
            ]
        )
        return {"x": None if values_of(unit["big"]) == [None] else LARGE}

    def late(unit: Any, m: pd.DataFrame) -> dict[str, Any]:
        return {"type": str(m["x"].dtype), "sum": int(m["x"].fillna(0).sum())}

    model = form(name, False, early)
    first = Model("m", unit=("big",), work=model.work)
    run = runner.start(
        Job(
            "two",
            sources=[Source("rows_in")],
            models=[
                first,
                Model("late", unit=(), query="SELECT 1 AS one", work=late),
                Model("own", unit=("big",), query="SELECT * FROM rows_in", work=late),
            ],
            max_failed=1.0,
        ),
        rows_in=rows,
    )
    run.all()
    assert keys.count(LARGE) == 3
    assert run.results("late").to_pylist() == [{"type": "Int64", "sum": LARGE}]
    assert run.results("own").column("type").to_pylist() == ["Int64", "Int64"]


@pytest.mark.parametrize(("name", "many"), FORMS)
def test_a_date_beyond_the_year_9999_costs_one_unit_at_most(
    runner: InProcessRunner, name: str, many: bool
) -> None:
    rows = pa.table(
        {"k": [0, 1, 2, 3], "day": FAR, "far": pa.ListArray.from_arrays([0, 1, 2, 3, 4], FAR)}
    )

    def measure(unit: Any) -> dict[str, Any]:
        # a panic of Polars is not an exception
        day = unit["day"].cast(pl.String)[0] if name == "polars" else values_of(unit["day"])[0]
        return {"day": str(day), "far": len(unit["far"])}

    run = ran(runner, form(name, many, measure), rows)
    failed = {row["k"]: row for row in run.failures("m")}
    good = {row["k"]: row["day"] for row in run.results("m").to_pylist()}
    assert sorted([*failed, *good]) == [0, 1, 2, 3]
    assert set(failed) <= {1, 2}
    if not many:
        assert good[0].startswith("2024-10-04")
        assert good[3].startswith("2024-10-05")
    if name == "pandas":
        assert set(failed) == {1, 2}
        assert {row["error"] for row in failed.values()} == {"ConversionError"}
        assert "day is 29349-01-26; bound the column" in failed[1]["message"]


def test_a_key_beyond_the_year_9999_is_a_key(runner: InProcessRunner) -> None:
    rows = pa.table({"day": FAR, "x": [1.0, 2.0, 3.0, 4.0]})
    model = Model(
        "m",
        unit=("day",),
        work=lambda unit: {"key": str(unit.key[0]), "x": 1 / (int(unit["x"][0]) - 2)},
    )
    own = Model(
        "own", unit=("day",), query="SELECT * FROM rows_in", work=lambda _, m: {"key": m["key"]}
    )
    job = Job("one", sources=[Source("rows_in")], models=[model, own], max_failed=1.0)
    run = runner.start(job, rows_in=rows)
    run.all()
    assert run.results("m").column("key").to_pylist() == [
        "2024-10-04",
        "2024-10-05",
        "5881580-07-11",
    ]
    assert [row["day"] for row in run.failures("m")] == ["29349-01-26"]
    assert run.results("own").column("key").to_pylist() == ["2024-10-04", "2024-10-05"]
    assert [(row["day"], row["error"]) for row in run.failures("own")] == [
        ("29349-01-26", "ResultError"),
        ("5881580-07-11", "ConversionError"),
    ]
    units = UnitList.read(run.layout, "m", run.store)
    assert key_text(units.key(find_unit(units, "29349-01-26", "m"))) == "29349-01-26"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("light", "datetime64[us]"),
        ("dict", "datetime64[us]"),
        ("pandas", "datetime64[us, UTC]"),
        ("polars", "Datetime(time_unit='us', time_zone='UTC')"),
        ("arrow", "timestamp[us, tz=UTC]"),
    ],
)
def test_times_with_a_zone_come_in_utc(runner: InProcessRunner, name: str, kind: str) -> None:
    moment = dt.datetime(2024, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    rows = pa.table(
        {"k": [0, 1], "at": pa.array([moment, None], pa.timestamp("us", "Europe/Berlin"))}
    )
    kinds: set[str] = set()

    def measure(unit: Any) -> dict[str, Any]:
        column = unit["at"]
        kinds.add(str(column.type if hasattr(column, "type") else column.dtype))
        value = values_of(column)[0]
        return {"at": None if value is None else value.replace(tzinfo=dt.UTC)}

    assert ran(runner, form(name, False, measure), rows).results("m").column("at").to_pylist() == [
        moment.astimezone(dt.UTC),
        None,
    ]
    assert kinds == {kind}


VALUES: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "int64": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "uint64": (st.integers(0, 2**64 - 1), pa.uint64()),
    "int8": (st.integers(-128, 127), pa.int8()),
    "bool": (st.booleans(), pa.bool_()),
    "double": (st.floats(allow_nan=False), pa.float64()),
    "float": (st.floats(allow_nan=False, width=32), pa.float32()),
    "decimal": (st.decimals(-(10**9), 10**9, places=2), pa.decimal128(20, 2)),
    "text": (
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
        pa.string(),
    ),
    "bytes": (st.binary(max_size=3), pa.binary()),
    "day": (st.dates(), pa.date32()),
    "moment": (st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30)), pa.timestamp("us")),
    "time": (st.times(), pa.time64("us")),
    "integers": (
        st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=3),
        pa.list_(pa.int64()),
    ),
    "lists": (
        st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2),
        pa.list_(pa.list_(pa.int64())),
    ),
    "struct": (
        st.fixed_dictionaries(
            {
                "a": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
                "b": st.text("xy", max_size=2),
            }
        ),
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
    ),
}


def plain(value: Any) -> Any:
    """Return a value of any form as a Python value."""
    if isinstance(value, np.ndarray | list | pl.Series):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float | np.floating) and value != value)
    ):
        return None
    if isinstance(value, np.datetime64 | pd.Timestamp):
        return (
            None
            if np.isnat(np.datetime64(value))
            else pd.Timestamp(value).to_pydatetime()
            if isinstance(value, pd.Timestamp)
            else value.item()
        )
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("name", ["light", "dict", "pandas", "polars", "arrow"])
@pytest.mark.parametrize("kind", sorted(VALUES))
@pytest.mark.parametrize("whole", [2**25, -1], ids=["at_once", "slice_by_slice"])
@given(data=st.data())
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_value_reaches_the_function_as_it_is(
    runner: InProcessRunner,
    name: str,
    kind: str,
    whole: int,
    data: st.DataObject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        batch, "MAX_WHOLE_COLUMN_BYTES", whole
    )  # beyond it, nested values are converted for one unit after the other
    strategy, arrow = VALUES[kind]
    values = data.draw(st.lists(st.one_of(st.none(), strategy), min_size=1, max_size=6))
    rows = pa.table({"k": range(len(values)), "x": pa.array(values, arrow)})
    found: dict[int, Any] = {}

    def measure(unit: Any) -> dict[str, int]:
        (key,), (value,) = (list(unit[column]) for column in ("k", "x"))
        found[int(key.as_py() if isinstance(key, pa.Scalar) else key)] = plain(
            value.as_py() if isinstance(value, pa.Scalar) else value
        )
        return {"n": 1}

    run = ran(runner, form(name, False, measure), rows)
    assert list(run.failures("m")) == []
    assert [found[k] for k in range(len(values))] == [plain(value) for value in values]


NUMBERS = st.lists(
    st.none()
    | st.lists(st.integers(-100, 100) | st.none(), max_size=3)
    | st.lists(st.integers(0, 9)),
    max_size=6,
)


@pytest.mark.parametrize(
    "inner", [pa.int8(), pa.uint64(), pa.float32(), pa.float64(), pa.float16()], ids=str
)
@given(values=NUMBERS, cut=st.integers(0, 3))
def test_lists_of_numbers_are_like_their_single_values(
    inner: pa.DataType, values: list[Any], cut: int
) -> None:
    if pa.types.is_unsigned_integer(inner) or pa.types.is_float16(inner):
        values = [
            None if v is None else [abs(x) if x is not None else None for x in v] for v in values
        ]
    column = pa.array(values, pa.list_(inner)).slice(min(cut, len(values)))
    fast, slow = to_numpy(column, False), numpy_columns._to_objects(column)
    assert [None if v is None else (v.dtype, v.tolist()) for v in fast] == [
        None if v is None else (v.dtype, v.tolist()) for v in slow
    ]


def test_one_unit_is_printed_as_it_was_passed(runner: InProcessRunner) -> None:
    rows = pa.table({"k": [0, 1, 2, 3], "day": FAR, "money": [Decimal("1.50")] * 4})
    run = ran(runner, form("pandas", False, lambda unit: {"day": str(unit["day"][0])}), rows)
    manifest = Manifest.read(run.layout, "m", run.store)
    opened = open_batch(
        manifest,
        UnitList.read(run.layout, "m", run.store),
        manifest.batch_of(3),
        run.layout,
        run.store,
    )
    assert opened.unit_rows("pandas", 3)["day"][0] == dt.date(2024, 10, 5)


def test_keys_of_many_units_are_of_their_own_type(runner: InProcessRunner) -> None:
    model = Model(
        "m",
        unit=("k",),
        work=lambda rows: {"k": rows.keys["k"], "type": [str(rows.keys["k"].dtype)] * len(rows)},
        batched=True,
    )
    for keys, kind in (
        ([LARGE, LARGE + 1], "int64"),
        ([LARGE, LARGE + 1, None], "object"),
        ([1, None], "float64"),
    ):
        run = ran(
            runner, model, pa.table({"k": pa.array(keys, pa.int64()), "x": [1.0] * len(keys)})
        )
        assert run.results("m").to_pylist() == [{"k": key, "type": kind} for key in keys]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        pa.array([[1]], pa.list_(pa.duration("s"))),
        pa.array([2**61], pa.timestamp("s")),
        pa.array([{"a": 1}], pa.struct([("a", pa.duration("us"))])),
    ],
)
def test_a_type_that_cannot_be_kept_is_refused(runner: InProcessRunner, column: pa.Array) -> None:
    with pytest.raises(SourceError, match=r"would become another|that SQL cannot"):
        runner.source(Source("s"), pa.table({"x": column})).validate()
