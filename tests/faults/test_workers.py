"""Workers that cannot start, that die while they wait, or before they reach a unit: told, and never
tried for ever.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from hundredfold import Job, Model, Source, open_run, run
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import Manifest
from hundredfold.errors import JobError, WorkerError
from hundredfold.local.filesystem import FileStore
from hundredfold.local.home import Home
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.workers import loading
from hundredfold.workers.pool import WorkerPool
from hundredfold.workers.protocol import WorkerContext
from support.waits import HANG_S, wait_until

ROWS = pa.table({"k": [0, 1, 2, 3], "x": [1.0, 2.0, 3.0, 4.0]})
PINNED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def double(rows: Any) -> Any:
    return {"y": 2 * float(rows["x"][0])}


def environment(rows: Any) -> Any:
    return {name.lower(): os.environ.get(name) for name in (*PINNED, "HUNDREDFOLD_TEST")}


def raise_here() -> None:
    raise ImportError("no module named nothing_like_it")


class Unwelcome:
    """A function that is whole in the driver, and calls `how` when a worker unpacks it."""

    def __init__(self, how: Any, *arguments: Any) -> None:
        self.how, self.arguments = how, arguments

    def __call__(self, rows: Any) -> Any:  # noqa: ARG002
        return {"y": 1.0}

    def __reduce__(self) -> Any:
        return self.how, self.arguments


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, rows: Any) -> Any:  # noqa: ARG002
        return {"y": 1.0}


class Spoil(NullCallbacks):
    """Does something to the home when a stage begins."""

    def __init__(self, stage: str, deed: Any) -> None:
        self.wanted, self.deed = stage, deed

    def stage_started(self, stage: Any) -> None:
        if str(stage) == self.wanted:
            self.deed()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[WorkerPool]:
    pool = WorkerPool(WorkerContext(job_of(double), Layout("r"), FileStore(tmp_path)), 2)
    pool.start()
    pool.idle()  # so that all of them are started
    yield pool
    pool.stop()


def listen(pool: WorkerPool, until: Any) -> None:
    """Hear what the workers say until something is so."""
    end = time.monotonic() + HANG_S
    while not until():
        assert time.monotonic() < end, "waited in vain"
        assert list(pool.events(0.01)) == []


def job_of(work: Any) -> Job:
    return Job("j", [Source("s")], [Model("m", ("k",), work)])


def start(work: Any, home: Path, **words: Any) -> Any:
    return run(job_of(work), {"s": ROWS}, home=home, run_id="r", workers=2, memory="1GB", **words)


def test_what_a_worker_cannot_import_is_reported_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(
        WorkerError,
        match="a worker cannot load the job: ImportError: no module named nothing_like_it",
    ):
        start(Unwelcome(raise_here), tmp_path)


def test_a_worker_that_dies_loading_the_job_is_reported_and_not_restarted(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="ended its process with exit code 5") as error:
        start(Unwelcome(os._exit, 5), tmp_path)
    assert "worker" in str(error.value)
    assert error.value.hint


def test_a_worker_that_is_killed_again_and_again_at_its_start_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        start(Unwelcome(signal.raise_signal, signal.SIGKILL), tmp_path)


HANGS = {
    "waits": "time.sleep(3600)",
    "computes": "while True: pass",
    "waits for a thread": (
        "event = threading.Event(); threading.Thread(target=event.wait, daemon=True).start();"
        " event.wait()"
    ),
}
SLOW = """
import pathlib, threading, time

if not (seen := pathlib.Path({seen!r})).exists():
    seen.touch()  # the driver
else:
    {hang}
