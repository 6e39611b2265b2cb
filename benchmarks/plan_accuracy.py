"""The predictions of `hundredfold plan` beside measured runs, for eight local workloads.

    python -m benchmarks.plan_accuracy                  # all, with a pilot of 3 s each
    python -m benchmarks.plan_accuracy skewed --pilot-seconds 5 --rounds 3

Each workload is planned, then run; the table has the predicted interval of 80 %, the measured time,
their ratio, whether the measured time is inside, and the step that differs most. The last line
counts them: of an interval of 80 %, four of five should be inside. The figures mean something only
on a machine that does nothing else; there, all take about three minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hundredfold import Job, Model, Source, Units, run
from hundredfold.cli.display import TimingDisplay
from hundredfold.planning.comparison import compare_stages
from hundredfold.planning.plan import PlanOptions, plan_run
from hundredfold.runs.efficiency import efficiency_of


def _spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def cheap(rows):
    return {"total": rows["x"].sum()}


def costly(rows):
    _spin(0.02)
    return {"total": rows["x"].sum()}


def by_rows(rows):
    _spin(2e-4 * len(rows["x"]))
    return {"total": rows["x"].sum()}


def large(rows):
    _spin(0.3)
    return {"total": rows["x"].sum()}


def memory_bound(rows):
    values = np.random.default_rng(1).random(2_000_000)
    return {"total": np.sort(values)[0] + rows["x"].sum()}


def batched(rows: Units):
    _spin(0.05 + 2e-6 * len(rows["x"]))
    return {"total": np.add.reduceat(rows["x"], rows.offsets[:-1])}


def later(rows):
    _spin(0.002)
    return {"total": rows["total"].sum()}


@dataclass(frozen=True)
class Workload:
    """A function, the number of units, and the rows of each unit."""

    name: str
    work: Callable
    units: int
    rows: int
    skew: float = 0.0  # sigma of the logarithm of a unit's rows

    def job(self) -> Job:
        models = [Model("m", unit=("u",), work=self.work, batched=self.work is batched)]
        if self.name == "two models":
            query = "SELECT u % 500 AS v, total FROM m"
            models.append(Model("n", unit=("v",), work=later, query=query))
        return Job(self.name.replace(" ", "_"), [Source("sales")], models)

    def write(self, path: Path) -> None:
        rng = np.random.default_rng(1)
        counts = self.rows * rng.lognormal(0.0, self.skew, self.units)
        units = np.repeat(np.arange(self.units), np.maximum(counts, 1).astype(int))
        table = pa.table({"u": rng.permutation(units), "x": rng.random(len(units))})
        pq.write_table(table, path)


WORKLOADS = (
    Workload("cheap", cheap, 100_000, 10),
    Workload("costly", costly, 1_000, 10),
    Workload("skewed", by_rows, 2_000, 20, skew=1.5),
    Workload("few", large, 12, 100),
    Workload("many", cheap, 400_000, 2),
    Workload("memory-bound", memory_bound, 100, 10),
    Workload("batched", batched, 50_000, 20),
    Workload("two models", costly, 600, 10),
)


@dataclass(frozen=True)
class Compared:
    """The line of a workload, the ratio of measured to predicted, and whether it is inside."""

    cells: tuple[str, ...]
    ratio: float
    inside: bool


def compare(workload: Workload, pilot_seconds: float) -> Compared:
    """Plan a workload, run it, and compare the two."""
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as folder:
        path = Path(folder) / "sales.parquet"
        workload.write(path)
        job, sources = workload.job(), {"sales": str(path)}
        with TimingDisplay() as listener:
            facts = plan_run(job, sources, PlanOptions(pilot_seconds=pilot_seconds), listener)
        began = time.monotonic()
        done = run(job, sources, home=Path(folder) / "home")
        measured = time.monotonic() - began
        efficiency = efficiency_of(done.record)
    low, middle, high = facts["ways"][0]["wall"]
    timed = sum(model["timed"] for model in facts["models"])
    units = sum(model["units"] for model in facts["models"])
    assert efficiency is not None
    steps = compare_stages(facts["ways"][0], efficiency["stages"])["stages"]
    worst = max(steps, key=lambda step: abs((step["measured"] or 0) - (step["predicted"] or 0)))
    inside = low <= measured <= high
    cells = (
        workload.name,
        f"{timed:,} of {units:,}",
        f"{middle:.2f} ({low:.2f}-{high:.2f})",
        f"{measured:.2f}",
        f"{measured / middle:.2f}",
        "yes" if inside else "no",
        f"{worst['stage']}: {worst['measured'] or 0:.2f}, predicted {worst['predicted'] or 0:.2f}",
    )
    return Compared(cells, measured / middle, inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("workload", nargs="*", help=f"any of: {', '.join(names)}")
    parser.add_argument("--pilot-seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    unknown = sorted(set(options.workload) - set(names))
    if unknown:
        parser.error(f"no workload is named {', '.join(unknown)}")
    heads = (
        "workload | units timed | predicted s (80 %) | measured s | ratio | inside | differs most"
    )
    print(f"| {heads} |")
    print("|---|---|---|---|---|---|---|", flush=True)
    found = []
    for _ in range(options.rounds):
        for workload in WORKLOADS:
            if not options.workload or workload.name in options.workload:
                found.append(compare(workload, options.pilot_seconds))
                print(f"| {' | '.join(found[-1].cells)} |", flush=True)
    ratios = [each.ratio for each in found]
    inside = sum(each.inside for each in found)
    print(
        f"\ninside: {inside} of {len(found)} ({100 * inside / len(found):.0f} %, wanted 80); "
        f"measured over predicted: median {np.median(ratios):.2f}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
