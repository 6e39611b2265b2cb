"""Names of columns: read exactly as they are written, or refused with the reason, in every
format.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Csv, Source
from hundredfold.errors import ContractError, SourceError
from support.in_process import InProcessRunner

KEPT = [
    ["filename", "a"],
    ["column0", "C1"],
    ["select", "from"],
    ['a"b', "a'b"],
    ["a\nb", "c"],
    ["s", "t"],
    ["p", "r"],
    ["v", "file"],
    ["n", "first"],
    ["json", "a"],
    ["{x}", "%s"],
    ["a.b", "a"],
    ["rowid", "raw"],
    ["x" * 300, "b"],
    ["json"],
    ["a", "a_1"],
    ["x0", "x1"],
    ["ß", "SS"],
    ["😀", "é"],
]
REFUSED = [
    (["Price", "price"], "Price, price"),
    (["a", "a"], "a"),
    (["a", "a_1", "A"], "A, a"),
    (["É", "é"], "É, é"),
    (["", "b"], "1"),
    (["a", " "], "2"),
    (["__x", "a"], "__x"),
    (["__row", "a"], "__row, and"),
    (["__FILE", "a"], "(?i)__file"),
    (["x\0", "a"], "x"),
]


def written(folder: Path, form: str, names: list[str]) -> Path:
    path = folder / f"x.{form}"
    values = [f"v{n}" for n in range(len(names))]
    if form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([names, values])
    elif form == "jsonl":
        fields = ", ".join(
            f"{json.dumps(name)}: {json.dumps(value)}"
            for name, value in zip(names, values, strict=True)
        )
        path.write_text(f"{{{fields}}}\n", encoding="utf-8")
    else:
        pq.write_table(pa.table([pa.array([value]) for value in values], names=names), path)
    return path


def read(runner: InProcessRunner, location: Any, **declared: Any) -> list[dict[str, Any]]:
    run = runner.source(Source("s", **declared), location)
    run.validate()
    return run.accepted("s")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", KEPT, ids=lambda names: ascii(names[0][:9]))
def test_a_name_is_read_as_it_is_written(
    runner: InProcessRunner, tmp_path: Path, form: str, names: list[str]
) -> None:
    found = read(runner, written(tmp_path, form, names))
    assert [list(row.items()) for row in found] == [
        [(name, f"v{n}") for n, name in enumerate(names)]
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("names", "message"),
    REFUSED,
    ids=lambda names: ascii(names[0]) if isinstance(names, list) else "",
)
def test_a_name_that_sql_cannot_have_is_refused(
    runner: InProcessRunner, tmp_path: Path, form: str, names: list[str], message: str
) -> None:
    if form == "parquet" and "\0" in names[0]:
        pytest.skip("pyarrow writes no such name")
    with pytest.raises((SourceError, ContractError), match=message) as caught:
        read(runner, written(tmp_path, form, names))
    assert caught.value.hint


def test_a_frame_with_a_column_without_a_name_is_refused(runner: InProcessRunner) -> None:
    with pytest.raises(SourceError, match="without a name"):
        read(runner, pd.DataFrame({"": [1], "a": [2]}))


def test_the_name_that_duckdb_gives_to_row_numbers_is_refused(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="has a column file_row_number") as caught:
        read(runner, written(tmp_path, "parquet", ["File_Row_Number", "a"]))
    assert "rename" in str(caught.value.hint)


@dataclass
class Keyed:
    o: dict[str, int]


def test_fields_in_objects_that_differ_in_case_are_kept_or_refused(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    for lines in (
        ['{"o": {"A": 1, "a": 2}}'],
        ['{"o": {"A": 1}}', '{"o": {"a": 2}}'],
        ['{"o": [{"A": 1}, {"a": 2}]}'],
    ):
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
        with pytest.raises(
            SourceError, match=rf"line {len(lines)} .*: o.* has objects with the fields A and a"
        ):
            read(runner, tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text('{"o": {"A": 1, "a": 2}}\n{"o": {"a": 3}}\n')
    assert read(runner, tmp_path / "x.jsonl", contract=Keyed) == [
        {"o": [("A", 1), ("a", 2)]},
        {"o": [("a", 3)]},
    ]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        '{"a": 1, "a": 2}',
        '{"a": 1, "\\u0061": 1}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": [{"b": 1, "b": 1}]}',
    ],
)
def test_a_name_twice_in_one_object_is_refused_with_its_line(
    runner: InProcessRunner, tmp_path: Path, line: str, late: bool
) -> None:
    before = 5_000 * late
    (tmp_path / "x.jsonl").write_text("".join(f"{line[:5]} null}}\n" for _ in range(before)) + line)
    with pytest.raises(SourceError, match=f"line {before + 1} of .* has a field twice") as caught:
        read(runner, tmp_path / "x.jsonl")
    assert "jq" not in str(caught.value.hint)  # which is for arrays


def test_the_hint_about_arrays_is_only_for_arrays(runner: InProcessRunner, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('[{"a": 1}, {"a": 2}]')
    with pytest.raises(SourceError, match="one JSON array") as caught:
        read(runner, tmp_path / "x.jsonl")
    assert "jq" in str(caught.value.hint)
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(SourceError, match=r"line 2 of .* is no JSON object") as caught:
        read(runner, tmp_path / "x.jsonl")
    assert "jq" not in str(caught.value.hint)


@dataclass
class Priced:
    price: float


@pytest.mark.parametrize(
    ("values", "csv_", "hint"),
    [
        (["1.5", "2,50"], Csv(delimiter=";"), 'csv=Csv(decimal=",")'),
        (["1.234,50", "2,50"], Csv(delimiter=";"), 'csv=Csv(decimal=",")'),
        (["1,5", "2.50"], Csv(delimiter=";", decimal=","), 'csv=Csv(decimal=".")'),
        (["1.5", "x"], Csv(delimiter=";"), None),
        (["1.5", "2,5,0"], Csv(delimiter=";"), None),
    ],
)
def test_a_number_with_the_other_decimal_sign_has_a_hint(
    runner: InProcessRunner, tmp_path: Path, values: list[str], csv_: Csv, hint: str | None
) -> None:
    (tmp_path / "x.csv").write_text("price\n" + "\n".join(values))
    with pytest.raises(ContractError) as caught:
        read(runner, tmp_path / "x.csv", contract=Priced, csv=csv_)
    found = f"{caught.value} {caught.value.hint}"
    assert (hint in found) if hint else ("decimal=" not in found), found
