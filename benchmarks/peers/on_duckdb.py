"""DuckDB by hand, since it runs no Python function per group: it cuts the rows, and a Pool calls
the function.

`buckets` is what a good user writes. `lists` is the cleverest that fits in twenty lines: every
unit's columns as lists in one Arrow table, which forked processes share, and slices of those lists
as NumPy views.
"""

from __future__ import annotations

from functools import partial
from multiprocessing import get_context
from typing import Any

import duckdb

from benchmarks.peers import buckets as cutting
from benchmarks.peers.asked import BY, CORES, answer, columns, header
from benchmarks.workloads import WORKLOADS, Workload


def buckets(workload: Workload, source: str, target: str) -> None:
    with cutting.folder() as folder, get_context("fork").Pool(CORES) as pool:
        cut = cutting.cut(workload, source, folder, 8 * CORES)
        cutting.write(
            workload, pool.imap_unordered(partial(cutting.loop, workload.name), cut), target
        )


LISTS: Any = None  # the forked processes find it here, and nothing is pickled but the results


def lists(workload: Workload, source: str, target: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    global LISTS
    read = columns(workload) or pq.read_schema(source).names
    each = ", ".join(f'list("{name}") AS "{name}"' for name in read if name not in BY)
    LISTS = (
        duckdb.sql(f"SELECT {', '.join(BY)}, {each} FROM '{source}' GROUP BY ALL")
        .to_arrow_table()
        .combine_chunks()
    )
    step = max(1, len(LISTS) // (16 * CORES))
    with get_context("fork").Pool(CORES) as pool:
        parts = pool.imap_unordered(partial(piece, workload.name, step), range(0, len(LISTS), step))
        rows = [row for part in parts for row in part]
    pq.write_table(
        pa.table(dict(zip(header(workload), zip(*rows, strict=True), strict=True))), target
    )


def piece(name: str, step: int, start: int) -> list[tuple[Any, ...]]:
    workload = WORKLOADS[name]
    part = LISTS.slice(start, step).combine_chunks()
    keys = zip(*[part[key].to_pylist() for key in BY], strict=True)
    held = [part[column].chunk(0) for column in workload.columns]
    values = [column.flatten().to_numpy(zero_copy_only=False) for column in held]
    ends = held[0].offsets.to_numpy() - held[0].offsets[0].as_py()
    return [
        (*key, *workload.core(*[column[start:stop] for column in values]).values())
        for key, start, stop in zip(keys, ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]


if __name__ == "__main__":
    answer({"buckets": buckets, "lists": lists})
