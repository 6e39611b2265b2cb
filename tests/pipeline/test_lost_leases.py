"""A message whose lease is lost belongs to another worker: this one stores nothing more of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hundredfold import Job, Model, Source
from hundredfold.data.manifest import Manifest, UnitList
from hundredfold.pipeline.enqueue import enqueue, plan_attempt
from hundredfold.pipeline.work import WorkDispatcher
from hundredfold.testing import ManualClock, MemoryQueue
from hundredfold.workers.pool import WorkerSlot
from hundredfold.workers.protocol import PoolEvent, SliceDone, WorkerContext
from support.in_process import InProcessRunner
from support.in_process_pool import InProcessPool

LEASE_S, UNITS = 60.0, 8
calls: Counter[int] = Counter()


def counted(rows: Any) -> dict[str, int]:
    calls[int(rows["k"][0])] += 1
    return {"twice": 2 * int(rows["k"][0])}


@dataclass
class PausedPool(InProcessPool):
    """A pool that yields the events of one slice at a time; after the first, time passes."""

    clock: ManualClock = field(default_factory=ManualClock)
    pause_s: float = 0.0

    def events(self, timeout: float) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        for slot, event in super().events(timeout):
            yield slot, event
            if isinstance(event, SliceDone):
                self.clock.advance(self.pause_s)
                self.pause_s = 0.0
                self.slots.reverse()  # the other slot is next
                return


@pytest.mark.parametrize(("pause_s", "calls_of_the_rest"), [(LEASE_S / 2, 1), (LEASE_S + 1, 2)])
def test_units_of_a_lost_message_are_left_to_its_next_delivery(
    runner: InProcessRunner, tmp_path: Path, pause_s: float, calls_of_the_rest: int
) -> None:
    calls.clear()
    clock = ManualClock()
    job = Job("j", [Source("s")], [Model("m", ("k",), counted)])
    run = runner.start(job, s=pa.table({"k": range(UNITS)}))
    run.validate()
    run.prepare("m")
    manifest = Manifest.read(run.layout, "m", run.store)
    messages, coverage = plan_attempt(manifest, run.layout, 1, run.store)
    assert len(messages) == 1
    queue = MemoryQueue(visibility=LEASE_S, clock=clock, sleep=clock.advance)
    enqueue(messages, coverage, queue)
    pool = PausedPool(
        WorkerContext(run.job, run.layout, run.store), 2, clock=clock, pause_s=pause_s
    )
    WorkDispatcher(
        messages,
        manifest,
        UnitList.read(run.layout, "m", run.store),
        run.layout,
        coverage,
        queue,
        run.store,
        pool,
        lambda _: None,
        LEASE_S,
        clock=clock,
        parts_per_message=2,
    ).run()
    first_half = UNITS // 2
    assert calls == Counter(
        {unit: 1 if unit < first_half else calls_of_the_rest for unit in range(UNITS)}
    )
    depth = queue.depth()
    assert (depth.waiting, depth.in_flight, depth.dead) == (0, 0, 0)
    run.collect("m")
    assert [row["twice"] for row in run.results("m").to_pylist()] == [2 * k for k in range(UNITS)]
