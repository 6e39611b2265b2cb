"""Sources in S3 and in Glue: rows are accepted, rejected and reported as by a local run."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold import Csv, Job, Model, Source
from hundredfold.aws.adapters.s3_objects import find_objects
from hundredfold.aws.adapters.sources import check_location
from hundredfold.aws.adapters.statements import QueryPending, QueryReply
from hundredfold.aws.home import StackHome
from hundredfold.aws.runs import new_record
from hundredfold.errors import ContractError, SourceError, UsageError
from hundredfold.pipeline.validation_results import ValidationResult
from hundredfold.runs.run import Run
from hundredfold.sql.sources.files import find_files
from support.emulator import Emulator
from support.in_process import InProcessRun, InProcessRunner
from support.in_process_aws import AwsRun, AwsRunner
from support.javascript import check_statements

FEW = settings(
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass
class Sale:
    shop: Annotated[str, MinLen(1), MaxLen(4)]
    kind: Literal["new", "used"]
    code: Annotated[str, re.compile(r"v.\d{3}")] | None
    price: Annotated[float, Gt(0), Lt(1000)] | None
    cost: Annotated[Decimal, Ge(0)] | None
    count: Annotated[int, MultipleOf(2), Le(100)] | None
    day: dt.date
    at: dt.datetime | None
    sold: bool | None


@dataclass
class Shop:
    shop: str


SHOPS = pa.table({"shop": ["a", "b", "ab"]})
SALES = Source(
    "sales",
    Sale,
    unique=("shop", "day"),
    latest="at",
    references={"shop": "shops.shop"},
    not_future=("day", "at"),
    clean={"shop": "lower(trim(shop))", "price": "price"},
    max_rejected=1000,
)
SOURCES = (Source("shops", Shop, unique=("shop",)), SALES)


def rest(rows: Any) -> dict[str, Any]:
    return {"n": rows.rows}


def job_of(*sources: Source) -> Job:
    return Job(
        "check",
        sources=sources,
        models=[Model("rest", unit=(), work=rest, query="SELECT 1 AS one")],
    )


def both(
    runner: InProcessRunner,
    aws_runner: AwsRunner,
    sources: tuple[Source, ...],
    locations: dict[str, Any],
) -> tuple[InProcessRun, AwsRun]:
    """Start a run of these sources locally, and one on AWS."""
    job = job_of(*sources)
    for name, location in locations.items():
        if isinstance(location, pa.Table):
            locations[name] = runner.store.path(f"tables/{uuid4().hex}/rows.parquet")
            locations[name].parent.mkdir(parents=True)
            pq.write_table(location, locations[name])
    return runner.start(job, **locations), aws_runner.start(job, **locations)


def comparable_rows(rows: list[dict[str, Any]], exact: bool) -> list[str]:
    """Return rows in a fixed order, each with the name of its file in place of its address."""
    bare = [
        {k: Path(v).name if k == "__file" else v for k, v in row.items() if exact or k != "__row"}
        for row in rows
    ]
    return sorted(repr(sorted(row.items(), key=lambda item: item[0])) for row in bare)


def validation_facts(result: ValidationResult, exact: bool) -> tuple[Any, ...]:
    """Return the facts of a validation without addresses, and without the first of rows without
    numbers.
    """
    found = sorted(
        (f.column, f.message, f.rows, *((f.row, f.value) if exact else ())) for f in result.findings
    )
    counts = (
        result.rows,
        result.accepted,
        result.rejected,
        result.copies,
        result.superseded,
        result.repaired,
    )
    return (result.source, counts, found)


def validation_results(run: InProcessRun) -> list[ValidationResult] | str:
    """Return the validation results of a run's sources, or why there are none."""
    try:
        return run.validate()
    except ContractError as error:
        return (
            f"{error.message}: "
            f"{sorted(re.sub(r'first: .*', '', problem) for problem in error.problems)}"
        )


def assert_same_validation(
    local: InProcessRun, remote: AwsRun, *, exact: bool
) -> list[ValidationResult]:
    found, expected = validation_results(remote), validation_results(local)
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
        return []
    for mine, theirs in zip(expected, found, strict=True):
        assert validation_facts(theirs, exact) == validation_facts(mine, exact)
        assert comparable_rows(remote.accepted(mine.source), exact) == comparable_rows(
            local.accepted(mine.source), exact
        )
        if mine.rejected or mine.dropped:
            assert comparable_rows(remote.rejects(mine.source), exact) == comparable_rows(
                local.rejects(mine.source), exact
            )
        if mine.repaired:
            assert comparable_rows(remote.repairs(mine.source), exact) == comparable_rows(
                local.repairs(mine.source), exact
            )
    return found


