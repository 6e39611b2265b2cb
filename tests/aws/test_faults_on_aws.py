"""Failing runs on emulated AWS: real processes die, messages are redelivered, IAM decides."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import hundredfold
from hundredfold.aws.backend import AwsBackend
from hundredfold.aws.functions import handlers
from hundredfold.aws.work.processing import MAX_RETURNS
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import Manifest
from hundredfold.data.messages import Message
from hundredfold.errors import PublishRefused
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.pipeline.work import Progress
from support.emulator import wait_until
from support.stacks import Stack, Tasks, account, published, trouble

__all__ = ["account", "trouble"]
pytestmark = pytest.mark.slow
BAD = {
    "raise": ("failed", "ValueError", "as its row requests"),
    "segfault": ("crashed", "WorkerDied", "killed by SIGSEGV"),
    "exit": ("crashed", "WorkerDied", "ended its process with exit code 3"),
    "outlast": ("crashed", "WorkerDied", "exceeded its time_limit of 600 s"),
    "memory": (
        "failed",
        "MemoryError",
        "(it had SIZE of memory to itself, in a worker's share of SIZE: deploy with --memory 3537",
    ),
}


class ProgressRecorder(NullCallbacks):
    """Records the progress that a user sees: units that are done, and those that failed."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []

    def progress(self, progress: Progress) -> None:
        if progress.model == "doubled":
            self.counts.append((progress.done, progress.failed))


def failures(stack: Stack, run: str) -> dict[str, tuple[str, str, str]]:
    found = hundredfold.open_run(run, home=stack.home).failures().to_arrow().to_pylist()
    return {
        row["unit"]: (
            row["status"],
            row["error"],
            re.sub(r"[\d.]+ [MG]iB", "SIZE", row["message"]).split(", all of")[0],
        )
        for row in found
    }


def test_a_failed_unit_affects_no_other_and_is_retried_after_the_fix(
    trouble: Stack, tmp_path: Path
) -> None:
    ways = ["fine", *BAD, *["fine"] * 6]
    tasks = Tasks.write(tmp_path, ways)
    seen = ProgressRecorder()
    with pytest.raises(
        PublishRefused, match=r"doubled: 5 of 12 units \(2 failed, 3 crashed\)"
    ) as caught:
        trouble.run(tasks, "bad", batches=4, callbacks=seen)
    there = "--backend aws --stack hundredfold-trouble"
    assert caught.value.hint == (
        f"hundredfold failures bad {there}   then: hundredfold retry bad --accept-new-code "
        f"{there}   or: hundredfold publish bad --max-failed 5 {there}"
    )
    assert [failed for _, failed in seen.counts] == sorted(failed for _, failed in seen.counts)
    assert seen.counts[-1] == (12, 5)
    assert failures(trouble, "bad") == {str(ways.index(how)): end for how, end in BAD.items()}
    published_without = hundredfold.publish("bad", backend="aws", stack=trouble.name, max_failed=5)
    assert (published_without.state, len(published_without.published_rows())) == ("done", 7)
    tasks.fix()
    retried = hundredfold.retry("bad", backend="aws", stack=trouble.name)
    # only those; and everything that depends on them
    assert tasks.calls() == {ways.index(how): 1 for how in BAD}
    assert published(retried) == tasks.local_release("bad")


# ---- poison


def test_a_unit_that_kills_its_worker_is_crashed_and_others_complete(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "kill the function", "fine", "fine"])
    with (
        trouble.fast_redelivery(seconds=600, receives=3),
        trouble.emulator.settings(ended_leases=1),
    ):
        run = trouble.run(tasks, "killer", batches=2, max_failed=1)
    assert failures(trouble, "killer") == {
        "1": (
            "crashed",
            "WorkerDied",
            "its message was delivered too often: every worker that had it was lost",
        )
    }
    # twice next to its neighbour, and then alone as often as the queue delivers it
    assert tasks.calls()[1] >= 5
    assert (run.state, len(run.published_rows())) == ("done", 3)


