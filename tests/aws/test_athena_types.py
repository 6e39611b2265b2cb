"""A function gets the same rows on Athena as locally, with any types, keys and names; data that
Athena would change is rejected.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from annotated_types import Ge

from hundredfold import Job, Model, Publish, Source, Unit, Units
from hundredfold.errors import QueryError, SourceError
from support.in_process import InProcessRunner
from support.in_process_aws import AwsRunner, start_both

# ---- types


ALL = pa.schema(
    [
        ("key", pa.string()),
        ("i8", pa.int8()),
        ("i16", pa.int16()),
        ("i32", pa.int32()),
        ("i64", pa.int64()),
        ("u8", pa.uint8()),
        ("u16", pa.uint16()),
        ("u32", pa.uint32()),
        ("f32", pa.float32()),
        ("f64", pa.float64()),
        ("flag", pa.bool_()),
        ("text", pa.string()),
        ("data", pa.binary()),
        ("day", pa.date32()),
        ("ms", pa.timestamp("ms")),
        ("us", pa.timestamp("us")),
        ("ns", pa.timestamp("ns")),
        ("utc", pa.timestamp("us", "UTC")),
        ("paid", pa.decimal128(12, 3)),
        ("large", pa.decimal128(38, 10)),
        ("weights", pa.list_(pa.float64())),
        ("names", pa.list_(pa.string())),
        ("Mixed Case", pa.int64()),
        ('a "quote"', pa.string()),
        ("ä", pa.string()),
        ("none", pa.float64()),
        ("category", pa.dictionary(pa.int8(), pa.string())),
        ("order", pa.int64()),
    ]
)


def typed_row(number: int) -> dict[str, Any]:
    odd = number % 5
    at = dt.datetime(2024, 2, 29, 23, 59, 59, 999000) - dt.timedelta(
        days=number * 1000, milliseconds=number
    )
    row = {
        "key": ["a", "", "ä,b", 'q"\n', None][odd],
        "i8": -128 + number,
        "i16": -(2**15),
        "i32": 2**31 - 1,
        "i64": -(2**63) + number,
        "u8": 255,
        "u16": 65535,
        "u32": 2**32 - 1,
        "f32": 0.1,
        "f64": [0.1, -0.0, math.nan, math.inf, 5e-324][odd],
        "flag": number % 2 == 0,
        "text": ["", " x ", "ä😀", 'a,b\n"c"', "\t"][odd],
        "data": [b"", b"\0\xff", b"a", b"'", b"\\"][odd],
        "day": dt.date(1600 + 99 * odd, 1, 31),
        "ms": at,
        "us": at,
        "ns": at,
        "utc": at.replace(tzinfo=dt.UTC),
        "paid": Decimal("-123456789.125") + number,
        "large": Decimal("1234567890123456789.0123456789"),
        "weights": [0.5, None, math.nan] if odd else [],
        "names": ["x", "", None],
        "Mixed Case": number,
        'a "quote"': "it's",
        "ä": "ö",
        "none": None,
        "category": "ab"[number % 2],
        "order": number,
    }
    return row if number % 7 else {name: None if name != "key" else row["key"] for name in row}


def typed_table(rows: int) -> pa.Table:
    return pa.Table.from_pylist([typed_row(number) for number in range(rows)], ALL)


def light(rows: Unit) -> dict[str, Any]:
    return {
        "n": rows.rows,
        "bits": [str(rows[name].dtype) for name in rows],
        "f64": rows["f64"],
        "text": [str(t) for t in rows["text"]],
    }


def as_dict(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "n": len(rows["i64"]),
        "kinds": [f"{name} {column.dtype}" for name, column in rows.items()],
        "first": repr(rows["weights"][0]),
    }


def as_pandas(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "n": len(rows),
        "kinds": [str(kind) for kind in rows.dtypes],
        "sum": repr(rows["paid"].sum()),
        "last": repr(rows.iloc[-1].to_dict()),
    }


def as_polars(rows: pl.DataFrame) -> dict[str, Any]:
    return {
        "n": rows.height,
        "kinds": [str(kind) for kind in rows.dtypes],
        "rows": repr(rows.rows()),
    }


def as_arrow(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(["key"])


def at_once(rows: Units) -> dict[str, Any]:
    return {"n": np.diff(rows.offsets), "kind": [str(rows["i64"].dtype)] * len(rows)}


FORMS: dict[str, Callable[..., Any]] = {
    "light": light,
    "dict": as_dict,
    "pandas": as_pandas,
    "polars": as_polars,
    "arrow": as_arrow,
}
MODELS = [
    *(Model(name, unit=("key",), order_by=("order",), work=work) for name, work in FORMS.items()),
    Model("many", unit=("key", "flag"), work=at_once, batched=True),
    Model("whole", unit=(), order_by=("order",), work=as_polars),
    Model(
        "sums",
        unit=("key",),
        query=(
            "SELECT key, flag, sum(i8) AS s, avg(paid) AS a, count(*) AS n, sum(f64) FILTER (WHERE "
            "f64 < 1) AS f, NULL AS nothing FROM things GROUP BY key, flag"
        ),
        work=as_polars,
    ),
]


@dataclass
class Kept:
    key: str | None
    n: int
    price: Decimal
    day: dt.date
    at: dt.datetime
    flag: bool
    weights: list[float]
    share: float


OUT = Publish(
    "out",
    query="""SELECT w.key, l.n, CAST(1.25 AS DOUBLE) AS price, DATE '2024-02-29' AS day,
            TIMESTAMP '2024-02-29 10:00:00.125' AS at, TRUE AS flag, w.f64 AS weights,
            l.n / 3 AS share
        FROM light AS w JOIN arrow_rows AS l ON l.key IS NOT DISTINCT FROM w.key
        ORDER BY l.n DESC, w.key""",
    contract=Kept,
    formats=("parquet", "csv", "jsonl"),
)


def count_rows(rows: Unit) -> dict[str, Any]:
    return {"n": rows.rows}


def test_a_function_gets_the_same_rows_in_every_form(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    local, remote = start_both(
        runner,
        aws_runner,
        Job("forms", sources=[Source("things")], models=MODELS),
        things=typed_table(40),
    )
    local.all(), remote.all(parts=1)
    for model in MODELS:
        assert remote.result_bytes(model.name) == local.result_bytes(model.name), model.name
        assert not remote.failures(model.name), model.name


def test_published_files_are_byte_identical(runner: InProcessRunner, aws_runner: AwsRunner) -> None:
    models = [
        Model("light", unit=("key",), order_by=("order",), work=light),
        Model("arrow_rows", unit=("key",), work=count_rows),
    ]
    local, remote = start_both(
        runner,
        aws_runner,
        Job("kept", sources=[Source("things")], models=models, publish=OUT),
        things=typed_table(40),
    )
    mine, theirs = local.all().publish(), remote.all().publish()
    assert mine is not None
    assert theirs is not None
    assert theirs.rows == mine.rows == {"out": 5}
    assert {Path(key).name: remote.store.get(key).to_pybytes() for key in theirs.files} == {
        Path(key).name: local.store.get(key).to_pybytes() for key in mine.files
    }


KEYS = {
    "float": [0.0, 1.5, math.nan, None, math.inf, -1e300, math.nan, None],
    "text": ["", "a", None, "ä", "a,b", 'q"\n', " ", "A"],
    "bool": [True, None, False, True, None, False, True, None],
    "decimal": [
        Decimal("1.50"),
        None,
        Decimal("0.00"),
        Decimal("-1.00"),
        Decimal("1.50"),
        None,
        Decimal("9.99"),
        Decimal("1.51"),
    ],
    "bytes": [b"a", b"", None, b"\xff", b"a", b"", b"\0", b"b"],
    "day": [
        dt.date(2024, 2, 29),
        None,
        dt.date(1969, 1, 1),
        dt.date(2024, 2, 29),
        None,
        dt.date(1, 1, 1),
        dt.date(9999, 12, 31),
        None,
    ],
    "time": [
        dt.datetime(2024, 1, 1, 10, 0, 0, 500000),
        None,
        dt.datetime(1969, 12, 31),
        dt.datetime(2024, 1, 1),
        None,
        None,
        dt.datetime(2100, 1, 1),
        dt.datetime(1970, 1, 1),
    ],
    "int": [2**63 - 1, None, 0, -(2**63), 0, None, 7, 7],
    "nulls": [None] * 8,
    "negative zero": [-0.0, -0.0, 1.0, 1.0, None, None, 2.0, 2.0],
}


def test_keys_of_every_kind_make_the_same_units(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    names = {kind: f"k{number}" for number, kind in enumerate(KEYS)}
    table = pa.table({names[kind]: values for kind, values in KEYS.items()} | {"x": list(range(8))})
    models = [Model(f"by_{name}", unit=(name,), work=as_arrow_sum) for name in names.values()]
    models.append(Model("by_some", unit=tuple(list(names.values())[:4]), work=as_arrow_sum))
    local, remote = start_both(
        runner, aws_runner, Job("keys", sources=[Source("things")], models=models), things=table
    )
    local.all(), remote.all(parts=1)
    for model in models:
        assert remote.result_bytes(model.name) == local.result_bytes(model.name), (
            model.unit,
            remote.results(model.name).to_pylist(),
        )


def as_arrow_sum(rows: Unit) -> dict[str, Any]:
    return {"sum": int(rows["x"].sum())}


def test_a_table_with_many_columns_is_validated_and_split(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    contract = make_dataclass(
        "Wide", [("key", str), *((f"c{n:03d}", Annotated[float, Ge(0)] | None) for n in range(60))]
    )
    table = pa.table(
        {"key": ["a", "b", "a"]}
        | {f"c{n:03d}": [n / 7, None if n % 9 else 1.0, 2.0] for n in range(60)}
    )
    job = Job(
        "wide",
        sources=[Source("things", contract, unique=("c001",))],
        models=[Model("m", unit=("key",), work=as_arrow)],
    )
    local, remote = start_both(runner, aws_runner, job, things=table)
    local.all(), remote.all()
    assert remote.result_bytes("m") == local.result_bytes("m")


# ---- data that Athena would change


FINE = dt.datetime(2024, 1, 1, 10, 0, 0, 123456)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pa.array([FINE], pa.timestamp("us")),
            r"holds times finer than a millisecond in x, which Athena would round",
        ),
        (
            pa.array([[FINE]], pa.list_(pa.timestamp("us"))),
            r"holds times finer than a millisecond in x",
        ),
        (
            pa.array([dt.time(10)], pa.time64("us")),
            r"things has columns that Athena does not support\n  'x': time64\[us\], which Athena "
            r"does not have",
        ),
        (pa.array([2**64 - 1], pa.uint64()), r"'x': uint64, which Athena does not have"),
    ],
)
def test_a_source_that_athena_would_change_is_rejected(
    runner: InProcessRunner, aws_runner: AwsRunner, column: pa.Array, message: str
) -> None:
    job = Job("fine", sources=[Source("things")], models=[Model("m", unit=(), work=count_rows)])
    with pytest.raises(SourceError, match=message) as caught:
        start_both(runner, aws_runner, job, things=pa.table({"x": column}))[1].validate()
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["x\n2024-01-01 10:00:00.1234\n", "x,y\n2024-01-01T10:00:00.1234Z,1\n"]
)
@pytest.mark.parametrize("contract", [None, make_dataclass("At", [("x", dt.datetime)])])
def test_text_with_times_below_a_millisecond_is_rejected(
    aws_runner: AwsRunner, tmp_path: Path, text: str, contract: Any
) -> None:
    (tmp_path / "a.csv").write_text(text)
    job = Job(
        "fine", sources=[Source("things", contract)], models=[Model("m", unit=(), work=count_rows)]
    )
    with pytest.raises(
        SourceError,
        match="things holds times finer than a millisecond in x, which Athena would round",
    ):
        aws_runner.start(job, things=tmp_path / "a.csv").validate()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "A"), "things has several columns named A, a"),
        (("Ä", "ä"), "things has several columns named Ä, ä"),
        (("a,b",), "such a name cannot be stored"),
        ((" a",), "such a name cannot be stored"),
        (("a\nb",), "such a name cannot be stored"),
    ],
)
def test_names_that_athena_would_change_are_rejected(
    runner: InProcessRunner, aws_runner: AwsRunner, names: tuple[str, ...], message: str
) -> None:
    job = Job("names", sources=[Source("things")], models=[Model("m", unit=(), work=count_rows)])
    with pytest.raises(SourceError, match=message):
        start_both(runner, aws_runner, job, things=pa.table({name: [1] for name in names}))[
            1
        ].validate()


def odd_results(rows: Unit) -> dict[str, Any]:
    return {
        "fine": FINE,
        "clock": dt.time(10, 30),
        "took": dt.timedelta(seconds=1),
        "none": None,
        "n": rows.rows,
        "pairs": {"A": 1},
    }


def test_results_that_athena_would_change_are_rejected_when_read(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    models = [
        Model("odd", unit=("k",), work=odd_results),
        Model(
            "next_", unit=("k",), query="SELECT k, n, none, pairs.A AS a FROM odd", work=as_polars
        ),
        Model(
            "reads",
            unit=("k",),
            query="SELECT k, fine, CAST(clock AS VARCHAR) AS clock FROM odd",
            work=as_polars,
        ),
    ]
    local, remote = start_both(
        runner,
        aws_runner,
        Job("odd", sources=[Source("things")], models=models),
        things=pa.table({"k": ["a", "b"], "x": [1, 2]}),
    )
    local.all(), remote.validate(), remote.model("odd"), remote.model("next_")
    for name in ("odd", "next_"):
        assert remote.result_bytes(name) == local.result_bytes(name)
    with pytest.raises(QueryError, match="a query reads what Athena cannot") as caught:
        remote.model("reads")
    assert sorted(caught.value.problems) == [
        "odd.clock: time64[us], which Athena does not have",
        "odd.fine: times finer than a millisecond, which Athena cannot store",
    ]
