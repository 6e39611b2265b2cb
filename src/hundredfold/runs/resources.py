"""The number of workers, and the memory of the warehouse, the driver and the workers."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..errors import UsageError

# of the driver itself: the interpreter, Arrow, data that is streamed
DRIVER_BYTES = 160 * 2**20
MEMORY_SHARE = 0.7  # fraction of the machine's memory, if no limit is given
MIN_MEMORY_BYTES = 512 * 2**20
# an interpreter with NumPy, Arrow and pandas, and some data
MIN_WORKER_BYTES = 256 * 2**20
CGROUPS = Path("/sys/fs/cgroup")  # the limits of this process's container


@dataclass(frozen=True, slots=True)
class Resources:
    """Bytes of memory, and worker processes. The warehouse and the workers never work together."""

    workers: int
    memory: int

    @property
    def warehouse_bytes(self) -> int:
        return int((self.memory - DRIVER_BYTES) * 0.6)

    @property
    def driver_bytes(self) -> int:
        """The memory for the state of all units: the part that the warehouse does not use."""
        return self.memory - DRIVER_BYTES - self.warehouse_bytes

    @property
    def worker_bytes(self) -> int:
        return (self.memory - DRIVER_BYTES) // self.workers

    @property
    def batch_bytes(self) -> int:
        """The approximate maximum of a batch in memory, with the copies that sorting makes."""
        return min(self.worker_bytes // 2, 2**30)


def choose_resources(workers: int | None, memory: str | int | None) -> Resources:
    """Return the resources that were asked for, or those of the machine. Raises: UsageError."""
    count = machine_cores() if workers is None else workers
    if count < 1:
        raise UsageError(f"--workers is {count}, wanted 1 or more")
    total = parse_size(memory) if memory is not None else int(MEMORY_SHARE * machine_memory())
    if total < MIN_MEMORY_BYTES:
        raise UsageError(
            f"--memory is {memory}, wanted {MIN_MEMORY_BYTES // 2**20} MiB or more",
            hint="write it as 2GB or 1500MB",
        )
    return Resources(_workers_that_fit(count, total, chosen=workers is not None), total)


def _workers_that_fit(count: int, total: int, chosen: bool) -> int:
    """Return the workers that fit. Raises: UsageError if a chosen number does not fit."""
    most = (total - DRIVER_BYTES) // MIN_WORKER_BYTES
    if count > most and chosen:
        share = (total - DRIVER_BYTES) // count // 2**20
        raise UsageError(
            f"{count} workers do not fit into {total // 2**20:,} MiB: each would have {share} "
            f"MiB, wanted {MIN_WORKER_BYTES // 2**20} or more",
            hint=f"--workers {most}, or --memory "
            f"{(count * MIN_WORKER_BYTES + DRIVER_BYTES) // 2**20}MB",
        )
    return min(count, most)


def parse_size(text: str | int) -> int:
    """Return the bytes of '1GB', '512 MiB', '1.5g' or a number."""
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?)(i?b)?\s*", text.lower())
    if found is None or found[1].count(".") > 1:
        raise UsageError(f"--memory is {text!r}, wanted a size", hint="write it as 2GB or 1500MB")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def machine_cores(cgroups: Path = CGROUPS) -> int:
    """Return the cores of this process: those it may run on, or its container's if those are
    fewer.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, int(min(count, _cpu_quota(cgroups))))


def _cpu_quota(cgroups: Path) -> float:
    """Return the cores that the container's limit allows; infinity without one."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroups / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        # "max", or -1, means none
        return int(quota) / int(period) if quota.isdigit() else math.inf
    return math.inf


def machine_memory() -> int:
    """Return the memory of this process: the machine's, or its container's if that is less."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = (CGROUPS / name).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            total = min(total, int(limit))
    return total
