"""Promise 1: any rows through the engine = the function applied to each unit by hand, byte for
byte.

The oracle below shares nothing with the engine: it sorts Python values, groups them with a dict,
and compares the results by the bits of their floats.
"""

from __future__ import annotations

import datetime as dt
import math
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import hundredfold
from hundredfold import Job, Model, Source, Unit
from hundredfold.data.messages import Message
from support.in_process import InProcessRunner

LIGHT = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCHEMA = pa.schema(
    [
        ("place", pa.string()),
        ("week", pa.int64()),
        ("x", pa.float64()),
        ("n", pa.int64()),
        ("flag", pa.bool_()),
        ("word", pa.string()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("price", pa.decimal128(9, 2)),
        ("weights", pa.list_(pa.float64())),
        ("clock", pa.time64("us")),
    ]
)
UTC = dt.UTC
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
floats = st.floats(allow_nan=True, width=64) | st.sampled_from(
    [0.0, -0.0, math.inf, -math.inf, 0.1, 0.2, 1e300]
)
rows = st.fixed_dictionaries(
    {
        "place": st.none() | st.sampled_from(["", "a", "ä", "a,b", "Ä\n", "😀", "b"]) | texts,
        "week": st.integers(-3, 3),
        "x": st.none() | floats,
        "n": st.none() | st.integers(-(2**53), 2**53),
        "flag": st.none() | st.booleans(),
        "word": st.none() | texts,
        "day": st.none() | st.dates(dt.date(1900, 1, 1), dt.date(2200, 1, 1)),
        "at": st.none()
        | st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(UTC)),
        "price": st.none() | st.decimals(-9999, 9999, places=2),
        "weights": st.none() | st.lists(floats, max_size=3),
        "clock": st.none() | st.times(),
    }
)
tables = st.lists(rows, min_size=1, max_size=25)
packings = st.tuples(st.sampled_from([0, 1, 2, 50]), st.integers(1, 4))


# --- the oracle
# --------------------------------------------------------------------------------------------------


def bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def rank(value: Any) -> Any:
    """Return the sort key of a value in its column: NaN after all numbers, nulls last, -0.0 before
    0.0, texts by their bytes.
    """
    if value is None:
        return (2,)
    if isinstance(value, float):
        number = bits(value)
        return (
            (1, number)
            if math.isnan(value)
            else (0, number if number >= 0 else -(2**63) - number - 1)
        )
    if isinstance(value, list):
        return (0, repr(value))
    return (0, value.encode() if isinstance(value, str) else value)


def expected(
    table: Sequence[dict[str, Any]],
    unit: Sequence[str],
    order_by: Sequence[str],
    names: Sequence[str],
) -> list[tuple[Any, list[dict[str, Any]]]]:
    """Return the units in the order of their keys with their rows: by `order_by`, then by the other
    columns from left to right.
    """
    columns = [*order_by, *(n for n in names if n not in order_by and n not in unit)]
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault(tuple(rank(row[k]) for k in unit), []).append(row)
    return [
        (
            tuple(groups[key][0][k] for k in unit),
            sorted(groups[key], key=lambda row: [rank(row[n]) for n in columns]),
        )
        for key in sorted(groups)
    ]


def same(found: Any, wanted: Any) -> bool:
    """Assert that values are equal, floats by their bits."""
    if isinstance(found, float) and isinstance(wanted, float):
        return bits(found) == bits(wanted)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in found)
    return type(found) is type(wanted) and found == wanted


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for left, right in zip(found, wanted, strict=True):
        assert same(left, right), f"found {left}\nwanted {right}"


def shuffled(table: list[dict[str, Any]], seed: int) -> pa.Table:
    order = np.random.default_rng(seed).permutation(len(table))
    return pa.Table.from_pylist([table[i] for i in order], schema=SCHEMA)


def single_units(message: Message) -> list[Message]:
    return [message.part(unit, unit) for unit in range(message.first, message.last + 1)]


def thirds(message: Message) -> list[Message]:
    cuts = sorted(
        {
            message.first,
            message.first + message.units // 3,
            message.first + 2 * message.units // 3,
            message.last + 1,
        }
    )
    return [message.part(a, b - 1) for a, b in pairwise(cuts)]


# --- every value of every row comes through, in order
# -----------------------------------------------------------------


def echo(rows: pa.Table) -> pa.Table:
    """Return all rows unchanged, with their position in the unit."""
    return rows.append_column("seq", pa.array(range(rows.num_rows), pa.int64()))


ECHO = Model("echo", unit=("place",), order_by=("week",), work=echo)


