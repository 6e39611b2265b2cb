"""A clock that is set, and a driver that is suspended: each unit is done once, none is lost, and
runs keep their order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hundredfold
from hundredfold.local.home import Home
from hundredfold.local.new_run import create_run
from hundredfold.local.sqlite_queue import AttendedClock, SqliteQueue
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import State
from hundredfold.runs.backend import RunArguments
from hundredfold.runs.run import newest_run
from hundredfold.testing import ManualClock, MemoryLedger
from support.child_processes import double, job_of, marked
from support.waits import HANG_S, LIMIT_S, wait_until

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
posix = pytest.mark.skipif(os.name == "nt", reason="there is no SIGSTOP")


@given(st.lists(st.floats(-1e9, 1e9), max_size=20))
def test_a_lease_that_its_holder_extends_outlasts_any_step_of_the_clock(
    tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    raw = ManualClock()
    path = tmp_path_factory.mktemp("queue") / "q"
    with closing(
        SqliteQueue(path, visibility=60, clock=AttendedClock(raw), sleep=raw.advance)
    ) as queue:
        queue.send(["one"])
        delivery = queue.receive()
        assert delivery is not None
        for step in steps:
            raw.advance(step)
            assert queue.extend(delivery.receipt, 60)
            assert queue.receive() is None
        for _ in range(20):  # and ends when nobody extends it
            raw.advance(5)
            queue.depth()
        again = queue.receive()
        assert again is not None
        assert again.receive_count == 2


def test_a_lease_does_not_outlive_a_start_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SqliteQueue(tmp_path / "q", visibility=1e9)) as queue:
        queue.send(["one"])
        assert queue.receive() is not None
    with closing(SqliteQueue(tmp_path / "q")) as queue:
        assert queue.receive() is None
    monkeypatch.setattr("hundredfold.local.sqlite_queue._boot", lambda: 7)
    with closing(SqliteQueue(tmp_path / "q")) as queue:
        found = queue.receive()
        assert found is not None
        assert found.receive_count == 2


def test_runs_keep_their_order_where_the_clock_was_set_back(tmp_path: Path) -> None:
    home, created = (
        Home(tmp_path),
        "2100-01-01T00:00:00.500+00:00",
    )  # as if the clock had been ahead then
    home.ledger.create(
        Record("21000101-000000-ffff", "j", "", State.DONE, "done", created, created)
    )
    begun = []
    for _ in range(5):
        begun.append(
            create_run(
                home, job_of(double), "", {"s": pa.table({"k": [1], "x": [1.0]})}, RunArguments()
            )
        )
        assert newest_run(home).id == begun[-1]
    assert [record.id for record in home.ledger.runs()][:-1] == begun[::-1]
    assert {run[:15] for run in begun} == {"21000101-000000"}


def test_a_record_is_never_older_than_it_was() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    created = "2023-11-14T22:13:20.000+00:00"
    ledger.create(Record("r", "j", "", State.NEW, "new", created, created))
    clock.advance(-86_400)
    assert ledger.note("r", step="work").updated == created
    clock.advance(2 * 86_400)
    assert ledger.note("r", step="work").updated > created


# imported by the driver and by its workers before they look at a clock
CLOCK_AND_WORK = """
import os, subprocess, time
from pathlib import Path

folder = Path(os.environ["FOLDER_OF_TEST"])
monotonic, monotonic_ns = time.monotonic, time.monotonic_ns

def ahead():
    passed = folder / "passed"
    return int(passed.read_text()) if passed.exists() else 0

time.monotonic = lambda: monotonic() + ahead()
time.monotonic_ns = lambda: monotonic_ns() + ahead() * 10**9

def waits(rows):
    k = int(rows["k"][0])
    with open(folder / "calls", "a") as calls:
        calls.write(f"{k}\\n")
    while k == 0 and not (folder / "go").exists():
        subprocess.run(["sleep", "0.02"], env={})  # under libfaketime time.sleep raises OSError
    return {"k2": 2 * k}
