"""Runs where S3 tells the workers of each batch: twice, late, in any order, or not at all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import hundredfold
from hundredfold.aws.backend import AwsBackend
from hundredfold.aws.functions.messages import notice_key
from hundredfold.data.manifest import Manifest
from hundredfold.job import Message
from hundredfold.pipeline.runner import NullCallbacks
from support.emulator import wait_until
from support.stacks import Stack, Tasks, account, by_events, published

__all__ = ["account", "by_events"]
pytestmark = pytest.mark.slow


def test_events_that_come_twice_or_late_or_never_change_nothing(
    by_events: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 600)
    disorder = by_events.emulator.settings(
        notice_duplicates=0.05,
        notice_losses=0.01,
        notice_delay=2.0,
        notice_prefix="processing/untidy/doubled/",
        seed=3,
    )
    with disorder, by_events.workers(BatchSize=10):
        run = by_events.run(tasks, "untidy", batches=300)
    counts = run.counts["models"]["doubled"]
    assert (counts["batches"], counts["units"], counts["ok"]) == (300, 600, 600)
    faults = Counter(fault["fault"] for fault in by_events.emulator.faults())
    assert faults["loss"] > 0
    assert faults["duplicate"] > 5
    assert faults["delay"] > 250
    assert (
        by_events.letters() == {}
    )  # that S3 tried the queue when the stack was made is no work, and no fault
    assert set(tasks.calls()) == set(range(600))
    assert published(run) == tasks.here("untidy")


def test_work_that_arrives_by_both_triggers_is_done_once_and_retried_by_messages(
    by_events: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, [*["fine"] * 9, "500 ms", "500 ms", "raise"])
    run = by_events.run(tasks, "both", batches=4, max_failed=1, wait=False)
    wait_until(lambda: set(tasks.calls()) >= set(range(9)), by_events.emulator.log)
    manifest = Manifest.read(run.layout, "doubled", by_events.home.store)
    for batch in manifest.batches[:3]:
        body = str(Message("both", "doubled", batch.number, batch.first, batch.last))
        by_events.client("sqs").send_message(
            QueueUrl=by_events.outputs["QueueUrl"], MessageBody=body
        )
        by_events.home.store.copy(
            manifest.files[batch.number][0], notice_key("both", "doubled", batch.number)
        )
    AwsBackend(by_events.name).watch("both", NullCallbacks())
    wait_until(lambda: not any(by_events.depth()), lambda: f"{by_events.depth()}")
    assert tasks.calls() == dict.fromkeys(range(12), 1)
    tasks.mend()
    done = hundredfold.retry("both", backend="aws", stack=by_events.name)
    assert tasks.calls() == {11: 1}
    assert published(done) == tasks.here("both")
    assert by_events.letters() == {}
