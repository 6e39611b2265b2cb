"""The standard library: multiprocessing.Pool and ProcessPoolExecutor, over the
frames of a groupby.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import Pool
from typing import Any

import pandas as pd

from benchmarks.peers.asked import BY, CORES, answer, columns, header, of_frame, of_pair
from benchmarks.workloads import Workload


def pool(workload: Workload, source: str, target: str) -> None:
    frame = pd.read_parquet(source, columns=columns(workload))
    with Pool(CORES) as processes:
        rows = processes.map(partial(of_pair, workload.name), frame.groupby(BY, sort=False))
    pd.DataFrame(rows, columns=header(workload)).to_parquet(target)


def shares(workload: Workload, source: str, target: str) -> None:
    """One large frame for each process, and the loop over its units there."""
    frame = pd.read_parquet(source, columns=columns(workload))
    share = frame.groupby(BY, sort=False).ngroup() % CORES
    with Pool(CORES) as processes:
        parts = processes.map(
            partial(loop, workload.name), [part for _, part in frame.groupby(share)]
        )
    pd.DataFrame([row for part in parts for row in part], columns=header(workload)).to_parquet(
        target
    )


def loop(name: str, frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    return [of_frame(name, key, unit) for key, unit in frame.groupby(BY, sort=False)]


def executor(workload: Workload, source: str, target: str, chunk: int = 1) -> None:
    frame = pd.read_parquet(source, columns=columns(workload))
    with ProcessPoolExecutor(CORES) as processes:
        rows = list(
            processes.map(
                partial(of_pair, workload.name), frame.groupby(BY, sort=False), chunksize=chunk
            )
        )
    pd.DataFrame(rows, columns=header(workload)).to_parquet(target)


def chunks(workload: Workload, source: str, target: str) -> None:
    """The chunks that Pool would make."""
    executor(workload, source, target, max(1, workload.units // (4 * CORES)))


if __name__ == "__main__":
    answer({"pool": pool, "shares": shares, "executor": executor, "chunks": chunks})
