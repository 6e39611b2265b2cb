"""A value in a list or a map is read and checked as in a column of its own."""

from __future__ import annotations

import csv
import datetime as dt
import json
from dataclasses import make_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hundredfold import Source
from hundredfold.errors import ContractError, SourceError
from support.in_process import InProcessRunner

TYPES = [int, float, str, bool, Decimal, dt.date, dt.datetime, dt.time]
WRITTEN = [  # as JSON writes them
    "7",
    "-0.0",
    "1.5",
    "1.10",
    "2.0",
    "1e2",
    "1e400",
    "9007199254740993",
    "9223372036854775808",
    "0.1000000000000000055",
    "1.123456789012",
    "true",
    "null",
    '""',
    '"7"',
    '"x"',
    '"nan"',
    '"inf"',
    '"0x10"',
    '"1_000"',
    '" 7 "',
    '"true"',
    '"yes"',
    '"null"',
    '"NULL"',
    '"2020-01-31"',
    '"2020-01-31 10:00:00"',
    '"12345-01-01"',
    '"infinity"',
    '"2020-01-31T10:00:00+02:00"',
    '"2020-01-31T10:00:00.1234567"',
    '"2020-01-31 24:00:00"',
    '"10:00:00"',
    '"24:00:00"',
    '"a, b"',
    '"it\'s"',
    '"[1]"',
    '"\\u00e9\\n\\""',
]


def rows_of(runner: InProcessRunner, annotation: Any, path: Path) -> dict[str, Any]:
    """Return the accepted values by the name of their row; none where all were rejected."""
    contract = make_dataclass("Row", [("k", str), ("v", annotation)])
    run = runner.source(Source("s", contract=contract, max_rejected=10_000), path)
    try:
        run.validate()
    except ContractError:
        return {}
    return {row["k"]: row["v"] for row in run.accepted("s")}


def in_json(path: Path, form: str) -> Path:
    path.write_text(
        "".join(
            f'{{"k": "{number}", "v": {form % value}}}\n' for number, value in enumerate(WRITTEN)
        )
    )
    return path


def in_csv(path: Path, form: str) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["k", "v"], *([str(number), form % value] for number, value in enumerate(WRITTEN))]
        )
    return path


@pytest.mark.parametrize("python", TYPES)
def test_a_value_in_json_is_the_same_inside_and_alone(
    runner: InProcessRunner, tmp_path: Path, python: Any
) -> None:
    alone = rows_of(runner, python | None, in_json(tmp_path / "a.jsonl", "%s"))
    assert len(alone) > 1
    listed = rows_of(runner, list[python], in_json(tmp_path / "b.jsonl", "[%s]"))
    assert repr({k: v[0] for k, v in listed.items()}) == repr(alone)
    twice = rows_of(runner, list[list[python]], in_json(tmp_path / "c.jsonl", "[[], [%s]]"))
    assert repr({k: v[1][0] for k, v in twice.items()}) == repr(alone)
    mapped = rows_of(runner, dict[str, python], in_json(tmp_path / "d.jsonl", '{"a": %s}'))
    assert repr({k: dict(v)["a"] for k, v in mapped.items()}) == repr(alone)
    mapped_in_lists = rows_of(
        runner, list[dict[str, python]], in_json(tmp_path / "e.jsonl", '[{"a": %s}]')
    )
    assert repr({k: dict(v[0])["a"] for k, v in mapped_in_lists.items()}) == repr(alone)


@pytest.mark.parametrize("python", TYPES)
def test_a_value_in_csv_is_the_same_inside_and_alone(
    runner: InProcessRunner, tmp_path: Path, python: Any
) -> None:
    alone = rows_of(runner, python | None, in_json(tmp_path / "a.jsonl", "%s"))
    listed = rows_of(runner, list[python], in_csv(tmp_path / "b.csv", "[%s]"))
    assert repr({k: v[0] for k, v in listed.items()}) == repr(alone)
    mapped = rows_of(runner, dict[str, python], in_csv(tmp_path / "d.csv", '{"a": %s}'))
    exact = {k: v for k, v in alone.items() if k in mapped}
    assert repr({k: dict(v)["a"] for k, v in mapped.items()}) == repr(exact)
    rewritten = (
        alone.keys() - mapped.keys()
    )  # JSON's reader would write these numbers in another way
    assert not rewritten or python in (str, Decimal)
    assert all(WRITTEN[int(k)].strip("-")[0].isdigit() for k in rewritten)


