"""JSON lines: values have the types of Python's own parser, or the source is refused."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from dataclasses import make_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hundredfold import Source
from hundredfold.errors import SourceError
from support.in_process import InProcessRunner


def read(runner: InProcessRunner, lines: list[str], **fields: Any) -> list[dict[str, Any]]:
    """Return the accepted rows of JSON lines, under a contract of these fields if there are any."""
    path = runner.store.path(f"lines/{uuid4().hex}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    contract = make_dataclass("Row", list(fields.items())) if fields else None
    run = runner.source(Source("s", contract, max_rejected=0.99), path)
    run.validate()
    return run.accepted("s")


def values(runner: InProcessRunner, written: list[str], *kind: Any) -> list[Any]:
    """Return the values of a field `a` that are written like this."""
    rows = read(
        runner,
        [f'{{"n": {n}, "a": {text}}}' for n, text in enumerate(written)],
        **({"n": int, "a": kind[0]} if kind else {}),
    )
    found = {row["n"]: row["a"] for row in rows}
    return [found.get(n, "rejected") for n in range(len(written))]


TEXTS = [
    "2025-04-03",
    "03-04-2025",
    "2020-01-01 10:00:00",
    "2020-01-01T10:00:00Z",
    "12:30",
    "07:05:01",
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "192.168.0.1",
    "::1",
    "true",
    "12",
    "1.10",
    "1e400",
    "inf",
    "NaN",
    "null",
    "",
    " ",
    "x\u0000y",
    "\u00e4\u4e2d\U0001f600",
    '"quoted"',
    "{}",
    "[1]",
    "infinity",
    "P1D",
    "20260-01-31",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_the_text_that_it_is(runner: InProcessRunner, text: str) -> None:
    other = {"12:30": "07:05", "12": "13"}.get(text, text)
    assert values(runner, [json.dumps(text), json.dumps(other)]) == [text, other]
    assert values(runner, [json.dumps({"b": [text]})]) == [{"b": [text]}]
    assert values(runner, [json.dumps(text)], str | None)[0] == text


def test_texts_beside_other_values_are_texts_without_quotes(runner: InProcessRunner) -> None:
    assert values(runner, ['"12"', "12", '"A7"']) == ["12", "12", "A7"]
    assert values(runner, ['"12"', "12", '"A7"', "1.10", "1e3", "true", "null"]) == [
        "12",
        "12",
        "A7",
        "1.10",
        "1e3",
        "true",
        None,
    ]
    assert values(runner, ['"12"', "12", "1.10", "true", "-0"], str) == [
        "12",
        "12",
        "1.10",
        "true",
        "-0",
    ]
    assert values(runner, ["1.10", "1e3", "2"], str) == ["1.10", "1e3", "2"]
    assert values(runner, ["true", "1"]) == ["true", "1"]
    assert values(runner, ['{"b": "x"}', '{"b": 1.10}']) == [{"b": "x"}, {"b": "1.10"}]
    assert values(runner, ['[1, "x"]', "[true]"]) == [["1", "x"], ["true"]]


def test_numbers_keep_every_digit(runner: InProcessRunner) -> None:
    assert values(runner, ["9007199254740993", "-9223372036854775808"]) == [2**53 + 1, -(2**63)]
    assert values(
        runner, ["9223372036854775808", "1", "-9223372036854775809", "12345678901234567890123"]
    ) == [
        2**63,
        1,
        -(2**63) - 1,
        12345678901234567890123,
    ]
    assert values(runner, ["9007199254740992", "1.5", "-0"]) == [2.0**53, 1.5, 0.0]
    assert values(runner, ["0.1000000000000000055511151231257827", "1.10"]) == [0.1, 1.1]
    exact = ["0.1234567890123456789012", "1.10", "9007199254740993.5", '"7.5"', "3", "1e400"]
    assert (
        values(runner, [*exact[:1], "2.5"], Decimal)[0] == "rejected"
    )  # 9 places are all that the column has
    assert values(runner, exact, Decimal)[1:] == [
        Decimal("1.10"),
        Decimal("9007199254740993.5"),
        Decimal("7.5"),
        3,
        "rejected",
    ]
    assert values(runner, ["9007199254740993.5", "7.0", "9007199254740993"], int) == [
        "rejected",
        7,
        2**53 + 1,
    ]
    assert values(runner, ["1e400", "NaN", "Infinity", '"inf"', "1.5"], float) == [
        *["rejected"] * 4,
        1.5,
    ]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["9007199254740993", "1.5"], "a has fractions, and a whole number beyond 2.53"),
        (["1e400", "1"], "a holds a number beyond a double"),
        (["1" * 39], "a holds a whole number of more than 38 digits"),
        (['"x"', '{"b": 1}'], "line 2 of .*: a holds objects and texts"),
        (["[1]", "5"], "a holds lists and numbers"),
        (['{"b": 1}', '{"b": [1]}'], "line 2 of .*: a.b holds lists and numbers"),
        (['{"b": 1, "b": 2}'], "twice|duplicate key"),
        ([r'"\ud800"'], "line 1 of .* contains half of a surrogate"),
        ([r'"\ud800"', "1"], "line 1 of .* contains half of a surrogate"),
        (['"x"', '1, "a": 2'], "line 2 of .* has a field twice: a|duplicate key"),
        (["1", '2, "A": 3'], "several columns named A, a"),
    ],
)
def test_values_that_no_type_holds_are_refused(
    runner: InProcessRunner, written: list[str], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        values(runner, written)
    assert caught.value.hint
    assert "SELECT" not in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        ['{"a": 1}', "null", '{"a": 2}'],
        ["5"],
        ["null"],
        ['[{"a": 1}, {"a": 2}]'],
        ['{"a": 1}', "[]"],
        ['{"a": 1}', '"x"'],
        ['{"a": 1} {"a": 2}'],
        ["[", '{"a": 1}', "]"],
    ],
)
def test_a_line_that_is_no_object_is_named(runner: InProcessRunner, lines: list[str]) -> None:
    with pytest.raises(
        SourceError, match=r"line \d of .* is no JSON object|begins with \[: it is one JSON array"
    ) as caught:
        read(runner, lines)
    assert "wanted one JSON object per line" in str(caught.value.hint)


def test_a_missing_field_is_null_and_its_type_is_that_of_all_files(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    assert read(runner, ['{"a": null, "b": 1}', "{}", '{"a": null}']) == [
        {"a": None, "b": 1},
        {"a": None, "b": None},
        {"a": None, "b": None},
    ]
    (tmp_path / "a.jsonl").write_text('\ufeff{"k": 1, "d": "2020-01-01"}\n\n{"k": 2}')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"k": "x"}\r\n{"k": 1.50}\r\n'))
    run = runner.source(Source("s"), tmp_path)
    run.validate()
    assert [(row["k"], row["d"]) for row in run.accepted("s")] == [
        ("1", "2020-01-01"),
        ("2", None),
        ("x", None),
        ("1.50", None),
    ]


def test_a_contract_gives_types_only_to_its_own_columns(runner: InProcessRunner) -> None:
    rows = read(
        runner,
        ['{"day": "2020-01-31", "n": 5, "x": [1.5, 2]}', '{"day": "infinity", "n": 6, "x": []}'],
        day=dt.date,
        x=list[float],
    )
    assert rows == [{"day": dt.date(2020, 1, 31), "n": 5, "x": [1.5, 2.0]}]


# ---- against Python's parser

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.dates().map(str)
    | st.uuids().map(str)
)
columns = st.sampled_from(
    [
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=6),
        st.dates().map(str),
        st.uuids().map(str),
        st.booleans(),
        scalars,
    ]
).flatmap(lambda kind: st.lists(st.none() | kind, min_size=3, max_size=3))


def equal(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and not isinstance(wanted, str):
        return json.loads(found) == wanted if wanted is not None else False
    return bool(found == wanted)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=st.lists(columns, min_size=1, max_size=4), nested=st.booleans())
@example(table=[[2**53 + 1, 1.5, None]], nested=False)
@example(table=[["12", 12, "A7"]], nested=True)
def test_values_are_those_of_pythons_parser(
    runner: InProcessRunner, table: list[list[Any]], nested: bool
) -> None:
    rows: list[dict[str, Any]] = [
        {f"c{i}": column[n] for i, column in enumerate(table)} for n in range(3)
    ]
    rows = [{"n": n, **({"o": row} if nested else row)} for n, row in enumerate(rows)]
    try:
        found = read(runner, [json.dumps(row) for row in rows])
    except SourceError as error:
        if "beyond" in error.message:
            return
        raise
    for mine, theirs in zip(found, rows, strict=True):
        left, right = (mine["o"], theirs["o"]) if nested else (mine, theirs)
        assert all(equal(left[name], right[name]) for name in right), (mine, theirs)
