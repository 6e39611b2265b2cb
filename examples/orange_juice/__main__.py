"""python -m examples.orange_juice yx.parquet [--reference FOLDER]: frames in, frames out.

The job runs twice: on all weeks, and on those before `--until`, whose fits then forecast the weeks
after.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hundredfold import run

from .compare import FITS, compare, held_out
from .job import job


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.orange_juice",
        description="Own-price elasticities of orange juice.",
    )
    parser.add_argument("data", type=Path, help="the table yx of bayesm's orangeJuice, as Parquet")
    parser.add_argument(
        "--reference", type=Path, help="a folder with R's fits of brand 1, to compare with"
    )
    parser.add_argument(
        "--until",
        type=int,
        default=118,
        help="the first week that is held out to be forecast (default: %(default)s)",
    )
    parser.add_argument(
        "--home", type=Path, default=".hundredfold", help="the folder that keeps the runs"
    )
    options = parser.parse_args(arguments)

    weeks = pd.read_parquet(options.data)
    began = time.perf_counter()
    done = run(job, {"yx": weeks}, home=options.home)
    elasticities = pd.read_parquet(done.published(format="parquet"))
    print(
        f"{len(weeks):,} rows, {len(elasticities):,} units (store, brand) in "
        f"{time.perf_counter() - began:.1f} s\n"
    )
    print(elasticities.groupby("brand")[FITS].agg(["mean", "std"]).round(3).to_string())

    earlier = run(job, {"yx": weeks[weeks["week"] < options.until]}, home=options.home)
    print(
        f"\nforecasts of log units from week {options.until} on, by fits of the weeks before: root "
        "mean square error"
    )
    print(
        held_out(earlier.results("elasticity").to_pandas(), weeks[weeks["week"] >= options.until])
        .round(4)
        .to_string()
    )
    if options.reference:
        print("\nbrand 1 beside R")
        print(
            compare(elasticities, weeks, options.reference / "ref_oj_brand1_own_R.csv")
            .map("{:.4g}".format)
            .to_string()
        )


if __name__ == "__main__":
    main()
