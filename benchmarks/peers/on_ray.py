"""Ray: Data's map_groups with pandas and with NumPy batches, and tasks over buckets that DuckDB
cut.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pandas as pd
import ray
import ray.data

from benchmarks.peers import buckets
from benchmarks.peers.asked import BY, CORES, answer, columns, header, of_frame
from benchmarks.workloads import WORKLOADS, Workload


@contextmanager
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=os.path.join(tempfile.gettempdir(), "ray"),  # noqa: PTH118
    )  # Ray wants a text
    try:
        yield
    finally:
        ray.shutdown()


def data(workload: Workload, source: str, target: str) -> None:
    name = workload.name

    def unit(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(
            [of_frame(name, tuple(rows[BY].iloc[0]), rows)], columns=header(WORKLOADS[name])
        )

    grouped(workload, source, target, unit, "pandas")


def data_numpy(workload: Workload, source: str, target: str) -> None:
    name = workload.name

    def unit(rows: dict[str, Any]) -> dict[str, Any]:
        done = WORKLOADS[name].light(rows)
        return {key: rows[key][:1] for key in BY} | {
            result: np.array([value]) for result, value in done.items()
        }

    grouped(workload, source, target, unit, "numpy")


def grouped(workload: Workload, source: str, target: str, unit: Any, form: str) -> None:
    with cluster():
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.read_parquet(source, columns=columns(workload))
        rows.groupby(BY).map_groups(unit, batch_format=form).write_parquet(target)


def tasks(workload: Workload, source: str, target: str) -> None:
    with cluster(), buckets.folder() as folder:
        cut = buckets.cut(workload, source, folder, 8 * CORES)
        loop = ray.remote(buckets.loop)
        buckets.write(
            workload, ray.get([loop.remote(workload.name, bucket) for bucket in cut]), target
        )


if __name__ == "__main__":
    answer({"data": data, "data_numpy": data_numpy, "tasks": tasks})
