"""The functions that the faults' jobs run: each unit says in its column `how` what is to become of
it.
"""

from __future__ import annotations

import atexit
import ctypes
import decimal
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from support.waits import let_unit_be_old

STILL = threading.Event()  # never set


class NoWords(Exception):
    """Cannot be printed, and cannot be sent to another process."""

    def __str__(self) -> str:
        raise ValueError("no words")

    def __reduce__(self) -> str:
        raise ValueError("stays here")


def fails() -> None:
    raise ValueError("as it was told to")


def fails_without_words() -> None:
    raise NoWords


def recurses() -> Any:
    return recurses() + 1


def fills_the_memory() -> None:
    kept: list[bytearray] = []
    while len(kept) < 200:
        kept.append(bytearray(16 * 2**20))


def fills_the_memory_unlimited() -> None:
    resource.setrlimit(
        resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_DATA)[1])
    )
    kept = bytearray(700 * 2**20)
    STILL.wait(len(kept))


def forks_and_goes_on() -> None:
    os.fork()  # both sides go on, as if each were the worker


def forks_and_stays() -> None:
    if os.fork() == 0:
        signal.alarm(5)  # it ends by itself, long after its unit
        STILL.wait()


def starts_threads() -> None:
    for _ in range(3):
        threading.Thread(target=STILL.wait, args=(60,)).start()


def closes_its_output() -> None:
    sys.stdout.close()
    sys.stderr.close()


def kills_its_group() -> None:
    os.killpg(0, signal.SIGKILL)
    STILL.wait(10)


def kills_its_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    STILL.wait(10)


def kills_itself_with(number: int) -> None:
    os.kill(os.getpid(), number)
    STILL.wait()


def removes_its_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()


def leaves_processes() -> None:
    subprocess.Popen(["sleep", "60"])
    subprocess.Popen(["sleep", "60"], start_new_session=True)


class RaisesAtItsEnd:
    def __del__(self) -> None:
        raise SystemExit("at its end")


def changes_its_process() -> None:
    os.umask(0o777)
    os.nice(1)
    gc.disable()
    decimal.getcontext().prec = 3
    LOCK.acquire()
    RaisesAtItsEnd()
    atexit.register(STILL.wait, 60)


def changes_its_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGIO, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def forgets_a_timer() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    STILL.wait(10)


def replaces_its_output() -> None:
    file = os.open(os.devnull, os.O_RDONLY)  # what cannot be written
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = None


def sleeps() -> None:
    let_unit_be_old()
    STILL.wait()


LOCK = threading.Lock()
WAYS = {
    "fine": lambda: None,
    "raise": fails,
    "raise without words": fails_without_words,
    "recurse": recurses,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "SystemExit": lambda: sys.exit("enough"),
    "KeyboardInterrupt": lambda: signal.default_int_handler(2, None),
    "sleep": sleeps,
    "hold the interpreter": lambda: ctypes.PyDLL(None).sleep(3600),
    "memory": fills_the_memory,
    "memory, unlimited": fills_the_memory_unlimited,
    "SIGKILL": lambda: kills_itself_with(signal.SIGKILL),
    "SIGABRT": os.abort,
    "close the pipe": lambda: os.closerange(3, 65_536),
    "close low descriptors": lambda: os.closerange(3, 256),
    "print": lambda: print("words, words, words\n" * 100_000),  # noqa: T201  # as people do
    "change folder": lambda: os.chdir("/"),
    "start threads": starts_threads,
    "close stdout": closes_its_output,
    "own session": os.setsid,
    "remove its folder": removes_its_folder,
    "leave processes": leaves_processes,
    "change its process": changes_its_process,
    "change its signals": changes_its_signals,
    "replace its output": replaces_its_output,
    "forget a timer": forgets_a_timer,
    "kill its group": kills_its_group,
    "kill its parent": kills_its_parent,
    "fork": forks_and_goes_on,
    "fork and stay": forks_and_stays,
}
STRANGE = {
    "return an object": {"twice": object()},
    "return a number": 7,
    "return None": None,
    "return huge": {"twice": 2**70},
}


def alone(rows: Any) -> Any:
    """One unit: its key, twice."""
    how = rows["how"][0]
    print("a unit that is", how)  # noqa: T201  # as people do
    if how in STRANGE:
        return STRANGE[how]
    WAYS[how]()
    return {"twice": 2 * int(rows["k"][0])}


def together(rows: Any) -> Any:
    """All units of a slice: their keys, twice."""
    for how in rows.keys["how"]:
        WAYS[how]()
    return {"twice": 2 * rows.keys["k"]}