@LIGHT
@given(table=tables, packing=packings, seed=st.integers(0, 3))
@example(table=[dict.fromkeys(SCHEMA.names) | {"week": 0}], packing=(0, 1), seed=0)
def test_every_value_of_every_row_arrives_in_canonical_order(
    runner: InProcessRunner, table: list[dict[str, Any]], packing: tuple[int, int], seed: int
) -> None:
    found = runner.results(
        ECHO,
        shuffled(table, seed),
        parts=packing[0],
        cut=thirds if packing[1] % 2 else single_units,
    )
    wanted = [
        {**row, "seq": seq}
        for _, group in expected(table, ("place",), ("week",), SCHEMA.names)
        for seq, row in enumerate(group)
    ]
    assert_same(found.to_pylist(), wanted)


@LIGHT
@given(
    table=tables,
    unit=st.sampled_from(
        [
            (),
            ("week",),
            ("place", "flag"),
            ("n",),
            ("day",),
            ("at",),
            ("price",),
            ("x",),
            ("flag", "clock"),
        ]
    ),
    seed=st.integers(0, 3),
)
def test_any_columns_may_be_the_key(
    runner: InProcessRunner, table: list[dict[str, Any]], unit: tuple[str, ...], seed: int
) -> None:
    for row in table:  # a zero of either sign is one key
        row["x"] = 0.0 if row["x"] == 0.0 and "x" in unit else row["x"]
        row["x"] = (
            math.nan if "x" in unit and row["x"] is not None and math.isnan(row["x"]) else row["x"]
        )
    count = Model("count", unit=unit, work=lambda rows: {"rows": rows.rows})
    found = runner.results(count, shuffled(table, seed))
    assert_same(
        found.to_pylist(),
        [
            {**dict(zip(unit, key, strict=True)), "rows": len(group)}
            for key, group in expected(table, unit, (), SCHEMA.names)
        ],
    )


# --- the same answer in every form
# ------------------------------------------------------------------------------------


def facts(week: Any, x: Any, word: Any) -> dict[str, Any]:
    """Return values that depend on order: first and last, and a float sum in row order."""
    total = 0.0
    for value in x:
        total = total * 0.5 + (0.0 if value is None or value != value else float(value) / 3.0)
    last = word[len(word) - 1]
    return {
        "first": int(week[0]),
        "last": None if last is None or last != last else str(last),
        "total": total,
        "rows": len(week),
    }


def from_light(rows: Unit) -> dict[str, Any]:
    return facts(rows["week"], rows["x"], rows["word"])


def from_bare(rows):  # type: ignore[no-untyped-def]  # without an annotation
    return facts(rows["week"], rows["x"], rows["word"])