# ---- the same validation result


day = st.dates(dt.date(2025, 1, 1), dt.date(2025, 1, 5)).map(str) | st.sampled_from(
    ["2025-1-3", "2025-02-30", "soon", "2027-01-01", "2025-01-02 10:00:00", ""]
)
moment = st.sampled_from(
    [
        "2025-01-01 10:00:00",
        "2025-01-01T10:00:00.5",
        "2025-01-01T12:30:00+02:00",
        "2025-01-01T10:00Z",
        "2025-01-01",
        "later",
        "2031-01-01 00:00:00",
        "",
    ]
)
number = st.sampled_from(
    ["1.5", " 2 ", "0", "-1", "999.5", "1000", "1e2", "nan", "inf", "x", "", "12.345", "3"]
)
texts = st.fixed_dictionaries(
    {
        "shop": st.sampled_from(["a", "A ", "b", "ab", "ä", "abcde", "", "x"]),
        "kind": st.sampled_from(["new", "used", "old", ""]),
        "code": st.sampled_from(["vx123", "v\u00e4999", "v123", "xvx123", "", "vx123\n"]),
        "price": number,
        "cost": number,
        "count": st.sampled_from(["2", "4.0", "3", "102", "2.5", "1e1", "", "two", "-2"]),
        "day": day,
        "at": moment,
        "sold": st.sampled_from(["true", "F", "yes", "0", "maybe", ""]),
    }
)


def csv_of(rows: list[dict[str, str]]) -> str:
    lines = [
        ",".join(f'"{row[name]}"' if "\n" in row[name] else row[name] for name in GOOD_TEXT)
        for row in rows
    ]
    return "\n".join([",".join(GOOD_TEXT), *lines]) + "\n"


