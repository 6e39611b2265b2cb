"""Processes that a function starts end with its worker, and a run works in any process: in a
daemon, below a fork, in a thread.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from textwrap import dedent
from typing import Any

import psutil
import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Source, run
from hundredfold.errors import WorkerError
from hundredfold.workers.channel import DriverChannel, InvalidFrame, WorkerChannel
from support.child_processes import SLEEP, Starts, marked, results_in, start
from support.waits import HANG_S, LIMIT_S, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no sessions and forks to test")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has subreapers")


@pytest.fixture
def mark() -> Iterator[str]:
    """A word that is an argument of every process that a test's functions start; none of them
    outlives the test.
    """
    mark = f"test-{token_hex(8)}"
    yield mark
    for process in marked(mark):
        with suppress(psutil.Error):
            process.kill()


def statuses(done: Any) -> dict[str, tuple[str, str]]:
    return {
        row["how"]: (row["status"], row["message"] or "")
        for row in done.units().to_arrow().to_pylist()
    }


@linux
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_nothing_that_a_function_started_outlives_the_run(
    tmp_path: Path, mark: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNDREDFOLD_START", method)
    kinds = "plain session grandchild daemon"
    hows = [
        f"{kinds} and returns",
        f"{kinds} and outlasts",
        f"{kinds} and exits",
        f"{kinds} and is killed",
        "fine",
    ]
    hows += [f"{kinds} and kills its supervisor"] if method == "forkserver" else []
    rows = {"k": range(len(hows)), "how": hows}
    bystander = subprocess.Popen(
        [sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        table = pa.table(rows)
        job = Job(
            "j",
            [Source("s")],
            [Model("m", ("k", "how"), Starts(mark), time_limit=LIMIT_S)],
            max_failed=1.0,
        )
        done = run(job, {"s": table}, home=tmp_path, run_id="r", workers=2, memory="1GB")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.communicate()
    assert marked(mark) == []
    found = statuses(done)
    assert found["fine"][0] == found[f"{kinds} and returns"][0] == "ok"
    assert found[f"{kinds} and outlasts"] == ("crashed", "exceeded its time_limit of 600 s")
    assert found[f"{kinds} and exits"] == ("crashed", "ended its process with exit code 3")
    assert "killed by SIGKILL" in found[f"{kinds} and is killed"][1]
    if method == "forkserver":
        assert "lost: its supervisor process was killed" in found[hows[-1]][1]
    returned = {row["how"]: row["started"] for row in done.results().to_arrow().to_pylist()}
    assert returned[f"{kinds} and returns"] >= 4  # they were there while the function ran


@linux
@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGTERM], [signal.SIGINT]])
def test_what_a_function_started_ends_with_a_driver_that_is_stopped(
    tmp_path: Path, mark: str, signals: Any
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        dedent(f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
        from support.child_processes import Starts, start
        hows = ["plain session grandchild daemon outlasts"] * 2
        start(Starts({mark!r}), {str(tmp_path / "home")!r}, {{"k": [0, 1], "how": hows}})
        """)
    )
    driver = subprocess.Popen(
        [sys.executable, str(script), mark], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: len(marked(mark)) >= 1 + 2 * 4, alive=lambda: driver.poll() is None)
        for number in signals:
            os.killpg(driver.pid, number)  # the whole group, as a terminal and a job scheduler do
        driver.wait(HANG_S)
        wait_until(lambda: marked(mark) == [])
    finally:
        driver.kill()
        driver.wait()


def test_a_run_works_inside_a_daemonic_process(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(results_in, (tmp_path,)) == [2.0, 4.0]
    assert hundredfold.open_run("r", home=tmp_path).state == "done"


def test_a_spawned_worker_in_a_daemonic_process_is_refused_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNDREDFOLD_START", "spawn")
    with (
        multiprocessing.get_context("spawn").Pool(1) as pool,
        pytest.raises(WorkerError, match=r"daemonic process .* may have no children") as refused,
    ):
        pool.apply(results_in, (tmp_path,))
    assert "hundredfold run" in (refused.value.hint or "")


def test_a_run_works_in_threads_a_loop_and_a_fork_after_a_run(tmp_path: Path) -> Any:
    assert results_in(tmp_path / "first") == [2.0, 4.0]
    answers: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(results_in(tmp_path / f"thread-{n}")))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[2.0, 4.0]] * 2

    async def in_a_loop() -> list[float]:
        return results_in(tmp_path / "loop")

    assert asyncio.run(in_a_loop()) == [2.0, 4.0]
    code = f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
        from support.child_processes import results_in
        first = results_in({str(tmp_path / "a")!r})
        pid = os.fork()
        if pid == 0:
            ok = results_in({str(tmp_path / "b")!r}) == first == [2.0, 4.0]
            os._exit(0 if ok else 1)
        print(os.waitpid(pid, 0)[1], results_in({str(tmp_path / "c")!r}) == first)
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("0 True", "")