"""
WORK = "import {slow}\n\ndef work(rows):\n    return {{'y': 1.0}}\n"


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes have other states elsewhere"
)
@pytest.mark.parametrize("how", HANGS)
def test_a_module_that_never_ends_its_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(loading, "MAX_LOAD_S", 0.5)
    name = f"slow_{how.replace(' ', '_')}"
    (tmp_path / f"{name}.py").write_text(SLOW.format(seen=str(tmp_path / "seen"), hang=HANGS[how]))
    (tmp_path / f"work_{name}.py").write_text(WORK.format(slow=name))
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module(f"work_{name}").work
    with pytest.raises(
        WorkerError,
        match=(
            rf"has not loaded the job in 0.5 s: it is still importing {name} \(.*{name}.py, line"
            r" 7\)"
        ),
    ) as error:
        start(work, tmp_path / "home")
    assert "inside the function" in (error.value.hint or "")
    assert open_run("r", home=tmp_path / "home").state == "failed"
    children = [
        child.as_dict(["cmdline"], ad_value=[])
        for child in psutil.Process().children(recursive=True)
    ]  # a zombie has none
    assert not [child for child in children if "slow" in " ".join(child["cmdline"])]


def test_an_object_that_never_ends_its_loading_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MAX_LOAD_S", 0.5)
    with pytest.raises(
        WorkerError, match=r"has not loaded the job in 0.5 s: it imports test_workers"
    ):
        start(Unwelcome(time.sleep, 3600), tmp_path)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes have other states elsewhere"
)
def test_a_worker_that_gets_no_processor_may_load_for_longer() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            found = loading.LoadTimer(process.pid)
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
            assert not found.is_over(10 * loading.MAX_LOAD_S)
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING)
            assert found.is_over(10 * loading.MAX_LOAD_S)
        finally:
            process.kill()


def test_a_function_that_cannot_be_sent_is_reported_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"cannot be sent to a worker process: TypeError: .*lock"
    ) as error:
        start(Locked(), tmp_path)
    assert "open it inside the function" in (error.value.hint or "")
    assert Home(tmp_path).ledger.runs() == []


def test_a_batch_that_a_worker_finds_damaged_is_made_again(tmp_path: Path) -> None:
    batch = tmp_path / "home/runs/r/models/m/batches/000001.arrow"
    once = [batch.unlink]
    done = start(
        double, tmp_path / "home", callbacks=Spoil("work m", lambda: once.pop()() if once else None)
    )
    assert done.results().to_arrow().column("y").to_pylist() == [2.0, 4.0, 6.0, 8.0]
    assert done.counts["recomputed"] == [f"{batch} is damaged: it is missing"]
    assert done.counts["units_recomputed"] == done.counts["models"]["m"]["units"]
    words = [sys.executable, "-m", "hundredfold", "status", "--home", str(tmp_path / "home")]
    shown = " ".join(
        subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    )
    assert (
        f"recomputed: {done.counts['units_recomputed']} units, for 1 damaged file; the first:"
        f" {batch} is damaged" in shown
    )


def meet(folder: Path) -> None:
    """Go on once both workers have come here: neither does the other's part, however late the other
    starts.
    """
    (folder / f"met-{os.getpid()}").touch()
    wait_until(lambda: len(list(folder.glob("met-*"))) >= 2)


class Uneven:
    """The second half of the units takes all the time; one of them ends its process once the other
    worker has a part.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = folder

    def __call__(self, rows: Any) -> Any:
        k = int(rows["k"][0])
        if k >= 10:
            meet(self.folder)
            time.sleep(0.05)
        if k == 18:
            os.kill(os.getpid(), signal.SIGSEGV)
        return {"k2": 2 * k, "process": os.getpid()}


def test_an_idle_worker_takes_a_part_of_another_workers_slice(tmp_path: Path) -> None:
    job = Job("j", [Source("s")], [Model("m", ("k",), Uneven(tmp_path))], max_failed=1)
    done = run(
        job,
        {"s": pa.table({"k": range(20)})},
        home=tmp_path / "home",
        run_id="r",
        workers=2,
        memory="1GB",
    )
    results = done.results().to_arrow().to_pylist()
    assert [(row["k"], row["k2"]) for row in results] == [(k, 2 * k) for k in range(20) if k != 18]
    assert done.failures().to_arrow().column("unit").to_pylist() == ["18"]
    batches = Manifest.read(Layout("r"), "m", done.home.store).batches
    assert [(batch.first, batch.last) for batch in batches] == [(0, 9), (10, 19)]
    assert (
        len({row["process"] for row in results if 10 <= row["k"] < 18}) == 2
    )  # both, though these units are one message


class Costly:
    """Four dear units side by side among many cheap ones; writes down every call."""

    def __init__(self, calls: Any) -> None:
        self.calls = calls

    def __call__(self, rows: Any) -> Any:
        k = int(rows["k"][0])
        with self.calls.open("a") as file:
            file.write(f"{k}\n")
        if 190 <= k < 194:
            meet(self.calls.parent)
        time.sleep(0.4 if 190 <= k < 194 else 0.001)
        return {"process": os.getpid()}


