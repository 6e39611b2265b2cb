"""Constraints of the values in lists and dicts are checked in sources, results and releases, or
refused.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
import pydantic
import pytest
from annotated_types import Ge, Gt, Le, MaxLen, MultipleOf

from hundredfold import Job, Model, Publish, Source
from hundredfold.contract import read_contract
from hundredfold.errors import JobError, PublishRefused
from support.in_process import InProcessRunner


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


KINDS: list[
    tuple[Any, pa.DataType, Any, Any]
] = [  # annotation, type, a valid value, an invalid one
    (list[Annotated[int, Gt(0)]], pa.list_(pa.int64()), [1, 2], [1, -5]),
    (list[Annotated[float, Ge(0)]], pa.list_(pa.float64()), [0.0], [0.0, float("nan")]),
    (list[Annotated[int, pydantic.Field(gt=0)]], pa.list_(pa.int64()), [1], [0]),
    (list[pydantic.PositiveInt], pa.list_(pa.int64()), [1], [0]),
    (tuple[Annotated[int, MultipleOf(2)], ...], pa.list_(pa.int64()), [2, 4], [2, 3]),
    (list[Annotated[str, MaxLen(2)]], pa.list_(pa.string()), ["ab"], ["ab", "abc"]),
    (list[Annotated[str, re.compile("[{}]+")]], pa.list_(pa.string()), ["{}"], ["{}", "x"]),
    (list[Literal["a", "{c}"]], pa.list_(pa.string()), ["a", "{c}"], ["c"]),
    (list[Colour], pa.list_(pa.string()), ["red"], ["green"]),
    (list[Annotated[int, Gt(0)] | None], pa.list_(pa.int64()), [1, None], [None, 0]),
    (list[list[Annotated[int, Gt(0)]]], pa.list_(pa.list_(pa.int64())), [[1], [], [2]], [[1], [0]]),
    (Annotated[list[Annotated[int, Le(3)]], MaxLen(2)], pa.list_(pa.int64()), [3], [1, 4]),
    (
        dict[str, Annotated[int, Gt(0)]],
        pa.map_(pa.string(), pa.int64()),
        [("a", 1)],
        [("a", 1), ("b", 0)],
    ),
    (
        dict[Annotated[str, MaxLen(1)], int],
        pa.map_(pa.string(), pa.int64()),
        [("a", 1)],
        [("ab", 1)],
    ),
    (
        dict[str, list[Annotated[int, Gt(0)]]],
        pa.map_(pa.string(), pa.list_(pa.int64())),
        [("a", [1])],
        [("a", [1, 0])],
    ),
]
CASES = pytest.mark.parametrize(
    ("kind", "arrow", "good", "bad"),
    KINDS,
    ids=lambda value: None if isinstance(value, list) else str(value),
)


@CASES
def test_a_row_of_a_source_is_rejected_for_one_value(
    runner: InProcessRunner, kind: Any, arrow: pa.DataType, good: Any, bad: Any
) -> None:
    contract = dataclasses.make_dataclass("Row", [("n", int), ("v", kind | None)])
    table = pa.table({"n": [0, 1, 2], "v": pa.array([good, bad, None], arrow)})
    run = runner.source(Source("s", contract, max_rejected=3), table)
    result = run.validate()[0]
    assert (result.accepted, result.rejected) == (2, 1)
    assert result.findings[0].message.startswith("must hold ")


@CASES
def test_a_unit_fails_for_one_value_of_its_result(
    runner: InProcessRunner, kind: Any, arrow: pa.DataType, good: Any, bad: Any
) -> None:
    contract = dataclasses.make_dataclass("Out", [("v", kind)])

    def work(rows: Any) -> Any:
        value = good if rows.key[0] == 0 else bad
        return {"v": dict(value) if pa.types.is_map(arrow) else value}

    run = runner.start(
        Job(
            "j",
            sources=[Source("s")],
            models=[Model("m", unit=("n",), work=work, returns=contract)],
        ),
        s={"n": [0, 1]},
    )
    run.all()
    assert [(row["n"], row["error"]) for row in run.failures("m")] == [(1, "ResultError")]
    assert "v must hold " in run.failures("m")[0]["message"]


@CASES
def test_a_release_is_held_back_for_one_value(
    runner: InProcessRunner, kind: Any, arrow: pa.DataType, good: Any, bad: Any
) -> None:
    contract = dataclasses.make_dataclass("Out", [("n", int), ("v", kind)])

    def work(rows: Any) -> Any:
        value = good if rows.key[0] == 0 else bad
        return pa.table({"v": pa.array([value], arrow)})

    publish = Publish("table", "SELECT n, v FROM m", contract)
    run = runner.start(
        Job(
            "j", sources=[Source("s")], models=[Model("m", unit=("n",), work=work)], publish=publish
        ),
        s={"n": [0, 1]},
    )
    with pytest.raises(PublishRefused, match=r"v must hold .*: 1 row; the first is .*where n = 1"):
        run.all().publish()


class Validated(pydantic.BaseModel):
    price: float

    @pydantic.field_validator("price")
    @classmethod
    def even(cls, value: float) -> float:
        assert value % 2 == 0
        return value


class Whole(pydantic.BaseModel):
    price: float

    @pydantic.model_validator(mode="after")
    def even(self) -> Whole:
        return self


INNER: Any = dataclasses.make_dataclass("Inner", [("x", int)])


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Validated, "validators in Python"),
        (Whole, "validators in Python"),
        (
            dataclasses.make_dataclass(
                "Row", [("v", Annotated[int, pydantic.AfterValidator(abs)])]
            ),
            "AfterValidator is Python",
        ),
        (
            dataclasses.make_dataclass(
                "Row", [("v", list[Annotated[int, pydantic.AfterValidator(abs)]])]
            ),
            "AfterValidator is Python",
        ),
        (
            dataclasses.make_dataclass("Row", [("v", list[INNER])]),
            "Inner has no column type",
        ),
        (dataclasses.make_dataclass("Row", [("v", tuple[int, str])]), "holds several types"),
        (dataclasses.make_dataclass("Row", [("v", list[int | str])]), "several types"),
        (dataclasses.make_dataclass("Row", [("v", Literal[1, "a"])]), "are of 2 types"),
        (
            dataclasses.make_dataclass("Row", [("v", Mapping[str, Annotated[int, Gt(0)]])]),
            "no column type",
        ),
    ],
    ids=str,
)
def test_a_check_that_sql_cannot_do_is_refused_with_the_declaration(
    declared: type, message: str
) -> None:
    with pytest.raises(JobError) as caught:
        read_contract(declared)
    assert message in f"{caught.value.message} {caught.value.problems}"
