"""The files of a folder that are data: hidden names, other table formats, links, empty files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold import Source
from hundredfold.errors import SourceError
from hundredfold.sql.sources.files import find_files
from hundredfold.sql.sources.listing import data_files, kind_of_file, may_lead, partition_of
from support.in_process import InProcessRunner


def put(root: Path, *names: str, text: str = "a\n1\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(root: Path, location: str = "") -> list[str]:
    return [
        os.path.relpath(path, root)
        for path in find_files("sales", str(root / location), root).paths
    ]


HIDDEN = [
    "_temporary/0/part-0.csv",
    "_temporary/0/k=1/part-0.csv",
    ".ipynb_checkpoints/sales-checkpoint.csv",
    "day=1/_temporary/x.csv",
    "__MACOSX/x.csv",
    "._sales.csv",
    "_x=1.csv",
    ".x.csv.crc",
    "_SUCCESS",
    "x.csv._COPYING_",
    "deep/.git/x.csv",
    "x.csv.bak",
    "x.csv~",
    "notes.md",
]


def test_hidden_files_are_read_from_no_folder_and_by_no_pattern(tmp_path: Path) -> None:
    put(tmp_path, "sales.csv", "deep/sales.csv", *HIDDEN)
    assert found(tmp_path) == ["deep/sales.csv", "sales.csv"]
    assert found(tmp_path, "**/*.csv") == ["deep/sales.csv", "sales.csv"]
    assert found(tmp_path, "**") == ["deep/sales.csv", "sales.csv"]
    assert found(tmp_path, "*/*.csv") == ["deep/sales.csv"]
    assert found(tmp_path, "*.csv") == ["sales.csv"]


def test_a_named_file_is_read_even_if_hidden(tmp_path: Path) -> None:
    put(tmp_path, "_old/x.csv", "_old/_y.csv", ".cfg/z.csv", "v.csv")
    assert found(tmp_path, "_old") == ["_old/x.csv"]
    assert found(tmp_path, "_old/_y.csv") == ["_old/_y.csv"]
    assert found(tmp_path, "_o*/*.csv") == ["_old/x.csv"]
    assert found(tmp_path, "_old/_*.csv") == ["_old/_y.csv"]
    assert found(tmp_path / ".cfg") == ["z.csv"]


def test_a_partition_is_never_hidden(tmp_path: Path) -> None:
    put(tmp_path, "_p=1/x.csv", "_p=2/_temporary/x.csv", "_p=2/y.csv")
    assert found(tmp_path) == ["_p=1/x.csv", "_p=2/y.csv"]
    assert found(tmp_path, "*/*.csv") == ["_p=1/x.csv", "_p=2/y.csv"]
    assert found(tmp_path, "**/*.csv") == ["_p=1/x.csv", "_p=2/y.csv"]


def test_the_error_for_a_folder_of_hidden_files_mentions_them(tmp_path: Path) -> None:
    put(tmp_path, "_temporary/x.csv", "_y.csv")
    with pytest.raises(
        SourceError,
        match=r"there is no Parquet, CSV or JSON-lines file(.|\n)*2 file\(s\) in it are hidden",
    ):
        found(tmp_path)


def test_a_pattern_finds_files_in_a_folder_named_as_data(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.csv/part-0.csv",
        "a.csv/_SUCCESS",
        "a.csv/_temporary/1.csv",
        "b.csv",
        "c/part-0.csv",
    )
    assert found(tmp_path, "*.csv") == ["a.csv/part-0.csv", "b.csv"]
    assert found(tmp_path, "*") == ["a.csv/part-0.csv", "b.csv"]


@pytest.mark.parametrize(
    "name", ["b.csv.bz2", "b.csv.zip", "b.parquet.gz", "b.orc", "b.jsonl.xz", "b.avro"]
)
def test_data_that_nothing_reads_is_refused_and_not_left_out(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a.csv", name)
    with pytest.raises(
        SourceError, match=rf"1 file\(s\) .* are data that cannot be read\n  {name}"
    ) as caught:
        found(tmp_path)
    assert caught.value.hint
    assert found(tmp_path, "*.csv") == ["a.csv"]


# ---- tables of other formats

TABLES = {
    "Delta Lake": ["part-0.parquet", "_delta_log/00000000000000000000.json"],
    "Hudi": ["2024/abc_0.parquet", ".hoodie/hoodie.properties"],
    "Iceberg": ["data/00000-0.parquet", "metadata/v1.metadata.json", "metadata/snap-1.avro"],
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(
    "location",
    [
        "",
        "lake",
        "lake/t",
        "lake/t/",
        "lake/*/*.parquet",
        "**/*.parquet",
        "lake/t/*",
        "lake/t/**",
        "FILE",
    ],
)
def test_a_table_of_another_format_is_refused_however_it_is_named(
    tmp_path: Path, kind: str, location: str
) -> None:
    put(tmp_path, *(f"lake/t/{name}" for name in TABLES[kind]))
    location = f"lake/t/{TABLES[kind][0]}" if location == "FILE" else location
    if location in ("lake/*/*.parquet", "lake/t/*") and kind != "Delta Lake":
        location = "lake/*/*/*.parquet"
    with pytest.raises(SourceError, match=rf"sales: .*/lake/t/ is a table of {kind}") as caught:
        find_files("sales", str(tmp_path / location), tmp_path)
    assert "glue://" in str(caught.value.hint)


def test_a_folder_that_is_called_metadata_makes_no_table(tmp_path: Path) -> None:
    put(tmp_path, "metadata/columns.csv", "data/x.csv", "metadata/readme.txt.bak")
    assert found(tmp_path, "data") == ["data/x.csv"]


# ---- links, empty files, names


def test_a_link_is_followed_and_a_file_is_read_once(tmp_path: Path) -> None:
    put(tmp_path, "in/2024/a.csv", "elsewhere/b.csv")
    (tmp_path / "in/latest").symlink_to("2024")
    (tmp_path / "in/newest.csv").symlink_to("2024/a.csv")
    (tmp_path / "in/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/2024/up").symlink_to("..")
    assert found(tmp_path, "in") == ["in/2024/a.csv", "in/more/b.csv"]
    assert found(tmp_path, "in/**/*.csv") == ["in/2024/a.csv", "in/more/b.csv"]
    assert found(tmp_path, "in/newest.csv") == ["in/newest.csv"]


@pytest.mark.parametrize("target", ["gone.csv", "b.csv"])
def test_a_link_to_nothing_is_missed_and_not_left_out(tmp_path: Path, target: str) -> None:
    put(tmp_path, "a.csv")
    (tmp_path / "b.csv").symlink_to(target)
    with pytest.raises(SourceError, match=r"b\.csv is a link to a file that does not exist"):
        found(tmp_path)


def test_a_linked_partition_is_another_partition(tmp_path: Path) -> None:
    put(tmp_path, "in/p=1/a.csv")
    (tmp_path / "in/p=2").symlink_to("p=1")
    assert found(tmp_path, "in") == ["in/p=1/a.csv", "in/p=2/a.csv"]


def test_text_files_without_a_byte_hold_no_row_and_a_parquet_file_does(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    put(tmp_path, "in/a.csv")
    put(
        tmp_path,
        "in/b.csv",
        "in/_SUCCESS",
        "none/a.csv",
        "none/b.csv",
        "damaged/b.parquet",
        text="",
    )
    pq.write_table(pa.table({"a": [1]}), tmp_path / "damaged/a.parquet")
    assert found(tmp_path, "in") == ["in/a.csv"]
    with pytest.raises(SourceError, match="sales is empty"):
        runner.source(Source("sales"), tmp_path / "none").validate()
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        runner.source(Source("sales"), tmp_path / "damaged").validate()


def test_a_name_that_is_no_utf8_is_refused_in_words(tmp_path: Path) -> None:
    put(tmp_path, "ä.csv")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).write_text("a\n1\n")
    with pytest.raises(SourceError, match=r"the names of 1 file\(s\) are not UTF-8"):
        found(tmp_path)


# ---- the rules, against rules that are written in another way

PART = st.sampled_from(["a", "b.csv", "_t", ".x", "_p=1", "k=2", "_k=1.csv", "c.csv", "=", "_="])
NAMES = st.lists(st.lists(PART, min_size=1, max_size=4).map("/".join), max_size=8, unique=True)
PATTERN = st.lists(
    st.sampled_from(["*", "**", "*.csv", "_*", "a", "k=*", ".x", "?*"]), min_size=1, max_size=4
).map("/".join)


@given(names=NAMES)
def test_a_folder_is_listed_as_spark_lists_it(names: list[str]) -> None:
    def is_data(name: str) -> bool:
        *folders, last = name.split("/")
        return last[0] not in "_." and all(
            part[0] not in "_." or "=" in part[1:] for part in folders
        )

    assert data_files(names, None) == sorted(
        name for name in names if is_data(name) and kind_of_file(name)
    )


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
@given(names=NAMES, pattern=PATTERN)
def test_a_walk_on_a_disk_leads_to_all_that_a_pattern_finds(names: list[str], pattern: str) -> None:
    wanted = pattern.split("/")
    for name in data_files(names, wanted):
        folders = name.split("/")[:-1]
        assert all(may_lead(folders[:depth], wanted) for depth in range(1, len(folders) + 1)), name


@pytest.mark.parametrize(
    ("folders", "values"),
    [
        (["k=1", "j=a b"], {"k": "1", "j": "a b"}),
        (["k=a%20b%2Fc%3D%25"], {"k": "a b/c=%"}),
        (["k=1+1"], {"k": "1+1"}),
        (["k=a=b"], {"k": "a=b"}),
        (["k=__HIVE_DEFAULT_PARTITION__"], {"k": None}),
        (["k=01"], {"k": "01"}),
        (["a", "k=1", "b"], {"k": "1"}),
        (["=1"], {}),
        (["k=50%"], {"k": "50%"}),
        (["my%20key=1"], {"my key": "1"}),
        (["k=%C3%A4"], {"k": "ä"}),
    ],
)
def test_the_values_of_partitions_are_those_of_hive(
    folders: list[str], values: dict[str, str | None]
) -> None:
    assert partition_of(folders) == values


@pytest.mark.parametrize("folders", [["k=1", "k=2"], ["k=1", "K=2"], ["k="], ["k=%FF"]])
def test_folders_that_give_no_one_value_are_refused(folders: list[str]) -> None:
    with pytest.raises(ValueError, match="folder"):
        partition_of(folders)


# ---- columns that folders give


def partitioned(root: Path, form: str, folders: list[str], **more: str) -> Path:
    for number, folder in enumerate(folders):
        path = root / "sales" / folder / f"x.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"k": f"v{number}", **more}
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), path)
        elif form == "csv":
            path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
        else:
            path.write_text(json.dumps(row) + "\n")
    return root / "sales"


@dataclass
class Monthly:
    k: str
    year: int
    month: int


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_folders_give_columns_that_no_value_changes_in(
    runner: InProcessRunner, tmp_path: Path, form: str
) -> None:
    location = partitioned(
        tmp_path, form, ["year=2020/month=01", "year=2020/month=02", "year=2021/month=11"]
    )
    run = runner.source(Source("sales"), location)
    run.validate()
    assert [(r["k"], r["year"], r["month"]) for r in run.accepted("sales")] == [
        ("v0", 2020, "01"),
        ("v1", 2020, "02"),
        ("v2", 2021, "11"),
    ]
    for inner in (
        "year=2020",
        "year=2020/month=01",
        "year=2020/*/*",
        f"year=2020/month=01/x.{form}",
    ):
        run = runner.source(Source("sales"), location / inner)
        run.validate()
        assert {(r["year"], r["month"]) for r in run.accepted("sales")} <= {
            (2020, "01"),
            (2020, "02"),
        }
    run = runner.source(Source("sales", Monthly), location)
    run.validate()
    assert [(r["year"], r["month"]) for r in run.accepted("sales")] == [
        (2020, 1),
        (2020, 2),
        (2021, 11),
    ]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_column_with_another_value_than_its_folder_is_refused(
    runner: InProcessRunner, tmp_path: Path, form: str
) -> None:
    same = runner.source(Source("sales"), partitioned(tmp_path / "a", form, ["p=01"], p="01"))
    same.validate()
    assert [row["p"] for row in same.accepted("sales")] == ["01"]
    with pytest.raises(
        SourceError, match=r"is in a folder p=2, and its own column P has the value 1"
    ):
        runner.source(Source("sales"), partitioned(tmp_path / "b", form, ["p=2"], P="1")).validate()


def with_and_without(root: Path, form: str, own: dict[str, object]) -> Path:
    """Write files in folders year=..., some of them with a column of that name.

    `own` gives the value of the column by folder; None where the file has none.
    """
    for number, (year, value) in enumerate(own.items()):
        path = root / f"year={year}" / f"x.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"k": f"v{number}"} | (
            {} if value is None else {"year": None if value == "null" else value}
        )
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), path)
        elif form == "csv":
            path.write_text(
                ",".join(row)
                + "\n"
                + ",".join("" if value is None else str(value) for value in row.values())
                + "\n"
            )
        else:
            path.write_text(json.dumps(row) + "\n")
    return root


@dataclass
class Yearly:
    k: str
    year: int | None


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("contract", [None, Yearly])
@pytest.mark.parametrize("without", ["2019", "2020", "2021", "__HIVE_DEFAULT_PARTITION__"])
def test_a_file_without_its_own_key_column_has_its_folders_value(
    runner: InProcessRunner, tmp_path: Path, form: str, contract: type | None, without: str
) -> None:
    location = with_and_without(tmp_path, form, {"2020": 2020, "2021": 2021} | {without: None})
    run = runner.source(Source("sales", contract), location)
    run.validate()
    years = {2020, 2021} | {None if without.startswith("_") else int(without)}
    assert {row["year"] for row in run.accepted("sales")} == years
    assert len(run.accepted("sales")) == len(years)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_an_own_key_column_of_nulls_is_another_value(
    runner: InProcessRunner, tmp_path: Path, form: str
) -> None:
    location = with_and_without(tmp_path, form, {"2020": 2020, "2021": "null", "2022": None})
    with pytest.raises(
        SourceError, match="is in a folder year=2021, and its own column year has the value None"
    ):
        runner.source(Source("sales"), location).validate()


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_folders_value_that_no_column_can_hold_is_refused(
    runner: InProcessRunner, tmp_path: Path, form: str
) -> None:
    location = with_and_without(tmp_path, form, {"2020": 2020, "x": None})
    with pytest.raises(
        SourceError,
        match="is in a folder year=x, and other files have a column year of type BIGINT",
    ):
        runner.source(Source("sales"), location).validate()


def test_partitions_are_decoded_and_may_be_null(runner: InProcessRunner, tmp_path: Path) -> None:
    run = runner.source(
        Source("sales"),
        partitioned(tmp_path, "parquet", ["p=a%20b%2Fc", "p=__HIVE_DEFAULT_PARTITION__", "p=it's"]),
    )
    run.validate()
    assert sorted((row["k"], row["p"]) for row in run.accepted("sales")) == [
        ("v0", "a b/c"),
        ("v1", None),
        ("v2", "it's"),
    ]


def test_files_in_folders_of_other_keys_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "p=1/a.csv", "b.csv")
    with pytest.raises(SourceError, match="its files are not in folders of the same keys"):
        found(tmp_path)
