"""The home measure, planned: 2,400 and 18,000 core-seconds in 3,000 batches, on every trigger and
fleet, and the cheapest way within a deadline.

    python -m benchmarks.home_measure

Prints Markdown: a table of time, interval of 80 % and dollars for each of the two, and the cheapest
ways within 30 s, 1 min, 5 min and 1 h. Nothing is measured: all figures are simulated with fixed
seeds, by the laws and assumptions of `planning/fleets.py` and `planning/outlooks.py`, so that two
calls print the same. The quotas are those of an account that was raised where the default would
decide (QUOTAS). Takes a minute or two on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from hundredfold import Job, Model, Source
from hundredfold.data.messages import Batch
from hundredfold.figures import duration, money
from hundredfold.planning.outlooks import Outlook, Wishes, outlook_of
from hundredfold.planning.pilot import ModelPilot, Pilot
from hundredfold.planning.plan import choose
from hundredfold.planning.ways import ways
from hundredfold.runs.prices import read_prices

WORKS_S = (2_400.0, 18_000.0)  # 40 minutes of one core; 300 cores for a minute
BATCHES, UNITS, ROWS = 3_000, 30_000, 10
DEADLINES_S = (30.0, 60.0, 300.0, 3_600.0)
QUOTAS = {"lambda": 1_000, "fargate": 1_000, "fargate-spot": 1_000, "ec2": 1_000}
WORKER_BYTES, SOURCE_BYTES = 200 * 2**20, 30_000_000
READ_S, PREPARE_S, COLLECT_S, PUBLISH_S = 1.0, 0.5, 0.5, 0.5  # of a local run of that size
SPREAD, ERROR = 0.2, 0.05  # of a unit's seconds, and of their sum
REGION, ARCHITECTURE = "us-east-1", "arm64"


def pilot_of(seconds: float) -> Pilot:
    """Return the pilot of a job of one model with even units."""
    model = Model("m", unit=("k",), work=lambda rows: rows)
    measured = ModelPilot(
        model,
        np.full(UNITS, ROWS),
        np.full(UNITS, seconds / UNITS),
        SPREAD,
        ERROR,
        0.0,
        UNITS,
        0,
        PREPARE_S,
        0.01,
        COLLECT_S,
        (Batch(0, 0, UNITS - 1, ROWS * UNITS, 1.0),),
    )
    job = Job("home_measure", [Source("s")], [model])
    sizes = (SOURCE_BYTES,)
    return Pilot(job, (measured,), (), READ_S, PUBLISH_S, WORKER_BYTES, sizes, 0, "")


def outlooks(seconds: float, deadline: float | None = None) -> list[Outlook]:
    """Return the outlook of every way on AWS."""
    wishes = Wishes(
        1, QUOTAS, ARCHITECTURE, read_prices(REGION), deadline=deadline, batches=BATCHES
    )
    pilot = pilot_of(seconds)
    every = ways(QUOTAS, ARCHITECTURE, WORKER_BYTES, seconds / UNITS)
    return [outlook_of(way, pilot, wishes) for way in every]


def cells(found: Outlook) -> list[str]:
    """Return the time with its interval, the dollars and the cores of a way."""
    low, middle, high = map(duration, found.wall)
    dollars = money(found.dollars[1]) if found.dollars else "?"
    number, _, unit = low.partition(" ")  # 50 s and 58 s are 50-58 s, as in a plan
    interval = f"{number if high.endswith(f' {unit}') else low}-{high}"
    return [f"{middle} ({interval})", dollars, f"{found.cores:,}"]


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table in Markdown."""
    for row in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(row)} |"


def title(found: Outlook) -> str:
    return found.title + ("" if found.deployable else " *")


def table_of_ways() -> Iterator[str]:
    """Yield the table of all ways, for each amount of work."""
    by_work = [outlooks(seconds) for seconds in WORKS_S]
    heads = ["simulated", *(head for seconds in WORKS_S for head in _heads(seconds))]
    rows = [
        [title(pair[0]), *(cell for found in pair for cell in cells(found))]
        for pair in zip(*by_work, strict=True)
    ]
    yield from lines(heads, rows)


def _heads(seconds: float) -> list[str]:
    return [f"{seconds:,.0f} core-seconds (80 %)", "dollars", "cores"]


def table_of_deadlines() -> Iterator[str]:
    """Yield the cheapest way within each deadline: deployable now, and of all."""
    heads = ["simulated: core-seconds", "within", "cheapest deployable", "cheapest of all"]
    rows = []
    for seconds in WORKS_S:
        for deadline in DEADLINES_S:
            found = outlooks(seconds, deadline)
            able = [each for each in found if each.deployable]
            others = [each for each in found if not each.deployable]
            best = [choose(group, deadline, None) for group in (able, others)]
            timely = [each for each in best if each]
            cheapest = min(timely, key=lambda each: float(f"{each.dollars[1]:.2g}"), default=None)
            names = [_choice(best[0]), _choice(cheapest)]
            rows.append([f"{seconds:,.0f}", duration(deadline), *names])
    yield from lines(heads, rows)


def _choice(found: Outlook | None) -> str:
    if found is None:
        return "none"
    time, dollars, cores = cells(found)
    return f"{title(found)}: {time}, {dollars} dollars, {cores} cores"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n\n")[0]).parse_args()
    for line in (*table_of_ways(), "", *table_of_deadlines()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
