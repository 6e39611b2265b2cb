"""polars: map_groups, and iteration over a group_by."""

from __future__ import annotations

import polars as pl

from benchmarks.peers.asked import BY, answer, columns, header
from benchmarks.workloads import Workload


def map_groups(workload: Workload, source: str, target: str) -> None:
    def unit(rows: pl.DataFrame) -> pl.DataFrame:
        done = workload.core(*[rows[name].to_numpy() for name in workload.columns])
        return rows.select(pl.col(BY).first()).with_columns(
            **{name: pl.lit(value) for name, value in done.items()}
        )

    pl.read_parquet(source, columns=columns(workload)).group_by(BY).map_groups(unit).write_parquet(
        target
    )


def iterate(workload: Workload, source: str, target: str) -> None:
    frame = pl.read_parquet(source, columns=columns(workload))
    rows = [
        (*key, *workload.core(*[unit[name].to_numpy() for name in workload.columns]).values())
        for key, unit in frame.group_by(BY)
    ]
    pl.DataFrame(rows, schema=header(workload), orient="row").write_parquet(target)


if __name__ == "__main__":
    answer({"map_groups": map_groups, "iterate": iterate})
