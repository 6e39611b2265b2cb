"""joblib: its processes (loky) over the frames of a groupby, batches sized by joblib."""

from __future__ import annotations

import pandas as pd
from joblib import Parallel, delayed

from benchmarks.peers.asked import BY, answer, columns, header, of_frame
from benchmarks.workloads import Workload


def parallel(workload: Workload, source: str, target: str) -> None:
    frame = pd.read_parquet(source, columns=columns(workload))
    units = frame.groupby(BY, sort=False)
    rows = Parallel(n_jobs=-1)(delayed(of_frame)(workload.name, key, unit) for key, unit in units)
    pd.DataFrame(rows, columns=header(workload)).to_parquet(target)


if __name__ == "__main__":
    answer({"parallel": parallel})
