"""Every call of every port fails once, and the result is the same after a restart; and leases when
workers are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow as pa
import pytest

from hundredfold import Job, Model, Publish, Source, open_run, retry
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import Manifest, UnitList
from hundredfold.data.messages import Message
from hundredfold.local.home import Home
from hundredfold.local.new_run import create_run
from hundredfold.local.runner import LocalRunner
from hundredfold.pipeline.collect import collect
from hundredfold.pipeline.enqueue import enqueue, plan_attempt
from hundredfold.pipeline.runner import NullCallbacks, RunCallbacks
from hundredfold.pipeline.work import WorkDispatcher
from hundredfold.ports import run_states as states
from hundredfold.ports.interfaces import Depth
from hundredfold.runs.backend import RunArguments
from hundredfold.runs.resources import Resources
from hundredfold.sql.duckdb import DuckWarehouse
from hundredfold.testing import (
    FaultInjector,
    FaultInjectorAfter,
    InjectedFault,
    ManualClock,
    MemoryQueue,
)
from hundredfold.workers.pool import WorkerSlot
from hundredfold.workers.protocol import PoolEvent, WorkerContext, WorkerDied
from support.in_process_pool import InProcessPool, published_bytes

FEW, MANY = 2, 48  # units; of the many, four lie in each batch
KINDS = [FaultInjector, FaultInjectorAfter]


def mean(rows: Any) -> Any:
    return {"mean": float(rows["x"].mean())}


def above(rows: Any, mean: Any) -> Any:
    if rows["k"][0] == 1:
        raise ValueError("never comes out even")
    return {"above": float(rows["x"].sum()) - mean["mean"]}


JOB = Job(
    "j",
    [Source("s")],
    [Model("mean", (), mean), Model("above", ("k",), above)],
    publish=Publish("out", "SELECT * FROM above ORDER BY k", formats=("csv",)),
    max_failed=1,
)


@dataclass
class SlowPool(InProcessPool):
    """A worker pool that stalls for longer than a lease."""

    clock: ManualClock = field(default_factory=ManualClock)

    def events(self, timeout: float) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        self.clock.advance(100)
        yield from InProcessPool.events(self, timeout)


@dataclass
class LosingPool(InProcessPool):
    """A worker pool whose children die from outside, `times` for each unit in `lost`."""

    lost: dict[int, int] = field(default_factory=dict)
    outside: bool = True

    def events(self, timeout: float) -> Iterator[tuple[WorkerSlot, PoolEvent]]:
        for slot in self.slots:
            message = slot.message
            bad = (
                next((u for u in range(message.first, message.last + 1) if self.lost.get(u)), None)
                if message
                else None
            )
            if message is not None and bad is not None:
                self.lost[bad] -= 1
                slot.message = None
                yield (
                    slot,
                    WorkerDied(
                        message, bad, False, "killed by SIGKILL", message.first - 1, self.outside
                    ),
                )
                return
        yield from InProcessPool.events(self, timeout)


@pytest.fixture(scope="module", autouse=True)
def many_batches() -> Iterator[None]:
    """So few units would lie in one batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hundredfold.pipeline.prepare.MIN_BATCH_COST", 1e-9)
        yield


def begun(folder: Path, units: int = FEW) -> Home:
    home = Home(folder)
    rows = pa.table(
        {
            "k": [k for k in range(units) for _ in range(2)],
            "x": [float(x) for x in range(2 * units)],
        }
    )
    create_run(home, JOB, "", {"s": rows}, RunArguments(as_of="2026-01-01", run_id="r"))
    return home


def run_stages(home: Home, callbacks: RunCallbacks | None = None) -> None:
    """What a driver does with the run, in this process."""
    record = home.ledger.move("r", states.Event.START)
    locations = {"s": home.folder / "runs/r/staged/s.parquet"}
    LocalRunner(
        home,
        JOB,
        record,
        Resources(1, 2**30),
        locations,
        callbacks or NullCallbacks(),
        pool_factory=InProcessPool,
    ).run()


class Until(NullCallbacks):
    """Ends the walk where a stage would begin."""

    def __init__(self, stage: str) -> None:
        self.last = stage

    def stage_started(self, stage: Any) -> None:
        if str(stage) == self.last:
            raise InjectedFault(self.last)


