"""The functions that the faults' jobs run: each unit says in its column `how` what is to become of it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time

STILL = threading.Event()  # never set


class NoWords(Exception):
    """Cannot be told, and cannot be sent to another process."""

    def __str__(self):
        raise ValueError("no words")

    def __reduce__(self):
        raise ValueError("stays here")


def fails():
    raise ValueError("as it was told to")


def fails_without_words():
    raise NoWords


def recurses():
    return recurses() + 1


def fills_the_memory():
    kept = []
    while len(kept) < 200:
        kept.append(bytearray(16 * 2**20))


def fills_the_memory_unlimited():
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    kept = bytearray(700 * 2**20)
    STILL.wait(len(kept))


def forks_and_goes_on():
    os.fork()  # both sides go on, as if each were the worker


def forks_and_stays():
    if os.fork() == 0:
        signal.alarm(5)
        STILL.wait()


def starts_threads():
    for _ in range(3):
        threading.Thread(target=STILL.wait, args=(60,)).start()


def closes_its_output():
    sys.stdout.close()
    sys.stderr.close()


def kills_itself_with(number):
    os.kill(os.getpid(), number)
    STILL.wait(10)


WAYS = {
    "fine": lambda: None,
    "raise": fails,
    "raise without words": fails_without_words,
    "recurse": recurses,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "SystemExit": lambda: sys.exit("enough"),
    "KeyboardInterrupt": lambda: signal.default_int_handler(2, None),
    "sleep": lambda: time.sleep(60),
    "hold the interpreter": lambda: ctypes.PyDLL(None).sleep(60),
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
    "fork": forks_and_goes_on,
    "fork and stay": forks_and_stays,
}
STRANGE = {"return an object": {"twice": object()}, "return a number": 7, "return None": None, "return huge": {"twice": 2**70}}


def alone(rows):
    """One unit: its key, twice."""
    how = rows["how"][0]
    print("a unit that is", how)  # noqa: T201  # as people do
    if how in STRANGE:
        return STRANGE[how]
    WAYS[how]()
    return {"twice": 2 * int(rows["k"][0])}


def together(rows):
    """All units of a slice: their keys, twice."""
    for how in rows.keys["how"]:
        WAYS[how]()
    return {"twice": 2 * rows.keys["k"]}
