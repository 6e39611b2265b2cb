"""A worker of several cores gets one message: it is cut into a part for each core before its first
call, also where the function takes many units at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold import Job, Model, Source, Units
from hundredfold.data.manifest import Manifest, UnitList
from hundredfold.data.messages import Message
from hundredfold.pipeline.enqueue import enqueue, plan_attempt
from hundredfold.pipeline.work import WorkDispatcher
from hundredfold.testing import MemoryQueue
from hundredfold.workers.pool import WorkerPool
from hundredfold.workers.protocol import WorkerContext
from support.in_process import InProcessRun, InProcessRunner


def one(rows: Any) -> dict[str, int]:
    return {"process": os.getpid(), "units": 1, "sum": int(rows["x"].sum())}


def many(units: Units) -> pa.Table:
    keys = units.keys["k"]
    sums = [int(units["x"][a:b].sum()) for a, b in pairwise(units.offsets)]
    return pa.table(
        {
            "k": keys,
            "process": [os.getpid()] * len(units),
            "units": [len(units)] * len(units),
            "sum": sums,
        }
    )


def started(runner: InProcessRunner, work: Any, sizes: list[int]) -> InProcessRun:
    rows = pa.table({"k": [k for k, size in enumerate(sizes) for _ in range(size)]})
    rows = rows.append_column("x", rows["k"])
    job = Job("j", [Source("s")], [Model("m", ("k",), work, batched=work is many)])
    run = runner.start(job, s=rows)
    run.validate()
    run.prepare("m")
    return run


@contextmanager
def dispatcher(run: InProcessRun, workers: int, parts: int) -> Iterator[WorkDispatcher]:
    manifest = Manifest.read(run.layout, "m", run.store)
    messages, coverage = plan_attempt(manifest, run.layout, 1, run.store)
    queue = MemoryQueue()
    enqueue(messages, coverage, queue)
    pool = WorkerPool(WorkerContext(run.job, run.layout, run.store), workers)
    if workers:
        pool.start()
    try:
        yield WorkDispatcher(
            messages,
            manifest,
            UnitList.read(run.layout, "m", run.store),
            run.layout,
            coverage,
            queue,
            run.store,
            pool,
            lambda _: None,
            60.0,
            stop_when_empty=True,
            parts_per_message=parts,
        )
    finally:
        pool.stop()


@pytest.mark.parametrize("work", [one, many])
def test_each_process_gets_an_even_part_of_one_message(runner: InProcessRunner, work: Any) -> None:
    run = started(runner, work, [4] * 90)
    with dispatcher(run, workers=3, parts=3) as dispatch:
        assert len(dispatch.messages) == 1
        dispatch.run()
        assert dispatch.queue.depth().waiting == 0
    run.collect("m")
    rows = run.results("m").to_pylist()
    assert [(row["k"], row["sum"]) for row in rows] == [(k, 4 * k) for k in range(90)]
    if work is many:
        assert [row["units"] for row in rows] == [30] * 90
        assert len({row["process"] for row in rows}) == 3


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    parts=st.integers(1, 12),
    data=st.data(),
)
def test_a_cut_keeps_every_unit_once_and_in_order(
    runner: InProcessRunner, sizes: list[int], parts: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(sizes) - 1))
    last = data.draw(st.integers(first, len(sizes) - 1))

    class Sizes:
        def sizes(self, a: int, b: int) -> Any:
            return pa.array(sizes[a : b + 1]).to_numpy()

    run = started(runner, one, [1])
    with dispatcher(run, workers=0, parts=parts) as dispatch:
        dispatch.units = Sizes()  # type: ignore[assignment]
        cut = dispatch._cut(Message("r", "m", 0, first, last, 1))
    covered = [unit for part in cut for unit in range(part.first, part.last + 1)]
    assert covered == list(range(first, last + 1))
    assert len(cut) <= parts


def test_units_of_even_size_are_cut_into_even_parts(runner: InProcessRunner) -> None:
    run = started(runner, one, [3] * 100)
    with dispatcher(run, workers=0, parts=5) as dispatch:
        [message] = dispatch.messages
        assert [part.units for part in dispatch._cut(message)] == [20] * 5
