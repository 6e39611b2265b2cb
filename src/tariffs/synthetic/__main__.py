"""The command: `python -m tariffs.synthetic --size demo --out data/`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tariffs.release.clock import write_demo_clock
from tariffs.synthetic import AS_OF, SIZES, Switches, generate, size_of


def words() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tariffs.synthetic",
        description="Make the tariffs' tables, with known truth.",
    )
    made.add_argument("--size", choices=sorted(SIZES), default="demo")
    made.add_argument(
        "--out", type=Path, required=True, help="folder for the tables; the truth goes to OUT/truth"
    )
    made.add_argument("--seed", type=int, default=7)
    made.add_argument(
        "--dirt",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="add dirt to the sales, and a ledger of it",
    )
    for count in ("locations", "cells", "weeks"):
        made.add_argument(f"--{count}", type=int, help=f"number of {count} instead of the size's")
    made.add_argument(
        "--workers", type=int, default=1, help="processes; the bytes are the same for any number"
    )
    made.add_argument(
        "--endog",
        type=float,
        default=0.0,
        help="posted prices foresee a shock of demand, times this",
    )
    made.add_argument(
        "--ar", type=float, default=0.0, help="serial shocks of demand: AR(1) with this coefficient"
    )
    made.add_argument(
        "--cross",
        type=float,
        default=0.0,
        help="chi: products of a ladder take sales from their neighbours",
    )
    made.add_argument(
        "--cap",
        action="store_true",
        help="cells are smaller than their busiest weeks, and block the demand beyond capacity",
    )
    made.add_argument(
        "--shift", type=float, default=0.0, help="discounts draw minutes from neighbouring hours"
    )
    return made


def main() -> None:
    parser = words()
    asked = parser.parse_args()
    try:
        size = size_of(asked.size, asked.locations, asked.cells, asked.weeks)
        switches = Switches(asked.endog, asked.ar, asked.cross, asked.cap, asked.shift)
    except ValueError as error:
        parser.error(str(error))
    made = generate(size, asked.out, asked.seed, asked.dirt, switches, asked.workers)
    write_demo_clock(asked.out, AS_OF.isoformat())
    for name, files in made.sources.items():
        sys.stdout.write(f"{name}={files[0] if len(files) == 1 else files[0].parent}\n")


if __name__ == "__main__":
    main()
