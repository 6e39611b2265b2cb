"""Daft: a user-defined function over the columns of each group."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

import daft
from daft import DataType, col

from benchmarks.peers.asked import BY, answer, columns, counts
from benchmarks.workloads import Workload


def map_groups(workload: Workload, source: str, target: str) -> None:
    kinds = {
        name: DataType.int64() if name in counts(workload) else DataType.float64()
        for name in workload.results
    }

    @daft.udf(return_dtype=DataType.struct(kinds))
    def unit(*held: Any) -> list[Any]:
        return [
            workload.core(*[column.to_arrow().to_numpy(zero_copy_only=False) for column in held])
        ]

    rows = daft.read_parquet(source)
    if chosen := columns(workload):
        rows = rows.select(*chosen)
    done = rows.groupby(*BY).map_groups(
        unit(*[col(name) for name in workload.columns]).alias("result")
    )
    done.select(
        *BY, *[col("result").get(name).alias(name) for name in workload.results]
    ).write_parquet(target)


if __name__ == "__main__":
    answer({"map_groups": map_groups})