"""
DRIVER = """
import sys
from clock_and_work import folder, waits
import pyarrow as pa
import hundredfold
from hundredfold import Job, Model, Source

mark, limit = sys.argv[1:]
job = Job("j", [Source("s")], [Model("m", ("k",), waits, time_limit=float(limit))], max_failed=1.0)
table = pa.table({"k": range(12)})
hundredfold.run(job, {"s": table}, home=folder / "home", run_id="r", workers=2, memory="1GB")
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    """Start a driver, and wait until it is at unit 0; nothing of it outlives the test."""
    mark = token_hex(8)

    def started(**environment: str) -> subprocess.Popen[bytes]:
        (tmp_path / "clock_and_work.py").write_text(CLOCK_AND_WORK)
        command = [sys.executable, "-c", DRIVER, mark, str(LIMIT_S)]
        settings = {**os.environ, **environment, "FOLDER_OF_TEST": str(tmp_path)}
        process = subprocess.Popen(command, cwd=tmp_path, env=settings, process_group=0)
        calls = tmp_path / "calls"
        wait_until(
            lambda: calls.exists() and "0" in calls.read_text().split(),
            alive=lambda: process.poll() is None,
        )
        return process

    yield started
    for process in marked(mark):
        tree = [process, *process.children(recursive=True)]
        for each in tree:
            with suppress(psutil.Error):
                each.kill()
        psutil.wait_procs(tree, timeout=HANG_S)


def ends_well(process: subprocess.Popen[bytes], folder: Path) -> None:
    (folder / "go").touch()
    assert process.wait(HANG_S) == 0
    done = hundredfold.open_run("r", home=folder / "home")
    assert done.failures().to_arrow().to_pylist() == []
    assert done.results().to_arrow().column("k2").to_pylist() == list(range(0, 24, 2))
    assert (folder / "calls").read_text().split().count(
        "0"
    ) == 1  # it was not given to another worker


def pass_time(folder: Path, seconds: float) -> None:
    """Let the monotonic clock of the driver and its workers jump ahead: while they are stopped, as
    if they were for so long.
    """
    (folder / "passing").write_text(f"{seconds:.0f}")
    (folder / "passing").replace(folder / "passed")


def elapsed(seconds: float) -> Callable[[], bool]:
    """Return whether so many seconds have passed since now."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def family_states(pid: int) -> set[str]:
    """The states of a process and of all below it, as they are now; those that have ended are left
    out.
    """
    states: set[str] = set()
    for each in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            states.add(each.status())
    return states - {psutil.STATUS_ZOMBIE}


@posix
@pytest.mark.parametrize("how", ["Ctrl-Z", "the driver alone"])
def test_a_driver_stopped_for_longer_than_a_time_limit_loses_no_unit(
    driver: Any, tmp_path: Path, how: str
) -> None:
    process = driver()
    if how == "Ctrl-Z":
        os.killpg(process.pid, signal.SIGTSTP)
        # the workers too; one that starts `sleep` at this moment waits for its child, which is
        # stopped before it has begun
        wait_until(
            lambda: family_states(process.pid) <= {psutil.STATUS_STOPPED, psutil.STATUS_DISK_SLEEP}
        )
    else:
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    pass_time(tmp_path, 10 * LIMIT_S)
    os.killpg(process.pid, signal.SIGCONT)
    ends_well(process, tmp_path)


@posix
@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed")
@pytest.mark.parametrize("steps", [["+1d", "+2d", "+9d", "+400d"], ["-1d", "+1d", "-2d", "+3d"]])
def test_a_wall_clock_that_steps_by_days_buries_no_unit(
    driver: Any, tmp_path: Path, steps: Any
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0d\n")
    settings = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
    }
    process = driver(FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1", **settings)
    for step in steps:
        offset.write_text(f"{step}\n")
        wait_until(elapsed(0.5))  # the driver polls several times
        assert process.poll() is None
    ends_well(process, tmp_path)