@settings(FEW, max_examples=8)
@given(rows=st.lists(texts, min_size=1, max_size=25))
def test_text_is_validated_as_by_a_local_run(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    (tmp_path / "shops.csv").write_text("shop\na\nb\nab\n")
    (tmp_path / "sales.csv").write_text(csv_of([*rows, GOOD_TEXT]))
    before = len(aws_runner.queries)
    locations = {"shops": tmp_path / "shops.csv", "sales": tmp_path / "sales.csv"}
    assert_same_validation(*both(runner, aws_runner, SOURCES, locations), exact=True)
    # Athena was queried for the accepted rows only
    assert all(sql.startswith("SELECT") for sql in aws_runner.queries[before:])


@FEW
@given(rows=st.lists(texts, min_size=8, max_size=25))
def test_athena_validates_text_as_a_local_run(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    """It does for text of more than 512 MB; less is compared with Athena's tables by its values."""
    (tmp_path / "sales.csv").write_text(csv_of([*rows, GOOD_TEXT]))
    for limit, most in ((0, 99), (2**29, 2)):
        before = len(aws_runner.queries)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hundredfold.aws.adapters.sources.MAX_LOCAL_BYTES", limit)
            assert_same_validation(
                *both(
                    runner, aws_runner, SOURCES, {"shops": SHOPS, "sales": tmp_path / "sales.csv"}
                ),
                exact=True,
            )
        of_sales = [sql for sql in aws_runner.queries[before:] if "__known_" not in sql]
        assert (len(of_sales) > 5) == (limit == 0)
        assert len(aws_runner.queries) - before <= most + 99


GOOD_TEXT = {
    "shop": "b",
    "kind": "new",
    "code": "vx123",
    "price": "1.5",
    "cost": "1.25",
    "count": "2",
    "day": "2024-12-31",
    "at": "2024-12-31 10:00:00",
    "sold": "true",
}
GOOD = {
    "shop": "b",
    "kind": "new",
    "code": "vx123",
    "price": 1.5,
    "cost": Decimal("1.25"),
    "count": 2,
    "day": dt.date(2024, 12, 31),
    "at": dt.datetime(2024, 12, 31, 10),
    "sold": True,
}
typed = st.fixed_dictionaries(
    {
        "shop": st.none() | st.sampled_from(["a", "A ", "b", "ab", "x", "abcde", ""]),
        "kind": st.none() | st.sampled_from(["new", "used", "old"]),
        "code": st.none() | st.sampled_from(["vx123", "v1", "v\n123"]),
        "price": st.none() | st.sampled_from([1.5, 0.0, -1.0, 999.0, 1e9, float("inf")]),
        "cost": st.none() | st.decimals(-2, 2, places=2),
        "count": st.none() | st.integers(-4, 104),
        "day": st.none() | st.dates(dt.date(2025, 1, 1), dt.date(2025, 1, 4)),
        "at": st.none()
        | st.sampled_from(
            [
                dt.datetime(2025, 1, 1, 10, 0, 0, 500000),
                dt.datetime(2025, 1, 2),
                dt.datetime(2031, 1, 1),
            ]
        ),
        "sold": st.none() | st.booleans(),
    }
)
TYPES = pa.schema(
    [
        ("shop", pa.string()),
        ("kind", pa.string()),
        ("code", pa.string()),
        ("price", pa.float64()),
        ("cost", pa.decimal128(12, 2)),
        ("count", pa.int32()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us")),
        ("sold", pa.bool_()),
    ]
)


@FEW
@given(rows=st.lists(typed, min_size=1, max_size=25))
def test_parquet_is_validated_as_by_a_local_run(
    runner: InProcessRunner, aws_runner: AwsRunner, rows: list[dict[str, Any]]
) -> None:
    table = pa.Table.from_pylist([*rows, GOOD], TYPES)
    assert_same_validation(
        *both(runner, aws_runner, SOURCES, {"shops": SHOPS, "sales": table}), exact=False
    )


def test_duplicates_superseded_rows_and_conflicts_are_distinguished(
    runner: InProcessRunner, aws_runner: AwsRunner
) -> None:
    def row(**change: Any) -> dict[str, Any]:
        return GOOD | change

    rows = [
        row(),
        row(),
        row(price=2.0, at=dt.datetime(2025, 1, 1)),
        row(shop="a", at=None),
        row(shop="a", price=3.0),
        row(shop="ab"),
        row(shop="ab", price=4.0),
        row(shop="ab", price=-4.0),
    ]
    local, remote = both(
        runner, aws_runner, SOURCES, {"shops": SHOPS, "sales": pa.Table.from_pylist(rows, TYPES)}
    )
    result = assert_same_validation(local, remote, exact=False)[1]
    assert (
        result.rows,
        result.accepted,
        result.copies,
        result.superseded,
        result.rejected,
    ) == (8, 2, 1, 2, 3)
    text = sorted((row["__reason"], row["__counts"]) for row in remote.rejects("sales"))
    assert text == [
        ("copy of another row", False),
        ("price must be > 0", True),
        ("shop, day must be unique", True),
        ("shop, day must be unique", True),
        ("superseded by a later row", False),
        ("superseded by a later row", False),
    ]
    check_statements(aws_runner.queries)


def test_rejected_rows_are_read_as_for_a_local_run(
    aws_runner: AwsRunner, aws_env: Emulator
) -> None:
    run = aws_runner.start(
        job_of(Source("shops", Shop, unique=("shop",), max_rejected=5)),
        shops=pa.table({"shop": ["a", None, "b"]}),
    )
    run.validate()
    home = StackHome.__new__(StackHome)
    home.store = aws_runner.store
    (row,) = Run(home, run.layout.run).rejects("shops").to_arrow().to_pylist()
    assert (row["__reason"], row["shop"]) == ("shop must not be null", None)
    assert row["__file"].startswith(f"s3://{aws_runner.resources.bucket}/sources/")


# ---- locations of rows


def test_files_of_every_kind_are_sources(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path
) -> None:
    line = '{"shop": "a", "n": 1}\n'
    (tmp_path / "a.csv").write_text("shop,n\na,1\n")
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfshop,n\r\na,1\r\n")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"shop,n\na,1\n"))
    (tmp_path / "d.tsv").write_text("shop\tn\na\t1\n")
    (tmp_path / "e.jsonl").write_text(line)
    (tmp_path / "f.ndjson.gz").write_bytes(gzip.compress(line.encode()))
    pq.write_table(pa.table({"shop": ["a"], "n": [1]}), tmp_path / "g.parquet")
    for path in sorted(tmp_path.iterdir()):
        local, remote = both(runner, aws_runner, (Source("shops"),), {"shops": path})
        assert_same_validation(local, remote, exact=True)
        assert remote.accepted("shops") == [{"shop": "a", "n": 1}], path.name


def test_quoted_newlines_and_missing_values_are_values(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text('word,n\n"two\nlines",1\n"a ""quote""",\n"",3\n')
    local, remote = both(runner, aws_runner, (Source("notes"),), {"notes": tmp_path / "a.csv"})
    assert_same_validation(local, remote, exact=True)
    assert {"word": "two\nlines", "n": 1} in remote.accepted("notes")


def test_malformed_lines_are_rejected_with_their_text(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("shop,n\na,1\nb\nc,3,4\nd,4\n")
    local, remote = both(
        runner, aws_runner, (Source("shops", Shop, max_rejected=4),), {"shops": tmp_path}
    )
    (result,) = assert_same_validation(local, remote, exact=True)
    assert (result.rows, result.accepted, result.rejected) == (8, 4, 4)
    assert {row["__line"] for row in remote.rejects("shops")} == {"b", "c,3,4"}


@dataclass
class Cost:
    shop: str
    cost: float | None


def test_the_csv_format_is_detected_and_declared_as_locally(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path
) -> None:
    text = 'shop;cost\nMüller;1,5\n"torn;2\n"two\nlines";\nx;1.5\n'
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    (tmp_path / "b.csv").write_bytes(gzip.compress(text.replace(";", "|").encode("latin-1")))
    source = Source("costs", Cost, csv=Csv(encoding="latin-1", decimal=","), max_rejected=4)
    (result,) = assert_same_validation(
        *both(runner, aws_runner, (source,), {"costs": tmp_path}), exact=True
    )
    assert (result.rows, result.accepted, result.rejected) == (8, 4, 4)
    assert [csv["delimiter"] for csv in result.csv] == [";", "|"]


class Folder:
    """A prefix of the bucket for one test."""

    def __init__(self, aws_runner: AwsRunner, name: str) -> None:
        self.aws_runner, self.prefix = aws_runner, f"sources/{name}"
        self.address = aws_runner.store.where(self.prefix)

    def parquet(self, key: str, **columns: Any) -> str:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        return self.put(key, sink.getvalue().to_pybytes())

    def put(self, key: str, data: bytes) -> str:
        self.aws_runner.emulator.client("s3").put_object(
            Bucket=self.aws_runner.resources.bucket, Key=f"{self.prefix}/{key}", Body=data
        )
        return f"{self.address}/{key}"

    def read(self, location: str, **declared: Any) -> list[Any]:
        """Return the values of column a of all rows at a location, in order."""
        run = self.aws_runner.start(job_of(Source("things", **declared)), things=location)
        (result,) = run.validate()
        rows = run.accepted("things")
        assert result.rows == len(rows)
        return sorted(row["a"] for row in rows)


@pytest.fixture
def folder(aws_runner: AwsRunner, request: pytest.FixtureRequest) -> Folder:
    return Folder(aws_runner, re.sub(r"\W", "-", request.node.name))


def test_a_key_selects_one_object_of_a_folder(folder: Folder) -> None:
    one = folder.parquet("x/one.parquet", a=[1])
    folder.parquet("x/two.parquet", a=[2])
    assert folder.read(one) == [1]
    assert any('"$path" IN (' in sql for sql in folder.aws_runner.queries[-3:])


def test_a_prefix_selects_all_visible_objects_below_it(folder: Folder) -> None:
    for number, key in enumerate(
        [
            "one.parquet",
            "deep/er/two.parquet",
            "_hidden.parquet",
            "_temporary/0/three.parquet",
            ".x/four.parquet",
        ]
    ):
        folder.parquet(f"x/{key}", a=[number])
    folder.put("x/_SUCCESS", b"")
    folder.put("x/notes.md", b"# No rows\n")
    folder.put("x/deep/", b"")
    folder.parquet("xy/other.parquet", a=[9])
    assert folder.read(f"{folder.address}/x/") == [0, 1]
    assert folder.read(f"{folder.address}/x") == [0, 1]


TREE = [
    "a.csv",
    "deep/b.csv",
    "_temporary/0/c.csv",
    ".ipynb_checkpoints/d.csv",
    "_g.csv",
    "x.csv/part-0.csv",
    "x.csv/_h.csv",
    "deep/.i/j.csv",
    "_SUCCESS",
    "k.md",
    "_old/l.csv",
]


@pytest.mark.parametrize(
    "location",
    [
        "",
        "*.csv",
        "**/*.csv",
        "**",
        "*/*.csv",
        "_old/*",
        "_*/*.csv",
        "_g.csv",
        "_old",
        "*",
        "deep/**",
        "d*/?.csv",
    ],
)
def test_an_address_selects_the_same_objects_as_a_path_selects_files(
    folder: Folder, tmp_path: Path, location: str
) -> None:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n1\n")
        folder.put(f"x/{name}", b"a\n1\n")

    def listed(find: Any, at: str) -> list[str] | str:
        try:
            return [str(name).removeprefix(at) for name in find()]
        except SourceError as error:
            return error.message.partition("\n")[0].replace(at, "")

    local = listed(
        lambda: find_files("s", f"{tmp_path}/{location}", tmp_path).paths, f"{tmp_path}/"
    )
    remote = listed(
        lambda: [o.address for o in find_objects("s", f"{folder.address}/x/{location}")],
        f"{folder.address}/x/",
    )
    assert local == remote


@pytest.mark.parametrize(
    "mark", ["_delta_log/0.json", ".hoodie/hoodie.properties", "metadata/v1.metadata.json"]
)
@pytest.mark.parametrize("location", ["", "t/", "t/*.parquet", "t/a.parquet", "**/*.parquet"])
def test_a_table_of_another_format_is_rejected_by_any_address(
    folder: Folder, mark: str, location: str
) -> None:
    folder.parquet("x/t/a.parquet", a=[1])
    folder.put(f"x/t/{mark}", b"{}")
    with pytest.raises(
        SourceError, match=r"things: /.*/x/t/ is a table of (Delta Lake|Hudi|Iceberg)"
    ):
        folder.read(f"{folder.address}/x/{location}")


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_partition_folders_give_the_same_columns_as_locally(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path, form: str
) -> None:
    for number, folder in enumerate(
        ["year=2020/month=01", "year=2021/month=02", "year=2020/month=a%20b"]
    ):
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / f"x.{form}"
        if form == "parquet":
            pq.write_table(pa.table({"v": [number]}), path)
        else:
            path.write_text(f"v\n{number}\n")
    local, remote = both(runner, aws_runner, (Source("sales"),), {"sales": tmp_path})
    assert_same_validation(local, remote, exact=True)
    assert sorted((r["year"], r["month"], r["v"]) for r in remote.accepted("sales")) == [
        (2020, "01", 0),
        (2020, "a b", 2),
        (2021, "02", 1),
    ]


def test_objects_hidden_to_athena_are_read(folder: Folder) -> None:
    one = folder.parquet("x/_one.parquet", a=[1])
    folder.parquet("y/_p=1/one.parquet", a=[2])
    folder.parquet("y/_p=2/two.parquet", a=[3])
    assert folder.read(one) == [1]
    assert folder.read(f"{folder.address}/y/") == [2, 3]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("x/2024-*.parquet", [1, 2]),
        ("x/2024-0?.parquet", [1]),
        ("x/[2]024-1*.parquet", [2]),
        ("x/*.parquet", [1, 2, 3]),
        ("**/*.parquet", [1, 2, 3, 4]),
        ("*/*/d.parquet", [4]),
    ],
)
def test_a_pattern_matches_as_on_a_disk(folder: Folder, pattern: str, expected: list[int]) -> None:
    for number, key in enumerate(
        ["x/2024-01.parquet", "x/2024-10.parquet", "x/2025-01.parquet", "x/y/d.parquet"], 1
    ):
        folder.parquet(key, a=[number])
    assert folder.read(f"{folder.address}/{pattern}") == expected


def test_many_addresses_are_passed_in_a_table(folder: Folder) -> None:
    for number in range(150):
        folder.parquet(f"x/part-{number:05d}-{'long-' * 10}.parquet", a=[number])
    folder.parquet("x/other.parquet", a=[-1])
    assert folder.read(f"{folder.address}/x/part-*.parquet") == list(range(150))
    assert all(len(sql) < 20_000 for sql in folder.aws_runner.queries[-3:])
    notes = folder.put("x/notes.md", b"# No rows\n")
    with pytest.raises(
        SourceError,
        match=r"the folder of its 150 objects also holds others, .*\n  s3://.*notes\.md",
    ) as caught:
        folder.read(f"{folder.address}/x/part-*.parquet")
    assert caught.value.problems == (notes,)


def test_an_object_added_during_validation_is_not_read(folder: Folder) -> None:
    folder.parquet("x/one.parquet", a=[1, 2])
    run = folder.aws_runner.start(
        job_of(Source("things", unique=("a",))), things=f"{folder.address}/x/"
    )
    run_statement = folder.aws_runner.run_statement

    def change_first(pending: QueryPending, execution: str = "e1") -> QueryReply:
        folder.parquet("x/two.parquet", a=[1, 3])
        return run_statement(pending, execution)

    folder.aws_runner.run_statement = change_first  # type: ignore[method-assign]
    try:
        (result,) = run.validate()
    finally:
        folder.aws_runner.run_statement = run_statement  # type: ignore[method-assign]
    assert result.rows == 2
    assert sorted(row["a"] for row in run.accepted("things")) == [1, 2]


def test_an_object_changed_during_validation_is_an_error(folder: Folder) -> None:
    folder.parquet("x/one.parquet", a=[1, 2])
    run = folder.aws_runner.start(
        job_of(Source("things", unique=("a",))), things=f"{folder.address}/x/"
    )
    run_statement = folder.aws_runner.run_statement

    def change_first(pending: QueryPending, execution: str = "e1") -> QueryReply:
        folder.parquet("x/one.parquet", a=[1, 3, 4])
        return run_statement(pending, execution)

    folder.aws_runner.run_statement = change_first  # type: ignore[method-assign]
    try:
        with pytest.raises(
            SourceError, match=r"things changed while it was validated\n  s3://.*one.parquet"
        ):
            run.validate()
    finally:
        folder.aws_runner.run_statement = run_statement  # type: ignore[method-assign]


def test_objects_changed_after_validation_are_an_error(folder: Folder) -> None:
    one = folder.parquet("x/one.parquet", a=[1, 2])
    run = folder.aws_runner.start(job_of(Source("things")), things=one)
    run.validate()
    folder.parquet("x/one.parquet", a=[1, 2, 3])
    with pytest.raises(SourceError, match="things has changed since the run began"):
        run.accepted("things")
    folder.aws_runner.store.delete(f"{folder.prefix}/x/one.parquet")
    with pytest.raises(SourceError, match="existed when the run began, and is gone"):
        run.accepted("things")


def test_parquet_files_with_different_columns_are_merged_by_name(
    runner: InProcessRunner, folder: Folder, tmp_path: Path
) -> None:
    for name, columns in {
        "a": {"a": [1, 2], "b": ["x", "y"]},
        "b": {"b": ["z"], "a": pa.array([3], pa.int32()), "c": [1.5]},
    }.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    local, remote = both(
        runner, folder.aws_runner, (Source("things", unique=("a",)),), {"things": tmp_path}
    )
    assert_same_validation(local, remote, exact=True)
    assert remote.accepted("things")[0].keys() == {"a", "b", "c"}


def test_a_key_cannot_leave_the_folder_it_is_downloaded_to(folder: Folder, tmp_path: Path) -> None:
    folder.put("x/../../../../../evil.csv", b"a\n1\n")
    folder.put(f"x/{tmp_path}/evil.csv", b"a\n2\n")
    folder.put('x/it\'s; "odd".csv', b"a\n3\n")
    assert folder.read(f"{folder.address}/x/") == [2, 3]
    assert not list(tmp_path.rglob("evil*"))


def test_quotes_in_keys_of_parquet_objects_are_plain_characters(folder: Folder) -> None:
    folder.parquet("x/it's \"odd\" ') OR 1=1 --.parquet", a=[1])
    folder.parquet("x/plain.parquet", a=[2])
    assert folder.read(f"{folder.address}/x/") == [1, 2]


# ---- unreadable sources


WRONG = {
    "missing prefix": ("nope/", b"", "found no Parquet, CSV or JSON-lines object at"),
    "unknown kind": ("a.xlsx", b"x", r"found no Parquet, CSV .*\n  found s3://.*a\.xlsx"),
    "empty": ("a.csv", b"", "things is empty: all objects at s3://.* have 0 bytes"),
    "head alone": ("a.csv", b"a,b\n", "things is empty"),
    "no parquet": ("a.parquet", b"no", r"things: s3://.*a\.parquet cannot be read as Parquet"),
    "bad json": (
        "a.jsonl",
        b'{"a": 1}\nno\n',
        r"cannot be read as json: line 2 of .* is no JSON object: no",
    ),
    "our columns": (
        "a.csv",
        b"__file,a\nx,1\n",
        "things has the columns __file, and names that begin with __ are reserved",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_unreadable_location_is_an_error(folder: Folder, case: str) -> None:
    key, data, message = WRONG[case]
    if not key.endswith("/"):
        folder.put(key, data)
    with pytest.raises(SourceError, match=message) as caught:
        folder.aws_runner.start(
            job_of(Source("things")), things=f"{folder.address}/{key}"
        ).validate()
    assert caught.value.hint
    assert "SELECT" not in str(caught.value)


OTHER_TYPES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "text beside numbers": ({"a": [1]}, {"a": ["x"]}, "types that cannot be combined"),
    "digits": ({"a": [2**53 + 1]}, {"a": [1.5]}, "would change"),
    "folder": ({"month": [2], "a": [1]}, {"month": [1], "a": [1]}, "is in a folder month=01"),
}


@pytest.mark.parametrize("case", OTHER_TYPES)
def test_an_error_of_a_file_names_the_object_and_not_its_local_copy(
    folder: Folder, case: str
) -> None:
    first, second, message = OTHER_TYPES[case]
    folder.parquet("x/month=01/é a.parquet", **first)
    folder.parquet("x/month=01/b.parquet", **second)
    with pytest.raises(SourceError, match=message) as caught:
        folder.read(f"{folder.address}/x/")
    text = f"{caught.value}\n{caught.value.hint}"
    assert f"{folder.address}/x/month=01/é a.parquet" in text
    assert str(folder.aws_runner.folder) not in text


def test_a_damaged_page_names_its_object(folder: Folder) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [f"text {n}" for n in range(1000)]}), sink, use_dictionary=False)
    data = bytearray(sink.getvalue().to_pybytes())
    data[4:60] = b"\xff" * 56
    folder.put("x/b.parquet", bytes(data))
    folder.parquet("x/a.parquet", a=["y"])
    with pytest.raises(SourceError, match="HIVE_CURSOR_ERROR") as caught:
        folder.read(f"{folder.address}/x/", unique=("a",))
    assert f"things: Athena cannot read {folder.address}/x/b.parquet" in str(caught.value)
    assert "again" in str(caught.value.hint)


NO_PARQUET = {
    "text": (b"a,b\n1,2\n", "it begins with 'a,b'"),
    "empty": (b"", "it is empty"),
    "cut": (b"PAR1" + bytes(90), "its end is missing"),
}


@pytest.mark.parametrize("case", NO_PARQUET)
def test_an_object_that_is_not_parquet_is_named_with_its_kind(folder: Folder, case: str) -> None:
    data, message = NO_PARQUET[case]
    folder.put("x/b.parquet", data)
    folder.parquet("x/a.parquet", a=["y"])
    with pytest.raises(SourceError, match=message) as caught:
        folder.read(f"{folder.address}/x/")
    assert f"{folder.address}/x/b.parquet" in str(caught.value)


def test_types_that_athena_would_change_are_rejected(folder: Folder) -> None:
    folder.parquet("d/a.parquet", a=pa.array([5], pa.duration("s")))
    with pytest.raises(SourceError, match=r"a: duration\[s\]"):
        folder.read(f"{folder.address}/d/")
    for name, nanoseconds, far in (
        ("ok", 1_580_465_472 * 10**9, None),
        ("far", 0, dt.datetime(9999, 12, 31)),
        ("fine", 1_000, None),
    ):
        column = (
            pa.array([far], pa.timestamp("us"))
            if far
            else pa.array([nanoseconds], pa.timestamp("ns"))
        )
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"a": column}), sink, use_deprecated_int96_timestamps=True)
        folder.put(f"{name}/a.parquet", sink.getvalue().to_pybytes())
    assert folder.read(f"{folder.address}/ok/") == [dt.datetime(2020, 1, 31, 10, 11, 12)]
    with pytest.raises(SourceError, match="finer than a millisecond in a"):
        folder.read(f"{folder.address}/fine/")
    folder.aws_runner.start(job_of(Source("things")), things=f"{folder.address}/far/").validate()


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_an_object_without_a_partition_column_gets_its_folders_value(
    folder: Folder, form: str
) -> None:
    for year, row in (("2020", {"k": 1, "a": 2020}), ("2021", {"k": 2})):
        if form == "parquet":
            folder.parquet(
                f"x/a={year}/x.parquet", **{name: [value] for name, value in row.items()}
            )
        else:
            folder.put(f"x/a={year}/x.jsonl", json.dumps(row).encode())
    assert folder.read(f"{folder.address}/x/") == [2020, 2021]


