"""Thousands of batches on emulated AWS, and the disorder that comes with them: exact counts and the
same bytes each time.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hundredfold import Run
from support.stacks import Stack, Tasks, account, by_events, published, trouble

__all__ = ["account", "by_events", "trouble"]
pytestmark = pytest.mark.drill
MEANWHILE = (
    500  # bytes: a hundred calls of the user's function are noted between one kill and the next
)
COUNTS = ("batches", "units", "ok", "failed", "crashed", "rows_in", "rows_out")


def counts(run: Run) -> dict[str, int]:
    return {name: run.counts["models"]["doubled"][name] for name in COUNTS}


@contextmanager
def killed_every(seconds: float, stack: Stack, tasks: Tasks) -> Iterator[Counter[str]]:
    """One worker after the other is killed, but none before others have come on: else a machine
    that is busy with other things would kill all before they have begun, and a message whose
    workers all die is rightly dead. How many were killed.
    """
    over, struck, chance = threading.Event(), Counter[str](), random.Random(1)

    def kill() -> None:
        done = tasks.log.stat().st_size
        while not over.wait(seconds):
            now = tasks.log.stat().st_size
            if now > done + MEANWHILE and stack.kill_a_worker(chance):
                struck["killed"] += 1
                done = now

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


def test_three_thousand_messages_while_workers_are_killed_and_some_units_are_poison(
    trouble: Stack, tmp_path: Path
) -> None:
    hows = ["fine"] * 6000
    hows[1234] = "kill the function"
    hows[100::600] = ["raise"] * 10
    tasks = Tasks.write(tmp_path, hows)
    with (
        trouble.waiting(0.5),
        trouble.impatient(seconds=30),
        killed_every(5, trouble, tasks) as struck,
    ):
        trouble.run(tasks, "many", batches=3000, max_failed=11, wait=False)
        run = trouble.finished("many", within=1800)
    assert counts(run) == dict(zip(COUNTS, (3000, 6000, 5989, 10, 1, 6000, 5989), strict=True))
    assert struck["killed"] > 5
    assert published(run) == tasks.as_they_are("many", max_failed=11)


def test_three_thousand_notices_of_which_some_are_lost_some_come_twice_and_none_in_order(
    by_events: Stack, tmp_path: Path
) -> None:
    hows = ["fine"] * 6000
    hows[100::600] = ["raise"] * 10
    tasks = Tasks.write(tmp_path, hows)
    disorder = by_events.emulator.settings(
        notice_duplicates=0.05,
        notice_losses=0.01,
        notice_delay=10.0,
        notice_prefix="processing/heap/doubled/",
        seed=5,
    )
    with disorder, by_events.waiting(0.5), by_events.workers(BatchSize=10):
        by_events.run(tasks, "heap", batches=3000, max_failed=10, wait=False)
        run = by_events.finished("heap", within=1800)
    faults = Counter(fault["fault"] for fault in by_events.emulator.faults())
    assert (faults["loss"] > 15, faults["duplicate"] > 100, faults["delay"] > 2900) == (
        True,
        True,
        True,
    )
    assert counts(run) == dict(zip(COUNTS, (3000, 6000, 5990, 10, 0, 6000, 5990), strict=True))
    assert set(tasks.calls()) == set(range(6000))
    assert published(run) == tasks.as_they_are("heap", max_failed=10)
