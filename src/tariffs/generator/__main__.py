"""The command: `python -m tariffs.generator --size demo --out data/`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tariffs.generator import SIZES, generate


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m tariffs.generator", description="Make the tariffs' tables, with known truth.")
    words.add_argument("--size", choices=sorted(SIZES), default="demo")
    words.add_argument("--out", type=Path, required=True, help="folder for the tables; the truth goes to OUT/truth")
    words.add_argument("--seed", type=int, default=7)
    words.add_argument("--dirt", action=argparse.BooleanOptionalAction, default=True, help="soil the sales, and keep a ledger of it")
    said = words.parse_args()
    for name, files in generate(said.size, said.out, said.seed, said.dirt).sources.items():
        sys.stdout.write(f"{name}={files[0] if len(files) == 1 else files[0].parent}\n")


if __name__ == "__main__":
    main()
