"""The predictions of `hundredfold plan` beside measured runs, for eight local workloads.

    python -m benchmarks.plan_accuracy                  # all, twice, with a pilot of 3 s each
    python -m benchmarks.plan_accuracy skewed --pilot-seconds 5 --rounds 3

Each workload is planned, then run; rounds are interleaved, so that a change of the machine meets
all of them. A line is printed for each run, and at the end a table of the workloads: the ratio of
measured to predicted time of each round, how many are inside the predicted interval of 80 %, and
the step that differs most. Of an interval of 80 %, four of five should be inside. A plan leaves out
the models after one that its pilot does not complete, and names them: their steps are then no part
of the measured time. After `--minutes` no further run begins. The figures mean something only on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hundredfold import Job, Model, Source, Units, run
from hundredfold.cli.display import TimingDisplay
from hundredfold.pipeline.stages import MODEL_STEPS
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
        return Job(re.sub("[ -]", "_", self.name), [Source("sales")], models)

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
    """A planned run beside the measured one. worst: the step that differs most."""

    workload: str
    timed: str
    predicted: str
    measured: float
    ratio: float
    inside: bool
    worst: str

    @property
    def line(self) -> str:
        inside = "inside" if self.inside else "outside"
        return (
            f"{self.workload}: {self.timed} timed, predicted {self.predicted}, measured "
            f"{self.measured:.2f}, ratio {self.ratio:.2f}, {inside}; {self.worst}"
        )


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
    later = {f"{step} {name}" for name in facts["left_out"] for step in MODEL_STEPS}
    assert efficiency is not None
    measured -= sum(efficiency["stages"].get(stage, 0.0) for stage in later)
    low, middle, high = facts["ways"][0]["wall"]
    timed = sum(model["timed"] for model in facts["models"])
    units = sum(model["units"] for model in facts["models"])
    planned = {s: t for s, t in efficiency["stages"].items() if s not in later}
    steps = compare_stages(facts["ways"][0], planned)["stages"]
    worst = max(steps, key=lambda step: abs((step["measured"] or 0) - (step["predicted"] or 0)))
    return Compared(
        workload.name,
        f"{timed:,} of {units:,}",
        f"{middle:.2f} ({low:.2f}-{high:.2f})",
        measured,
        measured / middle,
        low <= measured <= high,
        f"{worst['stage']}: {worst['measured'] or 0:.2f}, predicted {worst['predicted'] or 0:.2f}",
    )


def table(found: Sequence[Compared]) -> Iterator[str]:
    """Yield a line for each workload, in Markdown."""
    heads = (
        "workload",
        "units timed",
        "predicted s (80 %)",
        "measured s",
        "ratios",
        "inside",
        "differs most",
    )
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for name in dict.fromkeys(each.workload for each in found):
        own = [each for each in found if each.workload == name]
        last = own[-1]
        cells = (
            name,
            last.timed,
            ", ".join(each.predicted for each in own),
            ", ".join(f"{each.measured:.2f}" for each in own),
            ", ".join(f"{each.ratio:.2f}" for each in own),
            f"{sum(each.inside for each in own)} of {len(own)}",
            max(own, key=lambda each: abs(each.ratio - 1)).worst,
        )
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("workload", nargs="*", help=f"any of: {', '.join(names)}")
    parser.add_argument("--pilot-seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=5.0, help="after them no run begins")
    options = parser.parse_args()
    unknown = sorted(set(options.workload) - set(names))
    if unknown:
        parser.error(f"no workload is named {', '.join(unknown)}")
    began, found, left = time.monotonic(), [], 0
    for _ in range(options.rounds):
        for workload in WORKLOADS:
            if options.workload and workload.name not in options.workload:
                continue
            if time.monotonic() - began > 60 * options.minutes:
                left += 1
                continue
            found.append(compare(workload, options.pilot_seconds))
            print(found[-1].line, flush=True)
    print("\n" + "\n".join(table(found)))
    ratios = [each.ratio for each in found]
    inside = sum(each.inside for each in found)
    print(
        f"\ninside: {inside} of {len(found)} ({100 * inside / len(found):.0f} %, wanted 80); "
        f"measured over predicted: median {np.median(ratios):.2f}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}; {time.monotonic() - began:.0f} s"
        + (f"; {left} runs were not begun within {options.minutes:g} minutes" if left else "")
    )


if __name__ == "__main__":
    main()
