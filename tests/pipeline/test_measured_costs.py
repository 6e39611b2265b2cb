"""Batches are packed by the seconds that units took in the last run, and results stay the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold import Job, Model, Publish, Run, Source, run
from hundredfold.cli.display import further_lines
from hundredfold.data.manifest import Manifest
from hundredfold.pipeline.enqueue import plan_attempt
from hundredfold.pipeline.measured_costs import positions
from hundredfold.runs.summary import summarize
from hundredfold.sql.queries import make_batches

UNITS, SLOW = 24, 13
AS_OF = "2026-01-01"


def work(rows: Any) -> dict[str, float]:
    time.sleep(0.4 if rows["k"][0] == SLOW else 0.001)
    return {"sum": float(rows["x"].sum())}


JOB = Job(
    "slow",
    [Source("sales")],
    [Model("m", unit=("k",), work=work)],
    Publish("sums", "SELECT * FROM m"),
)


def sales(first: int, last: int) -> pa.Table:
    units = np.repeat(np.arange(first, last), 4)
    return pa.table({"k": units, "x": np.ones(len(units))})


def batches_of(done: Run) -> list[tuple[int, int]]:
    """Return the units of each message, in the order in which they are sent."""
    manifest = Manifest.read(done.layout, "m", done.home.store)
    messages, _ = plan_attempt(manifest, done.layout, 1, done.home.store)
    return [(message.first, message.last) for message in messages]


def test_the_unit_that_was_slowest_is_a_batch_of_its_own_and_first(tmp_path: Path) -> None:
    options: Any = {"home": tmp_path, "workers": 2, "as_of": AS_OF}
    first = run(JOB, {"sales": sales(0, UNITS)}, run_id="r", **options)
    again = run(JOB, {"sales": sales(0, UNITS)}, run_id="again", **options)
    assert (SLOW, SLOW) not in batches_of(first)
    assert batches_of(again)[0] == (SLOW, SLOW)
    assert first.published().read_bytes() == again.published().read_bytes()
    lines = further_lines(summarize(again))
    assert f"batches by the seconds of run r: m ({UNITS} of {UNITS} units)" in lines
    assert not any("batches by" in line for line in further_lines(summarize(first)))
    # other units, of which eight are new: those have the cost of their rows
    moved = run(JOB, {"sales": sales(8, UNITS + 8)}, run_id="moved", **options)
    assert batches_of(moved)[0] == (SLOW - 8, SLOW - 8)
    counts = moved.record.models["m"]
    assert (counts["costs_from"], counts["costs_known"]) == ("again", UNITS - 8)


keys = st.tuples(
    st.one_of(st.none(), st.sampled_from(["a", "b", "", "é"])),
    st.one_of(st.none(), st.sampled_from([0.0, 1.5, float("inf"), float("nan")])),
    st.integers(0, 2),
)
SCHEMA = pa.schema([("a", pa.string()), ("b", pa.float64()), ("c", pa.int32())])


def same(row: tuple[Any, ...]) -> str:
    return repr(row)  # a NaN equals itself here


def table_of(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    return pa.table(dict(zip("abc", columns, strict=True)), schema=SCHEMA)


@given(st.lists(keys, unique_by=same, max_size=12), st.lists(keys, unique_by=same, max_size=12))
def test_units_are_found_by_their_keys_whatever_they_are(
    before: list[tuple[Any, ...]], now: list[tuple[Any, ...]]
) -> None:
    options = {same(row): position for position, row in enumerate(before)}
    found = positions(table_of(before), table_of(now))
    assert found.tolist() == [options.get(same(row), -1) for row in now]


@given(
    st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_no_batch_costs_more_than_its_share_unless_it_is_one_unit(
    costs: list[float], parts: int
) -> None:
    given_costs = np.array(costs)
    rows = np.ones(len(costs), np.int64)
    batches = make_batches(rows, parts=parts, most_rows=10**9, costs=given_costs)
    assert [b.first for b in batches] == [0, *(b.last + 1 for b in batches[:-1])]
    assert batches[-1].last == len(costs) - 1
    share = given_costs.sum() / parts
    for batch in batches:
        cost = float(given_costs[batch.first : batch.last + 1].sum())
        assert batch.cost == pytest.approx(cost)
        assert batch.first == batch.last or cost <= share * (1 + 1e-9)