def foreign_bodies(stack: Stack, run: str) -> dict[str, str]:
    """Return bodies that this package did not write, and why each is rejected."""
    ours: dict[str, Any] = json.loads(str(Message(run, "doubled", 0, 0, 0)))
    key = f"processing/{run}/doubled/000000-0.batch.parquet"
    s3_event = {
        "eventName": "ObjectCreated:Copy",
        "s3": {"bucket": {"name": stack.outputs["Bucket"]}, "object": {"key": key}},
    }
    elsewhere = {**s3_event, "s3": {"bucket": {"name": "another"}, "object": {"key": key}}}
    return {
        "not even JSON": "it is not JSON",
        "[" * 100_000: "it is not JSON",
        "[1, 2]": "it is a list in JSON, expected an object",
        json.dumps(
            {**ours, "password": "p4ss"}
        ): "as a message it lacks nothing, and has 1 other fields",
        json.dumps(
            {"run": run}
        ): "as a message it lacks model, batch, first, last, attempt, and has 0 other fields",
        json.dumps({**ours, "run": "../../releases"}): "its run is not a run id",
        json.dumps({**ours, "model": "doubled/../x"}): "its model is not a model name",
        json.dumps(
            {**ours, "first": True}
        ): "its batch, units and attempt are not numbers of a slice",
        json.dumps({**ours, "run": "unheard-of"}): "there is no such run",
        json.dumps(
            {**ours, "model": "unheard_of"}
        ): "the run has not prepared the model unheard_of",
        json.dumps({**ours, "batch": 99}): "doubled has no batch 99: it has 2",
        json.dumps({**ours, "batch": 1}): "batch 1 of doubled does not hold units 0 to 0",
        json.dumps(
            {**ours, "last": 10**12}
        ): f"batch 0 of doubled does not hold units 0 to {10**12}",
        json.dumps(
            {**ours, "attempt": 2}
        ): "it belongs to an attempt that has not begun: the run is in attempt 1",
        json.dumps({"Records": None}): (
            "as a message it lacks run, model, batch, first, last, attempt, and has 1 other fields"
        ),
        json.dumps({"Records": [{"s3": "?"}]}): "it has Records, but not in the format of S3",
        json.dumps({"Records": [elsewhere]}): "it is about another bucket",
        json.dumps(
            {"Records": [{**s3_event, "eventName": "ObjectRemoved:Delete"}]}
        ): "it is not about a new batch",
    }


def test_foreign_messages_are_dead_lettered_with_a_reason(trouble: Stack, tmp_path: Path) -> None:
    run = f"foreign-{uuid4().hex[:6]}"
    tasks, messages = (
        Tasks.write(tmp_path, ["fine", "500 ms", "500 ms", "fine"]),
        foreign_bodies(trouble, run),
    )
    with trouble.changed_mapping(Enabled=False):
        hundredfold.run(
            "jobs.trouble:job",
            {"tasks": tasks.file},
            backend="aws",
            stack=trouble.name,
            run_id=run,
            as_of="2026-01-01",
            batches=2,
            wait=False,
        )
        trouble.wait_for_step(run, "work doubled")
        for body in messages:
            trouble.client("sqs").send_message(
                QueueUrl=trouble.outputs["QueueUrl"], MessageBody=body
            )
    done = AwsBackend(trouble.name).watch(run, NullCallbacks())
    assert published(done) == tasks.local_release(run)
    wait_until(
        lambda: trouble.dead_letters() == messages,
        lambda: f"{trouble.dead_letters()}\n{trouble.emulator.log()}",
    )
    trouble.client("sqs").purge_queue(QueueUrl=trouble.outputs["DeadUrl"])


# ---- one call


class Context:
    """The context that Lambda passes to a function together with its event."""

    aws_request_id = "a-call"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def records(*messages: Message, received: int = 1) -> dict[str, Any]:
    """Return the event of a call with these messages, as m0, m1 and so on."""
    return {
        "Records": [
            {
                "messageId": f"m{number}",
                "receiptHandle": "none",
                "body": str(message),
                "attributes": {"ApproximateReceiveCount": str(received)},
            }
            for number, message in enumerate(messages)
        ]
    }


