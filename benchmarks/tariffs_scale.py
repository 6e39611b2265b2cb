"""A million units through the estimator, step by step: seconds, seconds of CPU, and the most memory
a step has held.

    # `large`: 1,000,080 bundles in 26 million rows; about 2 GB of disk while it runs
    nice -n 19 python -m benchmarks.tariffs_scale
    # a tenth of it; the prior reads as many units as of the million
    python -m benchmarks.tariffs_scale --locations 2000

Each step is a process of its own, with one thread, so that its peak is its own: making the tables,
the prior's query, the prior's fit (season, noise, second level, foresight, gate), and stage 2, read
and fitted in batches of a hundred thousand units as a worker does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq

from benchmarks.tariffs_honest import TRUTH, Batch, Rows, source
from tariffs.pricing import bundles
from tariffs.query_files import query_text
from tariffs.synthetic import SIZES, Size
from tariffs.synthetic.sizes import size_of
from tariffs.synthetic.write import generate

UNITS_PER_BATCH = 100_000
STEPS = ("generate", "query of the prior", "fit of the prior", "stage 2")


def warehouse(folder: Path) -> duckdb.DuckDBPyConnection:
    duck = duckdb.connect()
    duck.execute("SET threads = 1")
    duck.execute("SET memory_limit = '4GB'")
    for name in ("bundle_sales", "locations", "product_catalog", "policy"):
        files = (
            sorted((folder / name).iterdir())
            if (folder / name).is_dir()
            else [folder / f"{name}.csv"]
        )
        duck.execute(f"CREATE VIEW {name} AS {source(duck, name, files)}")
    return duck


def query_of_the_prior(folder: Path) -> dict[str, Any]:
    sql = query_text("prior")
    duck = warehouse(folder)
    duck.execute(
        f"COPY (SELECT * FROM ({sql}) AS q ORDER BY segment, location, product, week) TO "
        f"'{folder / 'prior.parquet'}'"
    )
    return {"rows": pq.read_metadata(folder / "prior.parquet").num_rows}


def fit_of_the_prior(folder: Path) -> dict[str, Any]:
    prior = bundles.fit_prior(columns(folder / "prior.parquet"))
    np.save(folder / "prior.npy", np.array([prior], dtype=object), allow_pickle=True)
    verdict = (
        f"{prior.exogeneity}, rho {prior.rho:+.3f} ({prior.rho_se:.3f}), "
        f"{'/'.join(sorted(set(prior.gate_choice)))}"
    )
    return {"units": prior.units, "found": f"tau {prior.tau2**0.5:.3f}, {verdict}"}


def stage_2(folder: Path) -> dict[str, Any]:
    """The seconds of CPU are those of a worker with its batch alone; the engine's own reading is
    another benchmark's.
    """
    prior = np.load(folder / "prior.npy", allow_pickle=True)[0]
    duck, sql = warehouse(folder), query_text("bundles")
    names = [
        row[0] for row in duck.sql("SELECT location FROM locations ORDER BY location").fetchall()
    ]
    step, seconds, units, error = max(UNITS_PER_BATCH // 54, 1), 0.0, 0, []
    for first in range(0, len(names), step):
        low, high = names[first], names[min(first + step, len(names)) - 1]
        chosen = (
            f"SELECT * FROM ({sql}) AS q WHERE location BETWEEN '{low}' AND '{high}' ORDER "
            "BY segment, location, product, week"
        )
        batch = Batch(table_columns(duck.sql(chosen).to_arrow_table()), bundles.UNIT)
        start = time.process_time()
        prices = bundles.price_bundles(batch, prior)
        seconds += time.process_time() - start
        truth = (
            f"SELECT beta FROM '{folder / 'truth' / 'bundles.parquet'}' WHERE location "
            f"BETWEEN '{low}' AND '{high}' ORDER BY {TRUTH['bundles']}"
        )
        error.append(prices["beta"] - duck.sql(truth).fetchnumpy()["beta"])
        units += len(batch)
    errors = np.concatenate(error)
    return {
        "units": units,
        "cpu": seconds,
        "found": f"bias {errors.mean():+.3f}, rmse {np.sqrt(np.mean(errors**2)):.3f}",
    }


def columns(path: Path) -> Rows:
    return table_columns(pq.read_table(path))


def table_columns(table: Any) -> Rows:
    found = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    return found | {"week": found["week"].astype("datetime64[D]")}


def run_step(name: str, size: Size, folder: Path) -> dict[str, Any]:
    """In this process: the step's figures, its seconds and its peak in GB."""
    start = time.perf_counter()
    if name == "generate":
        generate(size, folder, dirt=False)
        found: dict[str, Any] = {}
    else:
        found = {
            "query of the prior": query_of_the_prior,
            "fit of the prior": fit_of_the_prior,
            "stage 2": stage_2,
        }[name](folder)
    taken = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time(),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
    }
    return taken | found


def main() -> None:
    words = argparse.ArgumentParser(
        prog="python -m benchmarks.tariffs_scale", description=__doc__.splitlines()[0]
    )
    words.add_argument("--size", choices=sorted(SIZES), default="large")
    words.add_argument(
        "--locations", type=int, help="so many locations, of 54 bundles each, instead of the size's"
    )
    words.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    words.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.step:
        print(
            json.dumps(
                run_step(asked.step, size_of(asked.size, asked.locations, 1, None), asked.folder)
            )
        )
        return
    with tempfile.TemporaryDirectory(prefix="tariffs-scale-") as folder:
        for step in STEPS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.tariffs_scale",
                "--size",
                asked.size,
                "--step",
                step,
                "--folder",
                folder,
            ]
            command += ["--locations", str(asked.locations)] if asked.locations else []
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout
            )
            count = (
                f"{found['units']:,} units"
                if "units" in found
                else f"{found['rows']:,} rows"
                if "rows" in found
                else ""
            )
            print(
                f"{step:20s} {found['seconds']:7.1f} s  {found['cpu']:7.1f} s CPU  "
                f"{found['peak_gb']:5.2f} GB  {count:18s} {found.get('found', '')}",
                flush=True,
            )


if __name__ == "__main__":
    main()
