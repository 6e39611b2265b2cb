"""Seconds of CPU and of time of each stage of the tariffs' job, for one source tree or for several.

    python -m benchmarks.tariffs_stages --locations 2000
    python -m benchmarks.tariffs_stages --locations 2000 --tree ../before --rounds 2 --limits

The same data are priced by every tree in turn (A B, A B), each run in a process of its own with the
tree's `src` first on its path, so that a commit can be compared with an earlier one:

    git worktree add ../before COMMIT

CPU is of the driver and all its processes, and is a better measure than time on a busy machine.
`--limits` sets limits on the whole table, for bundles and for voice.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMITS = {"max_moved_share": "0.4", "max_mean_change": "0.03", "max_revenue_risk": "0.05"}
SHOWN_S = 0.05
Stages = dict[str, tuple[float, float]]  # of each stage, CPU and time


class Clock:
    """The callbacks of a run, by the names of this tree and of earlier ones; it adds up stages."""

    def __init__(self) -> None:
        self.stages: Stages = {}
        self._now, self._cpu, self._time = "begin", cpu_seconds(), time.monotonic()

    def stage_started(self, stage: object) -> None:
        now, cpu = time.monotonic(), cpu_seconds()
        before = self.stages.get(self._now, (0.0, 0.0))
        self.stages[self._now] = (before[0] + cpu - self._cpu, before[1] + now - self._time)
        self._now, self._cpu, self._time = str(stage), cpu, now

    stage = stage_started

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _ignore


def _ignore(*_: object, **__: object) -> None:
    """Ignore an event."""


def cpu_seconds() -> float:
    """Return the seconds of CPU of this process and its descendants, ended ones included."""
    import psutil

    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue  # it has just ended, and its parent has its seconds
        total += used.user + used.system + used.children_user + used.children_system
    return total


def run_here(data: Path, workers: int) -> Stages:
    """Price the data once with the packages on this process's path."""
    import hundredfold
    from tariffs.job import job

    sources = {path.stem: path for path in data.iterdir() if path.stem in SOURCES}
    clock = Clock()
    named = (
        "callbacks" if "callbacks" in inspect.signature(hundredfold.run).parameters else "watcher"
    )
    with tempfile.TemporaryDirectory(dir=data.parent) as home:
        hundredfold.run(
            job,
            sources,
            home=Path(home),
            as_of="2026-06-29T06:00:00",
            workers=workers,
            **{named: clock},
        )
        clock.stage_started("end")
    return clock.stages


SOURCES = (
    "locations",
    "product_catalog",
    "policy",
    "bundle_sales",
    "cell_load",
    "voice_usage",
)


def make_data(folder: Path, locations: int, cells: int, limits: bool) -> None:
    size = ["--locations", str(locations), "--cells", str(cells)]
    command = [sys.executable, "-m", "tariffs.synthetic", "--size", "medium", "--out", str(folder)]
    subprocess.run([*command, *size], check=True, stdout=subprocess.DEVNULL)
    policy = folder / "policy.csv"
    if limits:
        with policy.open(encoding="utf-8-sig", newline="") as file:
            rows = [row | LIMITS for row in csv.DictReader(file)]
        with policy.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def run_tree(tree: Path, data: Path, workers: int) -> Stages:
    """Price the data once with another tree, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(data)]
    environment = os.environ | {"PYTHONPATH": str(tree.resolve() / "src")}
    out = subprocess.run(
        [*command, "--workers", str(workers)],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return {name: (cpu, seconds) for name, (cpu, seconds) in json.loads(out).items()}


def table(found: Mapping[Path, list[Stages]]) -> str:
    """Return a row for each stage: the least CPU of each tree's rounds, and that round's time."""
    best: dict[Path, Stages] = {}
    for tree, rounds in found.items():
        names = dict.fromkeys(name for stages in rounds for name in stages)
        best[tree] = {
            name: min(stages.get(name, (0.0, 0.0)) for stages in rounds) for name in names
        }
    names = list(dict.fromkeys(name for stages in best.values() for name in stages))
    head = "".join(f" {tree.name}: CPU | time |" for tree in best)
    lines = [f"| stage |{head}", "|---|" + "---|---|" * len(best)]
    for name in names:
        each = [stages.get(name, (0.0, 0.0)) for stages in best.values()]
        if max(cpu for cpu, _ in each) >= SHOWN_S:
            cells = "".join(f" {cpu:.2f} | {seconds:.1f} |" for cpu, seconds in each)
            lines.append(f"| {name} |{cells}")
    sums = [
        [sum(values) for values in zip(*stages.values(), strict=True)] for stages in best.values()
    ]
    lines.append("| **all** |" + "".join(f" {cpu:.2f} | {seconds:.1f} |" for cpu, seconds in sums))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tariffs_stages")
    parser.add_argument("--locations", type=int, default=200, help="of 54 bundle units each")
    parser.add_argument("--cells", type=int, default=100, help="of 48 voice units each")
    parser.add_argument(
        "--tree", type=Path, action="append", default=[], help="another source tree"
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each tree, in turn")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limits", action="store_true", help="set limits on the whole table")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(run_here(given.child, given.workers)))
        return
    trees = [*given.tree, Path(__file__).parents[1]]
    found: dict[Path, list[Stages]] = {tree: [] for tree in trees}
    with tempfile.TemporaryDirectory(prefix="tariffs-stages-") as folder:
        make_data(Path(folder) / "data", given.locations, given.cells, given.limits)
        for _ in range(given.rounds):
            for tree in trees:
                found[tree].append(run_tree(tree, Path(folder) / "data", given.workers))
    print(table(found))
    print(f"\n{given.locations * 54:,} bundle units, {given.cells * 48:,} voice units")


if __name__ == "__main__":
    main()
