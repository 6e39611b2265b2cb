"""Fugue: transform with a partition by the key, on pandas in one process and on Dask."""

# no `from __future__ import annotations`: Fugue reads the annotations of the function that it is
# given

import fugue.api as fa
import pandas as pd

from benchmarks.peers.asked import BY, CORES, answer, columns, counts, header, of_frame
from benchmarks.workloads import WORKLOADS, Workload


def schema(workload: Workload) -> str:
    results = [
        f"{name}:{'long' if name in counts(workload) else 'double'}" for name in workload.results
    ]
    return ",".join(["segment:str", "location:int", "product:int", *results])


def unit(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    key = tuple(rows[column].iloc[0] for column in BY)
    return pd.DataFrame([of_frame(name, key, rows)], columns=header(WORKLOADS[name]))


def native(workload: Workload, source: str, target: str) -> None:
    rows = pd.read_parquet(source, columns=columns(workload))
    done = fa.transform(
        rows, unit, schema=schema(workload), partition={"by": BY}, params={"name": workload.name}
    )
    done.to_parquet(target)


def dask(workload: Workload, source: str, target: str) -> None:
    import dask.dataframe as dd
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None) as local,
        Client(local) as client,
    ):
        rows = dd.read_parquet(source, columns=columns(workload), split_row_groups=True)
        done = fa.transform(
            rows,
            unit,
            schema=schema(workload),
            partition={"by": BY, "num": 8 * CORES},
            params={"name": workload.name},
            engine=client,
        )
        fa.as_pandas(done).to_parquet(target)


if __name__ == "__main__":
    answer({"native": native, "dask": dask})
