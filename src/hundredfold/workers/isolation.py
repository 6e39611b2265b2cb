"""What surrounds user code in a process of its own: it speaks into a log, keeps to its share of memory, and how
it ended is told in words."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from pathlib import Path

from ..data.outcomes import describe

# what persons and the system send, and no mistake in a function raises
OUTSIDE = frozenset({"SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"})
# a timer that an earlier unit of the same process has left may send them: the unit that they end is tried once more
LEFT_BEHIND = frozenset({"SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGXCPU"})
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGE_BLOCK_BYTES = 2**22
TRIM_BYTES = 2**24  # that may be free at the end of the heap before it is given back
LOST_SUPERVISOR = 255  # the exit code of a worker whose end was reported by nobody


def describe_exit(code: int | None) -> str:
    """What an exit code says, for people."""
    if code == LOST_SUPERVISOR:
        return "lost: the process that watches over it was killed"
    if code is None or code >= 0 or sys.platform == "win32":
        return f"ended its process with exit code {code}"
    return f"killed by {_signal(-code)}" + (
        " (the system's out-of-memory killer does that)" if -code == signal.SIGKILL else ""
    )


def from_outside(code: int | None) -> bool:
    """Whether a process was ended by a signal of others, or by that of a timer, or its end was reported by nobody."""
    return code is not None and (
        code == LOST_SUPERVISOR or (code < 0 and _signal(-code) in OUTSIDE | LEFT_BEHIND)
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {describe(error)}".removesuffix(": ")


def redirect_output(log: str) -> None:
    """What the user's code prints, and the stack of a crash, go to a file and not into the driver's display."""
    import faulthandler

    Path(log).parent.mkdir(
        exist_ok=True
    )  # not those above it: a home that was removed is not made again
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout, sys.stderr = _Log.of(1), _Log.of(2)
    faulthandler.enable()


class _Log(io.TextIOWrapper):
    """An output that one unit's code cannot close for the units after it."""

    @classmethod
    def of(cls, descriptor: int) -> _Log:
        return cls(
            io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)),
            "utf-8",
            "backslashreplace",
            line_buffering=True,
        )

    def close(self) -> None:
        self.flush()


def limit_memory(memory: int) -> None:
    """Where the system can, let an allocation beyond the share fail at once, as a MemoryError of that unit."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(
            resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1])
        )
    _keep_large_blocks_apart()


def _keep_large_blocks_apart() -> None:
    """Let glibc map each large block by itself, and unmap it when it is freed.

    By default it takes more and more of them out of its heap, where freed ones stay as holes that count as used memory.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(Exception):  # another C library
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


def unlimit_memory() -> None:
    """Let a process whose share is used up still report that it is."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        for limit in (resource.RLIMIT_DATA, resource.RLIMIT_AS):  # the second may be a unit's doing
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (hard, hard))