def test_parquet_too_large_for_one_function_names_the_table_to_make(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in place of objects of 1.5 GiB
    monkeypatch.setattr("hundredfold.aws.adapters.sources.MAX_STAGED_BYTES", 100)
    folder.parquet("x/p=1/a.parquet", a=[1])
    folder.parquet("y/a.parquet", a=[1])
    folder.parquet("y/b.parquet", b=[1])
    for location, message in {"x": "are partitions", "y": "with the same columns"}.items():
        with pytest.raises(
            SourceError, match=r"of parquet exceed the \S+ GiB that one function can read"
        ) as caught:
            folder.read(f"{folder.address}/{location}/")
        assert "--source things=glue://DATABASE/TABLE" in str(caught.value.hint)
        assert message in str(caught.value.hint)


@pytest.mark.parametrize("case", ["missing prefix", "unknown kind", "empty"])
def test_an_empty_location_is_rejected_before_a_run(folder: Folder, case: str) -> None:
    key, data, message = WRONG[case]
    if data or not key.endswith("/"):
        folder.put(key, data)
    with pytest.raises(SourceError, match=message):
        check_location("things", f"{folder.address}/{key}")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://nowhere-at-all/x/", "no bucket"),
        ("glue://lake/none", "no table lake.none"),
        ("s3://b'/x", "the location is"),
    ],
)
def test_an_invalid_location_is_rejected_before_a_run(
    folder: Folder, location: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        check_location("things", location)
    check_location("things", folder.parquet("x/a.parquet", a=[1]))


def test_objects_of_several_kinds_are_rejected(folder: Folder) -> None:
    folder.put("x/a.csv", b"a\n1\n")
    folder.parquet("x/b.parquet", a=[1])
    with pytest.raises(SourceError, match="expected objects of one kind, found csv, parquet"):
        folder.read(f"{folder.address}/x/")


EVIL = ["'; DROP TABLE x; --", 'a"b', "a\nb", "a\\b", "../../secret", "x/../../y", "a\x00b", "a`b"]


@pytest.mark.parametrize("evil", EVIL)
def test_a_location_that_could_inject_sql_is_rejected_before_a_query(
    aws_runner: AwsRunner, evil: str
) -> None:
    before = len(aws_runner.queries)
    for location in (
        f"s3://{aws_runner.resources.bucket}/{evil}",
        f"s3://{evil}/x",
        evil,
        f"glue://lake/{evil}",
        f"https://x/{evil}",
        f"/etc/{evil}",
    ):
        with pytest.raises(SourceError, match="the location is "):
            aws_runner.start(job_of(Source("things")), things=location).validate()
        with pytest.raises(SourceError):
            find_objects("rows", location)
    assert len(aws_runner.queries) == before


@pytest.mark.parametrize("evil", [*EVIL, "", "a/b", "ä", "x" * 81, "a b"])
def test_a_run_id_with_special_characters_is_rejected(evil: str) -> None:
    with pytest.raises(UsageError, match=r"the run id .* cannot be used"):
        new_record(evil, job_of(Source("things")), "x:y", {"things": "s3://bucket/x/"}, {})


def test_a_missing_bucket_is_an_error(aws_runner: AwsRunner) -> None:
    with pytest.raises(SourceError, match="things: found no bucket nowhere-at-all"):
        aws_runner.start(job_of(Source("things")), things="s3://nowhere-at-all/x/").validate()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Emulator]:
    """An account that enforces IAM."""
    with Emulator(auth=True) as account:
        yield account


