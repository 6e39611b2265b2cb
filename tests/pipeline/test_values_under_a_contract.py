"""Values under a contract are exactly those that were written, as text and in typed columns."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pyarrow as pa
import pydantic
import pytest
from annotated_types import Gt
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hundredfold import Source
from hundredfold.errors import ContractError
from support.in_process import InProcessRunner

NUMBER = re.compile(r"[ \t\r\n]*[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?[ \t\r\n]*")
MANY = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def accepted(runner: InProcessRunner, kind: Any, location: Any) -> dict[int, Any]:
    """Return the accepted values of column `it` under a contract, by row number."""
    row = make_dataclass("Row", [("n", int), ("it", kind)])
    run = runner.source(Source("s", row, max_rejected=10**6), location)
    try:
        run.validate()
    except ContractError as error:
        if "rows were rejected" in error.message:
            return {}
        raise
    return {found["n"]: found["it"] for found in run.accepted("s")}


def of_texts(runner: InProcessRunner, kind: Any, texts: list[str], form: str = "csv") -> list[Any]:
    """Return the value of each text under a contract, written as CSV or JSON; None if it is
    rejected.
    """
    path = runner.store.path(f"texts/{uuid4().hex}.{form}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "csv":
        path.write_text(
            "n,it\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts)), newline=""
        )
    else:
        path.write_text(
            "".join(json.dumps({"n": n, "it": text}) + "\n" for n, text in enumerate(texts))
        )
    found = accepted(runner, kind, path)
    return [found.get(n) for n in range(len(texts))]


def of_column(runner: InProcessRunner, kind: Any, values: pa.Array) -> list[Any]:
    found = accepted(runner, kind, pa.table({"n": range(len(values)), "it": values}))
    return [found.get(n) for n in range(len(values))]


# ---- numbers as text

ODD = [
    "inf",
    "-inf",
    "Infinity",
    "nan",
    "NaN",
    "1e400",
    "-1e400",
    "1e-400",
    "0x10",
    "0b11",
    "1_000",
    "1,5",
    "１２",
    "٣",
    "1e",
    "e5",
    "--1",
    "1.5.2",
    "+ 1",
    "$5",
    "5%",
    "1 000",
    "true",
    "1f",
    "1d",
    "\u00a07",
    "9223372036854775808",
    "9007199254740993.4",
    "1125899906842623.04",
    "7.00000000000000000001",
    ".",
    "+",
    "-",
    "1.0_0",
    "1e1_0",
    "0x",
    "1e99999",
    "12345678901234567890123456789012345678901",
    "1٫5",
    "²",
    "NULL",
    "None",
    "1e5.5",
    "٠",
    "0o7",
    "1'000",
    "1/2",
    "∞",
    "-nan",
    "+inf",
]
FINE = [
    "7",
    " 7 ",
    "\t7",
    "+7",
    "-7",
    "007",
    "7.0",
    "7.",
    ".5",
    "0.5",
    "-0",
    "-0.0",
    "1e3",
    "1E3",
    "1.5e1",
    "15e-1",
    "150e-1",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "9007199254740993.0",
    "1e18",
    "1.23456789012345e+18",
    "0.1000000000000000055511151231257827",
    "1e22",
    "1e308",
    "5e-324",
    "0e999",
    "0.000000001",
    "1.10",
    "123456789012345.678",
]
digits = st.text("0123456789", min_size=1, max_size=22)
numeral = st.builds(
    lambda sign, whole, point, part, power: f"{sign}{whole}{point}{part}{power}",
    st.sampled_from(["", "", "-", "+"]),
    digits | st.just(""),
    st.sampled_from(["", ".", "_", ","]),
    digits | st.just(""),
    st.sampled_from(["", "", ""])
    | st.integers(-30, 30).map(lambda n: f"e{n}")
    | st.integers(0, 20).map(lambda n: f"E+{n}"),
)
wild = st.text("0123456789.eE+-_xXinfa, ", min_size=1, max_size=9)
texts = st.lists(
    numeral | wild | st.integers(-(2**64), 2**64).map(str) | st.floats(allow_nan=False).map(repr),
    min_size=5,
    max_size=40,
)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@MANY
@given(written=texts)
@example(written=[*ODD, *FINE])
def test_a_number_in_a_text_is_accepted_as_it_is_written_or_rejected(
    runner: InProcessRunner, form: str, written: list[str]
) -> None:
    exact = [
        Decimal(text.strip()) if NUMBER.fullmatch(text) and text.isascii() else None
        for text in written
    ]

    class Exact(pydantic.BaseModel):
        n: int
        it: Decimal = pydantic.Field(max_digits=38, decimal_places=9)

    for text, value, found in zip(
        written, exact, of_texts(runner, float, written, form), strict=True
    ):
        near = float(value) if value is not None else math.inf
        wanted = near if math.isfinite(near) and (near or not value) else None
        assert repr(found) == repr(wanted), (text, found)
    for text, value, found in zip(
        written, exact, of_texts(runner, int, written, form), strict=True
    ):
        assert found is None or found == value, (text, found)
        if re.fullmatch(r" *[+-]?[0-9]+(\.0*)? *", text) and -(2**63) <= int(Decimal(text)) < 2**63:
            assert found == value, text
    for text, value, found in zip(
        written, exact, of_texts(runner, Decimal, written, form), strict=True
    ):
        assert found is None or found == value, (text, found)
        if re.fullmatch(r"-?[0-9]{1,29}(\.[0-9]{0,9})?", text):
            assert found == value, text


def test_odd_numbers_are_rejected_and_fine_ones_are_not(runner: InProcessRunner) -> None:
    as_float = of_texts(runner, float, [*ODD, *FINE])
    numbers = {
        "9223372036854775808",
        "9007199254740993.4",
        "1125899906842623.04",
        "7.00000000000000000001",
        "12345678901234567890123456789012345678901",
    }
    assert [
        text for text, found in zip(ODD, as_float[: len(ODD)], strict=True) if found is not None
    ] == [t for t in ODD if t in numbers]
    assert None not in as_float[len(ODD) :]
    as_int = of_texts(runner, int, [*ODD, *FINE])
    assert set(as_int[: len(ODD)]) == {None}
    assert as_int[len(ODD) : len(ODD) + 8] == [7, 7, 7, 7, -7, 7, 7, 7]


def test_infinity_is_a_value_only_where_the_contract_allows_it(runner: InProcessRunner) -> None:
    column, written = (
        pa.array([1.5, math.inf, -math.inf, math.nan]),
        ["1.5", "inf", "-Infinity", "nan", "1e400", "1_0"],
    )
    assert of_column(runner, Annotated[float, Gt(0)], column) == [1.5, None, None, None]
    assert of_texts(runner, Annotated[float, Gt(0)], written) == [1.5, None, None, None, None, None]
    assert of_texts(runner, float, written) == [1.5, None, None, None, None, None]
    allowed = Annotated[float, pydantic.AllowInfNan(True), Gt(0)]
    assert of_column(runner, allowed, column)[:3] == [1.5, math.inf, None]
    assert of_texts(runner, allowed, written)[:3] == [1.5, math.inf, None]
    assert of_texts(runner, allowed, written)[4:] == [None, None]
    assert of_column(runner, Annotated[float, pydantic.AllowInfNan(False)], column) == [
        1.5,
        None,
        None,
        None,
    ]
    assert (
        str(of_column(runner, float, column)) == "[1.5, inf, -inf, nan]"
    )  # a column of floats without a rule keeps what it holds


# ---- numbers in columns that have a type

BIG = [0, 1, -5, 2**53, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 9007199254740995]


def test_whole_numbers_become_floats_only_without_loss(runner: InProcessRunner) -> None:
    found = of_column(runner, float, pa.array(BIG, pa.int64()))
    assert found == [float(n) if int(float(n)) == n and float(n) < 2**63 else None for n in BIG]
    big = [n for n in BIG if n >= 0] + [2**64 - 1]
    assert of_column(runner, float, pa.array(big, pa.uint64())) == [
        float(n) if int(float(n)) == n and float(n) < 2**64 else None for n in big
    ]
    assert of_column(runner, int, pa.array(big, pa.uint64())) == [
        n if n < 2**63 else None for n in big
    ]
    assert of_column(runner, float, pa.array([1, 2**31 - 1], pa.int32())) == [1.0, 2.0**31 - 1]


def test_decimals_become_other_numbers_only_without_loss(runner: InProcessRunner) -> None:
    values = [
        Decimal(t)
        for t in (
            "1.5",
            "0.123456789",
            "9007199254740993.5",
            "9007199254740993",
            "12345678901234567890.123456789",
            "7",
        )
    ]
    column = pa.array(values, pa.decimal128(38, 9))
    assert of_column(runner, float, column) == [1.5, 0.123456789, None, None, None, 7.0]
    assert of_column(runner, int, column) == [None, None, None, 9007199254740993, None, 7]
    assert of_column(
        runner, float, pa.array([Decimal("1234567890123.1")], pa.decimal128(38, 9))
    ) == [1234567890123.1]
    short = of_column(
        runner,
        Annotated[Decimal, pydantic.Field(max_digits=10, decimal_places=2)],
        pa.array(values, pa.decimal128(38, 9)),
    )
    assert short == [Decimal("1.5"), None, None, None, None, 7]


@MANY
@given(values=st.lists(st.floats(), min_size=1, max_size=20))
def test_floats_become_other_numbers_only_without_loss(
    runner: InProcessRunner, values: list[float]
) -> None:
    values = [
        *values,
        1234567890123.1,
        0.1,
        1e22,
        2.0**63,
        -(2.0**63),
        9007199254740993.0,
        1e-10,
        1.5,
    ]
    for value, found in zip(values, of_column(runner, int, pa.array(values)), strict=True):
        assert found == (
            int(value)
            if math.isfinite(value) and value.is_integer() and -(2**63) <= value < 2**63
            else None
        ), value
    for value, found in zip(values, of_column(runner, Decimal, pa.array(values)), strict=True):
        assert found is None or found == Decimal(repr(value)), value
        if re.fullmatch(r"-?[0-9]{1,14}\.[0-9]{1,9}", repr(value)):
            assert found is not None, value


def test_lists_of_numbers_become_others_only_without_loss(runner: InProcessRunner) -> None:
    assert of_column(runner, list[int], pa.array([[1.0], [1.5], [2.0**60], [math.nan], []])) == [
        [1],
        None,
        [2**60],
        None,
        [],
    ]
    assert of_column(runner, list[float], pa.array([[1], [2**53 + 1], [None]])) == [
        [1.0],
        None,
        [None],
    ]


# ---- dates and times

DAYS = {
    "2020-01-31": dt.date(2020, 1, 31),
    "2020-1-3": dt.date(2020, 1, 3),
    "9999-12-31": dt.date(9999, 12, 31),
    "0001-01-01": dt.date(1, 1, 1),
    "infinity": None,
    "-infinity": None,
    "20260-01-31": None,
    "0000-00-00": None,
    "0000-01-01": None,
    "0044-03-15 (BC)": None,
    "-2020-01-01": None,
    "290000-01-01": None,
    "10000-01-01": None,
    "2025-02-30": None,
    "2020-01-01 24:00:00": None,
    "2020-01-01 10:00": None,
    "2020-01-01 00:00:00": dt.date(2020, 1, 1),
    "epoch1": None,
    "today": None,
}
TIMES = {
    "2020-01-31 10:00": dt.datetime(2020, 1, 31, 10),
    "2020-01-31": dt.datetime(2020, 1, 31),
    "infinity": None,
    "-infinity": None,
    "20260-01-31 10:00": None,
    "0000-01-01 00:00": None,
    "0044-03-15 (BC) 10:00:00": None,
    "2020-01-01 24:00:00": None,
    "2020-01-01T24:00": None,
    "2020-01-01 23:59:60": None,
    "9999-12-31 23:59:59.999999": dt.datetime.max,
    "9999-12-31T23:00:00-05:00": None,
    "0001-01-01T00:00:00+14:00": None,
    "2020-01-01 10:00:00.1234567": None,
    "2020-01-01 10:00:00.1234560": dt.datetime(2020, 1, 1, 10, 0, 0, 123456),
    "290000-01-01": None,
    "0000-00-00 00:00:00": None,
}
CLOCKS = {
    "12:30": dt.time(12, 30),
    "07:05:09.5": dt.time(7, 5, 9, 500000),
    "24:00": None,
    "24:00:00": None,
    "23:59:60": None,
    "12:30:00.1234567": None,
    "12:30:00+02": None,
    "12:30:00.1234560": dt.time(12, 30, 0, 123456),
    "2020-01-01 12:30": None,
    "12:30 PM": None,
    "5": None,
    "-1:00": None,
    "epoch": None,
    "25:00": None,
    "12:60": None,
    "7:5": dt.time(7, 5),
}


@pytest.mark.parametrize(
    ("kind", "values"), [(dt.date, DAYS), (dt.datetime, TIMES), (dt.time, CLOCKS)]
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_date_that_python_lacks_costs_its_row(
    runner: InProcessRunner, form: str, kind: Any, values: dict[str, Any]
) -> None:
    assert dict(zip(values, of_texts(runner, kind, list(values), form), strict=True)) == values


def test_a_date_that_python_lacks_costs_its_row_in_a_column_of_dates(
    runner: InProcessRunner,
) -> None:
    days = pa.array([0, 3_000_000, -800_000, None, 2**31 - 1, -(2**31) + 1], pa.int32()).view(
        pa.date32()
    )
    assert of_column(runner, dt.date | None, days) == [dt.date(1970, 1, 1), *[None] * 5]
    assert of_column(runner, dt.datetime | None, days) == [dt.datetime(1970, 1, 1), *[None] * 5]
    for unit, year in (("us", 31_556_952_000_000), ("ms", 31_556_952_000), ("s", 31_556_952)):
        times = pa.array([0, 9000 * year, -2000 * year], pa.int64()).view(pa.timestamp(unit))
        assert of_column(runner, dt.datetime, times) == [dt.datetime(1970, 1, 1), None, None]
        assert of_column(runner, dt.date, times) == [dt.date(1970, 1, 1), None, None]
    clocks = pa.array([0, 86_399_999_999, 86_400_000_000], pa.int64()).view(pa.time64("us"))
    assert of_column(runner, dt.time, clocks) == [dt.time(0), dt.time.max, None]
    assert of_column(runner, dt.time, pa.array([1000, 1001], pa.int64()).view(pa.time64("ns"))) == [
        dt.time(0, 0, 0, 1),
        None,
    ]


@dataclass
class Dated:
    day: dt.date


def test_the_reason_describes_a_valid_date(runner: InProcessRunner, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("day\n2020-01-31\ninfinity\n")
    with pytest.raises(
        ContractError, match=r"day  must be a date  1 row   first: row 2 \(infinity\)"
    ):
        runner.source(Source("s", Dated), tmp_path / "a.csv").validate()
    days = pa.array([0, 3_000_000], pa.int32()).view(pa.date32())
    with pytest.raises(
        ContractError,
        match=r"day  must be a date of the years 1 to 9999  1 row   first: row 2 \(10183-09-21\)",
    ):
        runner.source(Source("s", Dated), pa.table({"day": days})).validate()


@pytest.mark.parametrize(
    "text",
    [
        "infinity",
        "20260-01-31",
        "0000-01-01",
        "0044-03-15 (BC)",
        "0000-00-00",
        "2020-01-01 24:00:00",
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_without_a_contract_dates_that_python_lacks_stay_text(
    runner: InProcessRunner, tmp_path: Path, text: str
) -> None:
    plain = "2020-01-31" if len(text) < 16 else f"2020-01-31 10:00:00{text[19:]}"
    (tmp_path / "a.csv").write_text(f"day\n{plain}\n{text}\n")
    run = runner.source(Source("s"), tmp_path / "a.csv")
    run.validate()
    assert [row["day"] for row in run.accepted("s")] == [plain, text]
