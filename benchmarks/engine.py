"""The engine's own cost: a function that does next to nothing, for each of 100,000 and of 1,000,000 units.

    python -m benchmarks.engine [--units 1000000] [--rows 10] [--form light] [--memory 4GB]

Prints wall time, microseconds a unit, the same function called in a bare loop over the sorted columns (what it costs
without any engine), pandas' groupby loop on a sample, and the peak memory of the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.memory import PeakMemory
from hundredfold import Job, Model, Source, run

KEYS = ("segment", "location", "product")


def mean(rows: dict[str, np.ndarray[Any, Any]]) -> dict[str, float | int]:
    qty = rows["qty"]
    return {"mean_qty": float(qty.mean()), "n": len(qty)}


def mean_light(rows):  # type: ignore[no-untyped-def]  # unannotated: the light form
    qty = rows["qty"]
    return {"mean_qty": float(qty.mean()), "n": len(qty)}


def mean_pandas(rows: pd.DataFrame) -> dict[str, float | int]:
    return {"mean_qty": float(rows["qty"].mean()), "n": len(rows)}


FORMS = {"light": mean_light, "dict": mean, "pandas": mean_pandas}


def make(path: Path, units: int, rows: int, seed: int = 1) -> None:
    """Rows of all units, shuffled, as one Parquet file, a million rows at a time."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(units, dtype=np.int32), rows))
    names = pa.array([f"SEG{i:02d}" for i in range(10)])
    with pq.ParquetWriter(path, _table(order[:1], rng, names).schema, compression="zstd") as writer:
        for start in range(0, len(order), 1_000_000):
            writer.write_table(_table(order[start : start + 1_000_000], rng, names), row_group_size=250_000)


def _table(unit: np.ndarray[Any, Any], rng: np.random.Generator, names: pa.Array) -> pa.Table:
    n = len(unit)
    segment = pa.DictionaryArray.from_arrays(pa.array((unit % 10).astype(np.int8)), names).cast(pa.string())
    columns = {
        "segment": segment,
        "location": pa.array((unit // 10 % 1000).astype(np.int32)),
        "product": pa.array((unit // 10_000).astype(np.int32)),
        "week": pa.array(rng.integers(0, 104, n).astype(np.int16)),
        "price": pa.array(np.round(rng.lognormal(2, 0.4, n), 2)),
        "qty": pa.array(np.round(rng.gamma(2.0, 10.0, n), 1)),
    }
    return pa.table(columns)


def bare_loop(path: Path) -> float:
    """Seconds of the function alone: rows sorted beforehand, slices handed over, nothing kept."""
    table = pq.ParquetFile(path).read(["qty", *KEYS])
    code = sum(
        table.column(k).combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64) * 10_000**i for i, k in enumerate(KEYS)
    )
    order = np.argsort(code, kind="stable")
    qty = table.column("qty").to_numpy()[order]
    ends = [*np.flatnonzero(np.diff(code[order], prepend=-1)).tolist(), len(qty)]
    began = time.perf_counter()
    for start, stop in pairwise(ends):
        mean({"qty": qty[start:stop]})
    return time.perf_counter() - began


def pandas_loop(path: Path, units: int, sample: int = 20_000) -> float:
    """Seconds that `for key, rows in frame.groupby(keys)` takes, timed on a sample of the units and scaled up."""
    began = time.perf_counter()
    groups = iter(pd.read_parquet(path).groupby(list(KEYS)))
    next(groups)
    ready = time.perf_counter()
    count = 0
    for _key, rows in groups:
        mean_pandas(rows)
        count += 1
        if count == sample:
            break
    return (ready - began) + (time.perf_counter() - ready) * units / count


def engine(path: Path, form: str, memory: str | None, workers: int | None) -> tuple[float, int, int]:
    """Seconds, peak bytes of the process tree, and units done."""
    job = Job(
        "bench",
        [Source("sales", at=str(path))],
        [Model("means", unit=KEYS, query="SELECT segment, location, product, qty FROM sales", work=FORMS[form])],
    )
    home = Path(tempfile.mkdtemp(prefix="hundredfold-bench-"))
    try:
        with PeakMemory() as memory_used:
            began = time.perf_counter()
            done = run(job, home=home, memory=memory, workers=workers)
            seconds = time.perf_counter() - began
        return seconds, memory_used.peak, int(done.counts["models"]["means"]["ok"])
    finally:
        shutil.rmtree(home)


def apart(function: str, *arguments: Any) -> Any:
    """One measurement in a process of its own, so that no other's memory is counted with it."""
    code = f"import json, sys; from benchmarks import engine; from pathlib import Path; print(json.dumps(engine.{function}(Path(sys.argv[1]), *json.loads(sys.argv[2]))))"
    words = [sys.executable, "-c", code, str(arguments[0]), json.dumps(arguments[1:])]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--form", choices=sorted(FORMS), nargs="*", default=["light"])
    parser.add_argument("--memory")
    parser.add_argument("--workers", type=int)
    given = parser.parse_args(arguments)
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    print(f"{'units':>10} {'form':>7} {'wall s':>8} {'us/unit':>8} {'function alone':>15} {'pandas loop':>12} {'peak MiB':>9}")
    for units in given.units:
        path = folder / f"{units}x{given.rows}.parquet"
        if not path.exists():
            make(path, units, given.rows)
        alone, loop = apart("bare_loop", path), apart("pandas_loop", path, units)
        for form in given.form:
            seconds, peak, done = apart("engine", path, form, given.memory, given.workers)
            assert done == units, f"{done} of {units} units"
            print(
                f"{units:>10,} {form:>7} {seconds:>8.2f} {1e6 * seconds / units:>8.1f} {alone:>14.2f}s {loop:>11.1f}s {peak / 2**20:>9.0f}"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
