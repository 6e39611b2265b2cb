"""Every type of a Parquet column reaches the function exactly, or is refused with file and
column.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import make_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Source
from hundredfold.errors import ContractError, SourceError
from support.in_process import InProcessRunner

T, S = dt.time(1, 2, 3), 3_723 * 10**9  # a time of day, and its nanoseconds
M, NS = dt.datetime(2020, 1, 31, 10, 11, 12), 1_580_465_472 * 10**9  # a moment, and its nanoseconds
UTC = dt.UTC
FAR = dt.datetime(9999, 12, 31)


def arrow(kind: pa.DataType, *values: Any) -> Callable[[Path], None]:
    """Return a file that pyarrow writes."""
    column = (
        pa.array(values, pa.string()).cast(kind)
        if pa.types.is_dictionary(kind)
        else pa.array(values, kind)
    )
    return lambda path: pq.write_table(pa.table({"v": column}), path)


def stored(kind: pa.ExtensionType, *values: Any) -> Callable[[Path], None]:
    """Return a file with a column of an extension type."""
    column = pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return lambda path: pq.write_table(pa.table({"v": column}), path)


def utc(kind: pa.DataType, *values: Any) -> Callable[[Path], None]:
    """Return a file whose times of day are marked as UTC, as pyarrow before 22 and others write
    them.
    """

    def write(path: Path) -> None:
        arrow(kind, *values)(path)
        data = path.read_bytes()
        assert (
            data.count(b"\x7c\x12\x1c") == 1
        )  # in the footer: a TIME, not adjusted to UTC, of a unit
        path.write_bytes(data.replace(b"\x7c\x12\x1c", b"\x7c\x11\x1c"))

    return write


def duck(value: str) -> Callable[[Path], None]:
    """Return a file that DuckDB writes."""
    return lambda path: (
        duckdb.sql(f"COPY (SELECT {value} AS v) TO '{path}' (FORMAT parquet)") and None
    )


def int96(*nanoseconds: int) -> Callable[[Path], None]:
    table = pa.table({"v": pa.array(nanoseconds, pa.timestamp("ns"))})
    return lambda path: pq.write_table(table, path, use_deprecated_int96_timestamps=True)


def far_int96(path: Path) -> None:
    column = pa.array([FAR], pa.timestamp("us"))  # beyond what 64 bits of nanoseconds hold
    pq.write_table(pa.table({"v": column}), path, use_deprecated_int96_timestamps=True)


READ: dict[str, tuple[Callable[[Path], None], list[Any]]] = {
    **{
        f"timestamp {unit}": (arrow(pa.timestamp(unit), M, None), [M, None])
        for unit in ("s", "ms", "us")
    },
    **{
        f"timestamp {unit} UTC": (
            arrow(pa.timestamp(unit, "UTC"), M, None),
            [M.replace(tzinfo=UTC), None],
        )
        for unit in ("s", "ms", "us")
    },
    "timestamp of another zone": (
        arrow(pa.timestamp("us", "Europe/Berlin"), M),
        [M.replace(tzinfo=UTC)],
    ),
    "timestamp ns": (arrow(pa.timestamp("ns"), NS + 1), [NS + 1]),
    "timestamp ns UTC": (arrow(pa.timestamp("ns", "UTC"), NS + 1), [NS + 1]),
    "INT96": (int96(NS + 1000), [M.replace(microsecond=1)]),
    "INT96 far away": (far_int96, [FAR]),
    "time s": (arrow(pa.time32("s"), T, None), [T, None]),
    "time ms": (arrow(pa.time32("ms"), T, None), [T, None]),
    "time us": (arrow(pa.time64("us"), T, None), [T, None]),
    "time ns": (arrow(pa.time64("ns"), S + 1), [S + 1]),
    "time ms marked UTC": (utc(pa.time32("ms"), T, None), [T, None]),
    "time us marked UTC": (utc(pa.time64("us"), T, None), [T, None]),
    "time ns marked UTC": (utc(pa.time64("ns"), S, None), [T, None]),
    "list of times marked UTC": (utc(pa.list_(pa.time64("us")), [T], None), [[T], None]),
    "struct of times marked UTC": (
        duck("{'TIME WITH TIME ZONE': TIMETZ '01:02:03+00'}"),
        [{"TIME WITH TIME ZONE": T}],
    ),
    "map of times marked UTC": (duck("MAP {'a': TIMETZ '01:02:03+00'}"), [[("a", T)]]),
    "date32": (arrow(pa.date32(), M.date()), [M.date()]),
    "date64": (arrow(pa.date64(), M.date()), [M.date()]),
    "decimal 38": (
        arrow(pa.decimal128(38, 3), Decimal("1" * 35 + ".123")),
        [Decimal("1" * 35 + ".123")],
    ),
    "decimal256 of few digits": (arrow(pa.decimal256(20, 3), Decimal("1.125")), [Decimal("1.125")]),
    **{
        f"{kind}": (arrow(kind, 1, None), [1, None])
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32())
    },
    "uint64": (arrow(pa.uint64(), 2**64 - 1), [2**64 - 1]),
    "float16": (arrow(pa.float16(), 1.5), [1.5]),
    "float": (arrow(pa.float32(), 1.5, float("inf")), [1.5, float("inf")]),
    "double": (arrow(pa.float64(), 0.1), [0.1]),
    "boolean": (arrow(pa.bool_(), True, None), [True, None]),
    "text": (arrow(pa.string(), "x", None), ["x", None]),
    "large text": (arrow(pa.large_string(), "x"), ["x"]),
    "text view": (arrow(pa.string_view(), "x"), ["x"]),
    "dictionary": (arrow(pa.dictionary(pa.int32(), pa.string()), "x", "y", "x"), ["x", "x", "y"]),
    "ENUM": (duck("'a'::ENUM('a', 'b')"), ["a"]),
    "UUID": (stored(pa.uuid(), uuid.UUID(int=5).bytes), [str(uuid.UUID(int=5))]),
    "JSON": (stored(pa.json_(), '{"a": 1.10}'), ['{"a": 1.10}']),
    "binary": (arrow(pa.binary(), b"\x00\xff"), [b"\x00\xff"]),
    "binary view": (arrow(pa.binary_view(), b"\x00\xff"), [b"\x00\xff"]),
    "fixed size binary": (arrow(pa.binary(4), b"abc\x00"), [b"abc\x00"]),
    "null": (arrow(pa.null(), None), [None]),
    "list": (arrow(pa.list_(pa.int64()), [1, None], None, []), [[1, None], [], None]),
    "large list": (arrow(pa.large_list(pa.int64()), [1]), [[1]]),
    "fixed size list": (arrow(pa.list_(pa.int64(), 2), [1, 2]), [[1, 2]]),
    "list view": (arrow(pa.list_view(pa.int64()), [1, 2]), [[1, 2]]),
    "struct": (arrow(pa.struct({"a": pa.int64()}), {"a": 1}, None), [{"a": 1}, None]),
    "map": (arrow(pa.map_(pa.string(), pa.int64()), [("a", 1)]), [[("a", 1)]]),
}
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"duration {unit}": (arrow(pa.duration(unit), 5), f"v: duration\\[{unit}\\]")
        for unit in ("s", "ms", "us", "ns")
    },
    "list of durations": (arrow(pa.list_(pa.duration("s")), [5]), "v: list<.*duration"),
    "decimal 40": (arrow(pa.decimal256(40, 3), Decimal("1.5")), "v: 40 digits"),
    "decimal 50 in a list": (
        arrow(pa.list_(pa.decimal256(50, 3)), [Decimal("1.5")]),
        "v: 50 digits",
    ),
    "INT96 with nanoseconds": (int96(NS, NS + 1), "finer than a microsecond in v"),
    "INT96 with nanoseconds far away": (
        lambda path: _far_int96(path),
        "finer than a microsecond in v",
    ),
    "24:00": (duck("TIME '24:00:00'"), "v: 1 row"),
    "24:00 marked UTC": (utc(pa.time64("us"), 86_400 * 10**6), "v: 1 row"),
    "nanoseconds marked UTC": (utc(pa.time64("ns"), S + 1), "finer than a microsecond in v"),
    "24:00 ns": (arrow(pa.time64("ns"), 86_400 * 10**9), "v: 1 row"),
    "beyond the day": (
        lambda path: pq.write_table(pa.table({"v": pa.array([-1]).view(pa.time64("us"))}), path),
        "column v: .*within a day",
    ),
    "milliseconds beyond SQL": (arrow(pa.timestamp("ms"), 10**17), "column v: .*Could not convert"),
}


def _far_int96(path: Path) -> None:
    """Write a column of FAR with one more nanosecond.

    It is a file of pyarrow whose bytes are changed, since pyarrow cannot write it.
    """
    column = pa.array([FAR], pa.timestamp("us"))
    pq.write_table(
        pa.table({"v": column}),
        path,
        use_deprecated_int96_timestamps=True,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    data = path.read_bytes()
    day = (2_440_588 + (FAR.date() - dt.date(1970, 1, 1)).days).to_bytes(4, "little")
    assert data.count(bytes(8) + day) == 1
    path.write_bytes(data.replace(bytes(8) + day, (1).to_bytes(8, "little") + day))


def received(runner: InProcessRunner, path: Path) -> list[Any]:
    """Return the column that a function receives, as Python values; nanoseconds as integers."""
    seen: list[Any] = []

    def work(rows: pa.Table) -> dict[str, int]:
        column = rows.column("v")
        if pa.types.is_temporal(column.type) and getattr(column.type, "unit", "") == "ns":
            column = column.cast(pa.int64())
        seen.extend(column.to_pylist())
        return {"n": rows.num_rows}

    model = Model("m", unit=(), query="SELECT v FROM s", work=work)
    run = runner.start(Job("one", sources=[Source("s")], models=[model]), s=path).all()
    assert not run.failures("m")
    return seen


@pytest.mark.parametrize("name", READ)
def test_a_function_receives_exactly_the_value_of_the_file(
    runner: InProcessRunner, tmp_path: Path, name: str
) -> None:
    write, wanted = READ[name]
    write(tmp_path / "x.parquet")
    assert received(runner, tmp_path / "x.parquet") == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_a_type_that_would_change_is_refused_with_its_column(
    runner: InProcessRunner, tmp_path: Path, name: str
) -> None:
    write, message = REFUSED[name]
    arrow(pa.int64(), 1)(tmp_path / "0.parquet")  # another file, which is not the cause
    (tmp_path / "0.parquet").rename(tmp_path / "other.parquet")
    write(tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=message) as caught:
        received(runner, tmp_path / "x.parquet")
    assert "x.parquet" in str(caught.value) or "24:00" in str(caught.value)
    assert caught.value.hint


TIMES = [
    utc(pa.time64("us"), T),
    utc(pa.time64("ns"), S),
    utc(pa.time32("ms"), T),
    arrow(pa.time64("us"), T),
    arrow(pa.time32("ms"), T),
]


@pytest.mark.parametrize("write", [*TIMES, arrow(pa.time64("ns"), S)])
def test_a_contract_of_times_takes_every_kind_of_time(
    runner: InProcessRunner, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "x.parquet")
    run = runner.source(
        Source("s", contract=make_dataclass("Row", [("v", dt.time)])), tmp_path / "x.parquet"
    )
    run.validate()
    assert run.accepted("s") == [{"v": T}]


def test_times_marked_utc_and_others_are_put_together(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    for number, write in enumerate(TIMES):
        write(tmp_path / f"{number}.parquet")
    run = runner.source(Source("s"), tmp_path)
    run.validate()
    assert run.accepted("s") == [{"v": T}] * len(TIMES)


@pytest.mark.parametrize(
    "write",
    [utc(pa.time64("us"), 86_400 * 10**6), duck("TIME '24:00:00'"), arrow(pa.time64("ns"), S + 1)],
)
def test_a_contract_rejects_a_time_that_python_lacks(
    runner: InProcessRunner, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "x.parquet")
    run = runner.source(
        Source("s", contract=make_dataclass("Row", [("v", dt.time)])), tmp_path / "x.parquet"
    )
    with pytest.raises(ContractError, match="time of day"):
        run.validate()


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_a_contract_of_moments_rejects_nanoseconds(
    runner: InProcessRunner, tmp_path: Path, zone: str | None
) -> None:
    arrow(pa.timestamp("ns", zone), NS + 1, NS + 1000)(tmp_path / "x.parquet")
    run = runner.source(
        Source("s", contract=make_dataclass("Row", [("v", dt.datetime)]), max_rejected=1),
        tmp_path / "x.parquet",
    )
    run.validate()
    assert run.accepted("s") == [{"v": M.replace(microsecond=1)}]


@pytest.mark.parametrize(
    "python", [str, int, float, bool, bytes, Decimal, dt.date, dt.datetime, dt.time, list[int]]
)
def test_a_column_of_no_type_is_null_under_a_contract(
    runner: InProcessRunner, tmp_path: Path, python: Any
) -> None:
    arrow(pa.null(), None, None)(tmp_path / "x.parquet")
    run = runner.source(
        Source("s", contract=make_dataclass("Row", [("v", python | None)])), tmp_path / "x.parquet"
    )
    run.validate()
    assert run.accepted("s") == [{"v": None}] * 2
