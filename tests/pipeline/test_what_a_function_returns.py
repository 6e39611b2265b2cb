"""Every returned value becomes rows, or a failure of its unit that describes the wanted form."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
from annotated_types import Ge, Gt, MaxLen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Source, Unit, Units
from hundredfold.data.messages import Message
from support.in_process import InProcessRun, InProcessRunner

UTC = dt.UTC


def run_job(
    runner: InProcessRunner,
    values: list[Any],
    *,
    returns: Any = None,
    parts: int = 0,
    single: bool = False,
) -> InProcessRun:
    """Run a job in which unit i returns values[i] (or raises it)."""

    def work(rows: Unit) -> Any:
        value = values[int(rows["u"][0])]
        if isinstance(value, Exception):
            raise value
        return value

    job = Job(
        "one",
        sources=[Source("rows_in")],
        models=[Model("m", unit=("u",), work=work, returns=returns)],
    )
    cut = (
        (lambda m: [Message(m.run, m.model, m.batch, u, u) for u in range(m.first, m.last + 1)])
        if single
        else (lambda m: [m])
    )
    return runner.start(job, rows_in=pa.table({"u": list(range(len(values)))})).all(
        parts=parts, cut=cut
    )


def rows_of(run: InProcessRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.results("m").to_pylist()
    return rows


def why(run: InProcessRun) -> dict[int, str]:
    return {row["u"]: row["message"] for row in run.failures("m")}


@dataclass
class Price:
    price: float
    label: str | None = None


class Named(NamedTuple):
    price: float
    label: str | None


class Typed(TypedDict):
    price: float
    label: str | None


class Pydantic(pydantic.BaseModel):
    price: float
    label: str | None


ONE = [
    {"price": 1.5, "label": "x"},
    Price(1.5, "x"),
    Named(1.5, "x"),
    Typed(price=1.5, label="x"),
    Pydantic(price=1.5, label="x"),
    [Price(1.5, "x")],
    ({"price": 1.5, "label": "x"},),
    pd.DataFrame({"price": [1.5], "label": ["x"]}),
    pl.DataFrame({"price": [1.5], "label": ["x"]}),
    pa.table({"price": [1.5], "label": ["x"]}),
    pa.record_batch({"price": [1.5], "label": ["x"]}),
    {"price": np.array([1.5]), "label": np.array(["x"])},
    {"price": np.float32(1.5), "label": np.str_("x")},
    {"label": "x", "price": np.array(1.5)},
]


@pytest.mark.parametrize("value", ONE, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize(
    "returns", [None, Price, Named, Typed, Pydantic], ids=lambda r: r.__name__ if r else "free"
)
def test_a_row_may_come_in_any_shape(
    runner: InProcessRunner, value: Any, returns: type | None
) -> None:
    run = run_job(runner, [value, value], returns=returns)
    assert why(run) == {}
    assert rows_of(run) == [{"u": u, "price": 1.5, "label": "x"} for u in range(2)]


def test_shapes_may_change_from_unit_to_unit(runner: InProcessRunner) -> None:
    assert [row["price"] for row in rows_of(run_job(runner, ONE))] == [1.5] * len(ONE)


def test_several_rows_keep_the_order_in_which_they_were_returned(runner: InProcessRunner) -> None:
    values = [
        [{"a": 1, "b": "x"}, {"b": "y", "a": 2}, {"a": 3, "b": "z"}],
        [],
        pd.DataFrame({"a": [7, 6], "b": ["q", "p"]}),
    ]
    assert [(row["u"], row["a"], row["b"]) for row in rows_of(run_job(runner, values))] == [
        (0, 1, "x"),
        (0, 2, "y"),
        (0, 3, "z"),
        (2, 7, "q"),
        (2, 6, "p"),
    ]


def test_a_unit_may_return_no_row(runner: InProcessRunner) -> None:
    run = run_job(runner, [[], {"a": 1}, {"a": np.array([], np.int64)}, pd.DataFrame({"a": []})])
    assert (rows_of(run), run.collected["m"].ok) == ([{"u": 1, "a": 1}], 4)


def test_all_units_may_return_no_row(runner: InProcessRunner) -> None:
    run = run_job(runner, [[], []])
    assert (rows_of(run), run.results("m").column_names, run.collected["m"].ok) == (
        [],
        ["u"],
        2,
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "returned None; most units returned a"),
        (3.5, "other columns than 2 of 3 units: a missing and value too much"),
        ("text", "other columns than 2 of 3 units: a missing and value too much"),
        (np.zeros(2), "returned an array of shape (2,); wanted a dict, dataclass"),
        ([1, 2], "returned int '1' in a list; a list holds rows"),
        ([{"a": 1}, None], "returned None in a list; a list holds rows"),
        ({1.5}, "returned float '1.5' in a list; a list holds rows"),
        ({1, "x"}, "returned a set of int and str, which cannot be sorted"),
        ({"a": 1 + 2j}, "a"),
        (1 + 2j, "value"),
        (lambda: 1, "such as a fitted model, as bytes"),
        (pd.DataFrame({0: [1]}), "returned a frame with the columns 0; wanted names"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than once: a"),
        (
            pd.DataFrame({"a": pd.period_range("2020-01", periods=1, freq="M")}),
            "no file can hold: a (extension",
        ),
        (pd.DataFrame({"a": pd.Series([2**60 + 1, 1.5], dtype=object)}), "exactly representable"),
        (pl.Series([1]), "returned a polars Series"),
        (pa.array([1]), "returned a pyarrow Int64Array"),
        ({}, "returned an empty dict; wanted one with at least one column"),
        ({1: 2}, "returned columns 1; wanted names"),
        (pd.Series({"a": 1}), "pandas Series"),
        ({"a": object()}, "a"),
        ({"a": {1, "x"}}, "returned a set of int and str, which cannot be sorted"),
        ({"a": [{"b": {1, "x"}}]}, "returned a set of int and str, which cannot be sorted"),
        ({"a": {1: "x"}}, "a dict inside a row has the key 1, wanted strings as keys"),
        ({"a": 2**70}, "a"),
        ({"a": "\ud800"}, "a"),
        ({"a": [1, "x"]}, "a"),
        (Price, "wanted a dict, dataclass"),
        ({"a": 1, "u": 99}, "returned u = 99, but the unit's key is 1"),
        ([{"a": 1}, {"b": 1}], "returned other columns than"),
        ([{"a": 1}, {"a": "x"}], "returned as a a value that no column can hold"),
        (ZeroDivisionError("by hand"), "by hand"),
    ],
)
def test_an_object_that_is_no_row_fails_only_its_unit_with_a_reason(
    runner: InProcessRunner, value: Any, message: str
) -> None:
    for single in (False, True):
        run = run_job(runner, [{"a": 1}, value, {"a": 3}], single=single)
        assert [row["a"] for row in rows_of(run)] == [1, 3]
        assert list(why(run)) == [1]
        assert message in why(run)[1]


def test_key_columns_in_a_result_are_left_out_where_they_are_right(runner: InProcessRunner) -> None:
    assert rows_of(run_job(runner, [{"u": 0, "a": 1}, {"a": 2, "u": np.int64(1)}])) == [
        {"u": 0, "a": 1},
        {"u": 1, "a": 2},
    ]


def test_a_null_key_returned_as_the_nan_that_stood_for_it_is_right(runner: InProcessRunner) -> None:
    model = Model("m", unit=("u",), work=lambda rows: {"u": rows["u"][0], "a": 1})
    assert runner.results(model, pa.table({"u": [1, None, 2]})).to_pylist() == [
        {"u": 1, "a": 1},
        {"u": 2, "a": 1},
        {"u": None, "a": 1},
    ]


# --- without a contract: all units together say what type a column has
# --------------------------------------------------

zone = dt.timezone(dt.timedelta(hours=2))
MIXED: list[tuple[list[Any], list[Any], list[int], pa.DataType]] = [
    ([None, 1, 2.5], [None, 1.0, 2.5], [], pa.float64()),
    ([None, None, 3], [None, None, 3], [], pa.int64()),
    ([1.5, "x", 2.5], [1.5, 2.5], [1], pa.float64()),
    ([None, "x", 2.5, 1.5], [None, 2.5, 1.5], [1], pa.float64()),
    ([0.5, 2**60 + 1, 2**53, 1], [0.5, 2.0**53, 1.0], [1], pa.float64()),
    ([True, 1, 0], [1, 0], [0], pa.int64()),
    ([True, 1.5, 2.5], [1.5, 2.5], [0], pa.float64()),
    (["a", b"b", "c"], ["a", "c"], [1], pa.string()),
    (
        [Decimal("1.5"), Decimal("10.25"), 2],
        [Decimal("1.50"), Decimal("10.25")],
        [2],
        pa.decimal128(4, 2),
    ),
    (
        [dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 5), dt.date(2020, 1, 2)],
        [dt.date(2020, 1, 1), dt.date(2020, 1, 2)],
        [1],
        pa.date32(),
    ),
    (
        [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=UTC), dt.datetime(2020, 1, 2)],
        [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2)],
        [1],
        pa.timestamp("us"),
    ),
    (
        [dt.datetime(2020, 1, 1, 2, tzinfo=zone), dt.datetime(2020, 1, 1, tzinfo=UTC)],
        [dt.datetime(2020, 1, 1, tzinfo=UTC)] * 2,
        [],
        pa.timestamp("us", "UTC"),
    ),
    ([[], [1], [2.5], None], [[], [1.0], [2.5], None], [], pa.list_(pa.float64())),
    ([[1], ["a"], [2]], [[1], [2]], [1], pa.list_(pa.int64())),
    (
        [[[1.5]], [[], [2]], np.ones((1, 2))],
        [[[1.5]], [[], [2.0]], [[1.0, 1.0]]],
        [],
        pa.list_(pa.list_(pa.float64())),
    ),
    (
        [{"k": 1}, {"k": 2.5}, {"l": "x"}],
        [{"k": 1.0, "l": None}, {"k": 2.5, "l": None}, {"k": None, "l": "x"}],
        [],
        pa.struct([("k", pa.float64()), ("l", pa.string())]),
    ),
    (
        [np.datetime64("2020-01-01"), dt.date(2020, 1, 2), np.datetime64("NaT", "D")],
        [dt.date(2020, 1, 1), dt.date(2020, 1, 2), None],
        [],
        pa.date32(),
    ),
    (
        [pd.Timestamp("2020-01-01 05:00"), pd.NaT, pd.NA],
        [dt.datetime(2020, 1, 1, 5), None, None],
        [],
        pa.timestamp("us"),
    ),
    ([-1, np.uint8(3), np.uint64(2**63)], [-1, 3], [2], pa.int64()),
    ([None, None], [None, None], [], pa.null()),
]


@pytest.mark.parametrize(("values", "wanted", "failed", "kind"), MIXED, ids=str)
def test_no_unit_decides_the_type_for_the_others(
    runner: InProcessRunner,
    values: list[Any],
    wanted: list[Any],
    failed: list[int],
    kind: pa.DataType,
) -> None:
    for parts, single in ((0, False), (50, False), (1, True)):
        run = run_job(runner, [{"v": value} for value in values], parts=parts, single=single)
        assert list(why(run)) == failed, why(run)
        table = run.results("m")
        assert table.column("v").type == kind
        assert table.column("v").to_pylist() == wanted


WORDS = frozenset(["the", "order", "of", "words", "differs", "from", "process", "to"])
IN_A_ROW: list[tuple[Any, Any]] = [
    (set(WORDS), sorted(WORDS)),
    (WORDS, sorted(WORDS)),
    ([WORDS, {"z", None, "a"}], [sorted(WORDS), ["a", "z", None]]),
    ((WORDS,), [sorted(WORDS)]),
    ({"b": {"c": WORDS}}, {"b": {"c": sorted(WORDS)}}),
    ([{"b": WORDS}, {"a": 1}], [{"a": None, "b": sorted(WORDS)}, {"a": 1, "b": None}]),
    ([np.array([WORDS, {"a"}], object)], [[sorted(WORDS), ["a"]]]),
    ({2.5, -1.0}, [-1.0, 2.5]),
    ({b"b", b"a"}, [b"a", b"b"]),
    ({dt.date(2020, 1, 2), dt.date(2020, 1, 1)}, [dt.date(2020, 1, 1), dt.date(2020, 1, 2)]),
    ({(w, w) for w in WORDS}, [[w, w] for w in sorted(WORDS)]),
    ({frozenset({"b", "a"}), frozenset({"c"}), frozenset({"a"})}, [["a"], ["a", "b"], ["c"]]),
    (dict.fromkeys("ba").keys(), ["b", "a"]),
    ({"b": 2, "a": 1}.values(), [2, 1]),
    (deque([2, 1]), [2, 1]),
    (range(2, 0, -1), [2, 1]),
    ({"y": 1, "x": 2}, {"x": 2, "y": 1}),
]


@pytest.mark.parametrize(
    ("value", "wanted"),
    IN_A_ROW,
    ids=[type(value).__name__ + f"-{n}" for n, (value, _) in enumerate(IN_A_ROW)],
)
def test_members_of_a_set_are_sorted_at_any_depth_of_a_row(
    runner: InProcessRunner, value: Any, wanted: Any
) -> None:
    (row,) = returned(runner, {"v": value})
    assert row["v"] == wanted
    assert not isinstance(wanted, dict) or list(row["v"]) == list(wanted)


def test_two_nan_and_a_null_of_a_set_are_its_last_members(runner: InProcessRunner) -> None:
    (row,) = returned(runner, {"v": {float("nan"), 1.0, None, float("-inf"), np.float64("nan")}})
    assert str(row["v"]) == "[-inf, 1.0, nan, nan, None]"


class Plain(NamedTuple):
    price: float


@dataclass
class Tagged:
    tags: list[str]
    of: dict[str, list[str]]


def test_a_set_is_sorted_where_a_contract_wants_a_list(runner: InProcessRunner) -> None:
    sets: Any = WORDS
    value = Tagged(sets, {"b": sets, "a": set()})  # type: ignore[dict-item]
    (row,) = returned(runner, value, returns=Tagged)
    assert (row["tags"], row["of"]) == (sorted(WORDS), [("b", sorted(WORDS)), ("a", [])])


@pytest.mark.parametrize(
    "value",
    [
        {Plain(2.0), Plain(1.0)},
        frozenset({Plain(1.0), Plain(2.0)}),
        {"x": {"price": 1.0}, "y": {"price": 2.0}}.values(),
        deque([{"price": 1.0}, {"price": 2.0}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_may_come_in_a_set_that_can_be_sorted_or_in_a_view(
    runner: InProcessRunner, value: Any
) -> None:
    assert returned(runner, value) == [{"u": 0, "price": 1.0}, {"u": 0, "price": 2.0}]


@pytest.mark.parametrize("column", [{1, 2}, {"a": 1, "b": 2}], ids=["set", "dict"])
def test_a_column_of_a_whole_batch_without_an_order_is_refused(
    runner: InProcessRunner, column: Any
) -> None:
    model = Model("m", unit=("u",), work=lambda _: {"v": column}, batched=True)
    run = runner.start(
        Job("one", sources=[Source("rows_in")], models=[model]), rows_in=pa.table({"u": [0, 1]})
    ).all()
    assert "wanted an array or a list in the order of the units" in why(run)[0]


FIELDS = [{"y": 1, "x": {"d": 1, "c": 2}}, {"x": {"c": 3, "d": 4}, "y": 2}, {"z": None, "y": 3}]


def test_fields_of_a_dict_inside_a_row_have_one_order_in_any_packing(
    runner: InProcessRunner,
) -> None:
    frames = [pa.table({"v": pa.array([value])}) for value in FIELDS]
    for values in (
        [{"v": value} for value in FIELDS],
        [{"v": value} for value in reversed(FIELDS)],
        frames,
    ):
        pieces = [
            run_job(runner, values, parts=parts, single=single)
            for parts, single in ((0, False), (50, False), (1, True))
        ]
        assert len({run.result_bytes("m") for run in pieces}) == 1
        assert [f.name for f in pieces[0].results("m").schema.field("v").type][:2] == ["x", "y"]


@pytest.mark.parametrize("empty", [{}, [{}], {"b": {}}, {"b": 1, "c": [{}]}], ids=str)
def test_dicts_without_a_key_in_any_unit_fail_their_units_alone(
    runner: InProcessRunner, empty: Any
) -> None:
    for returned in (empty, pa.array([empty])):
        values = [{"v": returned, "n": 1}, {"v": None, "n": 2}, {"v": returned, "n": 3}]
        run = run_job(
            runner,
            [
                pa.table({"v": v["v"], "n": [v["n"]]})
                if isinstance(returned, pa.Array) and v["v"]
                else v
                for v in values
            ],
        )
        assert rows_of(run) == [{"u": 1, "v": None, "n": 2}]
        assert list(why(run)) == [0, 2]
        assert (
            "as v: a dict without a key cannot be stored, and no unit returned a key there"
            in why(run)[0]
        )


def test_a_unit_with_other_columns_than_most_fails_and_the_others_stay(
    runner: InProcessRunner,
) -> None:
    run = run_job(runner, [{"b": 2}, {"a": 1}, {"a": 3}, {"a": 4, "b": 1}])
    assert [row["a"] for row in rows_of(run)] == [1, 3]
    assert why(run) == {
        0: "returned other columns than 2 of 4 units: a missing and b too much",
        3: "returned other columns than 2 of 4 units: b too much",
    }


scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=2)
    | st.booleans()
    | st.integers(2**53, 2**65)
    | st.dates()
    | st.datetimes()
    | st.lists(st.integers() | st.floats(), max_size=2)
    | st.sets(st.text(max_size=1) | st.none(), max_size=3)
)
inner: st.SearchStrategy[Any] = st.dictionaries(st.sampled_from("abc"), scalars, max_size=3)
scalars |= inner | st.lists(inner, max_size=2)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(
    values=[[{"v": None}], [{"v": ""}, {"w": 2**63, "v": object()}]]
)  # its text would make the first unit's null a text
@example(
    values=[[{"v": 1}], [{"v": 2.5}, {"w": 2**63, "v": object()}]]
)  # and its float, of an integer a float
@example(
    values=[[{"v": {"c": set()}}], [{"v": {"c": -1}}], [{"v": {"b": "", "c": None}}]]
)  # a dict with a list that is always empty, and other values in its place
@example(
    values=[[{"v": {"b": 1, "c": ""}}], [{"v": {"c": -1}}], [{"v": {"b": 1.5}}]]
)  # a number that the text of another unit would make a text
@example(
    values=[[{"v": None, "w": None}], [{"v": None, "w": 0}], [{"v": None, "w": [{}]}]]
)  # a null beside a number, in a column for which a kind that cannot be stored was chosen
@example(
    values=[[{"v": 0}, {"v": 0}], [{"v": []}], [{"v": [{}]}]]
)  # a list of nothing, which is no more a list of dicts than one of numbers
@example(values=[[{"v": [{}, {"b": None, "c": 1}]}]])  # a list within which something is null alone
@given(
    values=st.lists(
        st.lists(st.fixed_dictionaries({"v": scalars}, optional={"w": scalars}), max_size=2),
        min_size=1,
        max_size=6,
    )
)
def test_which_units_fail_and_the_result_do_not_depend_on_the_packing(
    runner: InProcessRunner, values: list[Any]
) -> None:
    pieces = [
        run_job(runner, values, parts=parts, single=single)
        for parts, single in ((0, False), (50, False), (1, True))
    ]
    assert len({tuple(why(run)) for run in pieces}) == 1
    assert len({run.result_bytes("m") for run in pieces}) == 1
    found = pieces[0].results("m").to_pylist()
    done = [n for n, rows in enumerate(values) for _ in rows if n not in why(pieces[0])]
    assert [row["u"] for row in found] == done
    returned = [row for n in dict.fromkeys(done) for row in values[n]]
    assert all(map(is_same, found, returned)), (found, returned)


def is_same(found: Any, returned: Any) -> bool:
    """Return whether a value is as it was returned; a key without a value may be missing."""
    if isinstance(returned, dict) and isinstance(found, dict):
        return all(is_same(found.get(key), value) for key, value in returned.items())
    if isinstance(returned, set) and isinstance(found, list):
        return set(found) == returned
    if isinstance(returned, list) and isinstance(found, list):
        return len(found) == len(returned) and all(map(is_same, found, returned))
    return bool(found == returned or ((returned != returned and found is None) or found != found))


# --- with a contract: it says what a row holds
# ---------------------------------------------------------------------------


class Size(enum.Enum):
    SMALL = "S"
    LARGE = "L"


@dataclass
class Strict:
    price: Annotated[float, Gt(0)]
    size: Size
    count: int
    day: dt.date | None = None
    weights: list[float] | None = None
    name: Annotated[str, MaxLen(3)] | None = None


@dataclass
class Nested:
    lists: list[list[dt.date]]
    objects: dict[str, list[dt.date]] | None = None


def test_a_table_with_only_nulls_in_its_lists_keeps_its_contract(
    runner: InProcessRunner,
) -> None:
    nulls = pa.table(
        {"lists": pa.array([[None], []], pa.list_(pa.null())), "objects": pa.array([None, None])}
    )
    run = run_job(
        runner,
        [nulls, {"lists": [[dt.date(2026, 1, 2)]], "objects": {"k": [dt.date(2026, 1, 3)]}}],
        returns=Nested,
    )
    assert why(run) == {}
    assert [row["lists"] for row in rows_of(run)] == [[None], [], [[dt.date(2026, 1, 2)]]]


GOOD: dict[str, Any] = {
    "price": 1.0,
    "size": "S",
    "count": 1,
    "day": None,
    "weights": None,
    "name": None,
}
BROKEN = [
    ({"price": None}, "price is null, and Strict does not allow null"),
    ({"price": -1.0}, "price must be > 0 (-1.0)"),
    ({"price": float("nan")}, "price must not be NaN or infinite"),
    ({"price": "1.0"}, "price is '1.0' (str), wanted double"),
    ({"price": True}, "price is True (bool), wanted double"),
    ({"size": "M"}, "size must be one of S, L (M)"),
    ({"count": 1.5}, "count is 1.5 (float), wanted int64"),
    ({"count": 2**64}, "count is 18446744073709551616 (int), wanted int64"),
    ({"day": dt.datetime(2020, 1, 1, 5)}, "wanted date32"),
    ({"day": "2020-01-01"}, "day is '2020-01-01' (str), wanted date32"),
    ({"weights": [1, "x"]}, "weights is [1, 'x'] (list), wanted list"),
    ({"weights": "12"}, "weights is '12' (str), wanted list"),
    ({"name": "long"}, "name must be at most 3 long (long)"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_row_that_violates_its_contract_fails_its_unit_and_is_named(
    runner: InProcessRunner, change: dict[str, Any], message: str
) -> None:
    run = run_job(runner, [GOOD, GOOD | change, GOOD], returns=Strict)
    assert list(why(run)) == [1]
    assert message in why(run)[1]
    assert [row["u"] for row in rows_of(run)] == [0, 2]
    assert run.results("m").schema.field("price").type == pa.float64()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"a": ["1.5"]}, "a is '1.5' (str), wanted double"),
        ({"a": [None]}, "a is null"),
        ({"b": [1.0]}, "a missing and b too much"),
        ({"a": [-1.0]}, "must be >= 0"),
    ],
)
@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_table_that_breaks_the_contract_fails_that_unit(
    runner: InProcessRunner, frame: dict[str, Any], message: str, make: Callable[..., Any]
) -> None:
    @dataclass
    class Row:
        a: Annotated[float, Ge(0)]

    run = run_job(runner, [{"a": 1}, make(frame), make({"a": [2, 3]})], returns=Row)
    assert list(why(run)) == [1]
    assert message in why(run)[1]
    assert [row["a"] for row in rows_of(run)] == [1.0, 2.0, 3.0]


def test_missing_and_extra_columns_are_named(runner: InProcessRunner) -> None:
    run = run_job(
        runner,
        [{"price": 1.0, "lable": "x"}, [Price(1.0), {"nothing": 1}], Price(2.0)],
        returns=Price,
    )
    assert why(run)[0] == "returned other columns than Price has: label missing and lable too much"
    assert "price, label missing" in why(run)[1]
    assert rows_of(run) == [{"u": 2, "price": 2.0, "label": None}]


def test_a_lossless_value_is_converted_to_the_contracts_type(runner: InProcessRunner) -> None:
    @dataclass
    class Row:
        whole: int
        real: float
        day: dt.date
        at: dt.datetime
        amount: Decimal
        size: Size
        kind: Literal["x", "y"]
        weights: np.ndarray

    of_row: Any = Row
    row = of_row(
        np.float64(2.0),
        3,
        dt.datetime(2020, 1, 1),
        dt.date(2020, 1, 2),
        7,
        Size.LARGE,
        "x",
        np.array([1, 2]),
    )
    (found,) = rows_of(run_job(runner, [row], returns=Row))
    assert found == {
        "u": 0,
        "whole": 2,
        "real": 3.0,
        "day": dt.date(2020, 1, 1),
        "at": dt.datetime(2020, 1, 2),
        "amount": Decimal(7),
        "size": "L",
        "kind": "x",
        "weights": [1.0, 2.0],
    }


def test_a_contract_may_name_the_key_columns(runner: InProcessRunner) -> None:
    @dataclass
    class Row:
        u: int
        a: float

    run = run_job(runner, [Row(0, 1.5), Row(5, 1.5), Row(2, 2.5)], returns=Row)
    assert rows_of(run) == [{"u": 0, "a": 1.5}, {"u": 2, "a": 2.5}]
    assert why(run) == {1: "returned u = 5, but the unit's key is 1"}


def returns_list(rows: Unit) -> list[Price]:
    return [Price(float(rows["u"][0])), Price(-1.0, "x")]


def test_a_list_of_rows_in_the_annotation_is_a_contract_too(runner: InProcessRunner) -> None:
    found = runner.results(Model("m", unit=("u",), work=returns_list), pa.table({"u": [3]}))
    assert found.to_pylist() == [
        {"u": 3, "price": 3.0, "label": None},
        {"u": 3, "price": -1.0, "label": "x"},
    ]


def test_a_contract_gives_the_columns_where_no_unit_returned_a_row(runner: InProcessRunner) -> None:
    assert run_job(runner, [[], ValueError()], returns=Price).results("m").schema == pa.schema(
        [("u", pa.int64()), ("price", pa.float64()), ("label", pa.string())]
    )


# --- many units in one call
# ----------------------------------------------------------------------------------------------

MANY = pa.table({"u": [0, 0, 1, 2], "x": [1.0, 2.0, 3.0, 4.0]})
UNITS = (3, 2)


def many(value: Any) -> Model:
    return Model("m", unit=("u",), work=lambda rows: value(rows), batched=True)


@pytest.mark.parametrize(
    "value",
    [
        lambda rows: {"s": np.add.reduceat(rows["x"], rows.offsets[:-1])},
        lambda rows: [
            {"s": float(rows["x"][a:b].sum())}
            for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
        ],
        lambda rows: pd.DataFrame(
            {"s": np.add.reduceat(rows["x"], rows.offsets[:-1])},
            index=pd.Index(rows.keys["u"], name="u"),
        )[::-1],
        lambda rows: pl.DataFrame(
            {"s": np.add.reduceat(rows["x"], rows.offsets[:-1]), "u": rows.keys["u"]}
        )[::-1],
        lambda rows: (
            pd.DataFrame({"u": rows.keys["u"].repeat(np.diff(rows.offsets)), "s": rows["x"]})
            .groupby("u")
            .sum()[::-1]
        ),
        lambda rows: {
            "s": pd.DataFrame({"u": rows.keys["u"].repeat(np.diff(rows.offsets)), "x": rows["x"]})
            .groupby("u")
            .x.sum()[::-1]
        },
        lambda rows: [
            {"u": u, "s": float(rows["x"][a:b].sum())}
            for u, a, b in zip(
                *map(reversed, (rows.keys["u"], rows.offsets[:-1], rows.offsets[1:])), strict=True
            )
        ],
        lambda rows: {
            "s": np.add.reduceat(rows["x"], rows.offsets[:-1])[::-1],
            "u": rows.keys["u"][::-1],
        },
        lambda rows: {
            "unit": np.arange(len(rows))[::-1],
            "s": np.add.reduceat(rows["x"], rows.offsets[:-1])[::-1],
        },
        lambda rows: {"u": rows.keys["u"], "s": np.add.reduceat(rows["x"], rows.offsets[:-1])},
    ],
)
def test_one_call_for_many_units_gives_one_row_each(runner: InProcessRunner, value: Any) -> None:
    assert runner.results(many(value), MANY).to_pylist() == [
        {"u": 0, "s": 3.0},
        {"u": 1, "s": 3.0},
        {"u": 2, "s": 4.0},
    ]


def test_a_matrix_is_one_list_for_each_unit(runner: InProcessRunner) -> None:
    found = runner.results(
        many(lambda rows: {"w": np.arange(len(rows) * 2.0).reshape(-1, 2)}), MANY
    )
    assert found.column("w").to_pylist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


def test_a_column_unit_assigns_rows_to_units(runner: InProcessRunner) -> None:
    found = runner.results(
        many(
            lambda _: {
                "unit": np.array([2, 0, 2]),
                "s": [1, 2, 3],
                "day": np.array(["2020-01-01"] * 3, "M8[D]"),
            }
        ),
        MANY,
    )
    assert [(row["u"], row["s"]) for row in found.to_pylist()] == [(0, 2), (2, 1), (2, 3)]
    assert found.schema.field("day").type == pa.date32()


def with_one_invalid(rows: Units) -> dict[str, Any]:
    rows["x"][:] *= 2  # the remains of a failed call must not reach the next one
    if 3.0 in rows["x"] / 2:
        raise ValueError("three")
    return {"s": rows["x"].copy()}


def test_many_units_are_halved_until_the_bad_one_is_alone(runner: InProcessRunner) -> None:
    job = Job(
        "one",
        sources=[Source("rows_in")],
        models=[Model("m", unit=("u",), work=with_one_invalid, batched=True)],
    )
    run = runner.start(job, rows_in=pa.table({"u": range(5), "x": [1.0, 2.0, 3.0, 4.0, 5.0]})).all()
    assert run.results("m").column("s").to_pylist() == [2.0, 4.0, 8.0, 10.0]
    assert why(run) == {2: "three"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda rows: {"s": np.zeros(len(rows) + 1)}, "rows for 1 units; wanted one for each"),
        (
            lambda rows: {"unit": np.array([len(rows)]), "s": [1]},
            "returned rows for unit 1, and the slice has units 0 to 0",
        ),
        (
            lambda rows: {"s": np.zeros(len(rows)), "t": [1, 2, 3, 4, 5]},
            "columns of different lengths",
        ),
        (lambda _: None, "returned None"),
        (lambda _: 3.0, "returned float"),
    ],
)
def test_the_error_for_a_wrong_batched_result_has_the_wanted_form(
    runner: InProcessRunner, value: Any, message: str
) -> None:
    job = Job("one", sources=[Source("rows_in")], models=[many(value)])
    run = runner.start(job, rows_in=pa.table({"u": [0], "x": [1.0]})).all()
    assert message in why(run)[0]


def test_a_failure_has_the_traceback_of_the_users_own_code(runner: InProcessRunner) -> None:
    (failure,) = run_job(runner, [ZeroDivisionError("by hand")]).failures("m")
    assert failure["error"] == "ZeroDivisionError"
    assert "raise value" in failure["traceback"]
    assert "child.py" not in failure["traceback"]


def test_a_frozen_slotted_dataclass_is_a_row(runner: InProcessRunner) -> None:
    Slotted = dataclasses.make_dataclass("Slotted", [("a", int)], frozen=True, slots=True)
    assert rows_of(run_job(runner, [Slotted(4)], returns=Slotted)) == [{"u": 0, "a": 4}]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (ValueError("\udcff"), "\\udcff"),
        (Mute(), "whose str raises RuntimeError"),
        ({"a": Mute()}, "a"),
        ({"__unit": 1}, "begins with __"),
        ({"a\udcff": 1}, "wanted names"),
        ({"a": 1, "A": 2}, "are the same"),
        ({"U": 1}, "are the same"),
        (pa.table([[1], [2]], names=["a", "a"]), "are the same"),
    ],
)
def test_a_value_that_cannot_be_described_fails_only_its_unit(
    runner: InProcessRunner, value: Any, message: str
) -> None:
    run = run_job(runner, [{"a": 1}, value, {"a": 3}])
    assert [row["a"] for row in rows_of(run)] == [1, 3]
    assert message in why(run)[1]


def returned(runner: InProcessRunner, value: Any, returns: Any = None) -> Any:
    """Return the value of a unit, beside a unit that returned a plain one with the same columns."""
    run = run_job(runner, [value], returns=returns)
    return rows_of(run) or why(run)[0]


MASKED = np.ma.masked_equal(np.array([3.0, 0.0]), 0.0)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"a": MASKED[1:].mean()}, [None]),
        ({"a": MASKED.mean()}, [3.0]),
        (np.ma.masked, [None]),
        ({"a": MASKED}, [3.0, None]),
        ({"b": 1, "a": MASKED}, [[3.0, None]]),
        ({"b": 1, "a": [np.ma.masked, 2]}, [[None, 2]]),
        ({"b": 1, "a": np.ma.masked_equal([[1, 2], [3, 0]], 0)}, [[[1, 2], [3, None]]]),
        ({"b": 1, "a": np.ma.masked_equal(np.array(["x", "y"]), "y")}, [["x", None]]),
        ({"a": np.ma.masked_equal(np.array([True, False]), False)}, [True, None]),
        (
            {
                "a": np.ma.array(
                    np.array(["2020-01-01", "2020-01-02"], "M8[ns]"), mask=[False, True]
                )
            },
            [dt.datetime(2020, 1, 1), None],
        ),
        ({"b": 1, "a": np.ma.array(2.5, mask=True)}, [None]),
        ([{"a": MASKED[1]}, {"a": MASKED[0]}], [None, 3.0]),
    ],
)
def test_masked_values_become_null(runner: InProcessRunner, value: Any, wanted: list[Any]) -> None:
    found = returned(runner, value)
    assert [row.get("a", row.get("value")) for row in found] == wanted


def test_masked_values_of_a_contract_and_of_many_units_are_null(runner: InProcessRunner) -> None:
    @dataclass
    class Maybe:
        a: float | None

    @dataclass
    class Always:
        a: float

    assert [row["a"] for row in returned(runner, {"a": MASKED}, Maybe)] == [3.0, None]
    assert "a is null" in returned(runner, {"a": MASKED}, Always)
    masked = many(
        lambda rows: {"s": np.ma.masked_less(np.add.reduceat(rows["x"], rows.offsets[:-1]), 4)}
    )
    assert runner.results(masked, MANY).column("s").to_pylist() == [None, None, 4.0]


NANO = pd.Timestamp("2020-01-01 00:00:00.000000001")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (NANO, NANO.value),
        (np.datetime64(NANO.value, "ns"), NANO.value),
        (pa.scalar(NANO.value, pa.timestamp("ns")), NANO.value),
        (NANO.to_pydatetime(warn=False), NANO.value // 1000),
        (pd.Timedelta(1, "ns"), "finer than a microsecond"),
        (np.timedelta64(1, "ns"), "finer than a microsecond"),
        (np.timedelta64(3000, "ns"), 3),
        (np.datetime64(1, "ps"), "finer than a nanosecond"),
        (np.datetime64(1000, "ps"), 1),
        (np.datetime64(10000 - 1970, "Y"), "a date that Python cannot hold"),
        (np.timedelta64(1, "M"), "no length"),
        (pd.Timestamp("2020-01-01 00:00:00.000000001", tz="UTC"), NANO.value),
        (pd.Timestamp("2020-01-01 01:00:00.000000001", tz="Europe/Berlin"), NANO.value),
        (pa.scalar(NANO.value, pa.timestamp("ns", "Asia/Tokyo")), NANO.value),
    ],
)
def test_nanoseconds_are_kept_or_refused(runner: InProcessRunner, value: Any, wanted: Any) -> None:
    for shape in ({"a": value}, [{"a": value}, {"a": None}]):
        run = run_job(runner, [shape])
        if isinstance(wanted, str):
            assert wanted in why(run)[0]
        else:
            assert run.results("m").column("a")[0].value == wanted


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.5, pa.float64()),
        (np.float32(1.5), pa.float64()),
        (np.float16(1.5), pa.float64()),
        (3, pa.int64()),
        (np.int8(3), pa.int64()),
        (True, pa.bool_()),
        (np.True_, pa.bool_()),
        ("text", pa.string()),
        (b"x", pa.binary()),
        (Decimal("1.5"), pa.decimal128(2, 1)),
        (dt.date(2020, 1, 1), pa.date32()),
        (dt.datetime(2020, 1, 1), pa.timestamp("us")),
        (dt.time(1), pa.time64("us")),
        (np.array(2.5), pa.float64()),
        (pa.scalar("x"), pa.string()),
        (dt.timedelta(1), pa.duration("us")),
    ],
)
def test_a_single_value_is_a_result_of_one_column(
    runner: InProcessRunner, value: Any, kind: pa.DataType
) -> None:
    run = run_job(runner, [value, None, value])
    assert (why(run), run.results("m").schema.field("value").type) == ({}, kind)
    assert [row["value"] is None for row in rows_of(run)] == [False, True, False]
    assert rows_of(run)[0]["value"] == (value.as_py() if isinstance(value, pa.Scalar) else value)


def test_a_none_of_every_unit_is_no_result(runner: InProcessRunner) -> None:
    assert why(run_job(runner, [None, None])) == dict.fromkeys(
        range(2), "returned None, as every unit did: does the function lack a return statement?"
    )
    assert "returned None, wanted Price" in returned(runner, None, Price)
    run = run_job(runner, [None, Price(1.5, "x")], returns=Price | None)
    assert (why(run), rows_of(run)) == ({}, [{"u": 1, "price": 1.5, "label": "x"}])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1.5, None),
        (-1.5, "value must be > 0"),
        (None, "value is null"),
        ("x", "value is 'x' (str)"),
        ({"value": 2.5}, None),
        ({"a": 1.5}, "value missing and a too much"),
    ],
)
def test_a_single_value_may_have_a_contract(
    runner: InProcessRunner, value: Any, wanted: str | None
) -> None:
    run = run_job(runner, [value], returns=Annotated[float, Gt(0)])
    assert [wanted in message if wanted else message for message in why(run).values()] == (
        [True] if wanted else []
    )


class Fitted:
    """A model of any library."""


def test_a_fitted_model_is_kept_as_bytes_as_its_error_advises(runner: InProcessRunner) -> None:
    assert "Fitted object; wanted a dict" in returned(runner, Fitted())
    assert 'return {"model": pickle.dumps(model)}' in returned(runner, Fitted())
    assert "pickle.dumps" in returned(runner, {"model": Fitted()})
    (row,) = returned(runner, {"model": pickle.dumps(Fitted())})
    assert isinstance(pickle.loads(row["model"]), Fitted)


@pytest.mark.parametrize(
    "value",
    [
        (row for row in [{"a": 1}, {"a": 2}]),
        map(dict, [[("a", 1)], [("a", 2)]]),
        pl.LazyFrame({"a": [1, 2]}),
        np.array([(1,), (2,)], [("a", "i4")]),
        np.rec.fromarrays([[1, 2]], names="a"),  # type: ignore[call-overload]
        pa.RecordBatchReader.from_batches(
            pa.schema([("a", pa.int32())]), [pa.record_batch({"a": pa.array([1, 2], pa.int32())})]
        ),
        pd.DataFrame({"a": pd.Series([1, 2], dtype=object)}),
        pd.DataFrame({"a": pd.Series([1, 2], dtype="Int64")}),
        pd.DataFrame({"a": pd.Categorical([1, 2])}),
        pd.DataFrame({"u": [0, 0], "a": [1, 2]}).set_index("u"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_may_come_in_every_kind_of_table(runner: InProcessRunner, value: Any) -> None:
    assert returned(runner, value) == [{"u": 0, "a": 1}, {"u": 0, "a": 2}]


KEYED = pa.table({"u": [None, 1, 2, 2], "v": ["x", "x", "x", "y"], "x": [1.0, 2.0, 3.0, 4.0]})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda rows: rows[["u", "v", "x"]][::-1], None),
        (lambda rows: rows.set_index(["u", "v"])[["x"]][::-1], None),
        (lambda rows: pl.from_pandas(rows).sort("x", descending=True), None),
        (lambda rows: rows[["x"]], "without their keys"),
        (lambda rows: rows[["u", "x"]], "with u and without v"),
        (lambda rows: rows.iloc[:-1], "have none, such as"),
        (lambda rows: pd.concat([rows, rows[:1]]), "1 units have several rows, such as"),
        (lambda rows: rows.assign(v="z"), "whose key belongs to no unit of this call, such as"),
    ],
)
def test_rows_of_many_units_are_matched_by_their_keys(
    runner: InProcessRunner, value: Any, message: str | None
) -> None:
    def work(rows: pd.DataFrame) -> Any:
        return value(rows)

    model = Model("m", unit=("u", "v"), work=work, batched=True)
    run = runner.start(
        Job("one", sources=[Source("rows_in")], models=[model], max_failed=1.0), rows_in=KEYED
    ).all()
    if message is None:
        assert list(run.failures("m")) == []
        assert run.results("m").sort_by("x").column("x").to_pylist() == [1.0, 2.0, 3.0, 4.0]
        assert run.results("m").equals(
            runner.results(
                Model("m", unit=("u", "v"), work=lambda rows: {"x": float(rows["x"][0])}), KEYED
            )
        )
    else:
        messages = [row["message"] for row in run.failures("m")]
        assert [message in message for message in messages] == [True] * 4