@pytest.fixture
def waiting(trouble: Stack, tmp_path: Path) -> Iterator[tuple[Tasks, list[Message]]]:
    """A run of six tasks in three batches that no worker processes yet, and its messages."""
    tasks, run = Tasks.write(tmp_path, ["fine"] * 6), f"waiting-{uuid4().hex[:6]}"
    with trouble.changed_mapping(Enabled=False):
        trouble.run(tasks, run, batches=3, max_failed=6, wait=False)
        trouble.wait_for_step(run, "work doubled")
        # earlier runs of the stack measured what units cost, by which batches are packed
        batches = Manifest.read(Layout(run), "doubled", trouble.home.store).batches
        yield tasks, [Message(run, "doubled", b.number, b.first, b.last) for b in batches]
    trouble.wait_for_end(run)


def test_a_call_with_a_duplicate_message_processes_the_others_too(
    trouble: Stack, waiting: tuple[Tasks, list[Message]], tmp_path: Path
) -> None:
    tasks, (first, second, *others) = waiting
    with trouble.as_function("Work", tmp_path / "function"):
        assert handlers.work(records(first, first, second), Context()) == {"batchItemFailures": []}
        assert handlers.work(records(second, first, *others), Context()) == {
            "batchItemFailures": []
        }
    assert tasks.calls() == dict.fromkeys(range(6), 1)


def test_no_unit_makes_the_call_of_its_worker_fail(trouble: Stack, tmp_path: Path) -> None:
    # a mapping starts fewer workers where calls fail: at 1 % of them a fifth fewer
    bad = ["raise", "segfault", "exit"]
    tasks, run = Tasks.write(tmp_path, ["fine", *bad, "fine"]), f"bad-{uuid4().hex[:6]}"
    with trouble.changed_mapping(Enabled=False):
        trouble.run(tasks, run, "duckdb", batches=2, max_failed=len(bad), wait=False)
        trouble.wait_for_step(run, "work doubled")
        batches = Manifest.read(Layout(run), "doubled", trouble.home.store).batches
        messages = [Message(run, "doubled", b.number, b.first, b.last) for b in batches]
        with trouble.as_function("Work", tmp_path / "function"):
            assert handlers.work(records(*messages), Context()) == {"batchItemFailures": []}
    trouble.wait_for_end(run)
    assert failures(trouble, run) == {str(n): BAD[how] for n, how in enumerate(bad, 1)}


