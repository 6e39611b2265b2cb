"""How much memory a process holds, and whether an error says that memory (or another resource of the process) ran out.

A function that leaks fails units that did nothing wrong: whoever catches an error asks `ran_out_of_memory`, and a unit that met such an
error is tried once more alone in a fresh worker (child.py, pipeline/work.py).
"""

from __future__ import annotations

import errno
import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import pyarrow as pa

ROOM_SHARE = (
    0.4  # of a worker's memory: beyond it what is free is given back before a batch is opened
)
SOFT_SHARE = 0.85  # of a worker's memory: beyond it a worker is replaced between two units
NOT_GROWN = 0.05  # of a worker's memory: one that has grown by less than that would not do better as a fresh one
RAN_OUT = re.compile(
    r"out of memory|can(?:'t|not) start new thread|(?:cannot|could not|unable to|failed to) allocate|bad_alloc",
    re.I,
)
RUN_FILE = re.compile(
    rb"\.(?:arrow|parquet)$"
)  # a mapped file of a run, among the mappings of a process
LEAST_SHARED = 2**24  # bytes of shared memory from which on it is looked which of it are files
OS_RAN_OUT = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
LONGEST_CHAIN = 20  # errors of a chain that are looked at
LOOKED_AT = 500  # characters of an error's text that are looked at


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that it was raised from, says that memory, threads or open files ran out."""
    return any(map(_ran_out, _chain(error)))


def is_of_files(error: BaseException) -> bool:
    """Return whether open files ran out, of which the memory that a process holds says nothing."""
    return any(
        isinstance(each, OSError) and each.errno in (errno.EMFILE, errno.ENFILE)
        for each in _chain(error)
    )


class Exhausted(Exception):
    """Memory, threads or open files ran out: this process is to be replaced, and `unit`, if one is named, tried alone."""

    def __init__(self, words: str, unit: int | None = None) -> None:
        super().__init__(words)
        self.words, self.unit = words, unit


def forget_frames(error: BaseException) -> None:
    """Let go of what the functions that raised an error held."""
    for each in _chain(error):
        each.__traceback__ = None


def _ran_out(error: BaseException) -> bool:
    if isinstance(error, MemoryError):  # those of NumPy and Arrow are too
        return True
    if isinstance(error, RecursionError):
        return False
    if isinstance(error, OSError) and error.errno in OS_RAN_OUT:
        return True
    if "OutOfMemory" in type(error).__name__:  # DuckDB, PyTorch
        return True
    first = error.args[0] if error.args else None
    return (
        isinstance(error, RuntimeError)
        and isinstance(first, str)
        and RAN_OUT.search(first[:LOOKED_AT]) is not None
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(LONGEST_CHAIN):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def own_memory(above: float = 0) -> tuple[int, int]:
    """Return the bytes that this process holds for itself: those in memory, and those that RLIMIT_DATA counts.

    The second counts what is only reserved too: the stacks of threads, the arenas of allocators. above: as of memory_of.
    """
    text = _status("self")
    resident = _resident(text, above)
    return resident, max(resident, _field(text, b"VmData:"))


def memory_of(pid: int, above: float = 0) -> int:
    """Return the bytes that a process holds in memory for itself; 0 if it is gone.

    Shared memory that it has mapped counts; mapped files of the run, which the system can drop or the home holds, do not.
    In a home on a file system in memory they look like shared memory; to tell them apart takes milliseconds, and is done only
    where it would be more than `above` with them.
    """
    return _resident(_status(pid), above, pid)


def _mapped_files(pid: int | str) -> int:
    """Return the bytes in memory of the files of a run that a process has mapped; 0 where the system does not say."""
    size, counted = 0, False
    try:
        with Path(f"/proc/{pid}/smaps").open("rb") as lines:
            for line in lines:
                if (
                    b"-" in line.split(b" ", 1)[0]
                ):  # the addresses of the next mapping, and its file
                    counted = RUN_FILE.search(line.rstrip()) is not None
                elif counted and line.startswith(b"Rss:"):
                    size += int(line.split()[1]) * 1024
    except OSError:
        return 0
    return size


def _status(pid: int | str) -> bytes:
    """Return what Linux says of a process; nothing if it is gone, no file can be opened, or this is another system."""
    try:
        handle = os.open(f"/proc/{pid}/status", os.O_RDONLY)
        try:
            return os.read(handle, 4096)
        finally:
            os.close(handle)
    except OSError:
        return b""


def _resident(text: bytes, above: float, pid: int | None = None) -> int:
    if b"RssAnon:" in text:
        own, shared = _field(text, b"RssAnon:"), _field(text, b"RssShmem:")
        if shared > LEAST_SHARED and own + shared > above:
            shared = max(shared - _mapped_files(pid or "self"), 0)
        return own + shared
    try:
        info = psutil.Process(pid).memory_info()
    except (psutil.Error, OSError):
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def _field(text: bytes, name: bytes) -> int:
    """Return a line of /proc/PID/status in bytes; 0 where it is missing."""
    start = text.find(name)
    return int(text[start + len(name) :].split(None, 1)[0]) * 1024 if start >= 0 else 0


def release(*pools: pa.MemoryPool) -> None:
    """Give back to the system what no object needs any more: of Arrow's pools, and of the heap of the C library."""
    gc.collect()
    import pyarrow as pa

    for pool in (
        *pools,
        pa.system_memory_pool(),
    ):  # the last is the one that workers use; it trims the heap too
        pool.release_unused()


