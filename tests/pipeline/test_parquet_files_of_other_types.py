"""Parquet files of one source with other types: exact values, or the source is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Source
from hundredfold.errors import SourceError
from support.in_process import InProcessRunner


def read(runner: InProcessRunner, folder: Path, *columns: pa.Array) -> list[Any]:
    for number, column in enumerate(columns):
        pq.write_table(pa.table({"a": column}), folder / f"{number}.parquet")
    run = runner.source(Source("s"), folder)
    run.validate()
    return [row["a"] for row in run.accepted("s")]


BIG, DAY, MOMENT = 2**53 + 1, dt.date(2020, 1, 31), dt.datetime(2020, 1, 31, 10)
TOGETHER = [
    ([1, 2**53], pa.int64(), [1.5], pa.float64()),
    ([1], pa.int32(), [BIG], pa.int64()),
    ([1], pa.uint64(), [-5], pa.int64()),
    ([1.5], pa.float32(), [0.1], pa.float64()),
    ([Decimal("1.25")], pa.decimal128(10, 2), [0.5], pa.float64()),
    ([Decimal("1.25")], pa.decimal128(10, 2), [Decimal("1.255")], pa.decimal128(12, 3)),
    ([DAY], pa.date32(), [MOMENT], pa.timestamp("us")),
    ([MOMENT], pa.timestamp("ms"), [MOMENT], pa.timestamp("us")),
    (["x"], pa.string(), ["y"], pa.dictionary(pa.int32(), pa.string())),
    ([None], pa.int32(), ["x"], pa.string()),
    ([None], pa.null(), ["x"], pa.string()),
    ([[1]], pa.list_(pa.int32()), [[BIG]], pa.list_(pa.int64())),
    (["x"], pa.large_string(), ["y"], pa.string()),
    ([1, 2**24], pa.int32(), [1.5], pa.float32()),
]
APART = [
    ([1, BIG], pa.int64(), [1.5], pa.float64(), str(BIG)),
    ([2**63 + 1], pa.uint64(), [0.5], pa.float64(), str(2**63 + 1)),
    ([2**24 + 1], pa.int32(), [1.5], pa.float32(), str(2**24 + 1)),
    (
        [Decimal("12345678901234567.89")],
        pa.decimal128(20, 2),
        [0.5],
        pa.float64(),
        "12345678901234567.89",
    ),
    ([1], pa.int64(), ["07"], pa.string(), "cannot be combined"),
    ([True], pa.bool_(), [1], pa.int64(), "cannot be combined"),
    ([DAY], pa.date32(), ["x"], pa.string(), "cannot be combined"),
    ([MOMENT], pa.timestamp("us"), [MOMENT], pa.timestamp("us", "UTC"), "cannot be combined"),
    ([b"x"], pa.binary(), ["x"], pa.string(), "cannot be combined"),
    ([[1]], pa.list_(pa.int64()), [1], pa.int64(), "cannot be combined"),
    ([[BIG]], pa.list_(pa.int64()), [[0.5]], pa.list_(pa.float64()), str(BIG)),
    ([dt.datetime(3000, 1, 1)], pa.timestamp("us"), [MOMENT], pa.timestamp("ns"), "3000-01-01"),
]


@pytest.mark.parametrize(("first", "kind", "second", "other"), TOGETHER)
@pytest.mark.parametrize("turned", [False, True])
def test_types_are_put_together_where_no_value_changes(
    runner: InProcessRunner,
    tmp_path: Path,
    first: Any,
    kind: Any,
    second: Any,
    other: Any,
    turned: bool,
) -> None:
    columns = [
        pa.array(first, kind),
        pa.array(second, pa.string()).cast(other)
        if pa.types.is_dictionary(other)
        else pa.array(second, other),
    ]
    found = read(runner, tmp_path, *(reversed(columns) if turned else columns))
    wanted = [*first, *second]
    if DAY in wanted:
        found = [value.date() if value == dt.datetime(2020, 1, 31) else value for value in found]
    assert sorted(map(repr, found)) == sorted(map(repr, wanted)) or sorted(found) == sorted(wanted)


@pytest.mark.parametrize(("first", "kind", "second", "other", "message"), APART)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_would_change_a_value_are_refused(
    runner: InProcessRunner,
    tmp_path: Path,
    first: Any,
    kind: Any,
    second: Any,
    other: Any,
    message: str,
    turned: bool,
) -> None:
    columns = [pa.array(first, kind), pa.array(second, other)]
    with pytest.raises(SourceError, match=message) as caught:
        read(runner, tmp_path, *(reversed(columns) if turned else columns))
    assert caught.value.hint
    assert ".parquet" in str(caught.value)
