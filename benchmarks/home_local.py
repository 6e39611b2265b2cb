"""The home measure, really run on this machine: 30,000 units of 80 ms make 2,400 core-seconds.

    python -m benchmarks.home_local                  # 40 minutes of one core
    python -m benchmarks.home_local --seconds 60     # a short form

Each unit is a search for the price of the highest margin under a logit demand, over a grid whose
length is chosen once from the CPU seconds of a short trial, so that the units take --seconds
together. The job runs with one worker per core. Then a sample of units is called in a plain loop,
and its results are compared with the run's bit by bit. Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
import random
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

import hundredfold
from hundredfold import Job, Model, Publish, Source, Unit
from hundredfold.runs.efficiency import Efficiency, efficiency_of

UNITS, ROWS = 30_000, 10
TRIAL_STEPS = 200_000
SAMPLE = 50


def best_price(rows: Mapping[str, list[float]], steps: int) -> dict[str, float]:
    """Return the price of the highest margin in `steps` prices, and that margin.

    Demand at price p is the mean over the rows of exp(a - b p) / (1 + exp(a - b p)).
    """
    a, b = sum(rows["a"]) / len(rows["a"]), sum(rows["b"]) / len(rows["b"])
    best, at = -math.inf, 0.0
    for step in range(steps):
        price = 1.0 + 9.0 * step / steps
        utility = math.exp(a - b * price)
        margin = (price - 0.5) * utility / (1.0 + utility)
        if margin > best:
            best, at = margin, price
    return {"price": at, "margin": best}


def table() -> pa.Table:
    """Return the rows of all units, the same each time."""
    draw = random.Random(7)
    count = UNITS * ROWS
    return pa.table(
        {
            "cell": [number // ROWS for number in range(count)],
            "a": [draw.gauss(1.0, 0.5) for _ in range(count)],
            "b": [draw.uniform(0.5, 1.5) for _ in range(count)],
        }
    )


def steps_of(seconds: float) -> int:
    """Return the number of steps of each unit with which all take `seconds` of CPU time."""
    rows = {"a": [1.0] * ROWS, "b": [1.0] * ROWS}
    best_price(rows, TRIAL_STEPS)  # the first call is slower
    began = time.process_time()
    best_price(rows, TRIAL_STEPS)
    return max(1, round(TRIAL_STEPS * seconds / UNITS / (time.process_time() - began)))


def job_of(steps: int) -> Job:
    def price(rows: Unit) -> dict[str, float]:
        return best_price({"a": rows["a"].tolist(), "b": rows["b"].tolist()}, steps)

    query = "SELECT cell, a, b FROM demand"
    model = Model("prices", unit=("cell",), query=query, work=price, order_by=("a", "b"))
    published = Publish("price_table", "SELECT * FROM prices")
    return Job("home_local", [Source("demand")], [model], [published])


def check(steps: int, data: pa.Table, results: pa.Table) -> int:
    """Compare a sample with a plain loop; return how many units were equal bit by bit."""
    keys = random.Random(11).sample(range(UNITS), SAMPLE)
    columns = {name: data[name].to_pylist() for name in ("a", "b")}
    of_unit = {key: number for number, key in enumerate(results["cell"].to_pylist())}
    equal = 0
    for key in keys:
        part = slice(key * ROWS, (key + 1) * ROWS)
        pairs = sorted(zip(columns["a"][part], columns["b"][part], strict=True))
        mine = best_price({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}, steps)
        theirs = {name: results[name][of_unit[key]].as_py() for name in mine}
        equal += all(_bits(mine[name]) == _bits(theirs[name]) for name in mine)
    return equal


def _bits(value: float) -> bytes:
    return struct.pack("<d", value)


def lines(seconds: float, found: Efficiency, wall: float, equal: int) -> list[str]:
    return [
        "| asked for, core-seconds | units | cores | whole run | work measured | efficiency | "
        "units equal to a loop |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| {seconds:,.0f} | {UNITS:,} | {found['cores']} | {wall:,.1f} s | {found['work']:,.0f} s "
        f"| {100 * found['share']:.1f} % | {equal} of {SAMPLE} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=2_400.0, help="CPU seconds of all units")
    seconds = parser.parse_args().seconds
    steps, data = steps_of(seconds), table()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = hundredfold.run(job_of(steps), {"demand": data}, home=Path(folder) / "home")
        wall = time.perf_counter() - began
        found = efficiency_of(run.record)
        equal = check(steps, data, run.results().to_arrow())
    assert found is not None, "the run has no efficiency"
    print("\n".join(lines(seconds, found, wall, equal)))
    sys.exit(equal != SAMPLE)


if __name__ == "__main__":
    main()
