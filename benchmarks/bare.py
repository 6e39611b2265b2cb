"""The bare prototype: the least that a parallel engine must do, as fast as we could write it, and
nothing else.

    python -m benchmarks.bare W1 IN.parquet OUT.parquet

It reads the key columns and numbers the units, cuts them into tasks of even rows (the largest
alone), streams the values once into one raw file a task, and forks processes that sort a file by
unit and call the function on views. It is the floor that the engine is measured from. It validates
nothing, keeps no account, is gone when a process dies, loses all when one unit raises, waits for no
disk, and takes only what the workloads hold: numbers and texts without nulls, and keys that are
dense.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy starts the threads of its BLAS
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np

from benchmarks.workloads import KEYS, WORKLOADS, Column

Texts = dict[str, list[str]]  # the texts of a column, whose rows hold their places

TASKS = 24
PROCESSES = os.cpu_count() or 1


def view(values: Any) -> Column:
    """The memory of an Arrow column of numbers (to_numpy would import pandas)."""
    kinds = {"double": "float64", "float": "float32"}
    dtype = np.dtype(kinds.get(str(values.type), str(values.type)))
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def whole(column: Any) -> Column:
    parts = [view(chunk) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def arrow(array: Column) -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(
        pa.from_numpy_dtype(array.dtype),
        len(array),
        [None, pa.py_buffer(np.ascontiguousarray(array))],
    )


def worker(pipe: Any, name: str) -> None:
    workload = WORKLOADS[name]
    while (task := pipe.recv()) is not None:
        first, *rest = task
        pipe.send((first, do(workload, first, *rest)))


def do(
    workload: Any,
    first: int,
    last: int,
    path: str,
    runs: list[int],
    columns: list[tuple[str, str]],
    texts: Texts,
) -> tuple[Column, list[Any]]:
    """One task: its file sorted by unit, the function called on each; the units that there are, and
    the results by column.
    """
    raw, at, row = np.memmap(path, np.uint8, "r"), 0, 0
    code = np.empty(sum(runs), np.int32)
    values = {name: np.empty(len(code), kind) for name, kind in columns}
    for length in runs:
        for array in (code, *values.values()):
            size = length * array.itemsize
            array[row : row + length] = np.frombuffer(raw, array.dtype, length, at)
            at += size
        row += length
    code -= first
    counts = np.bincount(code, minlength=last - first)
    order = np.argsort(code.astype(np.uint16) if last - first <= 2**16 else code, kind="stable")
    taken = [values[name].take(order) for name in workload.columns]
    taken = [
        np.array(texts[name], object).take(column) if name in texts else column
        for name, column in zip(workload.columns, taken, strict=True)
    ]
    there = np.flatnonzero(counts)
    ends = [0, *np.cumsum(counts[there]).tolist()]
    core, out = workload.core, []
    for start, stop in pairwise(ends):
        out.append(core(*[column[start:stop] for column in taken]))
    return there + first, [np.array([row[name] for row in out]) for name in workload.results]


def read_keys(path: str, pool: ThreadPoolExecutor) -> tuple[list[Column], list[Any], int]:
    """The number of every row's unit, a row group at a time, and how to read a key from such a
    number.
    """
    import pyarrow.parquet as pq

    meta = pq.read_metadata(path)
    texts = [
        name for name in KEYS if str(meta.schema.to_arrow_schema().field(name).type) == "string"
    ]

    def read(group: int) -> list[Any]:
        table = pq.ParquetFile(path, read_dictionary=texts, metadata=meta).read_row_group(
            group, columns=list(KEYS), use_threads=False
        )
        columns = []
        for name in KEYS:
            column = table.column(name)
            if name in texts:
                column = column.unify_dictionaries()
                columns.append(
                    (
                        np.concatenate([view(c.indices) for c in column.chunks]),
                        column.chunk(0).dictionary.to_pylist(),
                    )
                )
            else:
                array = whole(column)
                columns.append((array, (int(array.min()), int(array.max()))))
        return columns

    groups = list(pool.map(read, range(meta.num_row_groups)))
    keys: list[Any] = []
    for position, name in enumerate(KEYS):
        if name in texts:
            keys.append(sorted({word for group in groups for word in group[position][1]}))
        else:
            keys.append(
                range(
                    min(g[position][1][0] for g in groups),
                    max(g[position][1][1] for g in groups) + 1,
                )
            )

    def number(group: list[Any]) -> Column:
        code = np.zeros(len(group[0][0]), np.int32)
        for (array, texts), key in zip(group, keys, strict=True):
            code *= np.int32(len(key))
            if isinstance(key, range):
                code += array.astype(np.int32) - np.int32(key.start)
            else:
                positions = {word: position for position, word in enumerate(key)}
                code += np.array([positions[word] for word in texts], np.int32).take(array)
        return code

    size = int(np.prod([len(key) for key in keys]))
    if size >= 2**31:
        raise SystemExit("the keys are sparse, and this prototype knows only dense ones")
    return list(pool.map(number, groups)), keys, size


def cut(counts: Column) -> Column:
    """Where each task begins: about as many rows in each, and a unit that is larger than that
    alone.
    """
    cost = np.cumsum(counts + 20.0 * (counts > 0))
    share = cost[-1] / TASKS
    large = np.flatnonzero(counts > share)
    return np.unique(
        np.concatenate(
            [[0, len(counts)], np.searchsorted(cost, np.arange(1, TASKS) * share), large, large + 1]
        )
    ).astype(np.int64)


def split(
    path: str,
    columns: list[str],
    codes: list[Column],
    edges: Column,
    folder: Path,
    pool: ThreadPoolExecutor,
) -> tuple[list[list[int]], list[tuple[str, str]], Texts]:
    """All rows to the files of their tasks, in the order in which they came; the lengths of the
    runs, the columns' types and texts.
    """
    import pyarrow.parquet as pq

    meta = pq.read_metadata(path)
    schema = meta.schema.to_arrow_schema()
    plain = {"double": "float64", "string": "int32"}
    kinds = [
        (name, plain.get(str(schema.field(name).type), str(schema.field(name).type)))
        for name in columns
    ]
    positions: dict[str, dict[str, int]] = {
        name: {} for name in columns if str(schema.field(name).type) == "string"
    }
    task_of = np.repeat(np.arange(len(edges) - 1, dtype=np.uint16), np.diff(edges))
    files = [
        os.open(folder / str(task), os.O_WRONLY | os.O_CREAT) for task in range(len(edges) - 1)
    ]
    runs: list[list[int]] = [[] for _ in files]
    turn, done = threading.Condition(), [0]

    def numbers(name: str, column: Any) -> Column:
        if name not in positions:
            return whole(column)
        column, known = column.unify_dictionaries(), positions[name]
        with turn:
            position = np.array(
                [
                    known.setdefault(word, len(known))
                    for word in column.chunk(0).dictionary.to_pylist()
                ],
                np.int32,
            )
        return position.take(np.concatenate([view(chunk.indices) for chunk in column.chunks]))

    def route(group: int) -> None:
        file = pq.ParquetFile(path, metadata=meta, read_dictionary=list(positions))
        table = file.read_row_group(group, columns=columns, use_threads=False)
        task = task_of.take(codes[group])
        order = np.argsort(task, kind="stable")
        stops = np.cumsum(np.bincount(task, minlength=len(files)))
        parts = [
            codes[group].take(order),
            *(numbers(name, table.column(name)).take(order) for name in columns),
        ]
        with turn:
            turn.wait_for(lambda: done[0] == group)
        for number, (start, stop) in enumerate(
            zip([0, *stops.tolist()], stops.tolist(), strict=False)
        ):
            if stop > start:
                os.writev(files[number], [part[start:stop] for part in parts])
                runs[number].append(stop - start)
        with turn:
            done[0] += 1
            turn.notify_all()

    list(pool.map(route, range(meta.num_row_groups)))
    for file in files:
        os.close(file)
    return runs, kinds, {name: list(known) for name, known in positions.items()}


def write(path: str, units: Column, keys: list[Any], results: dict[str, Column]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for name, key in zip(reversed(KEYS), reversed(keys), strict=True):
        position, units = units % len(key), units // len(key)
        if isinstance(key, range):
            columns[name] = arrow((position + key.start).astype(np.int64))
        else:
            text = "".join(key).encode()
            ends = np.cumsum([0, *(len(word.encode()) for word in key)]).astype(np.int32)
            columns[name] = pa.Array.from_buffers(
                pa.string(), len(key), [None, pa.py_buffer(ends), pa.py_buffer(text)]
            ).take(arrow(position))
    ordered = {name: columns[name] for name in KEYS} | {
        name: arrow(values) for name, values in results.items()
    }
    pq.write_table(pa.table(ordered), path)


def main() -> None:
    name, source, target = sys.argv[1:4]
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.workloads"])
    pipes: list[Any] = []
    processes: list[Any] = []

    def launch() -> None:
        for _ in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(theirs, name), daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)

    starting = threading.Thread(target=launch)
    starting.start()
    folder = Path(tempfile.mkdtemp(prefix="bare-"))
    try:
        with ThreadPoolExecutor(PROCESSES) as pool:
            codes, keys, size = read_keys(source, pool)
            counts = sum(
                (np.bincount(code, minlength=size) for code in codes), np.zeros(size, np.int64)
            )
            edges = cut(counts)
            runs, kinds, texts = split(
                source, list(WORKLOADS[name].columns), codes, edges, folder, pool
            )
        starting.join()
        rows = np.add.reduceat(counts, edges[:-1])
        tasks = [int(task) for task in np.argsort(rows, kind="stable") if runs[task]]
        found: dict[int, Any] = {}
        live = list(pipes)

        def give(pipe: Any) -> None:
            if tasks:
                task = tasks.pop()
                pipe.send(
                    (
                        int(edges[task]),
                        int(edges[task + 1]),
                        str(folder / str(task)),
                        runs[task],
                        kinds,
                        texts,
                    )
                )
            else:
                pipe.send(None)
                live.remove(pipe)

        for pipe in pipes:
            give(pipe)
        while live:
            for pipe in wait(list(live)):
                first, result = pipe.recv()
                found[first] = result
                give(pipe)
    finally:
        shutil.rmtree(folder)
    parts = [found[first] for first in sorted(found)]
    units = np.concatenate([part[0] for part in parts])
    results = {
        column: np.concatenate([part[1][i] for part in parts])
        for i, column in enumerate(WORKLOADS[name].results)
    }
    write(target, units, keys, results)
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
