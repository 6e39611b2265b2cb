"""Sources of every kind and their contracts: accepted rows, rejected rows with reasons, equal
totals.
"""

from __future__ import annotations

import datetime as dt
import enum
import gzip
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Source
from hundredfold.contract import read_contract
from hundredfold.errors import ContractError, JobError, SourceError
from hundredfold.pipeline.source_findings import MAX_STORED_BAD_ROWS
from support.in_process import AS_OF, InProcessRun, InProcessRunner


class Segment(enum.Enum):
    BUSINESS = "business"
    HOME = "Rev. {A}"


@dataclass
class Sale:
    price: Annotated[float, Gt(0)]
    segment: Segment
    code: Annotated[str, re.compile(r"v.\d{3}")]
    day: dt.date
    count: int | None


@dataclass
class Price:
    price: Annotated[float, Gt(0)]


GOOD: dict[str, Any] = {
    "price": 1.5,
    "segment": "Rev. {A}",
    "code": "vx123",
    "day": dt.date(2025, 1, 1),
    "count": 1,
}
HEAD = "price,segment,code,day,count\n"
LINE = "1.5,business,vx123,2025-01-01,1\n"


def table(*changes: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([GOOD | change for change in changes])


def check(runner: InProcessRunner, source: Source, location: Any) -> tuple[Any, InProcessRun]:
    run = runner.source(source, location)
    (result,) = run.validate()
    rejects = run.rejects(source.name) if result.rejected or result.dropped else []
    assert result.rows == result.accepted + result.rejected + result.dropped
    assert len(rejects) == result.rejected + result.dropped
    assert sum(row["__counts"] for row in rejects) == result.rejected
    assert len(run.accepted(source.name)) == result.accepted
    return result, run


def reasons(run: InProcessRun, source: str) -> list[tuple[int, str]]:
    return [(row["__row"], row["__reason"]) for row in run.rejects(source)]


# --- wherever the rows are
# ---------------------------------------------------------------------------------------------


def test_frames_in_memory_are_sources(runner: InProcessRunner) -> None:
    named = pd.DataFrame([GOOD, GOOD]).set_index("code")
    for frame in (
        table({}, {}),
        pd.DataFrame([GOOD, GOOD]),
        pl.DataFrame([GOOD, GOOD]),
        named,
        table({}, {}).to_batches()[0],
    ):
        _, run = check(runner, Source("sales", Sale), frame)
        assert {tuple(sorted(row.items())) for row in run.accepted("sales")} == {
            tuple(sorted(GOOD.items()))
        }


def test_files_of_every_kind_are_sources(runner: InProcessRunner, tmp_path: Path) -> None:
    json = (
        '{"price": 1.5, "segment": "business", "code": "vx123", "day": "2025-01-01", "count": 1}\n'
    )
    (tmp_path / "a.csv").write_text(HEAD + LINE)
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + (HEAD + LINE).replace("\n", "\r\n").encode())
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress((HEAD + LINE).encode()))
    (tmp_path / "d.tsv").write_text((HEAD + LINE).replace(",", "\t"))
    (tmp_path / "e.jsonl").write_text(json)
    (tmp_path / "f.ndjson.gz").write_bytes(gzip.compress(json.encode()))
    pq.write_table(table({"segment": "business"}), tmp_path / "g.parquet")
    for path in sorted(tmp_path.iterdir()):
        _, run = check(runner, Source("sales", Sale), path)
        assert run.accepted("sales") == [GOOD | {"segment": "business"}], path.name


def test_a_folder_or_glob_is_all_its_files_and_each_counts_its_own_rows(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.csv").write_text(
            HEAD + LINE + (LINE.replace("1.5", "-1") if name != "a" else "")
        )
    for location in (tmp_path, tmp_path / "*.csv"):
        result, run = check(runner, Source("sales", Sale, max_rejected=2), location)
        assert (result.rows, result.accepted) == (5, 3)
        assert [(Path(row["__file"]).name, row["__row"]) for row in run.rejects("sales")] == [
            ("b.csv", 2),
            ("c.csv", 2),
        ]


