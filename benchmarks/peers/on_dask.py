"""Dask on a cluster of processes here: groupby.apply, and an explicit shuffle with a pandas loop in
each partition.
"""

from __future__ import annotations

from typing import Any

import dask.dataframe as dd
import pandas as pd
from dask.distributed import Client, LocalCluster

from benchmarks.peers.asked import BY, CORES, answer, columns, counts, header, of_frame
from benchmarks.workloads import WORKLOADS, Workload


def cluster() -> LocalCluster:
    return LocalCluster(
        n_workers=CORES, threads_per_worker=1, processes=True, dashboard_address=None
    )


def empty(workload: Workload) -> dict[str, Any]:
    return {
        name: pd.Series(dtype="int64" if name in counts(workload) else "float64")
        for name in workload.results
    }


def apply(workload: Workload, source: str, target: str) -> None:
    with cluster() as local, Client(local):
        rows = dd.read_parquet(source, columns=columns(workload), split_row_groups=True)
        done = rows.groupby(BY, sort=False).apply(
            series, workload.name, meta=pd.DataFrame(empty(workload))
        )
        done.compute().reset_index().to_parquet(target)


def series(unit: pd.DataFrame, name: str) -> pd.Series:
    return pd.Series(WORKLOADS[name].pandas(unit))


def partitions(workload: Workload, source: str, target: str) -> None:
    with cluster() as local, Client(local):
        rows = dd.read_parquet(source, columns=columns(workload), split_row_groups=True)
        meta = pd.DataFrame(
            {key: pd.Series(dtype=rows.dtypes[key]) for key in BY} | empty(workload)
        )
        parts = rows.shuffle(on=BY, npartitions=8 * CORES)
        parts.map_partitions(loop, workload.name, meta=meta).compute().to_parquet(target)


def loop(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = [of_frame(name, key, unit) for key, unit in frame.groupby(BY, sort=False)]
    return pd.DataFrame(rows, columns=header(WORKLOADS[name]))


if __name__ == "__main__":
    answer({"apply": apply, "partitions": partitions})
