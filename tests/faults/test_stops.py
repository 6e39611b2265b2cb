"""A driver that is stopped by hand, and typical scripts: without a main guard, with their own
functions, with other start methods.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from textwrap import dedent
from typing import Any

import psutil
import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Source
from hundredfold.errors import RunBusy, Stopped
from hundredfold.local.filesystem import LOCK_NAME
from hundredfold.local.sqlite_ledger import SqliteLedger
from hundredfold.ports.object_keys import TEMP_PREFIX
from support.waits import HANG_S, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no process groups to signal")

# an environment variable by which all processes of one script are found
MARK = "HUNDREDFOLD_TEST_MARK"
SLOW = """
    import os, sys, time
    import pyarrow as pa
    import hundredfold
    from hundredfold import Job, Model, Publish, Source

    def double(rows):
        time.sleep(0.02)
        # so that no run ends too early
        while rows["x"][0] >= UNITS - 4 and not os.path.exists("go"):
            time.sleep(0.02)
        return {"y": 2 * rows["x"].sum()}

    out = Publish("out", "SELECT * FROM m ORDER BY k", formats=("csv",))
    job = Job("slow", [Source("s")], [Model("m", ("k",), double)], publish=out)
    table = pa.table({"k": range(UNITS), "x": [float(k) for k in range(UNITS)]})
"""
RUN = (
    'hundredfold.run(job, {"s": table}, home=sys.argv[1], run_id="r", workers=2, memory="1GB",'
    ' as_of="2026-01-01")'
)
RESUME = 'hundredfold.resume("r", home=sys.argv[1])'


def script(folder: Path, *lines: str, units: int = 200) -> Path:
    path = folder / "script.py"
    path.write_text("\n".join([dedent(SLOW).replace("UNITS", str(units)), *lines]))
    return path


def let_go(folder: Path) -> None:
    """Let the last units of a script in this folder end."""
    (folder / "go").touch()


@contextmanager
def started(path: Path, home: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A script in a process group of its own, as a terminal starts it; nothing that it starts
    outlives the test.
    """
    command = [sys.executable, "-W", "error", str(path), str(home)]
    settings = {**os.environ, "PYTHONWARNINGS": "error", MARK: token_hex(8), **environment}
    process = subprocess.Popen(
        command,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=path.parent,
    )
    process.mark = settings[MARK]  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        for other in group(process):
            with suppress(psutil.Error):
                other.kill()
        process.communicate()


def ran(path: Path, home: Path, **environment: str) -> str:
    """What a script printed; it must end well, and say nothing else."""
    with started(path, home, **environment) as process:
        output, errors = process.communicate(timeout=HANG_S)
    assert (process.returncode, errors) == (0, "")
    return output


def goes_on(process: subprocess.Popen[str]) -> Any:
    """Whether a process has not ended; what it said, if it has."""

    def is_running() -> bool:
        assert process.poll() is None, process.communicate()
        return True

    return is_running


def some_done(home: Path) -> Any:
    return lambda: any(home.glob("runs/r/models/m/outcomes/*.status.arrow"))