def test_quoted_newlines_and_missing_values_are_values(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text('word,n\n"two\nlines",1\n"a ""quote""",\n')
    _, run = check(runner, Source("notes"), tmp_path / "a.csv")
    assert run.accepted("notes") == [
        {"word": "two\nlines", "n": 1},
        {"word": 'a "quote"', "n": None},
    ]


def test_malformed_lines_are_rejected_and_counted_once(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(
        HEAD + LINE + "1.5,business\n" + LINE.replace("\n", ",6,7\n") + LINE
    )
    result, run = check(runner, Source("sales", Sale, max_rejected=2), tmp_path / "a.csv")
    assert (result.rows, result.accepted, result.rejected) == (4, 2, 2)
    caught = sorted(row["__reason"] for row in run.rejects("sales"))
    assert [text[:17] for text in caught] == ["malformed line 3:", "malformed line 4:"]
    with pytest.raises(
        ContractError,
        match=r"2 of 4 rows break its contract.*\n"
        r"  \(line\)  must have the header's columns  2 rows   first: row 3 \(1.5,business\)",
    ):
        check(runner, Source("sales", Sale), tmp_path / "a.csv")


def test_a_parquet_file_that_breaks_nothing_is_read_in_place(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    pq.write_table(table({}, {}), tmp_path / "a.parquet")
    result, run = check(runner, Source("sales", Sale), tmp_path / "a.parquet")
    assert [entry[0] for entry in result.files] == [str((tmp_path / "a.parquet").resolve())]
    pq.write_table(table({}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="sales has changed since the run began"):
        run.validate()
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(SourceError, match="existed when the run began, and is gone"):
        run.validate()


BAD_LOCATIONS = {
    "nope.csv": "there is no file",
    "*.nope": "no file matches",
    "empty": "there is no Parquet, CSV or JSON-lines file in the folder",
    "mixed": "its files are of several kinds: csv, json",
    "a.xlsx": r"the kind of 1 file\(s\) is not known",
    "zero.csv": "sales is empty",
    "head.csv": "sales is empty",
    "bad.jsonl": r"cannot be read as json: line 2 of .*bad\.jsonl is no JSON object: no",
    "rejects.csv": r"sales has the columns __file, __row, __reason, "
    r"and names that begin with __ are reserved",
    "rows.csv": r"sales has the columns __row, and names that begin with __ are reserved",
    "bad.parquet": "cannot be read as Parquet",
}


@pytest.mark.parametrize("location", BAD_LOCATIONS)
def test_a_location_that_cannot_be_read_is_an_error(
    runner: InProcessRunner, tmp_path: Path, location: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for name, text in {
        "mixed/a.csv": "a\n1\n",
        "mixed/b.json": "{}",
        "a.xlsx": "x",
        "zero.csv": "",
        "head.csv": HEAD,
        "bad.jsonl": '{"a": 1}\nno\n{"a": 2}\n',
        "rejects.csv": "__file,__row,__reason,a\nx,1,no,2\n",
        "rows.csv": "__row,a\n1,2\n",
        "bad.parquet": "no",
    }.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=BAD_LOCATIONS[location]) as caught:
        runner.source(Source("sales"), tmp_path / location).validate()
    assert caught.value.hint
    assert "SELECT" not in str(caught.value)


def test_an_object_that_is_not_a_table_is_an_error(runner: InProcessRunner) -> None:
    with pytest.raises(SourceError, match=r"sales: builtins\.int is no path and no table"):
        runner.source(Source("sales"), 3).validate()
    with pytest.raises(SourceError, match="several types in one column"):
        runner.source(Source("sales"), pd.DataFrame({"a": [1, "x"]})).validate()


def test_a_frame_that_would_become_another_is_refused(runner: InProcessRunner) -> None:
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    frames: list[tuple[Any, str]] = [
        (
            pd.DataFrame({"p": pd.period_range("2020-01", periods=2, freq="M")}),
            r"1 column\(s\) have a type that would become another\n  p: ",
        ),
        (pd.DataFrame({"t": pd.to_timedelta([1, 2], unit="s")}), "t: duration"),
        (pa.table({"d": pa.array([Decimal(1)], pa.decimal256(50, 2))}), "d: decimal256"),
        (twice, "several columns named a"),
        (pa.table([[1], [2]], names=["a", "a"]), "several columns named a"),
        (pd.Series([1, 2]), "Series is no path and no table"),
        (pl.Series([1, 2]), "Series is no path and no table"),
        ({"a": [1], "b": [1, 2]}, "dict cannot be converted to a table"),
        (["a.csv", "b.csv"], "list is no path and no table"),
        (
            pd.DataFrame({"__row": [1], "__reason": ["x"]}),
            "columns __row, __reason, and names that begin with __ are reserved",
        ),
    ]
    for frame, message in frames:
        with pytest.raises(SourceError, match=message) as caught:
            runner.source(Source("sales"), frame).validate()
        assert caught.value.hint


def test_categories_of_polars_are_texts(runner: InProcessRunner) -> None:
    frame = pl.DataFrame({"a": ["x", "y", None]}, schema={"a": pl.Categorical}).with_columns(
        b=pl.col("a").cast(pl.Enum(["x", "y"]))
    )
    _, run = check(runner, Source("s"), frame)
    assert run.accepted("s") == [
        {"a": "x", "b": "x"},
        {"a": "y", "b": "y"},
        {"a": None, "b": None},
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    for name, value in {"a[1].csv": 1, "a1.csv": 2, "a*.csv": 3, "B.CSV.GZ": 4}.items():
        text = f"x\n{value}\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("GZ") else text)
        _, run = check(runner, Source("s"), tmp_path / name)
        assert run.accepted("s") == [{"x": value}]


# --- CSV without a contract
# ----------------------------------------------------------------------------------------------

MOMENT = dt.datetime(2020, 1, 1, 10, tzinfo=dt.UTC)
SETTLED: list[tuple[list[str], list[Any]]] = [
    (["1", "-20"], [1, -20]),
    (["9223372036854775807", "1"], [9223372036854775807, 1]),
    (["1", "2.50"], [1.0, 2.5]),
    (["0.30000000000000004", "1e-05", "-7"], [0.30000000000000004, 1e-05, -7.0]),
    (
        ["12345678901234567890", "12345678901234567891"],
        ["12345678901234567890", "12345678901234567891"],
    ),
    (["9007199254740993", "1.5"], ["9007199254740993", "1.5"]),
    (["1E5", "2E10", "100000"], ["1E5", "2E10", "100000"]),
    (["1e5", "100000"], ["1e5", "100000"]),
    (["007", "7"], ["007", "7"]),
    (["+7", "7"], ["+7", "7"]),
    (["00.5", "0.5"], ["00.5", "0.5"]),
    (["nan", "1.5"], ["nan", "1.5"]),
    (["inf", "1"], ["inf", "1"]),
    (["0x10", "1_000"], ["0x10", "1_000"]),
    (["true", "false"], [True, False]),
    (["true", "no"], ["true", "no"]),
    (["05/06/2020", "06/05/2020"], ["05/06/2020", "06/05/2020"]),
    (["2020-01-31", "2020-02-01"], [dt.date(2020, 1, 31), dt.date(2020, 2, 1)]),
    (["2020-02-30", "2020-02-01"], ["2020-02-30", "2020-02-01"]),
    (
        ["2020-01-01 10:00", "2020-01-01T10:00:00.5"],
        [dt.datetime(2020, 1, 1, 10), dt.datetime(2020, 1, 1, 10, 0, 0, 500000)],
    ),
    (["2020-01-01T10:00:00Z", "2020-01-01T12:00:00+02:00"], [MOMENT, MOMENT]),
    (
        ["2020-01-01T10:00:00Z", "2020-01-01T12:00:00"],
        ["2020-01-01T10:00:00Z", "2020-01-01T12:00:00"],
    ),
]


@pytest.mark.parametrize(("texts", "values"), SETTLED)
def test_csv_without_a_contract_changes_no_value(
    runner: InProcessRunner, tmp_path: Path, texts: list[str], values: list[Any]
) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{text},\n" for text in [*texts, ""]))
    _, run = check(runner, Source("s"), tmp_path / "a.csv")
    found = [row["a"] for row in run.accepted("s")]
    assert found == [*values, None]
    assert list(map(type, found[:-1])) == list(map(type, values))


def test_the_files_of_one_source_settle_their_types_together(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("k\n1\n")
    (tmp_path / "b.csv").write_text("k\n01\n")
    _, run = check(runner, Source("s"), tmp_path)
    assert sorted(row["k"] for row in run.accepted("s")) == ["01", "1"]


# --- contracts
# --------------------------------------------------------------------------------------------------

BROKEN = [
    ({"price": -1.0}, "price must be > 0"),
    ({"price": 0.0}, "price must be > 0"),
    ({"price": math.nan}, "price must not be NaN or infinite"),
    ({"price": None}, "price must not be null"),
    ({"segment": None}, "segment must not be null"),
    ({"segment": "Rev. A"}, "segment must be one of business, Rev. {A}"),
    ({"code": "vx12"}, r"code must match v.\d{3}"),
    ({"code": "avx123"}, r"code must match v.\d{3}"),
    ({"day": None}, "day must not be null"),
    (
        {"day": None, "code": "x", "price": -2.0},
        r"price must be > 0; code must match v.\d{3}; day must not be null",
    ),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_a_bad_row_is_rejected_with_all_its_reasons(
    runner: InProcessRunner, change: dict[str, Any], reason: str
) -> None:
    _, run = check(
        runner,
        Source("sales", Sale, max_rejected=1),
        table({}, change, {"count": None, "price": 9.0}),
    )
    assert reasons(run, "sales") == [(2, reason)]


TEXTS = [
    ("2.5.", "price", "price must be a number"),
    ("2025-02-30", "day", "day must be a date"),
    ("2025-02-03 10:00", "day", "day must be a date"),
    ("1.5", "count", "count must be a whole number"),
    ("x", "count", "count must be a whole number"),
    ("", "price", "price must not be null"),
]


@pytest.mark.parametrize(("text", "column", "reason"), TEXTS)
def test_a_text_that_is_no_value_of_its_column_is_rejected_unchanged(
    runner: InProcessRunner, tmp_path: Path, text: str, column: str, reason: str
) -> None:
    values = dict(zip(HEAD.strip().split(","), LINE.strip().split(","), strict=True)) | {
        column: text
    }
    (tmp_path / "a.csv").write_text(HEAD + LINE + ",".join(values.values()) + "\n")
    _, run = check(runner, Source("sales", Sale, max_rejected=1), tmp_path / "a.csv")
    assert reasons(run, "sales") == [(2, reason)]
    assert run.rejects("sales")[0][column] == (text or None)


def test_a_time_with_an_offset_is_that_moment_in_utc(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    @dataclass
    class Row:
        at: dt.datetime

    (tmp_path / "a.csv").write_text(
        "at\n2020-01-01T00:00:00+02:00\n2020-01-01 "
        "00:00:00Z\n2020-01-01\n2026-01-01T01:00:00+02:00\n2025-12-31T23:30:00-01:00\n"
    )
    _, run = check(runner, Source("s", Row, not_future=["at"], max_rejected=1), tmp_path / "a.csv")
    midnight = dt.datetime(2020, 1, 1)
    late = dt.datetime(2025, 12, 31, 23)
    assert [row["at"] for row in run.accepted("s")] == [
        midnight - dt.timedelta(hours=2),
        midnight,
        midnight,
        late,
    ]
    assert reasons(run, "s") == [(5, "at must not be after 2026-01-01")]


def test_a_decimal_with_more_places_than_its_column_is_rejected(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    class Row(pydantic.BaseModel):
        price: Decimal = pydantic.Field(max_digits=8, decimal_places=2)

    (tmp_path / "a.csv").write_text("price\n1.50\n1.005\n1.5000\n1e-3\n1e2\nx\n")
    _, run = check(runner, Source("s", Row, max_rejected=3), tmp_path / "a.csv")
    assert reasons(run, "s") == [
        (n, "price must be a decimal of at most 2 places") for n in (2, 4, 6)
    ]
    for values in ([1.5, 1.005, 1e-05], [Decimal("1.500"), Decimal("1.005"), Decimal("0.001")]):
        _, run = check(runner, Source("s", Row, max_rejected=2), pa.table({"price": values}))
        assert [row["price"] for row in run.accepted("s")] == [Decimal("1.50")]


def test_a_time_column_cuts_no_nanoseconds(runner: InProcessRunner, tmp_path: Path) -> None:
    @dataclass
    class Row:
        at: dt.datetime

    (tmp_path / "a.csv").write_text(
        "at\n2020-01-01 00:00:00.123456\n2020-01-01 00:00:00.123456789\n"
    )
    for location in (
        pa.table({"at": pa.array([1_000, 1_001], pa.timestamp("ns"))}),
        tmp_path / "a.csv",
    ):
        _, run = check(runner, Source("s", Row, max_rejected=1), location)
        assert reasons(run, "s") == [(2, "at must be a time of at most 6 decimals")]


def test_a_date_column_takes_no_time_of_day(runner: InProcessRunner) -> None:
    @dataclass
    class Row:
        day: dt.date

    _, run = check(
        runner,
        Source("s", Row, max_rejected=1),
        pa.table({"day": [dt.datetime(2025, 1, 1), dt.datetime(2025, 1, 1, 5)]}),
    )
    assert run.accepted("s") == [{"day": dt.date(2025, 1, 1)}]


def test_the_error_shows_every_broken_check_with_its_rows(
    runner: InProcessRunner,
) -> None:
    rows = table({}, {"price": -4.0}, {"price": -1.0}, {"segment": None})
    with pytest.raises(ContractError) as caught:
        runner.source(Source("sales", Sale), rows).validate()
    assert str(caught.value).splitlines() == [
        "sales cannot be run: 3 of 4 rows break its contract, and the limit is 0",
        "  price    must be > 0       2 rows   first: row 2 (-4.0)",
        "  segment  must not be null  1 row    first: row 4 (null)",
    ]
    assert "rejects/sales.parquet, or allow them with --max-rejected sales=3" in str(
        caught.value.hint
    )


def test_bad_rows_beyond_those_that_are_stored_are_found_in_the_source(
    runner: InProcessRunner,
) -> None:
    """As many rows as one more than are kept in a table of their own."""
    rows = MAX_STORED_BAD_ROWS + 2
    prices = np.full(rows, -1.5)
    prices[7] = 2.5
    prices[-1] = -7.5
    (result,) = runner.source(
        Source("prices", Price, max_rejected=rows), pa.table({"price": prices})
    ).validate()
    assert (result.rows, result.accepted, result.rejected) == (rows, 1, rows - 1)
    (finding,) = result.findings
    assert (finding.rows, finding.row, finding.value) == (rows - 1, 1, "-1.5")


def test_all_missing_and_wrong_columns_are_reported_at_once(runner: InProcessRunner) -> None:
    with pytest.raises(SourceError) as caught:
        runner.source(
            Source("sales", Sale, not_future=["when"]),
            pa.table({"price": ["x"], "segment": ["y"], "count": [1.0]}),
        ).validate()
    assert (
        caught.value.message
        == "sales does not have the columns that its contract wants; it has price, segment, count"
    )
    assert caught.value.problems == (
        "price: wanted double, found string",
        "code: wanted string, and there is no such column",
        "day: wanted date32[day], and there is no such column",
        "when: named by a check of the source, and there is no such column",
    )


@dataclass
class Younger(Sale):
    """A contract that has grown since the files were written."""

    margin: Annotated[float, Gt(0)] | None = None
    note: str | None = None


def test_a_column_with_the_default_none_may_be_missing_and_is_null_then(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    (tmp_path / "old.csv").write_text(HEAD + LINE)
    (tmp_path / "new.csv").write_text(
        HEAD.strip() + ",margin\n" + LINE.strip() + ",0.5\n" + LINE.strip() + ",-1\n"
    )
    pq.write_table(table({}), tmp_path / "old.parquet")
    for name, wanted, rejected in (
        ("old.csv", [None], 0),
        ("old.parquet", [None], 0),
        ("new.csv", [0.5], 1),
    ):
        result, run = check(runner, Source("sales", Younger, max_rejected=1), tmp_path / name)
        rows = run.accepted("sales")
        assert ([row["margin"] for row in rows], result.rejected) == (wanted, rejected), name
        assert [row["note"] for row in rows] == [None], name
    with pytest.raises(SourceError, match="wanted"):
        check(
            runner, Source("sales", Younger), table({}).drop_columns(["count"])
        )  # null may be, and missing may not


@pytest.mark.parametrize(
    ("limit", "runs"), [(0, False), (1, False), (2, True), (0.19, False), (0.2, True), (1.0, True)]
)
def test_max_rejected_is_a_count_or_a_share(
    runner: InProcessRunner, limit: float, runs: bool
) -> None:
    rows = table(*[{}] * 8, {"price": -1.0}, {"price": -2.0})
    source = Source("sales", Sale, max_rejected=limit)
    if runs:
        assert check(runner, source, rows)[0].rejected == 2
    else:
        with pytest.raises(ContractError, match="2 of 10 rows"):
            check(runner, source, rows)


KEYED = pa.table(
    {"k": [1, 1, 1, 2, 2, None, None], "v": [5, 5, 6, 7, 8, 9, 9], "at": [1, 1, 2, 3, 3, 1, 1]}
)


def test_copies_go_the_latest_stays_and_a_tie_is_rejected(runner: InProcessRunner) -> None:
    result, run = check(runner, Source("s", unique=["k"], latest="at", max_rejected=2), KEYED)
    assert (result.copies, result.superseded, result.rejected) == (2, 1, 2)
    assert sorted(reasons(run, "s")) == [
        (1, "superseded by a later row"),
        (2, "copy of another row"),
        (4, "k must be unique"),
        (5, "k must be unique"),
        (7, "copy of another row"),
    ]
    assert [row["v"] for row in run.accepted("s")] == [6, 9]


def test_without_latest_all_rows_that_clash_are_rejected(runner: InProcessRunner) -> None:
    with pytest.raises(
        ContractError,
        match=r"4 of 7 rows .*\n"
        r"  k  must be unique  4 rows   first: row 1 \(another row has this key\)",
    ):
        check(runner, Source("s", unique=["k"]), KEYED)


def test_references_look_into_the_accepted_rows_of_the_other_source(
    runner: InProcessRunner,
) -> None:
    @dataclass
    class Product:
        product: Annotated[str, MinLen(1)]

    model = Model("rest", unit=(), query="SELECT 1 AS one", work=lambda _: {"n": 1})
    sources = [
        Source("sales", references={"product": "catalog.product"}, max_rejected=9),
        Source("catalog", Product, max_rejected=1),
    ]
    run = runner.start(
        Job("two", sources=sources, models=[model]),
        sales=pa.table({"product": ["a", "b", "", None]}),
        catalog=pa.table({"product": ["a", ""]}),
    )
    run.validate()
    assert reasons(run, "sales") == [
        (2, "product must be in catalog.product"),
        (3, "product must be in catalog.product"),
    ]


def test_a_source_may_refer_to_itself(runner: InProcessRunner) -> None:
    _, run = check(
        runner,
        Source("tree", references={"parent": "tree.id"}, max_rejected=1),
        pa.table({"id": [1, 2, 3], "parent": [None, 1, 9]}),
    )
    assert reasons(run, "tree") == [(3, "parent must be in tree.id")]


def test_a_check_that_could_do_nothing_is_refused(runner: InProcessRunner) -> None:
    rows = pa.table({"k": [1], "word": ["2020-01-01"]})
    for source, message in [
        (
            Source("s", clean={"prise": "1"}),
            r"its columns are k, word\n  clean: 'prise' is neither a column",
        ),
        (
            Source("s", latest="k"),
            "latest: 'k' chooses among rows with one key, but unique names no key",
        ),
        (
            Source("s", not_future=["k"]),
            r"not_future names a column that is neither date nor time\n  k: int64",
        ),
        (Source("s", not_future=["word"]), "word: string"),
        (
            Source("s", clean={"word": "nope(word)"}),
            r"s: its clean expressions fail\n  word: nope\(word\): ",
        ),
        (
            Source("s", clean={"k": "k + 1", "word": "CAST(word AS INTEGER)"}),
            r"s: its clean expressions fail\n  word: CAST",
        ),
        (
            Source("s", references={"k": "s.nope"}),
            r"its references name missing columns\n  k -> s.nope: s has k, word",
        ),
    ]:
        with pytest.raises(SourceError, match=message):
            runner.source(source, rows).validate()
    check(runner, Source("s", not_future=["word"], clean={"word": "CAST(word AS DATE)"}), rows)


def test_references_in_a_circle_are_refused(runner: InProcessRunner) -> None:
    model = Model("rest", unit=(), query="SELECT 1 AS one", work=lambda _: {"n": 1})
    sources = [Source("a", references={"k": "b.k"}), Source("b", references={"k": "a.k"})]
    run = runner.start(
        Job("two", sources=sources, models=[model]), a=pa.table({"k": [1]}), b=pa.table({"k": [1]})
    )
    with pytest.raises(JobError, match="sources refer to one another in a cycle: a, b"):
        run.validate()


def test_a_source_without_an_accepted_row_is_an_error(runner: InProcessRunner) -> None:
    with pytest.raises(
        ContractError, match=r"sales: all 2 rows were rejected\n  price must be > 0: 2"
    ):
        runner.source(
            Source("sales", Sale, max_rejected=1.0), table({"price": -1.0}, {"price": -2.0})
        ).validate()


def test_a_time_after_as_of_is_rejected(runner: InProcessRunner) -> None:
    moment = dt.datetime.fromisoformat(AS_OF)
    days = [moment, moment + dt.timedelta(seconds=1), None]
    _, run = check(runner, Source("s", not_future=["at"], max_rejected=1), pa.table({"at": days}))
    assert reasons(run, "s") == [(2, "at must not be after 2026-01-01")]


def test_clean_repairs_before_it_is_checked_and_is_counted(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(
        HEAD + LINE + '"2,5",business,vx123,2025-01-01,1\nx,business,vx123,2025-01-01,1\n'
    )
    result, run = check(
        runner,
        Source("sales", Sale, clean={"price": "replace(price, ',', '.')"}, max_rejected=1),
        tmp_path / "a.csv",
    )
    assert (result.repaired, [row["price"] for row in run.accepted("sales")]) == (1, [1.5, 2.5])
    assert run.rejects("sales")[0]["price"] == "x"
    [repair] = run.repairs("sales")
    assert [repair[name] for name in ("__row", "__column", "__before", "__after", "code")] == [
        2,
        "price",
        "2,5",
        "2.5",
        "vx123",
    ]


def test_every_repaired_value_is_reported_also_for_rejected_rows(
    runner: InProcessRunner,
) -> None:
    rows = pa.table(
        {
            "k": [" a", "b", "A ", None, "c"],
            "n": ["1,5", "2", "x,", "3,5", "4"],
            "at": [1, 2, 3, 4, 5],
        }
    )
    clean = {"k": "lower(trim(k))", "n": "replace(n, ',', '.')"}
    source = Source("s", unique=("k",), latest="at", clean=clean)
    result, run = check(runner, source, rows)
    caught = [
        (r["__row"], r["__column"], r["__before"], r["__after"], r["at"]) for r in run.repairs("s")
    ]
    assert caught == [
        (1, "k", " a", "a", 1),
        (1, "n", "1,5", "1.5", 1),
        (3, "k", "A ", "a", 3),
        (3, "n", "x,", "x.", 3),
        (4, "n", "3,5", "3.5", 4),
    ]
    assert (result.repaired, result.superseded) == (3, 1)


def test_a_source_with_nothing_to_repair_leaves_no_file_of_repairs(runner: InProcessRunner) -> None:
    _, run = check(runner, Source("s", clean={"k": "trim(k)"}), pa.table({"k": ["a", "b"]}))
    with pytest.raises(KeyError):
        run.repairs("s")


def test_odd_column_names_are_names_like_any_other(runner: InProcessRunner, tmp_path: Path) -> None:
    price: Any = (Annotated[float, pydantic.Field(gt=0, alias='price "in" (€), v.1')], ...)
    odd = pydantic.create_model("Odd", price=price)
    (tmp_path / "a.csv").write_text('"price ""in"" (€), v.1"\n1\n-1\n')
    _, run = check(runner, Source("s", odd, max_rejected=1), tmp_path / "a.csv")
    assert reasons(run, "s") == [(2, 'price "in" (€), v.1 must be > 0')]
    with pytest.raises(ContractError, match=r"must be > 0  1 row   first: row 2 \(-1\)"):
        check(runner, Source("s", odd), tmp_path / "a.csv")


def test_an_incomplete_contract_is_refused_with_every_field() -> None:
    @dataclass
    class Vague:
        a: object
        b: int | str
        c: float

    with pytest.raises(JobError) as caught:
        read_contract(Vague)
    assert [problem[:2] for problem in caught.value.problems] == ["a:", "b:"]


def test_pydantic_constraints_are_read(runner: InProcessRunner) -> None:
    class Row(pydantic.BaseModel):
        price: Decimal = pydantic.Field(gt=0, max_digits=8, decimal_places=2)
        code: str = pydantic.Field(pattern="[0-9]{2}", max_length=3)
        share: float | None = pydantic.Field(ge=0, le=1)

    rows = [
        {"price": 1.5, "code": "a12", "share": 0.5},
        {"price": 0.0, "code": "1", "share": None},
        {"price": 1.0, "code": "1234", "share": 2.0},
    ]
    _, run = check(runner, Source("s", Row, max_rejected=2), pa.Table.from_pylist(rows))
    assert reasons(run, "s") == [
        (2, "price must be > 0; code must match [0-9]{2}"),
        (3, "code must be at most 3 long; share must be <= 1"),
    ]


# --- the SQL of every check agrees with Python, row by row
# ---------------------------------------------------------------


@dataclass
class Everything:
    a: Annotated[float, Gt(-1), Le(2)]
    b: Annotated[int | None, Interval(ge=-2, lt=3), MultipleOf(2)]
    c: Annotated[str, Len(1, 3)] | None
    d: Literal["x", "y{0}", "it's"]
    e: Annotated[str, re.compile(r"[a-z]{1,2}'?")]
    f: Annotated[dt.date, Ge(dt.date(2020, 1, 2)), Lt(dt.date(2020, 1, 5))] | None
    g: Annotated[list[float], MaxLen(1)] | None
    h: float


def passes(row: dict[str, Any]) -> bool:
    a, b, c, d, e, f, g, h = (row[name] for name in "abcdefgh")
    return (
        (a is not None and not math.isnan(a) and -1 < a <= 2)
        and (b is None or (-2 <= b < 3 and b % 2 == 0))
        and (c is None or 1 <= len(c) <= 3)
        and d in ("x", "y{0}", "it's")
        and (e is not None and re.fullmatch(r"[a-z]{1,2}'?", e) is not None)
        and (f is None or dt.date(2020, 1, 2) <= f < dt.date(2020, 1, 5))
        and (g is None or len(g) <= 1)
        and h is not None
    )


texts = st.none() | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4
)
RAW = st.fixed_dictionaries(
    {
        "a": st.none()
        | st.sampled_from([-1.0, -0.5, 2.0, 2.5, math.nan, math.inf, -math.inf, -0.0])
        | st.floats(),
        "b": st.none() | st.integers(-4, 4),
        "c": texts,
        "d": st.none() | st.sampled_from(["x", "y{0}", "it's", "y", "X"]),
        "e": texts | st.sampled_from(["ab", "a'", "abc", "a\n", ""]),
        "f": st.none() | st.dates(dt.date(2020, 1, 1), dt.date(2020, 1, 6)),
        "g": st.none() | st.lists(st.floats(), max_size=2),
        "h": st.none() | st.floats(),
    }
)
TYPES = pa.schema(
    [
        ("a", pa.float64()),
        ("b", pa.int64()),
        ("c", pa.string()),
        ("d", pa.string()),
        ("e", pa.string()),
        ("f", pa.date32()),
        ("g", pa.list_(pa.float64())),
        ("h", pa.float64()),
    ]
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(RAW, min_size=1, max_size=12))
def test_the_checks_in_sql_agree_with_python_on_every_row(
    runner: InProcessRunner, rows: list[dict[str, Any]]
) -> None:
    rows = [
        *rows,
        {"a": 0.0, "b": None, "c": None, "d": "x", "e": "a", "f": None, "g": None, "h": 0.0},
    ]  # not all may be rejected
    result, run = check(
        runner, Source("s", Everything, max_rejected=1.0), pa.Table.from_pylist(rows, schema=TYPES)
    )
    bad = [number + 1 for number, row in enumerate(rows) if not passes(row)]
    assert [number for number, _ in reasons(run, "s")] == bad if bad else result.rejected == 0
