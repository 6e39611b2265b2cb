"""Metaflow on this machine: a foreach over buckets that DuckDB cut. Each step is a process, so
there are few buckets.
"""

from __future__ import annotations

import sys

from metaflow import FlowSpec, Parameter, step

from benchmarks.peers import buckets
from benchmarks.peers.asked import CORES, answer
from benchmarks.workloads import WORKLOADS, Workload


class PerUnit(FlowSpec):
    workload = Parameter("workload")
    source = Parameter("source")
    target = Parameter("target")
    folder = Parameter("folder")

    @step
    def start(self):
        from pathlib import Path

        self.cut = buckets.cut(WORKLOADS[self.workload], self.source, Path(self.folder), 2 * CORES)
        self.next(self.loop, foreach="cut")

    @step
    def loop(self):
        self.rows = buckets.loop(self.workload, self.input)
        self.next(self.join)

    @step
    def join(self, inputs):
        buckets.write(WORKLOADS[self.workload], (part.rows for part in inputs), self.target)
        self.next(self.end)

    @step
    def end(self):
        pass


def foreach(workload: Workload, source: str, target: str) -> None:
    with buckets.folder() as folder:
        given = {
            "workload": workload.name,
            "source": source,
            "target": target,
            "folder": str(folder),
        }
        arguments = [word for name, value in given.items() for word in (f"--{name}", value)]
        sys.argv[1:] = ["--quiet", "--no-pylint", "run", "--max-workers", str(CORES), *arguments]
        PerUnit()


if __name__ == "__main__":
    if len(sys.argv) == 5:
        answer({"foreach": foreach})
    else:  # Metaflow starts this file again for each step
        PerUnit()