def square(number: Any) -> Any:
    return number**2


def pools(rows: Any) -> Any:
    x = float(rows["x"][0])
    if rows["k"][0] == 0:
        with multiprocessing.Pool(2) as pool:
            return {"y": sum(pool.map(square, [x, x]))}
    with ProcessPoolExecutor(2) as executor:
        return {"y": sum(executor.map(square, [x, x]))}


def test_a_function_may_use_a_pool_of_processes_of_its_own(tmp_path: Path) -> None:
    assert start(pools, tmp_path).results().to_arrow().column("y").to_pylist() == [2.0, 8.0]


def writes_into_sockets(rows: Any) -> Any:
    """Writes where it should not, as code does that keeps the number of a descriptor that was
    closed.
    """
    if rows["how"][0] == "garbles":
        for descriptor in range(3, 1024):
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    os.write(descriptor, b"words " * 100)
    if rows["how"][0] == "replaces":
        file = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3, 1024):
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    os.dup2(file, descriptor)
    return {"y": 1}


def test_a_function_that_writes_into_its_pipe_costs_its_own_unit_only(tmp_path: Path) -> None:
    hows = ["fine", "garbles", *["fine"] * 5, "replaces", "fine"]
    names = [f"{k}" if how == "fine" else how for k, how in enumerate(hows)]
    job = Job("j", [Source("s")], [Model("m", ("k", "how"), writes_into_sockets)], max_failed=1.0)
    done = run(
        job,
        {"s": pa.table({"k": range(len(hows)), "how": names})},
        home=tmp_path,
        run_id="r",
        workers=1,
        memory="1GB",
    )
    found = statuses(done)
    assert found.pop("garbles") == ("crashed", "wrote into the pipe to its driver")
    assert found.pop("replaces") == ("crashed", "closed or replaced the pipe to its driver")
    assert {status for status, _ in found.values()} == {"ok"}


def test_a_frame_that_is_cut_flipped_or_mixed_with_other_bytes_is_noticed() -> None:
    token, message = b"12345678", ("chunk", 1, 2, b"results" * 1000, b"accounts")
    ours, theirs = socket.socketpair()
    whole = bytearray()
    sender = WorkerChannel(theirs, token)
    sender.send(message)
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            whole += ours.recv(2**16)
    sender.close()
    ours.close()

    def received(data: bytes) -> Any:
        ours, theirs = socket.socketpair()
        channel = DriverChannel(ours, token)
        found: list[Any] = []
        try:
            theirs.sendall(data)
            theirs.close()
            found.extend(channel.messages())
        except (InvalidFrame, EOFError) as error:
            return found, type(error)
        finally:
            channel.close()
        return found, None

    assert received(bytes(whole * 2)) == ([message, message], EOFError)
    for cut in range(len(whole)):
        assert received(bytes(whole[:cut])) == ([], EOFError)
    for at in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[at] ^= 1 + at % 255
        assert received(bytes(flipped))[0] == []
        assert received(
            bytes(whole[:at] + b"words and words and words, more than a header" + whole[at:])
        )[0] in ([], [message])


def test_a_run_with_too_few_open_files_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("k,x\n0,1\n1,2\n")
    (tmp_path / "job.py").write_text(
        "from hundredfold import Job, Model, Source\n"
        "job = Job('j', [Source('s', path='s.csv')], [Model('m', ('k',), lambda rows: {'y':"
        " float(rows['x'][0])})])\n"
    )
    ends = set()
    for limit in (8, 12, 16, 64):
        command = [
            "sh",
            "-c",
            f'ulimit -n {limit}; exec "$0" "$@"',
            str(Path(sys.executable).with_name("hundredfold")),
            "run",
            "job.py",
        ]
        command += ["--home", f"home-{limit}", "--workers", "2", "--memory", "1GB"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False
        )
        ends.add(done.returncode)
        assert "Traceback" not in done.stderr
        if done.returncode:
            assert "hint: " in done.stderr, done.stderr
            assert re.search("too many (open )?files", done.stderr, re.IGNORECASE), done.stderr
    assert ends == {0, 1}