@pytest.mark.parametrize(
    ("right", "message", "hint"),
    [
        (None, "these credentials may not list", "--source-location"),
        (
            "s3:ListBucket",
            r"s3://.*one\.parquet cannot be read: .*(403|AccessDenied|Forbidden)",
            "--source-location",
        ),
    ],
)
def test_a_missing_permission_is_named(
    guarded: Emulator, tmp_path: Path, name_of: Any, right: str | None, message: str, hint: str
) -> None:
    data, name = pa.BufferOutputStream(), name_of("reader")
    pq.write_table(pa.table({"a": [1]}), data)
    s3, iam = guarded.client("s3"), guarded.client("iam")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="x/one.parquet", Body=data.getvalue().to_pybytes())
    iam.create_user(UserName=name)
    if right:
        allowed = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": right, "Resource": "*"}],
        }
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(allowed))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    with guarded.reached(), pytest.MonkeyPatch.context() as patch:
        from hundredfold.aws.adapters import session, sources

        patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        session.client.cache_clear()
        # what this user may not see is left to the run
        sources.check_location("rows", f"s3://{name}/x/")
        with pytest.raises(SourceError, match=message) as caught:
            sources._schemas("rows", find_objects("rows", f"s3://{name}/x/"))
        session.client.cache_clear()
    assert hint in str(caught.value.hint)
    assert key["SecretAccessKey"] not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [200, 1000])
