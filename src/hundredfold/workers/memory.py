"""The memory that a process holds, and whether an error reports that memory or another resource of
the process ran out.

A function that leaks memory fails units that are innocent. Code that catches an error calls
`ran_out_of_memory`, and a unit that met such an error is tried once more alone in a fresh worker
(unit_runner.py, pipeline/work.py).
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

# of a worker's memory: above it, free memory is released before a batch is opened
RELEASE_SHARE = 0.4
REPLACE_SHARE = 0.85  # of a worker's memory: above it, a worker is replaced between two units
# of a worker's memory: after less growth a fresh worker would not do better
MIN_GROWTH_SHARE = 0.05
OUT_OF_MEMORY_TEXT = re.compile(
    r"out of memory|can(?:'t|not) start new thread"
    r"|(?:cannot|could not|unable to|failed to) allocate|bad_alloc",
    re.I,
)
RUN_FILE = re.compile(rb"\.(?:arrow|parquet)$")  # a file of a run, among the mappings of a process
MIN_SHARED_BYTES = 2**24  # shared memory above this size is searched for mapped files
EXHAUSTED_ERRNOS = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
MAX_CHAIN_ERRORS = 20  # of an error's chain that are examined
MAX_MATCHED_CHARACTERS = 500  # of an error's text that are searched


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether memory, threads or open files ran out, by an error or one of its causes."""
    return any(map(_is_out_of_memory, _causes(error)))


def ran_out_of_files(error: BaseException) -> bool:
    """Return whether open files ran out, which is independent of the memory of the process."""
    return any(
        isinstance(each, OSError) and each.errno in (errno.EMFILE, errno.ENFILE)
        for each in _causes(error)
    )