def from_dict(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    return facts(rows["week"], rows["x"], rows["word"])


def from_pandas(rows: pd.DataFrame) -> dict[str, Any]:
    return facts(rows["week"].to_numpy(), rows["x"].to_numpy(), rows["word"].to_numpy())


def from_polars(rows: pl.DataFrame) -> dict[str, Any]:
    return facts(rows["week"], rows["x"], rows["word"])


def from_arrow(rows: pa.Table) -> dict[str, Any]:
    return facts(*(rows.column(n).to_pylist() for n in ("week", "x", "word")))


def from_units(rows: hundredfold.Units) -> list[dict[str, Any]]:
    edges = rows.offsets
    return [facts(*(rows[n][a:b] for n in ("week", "x", "word"))) for a, b in pairwise(edges)]


def from_many_pandas(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        from_pandas(group) for _, group in rows.groupby(["place", "week"], sort=False, dropna=False)
    ]


FORMS = {
    "light": Model("m", unit=("place", "week"), order_by=("x",), work=from_light),
    "bare": Model("m", unit=("place", "week"), order_by=("x",), work=from_bare),
    "dict": Model("m", unit=("place", "week"), order_by=("x",), work=from_dict),
    "pandas": Model("m", unit=("place", "week"), order_by=("x",), work=from_pandas),
    "polars": Model("m", unit=("place", "week"), order_by=("x",), work=from_polars),
    "arrow": Model("m", unit=("place", "week"), order_by=("x",), work=from_arrow),
    "many light": Model(
        "m", unit=("place", "week"), order_by=("x",), work=from_units, batched=True
    ),
    "many pandas": Model(
        "m", unit=("place", "week"), order_by=("x",), work=from_many_pandas, batched=True
    ),
}


@pytest.mark.parametrize("form", FORMS)
@settings(LIGHT, max_examples=8)
@given(table=tables, seed=st.integers(0, 3))
def test_every_form_of_rows_gives_the_same_answer(
    runner: InProcessRunner, form: str, table: list[dict[str, Any]], seed: int
) -> None:
    found = runner.results(FORMS[form], shuffled(table, seed))
    wanted = [
        {
            "place": key[0],
            "week": key[1],
            **facts(*([row[n] for row in group] for n in ("week", "x", "word"))),
        }
        for key, group in expected(table, ("place", "week"), ("x",), SCHEMA.names)
    ]
    assert_same(found.to_pylist(), wanted)


# --- what a unit sees does not depend on its neighbours
# ---------------------------------------------------------------


def types_light(rows: Unit) -> dict[str, Any]:
    return {f"type_of_{name}": str(rows[name].dtype) for name in rows}


def types_pandas(rows: pd.DataFrame) -> dict[str, Any]:
    kinds = {f"type_of_{name}": str(kind) for name, kind in rows.dtypes.items()}
    return kinds | {"counted": str(list(rows.index) == list(range(len(rows))))}


def types_polars(rows: pl.DataFrame) -> dict[str, Any]:
    return {f"type_of_{name}": str(kind) for name, kind in rows.schema.items()}


@pytest.mark.parametrize("work", [types_light, types_pandas, types_polars])
@settings(LIGHT, max_examples=10)
@given(table=tables, parts=st.sampled_from([0, 50]))
def test_the_type_of_a_column_is_the_same_for_all_units(
    runner: InProcessRunner, work: Any, table: list[dict[str, Any]], parts: int
) -> None:
    found = runner.results(
        Model("m", unit=("place",), work=work), shuffled(table, 0), parts=parts
    ).drop_columns(["place"])
    assert len({tuple(row.items()) for row in found.to_pylist()}) == 1


def ruin_light(rows: Unit) -> dict[str, Any]:
    seen = float(np.nansum(rows["n"]))
    for name in ("week", "n", "word"):
        rows[name][:] = rows[name][:1] if name == "word" else 77
    return {"seen": seen}


def ruin_pandas(rows: pd.DataFrame) -> dict[str, Any]:
    seen = float(rows["n"].sum())
    rows["n"] = 77
    rows["new"] = 1
    rows.loc[0, "week"] = 9
    rows["x"].to_numpy(copy=True)[:] = 1
    return {"seen": seen}


def ruin_dict(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    seen = float(np.nansum(rows["n"]))
    rows["n"] += 5
    rows.clear()
    return {"seen": seen}


@pytest.mark.parametrize("work", [ruin_light, ruin_pandas, ruin_dict])
def test_a_function_that_ruins_its_rows_harms_no_other_unit(
    runner: InProcessRunner, work: Any
) -> None:
    table = pa.table(
        {
            "place": [p for p in "abcdef" for _ in range(3)],
            "week": [0, 1, 2] * 6,
            "n": range(18),
            "x": [0.5] * 18,
            "word": ["w"] * 18,
        }
    )
    found = runner.results(Model("m", unit=("place",), work=work), table)
    assert found.column("seen").to_pylist() == [3.0, 12.0, 21.0, 30.0, 39.0, 48.0]


# --- the bytes do not depend on how units were packed, cut or spread over workers
# --------------------------------------


def several(rows: Unit) -> Any:
    """Return another number of rows and other types from unit to unit."""
    location, first = rows.key[0], rows["n"][0]
    if location in (None, ""):
        return []
    value = (
        None
        if rows.rows % 2
        else int(rows["week"][0])
        if location < "b"
        else float(rows["week"][0]) / 7
    )
    return [
        {
            "value": value,
            "seq": seq,
            "tags": [] if seq else ["t"],
            "first": None if first != first else first,
        }
        for seq in range(rows.rows)
    ]


@LIGHT
@given(table=tables, seed=st.integers(0, 9))
def test_the_result_file_is_the_same_bytes_for_every_packing(
    runner: InProcessRunner, table: list[dict[str, Any]], seed: int
) -> None:
    job = Job(
        "one", sources=[Source("rows_in")], models=[Model("m", unit=("place", "n"), work=several)]
    )
    files = set()
    for parts, cut, order in (
        (0, lambda m: [m], 0),
        (50, single_units, seed),
        (2, thirds, seed + 1),
    ):
        run = runner.start(job, rows_in=shuffled(table, order))
        run.all(parts=parts, cut=cut)
        files.add(run.result_bytes("m"))
    assert len(files) == 1


def test_a_hundred_thousand_rows_in_one_unit(runner: InProcessRunner) -> None:
    rng = np.random.default_rng(1)
    week, x = rng.permutation(100_000), rng.normal(size=100_000)
    table = pa.table({"place": ["a"] * 100_000, "week": week, "x": x})
    job = Job(
        "one",
        sources=[Source("rows_in")],
        models=[
            Model(
                "m",
                unit=("place",),
                order_by=("week",),
                work=lambda rows: {"total": float(np.add.accumulate(rows["x"])[-1])},
            )
        ],
    )
    run = runner.start(job, rows_in=table).all(parts=2, batch_bytes=2**16)
    ordered = np.empty(100_000)
    ordered[week] = x
    assert run.results("m").to_pylist() == [
        {"place": "a", "total": float(np.add.accumulate(ordered)[-1])}
    ]


def test_rows_that_a_key_column_also_orders_come_in_order(runner: InProcessRunner) -> None:
    table = pa.table({"place": ["a", "a", "b"], "week": [2, 1, 1]})
    model = Model(
        "m",
        unit=("place",),
        order_by=("place", "week"),
        work=lambda rows: {"weeks": rows["week"].tolist()},
    )
    assert runner.results(model, table).column("weeks").to_pylist() == [[1, 2], [1]]
