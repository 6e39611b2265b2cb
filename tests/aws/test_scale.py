"""Thousands of batches on emulated AWS, and the disorder that comes with them: exact counts and the same bytes each time."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from emulator import wait_until
from stacks import Stack, Tasks, account, by_events, published, trouble

from hundredfold.aws import verbs
from hundredfold.job import Message
from hundredfold.manifest import Manifest
from hundredfold.walk import Quiet

__all__ = ["account", "by_events", "trouble"]
pytestmark = pytest.mark.drill
FAST = {"BatchSize": 10, "ScalingConfig": {"MaximumConcurrency": 4}}


@contextmanager
def killed_every(seconds: float, stack: Stack) -> Iterator[Counter[str]]:
    """One worker after the other is killed; how many were."""
    over, struck, chance = threading.Event(), Counter[str](), random.Random(1)

    def kill() -> None:
        while not over.wait(seconds):
            struck["killed"] += stack.kill_a_worker(chance)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


def test_three_thousand_batches_while_workers_are_killed_and_some_units_are_poison(trouble: Stack, tmp_path: Path) -> None:
    hows = ["fine"] * 6000
    hows[1234] = "kill the function"
    hows[100::600] = ["raise"] * 10
    tasks = Tasks.write(tmp_path, hows)
    with trouble.waiting(0.5), trouble.impatient(seconds=6, receives=4), killed_every(6, trouble) as struck:
        trouble.run(tasks, "many", batches=3000, max_failed=11, wait=False)
        run = trouble.finished("many")
    counts = run.counts["models"]["doubled"]
    assert {name: counts[name] for name in ("batches", "units", "ok", "failed", "dead", "rows_in", "rows_out")} == {
        "batches": 3000,
        "units": 6000,
        "ok": 5989,
        "failed": 10,
        "dead": 1,
        "rows_in": 6000,
        "rows_out": 5989,
    }
    assert struck["killed"] > 5
    assert published(run) == tasks.as_they_are("many", max_failed=11)


def test_events_that_come_twice_or_late_or_never_change_nothing(by_events: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 600)
    disorder = by_events.emulator.settings(
        notice_duplicates=0.05, notice_losses=0.01, notice_delay=2.0, notice_prefix="processing/untidy/doubled/", seed=3
    )
    with disorder, by_events.workers(**FAST):
        run = by_events.run(tasks, "untidy", batches=300)
    counts = run.counts["models"]["doubled"]
    assert (counts["batches"], counts["units"], counts["ok"]) == (300, 600, 600)
    faults = Counter(fault["fault"] for fault in by_events.emulator.faults())
    assert faults["loss"] > 0
    assert faults["duplicate"] > 5
    assert faults["delay"] > 250
    assert by_events.letters() == {}  # that S3 tried the queue when the stack was made is no work, and no fault
    assert set(tasks.calls()) == set(range(600))
    assert published(run) == tasks.here("untidy")


def test_work_that_arrives_by_both_triggers_is_done_once(by_events: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, [*["fine"] * 9, *["500 ms"] * 3])
    run = by_events.run(tasks, "both", batches=4, wait=False)
    wait_until(lambda: set(tasks.calls()) >= set(range(9)), 60, lambda: by_events.emulator.log())
    manifest = Manifest.read(run.layout, "doubled", by_events.home.store)
    for batch in manifest.batches[:3]:
        body = str(Message("both", "doubled", batch.number, batch.first, batch.last))
        by_events.client("sqs").send_message(QueueUrl=by_events.outputs["QueueUrl"], MessageBody=body)
        notice = f"processing/both/doubled/{batch.number:06d}-0.batch.parquet"
        by_events.home.store.copy(manifest.files[batch.number][0], notice)
    done = verbs.watch("both", home=by_events.name, watcher=Quiet())
    wait_until(lambda: not any(by_events.depth()), 20, lambda: f"{by_events.depth()}")
    assert tasks.calls() == dict.fromkeys(range(12), 1)
    assert published(done) == tasks.here("both")
    assert by_events.letters() == {}