class Gauge:
    """Watches what one worker process holds of its share of memory (bytes; None: unlimited)."""

    def __init__(self, share: int | None) -> None:
        self.share = share
        self.at_start = own_memory() if share else (0, 0)
        self.after_first = (
            0,
            0,
        )  # after its first unit: with the libraries and the batch that a fresh one would hold too
        self.soft = share * SOFT_SHARE if share else float("inf")

    def begun(self) -> None:
        """Note what is held after the first unit."""
        if self.share and not self.after_first[1]:
            self.after_first = own_memory()

    def make_room(self) -> None:
        """Give back what is free before a batch is opened, where the process holds much of its share."""
        if self.share is not None and own_memory(self.soft)[1] > self.share * ROOM_SHARE:
            release()

    def is_high(self) -> bool:
        """Return whether results are to be handed over now, and the worker to be replaced if that does not help."""
        return self.share is not None and own_memory(self.soft)[1] > self.soft

    def is_worn(self) -> bool:
        """Return whether a fresh process should go on: memory has grown, and stays high between two units."""
        if self.share is None or own_memory(self.soft)[1] <= self.soft:
            return False
        release()
        used = own_memory()[1]
        if used <= self.soft:
            return False
        base = self.after_first[1] or self.at_start[1]
        if used - base > (self.share - base) / 2:
            return True
        self.soft = (
            used + self.share
        ) / 2  # this much is needed from the first unit on: replacing would not help
        return False

    def has_grown(self) -> bool:
        """Return whether a fresh process would have noticeably more memory free than this one."""
        if self.share is None or self._growth() <= NOT_GROWN * self.share:
            return False
        release()
        return self._growth() > NOT_GROWN * self.share

    def _growth(self) -> int:
        """Return by how many bytes the process has grown; of what is only reserved, since its first unit."""
        resident, counted = own_memory()
        return max(resident - self.at_start[0], counted - (self.after_first[1] or counted))

    def words(self, alone: bool) -> str:
        """Return what a unit that failed had of memory, and what to do about it."""
        share, start, used = self.share or 0, self.at_start[1], own_memory()[1]
        if not alone and self.has_grown():
            return (
                f"the worker's memory grew from {size_text(start)} to {size_text(used)}, of a share of {size_text(share)}, "
                "as it did unit after unit: does the function keep something of each? If it must: Model(max_units_per_worker=)"
            )
        free = size_text(max(share - start, 0))
        return (
            f"it had {free} of memory to itself, in a worker's share of {size_text(share)}: {RAISE}"
        )


IN_LAMBDA = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" in os.environ
RAISE = (  # on Lambda, a second worker begins at 3538 MB, and beyond that each has less
    "deploy with --memory 3537, all of which one worker has: no larger function gives a worker more"
    if IN_LAMBDA
    else "raise --memory or lower --workers"
)


def size_text(count: float) -> str:
    """Return bytes as people write them: 440 MiB, 1.9 GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
