"""Isolation of user code in a process of its own: its output goes to a log, its memory is limited,
and the way it ended is described.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from pathlib import Path

from ..data.outcomes import describe

# sent by people and by the system; no mistake in a function raises them
EXTERNAL_SIGNALS = frozenset({"SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"})
# a timer that an earlier unit of the process left may send them: the unit that they end is tried
# once more
TIMER_SIGNALS = frozenset({"SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGXCPU"})
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MMAP_THRESHOLD_BYTES = 2**22
# free bytes at the end of the heap before they are returned to the system
TRIM_THRESHOLD_BYTES = 2**24
LOST_SUPERVISOR_EXIT_CODE = 255  # of a worker whose end was not reported


def describe_exit(code: int | None) -> str:
    """Return the description of an exit code."""
    if code == LOST_SUPERVISOR_EXIT_CODE:
        return "lost: its supervisor process was killed"
    if code is None or code >= 0 or sys.platform == "win32":
        return f"ended its process with exit code {code}"
    return f"killed by {_signal_name(-code)}" + (
        " (the system's out-of-memory killer does that)" if -code == signal.SIGKILL else ""
    )


def was_killed_externally(code: int | None) -> bool:
    """Return whether a process was ended by an external signal or a timer, or its end was not
    reported.
    """
    return code is not None and (
        code == LOST_SUPERVISOR_EXIT_CODE
        or (code < 0 and _signal_name(-code) in EXTERNAL_SIGNALS | TIMER_SIGNALS)
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {describe(error)}".removesuffix(": ")


def redirect_output(log: str) -> None:
    """Send the output of the user's code, and the stack of a crash, to a file."""
    import faulthandler

    # not its parents: a home that was removed is not created again
    Path(log).parent.mkdir(exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout, sys.stderr = _LogStream.of(1), _LogStream.of(2)
    faulthandler.enable()


class _LogStream(io.TextIOWrapper):
    """An output stream that a unit's code cannot close for the units after it."""

    @classmethod
    def of(cls, descriptor: int) -> _LogStream:
        return cls(
            io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)),
            "utf-8",
            "backslashreplace",
            line_buffering=True,
        )

    def close(self) -> None:
        self.flush()


def limit_memory(memory: int) -> None:
    """Limit the memory of this process, if the system can: more raises MemoryError."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(
            resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1])
        )
    _map_large_blocks()


def _map_large_blocks() -> None:
    """Let glibc map each large block by itself, and unmap it when it is freed.

    By default glibc serves more and more of them from its heap, where freed blocks stay as holes
    that count as used memory.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(Exception):  # another C library
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def unlimit_memory() -> None:
    """Let a process whose share of memory is used up still report that."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        for limit in (resource.RLIMIT_DATA, resource.RLIMIT_AS):  # a unit may have set the second
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (hard, hard))