def test_text_with_many_columns_is_checked_in_short_statements(
    runner: InProcessRunner, aws_runner: AwsRunner, tmp_path: Path, columns: int
) -> None:
    """One row is bad; the rows are local, so that Athena sees the values of references alone."""
    names = [f"c{number:04d}" for number in range(columns)]
    contract = make_dataclass(
        "Wide", [("key", str), *((name, Annotated[float, Ge(0)]) for name in names)]
    )
    file = tmp_path / "wide.csv"
    lines = [f"{key},{','.join(['1.5'] * (columns - 1))},{last}" for key, last in WIDE_ROWS]
    file.write_text("\n".join([",".join(["key", *names]), *lines]) + "\n")
    sources = (
        Source("shops"),
        Source(
            "wide",
            contract,
            unique=("key",),
            references={"key": "shops.shop"},
            max_rejected=2,
        ),
    )
    before = len(aws_runner.queries)
    local, remote = both(runner, aws_runner, sources, {"shops": SHOPS, "wide": file})
    found, expected = remote.validate()[1], local.validate()[1]
    assert [(f.column, f.message, f.rows, f.row, f.value) for f in found.findings] == [
        (f.column, f.message, f.rows, f.row, f.value) for f in expected.findings
    ]
    assert (found.rows, found.accepted, found.rejected) == (3, 1, 2)
    assert (expected.rows, expected.accepted, expected.rejected) == (3, 1, 2)
    assert max(map(len, aws_runner.queries[before:])) < 2000


WIDE_ROWS = (("a", "2"), ("b", "-2"), ("nowhere", "2"))
