"""When and where each unit was executed: `started_at` and `ran_on` of its status."""

from __future__ import annotations

import datetime as dt
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hundredfold
from hundredfold import Job, Model, Run, Source, Unit, Units
from hundredfold.data.outcomes import Executions, SliceSummary, Stretch

UNITS = 60
ROWS = pa.table({"k": range(UNITS), "x": np.arange(UNITS) / 4})
MICROSECOND = dt.timedelta(microseconds=1)


def squares(rows: Unit) -> dict[str, float]:
    if rows["x"][0] == 2.0:
        raise ValueError("no square")
    return {"y": float(sum(x * x for x in rows["x"].tolist()))}


def all_squares(rows: Units) -> dict[str, Any]:
    return {"y": rows["x"] * rows["x"]}


def run(folder: Path, work: Any, **options: Any) -> Run:
    job = Job("squares", [Source("s")], [Model("m", unit=("k",), work=work, **options)])
    return hundredfold.run(job, {"s": ROWS}, home=folder / "home", workers=2, max_failed=1)


def stretches_of(units: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the units of each worker in the order of their starts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for unit in sorted(units, key=lambda each: (each["started_at"], each["k"])):
        found.setdefault(unit["ran_on"], []).append(unit)
    return found


def test_each_unit_has_its_start_and_its_worker(tmp_path: Path) -> None:
    before = dt.datetime.now(dt.UTC)
    done = run(tmp_path, squares)
    after = dt.datetime.now(dt.UTC)
    units = done.units().to_arrow().to_pylist()
    assert sum(unit["status"] == "failed" for unit in units) == 1
    workers = stretches_of(units)
    assert set(workers) <= {"0", "1"}
    for own in workers.values():
        for unit, following in pairwise(own):
            end = unit["started_at"] + dt.timedelta(seconds=unit["seconds"])
            assert following["started_at"] >= end - 2 * MICROSECOND
        assert before <= own[0]["started_at"] <= own[-1]["started_at"] <= after


def test_units_that_are_executed_together_start_together(tmp_path: Path) -> None:
    units = run(tmp_path, all_squares, batched=True).units().to_arrow().to_pylist()
    starts = {unit["started_at"] for unit in units}
    calls = {(unit["started_at"], unit["ran_on"]) for unit in units}
    assert None not in starts
    assert len(calls) < UNITS


def test_a_unit_that_no_worker_completed_has_neither(tmp_path: Path) -> None:
    def crash(rows: Unit) -> dict[str, float]:
        if rows["x"][0] == 1.75:
            os._exit(9)
        return {"y": 1.0}

    units = run(tmp_path, crash).units().to_arrow().to_pylist()
    crashed = [unit for unit in units if unit["status"] == "crashed"]
    assert [(unit["k"], unit["started_at"], unit["ran_on"]) for unit in crashed] == [
        (7, None, None)
    ]
    assert all(unit["started_at"] for unit in units if unit["status"] == "ok")


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    together=st.booleans(),
    draw=st.randoms(use_true_random=False),
)
def test_starts_add_up_within_each_stretch(sizes: list[int], together: bool, draw: Any) -> None:
    count = sum(sizes)
    seconds = np.array([draw.random() for _ in range(count)])
    stretches = tuple(
        Stretch(size, 1e9 + 100 * n, f"w{n % 2}", together) for n, size in enumerate(sizes)
    )
    chosen = np.array([draw.random() < 0.7 for _ in range(count)])
    found = Executions(count + 2)
    summary = SliceSummary(seconds, np.zeros(count, np.int64), (), (), stretches)
    found.take(slice(1, count + 1), chosen, summary, 3)
    columns = {name: column.to_pylist() for name, column in found.columns().items()}
    at, unit = 1, 0
    for stretch in stretches:
        start = stretch.started
        for _ in range(stretch.units):
            got = {name: column[at] for name, column in columns.items()}
            if chosen[unit]:
                assert got["ran_on"] == stretch.worker
                assert got["started_at"].timestamp() == pytest.approx(start, abs=2e-6)
                assert (got["seconds"], got["attempt"]) == (seconds[unit], 3)
            else:
                assert (got["ran_on"], got["started_at"], got["attempt"]) == (None, None, 0)
            start += 0.0 if together else seconds[unit]
            at, unit = at + 1, unit + 1
    assert columns["ran_on"][0] is columns["ran_on"][-1] is None


def test_a_history_has_the_steps_of_the_run_in_their_order(tmp_path: Path) -> None:
    history = run(tmp_path, squares).record.history
    steps = [each["step"] for each in history if each["state"] == "running"]
    assert [re.sub(" m$", "", step) for step in steps] == [
        "new",
        "validate",
        "prepare",
        "enqueue",
        "work",
        "collect",
        "publish",
    ]
    assert history[-1]["state"] == "done"