class FaultyStore(FaultInjector):
    """A store whose nth call fails; where a file lies can always be said."""

    def path(self, key: Any) -> Any:
        return self.port.path(key)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run that is stopped before its first message is sent."""
    home = begun(tmp_path_factory.mktemp("prepared"))
    with suppress(InjectedFault):
        run_stages(home, Until("enqueue mean"))
    return home


@pytest.fixture(scope="module")
def wanted(stopped: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    home = copied(stopped, tmp_path_factory.mktemp("undisturbed") / "home")
    run_stages(home)
    return published_bytes(home.folder)


def copied(home: Home, folder: Path) -> Home:
    copytree(home.folder, folder)
    return Home(folder)


# that a call was done but not heard of is, for the files, the same as that the next one failed; for
# the record it is not
@pytest.mark.parametrize(("port", "kind"), [("store", FaultyStore), ("ledger", FaultInjectorAfter)])
def test_whichever_call_fails_the_next_driver_ends_with_the_same_bytes(
    port: str, kind: type[FaultInjector], stopped: Home, wanted: Any, tmp_path: Path
) -> None:
    for n in count(1):
        home = copied(stopped, tmp_path / str(n))
        sound = getattr(home, port)
        faulty = kind(sound, fail_at=n)
        setattr(home, port, faulty)
        with suppress(InjectedFault):
            run_stages(home)
        setattr(home, port, sound)
        if home.ledger.read("r").state is not states.State.DONE:
            run_stages(home)
        assert published_bytes(home.folder) == wanted, f"call {n} of the {port}"
        assert home.ledger.read("r").state is states.State.DONE
        if faulty.calls < n:
            break
    assert n > 15


LAYOUT = Layout("r")


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = begun(tmp_path_factory.mktemp("worked"), MANY)
    run_stages(home)
    return home


@pytest.fixture
def home(worked: Home) -> Home:
    """A run whose model `above` waits to be worked on: nothing of it is done."""
    discard_outcomes(worked)
    return worked


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> MemoryQueue:
    return MemoryQueue(clock=clock, sleep=clock.advance)


def discard_outcomes(home: Home) -> None:
    home.store.delete(LAYOUT.outcomes("above"))
    home.store.delete(LAYOUT.collected("above"))


def dispatcher(
    home: Home,
    queue: Any,
    clock: ManualClock,
    /,
    pool: type[InProcessPool] = InProcessPool,
    **options: Any,
) -> WorkDispatcher:
    manifest = Manifest.read(LAYOUT, "above", home.store)
    messages, coverage = plan_attempt(manifest, LAYOUT, 1, home.store)
    enqueue(messages, coverage, queue)
    units = UnitList.read(LAYOUT, "above", home.store)
    started = pool(WorkerContext(JOB, LAYOUT, home.store), 2, **options)
    return WorkDispatcher(
        messages,
        manifest,
        units,
        LAYOUT,
        coverage,
        queue,
        home.store,
        started,
        lambda _: None,
        60.0,
        clock,
    )


def accounts(home: Home) -> list[dict[str, Any]]:
    """What became of each unit, in their order."""
    warehouse = DuckWarehouse(home.store, home.scratch("r"), memory=2**28, threads=1)
    try:
        collect(
            JOB.model("above"),
            Manifest.read(LAYOUT, "above", home.store),
            LAYOUT,
            1,
            warehouse,
            home.store,
        )
    finally:
        warehouse.close()
    rows: list[dict[str, Any]] = (
        open_run("r", home=home.folder).units("above").to_arrow().to_pylist()
    )
    return rows


def not_ok(home: Home) -> dict[int, str]:
    return {row["k"]: row["status"] for row in accounts(home) if row["status"] != "ok"}


def slices(home: Home) -> set[tuple[int, int]]:
    found = map(LAYOUT.parse_outcome_key, home.store.list(LAYOUT.outcomes("above") + "/"))
    return {(message.first, message.last) for message in found if message is not None}


def only(queue: MemoryQueue, message: Message, received: int) -> None:
    """The queue has lost all its messages but one, which was handed out so often, and came back
    each time.
    """
    queue.purge()
    queue.send([str(message)])
    for _ in range(received):
        delivery = queue.receive()
        assert delivery is not None
        queue.extend(delivery.receipt, 0)


WHOLE = {(first, first + 3) for first in range(0, MANY, 4)}


@pytest.mark.parametrize("kind", KINDS)
def test_whichever_call_of_the_queue_fails_the_next_driver_does_the_rest(
    kind: type[FaultInjector], home: Home
) -> None:
    for n in count(1):
        discard_outcomes(home)
        clock = ManualClock()
        sound = MemoryQueue(clock=clock, sleep=clock.advance)
        faulty = kind(sound, fail_at=n)
        with suppress(InjectedFault):
            dispatcher(home, faulty, clock).run()
        sound.purge()
        dispatcher(home, sound, clock).run()
        assert sound.depth() == Depth(0, 0, 0)
        assert slices(home) == WHOLE
        if faulty.calls < n:
            break
    assert n > 30
    assert not_ok(home) == {1: "failed"}


def test_a_message_redelivered_during_its_execution_has_one_result(
    home: Home, queue: MemoryQueue, clock: ManualClock
) -> None:
    dispatcher(home, queue, clock, SlowPool, clock=clock).run()
    assert not_ok(home) == {1: "failed"}
    assert len(accounts(home)) == MANY
    assert open_run("r", home=home.folder).results("above").to_arrow().num_rows == MANY - 1


@pytest.mark.parametrize(
    ("received", "wanted"),
    [(0, {(0, 3)}), (1, {(0, 3)}), (2, {(0, 1), (2, 3)}), (4, {(0, 1), (2, 3)})],
)
def test_a_message_is_halved_from_its_second_return_on(
    home: Home, queue: MemoryQueue, clock: ManualClock, received: Any, wanted: Any
) -> None:
    work = dispatcher(home, queue, clock)
    only(queue, Message("r", "above", 0, 0, 3), received)
    work.run()
    assert slices(home) == WHOLE - {(0, 3)} | wanted
    assert queue.depth() == Depth(0, 0, 0)


def test_a_message_lost_by_another_worker_counts_as_returned_once(
    home: Home, queue: MemoryQueue, clock: ManualClock
) -> None:
    work = dispatcher(home, queue, clock)
    only(queue, Message("r", "above", 0, 0, 3), received=0)
    assert queue.receive() is not None  # by the other, which is never heard of again
    began = clock()
    work.run()
    assert clock() - began < 90  # one lease, and not a second one
    assert (slices(home), queue.depth()) == (WHOLE, Depth(0, 0, 0))


def test_units_of_a_dead_lettered_message_are_executed_by_a_retry(
    home: Home, queue: MemoryQueue, clock: ManualClock
) -> None:
    work = dispatcher(home, queue, clock)
    only(queue, Message("r", "above", 1, 5, 6), received=5)
    assert queue.depth() == Depth(0, 0, 1)
    work.run()
    assert not_ok(home) == {1: "failed", 5: "crashed", 6: "crashed"}
    assert (
        accounts(home)[5]["message"]
        == "its message was delivered too often: every worker that had it was lost"
    )
    done = retry("r", home=home.folder, job=JOB)
    assert {
        row["k"]: row["attempt"]
        for row in done.units("above").to_arrow().to_pylist()
        if row["attempt"] > 1
    } == {1: 2, 5: 2, 6: 2}
    assert done.failures().to_arrow().column("unit").to_pylist() == ["1"]
    home.ledger.note("r", options={"attempt": 1})
    home.store.delete(LAYOUT.model("above") + "/retry-002.json")


def test_messages_that_a_queue_has_lost_are_sent_again(
    home: Home, queue: MemoryQueue, clock: ManualClock
) -> None:
    work = dispatcher(home, queue, clock)
    queue.purge()
    work.run()
    assert slices(home) == WHOLE
    assert queue.depth() == Depth(0, 0, 0)


@pytest.mark.parametrize(
    ("times", "outside", "crashed"),
    [(1, True, {}), (2, True, {10: "crashed"}), (1, False, {10: "crashed"})],
)
def test_a_death_costs_its_unit_unless_it_is_the_first_external_one(
    home: Home, queue: MemoryQueue, clock: ManualClock, times: Any, outside: Any, crashed: Any
) -> None:
    dispatcher(home, queue, clock, LosingPool, lost={10: times}, outside=outside).run()
    assert not_ok(home) == {1: "failed"} | crashed


def test_late_events_of_a_model_are_not_attributed_to_the_next_one(
    home: Home, queue: MemoryQueue, clock: ManualClock
) -> None:
    work = dispatcher(home, queue, clock)
    slot = work.pool.idle()[0]
    work.pool.assign(slot, Message("r", "above", 0, 0, 3))  # by the model before
    work.run()
    assert not_ok(home) == {1: "failed"}
