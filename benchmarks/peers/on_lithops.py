"""Lithops with its localhost backend, over buckets that DuckDB cut."""

from __future__ import annotations

from typing import Any

import lithops

from benchmarks.peers import buckets
from benchmarks.peers.asked import CORES, answer
from benchmarks.workloads import Workload

LOCAL: dict[str, Any] = {
    "lithops": {
        "backend": "localhost",
        "storage": "localhost",
        "log_level": "WARNING",
        "telemetry": False,
    },
    "localhost": {"worker_processes": CORES},
}


def localhost(workload: Workload, source: str, target: str) -> None:
    with buckets.folder() as folder, lithops.FunctionExecutor(config=LOCAL) as executor:
        cut = buckets.cut(workload, source, folder, 8 * CORES)
        executor.map(run_bucket, [(workload.name, bucket) for bucket in cut])
        buckets.write(workload, executor.get_result(), target)
        executor.clean()


def run_bucket(name: str, bucket: str) -> list[tuple[Any, ...]]:
    from benchmarks.peers import buckets  # in the worker, which is not given this module's imports

    return buckets.loop(name, bucket)


if __name__ == "__main__":
    answer({"localhost": localhost})
