"""Workers that a run starts itself, while the queue keeps what they may lose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.aws.functions.starting_workers import (
    TIMEOUT_ENV,
    WORKERS_PER_DISPATCHER,
    dispatches,
)
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import Manifest
from hundredfold.data.messages import Message
from hundredfold.errors import HundredfoldError
from support.emulator import wait_until
from support.stacks import Stack, Tasks, account, direct_stack, published, raised_stack

__all__ = ["account", "direct_stack", "raised_stack"]
UNITS = 12


def test_a_run_starts_its_workers_itself(direct_stack: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * UNITS)
    with direct_stack.changed_mapping(Enabled=False):  # nothing else delivers a message
        run = direct_stack.run(tasks, "at-once", "duckdb", batches=6)
    assert tasks.calls() == Counter(range(UNITS))
    assert published(run) == tasks.local_release("at-once")
    assert direct_stack.depth() == (0, 0)


def test_the_queue_delivers_what_no_worker_was_started_for(
    direct_stack: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * UNITS)
    with direct_stack.denied("Step", "lambda:InvokeFunction"):
        run = direct_stack.run(tasks, "not-started", "duckdb", batches=6)
    assert tasks.calls() == Counter(range(UNITS))
    assert published(run) == tasks.local_release("not-started")
    assert any("no workers were started" in line for line in direct_stack.log_events("Step"))


def test_a_unit_that_is_delivered_in_both_ways_is_in_the_result_once(
    direct_stack: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    direct_stack.run(tasks, "twice", "duckdb", batches=6, wait=False)
    direct_stack.wait_for_step("twice", "work doubled")
    batches = Manifest.read(Layout("twice"), "doubled", direct_stack.home.store).batches
    SqsQueue(direct_stack.outputs["QueueUrl"], direct_stack.outputs["DeadUrl"]).send(
        [str(Message("twice", "doubled", b.number, b.first, b.last)) for b in batches]
    )
    tasks.release()
    run = direct_stack.wait_for_end("twice")
    counts = run.counts["models"]["doubled"]
    assert (counts["units"], counts["ok"], counts["rows_out"]) == (UNITS, UNITS, UNITS)
    assert published(run) == tasks.local_release("twice")


def test_runs_at_the_same_time_share_the_workers_of_the_stack(
    direct_stack: Stack, tmp_path: Path
) -> None:
    def polling(run: str) -> tuple[int, int]:
        found: Any = direct_stack.record(run).models["doubled"]
        return found["polling"]["workers"], found["polling"]["lacking"]

    held, tasks = (
        Tasks.write(made(tmp_path / name), ["held"] * UNITS) for name in ("first", "second")
    )
    # a slow machine does not start them again
    with direct_stack.changed_function("Step", Environment={TIMEOUT_ENV: "100000"}):
        direct_stack.run(held, "has-all", "duckdb", batches=6, wait=False)
        wait_until(lambda: sum(held.calls().values()) > 0, direct_stack.emulator.log)
        direct_stack.run(tasks, "has-none", "duckdb", batches=6, wait=False)
        direct_stack.wait_for_step("has-none", "work doubled")
        assert (polling("has-all"), polling("has-none")) == ((2, 0), (0, 2))
        held.release()
        direct_stack.wait_for_end("has-all")
        tasks.release()
        direct_stack.wait_for_end("has-none")
    assert sum(polling("has-none")) <= 2  # at its last poll with messages: started, and lacking


def test_a_run_starts_more_workers_when_their_number_is_raised(
    direct_stack: Stack, tmp_path: Path
) -> None:
    def started() -> int:
        found: Any = direct_stack.record("adjusted").models["doubled"]
        return int(found["polling"]["workers"])

    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    direct_stack.run(tasks, "adjusted", "duckdb", batches=12, wait=False)
    direct_stack.wait_for_step("adjusted", "work doubled")
    assert direct_stack.cli("adjust", "adjusted", "--concurrency", "9").stdout.endswith(" 9\n")
    try:
        wait_until(lambda: started() > 2, direct_stack.emulator.log)
        assert started() <= 7
        told = direct_stack.cli("adjust", "adjusted", "--concurrency", "1001", code=2)
        assert "--concurrency is 1001, expected 2 to 1000" in told.stderr
    finally:
        direct_stack.cli("adjust", "adjusted", "--concurrency", "4")
    tasks.release()
    direct_stack.wait_for_end("adjusted")


@pytest.mark.parametrize(
    ("messages", "units", "cores", "started"),
    [
        (3000, 15_000, 5, (900, 1)),  # a message feeds five cores
        (3000, 3000, 5, (600, 5)),  # five messages do
        (7, 7, 5, (2, 5)),
        (40, 4000, 1, (40, 1)),
        (9, 3, 64, (1, 10)),  # SQS delivers ten at a time
    ],
)
def test_no_more_workers_start_than_messages_can_feed(
    messages: int, units: int, cores: int, started: tuple[int, int]
) -> None:
    requests = dispatches(messages, units, cores, 900)
    assert sum(request["workers"] for request in requests) == started[0]
    assert {request["messages"] for request in requests} == {started[1]}
    assert 0 < max(request["workers"] for request in requests) <= WORKERS_PER_DISPATCHER


# ---- pollers that a run raises


def test_pollers_are_raised_while_a_run_is_active(raised_stack: Stack, tmp_path: Path) -> None:
    def pollers() -> dict[str, int]:
        found = raised_stack.client("lambda").get_event_source_mapping(
            UUID=raised_stack.outputs["Mapping"]
        )
        assert bool(found.get("ScalingConfig")) != bool(found.get("ProvisionedPollerConfig"))
        return dict(found.get("ProvisionedPollerConfig") or {})

    raised = {"MinimumPollers": 2, "MaximumPollers": 3}
    assert pollers() == {}
    one, two = (Tasks.write(made(tmp_path / name), ["held"] * 2) for name in ("one", "two"))
    for name, tasks in (("first", one), ("second", two)):
        raised_stack.run(tasks, name, "duckdb", batches=1, wait=False)
        raised_stack.wait_for_step(name, "work doubled")
        assert pollers() == raised
    one.release()
    raised_stack.wait_for_end("first")
    raised_stack.wait_for_execution("first")
    assert pollers() == raised  # the second goes on
    raised_stack.cli("cancel", "second")
    assert pollers() == {}
    with pytest.raises(HundredfoldError, match="no number"):
        raised_stack.run(Tasks.write(made(tmp_path / "bad"), ["no number"]), "third", "duckdb")
    raised_stack.wait_for_execution("third")
    assert pollers() == {}


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