def test_an_error_of_the_job_dead_letters_the_third_delivery(
    trouble: Stack,
    waiting: tuple[Tasks, list[Message]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, (first, *others) = waiting
    with trouble.as_function("Work", tmp_path / "function"):
        assert handlers.work(records(first), Context()) == {"batchItemFailures": []}
        monkeypatch.setenv("HUNDREDFOLD_JOB", "jobs.nowhere:job")
        assert handlers.work(records(*others), Context()) == {
            "batchItemFailures": [{"itemIdentifier": f"m{n}"} for n in range(len(others))]
        }
        assert handlers.work(records(*others, received=3), Context()) == {"batchItemFailures": []}
    trouble.wait_for_step(first.run, "work summed")
    failed = failures(trouble, first.run)
    assert sorted(failed) == [str(unit) for m in others for unit in range(m.first, m.last + 1)]
    assert all(
        message.startswith("there is no module 'jobs.nowhere'") for _, _, message in failed.values()
    )
    assert tasks.calls() == dict.fromkeys(range(first.first, first.last + 1), 1)


@pytest.mark.parametrize("times", [0, MAX_RETURNS - 1, MAX_RETURNS])
def test_a_message_is_returned_for_minutes_and_then_dropped(
    trouble: Stack,
    waiting: tuple[Tasks, list[Message]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    times: int,
) -> None:
    tasks, (first, *_) = waiting
    event = records(first)
    event["Records"][0]["messageAttributes"] = {"returned": {"stringValue": str(times)}}
    delayed = "ApproximateNumberOfMessagesDelayed"
    with trouble.as_function("Work", tmp_path / "function"):
        monkeypatch.setenv("HUNDREDFOLD_CODE", "later")
        assert handlers.work(event, Context()) == {"batchItemFailures": []}
    found = trouble.client("sqs").get_queue_attributes(
        QueueUrl=trouble.outputs["QueueUrl"], AttributeNames=[delayed]
    )
    [record] = [vars(each) for each in caplog.records if "returned to the" in each.msg]
    kept = times < MAX_RETURNS
    assert (record["messages"], record["dropped"]) == (kept, not kept)
    if kept:  # the queue may hold a message of another case
        assert int(found["Attributes"][delayed]) >= 1
    assert tasks.calls() == {}


# ---- logs


def test_logs_name_the_run_and_contain_no_rows_and_no_credentials(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks, run = Tasks.write(tmp_path, ["fine", "raise", "fine"]), f"told-{uuid4().hex[:6]}"
    trouble.run(tasks, run, max_failed=1)
    secrets = {
        value
        for name, value in trouble.worker_environment().items()
        if name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    }
    lines = [
        line for function in ("Step", "Work", "DeadLetter") for line in trouble.log_events(function)
    ]
    assert secrets
    assert [
        line
        for line in lines
        if any(word in line for word in (*secrets, "as its row requests", str(tasks.log)))
    ] == []
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    executed = [line for line in logged if line.get("run") == run and line["message"] == "stage"]
    assert {"validate", "prepare", "enqueue", "work", "collect", "publish"} == {
        line["stage"].split()[0] for line in executed
    }
    assert all(line["function_request_id"] for line in executed)
    counted = [line for line in logged if "_aws" in line and line["job"] == "jobs.trouble:job"]
    assert sum(sum(line.get("UnitsFailed", [])) for line in counted) >= 1
    assert sum(sum(line.get("UnitsDone", [])) for line in counted) >= 5  # tasks and parts


# ---- the deadline


def test_work_that_exceeds_one_call_is_sent_back_and_done_once(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["500 ms"] * 30)
    with trouble.changed_function("Work", Timeout=15):
        run = trouble.run(tasks, "long", batches=2)
    assert published(run) == tasks.local_release("long")
    logged = [json.loads(line) for line in trouble.log_events("Work") if line.startswith("{")]
    returned = [
        line
        for line in logged
        if line.get("run") == "long" and line["message"] == "sent back before the deadline"
    ]
    assert returned
    calls = tasks.calls()
    assert calls.keys() == set(range(30))
    # the unit that a deadline interrupts begins again; on a slow machine a call may be killed
    # before it has stored its results, and then its units do
    assert sum(calls.values()) < 2 * 30


def test_a_unit_that_exceeds_a_call_is_crashed_with_that_reason(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "sleep", "fine"])
    with trouble.changed_function("Work", Timeout=15):
        trouble.run(tasks, "endless", batches=2, max_failed=1)
    message = "it took all of the 6 s that a worker has; deploy with a longer --timeout"
    assert failures(trouble, "endless") == {"1": ("crashed", "WorkerDied", message)}


# ---- permissions


def test_the_users_code_can_only_read_its_run_and_write_outcomes(
    trouble: Stack, tmp_path: Path
) -> None:
    for key in (
        "releases/other/current.json",
        "sources/secret.txt",
        "runs/reached/manifest.json",
        "athena/answer.csv",
        "processing/x/y",
    ):
        trouble.client("s3").put_object(Bucket=trouble.outputs["Bucket"], Key=key, Body=b"{}")
    try:
        trouble.run(Tasks.write(tmp_path, ["fine", "reach"]), "reached", max_failed=1)
    finally:
        trouble.client("s3").delete_object(
            Bucket=trouble.outputs["Bucket"], Key="releases/other/current.json"
        )
    allowed = [
        "get processing/x/y",
        "get runs/reached/manifest.json",
        "list runs/",
        "put runs/reached/models/doubled/outcomes/x",
    ]
    assert failures(trouble, "reached")["1"] == ("failed", "ValueError", "; ".join(allowed))
