"""How long a worker takes to load the job, and where it is when it does not come back from it."""

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

LOAD_S = 600.0  # seconds that a worker may take to import the job's modules
WAITING = frozenset({psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP, psutil.STATUS_IDLE})
STACK_S = 5.0  # seconds in which it writes down where it is
ASKED = getattr(signal, "SIGUSR2", None)  # to write that down
FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.M)
CALLER = Path(__file__).with_name("main.py")  # the frames below it are those of the process's start


class Loading:
    """What of LOAD_S a worker has used: the time in which it waits, and otherwise its processor time.

    So a busy machine, on which a healthy import takes long, takes nothing of it.
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
            self.used += seconds if status in WAITING else min(spent, seconds)
        return self.used > LOAD_S


@contextlib.contextmanager
def answering(log: str | None) -> Iterator[None]:
    """Let this process write its stack to its log when it is asked for it, while it loads the job."""
    import faulthandler

    if log is None or ASKED is None:
        yield
        return
    faulthandler.register(ASKED, sys.stderr, all_threads=False)
    try:
        yield
    finally:
        faulthandler.unregister(ASKED)


def place_of(pid: int, log: Path | None) -> str:
    """Return which module a worker is importing, and where in it; "" if it does not say."""
    if log is None or ASKED is None:
        return ""
    with contextlib.suppress(OSError):
        before = log.stat().st_size
        os.kill(pid, ASKED)
        until = time.monotonic() + STACK_S
        while time.monotonic() < until:
            time.sleep(0.02)
            with log.open("rb") as file:
                file.seek(before)
                frames = FRAME.findall(file.read().decode(errors="replace"))
            if any(
                FOLDER in file for file, _, _ in frames
            ):  # it is whole: we called what called the rest
                return _place(frames)
    return ""


def _place(frames: list[tuple[str, str, str]]) -> str:
    inner = takewhile(lambda frame: Path(frame[0]) != CALLER, frames)
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
