"""Runs with S3 events for each batch: duplicated, late, in any order, or lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import hundredfold
from hundredfold.aws.backend import AwsBackend
from hundredfold.aws.work.messages import event_key
from hundredfold.data.manifest import Manifest
from hundredfold.data.messages import Message
from hundredfold.pipeline.runner import NullCallbacks
from support.emulator import wait_until
from support.stacks import Stack, Tasks, account, events_stack, published

__all__ = ["account", "events_stack"]
pytestmark = pytest.mark.slow


def test_duplicate_late_and_lost_events_change_nothing(events_stack: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 600)
    disorder = events_stack.emulator.settings(
        notice_duplicates=0.05,
        notice_losses=0.01,
        notice_delay=2.0,
        notice_prefix="processing/untidy/doubled/",
        seed=3,
    )
    with disorder, events_stack.changed_mapping(BatchSize=10):
        run = events_stack.run(tasks, "untidy", batches=300)
    counts = run.counts["models"]["doubled"]
    assert (counts["units"], counts["ok"]) == (600, 600)
    assert counts["batches"] > 280  # packed by the seconds of an earlier run, if there was one
    faults = Counter(fault["fault"] for fault in events_stack.emulator.faults())
    assert faults["loss"] > 0
    assert faults["duplicate"] > 5
    assert faults["delay"] > 250
    # the test event of S3 at the creation of the stack is neither work nor a fault
    assert events_stack.dead_letters() == {}
    assert set(tasks.calls()) == set(range(600))
    assert published(run) == tasks.local_release("untidy")


def test_batches_of_a_small_source_are_announced_by_events(
    events_stack: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 12)
    run = events_stack.run(tasks, "small", warehouse="duckdb", batches=4)
    folder = "processing/small/doubled/"
    batches = run.counts["models"]["doubled"]["batches"]
    assert [*events_stack.home.store.sizes(folder).values()] == [0] * batches
    assert published(run) == tasks.local_release("small")
    assert events_stack.dead_letters() == {}


def test_work_from_both_triggers_is_done_once_and_retried_by_messages(
    events_stack: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, [*["fine"] * 9, "500 ms", "500 ms", "raise"])
    run = events_stack.run(tasks, "both", batches=4, max_failed=1, wait=False)
    wait_until(lambda: set(tasks.calls()) >= set(range(9)), events_stack.emulator.log)
    manifest = Manifest.read(run.layout, "doubled", events_stack.home.store)
    for batch in manifest.batches[:3]:
        body = str(Message("both", "doubled", batch.number, batch.first, batch.last))
        events_stack.client("sqs").send_message(
            QueueUrl=events_stack.outputs["QueueUrl"], MessageBody=body
        )
        events_stack.home.store.put(event_key("both", "doubled", batch.number), b"")
    AwsBackend(events_stack.name).watch("both", NullCallbacks())
    wait_until(lambda: not any(events_stack.depth()), lambda: f"{events_stack.depth()}")
    assert tasks.calls() == dict.fromkeys(range(12), 1)
    tasks.fix()
    done = hundredfold.retry("both", backend="aws", stack=events_stack.name)
    assert tasks.calls() == {11: 1}
    assert published(done) == tasks.local_release("both")
    assert events_stack.dead_letters() == {}