def test_expensive_neighbours_are_shared_and_none_of_them_is_done_twice(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    job = Job("j", [Source("s")], [Model("m", ("k",), Costly(calls))])
    done = run(
        job,
        {"s": pa.table({"k": range(200)})},
        home=tmp_path / "home",
        run_id="r",
        workers=2,
        memory="1GB",
    )
    called = sorted(map(int, calls.read_text().split()))
    assert called == list(range(200))
    processes = {row["k"]: row["process"] for row in done.results().to_arrow().to_pylist()}
    assert len({processes[k] for k in range(190, 194)}) == 2


class Drawn:
    """Units of drawn durations; writes down every call."""

    def __init__(self, calls: Any, seed: int) -> None:
        self.calls, self.seed = calls, seed

    def __call__(self, rows: Any) -> Any:
        k = int(rows["k"][0])
        with self.calls.open("a") as file:
            file.write(f"{k}\n")
        time.sleep(random.Random(1000 * self.seed + k).choice((0, 0, 0.001, 0.01, 0.1)))
        return {"done": True}


@pytest.mark.parametrize("seed", range(3))
def test_work_that_is_shared_is_executed_once_whatever_it_takes(tmp_path: Path, seed: int) -> None:
    calls = tmp_path / "calls"
    job = Job("j", [Source("s")], [Model("m", ("k",), Drawn(calls, seed))])
    run(job, {"s": pa.table({"k": range(60)})}, home=tmp_path / "home", workers=4, memory="2GB")
    assert sorted(map(int, calls.read_text().split())) == list(range(60))


def test_a_worker_that_is_killed_while_it_waits_is_replaced(pool: Any) -> None:
    before = {slot.process.pid for slot in pool.slots}
    listen(pool, until=lambda: all(slot.ready for slot in pool.slots))
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    listen(
        pool,
        until=lambda: all(slot.ready and slot.process.pid not in before for slot in pool.slots),
    )


def test_a_pool_goes_on_when_the_server_that_forks_its_workers_is_killed(pool: Any) -> None:
    before = {slot.process.pid for slot in pool.slots}
    listen(pool, until=lambda: all(slot.ready for slot in pool.slots))
    supervisor = psutil.Process(psutil.Process(min(before)).ppid())
    server = psutil.Process(supervisor.ppid())
    assert server.ppid() == os.getpid()
    server.kill()
    listen(
        pool,
        until=lambda: all(slot.ready and slot.process.pid not in before for slot in pool.slots),
    )
    assert (
        psutil.wait_procs(
            [psutil.Process(pid) for pid in before if psutil.pid_exists(pid)], timeout=HANG_S
        )[1]
        == []
    )


def test_workers_have_one_thread_per_library_and_their_drivers_environment(tmp_path: Path) -> None:
    for value in ("first", "second"):  # the server that forks is older than the second
        os.environ["HUNDREDFOLD_TEST"] = value
        try:
            done = run(job_of(environment), {"s": ROWS}, home=tmp_path, workers=1, memory="1GB")
        finally:
            del os.environ["HUNDREDFOLD_TEST"]
        row = done.results().to_arrow().to_pylist()[0]
        assert row == {
            "k": 0,
            **dict.fromkeys(map(str.lower, PINNED), "1"),
            "hundredfold_test": value,
        }


def test_a_unit_whose_worker_is_killed_from_outside_once_is_done(tmp_path: Path) -> None:
    killed = tmp_path / "killed"

    def dies_once(rows: Any) -> Any:
        if rows["k"][0] == 2 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": 2 * float(rows["x"][0])}

    assert start(dies_once, tmp_path / "home").results().to_arrow().column("y").to_pylist() == [
        2.0,
        4.0,
        6.0,
        8.0,
    ]


def test_a_unit_that_gets_its_worker_killed_each_time_is_dead(tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"

    def dies(rows: Any) -> Any:
        if rows["k"][0] == 2:
            with deaths.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": 2 * float(rows["x"][0])}

    done = start(dies, tmp_path / "home")
    assert [row["status"] for row in done.units().to_arrow().to_pylist()] == [
        "ok",
        "ok",
        "crashed",
        "ok",
    ]
    assert deaths.read_text() == "xx"
