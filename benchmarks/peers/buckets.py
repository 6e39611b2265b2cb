"""Partition first, then loop: what several tools are given to run, since none of them cuts a table
by unit itself.

DuckDB writes the rows as one Parquet file per bucket of units, and each task runs a pandas loop
over one bucket.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.asked import BY, columns, header, of_frame
from benchmarks.workloads import WORKLOADS, Workload


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="buckets-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def cut(workload: Workload, source: str, into: Path, number: int) -> list[str]:
    """The rows of `source` in `number` buckets, no unit in two of them; one
    folder of Parquet each.
    """
    import duckdb

    chosen = ", ".join(columns(workload) or ["*"])
    duckdb.sql(
        f"COPY (SELECT {chosen}, hash({', '.join(BY)}) % {number} AS bucket FROM '{source}') "
        f"TO '{into}/rows' (FORMAT parquet, PARTITION_BY (bucket))"
    )
    return sorted(str(path) for path in (into / "rows").iterdir())


def loop(name: str, bucket: str) -> list[tuple[Any, ...]]:
    """The rows of all units of one bucket."""
    import pandas as pd

    files = [
        str(path) for path in Path(bucket).iterdir()
    ]  # the folder itself would be read as a partitioned data set
    frame = pd.concat([pd.read_parquet(file, columns=columns(WORKLOADS[name])) for file in files])
    return [of_frame(name, key, rows) for key, rows in frame.groupby(BY, sort=False)]


def write(workload: Workload, parts: Any, target: str) -> None:
    import pandas as pd

    pd.DataFrame([row for part in parts for row in part], columns=header(workload)).to_parquet(
        target
    )
