"""One queue and many processes, some of which are killed: nothing is lost, and nothing is deleted
twice.

A worker behaves as the engine's do: it takes a message, writes an outcome under a name made from
it, deletes the message, and records that it did.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from hundredfold.local.sqlite_queue import SqliteQueue
from hundredfold.ports.interfaces import Depth
from support.waits import HANG_S, wait_until

MESSAGES = 500
SPAWN = multiprocessing.get_context("spawn")
FORK = """
import os, signal, sys, threading
from pathlib import Path
from hundredfold.local.sqlite_queue import SqliteQueue

def send(count):
    for number in range(count):
        queue.send(["one"])

signal.alarm(600)
closed, close = os.pipe()
queue = SqliteQueue(Path(sys.argv[1]))
thread = threading.Thread(target=send, args=(400,))
thread.start()  # the queue is open, and at work, in the moment of each fork
children = []
for _ in range(4):
    send(10)
    children.append(os.fork())
    if children[-1] == 0:
        signal.alarm(600)
        os.close(close)
        send(100)
        os.read(closed, 1)  # until the parent has closed its queue, to open it again
        send(100)
        queue.close()
        os._exit(0)
thread.join()
queue.close()
os.close(close)
send(100)
print([os.waitpid(child, 0)[1] for child in children], queue.depth())
queue.close()
"""


def work(queue: SqliteQueue, folder: Path) -> None:
    """Take messages until none is left, and none in the hands of others."""
    with closing(queue), (folder / f"deleted-{os.getpid()}").open("a", buffering=1) as deleted:
        while (delivery := queue.receive(wait=0.2)) or queue.depth() != Depth(0, 0, 0):
            if delivery is None:
                continue
            (folder / f"outcome-{delivery.body}").touch()
            if queue.delete(delivery.receipt):
                deleted.write(f"{delivery.body}\n")


def hold(queue: SqliteQueue, folder: Path) -> None:
    """Take one message, and die with it in hand."""
    delivery = queue.receive(wait=HANG_S)
    assert delivery is not None
    (folder / f"held-{os.getpid()}").write_text(delivery.body)
    os.kill(os.getpid(), 9)


@contextmanager
def processes(count: int, target: Any, *args: Any) -> Iterator[Sequence[BaseProcess]]:
    """Start so many, and end each of them in any case."""
    started = [SPAWN.Process(target=target, args=args, daemon=True) for _ in range(count)]
    try:
        for process in started:
            process.start()
        yield started
    finally:
        for process in started:
            with suppress(ValueError):
                process.kill()
                process.join()
                process.close()


def lines(folder: Path) -> list[str]:
    return [line for path in folder.glob("deleted-*") for line in path.read_text().split()]


def outcomes(folder: Path) -> set[str]:
    return {path.name.removeprefix("outcome-") for path in folder.glob("outcome-*")}


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteQueue]:
    with closing(SqliteQueue(tmp_path / "queue.sqlite", visibility=1.0, max_receives=100)) as queue:
        yield queue


@pytest.fixture
def bodies(queue: Any) -> set[str]:
    bodies = [f"{number:03d}" for number in range(MESSAGES)]
    queue.send(bodies)
    return set(bodies)


def test_four_processes_delete_each_message_once(queue: Any, bodies: Any, tmp_path: Path) -> None:
    with processes(4, work, queue, tmp_path) as workers:
        for worker in workers:
            worker.join(HANG_S)
        assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert sorted(lines(tmp_path)) == sorted(bodies)
    assert queue.depth() == Depth(0, 0, 0)


def more_outcomes(folder: Path, count: int) -> Callable[[], bool]:
    """Return a function that returns whether a folder has more than `count` outcomes."""
    return lambda: len(outcomes(folder)) > count


def test_no_message_is_lost_when_processes_are_killed_in_the_middle(
    queue: Any, bodies: Any, tmp_path: Path
) -> None:
    with processes(4, work, queue, tmp_path) as workers:
        for killed, worker in enumerate(workers[:2], start=1):
            wait_until(more_outcomes(tmp_path, killed * MESSAGES // 5), every=0.001)
            worker.kill()
        for worker in workers:
            worker.join(HANG_S)
        assert [worker.exitcode for worker in workers[2:]] == [0, 0]
        assert [worker.exitcode for worker in workers[:2]] != [
            0,
            0,
        ]  # they were killed at work, not after it
    assert outcomes(tmp_path) == bodies
    assert queue.depth() == Depth(0, 0, 0)
    deleted = lines(tmp_path)
    assert len(deleted) == len(set(deleted))
    assert (
        len(deleted) >= MESSAGES - 2
    )  # one killed between its deletion and the line that tells of it


@pytest.mark.skipif(os.name == "nt", reason="a process cannot send itself SIGKILL on Windows")
def test_a_message_leased_by_a_killed_process_returns_with_its_count(
    queue: Any, bodies: Any, tmp_path: Path
) -> None:
    with processes(2, hold, queue, tmp_path) as holders:
        for holder in holders:
            holder.join(HANG_S)
    held = {path.read_text() for path in tmp_path.glob("held-*")}
    assert len(held) == 2
    queue.release()
    assert queue.depth() == Depth(MESSAGES, 0, 0)
    returned = [queue.receive(), queue.receive()]
    assert {delivery.body for delivery in returned} == held
    assert [delivery.receive_count for delivery in returned] == [2, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_queue_works_on_both_sides_of_a_fork(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(tmp_path / "q")],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (
        0,
        f"[0, 0, 0, 0] {Depth(400 + 40 + 800 + 100, 0, 0)}",
        "",
    )


def test_many_processes_may_open_a_new_queue_in_the_same_moment(tmp_path: Path) -> None:
    start = SPAWN.Barrier(4)
    with processes(4, send_to_new_ones, tmp_path, start) as senders:
        for sender in senders:
            sender.join(HANG_S)
        assert [sender.exitcode for sender in senders] == [0, 0, 0, 0]
    for queue in new_ones(tmp_path):
        with closing(queue):
            assert queue.depth() == Depth(4, 0, 0)


def new_ones(folder: Path) -> list[SqliteQueue]:
    return [SqliteQueue(folder / f"{number}.sqlite") for number in range(40)]


def send_to_new_ones(folder: Path, start: Any) -> None:
    for queue in new_ones(folder):
        with closing(queue):
            start.wait(HANG_S)
            queue.send(["one"])
