"""pandas in one process: the frame filtered for each unit, iteration over a groupby, and
groupby.apply.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pandas as pd

from benchmarks.peers.asked import BY, answer, columns, header, of_frame
from benchmarks.workloads import Workload

PATIENCE = 20.0  # seconds of filtering, after which the rest is extrapolated unless half is done


def filtered(workload: Workload, source: str, target: str) -> None:
    frame = pd.read_parquet(source, columns=columns(workload))
    keys = list(frame[BY].drop_duplicates().itertuples(index=False, name=None))
    rows: list[tuple[Any, ...]] = []
    began = time.monotonic()
    for segment, location, product in keys:
        unit = frame[
            (frame["segment"] == segment)
            & (frame["location"] == location)
            & (frame["product"] == product)
        ]
        rows.append(of_frame(workload.name, (segment, location, product), unit))
        took = time.monotonic() - began
        if took > PATIENCE and 2 * len(rows) < len(keys):
            print(
                "EXTRAPOLATED",
                json.dumps({"seconds": took / len(rows) * len(keys), "units": len(rows)}),
            )
            return
    pd.DataFrame(rows, columns=header(workload)).to_parquet(target)


def iterate(workload: Workload, source: str, target: str) -> None:
    frame = pd.read_parquet(source, columns=columns(workload))
    rows = [of_frame(workload.name, key, unit) for key, unit in frame.groupby(BY, sort=False)]
    pd.DataFrame(rows, columns=header(workload)).to_parquet(target)


def apply(workload: Workload, source: str, target: str) -> None:
    frame = pd.read_parquet(source, columns=columns(workload))
    done = frame.groupby(BY, sort=False).apply(lambda unit: pd.Series(workload.pandas(unit)))
    done.reset_index().to_parquet(target)


if __name__ == "__main__":
    answer({"filtered": filtered, "iterate": iterate, "apply": apply})