class ResourcesExhausted(Exception):
    """Memory, threads or files ran out: replace this process, and try `unit` (if set) alone."""

    def __init__(self, reason: str, unit: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.unit = reason, unit


def forget_frames(error: BaseException) -> None:
    """Release the objects that the frames of an error's traceback hold."""
    for each in _causes(error):
        each.__traceback__ = None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):  # also those of NumPy and Arrow
        return True
    if isinstance(error, RecursionError):
        return False
    if isinstance(error, OSError) and error.errno in EXHAUSTED_ERRNOS:
        return True
    if "OutOfMemory" in type(error).__name__:  # of DuckDB and PyTorch
        return True
    first = error.args[0] if error.args else None
    return (
        isinstance(error, RuntimeError)
        and isinstance(first, str)
        and OUT_OF_MEMORY_TEXT.search(first[:MAX_MATCHED_CHARACTERS]) is not None
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(MAX_CHAIN_ERRORS):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def own_memory_bytes(above: float = 0) -> tuple[int, int]:
    """Return the bytes that this process holds for itself: resident, and as RLIMIT_DATA counts
    them.

    The second includes memory that is only reserved: stacks of threads, arenas of allocators.
    above: see memory_bytes_of.
    """
    text = _proc_status("self")
    resident = _resident_bytes(text, above)
    return resident, max(resident, _field_bytes(text, b"VmData:"))


def memory_bytes_of(pid: int, above: float = 0) -> int:
    """Return the bytes that a process holds in memory for itself; 0 if it is gone.

    Shared memory that it has mapped counts. Mapped files of the run do not count, since the system
    can drop them, or the home holds them anyway. In a home on a file system in memory they look
    like shared memory; to distinguish the two takes milliseconds, and is done only if the sum with
    them exceeds `above`.
    """
    return _resident_bytes(_proc_status(pid), above, pid)


def _mapped_file_bytes(pid: int | str) -> int:
    """Return the resident bytes of the run's files that a process has mapped; 0 if unknown."""
    size, counted = 0, False
    try:
        with Path(f"/proc/{pid}/smaps").open("rb") as lines:
            for line in lines:
                if b"-" in line.split(b" ", 1)[0]:
                    # the addresses of the next mapping, and its file
                    counted = RUN_FILE.search(line.rstrip()) is not None
                elif counted and line.startswith(b"Rss:"):
                    size += int(line.split()[1]) * 1024
    except OSError:
        return 0
    return size


def _proc_status(pid: int | str) -> bytes:
    """Return /proc/PID/status; empty if the process is gone, no file can be opened, or outside
    Linux.
    """
    try:
        handle = os.open(f"/proc/{pid}/status", os.O_RDONLY)
        try:
            return os.read(handle, 4096)
        finally:
            os.close(handle)
    except OSError:
        return b""


def _resident_bytes(text: bytes, above: float, pid: int | None = None) -> int:
    if b"RssAnon:" in text:
        own, shared = _field_bytes(text, b"RssAnon:"), _field_bytes(text, b"RssShmem:")
        if shared > MIN_SHARED_BYTES and own + shared > above:
            shared = max(shared - _mapped_file_bytes(pid or "self"), 0)
        return own + shared
    try:
        info = psutil.Process(pid).memory_info()
    except (psutil.Error, OSError):
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def _field_bytes(text: bytes, name: bytes) -> int:
    """Return a field of /proc/PID/status in bytes; 0 if it is missing."""
    start = text.find(name)
    return int(text[start + len(name) :].split(None, 1)[0]) * 1024 if start >= 0 else 0


def release(*pools: pa.MemoryPool) -> None:
    """Return unused memory of Arrow's pools and of the C library's heap to the system."""
    gc.collect()
    import pyarrow as pa

    for pool in (*pools, pa.system_memory_pool()):
        # the last is the pool that workers use; it trims the heap too
        pool.release_unused()


class MemoryGauge:
    """Measures how much of its share of memory a worker process holds (bytes; None: unlimited)."""

    def __init__(self, share: int | None) -> None:
        self.share = share
        self.bytes_at_start = own_memory_bytes() if share else (0, 0)
        # after its first unit: includes the libraries and the batch, which a fresh process would
        # hold too
        self.bytes_after_first = (0, 0)
        self.replace_above = share * REPLACE_SHARE if share else float("inf")

    def note_first_unit(self) -> None:
        """Record the memory that is held after the first unit."""
        if self.share and not self.bytes_after_first[1]:
            self.bytes_after_first = own_memory_bytes()

    def release_if_high(self) -> None:
        """Release free memory before a batch is opened, if the process holds much of its share."""
        if (
            self.share is not None
            and own_memory_bytes(self.replace_above)[1] > self.share * RELEASE_SHARE
        ):
            release()

    def is_high(self) -> bool:
        """Return whether to send the results now; if that does not help, replace the worker."""
        return (
            self.share is not None and own_memory_bytes(self.replace_above)[1] > self.replace_above
        )

    def is_worn(self) -> bool:
        """Return whether a fresh process should continue: memory grew, and stays high."""
        if self.share is None or own_memory_bytes(self.replace_above)[1] <= self.replace_above:
            return False
        release()
        used = own_memory_bytes()[1]
        if used <= self.replace_above:
            return False
        base = self.bytes_after_first[1] or self.bytes_at_start[1]
        if used - base > (self.share - base) / 2:
            return True
        # this much is needed from the first unit on: a replacement would not help
        self.replace_above = (used + self.share) / 2
        return False

    def has_grown(self) -> bool:
        """Return whether a fresh process would have noticeably more free memory than this one."""
        if self.share is None or self._growth_bytes() <= MIN_GROWTH_SHARE * self.share:
            return False
        release()
        return self._growth_bytes() > MIN_GROWTH_SHARE * self.share

    def _growth_bytes(self) -> int:
        """Return by how much the process has grown; for reserved memory, since its first unit."""
        resident, counted = own_memory_bytes()
        return max(
            resident - self.bytes_at_start[0], counted - (self.bytes_after_first[1] or counted)
        )

    def description(self, alone: bool) -> str:
        """Return how much memory a failed unit had, and how to give it more."""
        share, start, used = self.share or 0, self.bytes_at_start[1], own_memory_bytes()[1]
        if not alone and self.has_grown():
            return (
                f"the worker's memory grew from {size_text(start)} to {size_text(used)}, of a share"
                f" of {size_text(share)}, unit after unit: does the function keep data of each?"
                " If it must: Model(max_units_per_worker=)"
            )
        free = size_text(max(share - start, 0))
        return (
            f"it had {free} of memory to itself, in a worker's share of {size_text(share)}:"
            f" {MEMORY_HINT}"
        )


IN_LAMBDA = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" in os.environ
MEMORY_HINT = (  # on Lambda, a second worker starts at 3538 MB, and from there on each has less
    "deploy with --memory 3537, all of which one worker has: no larger function gives a worker more"
    if IN_LAMBDA
    else "raise --memory or lower --workers"
)


def size_text(count: float) -> str:
    """Return a number of bytes for people: 440 MiB, 1.9 GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
