"""Thousands of batches on emulated AWS, with the disorder of that size: exact counts and the same
bytes each time.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hundredfold import Run
from support.stacks import Stack, Tasks, account, events_stack, published, trouble

__all__ = ["account", "events_stack", "trouble"]
pytestmark = pytest.mark.drill
MEANWHILE = 500  # bytes: a hundred calls of the user's function are recorded between two kills
COUNTS = ("batches", "units", "ok", "failed", "crashed", "rows_in", "rows_out")


def counts(run: Run) -> dict[str, Any]:
    doubled: Mapping[str, Any] = run.counts["models"]["doubled"]
    return {name: doubled[name] for name in COUNTS}


@contextmanager
def killed_every(seconds: float, stack: Stack, tasks: Tasks) -> Iterator[Counter[str]]:
    """Kill one worker after the other, but none before others have made progress; count them.

    On a busy machine, all would otherwise be killed before they start, and a message whose workers
    all die is rightly dead-lettered.
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


def test_3000_messages_survive_killed_workers_and_poison_units(
    trouble: Stack, tmp_path: Path
) -> None:
    endings = ["fine"] * 6000
    endings[1234] = "kill the function"
    endings[100::600] = ["raise"] * 10
    tasks = Tasks.write(tmp_path, endings)
    with (
        trouble.scaled_waits(0.5),
        trouble.fast_redelivery(seconds=30),
        killed_every(5, trouble, tasks) as struck,
    ):
        trouble.run(tasks, "many", batches=3000, max_failed=11, wait=False)
        run = trouble.wait_for_end("many", within=1800)
    assert counts(run) == dict(zip(COUNTS, (3000, 6000, 5989, 10, 1, 6000, 5989), strict=True))
    assert struck["killed"] > 5
    assert published(run) == tasks.local_release_as_declared("many", max_failed=11)


def test_3000_events_may_be_lost_duplicated_and_out_of_order(
    events_stack: Stack, tmp_path: Path
) -> None:
    endings = ["fine"] * 6000
    endings[100::600] = ["raise"] * 10
    tasks = Tasks.write(tmp_path, endings)
    disorder = events_stack.emulator.settings(
        notice_duplicates=0.05,
        notice_losses=0.01,
        notice_delay=10.0,
        notice_prefix="processing/heap/doubled/",
        seed=5,
    )
    with disorder, events_stack.scaled_waits(0.5), events_stack.changed_mapping(BatchSize=10):
        events_stack.run(tasks, "heap", batches=3000, max_failed=10, wait=False)
        run = events_stack.wait_for_end("heap", within=1800)
    faults = Counter(fault["fault"] for fault in events_stack.emulator.faults())
    assert (faults["loss"] > 15, faults["duplicate"] > 100, faults["delay"] > 2900) == (
        True,
        True,
        True,
    )
    assert counts(run) == dict(zip(COUNTS, (3000, 6000, 5990, 10, 0, 6000, 5990), strict=True))
    assert set(tasks.calls()) == set(range(6000))
    assert published(run) == tasks.local_release_as_declared("heap", max_failed=10)
