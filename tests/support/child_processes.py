"""Functions that start processes, runs of them, and the processes that carry a mark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from hundredfold import Job, Model, Source, run
from support.waits import let_unit_be_old

SLEEP = "import sys, time; sys.stdout.write('up\\n'); sys.stdout.flush(); time.sleep(300)"


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Starts:
    """Starts processes of each kind, and for some keys does not come back."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, rows: Any) -> Any:
        how = rows["how"][0]
        if "plain" in how:
            self.start()
        if "session" in how:
            self.start(start_new_session=True)
        if "grandchild" in how:
            self.start(before=["sh", "-c", '"$0" "$@" & echo; wait'], start_new_session=True)
        if "daemon" in how:
            self.daemon()
        if "outlasts" in how:
            let_unit_be_old()
            time.sleep(300)
        if "exits" in how:
            os._exit(3)
        if "killed" in how:
            os.kill(os.getpid(), signal.SIGKILL)
        if "supervisor" in how:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(300)
        return {"started": len(marked(self.mark))}

    def start(self, before: Any = (), **how: Any) -> None:
        command = [*before, sys.executable, "-c", SLEEP, self.mark]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, **how)
        assert process.stdout is not None
        process.stdout.readline()

    def daemon(self) -> None:
        """As daemons start: two forks, and a session of its own in between."""
        here, there = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.dup2(there, 1)
                os.execv(sys.executable, [sys.executable, "-c", SLEEP, self.mark])
            os._exit(0)
        os.wait()
        os.read(here, 3)


def job_of(work: Any, **how: Any) -> Job:
    return Job("j", [Source("s")], [Model("m", ("k",), work, **how)], max_failed=1.0)


def start(work: Any, home: Path, rows: Any = None, **how: Any) -> Any:
    table = pa.table(rows or {"k": [0, 1], "x": [1.0, 2.0]})
    return run(job_of(work, **how), {"s": table}, home=home, run_id="r", workers=2, memory="1GB")


def double(rows: Any) -> Any:
    return {"y": 2 * float(rows["x"][0])}


def results_in(folder: Any) -> list[float]:
    found: list[float] = start(double, folder).results().to_arrow().column("y").to_pylist()
    return found
