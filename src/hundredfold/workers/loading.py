"""The time that a worker takes to load the job, and the place where it is stuck if it takes too
long.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import psutil

from .._package import FOLDER

MAX_LOAD_S = 600.0  # for a worker to import the job's modules
WAITING_STATES = frozenset({psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP, psutil.STATUS_IDLE})
MAX_STACK_WAIT_S = 30.0  # for a worker to write its stack: a busy machine may run it late
STACK_SIGNAL = getattr(signal, "SIGUSR2", None)  # requests the stack
STACK_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.M)
# the frames below it belong to the start of the process
WORKER_MAIN = Path(__file__).with_name("worker_main.py")


class LoadTimer:
    """Measures how much of MAX_LOAD_S a worker has used: processor time, and time spent waiting.

    So a busy machine, on which a healthy import takes long, does not use up the limit.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.used = self._processor = 0.0

    def is_over(self, seconds: float) -> bool:
        """Return whether the time is up, after `seconds` more."""
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(self._pid)
            status, times = process.status(), process.cpu_times()
            spent, self._processor = (
                times.user + times.system - self._processor,
                times.user + times.system,
            )
            self.used += seconds if status in WAITING_STATES else min(spent, seconds)
        return self.used > MAX_LOAD_S


@contextlib.contextmanager
def stack_on_signal(log: str | None) -> Iterator[None]:
    """Let this process write its stack to its log on request, while it loads the job."""
    import faulthandler

    if log is None or STACK_SIGNAL is None:
        yield
        return
    faulthandler.register(STACK_SIGNAL, sys.stderr, all_threads=False)
    try:
        yield
    finally:
        faulthandler.unregister(STACK_SIGNAL)


def location_of(pid: int, log: Path | None) -> str:
    """Return the module that a worker is importing, and its file and line; "" if unknown."""
    if log is None or STACK_SIGNAL is None:
        return ""
    with contextlib.suppress(OSError):
        before = log.stat().st_size
        os.kill(pid, STACK_SIGNAL)
        until = time.monotonic() + MAX_STACK_WAIT_S
        while time.monotonic() < until:
            time.sleep(0.02)
            with log.open("rb") as file:
                file.seek(before)
                frames = STACK_FRAME.findall(file.read().decode(errors="replace"))
            if any(FOLDER in file for file, _, _ in frames):
                # the stack is complete: our code is at its bottom
                return _innermost_module(frames)
    return ""


def _innermost_module(frames: list[tuple[str, str, str]]) -> str:
    inner = takewhile(lambda frame: Path(frame[0]) != WORKER_MAIN, frames)
    theirs = [
        frame
        for frame in inner
        if not frame[0].startswith((FOLDER, "<")) and "cloudpickle" not in frame[0]
    ]
    modules = [frame for frame in theirs if frame[2] == "<module>"] or theirs
    if not modules:
        return ""
    file, line, _ = modules[0]  # the innermost
    return f"{Path(file).stem} ({file}, line {line})"
