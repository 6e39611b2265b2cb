"""A release under a contract: the values of the query, or nothing."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import pytest
from annotated_types import Gt, Le

from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import PublishRefused
from hundredfold.pipeline.releases import current_version
from support.in_process import InProcessRunner


def release(runner: InProcessRunner, values: list[str], kind: Any) -> list[Any]:
    """Publish values of this SQL under a contract of this type, and return them."""
    rows = " UNION ALL ".join(f"SELECT {n} AS n, {value} AS v" for n, value in enumerate(values))
    contract = dataclasses.make_dataclass("Out", [("n", int), ("v", kind)])
    run = runner.start(
        Job(
            "out",
            sources=[Source("s")],
            models=[Model("m", unit=("n",), work=lambda rows: {"one": rows.rows})],
            publish=Publish("table", f"SELECT n, v FROM ({rows}) AS q ORDER BY n", contract),
        ),
        s={"n": [0]},
    ).all()
    done = run.publish()
    assert done is not None
    found = runner.warehouse.query(
        f"SELECT v FROM {runner.warehouse.read_parquet(next(iter(done.files)))} ORDER BY n"
    )
    return list(found.column("v").to_pylist())


CHANGED = [
    ("100.4::DOUBLE", Annotated[int, Le(100)]),
    ("1.5::DOUBLE", int),
    ("2.5::DOUBLE", Optional[int]),  # noqa: UP045  # as people write it
    ("1.5", int),
    ("1.2::DOUBLE", Literal[1, 2]),
    ("1e300::DOUBLE", int),
    ("'nan'::DOUBLE", int),
    ("18446744073709551615::UBIGINT", int),
    ("9007199254740993::BIGINT", float),
    ("0.1000000000000000000001::DECIMAL(30, 22)", float),
    ("0.123456789012", Decimal),
    ("0.1234567890123::DOUBLE", Decimal),
    ("TIMESTAMP '2020-01-01 05:00:00'", dt.date),
    ("TIMESTAMPTZ '2020-01-01 05:00:00+00'", dt.date),
    ("make_timestamp_ns(1)", dt.datetime),
    ("'infinity'::DATE", dt.date),
    ("'-infinity'::TIMESTAMP", dt.datetime),
    ("DATE '9999-12-31' + 1", dt.date),
    ("TIME '24:00:00'", dt.time),
    ("[1.5::DOUBLE]", list[int]),
    ("[TIMESTAMP '2020-01-01 05:00:00']", list[dt.date]),
    ("[make_timestamp_ns(1)]", list[dt.datetime]),
    ("[9007199254740993::BIGINT]", list[float]),
    ("MAP {'a': 1.5}", dict[str, int]),
]


@pytest.mark.parametrize(("value", "kind"), CHANGED, ids=str)
def test_a_value_that_its_type_would_change_is_not_published(
    runner: InProcessRunner, value: str, kind: Any
) -> None:
    with pytest.raises(
        PublishRefused,
        match=r"table is not published: its rows break Out\n  v must be .*: 1 row; .*where n = 1",
    ):
        release(
            runner,
            ["NULL", value],
            kind | None if not str(kind).startswith("typing.Optional") else kind,
        )
    assert current_version("out", runner.store) is None


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [
        (["1.0::DOUBLE", "2"], int, [1, 2]),
        (["9007199254740992::BIGINT", "0.25"], float, [2.0**53, 0.25]),
        (["0.1::DOUBLE", "12"], Decimal, [Decimal("0.1"), Decimal(12)]),
        (["DATE '2020-01-01'"], dt.datetime, [dt.datetime(2020, 1, 1)]),
        (["TIMESTAMP '2020-01-01'"], dt.date, [dt.date(2020, 1, 1)]),
        (["TIMESTAMPTZ '2020-01-01 05:00:00+03'"], dt.datetime, [dt.datetime(2020, 1, 1, 2)]),
        (["make_timestamp_ns(1000)"], dt.datetime, [dt.datetime(1970, 1, 1, 0, 0, 0, 1)]),
        (["[1.0::DOUBLE, NULL]", "[]"], list[int], [[1, None], []]),
        (["MAP {'a': 2::HUGEINT}"], dict[str, int], [[("a", 2)]]),
        (["NULL", "'x'"], str | None, [None, "x"]),
    ],
    ids=str,
)
def test_a_value_that_its_type_holds_is_published(
    runner: InProcessRunner, values: list[str], kind: Any, wanted: list[Any]
) -> None:
    assert release(runner, values, kind) == wanted


def test_the_reason_has_the_value_its_changed_form_and_its_row(runner: InProcessRunner) -> None:
    with pytest.raises(
        PublishRefused,
        match=r"; the first is 9007199254740993, "
        r"which would become 9007199254740992\.0, where n = 1",
    ) as caught:
        release(runner, ["1", "9007199254740993::BIGINT", "9007199254740995::BIGINT"], float)
    assert "2 rows" in caught.value.problems[0]


def test_a_bound_is_held_against_the_value_as_the_query_gave_it(runner: InProcessRunner) -> None:
    with pytest.raises(PublishRefused, match=r"v must be > 0: 1 row; the first is -1, where n = 1"):
        release(runner, ["1", "-1"], Annotated[int, Gt(0)])
