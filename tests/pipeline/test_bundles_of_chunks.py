"""Chunks of a message that wait for each other, and become one outcome."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold import Job, Model, Source
from hundredfold.data.manifest import Manifest, UnitList
from hundredfold.data.messages import Message
from hundredfold.data.numpy_columns import UNIT
from hundredfold.data.outcomes import (
    Stretch,
    UnitStatus,
    pack_results,
    pack_statuses,
    unpack_results,
    unpack_statuses,
)
from hundredfold.pipeline.bundles import MAX_BUNDLE_BYTES, Bundles, Chunk, joined
from hundredfold.pipeline.collect import failures
from hundredfold.pipeline.enqueue import enqueue, plan_attempt
from hundredfold.pipeline.work import WorkDispatcher
from hundredfold.testing import FaultInjector, InjectedFault, MemoryQueue
from hundredfold.workers.pool import WorkerPool
from hundredfold.workers.protocol import WorkerContext
from support.in_process import InProcessRunner

UNITS = 90


def chunk(first: int, last: int, *, batch: int = 0, bad: int = -1) -> Chunk:
    """Return a chunk whose units have one row each, and of which one may have failed."""
    message = Message("r", "m", batch, first, last)
    units = np.array([u for u in range(first, last + 1) if u != bad])
    table = pa.table({UNIT: units, "y": units * 1.5})
    tables = [table] if len(units) else []
    return (
        message,
        pack_results(tables),
        pack_statuses(
            message,
            np.arange(first, last + 1) / 8,
            np.array([int(u != bad) for u in range(first, last + 1)]),
            [UnitStatus(bad, "failed", "ValueError", "because")] if first <= bad <= last else [],
            tables,
            [Stretch(last + 1 - first, 100.0 + first, f"w{first}")],
        ),
    )


def rows_of(results: bytes | pa.Buffer) -> list[dict[str, Any]]:
    return [row for t in unpack_results(pa.py_buffer(results)) for row in t.to_pylist()]


@given(cuts=st.sets(st.integers(1, 29)), order=st.randoms(), bad=st.integers(0, 29))
def test_any_cut_of_a_slice_is_joined_to_the_whole(cuts: set[int], order: Any, bad: int) -> None:
    edges = [0, *sorted(cuts), 30]
    chunks = [chunk(a, b - 1, bad=bad) for a, b in pairwise(edges)]
    order.shuffle(chunks)
    [(message, results, statuses)] = joined(chunks)
    whole, whole_results, whole_statuses = chunk(0, 29, bad=bad)
    assert message == whole
    rows = [row for t in unpack_results(pa.py_buffer(results)) for row in t.to_pylist()]
    assert rows == [
        row for t in unpack_results(pa.py_buffer(whole_results)) for row in t.to_pylist()
    ]
    found, wanted = (unpack_statuses(pa.py_buffer(s)) for s in (statuses, whole_statuses))
    assert found.seconds.tolist() == wanted.seconds.tolist()
    assert found.rows_out.tolist() == wanted.rows_out.tolist()
    assert found.not_ok == wanted.not_ok
    assert list(found.stretches) == [Stretch(b - a, 100.0 + a, f"w{a}") for a, b in pairwise(edges)]
    assert sum(table["rows"] for table in found.tables) == 29


def test_chunks_with_a_gap_or_of_other_batches_stay_apart() -> None:
    chunks = [chunk(6, 7), chunk(0, 2), chunk(3, 4), chunk(8, 9, batch=1), chunk(10, 11, batch=1)]
    assert [(m.batch, m.first, m.last) for m, _, _ in joined(chunks)] == [
        (0, 0, 4),
        (0, 6, 7),
        (1, 8, 11),
    ]


def test_a_bundle_waits_for_its_age_or_its_size() -> None:
    bundles = Bundles(max_age_s=2.0)
    bundles.add(chunk(0, 2), now=10.0)
    bundles.add(chunk(3, 4), now=11.5)
    assert list(bundles.due(11.9)) == []
    assert [(m.first, m.last) for m, _, _ in bundles.due(12.0)] == [(0, 4)]
    assert list(bundles.due(99.0)) == []
    bundles.add((Message("r", "m", 0, 5, 5), bytes(MAX_BUNDLE_BYTES), b""), now=12.0)
    assert len(list(bundles.due(12.0))) == 1
    assert bundles.size == 0


def test_chunks_of_other_units_are_left() -> None:
    bundles = Bundles(max_age_s=2.0)
    for first in (0, 10, 20):
        bundles.add(chunk(first, first + 9), now=0.0)
    assert [(m.first, m.last) for m, _, _ in bundles.take(10, 19)] == [(10, 19)]
    assert [(m.first, m.last) for m, _, _ in bundles.take()] == [(0, 9), (20, 29)]


# ---- in a dispatcher


def doubled(rows: Any) -> dict[str, int]:
    k = int(rows["k"][0])
    if k % 20 == 7:
        raise ValueError(f"unit {k}")
    return {"twice": 2 * k}


def dispatched(
    runner: InProcessRunner, bundle_s: float, store: Any = None
) -> tuple[int, bytes, list[Any]]:
    """Return the number of objects of a message in three parts, its results and its failures."""
    job = Job("j", [Source("s")], [Model("m", ("k",), doubled)], max_failed=UNITS)
    run = runner.start(job, s=pa.table({"k": range(UNITS)}))
    run.validate()
    run.prepare("m")
    manifest = Manifest.read(run.layout, "m", run.store)
    messages, coverage = plan_attempt(manifest, run.layout, 1, run.store)
    queue = MemoryQueue()
    enqueue(messages, coverage, queue)
    pool = WorkerPool(WorkerContext(run.job, run.layout, run.store), 3)
    pool.start()
    try:
        WorkDispatcher(
            messages,
            manifest,
            UnitList.read(run.layout, "m", run.store),
            run.layout,
            coverage,
            queue,
            store(run.store) if store else run.store,
            pool,
            lambda _: None,
            60.0,
            stop_when_empty=True,
            parts_per_message=3,
            bundle_s=bundle_s,
        ).run()
    finally:
        pool.stop()
    assert (queue.depth().waiting, queue.depth().in_flight) == (0, 0)
    keys = [*run.store.list(run.layout.outcomes("m") + "/")]
    run.collect("m")
    failed = [(row["k"], row["message"]) for row in failures(run.layout, "m", run.store)]
    return len(keys), bytes(run.store.get(run.layout.results("m"))), failed


def test_the_parts_of_a_message_are_one_outcome_with_the_same_results(
    runner: InProcessRunner,
) -> None:
    apart, *results = dispatched(runner, bundle_s=0.0)
    together, *results_of_bundles = dispatched(runner, bundle_s=600.0)
    assert apart >= 2 * 3
    assert together == 2
    assert results_of_bundles == results


def test_a_store_that_fails_for_a_bundle_fails_the_dispatcher(runner: InProcessRunner) -> None:
    with pytest.raises(InjectedFault):
        dispatched(runner, 600.0, store=lambda store: FaultInjector(store, 1))