def group(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The driver and all processes that it has started, also those in sessions of their own, as far
    as they are alive.
    """
    found = []
    for other in psutil.process_iter():
        with suppress(psutil.Error):
            marked = other.environ().get(MARK) == process.mark  # type: ignore[attr-defined]
            if marked and other.status() != psutil.STATUS_ZOMBIE:
                found.append(other)
    return found


def answer(home: Path) -> dict[str, bytes]:
    found = [*home.glob("runs/r/models/*/results.parquet"), *home.glob("releases/**/*")]
    return {str(path.relative_to(home)): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    let_go(folder)
    ran(script(folder, RUN), folder / "home")
    return answer(folder / "home")


def test_ctrl_c_stops_the_run_at_once_and_resume_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: Any
) -> None:
    home = tmp_path / "home"
    with started(script(tmp_path, RUN), home) as driver:
        wait_until(some_done(home), alive=goes_on(driver))
        os.killpg(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=HANG_S)
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1  # the driver's own, and none of a worker
        assert group(driver) == []
    assert hundredfold.open_run("r", home=home).state == "running"
    assert list((home / "scratch").iterdir()) == []
    assert answer(home) == {}
    let_go(tmp_path)
    ran(script(tmp_path, RESUME), home)
    assert answer(home) == undisturbed


@pytest.mark.parametrize("stage", ["validate", "new"])
def test_ctrl_c_during_the_start_of_workers_leaves_no_process_or_traceback(
    tmp_path: Path, stage: str
) -> None:
    home = tmp_path / "home"
    with started(script(tmp_path, RUN), home) as driver:
        before = ("",) if stage == "new" else ("", "new")  # or it is further by now
        wait_until(
            lambda: (home / "ledger.sqlite").exists() and step(home) not in before,
            alive=goes_on(driver),
        )
        os.killpg(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=HANG_S)
        # multiprocessing leaves a socket open if it is interrupted while it makes one
        _, end, rest = errors.rpartition("KeyboardInterrupt")
        assert end
        assert all("ResourceWarning" in line for line in rest.split("\n") if line.strip())
        assert "forkserver" not in errors
        assert "resource_tracker" not in errors
        assert group(driver) == []


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver in the middle of a query without an end."""
    endless = (
        "query='SELECT 1 AS k, sum(a.range * b.range) AS x FROM range(10000000) a, range(10000000)"
        " b'"
    )
    job = f'job = Job("slow", [Source("s")], [Model("m", ("k",), double, {endless})])'
    home = tmp_path / "home"
    with started(script(tmp_path, job, RUN), home) as driver:
        wait_until(
            lambda: (home / "ledger.sqlite").exists() and step(home) == "prepare m",
            alive=goes_on(driver),
        )
        before = sum(psutil.Process(driver.pid).cpu_times()[:2])
        wait_until(
            lambda: sum(psutil.Process(driver.pid).cpu_times()[:2]) > before + 0.5,
            alive=goes_on(driver),
        )
        yield driver


def test_ctrl_c_during_a_query_stops_it_and_the_run_can_be_resumed(
    tmp_path: Path, counting: Any
) -> None:
    os.killpg(counting.pid, signal.SIGINT)
    _, errors = counting.communicate(timeout=HANG_S)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert group(counting) == []
    assert hundredfold.open_run("r", home=tmp_path / "home").state == "running"


def test_a_run_that_is_cancelled_in_the_middle_of_a_query_stops_its_driver(
    tmp_path: Path, counting: Any
) -> None:
    hundredfold.cancel("r", home=tmp_path / "home")
    _, errors = counting.communicate(timeout=HANG_S)
    assert "Stopped: run r was cancelled" in errors


def step(home: Path) -> str:
    try:
        return SqliteLedger(home / "ledger.sqlite").read("r").step
    except hundredfold.HundredfoldError:
        return ""


def test_cancelling_a_run_stops_its_driver_even_if_a_unit_does_not_end(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with started(script(tmp_path, RUN), home) as driver:
        wait_until(some_done(home), alive=goes_on(driver))
        hundredfold.cancel("r", home=home)
        _, errors = driver.communicate(timeout=HANG_S)
        assert "Stopped: run r was cancelled" in errors
    assert hundredfold.open_run("r", home=home).state == "cancelled"
    with pytest.raises(hundredfold.HundredfoldError, match="it was cancelled: run the job again"):
        hundredfold.resume("r", home=home)


def test_a_second_driver_of_a_run_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with started(script(tmp_path, RUN), home) as driver:
        wait_until(some_done(home), alive=goes_on(driver))
        with pytest.raises(RunBusy, match=f"run r is being driven by process {driver.pid} of "):
            hundredfold.resume("r", home=home)
        let_go(tmp_path)
        _, errors = driver.communicate(timeout=HANG_S)
        assert (driver.returncode, errors) == (0, "")
    assert hundredfold.open_run("r", home=home).state == "done"


def test_no_worker_outlives_a_killed_driver_even_if_it_holds_the_gil(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    hold = """
        def double(rows):
            import ctypes, pathlib
            pathlib.Path(sys.argv[1], "held").touch()
            ctypes.PyDLL(None).sleep(3600)

        job = Job("slow", [Source("s")], [Model("m", ("k",), double)])
    """
    with started(script(tmp_path, dedent(hold), RUN), home) as driver:
        wait_until((home / "held").exists, alive=goes_on(driver))
        family = [process for process in group(driver) if process.pid != driver.pid]
        assert len(family) >= 3
        driver.kill()
        _, alive = psutil.wait_procs(family, timeout=HANG_S)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_script_without_a_main_guard_runs_its_functions_and_closures(
    tmp_path: Path, method: str
) -> None:
    lines = """
        from dataclasses import dataclass
        from functools import partial

        print("once")
        FACTOR = 3

        @dataclass
        class Row:
            y: float

        def by(factor, rows) -> Row:
            return Row(factor * float(rows["x"][0]))

        def closure():
            return lambda rows: {"y": FACTOR * float(rows["x"][0])}

        class Times:
            def __init__(self, factor):
                self.factor = factor

            def __call__(self, rows):
                return {"y": self.factor * float(rows["x"][0])}

        works = {"a": partial(by, 3), "b": closure(), "c": Times(3)}
        models = [Model(name, ("k",), work) for name, work in works.items()]
        job = Job("own", [Source("s")], models)
        done = hundredfold.run(job, {"s": table}, home=sys.argv[1], workers=2, memory="1GB")
        print([done.results(name).to_arrow().column("y").to_pylist() for name in "abc"])
    """
    output = ran(
        script(tmp_path, dedent(lines), units=3), tmp_path / "home", HUNDREDFOLD_START=method
    )
    assert output.splitlines() == ["once", str([[0.0, 3.0, 6.0]] * 3)]


def test_functions_with_a_cache_may_stand_in_a_script(tmp_path: Path) -> None:
    """functools.lru_cache around what the function calls, and around what calls itself."""
    lines = """
        import functools

        @functools.cache
        def steps(n):
            return n if n < 2 else steps(n - 1) + steps(n - 2)

        @functools.lru_cache(maxsize=1, typed=True)
        def settings():
            return {"factor": 2}

        def cached(rows):
            size = settings.cache_parameters()["maxsize"]
            return {"y": settings()["factor"] * steps(30), "size": size}

        job = Job("cached", [Source("s")], [Model("m", ("k",), cached)])
        done = hundredfold.run(job, {"s": table}, home=sys.argv[1], workers=1, memory="1GB")
        print(done.results("m").to_arrow().drop_columns(["k"]).to_pylist())
    """
    output = ran(script(tmp_path, dedent(lines), units=2), tmp_path / "home")
    assert output.splitlines() == [str([{"y": 1664080, "size": 1}] * 2)]


def test_generic_functions_may_stand_in_a_script(tmp_path: Path) -> None:
    """functools.singledispatch of what calls itself, of a method, and of what a function makes."""
    lines = """
        import functools

        @functools.singledispatch
        def size(value):
            return 0

        @size.register
        def _(value: int):
            return value

        @size.register
        def _(value: list):
            return sum(map(size, value))

        class Kind:
            @functools.singledispatchmethod
            def of(self, value):
                return "other"

            @of.register
            def _(self, value: str):
                return "text"

        def made():
            @functools.singledispatch
            def work(rows):
                kinds = {"kind": Kind().of("x"), "other": Kind().of(1)}
                return {"size": size([1, [2, "x"]]), **kinds, "twice": twice(2)}

            @functools.cache
            def twice(n):
                return 2 * n

            return work

        job = Job("generic", [Source("s")], [Model("m", ("k",), made())])
        done = hundredfold.run(job, {"s": table}, home=sys.argv[1], workers=1, memory="1GB")
        print(done.results("m").to_arrow().drop_columns(["k"]).to_pylist())
    """
    output = ran(script(tmp_path, dedent(lines), units=2), tmp_path / "home")
    assert output.splitlines() == [
        str([{"size": 3, "kind": "text", "other": "other", "twice": 4}] * 2)
    ]


def test_an_unknown_way_to_start_workers_is_refused(tmp_path: Path) -> None:
    with started(script(tmp_path, RUN), tmp_path / "home", HUNDREDFOLD_START="fork") as driver:
        _, errors = driver.communicate(timeout=HANG_S)
    assert "WorkerError: HUNDREDFOLD_START is 'fork', wanted" in errors


def double(rows: Any) -> Any:
    return {"y": 2 * float(rows["x"][0])}


def test_twenty_runs_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    """In a process of its own: what earlier tests of this process still hold would be counted."""
    lines = """
        import gc, psutil

        me = psutil.Process()
        table = pa.table({"k": [0, 1], "x": [1.0, 2.0]})

        def held():
            gc.collect()
            return me.num_fds(), me.num_threads(), len(me.children(recursive=True))

        def once():
            hundredfold.run(job, {"s": table}, home=sys.argv[1], workers=1, memory="1GB")
            return held()

        once()
        first = once()
        for _ in range(17):
            once()
        last = once()
        # a thread may take a moment to end
        while any(now > then for now, then in zip(last, first)):
            print("held", first, last, flush=True)
            time.sleep(0.05)
            last = held()
    """
    path = script(tmp_path, dedent(lines), units=0)
    (tmp_path / "go").touch()
    home = tmp_path / "home"
    ran(path, home)
    assert list((home / "scratch").iterdir()) == []
    partial = {path.name for path in home.rglob(f"{TEMP_PREFIX}*")}
    assert partial == {LOCK_NAME}  # held by nobody


def test_a_run_stops_itself_when_its_watcher_raises(tmp_path: Path) -> None:
    from hundredfold.pipeline.runner import NullCallbacks

    class Tired(NullCallbacks):
        def progress(self, progress: Any) -> None:  # noqa: ARG002
            raise Stopped("enough")

    job = Job("again", [Source("s")], [Model("m", ("k",), double)])
    with pytest.raises(Stopped, match="enough"):
        hundredfold.run(
            job,
            {"s": pa.table({"k": [0], "x": [1.0]})},
            home=tmp_path,
            run_id="r",
            workers=1,
            memory="1GB",
            callbacks=Tired(),
        )
    assert list((tmp_path / "scratch").iterdir()) == []
    assert hundredfold.resume("r", home=tmp_path).results().to_arrow().to_pylist() == [
        {"k": 0, "y": 2.0}
    ]