WRONG = [
    (list[int], '{"a": 1}'),
    (list[int], "5"),
    (list[int], '"x"'),
    (list[list[int]], "[1]"),
    (dict[str, int], "[1]"),
    (dict[str, int], '{"a": [1]}'),
    (dict[str, int], "5"),
]


@pytest.mark.parametrize(("annotation", "value"), WRONG)
def test_a_value_of_another_form_is_rejected(
    runner: InProcessRunner, tmp_path: Path, annotation: Any, value: str
) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"k": "0", "v": {value}}}\n')
    assert rows_of(runner, annotation, tmp_path / "a.jsonl") == {}
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["k", "v"], ["0", value]])
    assert rows_of(runner, annotation, tmp_path / "a.csv") == {}


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(
            st.none()
            | st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
            ),
            max_size=4,
        ),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_lists_of_texts_are_those_of_json(
    runner: InProcessRunner,
    tmp_path_factory: pytest.TempPathFactory,
    lists: list[list[str | None]],
    ascii_: bool,
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    texts = [json.dumps(each, ensure_ascii=ascii_) for each in lists]
    (folder / "a.jsonl").write_text(
        "".join(f'{{"k": "{n}", "v": {text}}}\n' for n, text in enumerate(texts)), encoding="utf-8"
    )
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["k", "v"], *([str(n), text] for n, text in enumerate(texts))])
    wanted = {str(n): each for n, each in enumerate(lists)}
    assert rows_of(runner, list[str], folder / "a.jsonl") == wanted
    assert rows_of(runner, list[str], folder / "a.csv") == wanted


VALUES: dict[pa.DataType, list[Any]] = {
    pa.string(): ["7", "x", "1.10"],
    pa.int64(): [7, 2**53 + 1],
    pa.int32(): [5],
    pa.uint64(): [2**64 - 1],
    pa.float64(): [1.5, 2.0],
    pa.float32(): [0.5],
    pa.bool_(): [True],
    pa.binary(): [b"\xff"],
    pa.date32(): [dt.date(2020, 1, 2)],
    pa.timestamp("ns"): [10**18 + 1],
    pa.timestamp("us"): [10**15 + 1],
    pa.timestamp("ns", "UTC"): [10**18 + 1],
    pa.timestamp("us", "UTC"): [10**15 + 1],
    pa.time64("us"): [dt.time(1, 2, 3)],
    pa.time64("ns"): [1001],
    pa.decimal128(20, 12): [Decimal("1.123456789012")],
    pa.struct({"a": pa.int64()}): [{"a": 1}],
    pa.list_(pa.int64()): [[1]],
}


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_a_typed_list_or_map_is_exact_or_refused(
    runner: InProcessRunner, tmp_path: Path, kind: pa.DataType
) -> None:
    for number, value in enumerate(VALUES[kind]):
        column = pa.array([value], kind)
        lists = pa.ListArray.from_arrays([0, 1], column)
        maps = pa.MapArray.from_arrays([0, 1], pa.array(["a"]), column)
        pq.write_table(pa.table({"k": ["0"], "v": lists}), tmp_path / f"{number}l.parquet")
        pq.write_table(pa.table({"k": ["0"], "v": maps}), tmp_path / f"{number}m.parquet")
        own = (
            column.cast(pa.timestamp("us"))
            if pa.types.is_timestamp(kind) and column.type.unit == "us"
            else column
        )
        for python in [*TYPES, bytes, list[int]]:
            for annotation, name in (
                (list[python], f"{number}l"),  # type: ignore[valid-type]
                (dict[str, python], f"{number}m"),  # type: ignore[valid-type]
            ):
                try:
                    found = rows_of(runner, annotation, tmp_path / f"{name}.parquet")
                except SourceError:
                    continue
                if found:
                    inside = found["0"][0] if name.endswith("l") else dict(found["0"])["a"]
                    wanted = [
                        own[0].as_py(),
                        float(value) if isinstance(value, Decimal) else dt.datetime(2020, 1, 2),
                    ]
                    assert inside in wanted, (kind, python)
                    assert type(inside) is python or python == list[int]
