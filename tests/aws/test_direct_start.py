"""Workers that a run starts itself, while the queue keeps what they may lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import hundredfold
from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.aws.functions.starting_workers import (
    TIMEOUT_ENV,
    WORKERS_PER_DISPATCHER,
    dispatches,
)
from hundredfold.aws.pollers import RunPollers
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import Manifest
from hundredfold.data.messages import Message
from hundredfold.errors import HundredfoldError
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import Event, State
from hundredfold.testing import MemoryLedger
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
    assert direct_stack.cli("adjust", "adjusted", "--concurrency", "9").out.endswith(" 9\n")
    try:
        wait_until(lambda: started() > 2, direct_stack.emulator.log)
        assert started() <= 7
        refused = direct_stack.cli("adjust", "adjusted", "--concurrency", "1001", code=2)
        assert "--concurrency is 1001, expected 2 to 1000" in refused.err
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


RAISED = {"MinimumPollers": 2, "MaximumPollers": 3}


def pollers_of(stack: Stack) -> dict[str, int]:
    """Return the pollers of the mapping; {} if it has none."""
    found = stack.client("lambda").get_event_source_mapping(UUID=stack.outputs["Mapping"])
    assert bool(found.get("ScalingConfig")) != bool(found.get("ProvisionedPollerConfig"))
    return dict(found.get("ProvisionedPollerConfig") or {})


def test_pollers_are_raised_while_a_run_is_active(raised_stack: Stack, tmp_path: Path) -> None:
    assert pollers_of(raised_stack) == {}
    one, two = (Tasks.write(made(tmp_path / name), ["held"] * 2) for name in ("one", "two"))
    for name, tasks in (("first", one), ("second", two)):
        raised_stack.run(tasks, name, "duckdb", batches=1, wait=False)
        raised_stack.wait_for_step(name, "work doubled")
        assert pollers_of(raised_stack) == RAISED
    one.release()
    raised_stack.wait_for_end("first")
    raised_stack.wait_for_execution("first")
    assert pollers_of(raised_stack) == RAISED  # the second goes on
    raised_stack.cli("cancel", "second")
    assert pollers_of(raised_stack) == {}
    with pytest.raises(HundredfoldError, match="no number"):
        raised_stack.run(Tasks.write(made(tmp_path / "bad"), ["no number"]), "third", "duckdb")
    raised_stack.wait_for_execution("third")
    assert pollers_of(raised_stack) == {}


def test_a_stopped_execution_fails_its_run_and_lowers_its_pollers(
    raised_stack: Stack, tmp_path: Path
) -> None:
    one, two = (Tasks.write(made(tmp_path / name), ["held"] * 2) for name in ("one", "two"))
    for name, tasks in (("goes-on", one), ("stopped", two)):
        raised_stack.run(tasks, name, "duckdb", batches=1, wait=False)
        raised_stack.wait_for_step(name, "work doubled")

    def stop(name: str) -> None:
        raised_stack.client("stepfunctions").stop_execution(
            executionArn=raised_stack.record(name).execution
        )

    stop("stopped")
    raised_stack.wait_for_end("stopped")
    record = raised_stack.record("stopped")
    assert record.state is State.FAILED
    assert record.reason == "the execution of the run ended before the run did: ABORTED"
    assert pollers_of(raised_stack) == RAISED  # the other goes on
    one.release()
    raised_stack.wait_for_end("goes-on")
    wait_until(lambda: pollers_of(raised_stack) == {}, raised_stack.emulator.log)
    hundredfold.resume("stopped", backend="aws", stack=raised_stack.name, wait=False)
    wait_until(lambda: pollers_of(raised_stack) == RAISED, raised_stack.emulator.log)
    stop("stopped")  # now the only one
    wait_until(lambda: pollers_of(raised_stack) == {}, raised_stack.emulator.log)
    two.release()
    raised_stack.cli("resume", "stopped")
    assert raised_stack.record("stopped").state is State.DONE


class ResumedMeanwhile(MemoryLedger):
    """A ledger whose failed run is resumed as soon as the runs are listed."""

    def runs(self, job: str | None = None) -> Sequence[Record]:
        found = super().runs(job)
        for record in found:
            if record.state is State.FAILED:
                self.move(record.id, Event.START)
        return found


def test_pollers_of_a_run_that_is_resumed_meanwhile_stay_raised(raised_stack: Stack) -> None:
    pollers = RunPollers(raised_stack.outputs["Mapping"], 2, 3, 30)
    ledgers: list[tuple[MemoryLedger, bool]] = [(ResumedMeanwhile(), False), (MemoryLedger(), True)]
    for ledger, lowers in ledgers:
        now = "2026-01-01T00:00:00+00:00"
        ledger.create(Record("resumed", "trouble", "", State.NEW, "", now, now))
        ended = ledger.move("resumed", Event.FAIL)
        assert pollers.lower_after_run(ended, ledger) is lowers
        assert pollers_of(raised_stack) == ({} if lowers else RAISED)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
