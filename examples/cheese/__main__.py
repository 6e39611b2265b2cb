"""python -m examples.cheese cheese.csv [--reference FOLDER]: a frame in, a frame out, and R's fits
beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hundredfold import run

from .compare import compare, show
from .job import job


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.cheese",
        description="The price elasticity of cheese at 88 retailers.",
    )
    parser.add_argument("data", type=Path, help="cheese.csv: retailer, volume, disp, price")
    parser.add_argument("--reference", type=Path, help="a folder with R's fits, to compare with")
    parser.add_argument(
        "--home", type=Path, default=".hundredfold", help="the folder that keeps the runs"
    )
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    done = run(job, {"cheese": pd.read_csv(options.data)}, home=options.home)
    elasticities = pd.read_parquet(done.published(format="parquet"))
    print(f"{len(elasticities)} retailers in {time.perf_counter() - began:.1f} s\n")
    print(elasticities.describe().loc[["mean", "std", "min", "max"]].round(3).to_string())
    if options.reference:
        print()
        show(compare(done, options.reference))


if __name__ == "__main__":
    main()
