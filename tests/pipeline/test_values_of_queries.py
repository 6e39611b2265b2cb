"""Values of SQL types in functions and releases: exact, in a documented form, or refused by
column.
"""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import pyarrow as pa
import pytest

from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import PublishRefused, QueryError
from hundredfold.pipeline.releases import current_version, releases
from support.in_process import InProcessRun, InProcessRunner

FORMATS = ("parquet", "csv", "jsonl")


def job(value: str, *, publish: bool, **more: Any) -> Job:
    """Return a job whose model's query, or whose publishing query, has a column v of this SQL."""
    query = f"SELECT s.*, {value} AS v FROM s ORDER BY n"
    model = Model(
        "m",
        unit=("n",),
        work=lambda rows: {"v": str(rows["v"][0])},
        query=None if publish else query,
    )
    if publish:
        model = Model("m", unit=("n",), work=lambda rows: {"one": rows.rows})
    return Job(
        "types",
        sources=[Source("s")],
        models=[model],
        publish=Publish("table", query, **more) if publish else (),
    )


ROWS = pa.table(
    {
        "n": [1, 2],
        "a": pa.array([0, 3_600_000_000], pa.timestamp("us")),
        "b": pa.array([1, None], pa.timestamp("us")),
    }
)

UNKEPT = {
    "340282366920938463463374607431768211455::UHUGEINT": "UHUGEINT",
    "'01:00:00+03'::TIMETZ": "TIME WITH TIME ZONE",
    "1::BIGNUM": "BIGNUM",
    "'101'::BIT": "BIT",
    "['101'::BIT]": r"BIT\[\]",
    "union_value(k := 1)": "UNION",
    "{'x': '01:00:00+03'::TIMETZ}": "STRUCT",
    "[b - a]": r"INTERVAL\[\]",
}


@pytest.mark.parametrize(("value", "kind"), UNKEPT.items(), ids=str)
def test_a_type_that_would_come_out_as_another_is_refused(
    runner: InProcessRunner, value: str, kind: str
) -> None:
    for publish in (False, True):
        run = runner.start(job(value, publish=publish), s=ROWS)
        with pytest.raises(
            QueryError,
            match=rf"column v is of type {kind}.*, which would become another value",
        ) as caught:
            run.all().publish()
        assert publish is False or "write " in str(caught.value.hint)
    assert current_version("types", runner.store) is None


@pytest.mark.parametrize(
    "value",
    ["'infinity'::DATE", "'-infinity'::DATE", "'infinity'::TIMESTAMP", "'-infinity'::TIMESTAMPTZ"],
)
def test_a_date_of_infinity_is_not_published(runner: InProcessRunner, value: str) -> None:
    with pytest.raises(
        PublishRefused,
        match=r"table\.parquet is not published: its query returns infinite dates in v",
    ):
        runner.start(job(value, publish=True), s=ROWS).all().publish()


def texts(run: InProcessRun) -> dict[str, str]:
    release = releases("types", run.store)[-1]
    return {
        key.rsplit(".", 1)[1]: run.store.get(key).to_pybytes().decode(errors="replace")
        for key in release.files
    }


def parquet(runner: InProcessRunner) -> list[Any]:
    key = next(key for key in releases("types", runner.store)[-1].files if key.endswith("parquet"))
    return list(
        runner.warehouse.query(f"SELECT v FROM {runner.warehouse.read_parquet(key)} ORDER BY n")
        .column("v")
        .to_pylist()
    )


def test_a_difference_of_times_is_whole_microseconds(runner: InProcessRunner) -> None:
    run = runner.start(
        job(
            "a - TIMESTAMP '1969-12-31 23:00:00'",
            publish=True,
            formats=FORMATS,
            summaries={"All": 'SELECT v FROM "table"'},
        ),
        s=ROWS,
    )
    run.all().publish()
    assert parquet(runner) == [3_600_000_000, 7_200_000_000]
    found = texts(run)
    assert [row["v"] for row in csv.DictReader(found["csv"].splitlines())] == [
        "3600000000",
        "7200000000",
    ]
    assert [json.loads(line)["v"] for line in found["jsonl"].splitlines()] == [
        3_600_000_000,
        7_200_000_000,
    ]
    given = runner.start(job("b - a", publish=False), s=ROWS).all()
    assert given.results("m").column("v").to_pylist() == ["1.0", "nan"]  # integers with a null


def test_an_interval_of_months_is_refused(runner: InProcessRunner) -> None:
    with pytest.raises(QueryError, match="v: an interval of months has no length in microseconds"):
        runner.start(job("INTERVAL 2 MONTH", publish=True), s=ROWS).all().publish()


FLOATS = [1.5, float("nan"), float("inf"), -float("inf"), None]
WANTED = [1.5, "NaN", "Infinity", "-Infinity", None]


@pytest.mark.parametrize(
    ("shape", "wrap"),
    [
        ("x", lambda v: v),
        ("[x, 2.5]", lambda v: [v, 2.5]),
        ("CASE WHEN n < 6 THEN {'y z': x, 'q': [x]} END", lambda v: {"y z": v, "q": [v]}),
        ("MAP {'k': x}", lambda v: {"k": v}),
        ("[MAP {'k': [{'x': x}]}]", lambda v: [{"k": [{"x": v}]}]),
        ("CAST(x AS FLOAT)", lambda v: v),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_json_lines_hold_nan_and_infinity_as_texts(
    runner: InProcessRunner, shape: str, wrap: Any
) -> None:
    rows = pa.table({"n": range(6), "x": [*FLOATS, 7.0]})
    run = runner.start(
        job(
            shape,
            publish=True,
            formats=FORMATS,
            summaries={"All": 'SELECT n, v FROM "table" ORDER BY n'},
        ),
        s=rows,
    )
    run.all().publish()
    lines = [
        json.loads(line, parse_constant=pytest.fail)["v"]
        for line in texts(run)["jsonl"].splitlines()
    ]
    assert lines == [wrap(v) for v in [*WANTED, 7.0]]
    if shape == "x":
        assert [v if v is None else (math.isnan(v) or v) for v in parquet(runner)] == [
            1.5,
            True,
            math.inf,
            -math.inf,
            None,
            7.0,
        ]
        assert [row["v"] for row in releases("types", runner.store)[-1].summaries["All"]] == [
            *WANTED,
            7.0,
        ]


def test_csv_distinguishes_an_empty_text_from_a_null(runner: InProcessRunner) -> None:
    run = runner.start(job("CASE WHEN n = 1 THEN '' END", publish=True, formats=("csv",)), s=ROWS)
    run.all().publish()
    assert [line.rsplit(",", 1)[1] for line in texts(run)["csv"].splitlines()] == ["v", '""', ""]
